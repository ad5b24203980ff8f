"""
How many looks a result takes, and how soon it is seen: our schedule against looking at a fixed interval.

``.venv/bin/python -m benchmarks.polling`` plays whole runs in simulated time, as the archive DAG does them:
submit a chunk, then wait for it, while the next chunks are submitted from the same budget. Both sides get the
same recordings, the same budget and the same network. It takes some seconds, and always prints the same.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Protocol

from plaud_provider.api import schedule
from plaud_provider.api.schedule import Job, ProcessingTimes

EPOCH = 1_800_000_000.0
NETWORK_SECONDS = 0.2
#: As in the archive DAG and in the trigger.
CHUNK = 200
CHUNKS_SUBMITTED_AT_ONCE = 2
LOOKS_AT_ONCE = 8

CONDITIONS = f"""\
Simulated: a slot of the budget is busy until a minute after its answer; looks outrank submits; every request
takes {NETWORK_SECONDS} s; chunks of {CHUNK}, {CHUNKS_SUBMITTED_AT_ONCE} submitted at once, each waited for \
with {LOOKS_AT_ONCE} looks at once; poke interval 30 s.
Recordings: log-normal around 10 minutes (5 s to 2 h), processed in
  long tails: 2 s + 0.05 to 0.3 s per second of audio, times a log-normal factor (sigma 0.3), one in fifty ten
              times as long
  steady:     10 s + 0.1 s per second of audio
  constant:   20 s
Ideal: what no schedule can go below, the budget's (2n - burst) / rate or when the last one was done.
"""


@dataclass(slots=True)
class Recording:
    """One recording of a run, and what became of it."""

    transcription_id: str
    audio_seconds: float
    processing_seconds: float
    submitted_at: float = math.nan
    looks: list[float] = field(default_factory=list)
    seen_at: float = math.nan

    @property
    def done_at(self) -> float:
        return self.submitted_at + self.processing_seconds

    @property
    def delay(self) -> float:
        """Seconds from done to seen."""
        return self.seen_at - self.done_at


class Schedule(Protocol):
    """What a run asks whom to look at."""

    def next_at(self) -> float | None: ...
    def take(self, *, now: float, spare: float) -> str | None: ...
    def again(self, transcription_id: str, *, now: float) -> None: ...
    def seen(self, transcription_id: str, *, now: float, completed_at: float | None = None) -> None: ...


class FixedInterval:
    """The rival: each is looked at once per interval, give or take 10 %, the one due for longest first."""

    def __init__(self, jobs: Iterable[Job], *, interval: float, now: float, rng: random.Random) -> None:
        self._interval = interval
        self._rng = rng
        self._count = itertools.count()
        self._queue = [(now, next(self._count), job.transcription_id) for job in jobs]

    def next_at(self) -> float | None:
        return self._queue[0][0] if self._queue else None

    def take(self, *, now: float, spare: float) -> str | None:
        return heapq.heappop(self._queue)[2] if self._queue and self._queue[0][0] <= now else None

    def again(self, transcription_id: str, *, now: float) -> None:
        due = now + self._interval * self._rng.uniform(0.9, 1.1)
        heapq.heappush(self._queue, (due, next(self._count), transcription_id))

    def seen(self, transcription_id: str, *, now: float, completed_at: float | None = None) -> None:
        """It is out of the queue already, and there is nothing to learn."""


class MakeRecordings(Protocol):
    """Makes the recordings of a run."""

    def __call__(self, count: int, *, seed: int = 1) -> list[Recording]: ...


MakeSchedule = Callable[[list[Job], float], Schedule]
PlaudsClock = Callable[[float], float | None]


def ours(interval: float = 30.0) -> MakeSchedule:
    """All chunks of a run share what they learn, as the triggers of a process do."""
    times = ProcessingTimes()
    return lambda jobs, now: schedule.Schedule(jobs, interval=interval, now=now, times=times)


def fixed(interval: float = 30.0, *, seed: int = 1) -> MakeSchedule:
    rng = random.Random(seed)
    return lambda jobs, now: FixedInterval(jobs, interval=interval, now=now, rng=rng)


def _recordings(
    count: int, seed: int, processing_seconds: Callable[[random.Random, float], float]
) -> list[Recording]:
    rng = random.Random(seed)
    recordings = []
    for number in range(count):
        audio = min(7200.0, max(5.0, rng.lognormvariate(math.log(600.0), 0.8)))
        recordings.append(Recording(f"txn_{number:05}", audio, processing_seconds(rng, audio)))
    return recordings


def long_tails(count: int, *, seed: int = 1) -> list[Recording]:
    def processing_seconds(rng: random.Random, audio: float) -> float:
        ratio = rng.uniform(0.05, 0.3) * rng.lognormvariate(0.0, 0.3)
        return 2.0 + audio * ratio * (10.0 if rng.random() < 0.02 else 1.0)

    return _recordings(count, seed, processing_seconds)


def steady(count: int, *, seed: int = 1) -> list[Recording]:
    return _recordings(count, seed, lambda _, audio: 10.0 + 0.1 * audio)


def constant(count: int, *, seed: int = 1) -> list[Recording]:
    return _recordings(count, seed, lambda _, __: 20.0)


class Clock:
    """Simulated time: calls in the order of their moments."""

    def __init__(self) -> None:
        self.now = EPOCH
        self._count = itertools.count()
        self._calls: list[tuple[float, int, Callable[[], None]]] = []

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._calls, (self.now + max(0.0, seconds), next(self._count), call))

    def run(self, *, while_: Callable[[], bool]) -> None:
        while while_():
            self.now, _, call = heapq.heappop(self._calls)
            call()


class Budget:
    """So many requests in any minute; looks outrank submits."""

    def __init__(self, per_minute: float, clock: Clock) -> None:
        self._free = per_minute
        self._clock = clock
        self._looks: deque[Callable[[], None]] = deque()
        self._submits: deque[Callable[[], None]] = deque()

    @property
    def spare(self) -> float:
        return 0.0 if self._looks or self._submits else self._free

    def ask(self, send: Callable[[], None], *, is_look: bool) -> None:
        (self._looks if is_look else self._submits).append(send)
        self._grant()

    def answered(self) -> None:
        self._clock.after(60.0, self._give_back)

    def _give_back(self) -> None:
        self._free += 1
        self._grant()

    def _grant(self) -> None:
        while self._free >= 1 and (self._looks or self._submits):
            self._free -= 1
            (self._looks or self._submits).popleft()()


class Chunk:
    """A chunk: its submits one after the other, then its wait."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        clock: Clock,
        budget: Budget,
        make: MakeSchedule,
        plauds: PlaudsClock,
    ) -> None:
        self._recordings = {recording.transcription_id: recording for recording in recordings}
        self._to_submit = deque(recordings)
        self._clock = clock
        self._budget = budget
        self._make = make
        self._plauds = plauds
        self._under_way = 0
        self._wakes_at = math.inf
        self.left = len(recordings)

    def submit(self, then: Callable[[], None]) -> None:
        if not self._to_submit:
            everything = self._recordings.values()
            jobs = [
                Job(one.transcription_id, one.submitted_at, one.audio_seconds, self._plauds(one.submitted_at))
                for one in everything
            ]
            self._schedule = self._make(jobs, self._clock.now)
            self._start_due_looks()
            then()
            return
        recording = self._to_submit.popleft()
        send = self._in(NETWORK_SECONDS, lambda: self._accepted(recording, then))
        self._budget.ask(send, is_look=False)

    def _accepted(self, recording: Recording, then: Callable[[], None]) -> None:
        recording.submitted_at = self._clock.now
        self._budget.answered()
        self.submit(then)

    def _start_due_looks(self) -> None:
        while self._under_way < LOOKS_AT_ONCE:
            taken = self._schedule.take(now=self._clock.now, spare=self._budget.spare)
            if taken is None:
                break
            self._under_way += 1
            self._look(self._recordings[taken])
        next_at = self._schedule.next_at()
        if next_at is not None and self._under_way < LOOKS_AT_ONCE:
            # At least a moment later, so that a schedule that asks for the past cannot hold up time.
            at = self._wakes_at = max(next_at, self._clock.now + 0.001)
            self._clock.after(at - self._clock.now, lambda: self._wake(at))

    def _wake(self, at: float) -> None:
        if at == self._wakes_at:
            self._start_due_looks()

    def _look(self, recording: Recording) -> None:
        self._budget.ask(self._in(NETWORK_SECONDS / 2, lambda: self._handled(recording)), is_look=True)

    def _handled(self, recording: Recording) -> None:
        is_done = self._clock.now >= recording.done_at
        self._in(NETWORK_SECONDS / 2, lambda: self._answered(recording, is_done=is_done))()

    def _answered(self, recording: Recording, *, is_done: bool) -> None:
        now = self._clock.now
        self._under_way -= 1
        self._budget.answered()
        recording.looks.append(now)
        if is_done:
            recording.seen_at = now
            self.left -= 1
            completed_at = self._plauds(recording.done_at)
            self._schedule.seen(recording.transcription_id, now=now, completed_at=completed_at)
        else:
            self._schedule.again(recording.transcription_id, now=now)
        self._start_due_looks()

    def _in(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        return lambda: self._clock.after(seconds, call)


def play(
    recordings: Sequence[Recording],
    *,
    per_minute: float,
    make: MakeSchedule,
    plauds: PlaudsClock = lambda moment: moment,
) -> None:
    """
    Submit and wait for all of them; what became of each is in the recordings.

    :param recordings: What is to be submitted.
    :param per_minute: Limit of requests.
    :param make: Makes the schedule of a chunk.
    :param plauds: What Plaud's clock says at a moment; ``None`` where Plaud tells no times.
    """
    clock = Clock()
    budget = Budget(per_minute, clock)
    chunks = [
        Chunk(recordings[begin : begin + CHUNK], clock, budget, make, plauds)
        for begin in range(0, len(recordings), CHUNK)
    ]
    to_submit = deque(chunks)

    def submit_next() -> None:
        if to_submit:
            to_submit.popleft().submit(submit_next)

    for _ in range(CHUNKS_SUBMITTED_AT_ONCE):
        submit_next()
    clock.run(while_=lambda: any(chunk.left for chunk in chunks))


@dataclass(frozen=True, slots=True)
class Figures:
    """
    A run in figures.

    :param looks: Looks per recording.
    :param median: Seconds from done to seen.
    :param p95: The same, of the slowest twentieth.
    :param median_share: From done to seen, as a share of the processing time or of 50 s, if that is more.
    :param seconds: From the first submit to the last result seen.
    :param ideal_seconds: What no schedule can go below: the budget's ``(2n - burst) / rate``, or when the
        last was done.
    """

    looks: float
    median: float
    p95: float
    median_share: float
    seconds: float
    ideal_seconds: float

    @classmethod
    def mean(cls, runs: Sequence[Figures]) -> Figures:
        """Return the mean of several runs."""
        return cls(*(statistics.mean(values) for values in zip(*map(astuple, runs), strict=True)))

    @classmethod
    def of(cls, recordings: Sequence[Recording], *, per_minute: float) -> Figures:
        count = len(recordings)
        delays = sorted(one.delay for one in recordings)
        last_done = max(one.done_at for one in recordings) - EPOCH
        floor = (2 * count / per_minute - 1) * 60.0 if per_minute < math.inf else 0.0
        return cls(
            looks=sum(len(one.looks) for one in recordings) / count,
            median=statistics.median(delays),
            p95=delays[int(count * 0.95)],
            median_share=statistics.median(
                one.delay / max(50.0, one.processing_seconds) for one in recordings
            ),
            seconds=max(one.seen_at for one in recordings) - EPOCH,
            ideal_seconds=max(floor, last_done),
        )


#: How many recordings, requests a minute, and of how many runs the mean is shown.
REGIMES: list[tuple[int, float, int]] = [
    (1, 60.0, 20),
    (4, 60.0, 20),
    (20, 60.0, 10),
    (50, 60.0, 10),
    (50, math.inf, 10),
    (1000, 60.0, 1),
    (10_000, 600.0, 1),
]
TIMES: list[tuple[str, MakeRecordings]] = [
    ("long tails", long_tails),
    ("steady", steady),
    ("constant", constant),
]
SIDES: list[tuple[str, Callable[[], MakeSchedule]]] = [("ours", ours), ("fixed interval", fixed)]


def main() -> None:
    print(CONDITIONS)
    print(
        f"{'recordings':>10} {'a minute':>8}  {'processing':<10}  {'schedule':<14}  {'looks per':>9} "
        f"{'done to seen, s':>17}  {'share of':>10}  {'total':>8} {'against':>7}\n"
        f"{'':>10} {'':>8}  {'':<10}  {'':<14}  {'recording':>9} {'median':>8} {'p95':>8}  "
        f"{'processing':>10}  {'s':>8} {'ideal':>7}"
    )
    for count, per_minute, seeds in REGIMES:
        limit = f"{per_minute:.0f}" if per_minute < math.inf else "no limit"
        for processing, make_recordings in TIMES:
            for side, make in SIDES:
                runs = []
                for seed in range(1, seeds + 1):
                    recordings = make_recordings(count, seed=seed)
                    play(recordings, per_minute=per_minute, make=make())
                    runs.append(Figures.of(recordings, per_minute=per_minute))
                got = Figures.mean(runs)
                print(
                    f"{count:>10,} {limit:>8}  {processing:<10}  {side:<14}  {got.looks:>9.2f} "
                    f"{got.median:>8.1f} {got.p95:>8.1f}  {got.median_share:>10.0%}  {got.seconds:>8.0f} "
                    f"{got.seconds / got.ideal_seconds:>7.0%}"
                )


if __name__ == "__main__":
    main()
