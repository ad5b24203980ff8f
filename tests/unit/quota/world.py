"""A host's processes, the network and Plaud's limit, in simulated time."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from plaud_provider.api.effects import Operation
from plaud_provider.emulator.limits import SlidingLimit
from plaud_provider.quota.document import from_document, to_document
from plaud_provider.quota.rule import Quota, Rate
from plaud_provider.quota.stores import Change, QuotaStore

T = TypeVar("T")

START = 1_800_000_000.0
GET, SUBMIT = Operation.GET, Operation.SUBMIT


@dataclass(frozen=True, slots=True)
class Trip:
    """
    One request.

    :param starts_at: Seconds after the start.
    :param there: Seconds from the grant until Plaud has received it; ``None``: it never leaves its host.
    :param back: Seconds until the answer is here; ``None``: its process is killed before.
    """

    starts_at: float = 0.0
    operation: Operation = GET
    there: float | None = 0.0
    back: float | None = 0.0


class World:
    """
    Runs processes that keep their quota in one document, as text, or in stores of their own.

    :param rate: What their connection says.
    :param plaud_allows: Requests a minute; 0 for any number.
    """

    def __init__(self, rate: Rate, *, plaud_allows: int = 0, seed: int = 7) -> None:
        self.rate = rate
        self.now = START
        self.document: str | None = None
        self.received: list[float] = []
        self.refused: list[float] = []
        self.granted: list[tuple[float, str]] = []
        self.longest_document = 0
        self.refuses_until = 0.0
        self.retry_after: float | None = None
        self.refuses_share = 1.0
        self._limit = SlidingLimit(plaud_allows)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._rng = random.Random(seed)

    def run(self, seconds: float | None = None) -> None:
        """Let everything happen, or what happens within so many seconds."""
        end = None if seconds is None else self.now + seconds
        while self._events and (end is None or self._events[0][0] <= end):
            self.now, _, event = heapq.heappop(self._events)
            event()
        if end is not None:
            self.now = end

    def at(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), event))

    def send(
        self,
        name: str,
        trip: Trip,
        then: Callable[[], None] = lambda: None,
        *,
        store: QuotaStore | None = None,
    ) -> None:
        self.at(trip.starts_at, lambda: self._take(name, trip, then, store or self))

    def update(self, change: Change[T]) -> T:
        """Change the document."""
        quota = self.quota
        result = change(quota, self.now)
        self.document = to_document(quota)
        self.longest_document = max(self.longest_document, len(self.document))
        return result

    def keep_sending(
        self, name: str, operation: Operation = GET, *, network: float = 0.2, store: QuotaStore | None = None
    ) -> None:
        """Send one request after the other, for ever; each takes about ``network`` seconds in all."""

        def again() -> None:
            there, back = (self._rng.uniform(0.2, 0.8) * network for _ in range(2))
            trip = Trip(0.001, operation, there, back)
            self.send(f"{name}-{next(self._order)}", trip, again, store=store)

        again()

    def refuse(self, seconds: float, *, retry_after: float | None = None, share: float = 1.0) -> None:
        """Have Plaud answer 429 for so long, to all requests or to a share of them."""
        self.refuses_until, self.retry_after, self.refuses_share = self.now + seconds, retry_after, share
        self.run(seconds)

    @property
    def quota(self) -> Quota:
        return Quota() if self.document is None else from_document(self.document)

    def _take(self, name: str, trip: Trip, then: Callable[[], None], store: QuotaStore) -> None:
        wait = store.update(
            lambda quota, now: quota.take(name, trip.operation, now=now, rate=self.rate, place=name)
        )
        if wait > 0:
            # No process wakes up in time.
            self.at(wait + self._rng.uniform(0, 0.02), lambda: self._take(name, trip, then, store))
            return
        self.granted.append((self.now, name))
        if trip.there is None:
            self._give_back(name, store, sent=False, refused_for=None)
            then()
        else:
            self.at(trip.there, lambda: self._receive(name, trip, then, store))

    def _receive(self, name: str, trip: Trip, then: Callable[[], None], store: QuotaStore) -> None:
        refused_for: float | None
        if self.now < self.refuses_until and self._rng.random() < self.refuses_share:
            # Without Retry-After a caller's own backoff decides: up to a second at first.
            refused_for = self._rng.uniform(0, 1) if self.retry_after is None else self.retry_after
        else:
            refused_for = self._limit.admit("client", self.now)
        (self.received if refused_for is None else self.refused).append(self.now)
        if trip.back is None:
            return

        def answered() -> None:
            self._give_back(name, store, sent=True, refused_for=refused_for)
            then()

        self.at(trip.back, answered)

    def _give_back(self, name: str, store: QuotaStore, *, sent: bool, refused_for: float | None) -> None:
        store.update(
            lambda quota, now: quota.give_back(
                name, now=now, rate=self.rate, sent=sent, refused_for=refused_for
            )
        )
