"""
Who is looked at next, and when.

Pure: the caller says what time it is, and hands in the source of randomness.

A look that comes too early is a request for nothing; one that comes too late leaves a finished result lying.
How long Plaud takes is learned from those that are final: their answers say when they were completed, however
late the look. ``benchmarks/polling.py`` shows how this compares with looking at a fixed interval.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from plaud_provider.api.processing_times import Observation, ProcessingTimes
from plaud_provider.api.scouts import Scouts

#: What a look counts for: so many typical processing times of a finished result that waits to be seen. The
#: first price holds while the budget has plenty to spare, the last one while it has nothing.
PRICES = (0.01, 0.06, 0.5, 10.0)
#: The part of what the budget has to spare that looks in vain of one schedule may take; others do the same.
CLAIM = 0.05
#: Requests a minute that the budget is taken to have to spare until the caller says: Plaud's limit.
UNTOLD_SPARE = 60.0
#: Seconds. The shortest pause between two looks at one transcription is the poke interval; while the budget
#: has plenty to spare, it may be as short as this.
SHORTEST_PAUSE = 5.0
LONGEST_PAUSE = 1800.0
#: Seconds, or one poke interval if that is shorter, after which the budget may have got room.
RECHECK = 10.0

#: So few in all are looked at as if the budget had plenty, and again when it took a tenth longer: somebody is
#: probably waiting for them.
FEW = 4
GROWTH_OF_FEW = 0.1

#: Seconds by which epoch seconds as floats may be off.
ROUNDING = 1e-5
#: Seconds that processing takes at least.
SHORTEST_TIME = 0.01
#: Seconds by which a time by Plaud's clock may differ from one by this host's.
SKEW = 5.0
#: Seconds. A clock that steps forward by more was set.
LONGEST_STEP = 900.0


class Job(NamedTuple):
    """
    A transcription that is waited for.

    :param transcription_id: Plaud's id.
    :param submitted_at: Epoch seconds by this host's clock; ``None``: unknown.
    :param audio_seconds: Length of the recording; ``None``: unknown.
    :param accepted_at: Epoch seconds at which Plaud says that it accepted it, by Plaud's clock; ``None``:
        unknown.
    :param looked_at: Epoch seconds of the last look so far, which found it processing; ``None``: there was
        none.
    """

    transcription_id: str
    submitted_at: float | None = None
    audio_seconds: float | None = None
    accepted_at: float | None = None
    looked_at: float | None = None


@dataclass(slots=True, eq=False)
class _Waiting:
    """
    A job and how it stands.

    :param order: Its place in the order of submission.
    :param began_at: When it was submitted; when the schedule began, where that is not known.
    :param is_dated: Whether it is known.
    :param scouted_at: While a scout looks at it: which part of the time after which a look pays had passed.
    :param version: An entry of a queue that was made for another version is void.
    """

    job: Job
    order: int
    began_at: float
    is_dated: bool
    looked_at: float | None
    version: int = 0
    is_under_way: bool = False
    scouted_at: float | None = None

    @property
    def last_at(self) -> float:
        """When it was looked at last; when it began, if it never was."""
        return self.began_at if self.looked_at is None else self.looked_at

    @property
    def elapsed(self) -> float:
        """Seconds that it is known to have taken."""
        return 0.0 if self.looked_at is None else max(0.0, self.looked_at - self.began_at)


_Entry = tuple[float, int, int, _Waiting]


class PollSchedule:
    """
    The order in which transcriptions are looked at, and the moments.

    While nothing is known, a single one is looked at now and then, the one that is probably done first. From
    then on each is looked at when that pays: the less the budget has to spare, the surer a look has to be to
    find a result, and those that are probably done come first. What is not done is looked at again at the
    latest when it has taken twice as long, or half an hour later. While nearly every look finds a result, a
    few are tried before they pay, as all may come late. Where it is not known when something was
    submitted, the pauses between its looks just grow.

    The budget below may delay a look by any time. A clock that is set back, or far forward, is taken to have
    stood still.

    :param jobs: What is waited for, in the order of submission; duplicates count once.
    :param interval: Seconds between two looks at the same transcription: a pause may always be as long, and
        it is shorter only while the budget has plenty to spare.
    :param now: Epoch seconds at which the schedule begins.
    :param first_look_after: Seconds until the first look.
    :param rng: Source of randomness.
    :param times: What is known of earlier ones, to share it; default: nothing.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        *,
        interval: float,
        now: float,
        first_look_after: float = 0.0,
        rng: random.Random,
        times: ProcessingTimes | None = None,
    ) -> None:
        self._interval = interval
        self._rng = rng
        self._times = ProcessingTimes() if times is None else times
        self._forecast = self._times.forecast
        self._outcomes = 0
        self._now = now
        self._clock_offset = 0.0
        self._next_at = now
        self._not_before = now + first_look_after
        self._spare = UNTOLD_SPARE
        self._scouts = Scouts(interval=interval, now=now)
        self._waiting: dict[str, _Waiting] = {}
        for job in jobs:
            self._waiting.setdefault(job.transcription_id, _begin(job, len(self._waiting), now))
        audio = [one.job.audio_seconds for one in self._waiting.values() if one.job.audio_seconds is not None]
        self._typical_audio = sum(audio) / len(audio) if audio else None
        self._is_few = len(self._waiting) <= FEW
        self._dated = sum(one.is_dated for one in self._waiting.values())
        #: One for each price, made when it is first asked for.
        self._queues: list[list[_Entry] | None] = [None] * len(PRICES)

    def __len__(self) -> int:
        """How many are not final."""
        return len(self._waiting)

    def waiting(self) -> list[Job]:
        """Return what is not final, for a schedule that goes on from here."""
        return [one.job._replace(looked_at=one.looked_at) for one in self._waiting.values()]

    def next_at(self) -> float | None:
        """Return the epoch seconds at which to call :meth:`take` again; ``None`` while all are looked at."""
        level = self._level()
        first = self._first(level)
        if first is None:
            return None
        at = min(first[0], self._now + min(RECHECK, self._interval)) if level else first[0]
        if self._has_scouts():
            at = min(at, self._scout_due())
        self._next_at = at
        return at - self._clock_offset

    def take(self, *, now: float, spare: float | None = None) -> str | None:
        """
        Return the transcription to look at now; ``None`` if it is too early for any.

        :param now: Epoch seconds.
        :param spare: How many requests more the budget would let pass within 60 seconds; 0 if some wait for
            it already, infinite if there is no limit; ``None``: as last time.
        """
        now = self._pass_to(now)
        self._spare = self._spare if spare is None else spare
        self._learn()
        first = self._first(self._level())
        if first is not None and first[0] > now + ROUNDING:
            one = self._scout(now)
        else:
            one = None if first is None else first[1]
        if one is None:
            return None
        one.is_under_way = True
        one.version += 1
        return one.job.transcription_id

    def again(self, transcription_id: str, *, now: float, answered: bool = True) -> None:
        """
        Put a transcription back that is not final.

        :param transcription_id: What was looked at.
        :param now: Epoch seconds.
        :param answered: Whether Plaud said that it is processing. A look that failed tells nothing.
        """
        now = self._pass_to(now)
        one = self._waiting[transcription_id]
        one.is_under_way = False
        one.version += 1
        scouted_at, one.scouted_at = one.scouted_at, None
        not_before = now + self._interval * self._rng.uniform(0.9, 1.1)
        if answered:
            not_before = now
            self._scouts.in_vain(scouted_at)
            is_first, one.looked_at = one.looked_at is None, now
            self._note(one, now - one.began_at, is_done=False, is_first=is_first)
        for level, queue in enumerate(self._queues):
            if queue is not None:
                heapq.heappush(queue, self._entry(one, level, not_before=not_before))

    def seen(self, transcription_id: str, *, now: float, completed_at: float | None = None) -> None:
        """
        Take a transcription out that is final, and learn from it.

        :param transcription_id: What was looked at.
        :param now: Epoch seconds.
        :param completed_at: Epoch seconds at which Plaud finished it, by Plaud's clock: from when Plaud
            accepted it by the same clock, that is how long it took, whatever both clocks say of the time of
            day. What cannot be true, given the looks, is ignored.
        """
        now = self._pass_to(now)
        one = self._waiting.pop(transcription_id)
        one.version += 1
        self._dated -= one.is_dated
        self._scouts.found(one.scouted_at, now=now)
        longest = max(one.elapsed, now - one.began_at)
        accepted_at = one.job.accepted_at
        seconds = -1.0 if completed_at is None or accepted_at is None else completed_at - accepted_at
        if not (seconds > 0 and one.elapsed - SKEW <= seconds <= longest + SKEW):
            seconds = self._forecast.draw(one.job.audio_seconds, one.elapsed, longest, self._rng)
        seconds = min(longest, max(one.elapsed, seconds))
        self._note(one, seconds, is_done=True, is_first=one.looked_at is None)

    def _pass_to(self, now: float) -> float:
        """Return the time by a clock that nobody sets."""
        step = now + self._clock_offset - self._now
        expected = max(0.0, self._next_at - self._now)
        passed = max(0.0, step) if step <= expected + LONGEST_STEP else expected
        self._clock_offset += passed - step
        self._now += passed
        return self._now

    def _note(self, one: _Waiting, seconds: float, *, is_done: bool, is_first: bool) -> None:
        self._outcomes += 1
        if one.is_dated:
            observation = Observation(one.job.audio_seconds, max(SHORTEST_TIME, seconds), is_done)
            self._times.note(one.job.transcription_id, observation, is_first=is_first)

    def _learn(self) -> None:
        """Go by the newest forecast, if that is worth making the queues anew."""
        newest = self._times.forecast
        if newest is self._forecast:
            return
        if newest.known >= 2 * self._forecast.known or self._outcomes >= len(self._waiting) / 20:
            self._forecast = newest
            self._outcomes = 0
            self._queues = [None] * len(PRICES)

    def _level(self) -> int:
        """Return the lowest price at which the looks in vain fit into what the budget has to spare."""
        if self._is_few:
            return 0
        if self._forecast.known or not self._dated:
            typical = self._forecast.typical_seconds(self._typical_audio)
            for level, price in enumerate(PRICES[:-1]):
                pause = max(self._shortest_pause(level), _pace(price) * typical / self._forecast.spread)
                if len(self._waiting) * 60.0 / pause <= self._spare * CLAIM:
                    return level
        return len(PRICES) - 1

    def _shortest_pause(self, level: int) -> float:
        return self._interval if level else min(self._interval, SHORTEST_PAUSE)

    def _has_scouts(self) -> bool:
        if self._is_few or not self._dated:
            return False
        return self._scouts.may_look(known=self._forecast.known, spare=self._spare)

    def _scout_due(self) -> float:
        first = self._first(0)
        if first is None:
            return math.inf
        due, one = first
        if one.looked_at is None and not self._forecast.known:
            due = self._not_before
        return self._scouts.due(one.last_at, due, known=self._forecast.known)

    def _scout(self, now: float) -> _Waiting | None:
        first = self._first(0)
        if first is None or not self._has_scouts() or self._scout_due() > now + ROUNDING:
            return None
        due, one = first
        one.scouted_at = min(1.0, (now - one.last_at) / max(ROUNDING, due - one.last_at))
        self._scouts.sent(now=now, elapsed=now - one.began_at, shortest=self._shortest_pause(0))
        return one

    def _first(self, level: int) -> tuple[float, _Waiting] | None:
        """Return who is looked at first at a price, and when."""
        queue = self._queues[level]
        if queue is None or len(queue) > 2 * len(self._waiting) + 64:
            queue = [self._entry(one, level) for one in self._waiting.values() if not one.is_under_way]
            heapq.heapify(queue)
            self._queues[level] = queue
        while queue and queue[0][2] != queue[0][3].version:
            heapq.heappop(queue)
        return (queue[0][0], queue[0][3]) if queue else None

    def _entry(self, one: _Waiting, level: int, *, not_before: float = 0.0) -> _Entry:
        return max(self._due(one, level), self._not_before, not_before), one.order, one.version, one

    def _due(self, one: _Waiting, level: int) -> float:
        if one.looked_at is None:
            return one.began_at + self._first_look(one, level)
        growth = GROWTH_OF_FEW if self._is_few else min(1.0, 2 * _pace(PRICES[level]))
        pause = max(self._interval, growth * one.elapsed)
        if self._has_scouts() and not self._forecast.known:
            pause = max(pause, growth * self._forecast.typical_seconds(one.job.audio_seconds))
        if one.is_dated and self._forecast.known:
            shortest = self._shortest_pause(level)
            pays_at = self._forecast.next_look(
                one.job.audio_seconds, price=PRICES[level], after=one.elapsed, pause=shortest
            )
            pause = max(shortest, min(pause, pays_at - one.elapsed))
        pause = min(pause, max(self._interval, LONGEST_PAUSE))
        return one.looked_at + pause * self._rng.uniform(0.95, 1.05)

    def _first_look(self, one: _Waiting, level: int) -> float:
        """Return after how many seconds a transcription is looked at for the first time."""
        if not one.is_dated:
            return 0.0
        if self._forecast.known:
            pays_at = self._forecast.first_look(one.job.audio_seconds, price=PRICES[level])
            # Nobody scouts for a few, and what is known of them may come from one that was odd.
            return min(pays_at, max(self._interval, LONGEST_PAUSE)) if self._is_few else pays_at
        assumed = self._forecast.typical_seconds(one.job.audio_seconds)
        if level:
            return level * assumed
        return 0.25 * (min(self._interval, assumed) if self._is_few else assumed)


def _pace(price: float) -> float:
    """Return the pause, as a part of the time so far, that suits a price where little is known."""
    return math.sqrt(2 * price)


def _begin(job: Job, order: int, now: float) -> _Waiting:
    """Return a job without what cannot be true of it."""
    submitted_at, audio_seconds, looked_at = job.submitted_at, job.audio_seconds, job.looked_at
    is_dated = submitted_at is not None and 0 < submitted_at <= now + SKEW
    if audio_seconds is not None and not 0 < audio_seconds < math.inf:
        audio_seconds = None
    if looked_at is not None and not 0 < looked_at <= now:
        looked_at = None
    return _Waiting(
        job=job._replace(audio_seconds=audio_seconds),
        order=order,
        began_at=min(now, submitted_at) if is_dated and submitted_at is not None else now,
        is_dated=is_dated,
        looked_at=looked_at,
    )
