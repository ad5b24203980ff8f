from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.api.polling import PollSchedule

START = 1_800_000_000.0


def schedule(
    ids: list[str], *, interval: float = 30.0, budget: float = 60.0, first: float = 0.0
) -> PollSchedule:
    return PollSchedule(
        ids,
        interval=interval,
        requests_per_minute=budget,
        now=START,
        first_look_after=first,
        rng=random.Random(3),
    )


def play(polls: PollSchedule, *, until: float) -> list[tuple[float, str]]:
    """Look whenever the schedule says, each look taking no time; return all looks."""
    looks = []
    while (at := polls.next_at()) is not None and at < START + until:
        taken = polls.take(now=at)
        assert taken is not None
        looks.append((at - START, taken))
        polls.again(taken, now=at)
    return looks


def most_in_a_minute(moments: list[float]) -> int:
    return max(sum(1 for other in moments if moment <= other < moment + 60 - 1e-6) for moment in moments)


def test_a_thousand_ids_share_the_budget_and_none_starves() -> None:
    ids = [f"txn_{number}" for number in range(1000)]

    looks = play(schedule(ids), until=3 * 1000 * 61 / 60 + 10)

    counts = Counter(name for _, name in looks)
    assert most_in_a_minute([at for at, _ in looks]) <= 60
    assert set(counts.values()) == {3, 4}
    assert counts.keys() == set(ids)


def test_the_first_looks_are_in_the_order_of_submission() -> None:
    ids = [f"txn_{number}" for number in range(50)]

    assert [name for _, name in play(schedule(ids), until=50)] == ids


def test_the_one_that_has_waited_longest_is_next() -> None:
    polls = schedule(["a", "b", "c"], interval=1.0, budget=60)
    order = [name for _, name in play(polls, until=30)]

    assert order == ["a", "b", "c"] * 10


def test_with_room_in_the_budget_each_is_looked_at_once_per_interval() -> None:
    looks = play(schedule(["a", "b"], interval=30.0, budget=600), until=3600)

    for name in "ab":
        moments = [at for at, looked in looks if looked == name]
        pauses = [later - earlier for earlier, later in pairwise(moments)]
        assert all(27 <= pause <= 33.1 for pause in pauses)


def test_looks_at_several_do_not_fall_into_step() -> None:
    looks = play(schedule(["a", "b"], interval=30.0, budget=6000), until=3600)

    a, b = ([at for at, looked in looks if looked == name] for name in "ab")
    assert len({round(later - earlier, 3) for earlier, later in zip(a, b, strict=False)}) > 20


def test_before_its_time_there_is_nothing_to_take() -> None:
    polls = schedule(["a"], first=30.0)

    assert polls.next_at() == START + 30
    assert polls.take(now=START + 29.9) is None
    assert polls.take(now=START + 30) == "a"


def test_while_all_are_being_looked_at_nothing_is_due() -> None:
    polls = schedule(["a"])
    polls.take(now=START)

    assert (polls.next_at(), polls.take(now=START + 999), len(polls)) == (None, None, 0)


def test_a_look_that_comes_late_does_not_let_the_next_ones_catch_up() -> None:
    polls = schedule([f"txn_{number}" for number in range(10)], budget=60)

    assert polls.take(now=START + 500) is not None
    assert polls.take(now=START + 501) is None
    assert polls.take(now=START + 501.1) is not None


@given(
    st.integers(1, 40),
    st.floats(0.01, 300),
    st.floats(0.5, 600),
    st.lists(st.floats(0, 5), min_size=1, max_size=150),
)
def test_no_minute_ever_holds_more_looks_than_the_budget(
    count: int, interval: float, budget: float, delays: list[float]
) -> None:
    polls = schedule([f"txn_{number}" for number in range(count)], interval=interval, budget=budget)
    moments: list[float] = []
    for delay in delays:
        at = polls.next_at()
        assert at is not None
        now = at + delay
        taken = polls.take(now=now)
        assert taken is not None
        moments.append(now)
        polls.again(taken, now=now)

    assert most_in_a_minute(moments) <= math.ceil(budget)


@given(st.lists(st.floats(0, 0.99), min_size=200, max_size=200))
def test_no_minute_of_plaud_s_does_either_where_the_network_takes_its_time(latencies: list[float]) -> None:
    looks = play(schedule([f"txn_{number}" for number in range(200)]), until=200)

    arrivals = sorted(at + latency for (at, _), latency in zip(looks, latencies, strict=False))

    assert most_in_a_minute(arrivals) <= 60


@pytest.mark.parametrize("budget", [1.0, 0.5])
def test_a_small_budget_makes_looks_rare(budget: float) -> None:
    looks = play(schedule(["a"], interval=1.0, budget=budget), until=610)

    assert len(looks) == 610 * budget / 61
