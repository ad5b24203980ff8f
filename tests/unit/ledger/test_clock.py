"""Leases go by the clock of the database: hosts that disagree about the time do not pay twice."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta

import pytest

from plaud_provider.ledger.ledger import Ledger, State, open_ledger
from tests.unit.ledger.ledgers import OWNER, STRANGER, recording
from tests.unit.warehouse.warehouses import PostgresWarehouse


@pytest.fixture
def ledger(postgres_warehouse: PostgresWarehouse) -> Ledger:
    return open_ledger(postgres_warehouse.conn_id)


def go_off(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Let this host's clock, as the package reads it, be off."""

    class Off(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz=tz) + by  # type: ignore[arg-type]

    for name, module in list(sys.modules.items()):
        if name.startswith("plaud_provider.") and getattr(module, "datetime", None) is datetime:
            monkeypatch.setattr(module, "datetime", Off)


@pytest.mark.parametrize("off", [timedelta(minutes=4), timedelta(hours=9)])
def test_host_whose_clock_is_ahead_takes_nothing_that_is_held(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, off: timedelta
) -> None:
    ledger.claim([recording("claimed"), recording("sent")], OWNER)
    ledger.submitting("sent", OWNER)

    go_off(monkeypatch, off)
    entries = ledger.claim([recording("claimed"), recording("sent")], STRANGER, resubmit=[State.UNKNOWN])

    assert {key: entry.state for key, entry in entries.items()} == {
        "claimed": State.CLAIMED,
        "sent": State.SUBMITTING,
    }
    assert {entry.owner for entry in entries.values()} == {OWNER}


def test_host_whose_clock_is_behind_holds_what_it_has_claimed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as slow:
        go_off(slow, timedelta(minutes=-4))
        ledger.claim([recording()], OWNER)

    assert not ledger.claim([recording()], STRANGER)["key_1"].is_claimed_by(STRANGER)
    assert ledger.submitting("key_1", OWNER)
