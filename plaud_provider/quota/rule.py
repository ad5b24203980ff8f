"""
How many requests a client may send, and who is next.

Pure: the caller says what time it is, and keeps the :class:`Quota` as a small JSON document where all who ask
for the same client find it (:mod:`plaud_provider.quota.stores`).

The limit is a sliding window. A request takes a slot before it leaves, and the slot stays busy until a minute
after its answer. Plaud counts the request at some moment in between, so that none of its minutes can hold
more requests than there are slots, however long each was on its way.
"""

from __future__ import annotations

import json
import math
from bisect import insort
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field
from typing import Any, NamedTuple

from plaud_provider.api.effects import Operation
from plaud_provider.quota.breaker import Breaker

#: A higher figure is spread over the minute (1,200 as 60 in 3 seconds), so that a thousand requests do not
#: leave at once.
LARGEST_BURST = 60
#: A burst is counted for so much longer than its part of the minute. Where answers take less than this
#: difference (60 ms at 1,200 a minute), a server whose minute is that part counts no more than a burst.
BURST_MARGIN = 1.02
#: Above so many requests a minute, slots that get free within half a second are kept as one entry.
MOST_ENTRIES = 120
#: So many results may overtake the first submit that waits.
MOST_OVERTAKEN = 9
#: Minutes without a refusal after which a lowered limit rises again: the first time, and at most.
FIRST_REST = 2.0
LONGEST_REST = 10.0
#: The part of the figure below which a lowered limit is taken for passing trouble: it is soon tried again.
LEAST_TRUSTED = 1 / 8
_FORMAT_VERSION = 2
_FAR_AHEAD = 1e12


class Rate(NamedTuple):
    """
    What a connection says about the quota.

    :param requests_per_minute: The connection's figure: submit and result calls together.
    :param exchange_seconds: Longest time from the grant of a slot until the request is answered or given up.
    :param minute: Seconds of a minute. Shorter only where an emulator's clock runs faster; all other times of
        the quota are parts or multiples of it.
    """

    requests_per_minute: float
    exchange_seconds: float = 120.0
    minute: float = 60.0

    @property
    def least(self) -> float:
        """The least number of requests a minute that anybody is left with."""
        return min(1.0, self.requests_per_minute)

    @property
    def parts(self) -> int:
        """How many bursts a minute is divided into."""
        return max(1, math.ceil(self.requests_per_minute / LARGEST_BURST - 1e-9))

    @property
    def burst_seconds(self) -> float:
        """For how long a request counts towards its burst."""
        return self.minute / self.parts * BURST_MARGIN

    @property
    def poll_seconds(self) -> float:
        """Longest time between two looks of one who waits."""
        return self.minute / 12

    def slots(self, limit: float) -> int:
        """Return how many slots there are at ``limit`` requests a minute."""
        return max(1, math.floor(limit + 1e-9))

    def hold(self, limit: float) -> float:
        """Return for how many seconds a slot stays busy after the answer, at ``limit`` requests a minute."""
        # Less than one request a minute: one slot that takes its time.
        return self.minute / min(1.0, limit)


class _Place(NamedTuple):
    is_submit: bool
    calls: int
    expires_at: float


class _Out(NamedTuple):
    granted_at: float
    lapses_at: float


class _Returned(NamedTuple):
    free_at: float
    slots: int
    passed: int


@dataclass(slots=True)
class Quota:
    """
    One client's requests of the last minute, and who waits to send the next one.

    Results come before submits, and among their own the place that has waited longest; where more results
    wait than there is room for, one request in ten is a submit all the same. Who is not heard of again (a
    killed process) loses its place seconds later, and its slot once its request must have ended.

    Every time is in epoch seconds, and of one clock: the host's, or the database's that several hosts share.

    :param out: Granted slots that have not come back, by ticket.
    :param returned: Slots that are still busy, in the order of the times at which they get free: how many,
        and how many of them were requests that Plaud did not refuse.
    :param burst: When each of the last grants ceases to count towards a burst. Empty at figures up to 60.
    :param waiting: The queue of those that were refused for lack of room, in order.
    :param overtaken: How many results have gone since a submit has been waiting for the next turn of one.
    :param opens_at: Until when nobody sends, as it is not known what was sent in the minute before.
    :param known_at: Until when a store that stands in for another one knows what was sent.
    :param paused_until: Until when nobody sends, because Plaud said so.
    :param refusals: How many requests Plaud has refused in a row with 429, each sent after the pause for the
        one before.
    :param refused_at: When Plaud last answered 429.
    :param lowered_limit: Requests a minute that Plaud was found to allow; ``None`` if it never refused one.
    :param lowered_from: The connection's figure for which that was found; it says nothing about another one.
    :param rest: Minutes without a refusal after which the limit rises again.
    :param breaker: What became of the last submits.
    :param stands_in: Whether this is the quota of a store that stands in for another one, and allows the
        least there is. Not stored: the one who asks sets it.
    """

    out: dict[str, _Out] = field(default_factory=dict)
    returned: list[_Returned] = field(default_factory=list)
    burst: list[float] = field(default_factory=list)
    waiting: dict[str, _Place] = field(default_factory=dict)
    overtaken: int = 0
    opens_at: float = 0.0
    known_at: float = 0.0
    paused_until: float = 0.0
    refusals: int = 0
    refused_at: float = 0.0
    lowered_limit: float | None = None
    lowered_from: float = 0.0
    rest: float = FIRST_REST
    breaker: Breaker = field(default_factory=Breaker)
    stands_in: bool = False

    @classmethod
    def unknown(cls) -> Quota:
        """Return the quota of a client that may have sent anything: as if all slots were busy."""
        quota = cls()
        quota.close()
        return quota

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
        is_submit = operation is Operation.SUBMIT
        limit = self.limit(now=now, rate=rate)
        needed = self._ahead(place, is_submit) + 1
        at = max(
            self.opens_at,
            self.paused_until,
            self._window_opens_at(needed, limit, now, rate),
            self._burst_opens_at(needed, limit, now, rate),
            self._probe_opens_at(rate),
        )
        if at <= now:
            self._grant(ticket, limit, now, rate)
            self.waiting.pop(place, None)
            submit_waits = any(other.is_submit for other in self.waiting.values())
            self.overtaken = self.overtaken + 1 if submit_waits and not is_submit else 0
            if calls > 1:
                # To the end of the queue, so that no process keeps the others back.
                self.waiting[place] = _Place(is_submit, calls - 1, now + rate.poll_seconds)
            return 0.0
        # Not below some milliseconds, so that nobody spins.
        wait = min(max(at - now, rate.poll_seconds / 1000), rate.poll_seconds)
        self.waiting[place] = _Place(is_submit, calls, now + wait + rate.poll_seconds)
        return wait

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
        :return: Requests a minute from now on, if the limit was lowered; else ``None``.
        """
        self._tidy(now, rate)
        self.waiting.pop(place or ticket, None)
        slot = self.out.pop(ticket, None)
        if sent:
            hold = rate.hold(self.limit(now=now, rate=rate))
            self._keep_busy(now - max(0.0, ago) + hold, passed=refused_for is None, rate=rate)
        # What left before the last refusal was known tells nothing new.
        is_news = slot is not None and slot.granted_at > self.refused_at
        if refused_for is not None:
            return self._refused(refused_for, is_news=is_news, now=now, rate=rate)
        if sent and is_news:
            self.refusals = 0
        return None

    def spare(self, *, now: float, rate: Rate) -> float:
        """Return how many more requests would pass at this moment; 0 while some wait."""
        self._tidy(now, rate)
        if self.waiting or self.refusals or now < max(self.paused_until, self.opens_at):
            return 0.0
        return float(max(0, rate.slots(self.limit(now=now, rate=rate)) - self._busy))

    def limit(self, *, now: float, rate: Rate) -> float:
        """
        Return how many requests a minute there may be now.

        That is the connection's figure, or less where Plaud was found to allow less. A lowered limit stays
        for ``rest`` minutes after the last refusal, then rises to the figure in the course of a minute:
        slowly enough that rising too far costs one refusal, not as many as there are waiting.
        """
        figure = rate.requests_per_minute
        limit = figure
        if self.lowered_limit is not None and self.lowered_from == figure:
            risen = (now - self.refused_at) / rate.minute - self.rest
            limit = self.lowered_limit + max(0.0, min(1.0, risen)) * (figure - self.lowered_limit)
        return rate.least if self.stands_in else limit

    def close(self) -> None:
        """Grant nothing for a minute: what was sent in the last one is not known."""
        # Cut to a minute from now as soon as it is known what time it is.
        self.opens_at = _FAR_AHEAD

    def move_out(self) -> Quota:
        """Close, and return the busy slots for another store to :meth:`add`; here they are forgotten."""
        moved = Quota(
            out=self.out, returned=self.returned, paused_until=self.paused_until, opens_at=self.opens_at
        )
        self.out, self.returned = {}, []
        self.close()
        return moved

    def add(self, moved: Quota, *, clock_ahead: float) -> None:
        """
        Keep slots busy that are so in another store.

        :param moved: The other store's slots.
        :param clock_ahead: By how many seconds this store's clock is ahead of the other's.
        """
        for ticket, slot in moved.out.items():
            self.out[ticket] = _Out(slot.granted_at + clock_ahead, slot.lapses_at + clock_ahead)
        for returned in moved.returned:
            insort(self.returned, returned._replace(free_at=returned.free_at + clock_ahead))
        self.paused_until = max(self.paused_until, moved.paused_until + clock_ahead)

    def to_json(self) -> str:
        """Return the document."""
        content = {name: getattr(self, name) for name in _STORED}
        content["breaker"] = astuple(self.breaker)
        return json.dumps({"version": _FORMAT_VERSION, **content}, separators=(",", ":"))

    @classmethod
    def from_json(cls, document: str | bytes) -> Quota:
        """Read a document; one that is damaged or of another version tells nothing: :meth:`unknown`."""
        try:
            content = json.loads(document)
            if content.pop("version") != _FORMAT_VERSION:
                return cls.unknown()
            return _parsed(content)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            return cls.unknown()

    @property
    def _busy(self) -> int:
        return len(self.out) + sum(slot.slots for slot in self.returned)

    def _window_opens_at(self, needed: int, limit: float, now: float, rate: Rate) -> float:
        """Return when so many slots are free, if nobody else takes one."""
        missing = self._busy + needed - rate.slots(limit)
        if missing <= 0:
            return now
        hold = rate.hold(limit)
        # A slot that is out may be returned this moment.
        busy: list[tuple[float, int]] = [(slot.free_at, slot.slots) for slot in self.returned]
        busy += ((min(slot.lapses_at, now + hold), 1) for slot in self.out.values())
        for free_at, count in sorted(busy):
            missing -= count
            if missing <= 0:
                return free_at
        return now + hold

    def _burst_opens_at(self, needed: int, limit: float, now: float, rate: Rate) -> float:
        """Return when a burst has room for so many, if nobody else goes."""
        if rate.parts == 1:
            return now
        missing = len(self.burst) + needed - rate.slots(limit / rate.parts)
        if missing <= 0:
            return now
        return self.burst[missing - 1] if missing <= len(self.burst) else now + rate.burst_seconds

    def _probe_opens_at(self, rate: Rate) -> float:
        """After a refusal and its pause, only one request goes at a time until one passes."""
        if not self.refusals:
            return 0.0
        probes = [slot.granted_at for slot in self.out.values() if slot.granted_at > self.refused_at]
        return max(probes, default=-math.inf) + rate.poll_seconds

    def _grant(self, ticket: str, limit: float, now: float, rate: Rate) -> None:
        self.out[ticket] = _Out(now, now + rate.exchange_seconds + rate.hold(limit))
        if rate.parts > 1:
            self.burst.append(now + rate.burst_seconds)

    def _keep_busy(self, free_at: float, *, passed: bool, rate: Rate) -> None:
        if rate.requests_per_minute > MOST_ENTRIES:
            grain = rate.minute / MOST_ENTRIES
            free_at = math.ceil(free_at / grain) * grain
        for index, slot in enumerate(self.returned):
            if slot.free_at == free_at:
                self.returned[index] = _Returned(free_at, slot.slots + 1, slot.passed + passed)
                return
        insort(self.returned, _Returned(free_at, 1, int(passed)))

    def _refused(self, seconds: float, *, is_news: bool, now: float, rate: Rate) -> float | None:
        """Pause, and lower the limit if that is what the refusal tells."""
        self.paused_until = max(self.paused_until, now + seconds)
        before = self.limit(now=now, rate=rate)
        self.refused_at = now
        if not is_news:
            return None
        self.refusals += 1
        if self.refusals > 1:
            # Refused although it came alone and after a pause: that is no matter of the limit.
            backoff = rate.minute / 60 * 2 ** min(self.refusals - 1, 5)
            self.paused_until = max(self.paused_until, now + min(backoff, rate.minute / 2))
            return None
        passed = sum(slot.passed for slot in self.returned)
        figure, lowered = rate.requests_per_minute, self.lowered_limit or 0.0
        is_found_again = figure * LEAST_TRUSTED <= lowered < before < figure and passed >= 0.75 * lowered
        if is_found_again:
            # It was rising, and Plaud still allows what it did: the next try comes later.
            self.rest = min(LONGEST_REST, 2 * self.rest)
        else:
            self.rest = FIRST_REST
        self.lowered_limit = min(before, max(passed, before / 2, rate.least))
        self.lowered_from = figure
        return self.lowered_limit

    def _ahead(self, place: str, is_submit: bool) -> int:
        """Return for how many others there has to be room before a place, which may be new, has its turn."""
        submits = [other for other, waiting in self.waiting.items() if waiting.is_submit]
        results = [other for other, waiting in self.waiting.items() if not waiting.is_submit]
        own = submits if is_submit else results
        position = own.index(place) if place in own else len(own)
        submit_is_next = bool(submits) and self.overtaken >= MOST_OVERTAKEN
        if not is_submit:
            return position + submit_is_next
        if submit_is_next and position == 0:
            return 0
        return position + sum(self.waiting[other].calls for other in results)

    def _tidy(self, now: float, rate: Rate) -> None:
        """Forget what is over. What lies too far ahead means that the clock was put back: it is cut."""
        longest_hold = rate.hold(min(rate.least, self.limit(now=now, rate=rate)))
        latest = now + 2 * rate.poll_seconds
        self.waiting = {
            place: _Place(is_submit, calls, min(expires_at, latest))
            for place, (is_submit, calls, expires_at) in self.waiting.items()
            if expires_at > now
        }
        # Rounding up the times of many requests adds up to one entry's width.
        last = now + longest_hold + rate.minute / MOST_ENTRIES
        if self.returned and self.returned[-1].free_at > last:
            self.returned = [slot._replace(free_at=min(slot.free_at, last)) for slot in self.returned]
        self.returned = [slot for slot in self.returned if slot.free_at > now]
        last += rate.exchange_seconds
        self.out = {
            ticket: _Out(min(granted_at, now), min(lapses_at, last))
            for ticket, (granted_at, lapses_at) in self.out.items()
            if lapses_at > now
        }
        last = now + rate.burst_seconds
        self.burst = [min(free_at, last) for free_at in self.burst if free_at > now]
        if self.stands_in:
            if self.known_at <= now - longest_hold:
                self.close()
            self.known_at = now
        self.opens_at = min(self.opens_at, now + longest_hold)
        self.paused_until = min(self.paused_until, now + 10 * rate.minute)
        self.known_at = min(self.known_at, now)
        self.refused_at = min(self.refused_at, now)


_STORED = tuple(name for name in Quota.__slots__ if name != "stands_in")


def _parsed(content: dict[str, Any]) -> Quota:
    if set(content) != set(_STORED):
        raise ValueError("not these fields")
    lowered = content["lowered_limit"]
    if lowered is not None and _number(lowered) <= 0:
        raise ValueError("no limit")
    return Quota(
        out={name: _Out(*_numbers(slot)) for name, slot in content["out"].items()},
        returned=[
            _Returned(_number(free_at), int(_number(slots)), int(_number(passed)))
            for free_at, slots, passed in content["returned"]
        ],
        burst=_numbers(content["burst"]),
        waiting={
            name: _Place(is_submit is True, int(_number(calls)), _number(expires_at))
            for name, (is_submit, calls, expires_at) in content["waiting"].items()
        },
        overtaken=int(_number(content["overtaken"])),
        opens_at=_number(content["opens_at"]),
        known_at=_number(content["known_at"]),
        paused_until=_number(content["paused_until"]),
        refusals=int(_number(content["refusals"])),
        refused_at=_number(content["refused_at"]),
        lowered_limit=None if lowered is None else _number(lowered),
        lowered_from=_number(content["lowered_from"]),
        rest=_number(content["rest"]),
        breaker=_parsed_breaker(*content["breaker"]),
    )


def _parsed_breaker(failures: object, trials: object, trial: object, next_trial_at: object) -> Breaker:
    if not isinstance(trial, str):
        raise TypeError("not a call")
    return Breaker(int(_number(failures)), int(_number(trials)), trial, _number(next_trial_at))


def _numbers(values: Iterable[object]) -> list[float]:
    return [_number(value) for value in values]


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("not a number")
    return float(value)
