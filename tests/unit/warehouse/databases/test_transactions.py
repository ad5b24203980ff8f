"""Transactions that meet others on the same rows."""

from __future__ import annotations

import sqlalchemy as sa

from plaud_provider.warehouse.databases.base import Transaction
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
                lambda other: other.insert(TABLE, [{"name": "one", "owner": "other"}])
            )
        transaction.upsert(TABLE, [{"name": "one", "owner": "us"}], may_replace=lambda _: sa.false())

    duckdb_warehouse.impatient_database(sleep=waits.append).transaction(claim)

    assert seen == [0, 1]
    assert len(waits) == 1
    assert duckdb_warehouse.rows("select * from claims") == [("one", "other")]
