"""A database that restarts, loses answers or stays away while the ledger is written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from plaud_provider.database.database import open_database
from plaud_provider.exceptions import PlaudWarehouseError
from plaud_provider.ledger.ledger import Ledger, State
from tests.unit.ledger.ledgers import (
    NOW,
    OWNER,
    STRANGER,
    Clock,
    bring,
    entry,
    ledger_in,
    recording,
    state,
)
from tests.unit.postgres_server import LossyProxy, PostgresServer
from tests.unit.warehouse import processes
from tests.unit.warehouse.warehouses import PostgresWarehouse, Warehouse, connected_postgres


def ledger_that_waits(
    conn_id: str,
    sleep: Callable[[float], None],
    *,
    clock: Clock | None = None,
    keeps_connection: bool = False,
) -> Ledger:
    database = open_database(
        conn_id, role="ledger", parameter="ledger_conn_id", keeps_connection=keeps_connection
    )
    database._sleep = sleep
    tell = clock or Clock()
    return Ledger(database, now=tell)


@pytest.fixture
def ledger(postgres_warehouse: PostgresWarehouse) -> Ledger:
    return ledger_in(postgres_warehouse)


def test_fault_74_restart_is_waited_out(
    postgres_warehouse: PostgresWarehouse, ledger: Ledger, postgres_server: PostgresServer
) -> None:
    bring(ledger, State.SUBMITTING)
    waits: list[float] = []

    def start_on_second_wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            postgres_server.start()

    patient = ledger_that_waits(postgres_warehouse.conn_id, start_on_second_wait)
    postgres_server.stop()

    assert patient.processing(recording(), OWNER, "txn_1", submitted_at=NOW)
    assert len(waits) == 2
    assert entry(ledger).transcription_id == "txn_1"


def test_database_that_stays_away_is_told_after_a_bounded_time(
    postgres_warehouse: PostgresWarehouse, ledger: Ledger, postgres_server: PostgresServer
) -> None:
    bring(ledger, State.SUBMITTING)
    waits: list[float] = []
    patient = ledger_that_waits(postgres_warehouse.conn_id, waits.append)
    postgres_server.stop()
    try:
        with pytest.raises(
            PlaudWarehouseError, match=r"ledger_conn_id.* could not be read or written: the connection broke"
        ) as told:
            patient.processing(recording(), OWNER, "txn_1", submitted_at=NOW)
    finally:
        postgres_server.start()

    assert 50 < sum(waits) <= 60
    assert told.value.__context__ is None
    assert state(ledger) is State.SUBMITTING


def test_wrong_address_is_told_at_once_when_the_ledger_is_opened(
    postgres_database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    connected_postgres(postgres_database | {"schema": "no_such_database"}, monkeypatch, conn_id="books")
    waits: list[float] = []

    with pytest.raises(PlaudWarehouseError, match=r"^Ledger 'books' \(ledger_conn_id\) could not be opened"):
        ledger_that_waits("books", waits.append).ensure_table()
    assert waits == []


STEPS: dict[str, tuple[State, Callable[[Ledger], object]]] = {
    "claim": (State.CLAIMED, lambda ledger: ledger.claim([recording()], OWNER)["key_1"].is_claimed_by(OWNER)),
    "submitting": (State.CLAIMED, lambda ledger: ledger.submitting("key_1", OWNER)),
    "not_accepted": (State.SUBMITTING, lambda ledger: ledger.not_accepted("key_1", OWNER)),
    "processing": (
        State.SUBMITTING,
        lambda ledger: ledger.processing(recording(), OWNER, "txn_1", submitted_at=NOW),
    ),
    "unknown": (State.SUBMITTING, lambda ledger: ledger.unknown("key_1", OWNER, "lost")),
    "refused": (State.SUBMITTING, lambda ledger: ledger.refused("key_1", OWNER, "too long")),
}


@pytest.mark.parametrize("keeps_connection", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_fault_75_answer_lost_after_commit_is_no_harm(
    postgres_database: dict[str, Any],
    lossy_proxy: LossyProxy,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    keeps_connection: bool,
) -> None:
    connected_postgres(postgres_database, monkeypatch, host=lossy_proxy.folder, conn_id="books")
    start, take = STEPS[step]
    ledger = ledger_that_waits("books", lambda _: None, keeps_connection=keeps_connection)
    ledger.ensure_table()
    bring(ledger, start)
    lossy_proxy.lose_the_next_commit()

    assert take(ledger)
    assert lossy_proxy.losses == 1
    ledger.close()


def test_fault_75_what_somebody_else_did_meanwhile_is_not_taken_for_ones_own(
    postgres_database: dict[str, Any], lossy_proxy: LossyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected_postgres(postgres_database, monkeypatch, host=lossy_proxy.folder, conn_id="books")
    other = ledger_that_waits("books", lambda _: None)
    other.ensure_table()
    bring(other, State.CLAIMED)

    def release_and_claim(_: float) -> None:
        other.not_accepted("key_1", OWNER)
        other.release(OWNER)
        other.claim([recording()], STRANGER)

    ledger = ledger_that_waits("books", release_and_claim)
    lossy_proxy.lose_the_next_commit()

    assert not ledger.submitting("key_1", OWNER)


def test_lease_is_not_spent_on_waiting_for_the_database(
    postgres_database: dict[str, Any], lossy_proxy: LossyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected_postgres(postgres_database, monkeypatch, host=lossy_proxy.folder, conn_id="books")
    clock = Clock()
    ledger = ledger_that_waits("books", lambda _: clock.advance(minutes=2), clock=clock)
    ledger.ensure_table()
    bring(ledger, State.CLAIMED)
    lossy_proxy.lose_the_next_commit()

    assert ledger.submitting("key_1", OWNER)
    assert entry(ledger).lease_until == NOW + timedelta(minutes=2) + Ledger.LEASE_OF_SUBMIT


def test_duckdb_file_held_by_another_process_is_waited_for(duckdb_warehouse: Warehouse) -> None:
    ledger = ledger_in(duckdb_warehouse)
    with processes.holding_duckdb_file(duckdb_warehouse.path) as holder:
        ledger.database._sleep = lambda _: processes.let_go(holder)

        assert ledger.claim([recording()], OWNER)["key_1"].is_claimed_by(OWNER)
