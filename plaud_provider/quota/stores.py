"""
Where one client's :class:`~plaud_provider.api.budget.Budget` is kept on this host.

A store that cannot be used never fails a task: the next one takes its place, and Plaud's 429 is obeyed in any
case.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from plaud_provider.api.budget import Budget
from plaud_provider.private_folder import FileLock, LockedError, PrivateFolder

log = logging.getLogger(__name__)

T = TypeVar("T")
Change = Callable[[Budget, float], T]

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


class BudgetStore(Protocol):
    """Keeps one budget."""

    def update(self, change: Change[T]) -> T:
        """
        Read the budget, change it and write it, with nobody else in between.

        :param change: Given the budget and the time in epoch seconds. It may be called again if the first
            time came to nothing.
        :return: What ``change`` returned.
        :raises StoreUnavailableError: if that is not possible.
        """


class MemoryStore:
    """A budget of this process alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._budget = Budget()

    def update(self, change: Change[T]) -> T:
        """Change the budget."""
        with self._lock:
            return change(self._budget, time.time())


class FileStore:
    """
    A budget in a file, for all processes that share the folder.

    :param folder: Where the file lies.
    :param name: What tells this client's file from others.
    """

    def __init__(self, folder: PrivateFolder, name: str) -> None:
        self._folder = folder
        self.path = folder.path / f"{name}.budget"
        self.lock_path = folder.path / f"{name}.budget.lock"
        self._lock = FileLock(self.lock_path, seconds=LOCK_SECONDS, poll_seconds=POLL_SECONDS)

    def update(self, change: Change[T]) -> T:
        """Change the budget; a damaged file is a fresh start."""
        try:
            self._folder.check()
            with self._lock.held():
                budget = Budget.from_json(self._read())
                result = change(budget, time.time())
                self._folder.replace(self.path, budget.to_json().encode())
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

    def __init__(self, first: BudgetStore, second: BudgetStore, *, consequence: str) -> None:
        self._first = first
        self._second = second
        self._consequence = consequence
        self._is_away = False
        self._rests_until = 0.0

    def update(self, change: Change[T]) -> T:
        """Change the budget in the first store, or in the second."""
        if time.monotonic() >= self._rests_until:
            try:
                result = self._first.update(change)
            except StoreUnavailableError as away:
                self._rests_until = time.monotonic() + REST_SECONDS
                if not self._is_away:
                    log.warning("The budget of Plaud requests: %s. %s", away.reason, self._consequence)
                self._is_away = True
            else:
                if self._is_away:
                    log.info("The budget of Plaud requests is where it should be again.")
                self._is_away = False
                return result
        return self._second.update(change)
