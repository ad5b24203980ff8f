"""The circuit breaker of submits: pure, and shared through the quota's store."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest

from plaud_provider.api.effects import Operation, ReturnSlot
from plaud_provider.exceptions import PlaudSubmitsPausedError
from plaud_provider.private_folder import PrivateFolder
from plaud_provider.quota.breaker import FAILURES_TO_OPEN, Admission, Breaker
from plaud_provider.quota.document import from_document, to_document
from plaud_provider.quota.rule import Quota, Rate
from plaud_provider.quota.stores import FileStore
from plaud_provider.quota.turns import ClientQuota
from tests.unit.quota.world import START


class Desk:
    """A breaker with a clock that is set by hand."""

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.now = START

    def admit(self, call: str) -> float:
        """Return for how long it has to wait."""
        return self.breaker.admit(call, now=self.now).wait

    def report(self, *, is_answered: bool = False) -> bool:
        return self.breaker.report(is_answered=is_answered, now=self.now)

    def fail(self, *calls: str) -> None:
        for call in calls:
            assert self.admit(call) == 0.0
            self.report()


def test_after_three_failures_in_a_row_nobody_submits() -> None:
    desk = Desk()

    assert [desk.report() for _ in "abc"] == [False, False, True]
    assert desk.admit("d") == 15.0


def test_failures_that_successes_make_up_for_open_nothing() -> None:
    desk = Desk()
    for _ in range(50):
        desk.fail("a", "b")
        for _ in range(8):
            desk.report(is_answered=True)

    assert desk.admit("d") == 0.0


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_where_a_share_of_the_submits_fails_few_are_of_unknown_outcome(share: float) -> None:
    """As behind a load balancer of which one server is down, for an hour, at a submit a second."""
    desk = Desk()
    rng = random.Random(7)
    failed = 0
    for second in range(3600):
        desk.now = START + second
        if desk.admit(f"{second}") == 0.0:
            is_answered = rng.random() >= share
            failed += not is_answered
            desk.report(is_answered=is_answered)

    assert failed <= 65
    assert desk.admit("next") <= 120.0


def test_then_one_tries_and_its_success_lets_all_go_on() -> None:
    desk = Desk()
    desk.fail("a", "b", "c")
    desk.now += 30

    assert desk.admit("trial") == 0.0
    assert desk.admit("other") == 30.0
    assert not desk.report(is_answered=True)
    assert [desk.admit(call) for call in "xyz"] == [0.0, 0.0, 0.0]


def test_one_that_tries_looks_first_and_then_submits() -> None:
    desk = Desk()
    desk.fail("a", "b", "c")
    desk.now += 30

    assert desk.breaker.admit("trial", now=desk.now) == Admission(looks_first=True)
    assert desk.breaker.admit("trial", now=desk.now) == Admission()


def test_once_an_hour_one_submits_though_no_look_was_answered() -> None:
    """A server may answer looks at what it does not know with 500, and submits all the same."""
    desk = Desk()
    desk.fail("a", "b", "c")
    blind_at = []
    while desk.now < START + 6000:
        admission = desk.breaker.admit(f"{desk.now}", now=desk.now)
        if not admission.wait and not admission.looks_first:
            blind_at.append(desk.now - START)
        desk.now += 10

    assert len(blind_at) == 1
    assert 3000 < blind_at[0] < 4000


def test_one_that_tries_may_do_so_again() -> None:
    """Its request never left, or was refused with 429: the same call sends it again."""
    desk = Desk()
    desk.fail("a", "b", "c")
    desk.now += 30

    assert desk.admit("trial") == 0.0
    desk.now += 5
    assert desk.admit("trial") == 0.0
    assert desk.admit("other") > 0.0


def test_the_time_between_trials_doubles_up_to_two_minutes() -> None:
    desk = Desk()
    desk.fail("a", "b", "c")
    waits = []
    for trial in range(6):
        waits.append(desk.admit(f"other{trial}"))
        desk.now += waits[-1]
        desk.fail(f"trial{trial}")

    assert waits == [15.0, 30.0, 60.0, 120.0, 120.0, 120.0]


def test_what_left_before_it_opened_tells_nothing_new() -> None:
    """Twelve were on their way, and none of them is answered: the first trial is no later for that."""
    desk = Desk()
    for call in range(12):
        assert desk.admit(str(call)) == 0.0
    for _ in range(12):
        desk.now += 1.0
        desk.report()

    assert desk.admit("next") == 15.0 - 9.0


def test_a_trial_that_was_killed_is_followed_by_another_one() -> None:
    desk = Desk()
    desk.fail("a", "b", "c")
    desk.now += 30
    assert desk.admit("killed") == 0.0

    desk.now += 60
    assert desk.admit("next") == 0.0


@pytest.mark.parametrize("hangs_for", [1.0, 150.0])
def test_an_hour_of_trouble_costs_few_submits_and_is_over_two_minutes_after_its_end(hangs_for: float) -> None:
    """However long each of them hangs before it is given up."""
    desk = Desk()
    sent, given_up_at = 0, []
    while desk.now < START + 3600:
        while given_up_at and given_up_at[0] <= desk.now:
            given_up_at.pop(0)
            desk.report()
        if desk.admit(f"{sent}") == 0.0:
            sent += 1
            given_up_at.append(desk.now + hangs_for)
        desk.now += 1.0 if sent > FAILURES_TO_OPEN else hangs_for

    assert sent <= 3 + 32
    assert desk.admit("next") <= 120.0


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_clock_that_is_put_back_or_forward_keeps_nobody_waiting(jump: float) -> None:
    desk = Desk()
    desk.fail("a", "b", "c")
    desk.now += jump

    assert desk.admit("d") <= 120.0


def test_it_is_shared_by_all_who_share_the_quota(private_folder: Path) -> None:
    def client() -> ClientQuota:
        store = FileStore(PrivateFolder(private_folder), "client")
        return ClientQuota(store, Rate(60.0), client_id="client", log=logging.getLogger("test"))

    for ticket in "abc":
        assert client().take(ticket, Operation.SUBMIT) == 0.0
        client().give_back(ticket, ReturnSlot(is_answered=False))
    with pytest.raises(PlaudSubmitsPausedError, match=r"may try in (14|15) s"):
        client().take("d", Operation.SUBMIT)
    assert client().take("a look", Operation.GET) == 0.0, "results are asked for meanwhile"

    client().give_back("c", ReturnSlot(is_answered=True))
    assert client().take("d", Operation.SUBMIT) == 0.0


def test_it_is_written_and_read_with_the_quota() -> None:
    quota = Quota(breaker=Breaker(3, 1, "trial", START))

    assert from_document(to_document(quota)) == quota
