from __future__ import annotations

import math
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.polling import (
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
from plaud_provider.api.schedule import (
    FEW,
    GROWTH_OF_GUESS,
    SHORTEST_INTERVAL,
    SHORTEST_PAUSE,
    Job,
    ProcessingTimes,
    Schedule,
)

START = 1_800_000_000.0


def jobs_of(count: int, *, audio_seconds: float | None = 600.0, name: str = "txn") -> list[Job]:
    return [Job(f"{name}_{number}", START, audio_seconds, START) for number in range(count)]


class Player:
    """Looks when the schedule says, and not before a moment that has passed."""

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        now: float = START,
        spare: float = math.inf,
        interval: float = 30.0,
        times: ProcessingTimes | None = None,
    ) -> None:
        self.schedule = Schedule(jobs, interval=interval, now=now, times=times)
        self.now = now
        self.spare = spare

    def look(self, *, until: float = math.inf) -> str | None:
        """Wait for the next look; return the transcription."""
        while (at := self.schedule.next_at()) is not None and at <= until:
            self.now = max(self.now, at)
            if (taken := self.schedule.take(now=self.now, spare=self.spare)) is not None:
                return taken
        return None

    def all_looks(
        self, done_at: Callable[[str], float], *, until: float = math.inf
    ) -> list[tuple[str, float]]:
        """Look until everything is final; return all looks with their moments."""
        looks = []
        while (name := self.look(until=until)) is not None:
            looks.append((name, self.now))
            if self.now >= done_at(name):
                self.schedule.seen(name, now=self.now, completed_at=done_at(name))
            else:
                self.schedule.again(name, now=self.now)
        return looks


def experienced(share: float = 0.1, *, spread: float = 0.0, constant: float = 0.0) -> ProcessingTimes:
    """Return what is known after a hundred recordings."""
    times, rng = ProcessingTimes(), random.Random(5)
    for _ in range(100):
        audio = rng.uniform(60, 3000)
        times.note(audio, constant + audio * share * rng.lognormvariate(0, spread))
    return times


# A few that somebody waits for, with nothing known.


@pytest.mark.parametrize("count", [1, FEW])
@pytest.mark.parametrize("took", [5.0, 7.0, 20.0, 45.0, 300.0, 3000.0, 30_000.0])
@pytest.mark.parametrize("audio_seconds", [None, 5.0, 600.0])
def test_a_few_are_seen_within_five_seconds_or_a_tenth_of_their_time(
    audio_seconds: float | None, took: float, count: int
) -> None:
    player = Player(jobs_of(count, audio_seconds=audio_seconds), spare=0.0)

    seen_at = dict(player.all_looks(lambda _: START + took))

    late = statistics.median(at - START - took for at in seen_at.values())
    assert late <= max(5.0, 0.11 * took)


def test_one_that_takes_five_seconds_is_found_by_the_first_look() -> None:
    looks = Player(jobs_of(1, audio_seconds=None)).all_looks(lambda _: START + 5)

    assert looks == [("txn_0", START + SHORTEST_PAUSE)]


def test_one_of_unknown_age_is_looked_at_at_once() -> None:
    player = Player([Job("txn_0")])

    assert (player.look(), player.now) == ("txn_0", START)


def test_one_that_was_just_looked_at_is_not() -> None:
    player = Player([Job("txn_0", looked_at=START)])

    player.look()

    assert player.now == START + SHORTEST_PAUSE


@pytest.mark.parametrize("interval", [2.0, 30.0])
def test_a_single_one_is_looked_at_less_often_the_longer_it_takes(interval: float) -> None:
    player = Player(jobs_of(1), interval=interval)

    moments = [at - START for _, at in player.all_looks(lambda _: START + 3000)]

    for earlier, later in pairwise(moments):
        assert later - earlier >= max(min(interval, SHORTEST_PAUSE), GROWTH_OF_GUESS * earlier) - 1e-6
    assert len(moments) < 70


def test_without_an_interval_nothing_spins() -> None:
    player = Player([Job("txn_0")], interval=0.0)

    looks = player.all_looks(lambda _: math.inf, until=START + 1)

    assert len(looks) <= 1 / SHORTEST_INTERVAL + 1


# Many.


def test_while_all_are_being_looked_at_nothing_is_due() -> None:
    schedule = Schedule(jobs_of(1), interval=30.0, now=START)
    schedule.take(now=START + 60, spare=0.0)

    assert (schedule.next_at(), schedule.take(now=START + 600, spare=0.0), len(schedule)) == (None, None, 1)


def test_what_is_given_twice_is_looked_at_once() -> None:
    player = Player([*jobs_of(2), *jobs_of(2)])

    assert len(player.schedule) == 2
    assert len(player.all_looks(lambda _: START)) == 2


def test_as_long_as_nothing_is_known_and_nothing_to_spare_only_a_few_are_looked_at() -> None:
    looks = Player(jobs_of(1000), spare=0.0).all_looks(lambda _: math.inf, until=START + 60)

    assert 1 <= len(looks) <= 3
    assert len(set(looks)) == len(looks)


def test_as_long_as_nothing_is_known_few_of_many_are_looked_at_whatever_the_quota_has_to_spare() -> None:
    schedule = Schedule([Job(f"txn_{n}", 0.0, 1.0) for n in range(200)], interval=30, now=0)

    guesses = 0
    for second in range(20):
        while due := schedule.take(now=float(second), spare=1e6):
            guesses += 1
            schedule.again(due, now=float(second))
    assert 5 <= guesses <= 20

    due = schedule.take(now=20.0, spare=1e6)
    assert due is not None
    schedule.seen(due, now=20.0)
    assert sum(schedule.take(now=20.0 + step / 1000, spare=1e6) is not None for step in range(200)) >= 180


def test_the_first_ones_looked_at_are_those_that_are_probably_done_first() -> None:
    jobs = [Job(f"txn_{number}", START, 1000.0 + 37 * number % 3000) for number in range(100)]
    player = Player(jobs)

    first = [player.look() for _ in range(5)]

    assert first == [job.transcription_id for job in sorted(jobs, key=lambda job: job.audio_seconds or 0)[:5]]


def test_everything_is_looked_at_even_if_the_first_ones_never_end() -> None:
    stuck = {f"txn_{number}" for number in range(10)}
    player = Player(jobs_of(100), spare=60.0)

    looks = player.all_looks(lambda name: math.inf if name in stuck else START + 100, until=START + 1000)

    assert {name for name, _ in looks} == {f"txn_{number}" for number in range(100)}
    assert len(player.schedule) == len(stuck)


@pytest.mark.parametrize("submitted_at", [None, START + 3600, math.nan])
def test_of_unknown_age_they_are_looked_at_at_once_and_then_less_and_less(
    submitted_at: float | None,
) -> None:
    player = Player([Job(f"txn_{number}", submitted_at) for number in range(20)])

    looks = player.all_looks(lambda _: START + 2000)

    moments = [at - START for name, at in looks if name == "txn_7"]
    assert moments[0] < 10
    assert all(later - earlier >= SHORTEST_PAUSE - 1e-6 for earlier, later in pairwise(moments))
    assert len(moments) < 60


@pytest.mark.parametrize("nonsense", [-1.0, 0.0, math.nan, math.inf])
def test_a_length_that_cannot_be_counts_as_unknown(nonsense: float) -> None:
    without, with_it = (Player(jobs_of(20, audio_seconds=audio)) for audio in (None, nonsense))

    assert with_it.all_looks(lambda _: START + 70) == without.all_looks(lambda _: START + 70)


# What is learned.


@pytest.mark.parametrize("audio_seconds", [100.0, 600.0, 2500.0])
@pytest.mark.parametrize("constant", [0.0, 40.0])
def test_once_it_is_known_how_long_plaud_takes_the_look_comes_right_after(
    constant: float, audio_seconds: float
) -> None:
    times = experienced(0.1, constant=constant)
    player = Player(jobs_of(50, audio_seconds=audio_seconds), times=times)

    player.look()

    assert 1.0 <= (player.now - START) / (constant + 0.1 * audio_seconds) <= 1.12


@pytest.mark.parametrize("plauds_clock", [START - 7200, START, START + 7200, 1.0])
def test_how_long_it_took_is_told_by_plauds_clock_alone_however_late_the_look(plauds_clock: float) -> None:
    times = ProcessingTimes()
    late = Schedule(
        [Job(f"old_{number}", START, 600.0, plauds_clock) for number in range(20)],
        interval=30.0,
        now=START,
        times=times,
    )
    for number in range(20):
        late.seen(f"old_{number}", now=START + 800, completed_at=plauds_clock + 60)

    assert times.expected(600.0) == pytest.approx(60.0, rel=0.1)


IMPOSSIBLE = [None, -1.0, 0.0, START - 1, START + 3600, START * 20, math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("completed_at", [*IMPOSSIBLE, START + 400])
def test_where_completion_cannot_be_true_the_looks_tell_how_long_it_took(completed_at: float | None) -> None:
    """Each was processing after 500 s, and done after 600 s."""
    times = ProcessingTimes()
    schedule = Schedule(jobs_of(50), interval=30.0, now=START, times=times)
    for number in range(50):
        schedule.again(f"txn_{number}", now=START + 500)
    for number in range(50):
        schedule.seen(f"txn_{number}", now=START + 600, completed_at=completed_at)

    assert 500 <= times.expected(600.0) <= 600


@pytest.mark.parametrize(
    ("server_ahead", "in_vain"), [(0.0, 0), (0.4, 0), (-0.4, 0), (300.0, 1), (-300.0, 1)]
)
@pytest.mark.parametrize("took", [5.0, 20.0, 45.0])
def test_of_one_after_the_other_the_fifth_and_later_ones_are_seen_by_their_first_look(
    took: float, server_ahead: float, in_vain: int
) -> None:
    """As README's tasks wait: Plaud tells when it finished, the task when it submitted, by its own clock."""
    times, looks = ProcessingTimes(), []
    for _ in range(12):
        schedule = Schedule([Job("txn", START)], interval=30.0, now=START + 1, times=times)
        now, count = START + 1, 0
        while now < START + took:
            now = schedule.next_at() or 0.0
            assert schedule.take(now=now) == "txn"
            count += 1
            if now < START + took:
                schedule.again("txn", now=now)
        assert now - START - took <= 5.0
        schedule.seen("txn", now=now, completed_at=START + took + server_ahead)
        looks.append(count)

    # Where the clocks differ by more than the looks do, these have to tell how long it took.
    assert max(looks[4:]) <= 1 + in_vain


def test_where_neither_is_told_what_is_expected_falls_slowly() -> None:
    times = experienced(0.1)
    schedule = Schedule(jobs_of(20), interval=30.0, now=START, times=times)
    for number in range(20):
        schedule.seen(f"txn_{number}", now=START + 800)

    assert 50 <= times.expected(600.0) <= 65


def test_a_look_that_failed_is_repeated_soon_and_then_less_and_less_often() -> None:
    player = Player(jobs_of(1), times=experienced(0.1))
    moments = []
    for _ in range(9):
        name = player.look()
        assert name is not None
        moments.append(player.now)
        player.schedule.again(name, now=player.now, answered=False)

    pauses = [later - earlier for earlier, later in pairwise(moments)]

    assert pauses == [5, 10, 20, 40, 80, 120, 120, 120]
    assert player.schedule.waiting()[0].looked_at is None, "nothing was learned"


def test_what_one_schedule_has_learned_the_next_one_knows() -> None:
    times = ProcessingTimes()
    first, second = (
        Player(jobs_of(100, audio_seconds=300.0, name=name), times=times).all_looks(lambda _: START + 45)
        for name in "ab"
    )

    assert len(first) > 102
    assert len(second) <= 102


def test_a_schedule_goes_on_where_another_stopped() -> None:
    times = experienced(0.1, spread=0.5)
    player = Player(jobs_of(50), times=times)
    looked_at = {name for name, _ in player.all_looks(lambda _: math.inf, until=START + 60)}

    resumed = Player(player.schedule.waiting(), times=times, now=player.now)

    assert {job.transcription_id for job in resumed.schedule.waiting() if job.looked_at} == looked_at
    assert resumed.look(until=player.now) is None


# The quota.


def test_the_first_guess_at_a_single_one_needs_no_question_about_the_quota() -> None:
    one, two = (Schedule(jobs_of(count), interval=30.0, now=START) for count in (1, 2))

    assert (one.needs_spare, two.needs_spare) == (False, True)
    assert one.take(now=START + 60) is not None
    assert one.needs_spare


def test_the_less_the_quota_has_to_spare_the_surer_a_look_has_to_be() -> None:
    def in_vain(spare: float) -> float:
        rng = random.Random(2)
        done_at = {f"txn_{number}": START + 60 * rng.lognormvariate(0, 0.6) for number in range(300)}
        player = Player(jobs_of(300), times=experienced(0.1, spread=0.6), spare=spare)
        return len(player.all_looks(done_at.__getitem__)) / 300 - 1

    assert in_vain(0) < 0.25 < in_vain(600) < in_vain(6000) < in_vain(math.inf)


def test_when_the_quota_gets_room_those_that_may_be_done_are_looked_at() -> None:
    schedule = Schedule(jobs_of(50), interval=30.0, now=START, times=experienced(0.1, spread=0.6))
    assert schedule.take(now=START + 45, spare=0) is not None, "the first guess is free"
    assert schedule.take(now=START + 46, spare=0) is None

    asked_back_at = schedule.next_at()

    assert asked_back_at is not None
    assert asked_back_at <= START + 60
    assert schedule.take(now=asked_back_at, spare=math.inf) is not None


def test_in_a_long_queue_those_that_are_probably_done_first_come_first() -> None:
    rng = random.Random(4)
    jobs, done_at = [], {}
    for number in range(500):
        submitted_at, audio_seconds = START - 500 + number, rng.uniform(60, 3000)
        jobs.append(Job(f"txn_{number}", submitted_at, audio_seconds, submitted_at))
        done_at[f"txn_{number}"] = submitted_at + 0.1 * audio_seconds
    player = Player(jobs, times=experienced(0.1), now=START + 600, spare=0)

    order = [name for name, _ in player.all_looks(done_at.__getitem__)]

    ranks = {name: rank for rank, name in enumerate(sorted(done_at, key=done_at.__getitem__))}
    assert len(order) == 500
    assert statistics.correlation(range(500), [ranks[name] for name in order]) > 0.9


def test_a_look_that_the_quota_holds_up_is_not_taken_again_meanwhile() -> None:
    schedule = Schedule(jobs_of(20), interval=30.0, now=START, times=experienced(0.1))
    held_up = [schedule.take(now=START + 500, spare=0) for _ in range(20)]

    assert len(set(held_up)) == 20
    assert schedule.take(now=START + 1300, spare=0) is None


def test_a_look_costs_a_few_calls_for_each_that_waits() -> None:
    """A few milliseconds for ten thousand."""
    player = Player(jobs_of(1000), times=experienced(0.1, spread=0.5), spare=600.0)
    calls = 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        looks = player.all_looks(lambda _: math.inf, until=START + 60)
    finally:
        sys.setprofile(None)

    assert calls / len(looks) < 6 * 1000


# Whole runs against a shared quota; the same that ``python -m benchmarks.polling`` shows.


def figures(
    recordings: list[Recording],
    per_minute: float,
    *,
    is_ours: bool = True,
    seed: int = 1,
    plauds: PlaudsClock = lambda moment: moment,
) -> Figures:
    play(recordings, per_minute=per_minute, make=ours() if is_ours else fixed(seed=seed), plauds=plauds)
    return Figures.of(recordings, per_minute=per_minute)


def test_a_thousand_at_sixty_a_minute_take_hardly_more_than_one_look_each() -> None:
    runs = [figures(long_tails(1000, seed=seed), 60) for seed in range(5)]

    assert statistics.mean(run.looks for run in runs) <= 1.2
    assert statistics.mean(run.seconds / run.ideal_seconds for run in runs) <= 1.05


def test_where_plaud_tells_no_times_the_looks_tell_them_nearly_as_well() -> None:
    runs = [figures(long_tails(1000, seed=seed), 60, plauds=lambda _: None) for seed in range(10)]

    assert statistics.mean(run.looks for run in runs) <= 1.2
    assert statistics.mean(run.seconds / run.ideal_seconds for run in runs) <= 1.08


@pytest.mark.parametrize("recordings", [steady, constant])
def test_where_plaud_takes_a_predictable_time_none_is_wasted(
    recordings: Callable[[int], list[Recording]],
) -> None:
    run = figures(recordings(1000), 60)

    assert run.looks <= 1.02
    assert run.seconds <= 1.05 * run.ideal_seconds


@pytest.mark.parametrize(("count", "p95"), [(20, 70.0), (50, 90.0)])
def test_a_plain_daily_run_is_seen_soon(count: int, p95: float) -> None:
    runs = [figures(long_tails(count, seed=seed), 60) for seed in range(10)]

    assert statistics.mean(run.p95 for run in runs) <= p95


@pytest.mark.parametrize("recordings", [steady, constant])
@pytest.mark.parametrize(
    "plauds",
    [
        pytest.param(lambda moment: moment - 3600, id="an hour late"),
        pytest.param(lambda _: None, id="tells no times"),
    ],
)
def test_whatever_plauds_clock_says_no_time_is_lost(
    recordings: Callable[[int], list[Recording]], plauds: PlaudsClock
) -> None:
    run = figures(recordings(1000), 60, plauds=plauds)

    assert run.looks <= 1.06
    assert run.seconds <= 1.05 * run.ideal_seconds


def test_nobody_starves() -> None:
    recordings = long_tails(1000, seed=2)

    play(recordings, per_minute=60, make=ours())

    backlog = 1000.0
    assert all(one.delay <= backlog + one.processing_seconds for one in recordings)


def test_ten_thousand_at_six_hundred_a_minute_leave_the_budget_to_the_submits() -> None:
    recordings, rivals = long_tails(10_000), long_tails(10_000)

    run, rival = figures(recordings, 600), figures(rivals, 600, is_ours=False)

    assert run.looks <= 1.45
    assert run.seconds <= 1.07 * run.ideal_seconds
    assert run.looks < rival.looks / 3
    assert max(one.submitted_at for one in recordings) < max(one.submitted_at for one in rivals)


def test_a_server_that_works_off_a_queue_one_by_one_is_kept_up_with() -> None:
    queue = [Recording(f"txn_{number}", 600.0, 20.0 * (number + 1)) for number in range(100)]
    rival = [Recording(f"txn_{number}", 600.0, 20.0 * (number + 1)) for number in range(100)]

    run, fixed_run = figures(queue, math.inf), figures(rival, math.inf, is_ours=False)

    assert run.looks <= 1.2 * fixed_run.looks
    assert run.seconds <= 1.1 * run.ideal_seconds


# Whatever happens.


@given(
    st.lists(
        st.tuples(st.floats(1, 7200) | st.none(), st.floats(-60, 3600) | st.none()), min_size=1, max_size=12
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
def test_everything_that_waits_is_due_before_it_has_taken_half_as_long_again(
    descriptions: list[tuple[float | None, float | None]],
    interval: float,
    events: list[tuple[str, float, float]],
) -> None:
    jobs = [
        Job(f"txn_{number}", None if age is None else START - age, audio, START)
        for number, (audio, age) in enumerate(descriptions)
    ]
    oldest, asked_at = START - 3600, START
    player = Player(jobs, interval=interval)
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
            player.schedule.seen(name, now=player.now, completed_at=player.now - 1)
            waiting.remove(name)
            # What is expected may be later now.
            latest.clear()
            continue
        player.schedule.again(name, now=player.now, answered=outcome == "again")
        if outcome == "again":
            latest[name] = player.now + max(interval, 1800.0, player.now - oldest)
    assert {job.transcription_id for job in player.schedule.waiting()} == waiting
    assert len(player.schedule) == len(waiting)


# Where Plaud calls


def called(jobs: Sequence[Job], times: ProcessingTimes | None = None) -> Schedule:
    return Schedule(jobs, interval=30, now=START, times=times, is_called=True)


def test_a_call_is_followed_by_one_look_at_once_and_nothing_is_looked_at_before() -> None:
    schedule = called(jobs_of(50))
    assert schedule.take(now=START + 100, spare=60) is None
    schedule.call("txn_7", now=START + 100)
    assert schedule.next_at() == START + 100

    assert schedule.take(now=START + 100) == "txn_7"
    schedule.seen("txn_7", now=START + 101, completed_at=START + 100)
    assert schedule.take(now=START + 101, spare=60) is None


def test_a_call_that_comes_too_early_is_followed_by_looks_that_come_less_and_less_often() -> None:
    schedule = called(jobs_of(1))
    schedule.call("txn_0", now=START + 10)
    looks, now = [], START
    while len(looks) < 5:
        now = schedule.next_at() or 0.0
        assert schedule.take(now=now) == "txn_0"
        looks.append(now - START)
        schedule.again("txn_0", now=now)

    assert looks == [10, 15, 20, 30, 50]


def test_a_call_about_another_transcription_is_nothing() -> None:
    schedule = called(jobs_of(1))
    schedule.call("txn_of_others", now=START + 10)

    assert schedule.take(now=START + 20, spare=60) is None


def test_without_a_call_it_is_looked_at_all_the_same() -> None:
    schedule = called(jobs_of(1))
    at = schedule.next_at()

    assert at is not None
    assert 300 <= at - START <= 600
    assert schedule.take(now=at) == "txn_0"


def test_what_may_have_been_final_before_anybody_waited_is_looked_at_at_once() -> None:
    schedule = called([Job("txn_0")])

    assert schedule.take(now=START) == "txn_0"


@pytest.mark.parametrize(
    ("calls", "relied"),
    [
        ([], True),
        ([False, False], True),
        ([False] * 3, False),
        ([True] * 200 + [False] * 5, True),
        ([True] * 200 + [False] * 6, False),
        ([False] * 200 + [True] * 5, True),
    ],
)
def test_calls_are_relied_upon_as_long_as_most_come(calls: list[bool], relied: bool) -> None:
    times = ProcessingTimes()
    for came in calls:
        times.note_call(came=came)

    assert times.are_calls_relied_upon is relied
    plain = Schedule(jobs_of(9), interval=30, now=START, times=times)
    assert (called(jobs_of(9), times).next_at() == plain.next_at()) is not relied


def test_a_receiver_that_is_never_called_is_found_out() -> None:
    """Row 55: the webhook never comes, and polling finishes."""
    times = ProcessingTimes()
    for number in range(3):
        schedule = called(jobs_of(1, name=f"txn_{number}"), times)
        schedule.take(now=START + 999)
        schedule.seen(f"txn_{number}_0", now=START + 999)

    assert not times.are_calls_relied_upon


def test_a_thousand_that_are_called_for_cost_one_look_each() -> None:
    """With calls that come a second late, two in a hundred never, and some twice."""
    random_ = random.Random(7)
    done_at = {f"txn_{number}": START + random_.lognormvariate(4.5, 0.5) for number in range(1000)}
    calls = sorted((at + 1, one) for one, at in done_at.items() if random_.random() > 0.02)
    calls = sorted([*calls, *((at + 30, one) for at, one in calls[::10])])
    schedule = called(jobs_of(1000))
    looks, now = 0, START
    while len(schedule):
        while calls and calls[0][0] <= now:
            schedule.call(calls.pop(0)[1], now=now)
        if (one := schedule.take(now=now, spare=30)) is not None:
            looks += 1
            if done_at[one] <= now:
                schedule.seen(one, now=now)
            else:
                schedule.again(one, now=now)
        now += 0.5

    assert looks <= 1050
