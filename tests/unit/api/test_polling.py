from __future__ import annotations

import math
import random
import statistics
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.polling import (
    EPOCH,
    Figures,
    PlaudsClock,
    Recording,
    constant,
    fixed,
    long_tails,
    ours,
    play,
    steady,
)
from plaud_provider.api.polling import FEW, Job, PollSchedule
from plaud_provider.api.processing_times import ProcessingTimes

START = 1_800_000_000.0
#: How far a pause may be from what it should be: jitter.
JITTER = 1.051


def schedule(
    jobs: Sequence[Job],
    *,
    interval: float = 30.0,
    first: float = 0.0,
    times: ProcessingTimes | None = None,
    now: float = START,
) -> PollSchedule:
    return PollSchedule(
        jobs, interval=interval, now=now, first_look_after=first, rng=random.Random(3), times=times
    )


def jobs_of(count: int, *, audio_seconds: float | None = 600.0) -> list[Job]:
    return [Job(f"txn_{number}", START, audio_seconds, START) for number in range(count)]


class Player:
    """Looks when the schedule says, and not before a moment that has passed."""

    def __init__(self, polls: PollSchedule, *, now: float = START, spare: float | None = None) -> None:
        self.polls = polls
        self.now = now
        self.spare = spare

    def look(self, *, until: float = math.inf) -> str | None:
        """Wait for the next look; return the transcription."""
        while (at := self.polls.next_at()) is not None and at <= until:
            self.now = max(self.now, at)
            taken = self.polls.take(now=self.now, spare=self.spare)
            if taken is not None:
                return taken
        return None

    def looks(self, count: int) -> list[str]:
        """Look so many times, and find everything still processing."""
        names = []
        for _ in range(count):
            name = self.look()
            assert name is not None
            names.append(name)
            self.polls.again(name, now=self.now)
        return names

    def all_looks(self, done_at: Callable[[str], float]) -> list[tuple[str, float]]:
        """Look until everything is final; return all looks with their moments."""
        looks = []
        while (name := self.look()) is not None:
            looks.append((name, self.now))
            if self.now >= done_at(name):
                self.polls.seen(name, now=self.now, completed_at=done_at(name))
            else:
                self.polls.again(name, now=self.now)
        return looks


def experienced(seconds_per_second: float = 0.1, *, spread: float = 0.0) -> ProcessingTimes:
    """Return what is known after a hundred recordings."""
    times = ProcessingTimes()
    rng = random.Random(5)
    polls = schedule(
        [Job(f"old_{number}", START, rng.uniform(60, 3000), START) for number in range(100)], times=times
    )
    took = {
        job.transcription_id: (job.audio_seconds or 0) * seconds_per_second * rng.lognormvariate(0, spread)
        for job in polls.waiting()
    }
    for name, seconds in took.items():
        polls.seen(name, now=START + 899, completed_at=START + seconds)
    return times


# One transcription, as from the form.


@pytest.mark.parametrize("audio_seconds", [None, 5.0, 600.0, 7200.0])
@pytest.mark.parametrize("submitted_at", [None, START, START - 20])
def test_a_single_one_is_seen_within_an_interval_or_a_tenth_of_its_time(
    audio_seconds: float | None, submitted_at: float | None
) -> None:
    for took in (1.0, 7.0, 25.0, 60.0, 300.0, 3000.0, 30_000.0):
        player = Player(schedule([Job("txn", submitted_at, audio_seconds)], interval=10.0))

        player.all_looks(lambda _, took=took: START + took)  # type: ignore[misc]

        known_to_wait = took + (START - submitted_at if submitted_at else 0)
        assert player.now - (START + took) <= max(10.0, 0.1 * known_to_wait) * JITTER


@pytest.mark.parametrize("submitted_at", [None, START])
def test_a_single_one_is_never_looked_at_more_often_than_the_interval_says(
    submitted_at: float | None,
) -> None:
    player = Player(schedule([Job("txn", submitted_at, 600.0)], interval=30.0))

    moments = [at for _, at in player.all_looks(lambda _: START + 3000)]

    assert all(later - earlier >= 30 / JITTER for earlier, later in pairwise(moments))
    assert len(moments) < 45


def test_before_its_time_there_is_nothing_to_take() -> None:
    polls = schedule(jobs_of(1), first=30.0)

    assert polls.next_at() == START + 30
    assert polls.take(now=START + 29.9) is None
    assert polls.take(now=START + 30) == "txn_0"


def test_while_all_are_being_looked_at_nothing_is_due() -> None:
    polls = schedule(jobs_of(1))
    polls.take(now=START + 60)

    assert (polls.next_at(), polls.take(now=START + 600), len(polls)) == (None, None, 1)


def test_what_is_given_twice_is_looked_at_once() -> None:
    polls = schedule([*jobs_of(2), *jobs_of(2)])

    assert len(polls) == 2
    assert len(Player(polls).all_looks(lambda _: START)) == 2


# Many, of which nothing is known.


def test_as_long_as_nothing_is_known_only_a_few_are_looked_at() -> None:
    player = Player(schedule(jobs_of(1000)), spare=math.inf)

    names = []
    while (name := player.look(until=START + 60)) is not None:
        names.append(name)
        player.polls.again(name, now=player.now)

    assert 5 <= len(names) <= 20
    assert len(set(names)) == len(names)


def test_the_first_ones_looked_at_are_those_that_are_probably_done_first() -> None:
    jobs = [Job(f"txn_{number}", START, 60.0 + 37 * number % 3000) for number in range(100)]

    first = Player(schedule(jobs)).looks(5)

    shortest = sorted(jobs, key=lambda job: job.audio_seconds or 0)
    assert first == [job.transcription_id for job in shortest[:5]]


def test_everything_is_looked_at_even_if_the_first_ones_never_end() -> None:
    player = Player(schedule(jobs_of(100)))
    stuck = {f"txn_{number}" for number in range(10)}

    seen_at = {}
    while len(player.polls) > len(stuck):
        name = player.look()
        assert name is not None
        if name in stuck or player.now < START + 100:
            player.polls.again(name, now=player.now)
        else:
            seen_at[name] = player.now
            player.polls.seen(name, now=player.now, completed_at=START + 100)

    assert max(seen_at.values()) <= START + 600


@pytest.mark.parametrize("submitted_at", [None, START + 3600, -1.0, math.nan, math.inf])
def test_without_knowing_when_they_were_submitted_pauses_just_grow(submitted_at: float | None) -> None:
    player = Player(schedule([Job(f"txn_{number}", submitted_at) for number in range(20)]))

    looks = player.all_looks(lambda _: START + 2000)

    moments = [at - START for name, at in looks if name == "txn_7"]
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert moments[0] == 0
    assert all(pause >= 30 / JITTER for pause in pauses)
    assert all(pause <= max(30.0, at) * JITTER for pause, at in zip(pauses, moments, strict=False))
    assert len(moments) <= 20


# What is learned.


@pytest.mark.parametrize("audio_seconds", [100.0, 600.0, 2500.0])
def test_once_it_is_known_how_long_plaud_takes_the_look_comes_right_after(audio_seconds: float) -> None:
    jobs = jobs_of(50, audio_seconds=audio_seconds)
    player = Player(schedule(jobs, times=experienced(0.1)), spare=math.inf)

    player.look()

    assert 1.0 <= (player.now - START) / (0.1 * audio_seconds) <= 1.12


@pytest.mark.parametrize("plauds_clock", [START - 7200, START + 7200, 1.0])
def test_how_long_it_took_is_told_by_plauds_clock_alone(plauds_clock: float) -> None:
    times = ProcessingTimes()
    old = schedule(
        [Job(f"old_{number}", START, 600.0, plauds_clock) for number in range(20)],
        times=times,
    )
    for number in range(20):
        old.seen(f"old_{number}", now=START + 800, completed_at=plauds_clock + 60)

    assert times.forecast.typical_seconds(600.0) == pytest.approx(60.0, rel=0.1)


def test_a_late_look_teaches_as_much_as_one_in_time() -> None:
    times = ProcessingTimes()
    old = schedule([Job(f"old_{number}", START, 600.0, START) for number in range(20)], times=times)
    for number in range(20):
        old.seen(f"old_{number}", now=START + 800, completed_at=START + 60)
    player = Player(schedule(jobs_of(50), times=times))

    player.look()

    assert 60 <= player.now - START <= 67


IMPOSSIBLE = [None, -1.0, 0.0, START - 1, START + 3600, START * 20, math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("completed_at", [*IMPOSSIBLE, START + 400])
def test_where_completion_cannot_be_true_the_looks_tell_how_long_it_took(completed_at: float | None) -> None:
    """Each was processing after 500 s, and done after 600 s."""
    times = ProcessingTimes()
    old = schedule([Job(f"old_{number}", START, 600.0, START) for number in range(50)], times=times)
    for number in range(50):
        old.again(f"old_{number}", now=START + 500)
    for number in range(50):
        old.seen(f"old_{number}", now=START + 600, completed_at=completed_at)

    assert 500 <= times.forecast.typical_seconds(600.0) <= 600


@pytest.mark.parametrize("completed_at", IMPOSSIBLE)
def test_where_neither_completion_nor_a_look_tells_nothing_changes(completed_at: float | None) -> None:
    times = experienced(0.1)
    late = schedule(jobs_of(200), times=times)
    for number in range(200):
        late.seen(f"txn_{number}", now=START + 800, completed_at=completed_at)

    assert times.forecast.typical_seconds(600.0) == pytest.approx(60.0, rel=0.1)


def test_a_look_that_failed_teaches_nothing_and_is_repeated_after_an_interval() -> None:
    times = experienced(0.1)
    before = times.forecast
    player = Player(schedule(jobs_of(50), times=times))
    for _ in range(200):
        name = player.look()
        assert name is not None
        player.polls.again(name, now=player.now, answered=False)
    failed_at = player.now

    player.look()

    assert times.forecast is before
    assert all(job.looked_at is None for job in player.polls.waiting())
    assert player.now <= failed_at + 30 * 1.1


def test_what_one_schedule_has_learned_the_next_one_knows() -> None:
    times = ProcessingTimes()
    first, second = (
        Player(
            schedule([Job(f"{run}_{number}", START, 300.0, START) for number in range(100)], times=times),
            spare=math.inf,
        ).all_looks(lambda _: START + 45)
        for run in "ab"
    )

    assert len(first) > 105
    assert len(second) <= 102


def test_a_schedule_goes_on_where_another_stopped() -> None:
    times = experienced(0.1, spread=0.5)
    player = Player(schedule(jobs_of(50), times=times), spare=math.inf)
    names = player.looks(40)

    resumed = Player(schedule(player.polls.waiting(), times=times, now=player.now), spare=math.inf)

    looked_at = {job.transcription_id for job in resumed.polls.waiting() if job.looked_at is not None}
    assert looked_at == set(names)
    assert resumed.polls.take(now=player.now, spare=math.inf) not in looked_at


# The budget.


def test_the_less_the_budget_has_to_spare_the_surer_a_look_has_to_be() -> None:
    def in_vain(spare: float) -> float:
        rng = random.Random(2)
        done_at = {f"txn_{number}": START + 60 * rng.lognormvariate(0, 0.6) for number in range(300)}
        player = Player(schedule(jobs_of(300), times=experienced(0.1, spread=0.6)), spare=spare)
        return len(player.all_looks(done_at.__getitem__)) / 300 - 1

    assert in_vain(0) < 0.05 < in_vain(3000) < in_vain(10_000) < in_vain(math.inf)


def test_when_the_budget_gets_room_those_that_wait_are_looked_at() -> None:
    polls = schedule(jobs_of(50), times=experienced(0.1, spread=0.6))
    assert polls.take(now=START + 70, spare=0) is None

    asked_back_at = polls.next_at()

    assert asked_back_at is not None
    assert asked_back_at <= START + 80
    assert polls.take(now=asked_back_at, spare=math.inf) is not None


def test_in_a_long_queue_those_that_are_probably_done_first_come_first() -> None:
    rng = random.Random(4)
    jobs, done_at = [], {}
    for number in range(500):
        submitted_at, audio_seconds = START - 500 + number, rng.uniform(60, 3000)
        jobs.append(Job(f"txn_{number}", submitted_at, audio_seconds, submitted_at))
        done_at[f"txn_{number}"] = submitted_at + 0.1 * audio_seconds
    player = Player(schedule(jobs, times=experienced(0.1)), now=START + 600, spare=0)

    order = [name for name, _ in player.all_looks(done_at.__getitem__)]

    ranks = {name: rank for rank, name in enumerate(sorted(done_at, key=done_at.__getitem__))}
    assert len(order) == 500
    assert statistics.correlation(range(500), [ranks[name] for name in order]) > 0.9


def test_a_look_that_the_budget_holds_up_is_not_taken_again_meanwhile() -> None:
    polls = schedule(jobs_of(20), times=experienced(0.1))
    held_up = [polls.take(now=START + 500, spare=0) for _ in range(20)]

    assert len(set(held_up)) == 20
    assert polls.take(now=START + 1300, spare=0) is None
    polls.again("txn_3", now=START + 1300)
    assert Player(polls, now=START + 1300).look() == "txn_3"


# The clock.


def test_a_clock_set_back_holds_nothing_up() -> None:
    polls = schedule(jobs_of(1), interval=10.0)
    assert polls.take(now=START + 10) == "txn_0"

    polls.again("txn_0", now=START + 10 - 7200)

    due = polls.next_at()
    assert due is not None
    assert due - (START + 10 - 7200) <= 10 * JITTER


def test_a_clock_set_forward_by_hours_does_not_make_the_pauses_longer() -> None:
    polls = schedule(jobs_of(1), interval=10.0)
    assert polls.take(now=START + 10) == "txn_0"

    polls.again("txn_0", now=START + 10 + 7200)

    due = polls.next_at()
    assert due is not None
    assert due - (START + 10 + 7200) <= 10 * JITTER


def test_how_long_plaud_took_is_known_even_if_the_clock_was_set_meanwhile() -> None:
    times = ProcessingTimes()
    polls = schedule(jobs_of(20), times=times)
    polls.again("txn_0", now=START + 7200)

    for number in range(20):
        polls.seen(f"txn_{number}", now=START + 7200 + 100, completed_at=START + 60)

    assert times.forecast.typical_seconds(600.0) == pytest.approx(60.0, rel=0.1)


# Looks ahead of their time.


@pytest.mark.parametrize("spare", [0, 60, math.inf])
def test_looks_ahead_of_their_time_are_few_if_they_are_in_vain(spare: float) -> None:
    submitted_at = {f"txn_{number}": START - 50 + number / 10 for number in range(500)}
    jobs = [Job(name, at, 600.0, at) for name, at in submitted_at.items()]
    player = Player(schedule(jobs, times=experienced(0.1)), spare=spare)

    looks = player.all_looks(lambda name: submitted_at[name] + 60)

    assert len(looks) <= 500 * 1.04


# Whole runs against a shared budget; the same that ``python -m benchmarks.polling`` shows.


def figures(
    recordings: list[Recording],
    per_minute: float,
    *,
    is_ours: bool = True,
    seed: int = 1,
    plauds: PlaudsClock = lambda moment: moment,
) -> Figures:
    make = ours(seed=seed) if is_ours else fixed(seed=seed)
    play(recordings, per_minute=per_minute, make=make, plauds=plauds)
    return Figures.of(recordings, per_minute=per_minute)


def test_a_thousand_at_sixty_a_minute_take_hardly_more_than_one_look_each() -> None:
    runs = [figures(long_tails(1000, seed=seed), 60, seed=seed) for seed in range(5)]

    assert statistics.mean(run.looks for run in runs) <= 1.1
    assert all(run.seconds <= 1.15 * run.ideal_seconds for run in runs)


@pytest.mark.parametrize("recordings", [steady, constant])
def test_where_plaud_takes_a_predictable_time_none_is_wasted(
    recordings: Callable[[int], list[Recording]],
) -> None:
    run = figures(recordings(1000), 60)

    assert run.looks <= 1.02
    assert run.seconds <= 1.05 * run.ideal_seconds


@pytest.mark.parametrize("recordings", [long_tails, steady, constant])
def test_without_pressure_half_of_a_queue_of_fifty_is_seen_within_a_tenth_of_its_processing_time(
    recordings: Callable[..., list[Recording]],
) -> None:
    shares = [figures(recordings(50, seed=seed), math.inf, seed=seed).median_share for seed in range(8)]

    assert statistics.mean(shares) <= 0.07
    assert statistics.quantiles(shares, n=8)[-1] <= 0.11


@pytest.mark.parametrize("recordings", [steady, constant])
@pytest.mark.parametrize(
    "plauds",
    [
        pytest.param(lambda moment: EPOCH + 4 * (moment - EPOCH), id="four times as fast"),
        pytest.param(lambda moment: moment - 3600, id="an hour late"),
        pytest.param(lambda _: None, id="tells no times"),
    ],
)
def test_whatever_plauds_clock_says_no_time_is_lost(
    recordings: Callable[[int], list[Recording]], plauds: PlaudsClock
) -> None:
    run = figures(recordings(1000), 60, plauds=plauds)

    assert run.looks <= 1.03
    assert run.seconds <= 1.05 * run.ideal_seconds


def test_nobody_starves() -> None:
    recordings = long_tails(1000, seed=2)

    play(recordings, per_minute=60, make=ours())

    backlog = 1000.0
    assert all(one.delay <= backlog + one.processing_seconds for one in recordings)


def test_ten_thousand_at_six_hundred_a_minute_leave_the_budget_to_the_submits() -> None:
    recordings, rivals = long_tails(10_000), long_tails(10_000)

    run, rival = figures(recordings, 600), figures(rivals, 600, is_ours=False)

    assert run.looks <= 1.3
    assert run.looks < rival.looks / 3
    assert max(one.submitted_at for one in recordings) < max(one.submitted_at for one in rivals)


def test_a_server_that_works_off_a_queue_one_by_one_is_not_asked_for_all_of_it_all_the_time() -> None:
    queue = [Recording(f"txn_{number}", 600.0, 20.0 * (number + 1)) for number in range(100)]
    rival = [Recording(f"txn_{number}", 600.0, 20.0 * (number + 1)) for number in range(100)]

    run, fixed_run = figures(queue, math.inf), figures(rival, math.inf, is_ours=False)

    assert run.looks < fixed_run.looks / 2
    assert run.median_share <= 0.2


def test_ten_thousand_waiting_ones_are_a_few_megabytes() -> None:
    jobs = [Job(f"txn_{number}", START, 600.0) for number in range(10_000)]
    times = experienced(0.1)
    tracemalloc.start()
    try:
        polls = schedule(jobs, times=times)
        for spare in (0, 600, 6000, math.inf):
            polls.take(now=START + 10, spare=spare)
            polls.next_at()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 12e6


# Whatever happens.


@given(
    st.lists(
        st.tuples(
            st.floats(1, 7200) | st.none(),
            st.floats(-60, 3600) | st.none(),
        ),
        min_size=1,
        max_size=12,
    ),
    st.floats(0.5, 120),
    st.lists(
        st.tuples(
            st.sampled_from(["again", "failed", "seen"]),
            st.floats(0, 1000),
            st.sampled_from([0, 60, math.inf]),
        ),
        max_size=80,
    ),
)
def test_everything_that_waits_is_due_before_it_has_taken_twice_as_long(
    descriptions: list[tuple[float | None, float | None]],
    interval: float,
    events: list[tuple[str, float, float]],
) -> None:
    jobs = [
        Job(f"txn_{number}", None if age is None else START - age, audio, START)
        for number, (audio, age) in enumerate(descriptions)
    ]
    oldest, asked_at = START - 3600, START
    player = Player(schedule(jobs, interval=interval))
    waiting = {job.transcription_id for job in jobs}
    latest: dict[str, float] = {}
    for outcome, delay, spare in events:
        player.spare = spare
        name = player.look()
        if name is None:
            break
        assert name in waiting
        assert player.now <= max(latest.get(name, math.inf), asked_at)
        player.now = asked_at = player.now + delay
        if outcome == "seen":
            player.polls.seen(name, now=player.now, completed_at=player.now - 1)
            waiting.remove(name)
            continue
        player.polls.again(name, now=player.now, answered=outcome == "again")
        # What was never seen to be processing, among many, is looked at when scouts have found out.
        if outcome == "again" or name in latest or len(jobs) <= FEW:
            latest[name] = player.now + max(interval, player.now - oldest) * 1.1
    assert {job.transcription_id for job in player.polls.waiting()} == waiting
    assert len(player.polls) == len(waiting)
