"""The quota of requests, in simulated time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.emulator.limits import busiest_minute
from plaud_provider.quota.document import from_document, to_document
from plaud_provider.quota.rule import Quota, Rate
from tests.unit.quota.world import GET, START, SUBMIT, Trip, World

EXCHANGE = 120.0
MINUTE = 60.0


class Desk:
    """A quota with a clock that is set by hand."""

    def __init__(self, requests_per_minute: float) -> None:
        self.quota = Quota()
        self.rate = Rate(requests_per_minute, exchange_seconds=EXCHANGE)
        self.now = START

    def take(self, ticket: str, operation: object = GET) -> float:
        return self.quota.take(ticket, operation, now=self.now, rate=self.rate)  # type: ignore[arg-type]

    def give_back(self, ticket: str, *, sent: bool = True, refused_for: float | None = None) -> float | None:
        return self.quota.give_back(ticket, now=self.now, rate=self.rate, sent=sent, refused_for=refused_for)

    def send(self, *tickets: str) -> None:
        for ticket in tickets:
            assert self.take(ticket) == 0.0
            self.give_back(ticket)

    def limit_after(self, seconds: float) -> float:
        return self.quota.limit(now=self.now + seconds, rate=self.rate)

    @property
    def limit(self) -> float:
        return self.quota.limit(now=self.now, rate=self.rate)


def test_while_there_is_room_nobody_waits() -> None:
    desk = Desk(3)

    assert [desk.take(ticket) for ticket in "abc"] == [0.0, 0.0, 0.0]
    assert desk.take("d") > 0


def test_a_slot_is_busy_until_a_minute_after_the_answer() -> None:
    desk = Desk(1)
    desk.take("a")
    desk.now += 7
    desk.give_back("a")

    desk.now += 59.9
    assert desk.take("b") == pytest.approx(0.1, abs=1e-5)
    desk.now += 0.1
    assert desk.take("b") == 0.0


def test_a_request_that_never_left_costs_nothing() -> None:
    desk = Desk(1)
    desk.take("a")
    desk.give_back("a", sent=False)

    assert desk.take("b") == 0.0


def test_the_slot_of_a_killed_process_lapses_once_its_request_must_have_ended() -> None:
    desk = Desk(1)
    desk.take("killed")

    desk.now += EXCHANGE + MINUTE - 0.1
    assert desk.take("b") > 0
    desk.now += 0.1
    assert desk.take("b") == 0.0


def test_an_answer_that_comes_after_its_slot_has_lapsed_still_counts() -> None:
    desk = Desk(1)
    desk.take("slow")
    desk.now += EXCHANGE + MINUTE
    desk.give_back("slow")

    assert desk.take("b") > 0


def test_whoever_waits_is_not_told_to_come_back_in_vain_nor_rarely() -> None:
    desk = Desk(2)
    desk.send("a", "b")

    assert desk.take("c") == pytest.approx(desk.rate.poll_seconds)
    desk.now += 57
    assert desk.take("c") == pytest.approx(3.0)


def test_the_first_to_wait_is_the_first_to_go_whoever_asks_in_between() -> None:
    desk = Desk(1)
    desk.send("a")
    desk.now += 58
    desk.take("first")
    desk.now += 1
    desk.take("second")
    desk.now += 1

    assert desk.take("third") > 0
    assert desk.take("second") > 0
    assert desk.take("first") == 0.0


def test_a_result_that_waits_keeps_submits_back() -> None:
    desk = Desk(1)
    desk.send("a")
    desk.now += 58
    desk.take("submit", SUBMIT)
    desk.now += 1
    desk.take("result", GET)
    desk.now += 1

    assert desk.take("submit", SUBMIT) > 0
    assert desk.take("result", GET) == 0.0


def test_a_submit_goes_where_there_is_room_for_all_results_too() -> None:
    desk = Desk(2)
    desk.send("a", "b")
    desk.now += 59
    desk.take("result", GET)
    desk.now += 1

    assert desk.take("submit", SUBMIT) == 0.0
    assert desk.take("result", GET) == 0.0


def test_a_place_keeps_submits_back_for_all_who_wait_there() -> None:
    """Of a triggerer's calls only the first one looks at the quota."""
    desk = Desk(3)
    desk.send("a", "b", "c")
    desk.now += 59

    def take(ticket: str, calls: int) -> float:
        return desk.quota.take(ticket, GET, now=desk.now, rate=desk.rate, place="triggerer", calls=calls)

    take("r1", 3)
    desk.now += 1

    assert take("r1", 3) == 0.0
    assert desk.take("submit", SUBMIT) > 0
    assert take("r2", 2) == 0.0
    assert take("r3", 1) == 0.0


def test_a_place_with_many_takes_turns_with_others() -> None:
    desk = Desk(2)
    desk.send("a", "b")
    desk.now += 59
    rate = desk.rate
    desk.quota.take("r1", GET, now=desk.now, rate=rate, place="triggerer", calls=9)
    desk.take("other")
    desk.now += 1

    assert desk.quota.take("r1", GET, now=desk.now, rate=rate, place="triggerer", calls=9) == 0.0
    assert desk.quota.take("r2", GET, now=desk.now, rate=rate, place="triggerer", calls=8) > 0
    assert desk.take("other") == 0.0


def test_submits_are_not_overtaken_for_ever() -> None:
    """Six requests a minute, and more results than that for as long as they like."""
    world = World(Rate(6.0))
    for index in range(10):
        world.keep_sending(f"result{index}", GET)
    world.run(300)
    world.send("submit", Trip(operation=SUBMIT))
    world.run(600)

    [sent] = [moment for moment, name in world.granted if name == "submit"]
    assert sent - START - 300 <= 200


def test_nine_results_overtake_a_submit_and_then_it_goes() -> None:
    desk = Desk(1)
    desk.send("first")
    results = [f"result{index}" for index in range(20)]
    sent: list[str] = []
    while "submit" not in sent:
        # Two results are always waiting.
        for name in [*results[:2], "submit"]:
            if desk.take(name, SUBMIT if name == "submit" else GET) == 0.0:
                desk.give_back(name)
                sent.append(name)
        results = [name for name in results if name not in sent]
        desk.now += 5

    assert len(sent) == 10


def test_nobody_is_told_to_look_again_within_milliseconds() -> None:
    """However high the figure: looking is a write to a file."""
    desk = Desk(6_000_000)
    wait = 0.0
    for index in range(100):
        wait = wait or desk.take(f"{index}")

    assert wait >= 0.005


@pytest.mark.parametrize(("results", "submits"), [(8, 8), (8, 16), (16, 4)])
def test_where_both_wait_nine_of_ten_requests_are_results(results: int, submits: int) -> None:
    world = World(Rate(6.0))
    for index in range(results):
        world.keep_sending(f"result{index}", GET)
    for index in range(submits):
        world.keep_sending(f"submit{index}", SUBMIT)
    world.run(1200)

    sent = [name.startswith("submit") for _, name in world.granted[20:]]
    assert 0.08 <= sum(sent) / len(sent) <= 0.12


def test_a_process_that_is_killed_while_it_waits_keeps_nobody_back_for_long() -> None:
    desk = Desk(1)
    desk.send("a")
    desk.now += 59
    desk.take("killed", GET)
    desk.now += 1
    assert desk.take("submit", SUBMIT) > 0

    desk.now += 2 * desk.rate.poll_seconds
    assert desk.take("submit", SUBMIT) == 0.0


def test_whoever_leaves_the_queue_keeps_nobody_back() -> None:
    desk = Desk(1)
    desk.send("a")
    desk.now += 59
    desk.take("cancelled")
    desk.give_back("cancelled", sent=False)
    desk.now += 1

    assert desk.take("b") == 0.0


def test_after_a_refusal_everyone_pauses_as_long_as_plaud_asks() -> None:
    desk = Desk(60)
    desk.take("a")
    desk.take("b")
    desk.give_back("a", refused_for=20.0)
    desk.give_back("b", refused_for=10.0)

    desk.now += 19.9
    assert desk.take("c") > 0
    desk.now += 0.1
    assert desk.take("c") == 0.0


@pytest.mark.parametrize(("passed", "limit"), [(50, 50.0), (40, 40.0), (30, 30.0), (10, 30.0), (0, 30.0)])
def test_a_refusal_corrects_the_limit_to_what_went_through_but_not_by_more_than_half(
    passed: int, limit: float
) -> None:
    desk = Desk(60)
    desk.send(*(f"passed{index}" for index in range(passed)))
    desk.now += 1
    desk.take("refused")

    assert desk.give_back("refused", refused_for=1.0) == limit
    assert desk.limit == limit


def test_refusals_of_what_was_sent_before_a_correction_correct_nothing_again() -> None:
    desk = Desk(60)
    for ticket in "abc":
        desk.take(ticket)
    desk.now += 1

    assert [desk.give_back(ticket, refused_for=1.0) for ticket in "abc"] == [30.0, None, None]
    assert desk.limit == 30.0


def test_a_lowered_limit_rises_to_the_figure_within_three_minutes() -> None:
    desk = Desk(60)
    desk.take("a")
    desk.give_back("a", refused_for=1.0)

    limits = [desk.limit_after(seconds) for seconds in (0, 120, 150, 180, 7200)]
    assert limits == [30.0, 30.0, 45.0, 60.0, 60.0]


def test_a_refusal_begins_the_two_minutes_anew() -> None:
    desk = Desk(60)
    desk.take("a")
    desk.take("b")
    desk.give_back("a", refused_for=1.0)
    desk.now += 100
    desk.give_back("b", refused_for=1.0)

    assert desk.limit_after(119) == 30.0


def test_a_limit_that_is_found_again_is_kept_for_longer_up_to_ten_minutes() -> None:
    desk = Desk(60)
    rests = []
    for attempt in range(5):
        desk.send(*(f"{attempt}-{index}" for index in range(30)))
        desk.now += 1
        desk.take(f"refused-{attempt}")
        desk.give_back(f"refused-{attempt}", refused_for=1.0)
        desk.now += 70
        # One passes: what is refused next is news.
        desk.send(f"probe-{attempt}")
        rests.append(desk.quota.rest)
        desk.now += desk.quota.rest * MINUTE - 70 + 5
        assert 30.0 < desk.limit < 40.0

    assert rests == [2.0, 4.0, 8.0, 10.0, 10.0]


@pytest.mark.parametrize("refusals", [2, 3, 10, 100])
def test_what_is_refused_after_a_pause_lengthens_the_pause_and_lowers_nothing(refusals: int) -> None:
    desk = Desk(60)
    for index in range(refusals):
        while desk.take(f"refused{index}") > 0:
            desk.now += 0.5
        desk.give_back(f"refused{index}", refused_for=1.0)

    assert desk.quota.lowered_limit == 30.0
    assert desk.quota.paused_until - desk.now == min(30.0, 2.0 ** (refusals - 1))


def test_after_a_pause_one_request_goes_alone_until_one_passes() -> None:
    desk = Desk(60)
    desk.take("a")
    desk.give_back("a", refused_for=1.0)
    desk.now += 2

    assert desk.take("probe") == 0.0
    assert desk.take("b") > 0
    desk.give_back("probe")
    assert desk.take("b") == desk.take("c") == 0.0


def test_a_killed_probe_holds_the_others_up_for_seconds() -> None:
    desk = Desk(60)
    desk.take("a")
    desk.give_back("a", refused_for=1.0)
    desk.now += 2
    assert desk.take("killed") == 0.0

    desk.now += desk.take("b")
    assert desk.take("b") == 0.0
    assert desk.now - START <= 2 + 5


def test_another_figure_in_the_connection_starts_anew() -> None:
    desk = Desk(60)
    desk.take("a")
    desk.give_back("a", refused_for=1.0)
    assert desk.limit == 30.0

    desk.rate = Rate(50.0)
    assert desk.limit == 50.0


@pytest.mark.parametrize("minutes", [3, 15, 60])
@pytest.mark.parametrize("retry_after", [None, 1.0, 60.0])
@pytest.mark.parametrize("processes", [1, 12])
def test_three_minutes_after_plaud_has_refused_everything_it_is_back_at_full_speed(
    minutes: int, retry_after: float | None, processes: int
) -> None:
    world = World(Rate(60.0), plaud_allows=60)
    for index in range(processes):
        world.keep_sending(f"process{index}")
    world.run(150)
    world.refuse(minutes * MINUTE, retry_after=retry_after)
    in_vain = len(world.refused)
    world.run(3 * MINUTE)
    recovered_at = world.now
    world.run(5 * MINUTE)

    assert world.quota.limit(now=recovered_at, rate=world.rate) == 60.0
    assert sum(moment >= recovered_at for moment in world.received) >= 0.97 * 5 * 60
    assert in_vain <= processes + 4 * minutes + 6


@pytest.mark.parametrize("minutes", [3, 15, 60])
def test_neither_does_it_take_longer_where_plaud_refused_every_second_one(minutes: int) -> None:
    """Not a limit: what passes gets less with each lowering."""
    world = World(Rate(60.0), plaud_allows=60)
    for index in range(8):
        world.keep_sending(f"process{index}")
    world.run(150)
    world.refuse(minutes * MINUTE, share=0.5)
    world.run(3 * MINUTE + 5)

    assert world.quota.limit(now=world.now, rate=world.rate) == 60.0


def test_a_limit_is_lowered_to_one_a_minute_at_the_least() -> None:
    world = World(Rate(60.0))
    world.keep_sending("process")
    world.refuse(3600, share=0.5)

    assert world.quota.lowered_limit is not None
    assert world.quota.lowered_limit >= 1.0


def test_a_figure_that_is_right_is_never_refused_and_used_up() -> None:
    world = World(Rate(60.0), plaud_allows=60)
    for index in range(8):
        world.keep_sending(f"process{index}")
    world.run(900)

    assert world.refused == []
    assert len(world.received) > 0.99 * 60 * 15


@pytest.mark.parametrize("processes", [1, 3, 10])
def test_a_figure_that_is_wrong_costs_few_refusals(processes: int) -> None:
    """It is tried again after 2, 4, 8 and then each 10 minutes, and each try ends with the first refusal."""
    world = World(Rate(60.0), plaud_allows=30)
    for index in range(processes):
        world.keep_sending(f"process{index}")
    world.run(60)
    beginning = len(world.refused)
    world.run(3600)

    tries = {round(moment / MINUTE) for moment in world.refused[beginning:]}
    assert beginning <= 30 + processes
    assert 5 <= len(tries) <= 8
    assert len(world.refused) - beginning <= 2 * len(tries)
    assert len(world.received) > 0.95 * 30 * 60


def test_a_limit_that_plaud_raises_again_is_found_within_a_quarter_of_an_hour() -> None:
    world = World(Rate(60.0), plaud_allows=30)
    for index in range(3):
        world.keep_sending(f"process{index}")
    world.run(3600)
    world._limit.limit = 60
    world.run(900)

    assert world.quota.limit(now=world.now, rate=world.rate) == 60.0


@pytest.mark.parametrize(
    ("requests_per_minute", "seconds", "at_most"),
    [(1200, 3.0, 60), (600, 6.0, 60), (60, 60.0, 60), (100, 30.0, 50), (7, 60.0, 7), (0.5, 120.0, 1)],
)
def test_a_high_figure_is_kept_in_parts_of_a_minute(
    requests_per_minute: float, seconds: float, at_most: int
) -> None:
    """Nobody is hit by a thousand requests at once, and an emulator's fast minute is kept as well."""
    world = World(Rate(requests_per_minute))
    for index in range(70):
        world.keep_sending(f"process{index}", network=0.02)
    world.run(2.5 * seconds)

    stretched = [moment * MINUTE / seconds for moment in world.received]
    assert busiest_minute(stretched) <= at_most


@pytest.mark.parametrize("requests_per_minute", [61, 100, 119, 301])
def test_a_figure_that_cannot_be_divided_is_kept_too(requests_per_minute: int) -> None:
    world = World(Rate(float(requests_per_minute)))
    for index in range(70):
        world.keep_sending(f"process{index}", network=0.02)
    world.run(75)

    assert 0.9 * requests_per_minute < busiest_minute(world.received) <= requests_per_minute


@pytest.mark.parametrize(
    ("requests_per_minute", "network", "processes"),
    [(60, 1.0, 20), (61, 1.0, 20), (121, 1.0, 20), (1200, 1.0, 50), (6000, 1.0, 110)],
)
def test_at_least_95_per_cent_of_a_figure_can_be_used(
    requests_per_minute: int, network: float, processes: int
) -> None:
    """With answers of a second, and never more than the figure in any minute of Plaud's."""
    world = World(Rate(float(requests_per_minute)), plaud_allows=requests_per_minute)
    for index in range(processes):
        world.keep_sending(f"process{index}", network=network)
    seconds = 150.0 if requests_per_minute < 1000 else 65.0
    world.run(seconds)

    assert world.refused == []
    assert busiest_minute(world.received) <= requests_per_minute
    # Of the last minute; what was sent in its last second is still on its way.
    end = START + seconds - network
    assert sum(end - MINUTE < moment <= end for moment in world.received) >= 0.95 * requests_per_minute


def test_the_document_stays_small_whatever_the_figure() -> None:
    world = World(Rate(100_000.0))
    for index in range(70):
        world.keep_sending(f"process{index}", network=0.02)
    world.run(1)

    assert len(world.received) > 800
    assert world.longest_document < 10_000


trips = st.lists(
    st.builds(
        Trip,
        starts_at=st.floats(0, 300),
        operation=st.sampled_from([GET, SUBMIT]),
        there=st.none() | st.floats(0, EXCHANGE),
        back=st.none() | st.floats(0, EXCHANGE),
    ),
    max_size=60,
)


@given(trips=trips, limit=st.integers(1, 8) | st.sampled_from([61, 119, 1000]))
def test_no_minute_of_plaud_s_ever_holds_more_than_the_limit(trips: list[Trip], limit: int) -> None:
    """However long requests and answers travel, and whoever is killed."""
    world = World(Rate(float(limit), exchange_seconds=EXCHANGE))
    for index, trip in enumerate(trips):
        world.send(str(index), trip)
    world.run()

    assert busiest_minute(sorted(world.received)) <= limit
    # And nobody waits for ever.
    assert len(world.granted) == len(trips)


@given(trips=trips, limit=st.sampled_from([61, 90, 119, 121, 1000]))
def test_a_correction_never_lets_more_through(trips: list[Trip], limit: int) -> None:
    """Bursts at a figure that is kept in parts, of which Plaud refuses some."""
    world = World(Rate(float(limit), exchange_seconds=EXCHANGE), plaud_allows=limit // 3)
    for index, trip in enumerate(trips):
        for copy in range(5):
            world.send(f"{index}-{copy}", trip)
    world.run()

    assert busiest_minute(sorted(world.received + world.refused)) <= limit


def returned(desk: Desk) -> None:
    desk.send("a")


def out(desk: Desk) -> None:
    desk.take("a")


def refused(desk: Desk) -> None:
    desk.take("a")
    desk.give_back("a", sent=False, refused_for=100.0)


def waiting(desk: Desk) -> None:
    desk.send("a")
    desk.take("b")


@pytest.mark.parametrize(
    ("state", "longest"),
    [
        (returned, MINUTE),
        (out, EXCHANGE + MINUTE),
        (refused, 600.0),
        (waiting, MINUTE + 10),
    ],
)
@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_clock_that_is_put_back_or_forward_keeps_nobody_waiting(
    state: Callable[[Desk], None], longest: float, jump: float
) -> None:
    desk = Desk(1)
    state(desk)
    desk.now += jump

    put_at = desk.now
    while (wait := desk.take("late")) > 0:
        desk.now += wait
        assert desk.now - put_at <= longest + 1


def test_what_is_written_is_read() -> None:
    desk = Desk(2)
    desk.take("a")
    desk.send("b")
    desk.take("c", SUBMIT)
    desk.give_back("a", refused_for=5.0)
    desk.quota.clock.tell(host="host", monotonic=7.0, outer=START)

    assert from_document(to_document(desk.quota)) == desk.quota
    assert from_document(to_document(desk.quota).encode()) == desk.quota


GOOD = json.loads(to_document(Quota()))


@pytest.mark.parametrize(
    "document",
    [
        "",
        b"",
        "{",
        b"\xff\x00",
        "[]",
        "null",
        "7",
        "[" * 100_000,
        json.dumps({**GOOD, "version": 99}),
        json.dumps({key: value for key, value in GOOD.items() if key != "out"}),
        json.dumps({**GOOD, "another": 1}),
        json.dumps({**GOOD, "out": []}),
        json.dumps({**GOOD, "out": {"a": [1]}}),
        json.dumps({**GOOD, "out": {"a": [1, "x"]}}),
        json.dumps({**GOOD, "returned": [[None, 1, 1]]}),
        json.dumps({**GOOD, "waiting": {"a": 5}}),
        json.dumps({**GOOD, "overtaken": None}),
        json.dumps({**GOOD, "paused_until": math.inf}),
        json.dumps({**GOOD, "paused_until": math.nan}),
        json.dumps({**GOOD, "lowered_limit": 0}),
        json.dumps({**GOOD, "lowered_limit": True}),
        json.dumps({**GOOD, "breaker": [0, 0, None, 0.0]}),
        json.dumps({**GOOD, "breaker": [0, 0]}),
        json.dumps({**GOOD, "clock": [0.0]}),
        json.dumps({**GOOD, "clock": [0.0, {"host": [1.0]}]}),
    ],
    ids=lambda document: str(document)[:20],
)
def test_a_document_that_cannot_be_read_may_stand_for_anything_that_was_sent(document: str | bytes) -> None:
    desk = Desk(60)
    desk.quota = from_document(document)

    assert desk.take("a") > 0
    desk.now += 59.9
    assert desk.take("a") > 0
    desk.now += 0.1
    assert [desk.take(ticket) for ticket in "abc"] == [0.0, 0.0, 0.0]


#: As version 1.0 wrote it, with slots of less than a minute.
EARLIER = (
    '{"version":1,"out":{"t":[1800000000.0,1800000123.0]},"returned":[[1800000003.0,true]],"waiting":{},'
    '"overtaken":0,"paused_until":0.0,"corrected_limit":null,"corrected_at":0.0,"refused_at":0.0}'
)


def test_the_document_of_an_earlier_version_starts_as_if_full() -> None:
    assert from_document(EARLIER) == Quota.unknown()


def test_a_quota_that_is_closed_grants_nothing_for_a_minute() -> None:
    desk = Desk(60)
    desk.quota.close()

    assert desk.take("a") > 0
    desk.now += 59.9
    assert desk.take("a") > 0
    desk.now += 0.1
    assert desk.take("a") == 0.0


@pytest.mark.parametrize(("figure", "limit"), [(60.0, 1.0), (0.5, 0.5)])
def test_a_store_that_stands_in_allows_the_least_there_is(figure: float, limit: float) -> None:
    desk = Desk(figure)
    desk.quota.stands_in = True

    assert desk.limit == limit


def test_a_store_that_stands_in_starts_as_if_full_unless_it_was_in_use() -> None:
    desk = Desk(60)
    desk.quota.stands_in = True

    for _ in range(12):
        assert desk.take("a") > 0
        desk.now += 5
    assert desk.take("a") == 0.0
    desk.give_back("a", sent=False)
    desk.now += 59
    assert desk.take("b") == 0.0
    desk.give_back("b", sent=False)
    desk.now += 61
    assert desk.take("c") > 0


def test_what_moves_to_another_store_is_busy_there_and_no_longer_here() -> None:
    here, there = Desk(3), Desk(3)
    here.send("a")
    here.take("b")
    there.send("c")

    there.quota.add(here.quota.move_out(), clock_ahead=0.0)

    assert there.take("d") > 0
    there.give_back("b", sent=False)
    assert there.take("d") == 0.0
    assert here.take("e") > 0
    here.now += 60
    assert [here.take(ticket) for ticket in "efg"] == [0.0, 0.0, 0.0]
