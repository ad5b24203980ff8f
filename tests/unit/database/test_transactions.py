"""Transactions that meet others on the same rows."""

from __future__ import annotations

import os
import time

import duckdb
import pytest
import sqlalchemy as sa

from plaud_provider.database.base import Transaction
from plaud_provider.exceptions import PlaudWarehouseError
from tests.unit.warehouse.warehouses import Warehouse

TABLE = sa.Table(
    "claims", sa.MetaData(), sa.Column("name", sa.Text, primary_key=True), sa.Column("owner", sa.Text)
)


def test_duckdb_key_that_another_thread_adds_meanwhile_is_seen_in_the_next_attempt(
    duckdb_warehouse: Warehouse,
) -> None:
    duckdb_warehouse.run("create table claims (name text primary key, owner text)")
    waits: list[float] = []
    seen: list[int] = []

    def claim(transaction: Transaction) -> None:
        seen.append(len(transaction.rows(sa.select(TABLE))))
        if not waits:
            duckdb_warehouse.database.transaction(
                lambda other: other.insert(TABLE, {"name": ["one"], "owner": ["other"]})
            )
        transaction.upsert(TABLE, [{"name": "one", "owner": "us"}], may_replace=lambda _: sa.false())

    duckdb_warehouse.impatient_database(sleep=waits.append).transaction(claim)

    assert seen == [0, 1]
    assert len(waits) == 1
    assert duckdb_warehouse.rows("select * from claims") == [("one", "other")]


def test_duckdb_file_that_another_process_is_creating_is_waited_for(duckdb_warehouse: Warehouse) -> None:
    duckdb_warehouse.path.touch()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        duckdb_warehouse.path.unlink()
        duckdb.connect(str(duckdb_warehouse.path)).close()

    database = duckdb_warehouse.impatient_database(sleep=sleep)

    assert database.transaction(lambda transaction: transaction.rows(sa.select(sa.literal(7)))) == [(7,)]
    assert len(waits) == 1


def test_file_that_is_no_duckdb_database_is_told_at_once(duckdb_warehouse: Warehouse) -> None:
    duckdb_warehouse.path.touch()
    yesterday = time.time() - 86400
    os.utime(duckdb_warehouse.path, (yesterday, yesterday))

    with pytest.raises(PlaudWarehouseError, match="not a valid DuckDB database file"):
        duckdb_warehouse.impatient_database(sleep=pytest.fail).transaction(lambda transaction: None)
