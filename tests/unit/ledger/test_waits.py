"""Who waits for what is at Plaud, and what nobody waits for any more."""

from __future__ import annotations

from datetime import timedelta

import pytest

from plaud_provider.ledger.ledger import Ledger, State
from tests.unit.ledger.ledgers import NOW, OWNER, STRANGER, Clock, bring, ledger_in, recording, state
from tests.unit.warehouse.warehouses import Warehouse

TARGET = "warehouse_default:plaud_transcripts"


def overdue(ledger: Ledger, *, target: str = TARGET, most: int = 100, client_id: str = "client") -> list[str]:
    found = ledger.overdue(region="us", client_id=client_id, target=target, most=most)
    return [entry.recording_key for entry in found]


def submitted(ledger: Ledger, key: str, *, target: str | None = TARGET, minutes: float = 0) -> None:
    wanted = recording(key, target=target)
    ledger.claim([wanted], OWNER)
    assert ledger.submitting(key, OWNER)
    ledger.processing(wanted, OWNER, f"txn_{key}", submitted_at=NOW + timedelta(minutes=minutes))


def test_what_its_own_run_waits_for_is_not_overdue_before_that_wait_has_ended(
    ledger: Ledger, clock: Clock
) -> None:
    submitted(ledger, "a")
    clock.advance(hours=20)
    ledger.waiting(["txn_a"], clock.now + timedelta(hours=24), region="us")

    clock.advance(hours=23)
    assert overdue(ledger) == []
    clock.advance(hours=2)
    assert overdue(ledger) == ["a"]
    ledger.waiting(["txn_a"], clock.now + timedelta(hours=24), region="us")
    assert overdue(ledger) == [], "it is taken up"


def test_what_was_submitted_by_a_run_that_never_waited_becomes_overdue(ledger: Ledger, clock: Clock) -> None:
    submitted(ledger, "a")

    clock.advance(hours=24)
    assert overdue(ledger) == [], "its wait may begin late, and last a day"
    clock.advance(hours=2)
    assert overdue(ledger) == ["a"]


def test_a_shorter_wait_of_another_run_ends_none(ledger: Ledger, clock: Clock) -> None:
    submitted(ledger, "a")
    ledger.waiting(["txn_a"], clock.now + timedelta(hours=48), region="us")
    ledger.waiting(["txn_a"], clock.now + timedelta(hours=1), region="us")

    clock.advance(hours=47)

    assert overdue(ledger) == []


@pytest.mark.parametrize("other", [State.LANDED, State.FAILED, State.EXPIRED, State.UNKNOWN, State.CLAIMED])
def test_only_what_is_at_plaud_is_overdue(ledger: Ledger, clock: Clock, other: State) -> None:
    bring(ledger, other, key="a", owner=STRANGER)
    clock.advance(days=3)

    assert overdue(ledger) == []


def test_it_is_that_of_this_client_and_for_this_target(ledger: Ledger, clock: Clock) -> None:
    submitted(ledger, "here")
    submitted(ledger, "elsewhere", target="lake:calls")
    submitted(ledger, "anywhere", target=None)
    clock.advance(days=2)

    assert overdue(ledger) == ["anywhere", "here"]
    assert overdue(ledger, target="lake:calls") == ["anywhere", "elsewhere"]
    assert overdue(ledger, client_id="other") == []


def test_the_oldest_come_first_and_not_too_many(ledger: Ledger, clock: Clock) -> None:
    for n, key in enumerate(("c", "a", "b")):
        submitted(ledger, key, minutes=n)
    clock.advance(days=2)

    assert overdue(ledger, most=2) == ["c", "a"]


def test_what_has_landed_elsewhere_may_be_gone(ledger: Ledger) -> None:
    submitted(ledger, "a")
    ledger.landed(["txn_a"], region="us", target="lake:calls")
    assert ledger.landed(["txn_a"], region="us", target="lake:calls") == 0

    assert ledger.landed(["txn_a"], region="us", target=TARGET) == 1
    assert ledger.entries(["a"])["a"].target == TARGET
    ledger.expired({"txn_a": "gone"}, region="us")
    assert state(ledger, "a") is State.EXPIRED


def test_what_has_not_landed_after_five_days_is_late(warehouse: Warehouse) -> None:
    clock = Clock()
    ledger = ledger_in(warehouse, clock)
    bring(ledger, State.PROCESSING, key="key_1")
    bring(ledger, State.LANDED, key="key_2")
    bring(ledger, State.CLAIMED, key="key_3")

    clock.advance(days=5, seconds=-1)
    assert ledger.late(region="us", client_id="client") == 0
    clock.advance(seconds=2)
    assert ledger.late(region="us", client_id="client") == 1
    assert ledger.late(region="us", client_id="another") == ledger.late(region="jp", client_id="client") == 0
