from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.api.processing_times import Forecast, Observation, ProcessingTimes

PRICE = 0.01

observations = st.lists(
    st.builds(
        Observation,
        audio_seconds=st.none() | st.floats(0.1, 1e5),
        seconds=st.floats(0.01, 1e6),
        is_done=st.booleans(),
    ),
    max_size=60,
)


def done(audio_seconds: float | None, seconds: float) -> Observation:
    return Observation(audio_seconds, seconds, is_done=True)


def processing(audio_seconds: float | None, seconds: float) -> Observation:
    return Observation(audio_seconds, seconds, is_done=False)


@pytest.mark.parametrize(
    "seconds",
    [lambda _: 20.0, lambda audio: 0.1 * audio, lambda audio: 10 + 0.1 * audio],
    ids=["always the same", "a share of the audio", "both"],
)
def test_it_finds_what_the_processing_time_depends_on(seconds: Callable[[float], float]) -> None:
    rng = random.Random(1)
    learned = [rng.uniform(30, 3000) for _ in range(100)]

    forecast = Forecast([done(audio, seconds(audio)) for audio in learned])

    for audio in (60.0, 600.0, 3000.0):
        assert forecast.typical_seconds(audio) == pytest.approx(seconds(audio), rel=0.06, abs=1)
        assert 1 <= forecast.first_look(audio, price=PRICE) / seconds(audio) <= 1.12


def test_those_that_still_process_are_not_forgotten() -> None:
    finished = [done(600.0, 60.0 + number) for number in range(10)]
    without = Forecast(finished)

    with_them = Forecast([*finished, *(processing(600.0, 200.0) for _ in range(20))])

    assert without.typical_seconds(600.0) < 80
    assert with_them.typical_seconds(600.0) > 200


def test_the_dearer_a_look_the_surer_it_has_to_be() -> None:
    rng = random.Random(1)
    forecast = Forecast([done(600.0, rng.lognormvariate(4.0, 0.8)) for _ in range(300)])

    looks = [forecast.first_look(600.0, price=price) for price in (0.01, 0.06, 0.5, 10.0)]

    assert looks == sorted(looks)
    assert looks[0] < forecast.typical_seconds(600.0) < looks[-1]


def test_of_a_recording_far_longer_than_any_known_one_is_not_believed_that_it_takes_so_much_longer() -> None:
    forecast = Forecast([done(60.0, 6.0) for _ in range(50)])

    assert forecast.first_look(36_000.0, price=PRICE) < 0.01 * 36_000.0


def test_a_recording_counts_once_however_often_it_is_looked_at() -> None:
    times = ProcessingTimes()
    for number in range(20):
        times.note(f"txn_{number}", done(600.0, 60.0), is_first=True)
    for seconds in range(100, 3000, 100):
        times.note("txn_slow", processing(600.0, float(seconds)), is_first=seconds == 100)

    assert times.forecast.typical_seconds(600.0) == pytest.approx(60.0, rel=0.05)


def test_it_follows_when_plaud_becomes_slower() -> None:
    times = ProcessingTimes()
    for number in range(1000):
        times.note(f"txn_{number}", done(600.0, 60.0), is_first=True)
    for number in range(1000, 1400):
        times.note(f"txn_{number}", done(600.0, 600.0), is_first=True)

    assert times.forecast.typical_seconds(600.0) == pytest.approx(600.0, rel=0.05)


def test_what_it_has_forgotten_stays_forgotten() -> None:
    times = ProcessingTimes()
    times.note("txn_slow", processing(600.0, 10.0), is_first=True)
    for number in range(ProcessingTimes.WINDOW):
        times.note(f"txn_{number}", done(600.0, 60.0), is_first=True)
    before = times.forecast

    for _ in range(100):
        times.note("txn_slow", processing(600.0, 9999.0), is_first=False)

    assert times.forecast is before


@given(observations, st.floats(0.1, 1e5), st.floats(0, 1e6), st.floats(0.1, 1e3))
def test_whatever_was_seen_the_next_look_comes_after_the_last_one(
    seen: list[Observation], audio: float, after: float, pause: float
) -> None:
    forecast = Forecast([*seen, done(600.0, 60.0)])

    assert 0 < forecast.first_look(audio, price=PRICE) < math.inf
    assert forecast.next_look(audio, price=PRICE, after=after, pause=pause) >= (after + pause) * (1 - 1e-9)


@given(observations, st.floats(0, 1e6), st.floats(0, 1e6), st.integers())
def test_what_it_draws_is_within_the_bounds(
    seen: list[Observation], one: float, other: float, seed: int
) -> None:
    lower, upper = sorted((one, other))

    drawn = Forecast(seen).draw(600.0, lower, upper, random.Random(seed))

    assert lower <= drawn <= upper
