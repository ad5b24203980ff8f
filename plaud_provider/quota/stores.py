"""
Where one client's :class:`~plaud_provider.quota.rule.Quota` is kept on this host.

A store that cannot be used never fails a task: the next one takes its place, and Plaud's 429 is obeyed in any
case.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from plaud_provider.private_folder import FileLock, LockedError, PrivateFolder
from plaud_provider.quota.rule import Quota

log = logging.getLogger(__name__)

T = TypeVar("T")
Change = Callable[[Quota, float], T]

#: Longer than hundreds of others take; who holds it for longer has been stopped.
LOCK_SECONDS = 10.0
POLL_SECONDS = 0.005
#: After that a store that was away is tried again.
REST_SECONDS = 60.0


class StoreUnavailableError(Exception):
    """
    A store cannot be used at the moment.

    :param reason: Why, in words that may be logged.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class QuotaStore(Protocol):
    """Keeps one quota."""

    def update(self, change: Change[T]) -> T:
        """
        Read the quota, change it and write it, with nobody else in between.

        :param change: Given the quota and the time in epoch seconds. It may be called again if the first
            time came to nothing.
        :return: What ``change`` returned.
        :raises StoreUnavailableError: if that is not possible.
        """


class MemoryStore:
    """A quota of this process alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._quota = Quota()

    def update(self, change: Change[T]) -> T:
        """Change the quota."""
        with self._lock:
            return change(self._quota, time.time())


class FileStore:
    """
    A quota in a file, for all processes that share the folder.

    :param folder: Where the file lies.
    :param name: What tells this client's file from others.
    """

    def __init__(self, folder: PrivateFolder, name: str) -> None:
        self._folder = folder
        self.path = folder.path / f"{name}.budget"
        self.lock_path = folder.path / f"{name}.budget.lock"
        self._lock = FileLock(self.lock_path, seconds=LOCK_SECONDS, poll_seconds=POLL_SECONDS)

    def update(self, change: Change[T]) -> T:
        """Change the quota; a damaged file is a fresh start."""
        try:
            self._folder.check()
            with self._lock.held():
                quota = Quota.from_json(self._read())
                result = change(quota, time.time())
                self._folder.replace(self.path, quota.to_json().encode())
                return result
        except LockedError:
            raise StoreUnavailableError(
                f"another process has held {self.lock_path} for {LOCK_SECONDS:.0f} seconds"
            ) from None
        except OSError as unusable:
            raise StoreUnavailableError(f"{self.path}: {unusable.strerror}") from None

    def _read(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None


class FallbackStore:
    """
    A store, and another one for when the first is away.

    :param first: The store to use.
    :param second: What takes its place for a while.
    :param consequence: What that means, for the warning; told once for each time that the first goes away.
    """

    def __init__(self, first: QuotaStore, second: QuotaStore, *, consequence: str) -> None:
        self._first = first
        self._second = second
        self._consequence = consequence
        self._is_away = False
        self._rests_until = 0.0

    def update(self, change: Change[T]) -> T:
        """Change the quota in the first store, or in the second."""
        if time.monotonic() >= self._rests_until:
            try:
                result = self._first.update(change)
            except StoreUnavailableError as away:
                self._rests_until = time.monotonic() + REST_SECONDS
                if not self._is_away:
                    log.warning("The quota of Plaud requests: %s. %s", away.reason, self._consequence)
                self._is_away = True
            else:
                if self._is_away:
                    log.info("The quota of Plaud requests is where it should be again.")
                self._is_away = False
                return result
        return self._second.update(change)
