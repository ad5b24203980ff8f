"""
How many requests a client may send, and whose turn is next: a sliding window with a queue.

Pure: the caller hands the time in, and keeps the :class:`Quota` as a small JSON document where everybody who
uses the same client finds it (:mod:`plaud_provider.quota.stores`).

- **Window.** At 60 requests a minute there are 60 slots. A request takes a slot before it is sent, and holds
  it until a minute after its answer. Plaud counts the request at some moment in between, so that no minute of
  Plaud's can have more requests in it than there are slots, however long each was on its way.
- **Bursts.** A figure above 60 is spread over the minute: 1,200 a minute are 60 in any 3 seconds.
- **Queue.** Who finds no slot is told when to ask again, and keeps a place in the queue. Results come before
  submits; while more results wait than can go, one request in ten is a submit all the same.
- **Leases.** A slot that is not returned, because its process was killed, is free again once its request must
  have ended. A place in the queue that nobody asks for again is given up seconds later.
- **Refusals (429).** Everybody pauses for as long as Plaud says. Then one request every few seconds tries,
  until one passes. The limit is lowered to what did pass in the minute before, but at most halved; after some
  minutes without a refusal it rises to the connection's figure again.
"""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass, field
from typing import NamedTuple

from plaud_provider.api.effects import Operation
from plaud_provider.quota.breaker import Breaker
from plaud_provider.quota.clock import Clock

#: Requests that may leave at once; a higher figure is spread over the minute.
LARGEST_BURST = 60
#: A request counts towards its burst for 2 % longer than that part of the minute lasts: how long requests
#: take to arrive may differ by that much (60 ms at 1,200 a minute), and a server that counts in such parts
#: still never sees more than one burst in any of them.
BURST_MARGIN = 1.02
#: At more requests a minute than this, slots that become free within half a second of each other are stored
#: as one entry, so that the document stays small.
MOST_ENTRIES = 120
#: Results that may be sent while a submit waits; then it is the submit's turn.
MOST_OVERTAKEN = 9
#: Minutes without a refusal after which a lowered limit rises again: the first time, and at most.
FIRST_REST = 2.0
LONGEST_REST = 10.0
#: A limit that was lowered to less than this part of the figure comes from an outage and does not say what
#: Plaud allows: it always rises again after the first rest.
LEAST_TRUSTED = 1 / 8
_FAR_AHEAD = 1e12


class Rate(NamedTuple):
    """
    What a connection says about the quota.

    :param requests_per_minute: The connection's figure: submit and result calls together.
    :param exchange_seconds: Longest time from taking a slot until the request is answered or given up.
    :param minute: Seconds in a minute. Less than 60 only with an emulator whose clock runs faster; all other
        times of the quota are parts or multiples of it.
    """

    requests_per_minute: float
    exchange_seconds: float = 120.0
    minute: float = 60.0

    @property
    def least(self) -> float:
        """The limit is never lowered below this many requests a minute."""
        return min(1.0, self.requests_per_minute)

    @property
    def parts(self) -> int:
        """How many parts the minute is divided into, each with one burst."""
        return max(1, math.ceil(self.requests_per_minute / LARGEST_BURST - 1e-9))

    @property
    def burst_seconds(self) -> float:
        """For how long a request counts towards its burst."""
        return self.minute / self.parts * BURST_MARGIN

    @property
    def poll_seconds(self) -> float:
        """The longest time that one who waits is told to wait before asking again."""
        return self.minute / 12

    def slots(self, limit: float) -> int:
        """Return how many slots there are at ``limit`` requests a minute."""
        return max(1, math.floor(limit + 1e-9))

    def hold(self, limit: float) -> float:
        """Return for how many seconds a slot stays busy after the answer, at ``limit`` requests a minute."""
        # Below one request a minute there is one slot, which is held for longer than a minute.
        return self.minute / min(1.0, limit)


class Place(NamedTuple):
    """
    A place in the queue.

    :param calls: How many requests of its process wait at it.
    :param expires_at: When it is given up unless somebody asks again.
    """

    is_submit: bool
    calls: int
    expires_at: float


class Out(NamedTuple):
    """
    A slot whose request is on its way.

    :param granted_at: When it was taken.
    :param lapses_at: When its lease ends: the request must be over, and a minute has passed since.
    """

    granted_at: float
    lapses_at: float


class Returned(NamedTuple):
    """
    Slots whose requests have been answered, and that are held for a minute more.

    :param free_at: When they can be taken again.
    :param slots: How many.
    :param passed: How many of their requests Plaud did not refuse.
    """

    free_at: float
    slots: int
    passed: int


@dataclass(slots=True)
class Quota:
    """
    One client's requests of the last minute, and who waits to send the next one.

    All times are seconds of one clock, which is the quota's own.

    :param out: Slots of requests on their way, by ticket.
    :param returned: Slots held for a minute after the answer, in the order in which they become free.
    :param burst: When each of the last requests ceases to count towards a burst. Empty at figures up to 60.
    :param waiting: The queue: who found no slot, in order, by place.
    :param overtaken: How many results have been sent since a submit has been waiting, without one in between.
    :param opens_at: Until then nobody sends, because what was sent in the minute before is not known.
    :param known_at: Only of a store that stands in for another one: until when it knows what was sent.
    :param paused_until: Until then nobody sends, because Plaud has refused a request.
    :param refusals: How many requests Plaud has refused in a row, each sent after the pause for the last one.
    :param refused_at: When Plaud last refused one.
    :param lowered_limit: Requests a minute that Plaud was found to allow; ``None``: it never refused one.
    :param lowered_from: The connection's figure when that was found. Once the connection has another figure,
        the lowered limit no longer holds.
    :param rest: Minutes without a refusal after which a lowered limit rises again.
    :param breaker: Whether submits may be sent.
    :param clock: Tells the time, for who keeps the quota.
    :param stands_in: Whether this belongs to a store that stands in for another one, and allows the least
        there is. Not stored: the caller sets it.
    """

    out: dict[str, Out] = field(default_factory=dict)
    returned: list[Returned] = field(default_factory=list)
    burst: list[float] = field(default_factory=list)
    waiting: dict[str, Place] = field(default_factory=dict)
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
    clock: Clock = field(default_factory=Clock)
    stands_in: bool = False

    @classmethod
    def unknown(cls) -> Quota:
        """Return the quota of a client of which nothing is known: nobody sends for a minute."""
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

        :param ticket: Names the slot: a new one for each request, and the same one when it asks again.
        :param operation: What is to be sent; all but ``GET`` wait as submits do.
        :param place: Names the place in the queue, which several requests of a process may use one after the
            other; by default the ticket.
        :param calls: How many requests wait at that place, this one included.
        :return: 0 if the slot is taken and the request may be sent, else the seconds after which to ask
            again. Asking sooner is of no use; asking much later loses the place.
        """
        self._tidy(now, rate)
        place = place or ticket
        is_submit = operation is not Operation.GET
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
                # Whoever else waits at this place goes to the end of the queue, so that processes take turns.
                self.waiting[place] = Place(is_submit, calls - 1, now + rate.poll_seconds)
            return 0.0
        # At least some milliseconds, so that asking again and again does not keep a core busy.
        wait = min(max(at - now, rate.poll_seconds / 1000), rate.poll_seconds)
        self.waiting[place] = Place(is_submit, calls, now + wait + rate.poll_seconds)
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

        :param ticket: The ticket with which it was taken; an unknown one changes nothing.
        :param sent: Whether Plaud may have received the request; if not, the slot is free at once.
        :param refused_for: Seconds for which everybody pauses because Plaud answered 429; ``None`` if it did
            not.
        :param ago: How many seconds ago the answer came.
        :param place: The place in the queue to give up; by default the ticket's own.
        :return: The lowered limit, in requests a minute, if the limit was lowered now; else ``None``.
        """
        self._tidy(now, rate)
        self.waiting.pop(place or ticket, None)
        slot = self.out.pop(ticket, None)
        if sent:
            hold = rate.hold(self.limit(now=now, rate=rate))
            self._keep_busy(now - max(0.0, ago) + hold, passed=refused_for is None, rate=rate)
        # A request that was sent before the last refusal was known says nothing about the time after it.
        is_news = slot is not None and slot.granted_at > self.refused_at
        if refused_for is not None:
            return self._refused(refused_for, is_news=is_news, now=now, rate=rate)
        if sent and is_news:
            self.refusals = 0
        return None

    def spare(self, *, now: float, rate: Rate) -> float:
        """Return how many slots are free; 0 while somebody waits for one, or nobody may send."""
        self._tidy(now, rate)
        if self.waiting or self.refusals or now < max(self.paused_until, self.opens_at):
            return 0.0
        return float(max(0, rate.slots(self.limit(now=now, rate=rate)) - self._busy))

    @property
    def used(self) -> int:
        """Slots that are not free, as of the last time that somebody asked for one."""
        return self._busy

    def limit(self, *, now: float, rate: Rate) -> float:
        """
        Return how many requests a minute there may be now.

        That is the connection's figure, or less where Plaud was found to allow less. A lowered limit stays
        for ``rest`` minutes after the last refusal, and then rises to the figure within a minute. It rises
        steadily, not at once: where Plaud still allows no more, that costs one refusal, and not one for each
        request that waits.
        """
        figure = rate.requests_per_minute
        limit = figure
        if self.lowered_limit is not None and self.lowered_from == figure:
            risen = (now - self.refused_at) / rate.minute - self.rest
            limit = self.lowered_limit + max(0.0, min(1.0, risen)) * (figure - self.lowered_limit)
        return rate.least if self.stands_in else limit

    def close(self) -> None:
        """Have nobody send for a minute, because what was sent in the last one is not known."""
        # The next call, which is told the time, cuts it to a minute from then.
        self.opens_at = _FAR_AHEAD

    def move_out(self) -> Quota:
        """Close, and hand over the slots that are not free, for another store to :meth:`add`."""
        moved = Quota(
            out=self.out, returned=self.returned, paused_until=self.paused_until, opens_at=self.opens_at
        )
        self.out, self.returned = {}, []
        self.close()
        return moved

    def add(self, moved: Quota, *, clock_ahead: float) -> None:
        """
        Take over slots of another store that are not free.

        :param moved: What :meth:`move_out` of the other store returned.
        :param clock_ahead: By how many seconds this store's clock is ahead of the other store's.
        """
        for ticket, slot in moved.out.items():
            self.out[ticket] = Out(slot.granted_at + clock_ahead, slot.lapses_at + clock_ahead)
        for returned in moved.returned:
            insort(self.returned, returned._replace(free_at=returned.free_at + clock_ahead))
        self.paused_until = max(self.paused_until, moved.paused_until + clock_ahead)

    @property
    def _busy(self) -> int:
        return len(self.out) + sum(slot.slots for slot in self.returned)

    def _window_opens_at(self, needed: int, limit: float, now: float, rate: Rate) -> float:
        """Return when the window has so many free slots, if nobody else takes one."""
        missing = self._busy + needed - rate.slots(limit)
        if missing <= 0:
            return now
        hold = rate.hold(limit)
        # The answer to a request on its way may come this moment, and its slot is held from then.
        busy: list[tuple[float, int]] = [(slot.free_at, slot.slots) for slot in self.returned]
        busy += ((min(slot.lapses_at, now + hold), 1) for slot in self.out.values())
        for free_at, count in sorted(busy):
            missing -= count
            if missing <= 0:
                return free_at
        return now + hold

    def _burst_opens_at(self, needed: int, limit: float, now: float, rate: Rate) -> float:
        """Return when so many more fit into a burst, if nobody else sends."""
        if rate.parts == 1:
            return now
        missing = len(self.burst) + needed - rate.slots(limit / rate.parts)
        if missing <= 0:
            return now
        return self.burst[missing - 1] if missing <= len(self.burst) else now + rate.burst_seconds

    def _probe_opens_at(self, rate: Rate) -> float:
        """Return when the next request may try: after a refusal one in some seconds, until one passes."""
        if not self.refusals:
            return 0.0
        probes = [slot.granted_at for slot in self.out.values() if slot.granted_at > self.refused_at]
        return max(probes, default=-math.inf) + rate.poll_seconds

    def _grant(self, ticket: str, limit: float, now: float, rate: Rate) -> None:
        self.out[ticket] = Out(now, now + rate.exchange_seconds + rate.hold(limit))
        if rate.parts > 1:
            self.burst.append(now + rate.burst_seconds)

    def _keep_busy(self, free_at: float, *, passed: bool, rate: Rate) -> None:
        if rate.requests_per_minute > MOST_ENTRIES:
            grain = rate.minute / MOST_ENTRIES
            free_at = math.ceil(free_at / grain) * grain
        for index, slot in enumerate(self.returned):
            if slot.free_at == free_at:
                self.returned[index] = Returned(free_at, slot.slots + 1, slot.passed + passed)
                return
        insort(self.returned, Returned(free_at, 1, int(passed)))

    def _refused(self, seconds: float, *, is_news: bool, now: float, rate: Rate) -> float | None:
        """Have everybody pause, and lower the limit if that is what the refusal says."""
        self.paused_until = max(self.paused_until, now + seconds)
        before = self.limit(now=now, rate=rate)
        self.refused_at = now
        if not is_news:
            return None
        self.refusals += 1
        if self.refusals > 1:
            # Refused although it was sent alone and after a pause: the limit is not the reason. Back off.
            backoff = rate.minute / 60 * 2 ** min(self.refusals - 1, 5)
            self.paused_until = max(self.paused_until, now + min(backoff, rate.minute / 2))
            return None
        passed = sum(slot.passed for slot in self.returned)
        figure, lowered = rate.requests_per_minute, self.lowered_limit or 0.0
        is_found_again = figure * LEAST_TRUSTED <= lowered < before < figure and passed >= 0.75 * lowered
        if is_found_again:
            # The limit was rising, and Plaud allows no more than before: wait longer before the next rise.
            self.rest = min(LONGEST_REST, 2 * self.rest)
        else:
            self.rest = FIRST_REST
        self.lowered_limit = min(before, max(passed, before / 2, rate.least))
        self.lowered_from = figure
        return self.lowered_limit

    def _ahead(self, place: str, is_submit: bool) -> int:
        """Return how many requests are ahead of a place in the queue; a place not yet in it comes last."""
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
        """
        Forget what is over, and close a quota that stands in for another one once it knows all of it.

        A time that is further ahead than it can be means that the clock was put back: it is cut to the latest
        that can be.
        """
        longest_hold = rate.hold(min(rate.least, self.limit(now=now, rate=rate)))
        latest = now + 2 * rate.poll_seconds
        self.waiting = {
            place: Place(is_submit, calls, min(expires_at, latest))
            for place, (is_submit, calls, expires_at) in self.waiting.items()
            if expires_at > now
        }
        # An entry of several slots is rounded up to its grain, see _keep_busy.
        last = now + longest_hold + rate.minute / MOST_ENTRIES
        if self.returned and self.returned[-1].free_at > last:
            self.returned = [slot._replace(free_at=min(slot.free_at, last)) for slot in self.returned]
        self.returned = [slot for slot in self.returned if slot.free_at > now]
        last += rate.exchange_seconds
        self.out = {
            ticket: Out(min(granted_at, now), min(lapses_at, last))
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
