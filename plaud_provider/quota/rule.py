"""
How many requests a client may send, and whose turn it is.

Pure: the caller says what time it is, and keeps the quota where everyone who asks for the same client finds
it (:mod:`plaud_provider.quota`), as a small JSON document.

A request takes a slot before it leaves and gives it back once its answer is here; the slot stays busy for a
minute after that. So Plaud's own count can never be higher than the number of busy slots, however long a
request was on its way: there is no margin to guess.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from plaud_provider.api.effects import Operation

#: A higher figure is kept in parts of a minute (1,200 a minute as 60 in 3 seconds): nobody is hit by a
#: thousand requests at once, and the document stays small.
LARGEST_BURST = 60
#: So many results may overtake the first submit that waits.
MOST_OVERTAKEN = 9
_FORMAT_VERSION = 1


class Rate(NamedTuple):
    """
    What a connection says about the quota.

    :param requests_per_minute: Of submit and result calls together.
    :param exchange_seconds: Longest time from the grant of a slot until Plaud has received the request.
    :param minute: Seconds of a minute. Shorter only where an emulator's clock runs faster; all other times of
        the quota are parts or multiples of it.
    """

    requests_per_minute: float
    exchange_seconds: float = 120.0
    minute: float = 60.0

    @property
    def parts(self) -> int:
        """How many parts a minute is divided into, each with its share of the requests."""
        return max(1, math.ceil(self.requests_per_minute / LARGEST_BURST - 1e-9))

    @property
    def longest_hold(self) -> float:
        """Seconds for which no returned slot is ever busy for longer."""
        return self.minute / min(1.0, self.requests_per_minute)

    @property
    def poll_seconds(self) -> float:
        """Longest time between two looks of one who waits."""
        return self.minute / 12

    def slots(self, limit: float) -> int:
        """Return how many slots there are at ``limit`` requests a minute, which may be a corrected one."""
        return max(1, math.floor(limit / self.parts + 1e-9))

    def hold(self, limit: float) -> float:
        """Return for how many seconds a returned slot stays busy."""
        # Less than one request in each part: one slot that takes its time.
        return self.minute / min(self.parts, limit)


class _Place(NamedTuple):
    is_submit: bool
    calls: int
    expires_at: float


class _Out(NamedTuple):
    granted_at: float
    lapses_at: float


class _Returned(NamedTuple):
    free_at: float
    passed: bool


@dataclass(slots=True)
class Quota:
    """
    One client's requests of the last minute, and who waits to send the next one.

    Results come before submits, and among their own the place that has waited longest; where more results
    wait than there is room for, one request in ten is a submit all the same. Who is not heard of again (a
    killed process) loses its place seconds later, and its slot once its request must have ended.

    Every time is in epoch seconds, and of one clock: the host's, or the database's that several hosts share.

    :param out: Granted slots that have not come back, by ticket.
    :param returned: Slots that are still busy.
    :param waiting: The queue of those that were refused for lack of room, in order.
    :param overtaken: How many results have gone since a submit has been waiting for the next turn of one.
    :param paused_until: Until when nobody sends, because Plaud said so.
    :param corrected_limit: Requests a minute that Plaud was found to allow; ``None`` if the connection's
        figure has not been refuted.
    :param corrected_at: When that was found.
    :param refused_at: When Plaud last answered 429.
    """

    out: dict[str, _Out] = field(default_factory=dict)
    returned: list[_Returned] = field(default_factory=list)
    waiting: dict[str, _Place] = field(default_factory=dict)
    overtaken: int = 0
    paused_until: float = 0.0
    corrected_limit: float | None = None
    corrected_at: float = 0.0
    refused_at: float = 0.0

    def take(
        self,
        ticket: str,
        operation: Operation,
        *,
        now: float,
        rate: Rate,
        place: str | None = None,
        calls: int = 1,
    ) -> float:
        """
        Take a slot, or a place in the queue.

        :param ticket: A new one for each request; the same one when it is tried again.
        :param operation: ``SUBMIT`` or ``GET``.
        :param place: Name of a place that several requests of a process use, one after the other; by default
            the ticket.
        :param calls: How many wait at the place, this one included.
        :return: 0 if the request may be sent, else the seconds after which to try again: sooner is of no use,
            later loses the place.
        """
        self._tidy(now, rate)
        place = place or ticket
        limit = self.limit(now=now, rate=rate)
        is_submit = operation is Operation.SUBMIT
        ahead = self._ahead(place, is_submit)
        # A slot that is out may be returned this moment.
        free_at = sorted(
            [slot.free_at for slot in self.returned]
            + [min(slot.lapses_at, now + rate.hold(limit)) for slot in self.out.values()]
        )
        missing = len(free_at) + ahead + 1 - rate.slots(limit)
        at = now
        if missing > 0:
            at = free_at[missing - 1] if missing <= len(free_at) else now + rate.hold(limit)
        at = max(at, self.paused_until)
        if at <= now:
            self.waiting.pop(place, None)
            self.out[ticket] = _Out(now, now + rate.exchange_seconds + rate.hold(limit))
            submit_waits = any(other.is_submit for other in self.waiting.values())
            self.overtaken = self.overtaken + 1 if submit_waits and not is_submit else 0
            if calls > 1:
                # To the end of the queue, so that no process keeps the others back.
                self.waiting[place] = _Place(is_submit, calls - 1, now + rate.poll_seconds)
            return 0.0
        wait = min(max(at - now, 0.001), rate.poll_seconds)
        self.waiting[place] = _Place(is_submit, calls, now + wait + rate.poll_seconds)
        return wait

    def spare(self, *, now: float, rate: Rate) -> float:
        """Return how many requests would pass in a minute beyond those of the last; 0 while some wait."""
        self._tidy(now, rate)
        if self.waiting or now < self.paused_until:
            return 0.0
        free = rate.slots(self.limit(now=now, rate=rate)) - len(self.returned) - len(self.out)
        return float(max(0, free) * rate.parts)

    def give_back(
        self,
        ticket: str,
        *,
        now: float,
        rate: Rate,
        sent: bool = True,
        refused_for: float | None = None,
        ago: float = 0.0,
        place: str | None = None,
    ) -> float | None:
        """
        Return a slot, or give up a place in the queue.

        :param ticket: The ticket for which it was taken; one that nobody knows (any more) does no harm.
        :param sent: Whether Plaud may have received the request; if not, the slot is free at once.
        :param refused_for: Seconds that everyone pauses because Plaud answered 429; ``None`` if it did not.
        :param ago: Seconds since the answer came, if it is said late.
        :param place: The place to give up; by default the ticket's own.
        :return: Requests a minute from now on, if that was corrected; else ``None``.
        """
        self._tidy(now, rate)
        self.waiting.pop(place or ticket, None)
        slot = self.out.pop(ticket, None)
        limit = self.limit(now=now, rate=rate)
        if sent:
            free_at = now - max(0.0, ago) + rate.hold(limit)
            self.returned.append(_Returned(free_at, passed=refused_for is None))
        if refused_for is None:
            return None
        self.paused_until = max(self.paused_until, now + refused_for)
        self.refused_at = now
        if slot is None or slot.granted_at <= self.corrected_at:
            # It left before the last correction, which it could not know.
            return None
        passed = sum(other.passed for other in self.returned) * rate.parts
        least = max(limit / 2, min(1.0, rate.requests_per_minute))
        self.corrected_limit = min(limit, max(passed, least))
        self.corrected_at = now
        return self.corrected_limit

    def limit(self, *, now: float, rate: Rate) -> float:
        """
        Return how many requests a minute there may be: the connection's figure, or what Plaud was found to
        allow.

        After every ten minutes without a refusal it grows by a quarter: in the course of a minute, so that
        growing too far costs one refusal, not as many as there are waiting.
        """
        if self.corrected_limit is None:
            return rate.requests_per_minute
        steps, rest = divmod(max(0.0, now - self.refused_at), 10 * rate.minute)
        growth = 1.0
        if steps:
            growth = 1.25 ** min(steps - 1, 100.0) * (1 + 0.25 * min(1.0, rest / rate.minute))
        return min(rate.requests_per_minute, self.corrected_limit * growth)

    def to_json(self) -> str:
        """Return the document."""
        content = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({"version": _FORMAT_VERSION, **content}, separators=(",", ":"))

    @classmethod
    def from_json(cls, document: str | bytes | None) -> Quota:
        """Read a document; one that is missing, damaged or of another version is a fresh start."""
        try:
            content = json.loads(document or "")
            if content.pop("version") != _FORMAT_VERSION:
                return cls()
            return _parsed(content)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            return cls()

    def _ahead(self, place: str, is_submit: bool) -> int:
        """Return for how many others there has to be room before a place, which may be new, has its turn."""
        submits = [other for other, waiting in self.waiting.items() if waiting.is_submit]
        results = [other for other, waiting in self.waiting.items() if not waiting.is_submit]
        own = submits if is_submit else results
        position = own.index(place) if place in own else len(own)
        favours_submits = bool(submits) and self.overtaken >= MOST_OVERTAKEN
        if not is_submit:
            return position + favours_submits
        if favours_submits and position == 0:
            return 0
        return position + sum(self.waiting[other].calls for other in results)

    def _tidy(self, now: float, rate: Rate) -> None:
        """Forget what is over. What lies too far ahead means that the clock was put back: it is cut."""
        latest = now + 2 * rate.poll_seconds
        self.waiting = {
            place: _Place(is_submit, calls, min(expires_at, latest))
            for place, (is_submit, calls, expires_at) in self.waiting.items()
            if expires_at > now
        }
        last = now + rate.longest_hold
        self.returned = [
            _Returned(min(free_at, last), passed) for free_at, passed in self.returned if free_at > now
        ]
        last += rate.exchange_seconds
        self.out = {
            ticket: _Out(min(granted_at, now), min(lapses_at, last))
            for ticket, (granted_at, lapses_at) in self.out.items()
            if lapses_at > now
        }
        self.paused_until = min(self.paused_until, now + 10 * rate.minute)
        self.corrected_at = min(self.corrected_at, now)
        self.refused_at = min(self.refused_at, now)


def _parsed(content: dict[str, Any]) -> Quota:
    if set(content) != set(Quota.__slots__):
        raise ValueError("not these fields")
    corrected = content["corrected_limit"]
    if corrected is not None and _number(corrected) <= 0:
        raise ValueError("no limit")
    return Quota(
        out={name: _Out(*map(_number, slot)) for name, slot in content["out"].items()},
        returned=[_Returned(_number(free_at), passed is True) for free_at, passed in content["returned"]],
        waiting={
            name: _Place(is_submit is True, int(_number(calls)), _number(expires_at))
            for name, (is_submit, calls, expires_at) in content["waiting"].items()
        },
        overtaken=int(_number(content["overtaken"])),
        paused_until=_number(content["paused_until"]),
        corrected_limit=None if corrected is None else _number(corrected),
        corrected_at=_number(content["corrected_at"]),
        refused_at=_number(content["refused_at"]),
    )


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("not a number")
    return float(value)
