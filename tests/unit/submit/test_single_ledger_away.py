"""One recording's row while the ledger, or whoever has it, is in the way."""

from __future__ import annotations

from typing import Any

import pytest

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import PlaudConfigurationError, PlaudWarehouseError
from plaud_provider.ledger.ledger import Ledger, Owner, State
from plaud_provider.submit import memory
from tests.unit.operators.archives import Archive
from tests.unit.operators.test_transcription_ledger import entry, submit
from tests.unit.operators.test_transcription_ledger import warehouse as warehouse
from tests.unit.tasks import TaskStateStore
from tests.unit.warehouse.warehouses import Warehouse


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer the ledger what has happened again at once."""
    monkeypatch.setattr(memory, "wait_exponential", lambda **_: 0)


def test_a_ledger_that_is_missing_is_told_before_anything_is_sent(
    plaud: EmulatorServer, archive: Archive
) -> None:
    with pytest.raises(PlaudConfigurationError, match=r"ledger_conn_id: .*'no_such'"):
        submit(TaskStateStore(), ledger_conn_id="no_such")
    assert plaud.ledger() == []


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("after", [False, True], ids=["not noted", "noted"])
def test_a_ledger_that_is_away_before_the_submit_leaves_nothing_unknown(
    plaud: EmulatorServer, archive: Archive, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    store = TaskStateStore()
    real = Ledger.submitting

    def submitting(ledger: Ledger, key: str, owner: Owner) -> bool:
        if after:
            real(ledger, key, owner)
        raise PlaudWarehouseError("the ledger is away")

    with monkeypatch.context() as away:
        away.setattr(Ledger, "submitting", submitting)
        with pytest.raises(PlaudWarehouseError):
            submit(store)
    assert entry(archive.warehouse).state is State.CLAIMED

    assert submit(store, try_number=2)
    assert len(plaud.ledger(kind="submit")) == 1


@pytest.mark.usefixtures("no_pauses")
def test_a_ledger_that_is_away_after_the_submit_is_told_when_it_is_back(
    plaud: EmulatorServer, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Ledger.processing
    tried: list[str] = []

    def processing(ledger: Ledger, key: str, *arguments: Any, **named: Any) -> bool:
        tried.append(key)
        if len(tried) < 4:
            raise PlaudWarehouseError("the ledger is away")
        return real(ledger, key, *arguments, **named)

    monkeypatch.setattr(Ledger, "processing", processing)

    transcription_id = submit(TaskStateStore())
    assert entry(warehouse).transcription_id == transcription_id


@pytest.mark.usefixtures("no_pauses")
def test_a_ledger_that_stays_away_after_the_submit_does_not_lose_the_id(
    plaud: EmulatorServer, archive: Archive, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "LEDGER_SECONDS", 0)

    def away(*_: Any, **__: Any) -> bool:
        raise PlaudWarehouseError("the ledger is away")

    monkeypatch.setattr(Ledger, "processing", away)

    assert submit(TaskStateStore()).startswith("txn_")
    assert "could not be noted by the LedgerMemory" in caplog.text
