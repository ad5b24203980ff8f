"""Transactions that meet others on the same rows."""

from __future__ import annotations

import os
import time

import duckdb
import pytest
import sqlalchemy as sa

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

    database = duckdb_warehouse.impatient_database(sleep=waits.append)
    other = duckdb_warehouse.database

    def claim(connection: sa.Connection) -> None:
        seen.append(len(connection.execute(sa.select(TABLE)).all()))
        if not waits:
            theirs = {"name": ["one"], "owner": ["other"]}
            other.run(lambda another: other.dialect.insert(another, TABLE, theirs), failed="inserting")
        ours = {"name": "one", "owner": "us"}
        database.dialect.upsert(connection, TABLE, [ours], may_replace=lambda _: sa.false())

    database.run(claim, failed="claiming")

    assert seen == [0, 1]
    assert len(waits) == 1
    assert duckdb_warehouse.rows("select * from claims") == [("one", "other")]


def test_duckdb_commit_writes_a_long_text_once(duckdb_warehouse: Warehouse) -> None:
    log = duckdb_warehouse.path.with_name(f"{duckdb_warehouse.path.name}.wal")
    with duckdb_warehouse.database.engine.connect() as connection:
        with connection.begin():
            connection.exec_driver_sql("create table texts as select repeat('long text ', 1000000) as text")

        # The log would have it a second time, in memory too.
        assert not log.exists() or log.stat().st_size < 10_000


def test_duckdb_file_that_another_process_is_creating_is_waited_for(duckdb_warehouse: Warehouse) -> None:
    duckdb_warehouse.path.touch()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        duckdb_warehouse.path.unlink()
        duckdb.connect(str(duckdb_warehouse.path)).close()

    database = duckdb_warehouse.impatient_database(sleep=sleep)

    assert database.run(lambda connection: connection.scalar(sa.select(sa.literal(7))), failed="asking") == 7
    assert len(waits) == 1


def test_file_that_is_no_duckdb_database_is_told_at_once(duckdb_warehouse: Warehouse) -> None:
    duckdb_warehouse.path.touch()
    yesterday = time.time() - 86400
    os.utime(duckdb_warehouse.path, (yesterday, yesterday))

    with pytest.raises(PlaudWarehouseError, match="not a valid DuckDB database file"):
        duckdb_warehouse.impatient_database(sleep=pytest.fail).run(lambda _: None, failed="looking")
