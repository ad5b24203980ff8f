from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from airflow.providers.duckdb.hooks.duckdb import DuckDBHook
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.providers.sqlite.hooks.sqlite import SqliteHook

from plaud_provider.database import database_for
from plaud_provider.database.duckdb import DuckDbDatabase
from plaud_provider.database.sqlalchemy import SqlAlchemyDatabase
from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.warehouse.connection import database_hook
from tests.unit.warehouse.warehouses import PostgresWarehouse, Warehouse


def test_connection_leads_to_its_hook_and_database(warehouse: Warehouse) -> None:
    hook, database = {
        "duckdb": (DuckDBHook, DuckDbDatabase),
        "sqlite": (SqliteHook, SqlAlchemyDatabase),
        "postgres": (PostgresHook, SqlAlchemyDatabase),
    }[warehouse.kind]

    assert type(warehouse.hook) is hook
    assert type(database_for(warehouse.hook)) is database
    assert warehouse.is_untouched


def test_connection_to_postgresql_is_looked_up_once(
    postgres_warehouse: PostgresWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = database_hook(postgres_warehouse.conn_id)
    monkeypatch.delenv(f"AIRFLOW_CONN_{postgres_warehouse.conn_id.upper()}")

    found = database_for(hook).transaction(lambda transaction: transaction.rows(sa.select(sa.literal(1))))

    assert found == [(1,)]


@pytest.mark.parametrize("parameter", ["sql_conn_id", "ledger_conn_id"])
def test_unknown_connection_is_named(parameter: str) -> None:
    with pytest.raises(
        PlaudConfigurationError, match=rf"^{parameter}: there is no Airflow connection 'no_such'.*Nothing"
    ):
        database_hook("no_such", parameter=parameter)


@pytest.mark.parametrize(
    ("conn_type", "problem"),
    [("http", "is of type 'http', which is not a SQL database"), ("nonesuch", "no installed provider knows")],
)
def test_connection_that_is_no_database_is_named(
    conn_type: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ODD", json.dumps({"conn_type": conn_type, "host": "example.com"}))

    with pytest.raises(PlaudConfigurationError, match=f"^sql_conn_id: .*{problem}"):
        database_hook("odd")
