"""
When to look (poll) at the transcriptions that are waited for.

Pure: the caller hands the time in, as epoch seconds, best by a clock that nobody sets meanwhile.

A look that comes too early costs a request for nothing; one that comes too late leaves a finished result
unread. So how long Plaud takes is predicted (:class:`ProcessingTimes`), as a constant plus a share of the
audio's length, and from how far off earlier predictions were come two moments for each transcription:

- when it *may be done*: one in ten takes no longer (the 10 % quantile);
- when it is *probably done*: nearly all take no longer (the 95 % quantile).

From the second moment on it is looked at in any case. Between the two a look is a *guess*. There is one guess
in each interval, and for up to four that somebody waits for some each minute; more are made only from a share
of the requests that the client's quota does not need otherwise, and few as long as nothing is known. After
each look in vain the next one waits for a share of the time that has passed (backoff).
``benchmarks/polling.py`` compares this with looking at a fixed interval.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

#: Until so many processing times are known, 15 s and 0.12 s per second of audio are expected, and 600 s of
#: audio where its length is unknown.
ENOUGH = 4
ASSUMED_CONSTANT = 15.0
ASSUMED_SLOPE = 0.12
ASSUMED_AUDIO = 600.0
#: Until then the two moments are these multiples of the expected time.
ASSUMED_MAY_BE = 0.15
ASSUMED_PROBABLY = 1.5
#: Later they are these quantiles of (time it took / time that was expected).
MAY_BE = 0.10
PROBABLY = 0.95
#: Of so many last ones.
REMEMBERED = 200
#: The quantiles are multiplied by this, so that a look does not come just before the end.
MARGIN = 1.05
#: Guesses use at most this share of the unused quota.
SHARE = 0.4
#: A schedule of at most so many is one that a person waits for: its guesses may always use 30 requests a
#: minute, and while nothing is known they begin at once.
FEW = 4
FEW_A_MINUTE = 30.0
#: Guesses a minute of a larger schedule as long as nothing is known, however much of the quota is unused.
UNKNOWN_A_MINUTE = 60.0
#: Backoff. After a look in vain the next guess comes when a tenth of the time so far has passed again, and
#: the next look in any case when half of it has.
GROWTH_OF_GUESS = 0.1
GROWTH = 0.5
#: Bounds of that pause, in seconds. With a tenth and the shortest one, what is done at any moment is seen
#: within a tenth of its processing or five seconds; longer pauses would need fewer looks, and miss that.
SHORTEST_PAUSE = 5.0
LONGEST_PAUSE = 1800.0
#: A shorter ``poke_interval`` would keep a core busy.
SHORTEST_INTERVAL = 0.05
#: A look that failed is repeated after the shortest pause, then after twice as long each time, up to so many
#: seconds.
LONGEST_RETRY = 120.0
#: Where Plaud calls when a transcription is final, the first look without a call comes after twice the time
#: in which it is probably done, and after so many seconds at least: the first to be done are the quickest.
LEAST_UNCALLED = 300.0
#: Of so many last results more than half came without a call: then calls are not relied upon.
LAST_CALLS = 10
#: Seconds after which to find out again how much of the quota is unused.
RECHECK = 5.0
#: Where Plaud does not tell when it finished, what the first look finds done counts as having taken this part
#: of the expected time, if that is not longer than it took; what a look has found processing before counts as
#: done at the look that found it done.
UNTOLD = 0.85


class Job(NamedTuple):
    """
    A transcription that is waited for.

    :param transcription_id: Plaud's id.
    :param submitted_at: When it was submitted; ``None``: unknown.
    :param audio_seconds: Length of the recording; ``None``: unknown.
    :param accepted_at: When Plaud says that it accepted it, in epoch seconds by Plaud's clock; ``None``:
        unknown.
    :param looked_at: When a look has last found it processing; ``None``: there was none.
    """

    transcription_id: str
    submitted_at: float | None = None
    audio_seconds: float | None = None
    accepted_at: float | None = None
    looked_at: float | None = None


class Taken(NamedTuple):
    """
    How long Plaud took for a recording.

    :param audio_seconds: The recording's length; ``None``: unknown.
    :param seconds: From its submit until it was done.
    """

    audio_seconds: float | None
    seconds: float


class ProcessingTimes:
    """
    How long Plaud took for the last ones, and what to expect of the next one.

    All schedules of a client may share it, so that each does not have to learn it anew. What other processes
    have seen can be added, and what this one has seen can be had for them.
    """

    def __init__(self) -> None:
        self._known: deque[Taken] = deque(maxlen=REMEMBERED)
        self._news = 0
        self._untold: deque[Taken] = deque(maxlen=REMEMBERED)
        self._called: deque[bool] = deque(maxlen=LAST_CALLS)
        #: Counts how often what is expected has changed.
        self.version = 0
        self._fit()

    def note(self, audio_seconds: float | None, seconds: float, *, is_for_others: bool = True) -> None:
        """Remember that a recording of some length took so long, and whether to tell other processes."""
        taken = Taken(audio_seconds, seconds)
        self._known.append(taken)
        if is_for_others:
            self._untold.append(taken)
        self._news += 1
        # Only now and then: all moments are worked out again afterwards.
        if self._news > len(self._known) // 10:
            self._fit()

    def learn(self, known: Iterable[Taken]) -> None:
        """Take over what other processes have seen, if nothing is known."""
        if not self._known:
            self._known.extend(known)
            self._fit()

    def news(self) -> list[Taken]:
        """Return what was noted since this was last asked for, for other processes."""
        news = list(self._untold)
        self._untold.clear()
        return news

    def note_call(self, *, came: bool) -> None:
        """Remember whether Plaud has called when a transcription was final, where it is to."""
        was_relied_upon = self.are_calls_relied_upon
        self._called.append(came)
        if self.are_calls_relied_upon is not was_relied_upon:
            self.version += 1

    @property
    def are_calls_relied_upon(self) -> bool:
        """Whether Plaud calls when a transcription is final, as far as is known; one call may be lost."""
        missed = self._called.count(False)
        return missed < 3 or missed * 2 <= len(self._called)

    def expected(self, audio_seconds: float | None) -> float:
        """Return the processing time to expect, in seconds."""
        return max(1.0, self._constant + self._slope * (audio_seconds or self._audio))

    def within(self, audio_seconds: float | None) -> tuple[float, float]:
        """Return after how many seconds a recording may be done, and after how many it is probably done."""
        expected = self.expected(audio_seconds)
        return self._may_be * expected, self._probably * expected

    def __len__(self) -> int:
        return len(self._known)

    def _fit(self) -> None:
        """Fit a line through the medians of the shorter and of the longer half; see how far off it is."""
        self._news = 0
        self.version += 1
        told = sorted(audio for audio, _ in self._known if audio is not None)
        self._audio = _median(told) if told else ASSUMED_AUDIO
        known = sorted((audio or self._audio, seconds) for audio, seconds in self._known)
        self._constant, self._slope = ASSUMED_CONSTANT, ASSUMED_SLOPE
        self._may_be, self._probably = ASSUMED_MAY_BE, ASSUMED_PROBABLY
        if len(known) < ENOUGH:
            return
        (short, soon), (long, late) = (
            [_median(values) for values in zip(*half, strict=True)]
            for half in (known[: len(known) // 2], known[len(known) // 2 :])
        )
        self._slope = max(0.0, (late - soon) / (long - short)) if long > short else 0.0
        self._constant = max(0.0, _median(seconds - self._slope * audio for audio, seconds in known))
        ratios = sorted(seconds / self.expected(audio) for audio, seconds in known)
        self._may_be = MARGIN * ratios[int(MAY_BE * len(ratios))]
        self._probably = MARGIN * ratios[int(PROBABLY * len(ratios))]


@dataclass(slots=True, eq=False)
class _Waiting:
    """
    A job, and what its looks have found.

    :param began_at: When it was submitted, or else when the schedule began.
    :param looked_at: When a look has last found it processing.
    :param called_at: When Plaud has called to say that it is final; ``None``: it has not.
    :param not_before: There is no look before, because the last one failed.
    :param failures: How many looks in a row have failed.
    :param is_under_way: Whether it is being looked at.
    :param guess_at: When the next guess is due.
    :param look_at: When the next look is due in any case.
    """

    job: Job
    began_at: float
    looked_at: float | None
    called_at: float | None = None
    not_before: float = -math.inf
    failures: int = 0
    is_under_way: bool = False
    guess_at: float = 0.0
    look_at: float = 0.0


# No functions of Python's: each look asks for these moments of all that wait.
_guess_at: Callable[[_Waiting], float] = attrgetter("guess_at")
_look_at: Callable[[_Waiting], float] = attrgetter("look_at")


class Schedule:
    """
    Says which transcription to look at next, and when. The quota may delay any look.

    :param jobs: What is waited for; duplicates count once.
    :param interval: Least seconds between two looks at the same transcription once it is probably done; they
        grow to half of the time so far. Guesses may follow each other after 5 s. In each interval one guess
        is made even if the quota is used up.
    :param now: When the schedule begins.
    :param times: What is known of how long Plaud takes; by default nothing.
    :param is_called: Whether Plaud calls when a transcription is final, see :meth:`call`.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        *,
        interval: float,
        now: float,
        times: ProcessingTimes | None = None,
        is_called: bool = False,
    ) -> None:
        self._interval = max(interval, SHORTEST_INTERVAL)
        self._shortest = min(self._interval, SHORTEST_PAUSE)
        self._times = ProcessingTimes() if times is None else times
        self._waiting: dict[str, _Waiting] = {}
        for job in jobs:
            self._waiting.setdefault(job.transcription_id, _begin(job, now))
        self._is_called = is_called
        self._is_few = len(self._waiting) <= FEW
        # That of the times that all moments come from; none yet.
        self._version = 0
        # None yet: the first guess waits for nothing, so that something is known soon.
        self._guessed_at: float | None = None
        self._spare = 0.0
        self._now = now

    def __len__(self) -> int:
        """How many are not final."""
        return len(self._waiting)

    def waiting(self) -> list[Job]:
        """Return what is not final, for another schedule to go on with."""
        return [one.job._replace(looked_at=one.looked_at) for one in self._waiting.values()]

    def next_at(self) -> float | None:
        """Return when to call :meth:`take` again; ``None`` while all are being looked at."""
        free = self._free()
        if not free:
            return None
        # By then more of the quota may be unused, and the next guess be allowed earlier.
        allowed_at = min(self._next_guess(), self._now + RECHECK)
        return min(max(allowed_at, min(map(_guess_at, free))), *map(_look_at, free))

    @property
    def needs_spare(self) -> bool:
        """Whether :meth:`take` has to be told what is unused: not for the first guess at a single one."""
        return self._guessed_at is not None or len(self._waiting) > 1

    def take(self, *, now: float, spare: float = 0.0) -> str | None:
        """
        Return the transcription to look at now; ``None`` if it is too early for any.

        :param now: The time.
        :param spare: Requests a minute of the quota that are unused; 0 while some wait for a slot.
        """
        self._now, self._spare = now, spare
        free = self._free()
        if not free:
            return None
        one = min(free, key=_look_at)
        if one.look_at > now:
            one = min(free, key=_guess_at)
            if one.guess_at > now or self._next_guess() > now:
                return None
            self._guessed_at = now
        one.is_under_way = True
        return one.job.transcription_id

    def call(self, transcription_id: str, *, now: float) -> None:
        """
        Have a transcription looked at, as Plaud has called to say that it is final. The look finds out.

        :param transcription_id: What it is about; what is not waited for is nothing to do.
        :param now: The time.
        """
        if (one := self._waiting.get(transcription_id)) is not None:
            one.called_at = now
            self._plan(one)

    def again(self, transcription_id: str, *, now: float, answered: bool = True) -> None:
        """
        Put a transcription back that is not final.

        :param transcription_id: What was looked at.
        :param now: The time.
        :param answered: Whether Plaud said that it is processing; a look that failed says nothing about it.
        """
        one = self._waiting[transcription_id]
        one.is_under_way = False
        if answered:
            one.looked_at, one.failures = now, 0
        else:
            one.not_before = now + min(self._shortest * 2 ** min(one.failures, 10), LONGEST_RETRY)
            one.failures += 1
        self._plan(one)

    def seen(self, transcription_id: str, *, now: float, completed_at: float | None = None) -> None:
        """
        Take a transcription out that is final, and learn from it.

        :param transcription_id: What was looked at.
        :param now: The time.
        :param completed_at: When Plaud says that it finished it, in epoch seconds by Plaud's clock; ``None``:
            unknown. Compared with when Plaud accepted it, by the same clock, that is how long it took. Where
            that is unknown, it is compared with when it was submitted, if the looks do not contradict.
        """
        one = self._waiting.pop(transcription_id)
        if self._is_called:
            self._times.note_call(came=one.called_at is not None)
        at_least = 0.0 if one.looked_at is None else one.looked_at - one.began_at
        at_most = max(at_least, now - one.began_at)
        expected = self._times.expected(one.job.audio_seconds)
        seconds = UNTOLD * expected if one.looked_at is None else at_most
        if completed_at is not None and one.job.accepted_at is not None:
            told = completed_at - one.job.accepted_at
            seconds = told if math.isfinite(told) and told > 0 else seconds
        elif one.job.submitted_at is None:
            return
        elif completed_at is not None and at_least <= completed_at - one.began_at <= at_most:
            # By two clocks, which agree as far as the looks can tell.
            seconds = completed_at - one.began_at
        # Else its clock is faster than ours, as that of the emulator can be: no time to be kept for long.
        is_for_others = seconds <= at_most
        seconds = min(at_most, max(at_least, seconds))
        self._times.note(one.job.audio_seconds, seconds, is_for_others=is_for_others)

    def give_up(self, transcription_id: str) -> None:
        """Take a transcription out whose result cannot be had: that tells nothing of how long Plaud takes."""
        del self._waiting[transcription_id]

    def _next_guess(self) -> float:
        """Return when the next guess is allowed: by the unused quota, and at least one in each interval."""
        if self._guessed_at is None:
            return -math.inf
        a_minute = self._spare * SHARE
        if self._is_few:
            a_minute = max(a_minute, FEW_A_MINUTE)
        elif not self._times:
            # What a few looks in vain tell of one holds for all.
            a_minute = min(a_minute, UNKNOWN_A_MINUTE)
        return self._guessed_at + min(self._interval, 60.0 / a_minute if a_minute > 0 else math.inf)

    def _free(self) -> list[_Waiting]:
        """Return what is not being looked at, with moments that are up to date."""
        if self._version != self._times.version:
            self._version = self._times.version
            for one in self._waiting.values():
                self._plan(one)
        return [one for one in self._waiting.values() if not one.is_under_way]

    def _plan(self, one: _Waiting) -> None:
        """Work out when the next guess at a transcription is due, and when the next look in any case."""
        may_be, probably = self._times.within(one.job.audio_seconds)
        guess_at = look_at = self._due_by_calls(one, probably)
        if guess_at is None or look_at is None:
            if one.job.submitted_at is None or (self._is_few and len(self._times) < ENOUGH):
                # It may be done already, or somebody waits and nothing is known.
                may_be = 0.0
            guess_at = one.began_at + (0.0 if one.job.submitted_at is None else max(self._shortest, may_be))
            look_at = one.began_at + _pause(self._shortest, probably)
            if one.looked_at is not None:
                age = one.looked_at - one.began_at
                guess_at = max(guess_at, one.looked_at + _pause(self._shortest, GROWTH_OF_GUESS * age))
                look_at = max(look_at, one.looked_at + _pause(self._interval, GROWTH * age))
        one.guess_at, one.look_at = max(one.not_before, guess_at), max(one.not_before, look_at)

    def _due_by_calls(self, one: _Waiting, probably: float) -> float | None:
        """Return when the next look is due where Plaud calls; ``None`` where that is not relied upon."""
        looked_at, called_at = one.looked_at, one.called_at
        if called_at is not None:
            if looked_at is None or looked_at < called_at:
                return called_at
            # The call came too early, or is not true.
            return looked_at + _pause(SHORTEST_PAUSE, looked_at - called_at)
        may_be_done_already = one.job.submitted_at is None and looked_at is None
        if may_be_done_already or not (self._is_called and self._times.are_calls_relied_upon):
            return None
        uncalled = max(LEAST_UNCALLED, 2 * probably)
        if looked_at is None:
            return one.began_at + uncalled
        return max(
            one.began_at + uncalled, looked_at + _pause(LEAST_UNCALLED, GROWTH * (looked_at - one.began_at))
        )


def _median(values: Iterable[float]) -> float:
    # The standard library's takes twenty milliseconds to import.
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def _pause(shortest: float, pause: float) -> float:
    return max(shortest, min(pause, LONGEST_PAUSE))


def _begin(job: Job, now: float) -> _Waiting:
    """Return a job as it begins, without moments in the future and lengths that cannot be."""
    submitted_at, audio_seconds, looked_at = job.submitted_at, job.audio_seconds, job.looked_at
    if submitted_at is not None and not submitted_at <= now:
        submitted_at = None
    if audio_seconds is not None and not 0 < audio_seconds < math.inf:
        audio_seconds = None
    if looked_at is not None and not looked_at <= now:
        looked_at = None
    job = job._replace(submitted_at=submitted_at, audio_seconds=audio_seconds)
    return _Waiting(job, began_at=now if submitted_at is None else submitted_at, looked_at=looked_at)
