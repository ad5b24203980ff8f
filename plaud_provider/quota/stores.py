"""
Where one client's :class:`~plaud_provider.quota.rule.Quota` is kept: in a file of this host, or in memory.

A store that cannot be used never fails a task: another one stands in for it (:class:`FallbackStore`), with
the least quota there is. Plaud's 429 is obeyed in any case.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from plaud_provider.private_folder import FileLock, LockedError, PrivateFolder, this_host
from plaud_provider.quota.document import from_document, to_document
from plaud_provider.quota.rule import Quota

log = logging.getLogger(__name__)

T = TypeVar("T")
Change = Callable[[Quota, float], T]

#: Seconds to wait for the lock. Hundreds of processes take less; one that holds it longer has been stopped.
LOCK_SECONDS = 5.0
POLL_SECONDS = 0.005
#: For how long a request counts. A quota whose minute is shorter cuts it.
MINUTE = 60.0


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

        :param change: Given the quota and the time by its clock, in seconds. It may be called again if the
            first time came to nothing.
        :return: What ``change`` returned.
        :raises StoreUnavailableError: if that is not possible.
        """


def tell_time(quota: Quota, *, outer: float | None = None) -> float:
    """
    Return what time it is for a quota.

    :param outer: What the clock of the store's database shows; by default the host's wall clock counts.
    """
    outer = time.time() if outer is None else outer
    return quota.clock.tell(host=this_host(), monotonic=time.monotonic(), outer=outer)


class MemoryStore:
    """A quota that is kept in memory, for this process alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._quota = Quota()

    def update(self, change: Change[T]) -> T:
        """Change the quota."""
        with self._lock:
            self._quota.stands_in = False
            return change(self._quota, tell_time(self._quota))


class FileStore:
    """
    A quota in a file, for all processes that share the folder.

    :param folder: Where the file lies.
    :param name: What tells this client's file from others.
    """

    def __init__(self, folder: PrivateFolder, name: str) -> None:
        self._folder = folder
        # The names are those of the files that exist.
        self.path = folder.path / f"{name}.budget"
        self.lock_path = folder.path / f"{name}.budget.lock"
        self._lock = FileLock(self.lock_path, seconds=LOCK_SECONDS, poll_seconds=POLL_SECONDS)
        self._was_there = False
        # What was written last, and from what: mostly nobody else has written since, and it is not read anew.
        self._written: tuple[bytes, Quota] | None = None

    def update(self, change: Change[T]) -> T:
        """Change the quota. Where the file is damaged or was removed, nobody knows what was sent."""
        try:
            self._folder.check()
            with self._lock.held():
                quota = self._read()
                # It is changed in part if anything fails from here on.
                self._written = None
                result = change(quota, self._tell_time(quota))
                document = to_document(quota).encode()
                self._folder.replace(self.path, document)
                self._written = (document, quota)
                self._was_there = True
                return result
        except LockedError:
            raise StoreUnavailableError(
                f"another process has held {self.lock_path} for {LOCK_SECONDS:.0f} seconds"
            ) from None
        except OSError as unusable:
            raise StoreUnavailableError(f"{self.path}: {unusable.strerror}") from None

    def look(self) -> tuple[Quota, float] | None:
        """Return the quota and the time, changing nothing; ``None`` if there is none yet, or none to read."""
        try:
            quota = from_document(self.path.read_bytes())
        except OSError:
            return None
        return quota, self._tell_time(quota)

    def _tell_time(self, quota: Quota) -> float:
        starts_anew = bool(quota.clock.visits) and this_host() not in quota.clock.visits
        now = tell_time(quota)
        if starts_anew:
            # The wall clock may have been wrong before the host was started, or is now. What was sent before
            # counts for a minute after the start at most.
            quota.opens_at = max(quota.opens_at, now - time.monotonic() + MINUTE)
        return now

    def _read(self) -> Quota:
        try:
            document = self.path.read_bytes()
        except FileNotFoundError:
            return Quota.unknown() if self._was_there else Quota()
        if self._written is None or document != self._written[0]:
            return from_document(document)
        quota = self._written[1]
        quota.stands_in = False
        return quota


class FallbackStore:
    """
    A store, and another one that stands in for it while it is away.

    No minute may have more requests in it than the figure, whichever store is used:

    - The second store does not know what was sent in the minute before, so that nobody sends for a minute.
      Then it allows one request a minute: nobody knows how many other processes or hosts do the same.
    - When the first store is back it takes over the slots of the second one, and nobody sends for a minute,
      so that the others can hand theirs over too.

    :param first: The store to use.
    :param second: The one that stands in.
    :param consequence: What that means, for the warning that is logged when the first store goes away.
    :param rest_seconds: Seconds after which the first store is tried again.
    """

    def __init__(
        self, first: QuotaStore, second: QuotaStore, *, consequence: str, rest_seconds: float = 60.0
    ) -> None:
        self._first = first
        self._second = second
        self._consequence = consequence
        self._rest_seconds = rest_seconds
        self._lock = threading.Lock()
        self._is_away = False
        self._rests_until = 0.0
        # Requests that were on their way when the first store was last used. When it goes away they move to
        # _left, until the second store takes them over.
        self._last_seen: _Seen | None = None
        self._left: _Seen | None = None

    def update(self, change: Change[T]) -> T:
        """Change the quota in the first store, or in the second."""
        if time.monotonic() >= self._rests_until and (not self._is_away or self._is_back()):
            try:
                return self._update_first(change)
            except StoreUnavailableError as away:
                self._leave(away)
        return self._update_second(change)

    def _update_first(self, change: Change[T]) -> T:
        seen: _Seen | None = None

        def and_look(quota: Quota, now: float) -> T:
            nonlocal seen
            result = change(quota, now)
            seen = _Seen(Quota(out=dict(quota.out)), now - time.monotonic())
            return result

        result = self._first.update(and_look)
        self._last_seen = seen
        return result

    def _update_second(self, change: Change[T]) -> T:
        with self._lock:
            left, self._left = self._left, None

        def stand_in(quota: Quota, now: float) -> T:
            quota.stands_in = True
            if left is not None:
                quota.close()
                quota.add(left.quota, clock_ahead=now - time.monotonic() - left.clock)
            return change(quota, now)

        return self._second.update(stand_in)

    def _leave(self, away: StoreUnavailableError) -> None:
        with self._lock:
            self._rests_until = time.monotonic() + self._rest_seconds
            if self._is_away:
                return
            self._is_away = True
            self._left = self._last_seen
        log.warning("The quota of Plaud requests: %s. %s", away.reason, self._consequence)

    def _is_back(self) -> bool:
        """Try the first store, and have it take over the slots of the second one."""
        with self._lock:
            if time.monotonic() < self._rests_until:
                return False
            # It may take seconds to find out; meanwhile other threads use the second store.
            self._rests_until = time.monotonic() + self._rest_seconds
        moved = self._second.update(lambda quota, now: _Seen(quota.move_out(), now - time.monotonic()))

        def add(quota: Quota, now: float) -> None:
            quota.add(moved.quota, clock_ahead=now - time.monotonic() - moved.clock)

        def add_and_wait(quota: Quota, now: float) -> None:
            add(quota, now)
            if moved.quota.out or moved.quota.returned:
                quota.close()

        def add_again(quota: Quota, now: float) -> None:
            add(quota, now)
            quota.opens_at = min(quota.opens_at, moved.quota.opens_at)

        try:
            self._first.update(add_and_wait)
        except StoreUnavailableError:
            self._second.update(add_again)
            return False
        with self._lock:
            self._is_away = False
            self._rests_until = 0.0
        log.info("The quota of Plaud requests is where it should be again.")
        return True


class _Seen(NamedTuple):
    """
    Slots of a store that are not free, as last seen.

    :param clock: What the store's clock showed when :func:`time.monotonic` was 0.
    """

    quota: Quota
    clock: float
