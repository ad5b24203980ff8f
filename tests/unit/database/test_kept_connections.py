"""A connection to PostgreSQL that is kept for the next transaction: nobody but the clock may notice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from plaud_provider.database.database import open_database
from plaud_provider.database.postgresql import KEPT_SECONDS
from plaud_provider.exceptions import PlaudTableMismatchError
from plaud_provider.ledger.ledger import Ledger, State, open_ledger
from plaud_provider.warehouse.writer import open_warehouse
from tests.unit.ledger.ledgers import NOW, OWNER, bring, recording, state
from tests.unit.postgres_server import PostgresServer
from tests.unit.warehouse.warehouses import PostgresWarehouse, connected_postgres, landing


@pytest.fixture
def ledger(postgres_warehouse: PostgresWarehouse) -> Iterator[Ledger]:
    with closing(open_ledger(postgres_warehouse.conn_id, keeps_connection=True)) as ledger:
        yield ledger


def sessions(warehouse: PostgresWarehouse) -> list[tuple[int, str]]:
    """Return the process and the state of each connection to the database but the one that asks."""
    found: Any = warehouse.rows(
        "select pid, state from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    )
    return list(found)


def settled(warehouse: PostgresWarehouse, count: int) -> list[tuple[int, str]]:
    """Return the connections once there are so many: a server takes a moment to let one go."""
    deadline = time.monotonic() + 30
    while len(found := sessions(warehouse)) != count:
        assert time.monotonic() < deadline, found
    return found


def test_transitions_share_one_connection(postgres_warehouse: PostgresWarehouse, ledger: Ledger) -> None:
    bring(ledger, State.CLAIMED)
    before = settled(postgres_warehouse, 1)

    bring(ledger, State.LANDED, key="key_2")

    assert sessions(postgres_warehouse) == before


def test_idle_it_holds_no_transaction_and_no_lock(
    postgres_warehouse: PostgresWarehouse, ledger: Ledger
) -> None:
    bring(ledger, State.SUBMITTING)

    [(process, state)] = settled(postgres_warehouse, 1)

    assert state == "idle"
    assert postgres_warehouse.rows(f"select count(*) from pg_locks where pid = {process}") == [(0,)]


def test_closed_it_is_gone(postgres_warehouse: PostgresWarehouse, ledger: Ledger) -> None:
    bring(ledger, State.CLAIMED)

    ledger.close()

    assert settled(postgres_warehouse, 0) == []
    assert ledger.submitting("key_1", OWNER), "and comes back when it is needed"


def test_a_ledger_that_is_not_told_to_keeps_none(postgres_warehouse: PostgresWarehouse) -> None:
    ledger = open_ledger(postgres_warehouse.conn_id)
    bring(ledger, State.CLAIMED)

    assert settled(postgres_warehouse, 0) == []


def test_a_ledger_that_does_not_open_leaves_none(postgres_warehouse: PostgresWarehouse) -> None:
    postgres_warehouse.run("create table plaud_submissions (recording_key integer)")

    with pytest.raises(PlaudTableMismatchError) as told:
        open_ledger(postgres_warehouse.conn_id, keeps_connection=True)

    assert told.value is not None, "with what it holds"
    assert settled(postgres_warehouse, 0) == []


def test_a_restart_between_two_transitions_is_neither_an_error_nor_a_wait(
    postgres_warehouse: PostgresWarehouse, postgres_server: PostgresServer
) -> None:
    waits: list[float] = []
    with closing(open_database(postgres_warehouse.conn_id, keeps_connection=True)) as database:
        database._sleep = waits.append
        ledger = Ledger(database)
        ledger.ensure_table()
        bring(ledger, State.SUBMITTING)
        settled(postgres_warehouse, 1)

        postgres_server.restart()

        assert ledger.processing(recording(), OWNER, "txn_1", submitted_at=NOW)
    assert waits == []


def test_a_restart_before_a_landing_is_no_error(
    postgres_warehouse: PostgresWarehouse, ledger: Ledger, postgres_server: PostgresServer
) -> None:
    writer = open_warehouse(postgres_warehouse.conn_id, ledger=ledger)
    settled(postgres_warehouse, 1)

    postgres_server.restart()

    assert writer.replace([landing()]) == (1, 2, 0)


def test_warehouse_and_ledger_behind_one_connection_share_it(
    postgres_warehouse: PostgresWarehouse, ledger: Ledger
) -> None:
    bring(ledger, State.PROCESSING)
    before = settled(postgres_warehouse, 1)

    writer = open_warehouse(postgres_warehouse.conn_id, ledger=ledger)
    writer.replace([landing("txn_key_1")], ledger)

    assert sessions(postgres_warehouse) == before
    assert state(ledger) is State.LANDED


def test_errors_of_such_a_warehouse_name_the_warehouse(
    postgres_warehouse: PostgresWarehouse, ledger: Ledger
) -> None:
    postgres_warehouse.run("create table plaud_transcripts (transcription_id integer)")

    with pytest.raises(PlaudTableMismatchError, match=rf"warehouse '{postgres_warehouse.conn_id}'"):
        open_warehouse(postgres_warehouse.conn_id, ledger=ledger)


def test_one_that_a_firewall_may_have_cut_is_not_used_again(
    postgres_warehouse: PostgresWarehouse, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(ledger, State.CLAIMED)
    [(before, _)] = settled(postgres_warehouse, 1)

    later = time.time() + KEPT_SECONDS + 1
    monkeypatch.setattr("sqlalchemy.pool.base.time", SimpleNamespace(time=lambda: later))
    assert ledger.submitting("key_1", OWNER)

    [(after, _)] = settled(postgres_warehouse, 1)
    assert after != before


def test_of_threads_that_write_at_once_each_has_a_connection_and_no_more_stay(
    postgres_warehouse: PostgresWarehouse, ledger: Ledger
) -> None:
    keys = [f"key_{number}" for number in range(40)]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: bring(ledger, State.PROCESSING, key=key), keys))

    assert {entry.state for entry in ledger.entries(keys).values()} == {State.PROCESSING}
    assert 1 <= len(sessions(postgres_warehouse)) <= 8
    ledger.close()
    settled(postgres_warehouse, 0)


def test_nothing_is_prepared_on_it(ledger: Ledger) -> None:
    """A pooler that gives each transaction another connection to the server would not find it there."""
    for _ in range(10):
        ledger.queue()

    prepared = sa.select(sa.func.count()).select_from(sa.table("pg_prepared_statements"))
    assert ledger.database.run(lambda connection: connection.scalar(prepared), failed="looking") == 0


def test_one_that_was_opened_with_a_token_is_not_kept(
    postgres_database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "airflow.providers.postgres.hooks.postgres.PostgresHook.get_iam_token",
        lambda _, connection: (connection.login, "token", connection.port),
    )
    warehouse = connected_postgres(postgres_database, monkeypatch, extra={"iam": True})

    with closing(open_ledger(warehouse.conn_id, keeps_connection=True)) as ledger:
        bring(ledger, State.CLAIMED)

        assert settled(warehouse, 0) == []
