"""The circuit breaker of submits: pure, and shared through the quota's store."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from plaud_provider.api.effects import Operation, ReturnSlot
from plaud_provider.exceptions import PlaudSubmitsPausedError
from plaud_provider.private_folder import PrivateFolder
from plaud_provider.quota.breaker import Breaker
from plaud_provider.quota.document import from_document, to_document
from plaud_provider.quota.rule import Quota, Rate
from plaud_provider.quota.stores import FileStore
from plaud_provider.quota.turns import ClientQuota
from tests.unit.quota.world import START

EXCHANGE = 20.0


class Desk:
    """A breaker with a clock that is set by hand."""

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.now = START

    def admit(self, ticket: str) -> float:
        return self.breaker.admit(ticket, now=self.now, exchange_seconds=EXCHANGE)

    def report(self, ticket: str, *, is_answered: bool = False) -> bool:
        return self.breaker.report(ticket, is_answered=is_answered, now=self.now)

    def fail(self, *tickets: str) -> None:
        for ticket in tickets:
            assert self.admit(ticket) == 0.0
            self.report(ticket)


def test_after_three_failures_in_a_row_nobody_submits() -> None:
    desk = Desk()

    assert [desk.report(ticket) for ticket in "abc"] == [False, False, True]
    assert desk.admit("d") == 30.0


def test_failures_that_are_not_in_a_row_open_nothing() -> None:
    desk = Desk()
    for _ in range(5):
        desk.fail("a", "b")
        desk.report("c", is_answered=True)

    assert desk.admit("d") == 0.0


def test_then_one_tries_and_its_success_lets_all_go_on() -> None:
    desk = Desk()
    desk.fail("a", "b", "c")
    desk.now += 30

    assert desk.admit("trial") == 0.0
    assert desk.admit("other") == 30.0
    assert not desk.report("trial", is_answered=True)
    assert [desk.admit(ticket) for ticket in "xyz"] == [0.0, 0.0, 0.0]


def test_the_time_between_trials_doubles_up_to_five_minutes() -> None:
    desk = Desk()
    desk.fail("a", "b", "c")
    waits = []
    for trial in range(6):
        waits.append(desk.admit(f"other{trial}"))
        desk.now += waits[-1]
        desk.fail(f"trial{trial}")

    assert waits == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]


def test_what_left_before_it_opened_tells_nothing_new() -> None:
    """Twenty were on their way, and none of them is answered."""
    desk = Desk()
    for ticket in range(20):
        assert desk.admit(str(ticket)) == 0.0
    for ticket in range(20):
        desk.report(str(ticket))

    assert desk.admit("next") == 30.0


def test_a_trial_that_was_killed_is_followed_by_another_one() -> None:
    desk = Desk()
    desk.fail("a", "b", "c")
    desk.now += 30
    assert desk.admit("killed") == 0.0

    desk.now += 30
    assert desk.admit("next") == 0.0


def test_an_hour_of_trouble_costs_few_submits() -> None:
    desk = Desk()
    sent = 0
    while desk.now < START + 3600:
        if (wait := desk.admit(f"{sent}")) > 0:
            desk.now += wait
            continue
        sent += 1
        desk.now += 1
        desk.report(f"{sent - 1}")

    assert sent <= 18


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_clock_that_is_put_back_or_forward_keeps_nobody_waiting(jump: float) -> None:
    desk = Desk()
    desk.fail("a", "b", "c")
    desk.now += jump

    assert desk.admit("d") <= 300.0


def test_it_is_shared_by_all_who_share_the_quota(private_folder: Path) -> None:
    def client() -> ClientQuota:
        store = FileStore(PrivateFolder(private_folder), "client")
        return ClientQuota(store, Rate(60.0), client_id="client", log=logging.getLogger("test"))

    for ticket in "abc":
        assert client().take(ticket, Operation.SUBMIT) == 0.0
        client().give_back(ticket, ReturnSlot(is_answered=False))
    with pytest.raises(PlaudSubmitsPausedError, match=r"may try in (29|30) s"):
        client().take("d", Operation.SUBMIT)
    assert client().take("a look", Operation.GET) == 0.0, "results are asked for meanwhile"

    client().give_back("c", ReturnSlot(is_answered=True))
    assert client().take("d", Operation.SUBMIT) == 0.0


def test_it_is_written_and_read_with_the_quota() -> None:
    quota = Quota(breaker=Breaker(3, 1, "trial", START))

    assert from_document(to_document(quota)) == quota
