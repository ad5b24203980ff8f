from __future__ import annotations

import json

import pytest
from airflow.providers.duckdb.hooks.duckdb import DuckDBHook
from airflow.providers.sqlite.hooks.sqlite import SqliteHook

from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.warehouse.connection import warehouse_hook
from plaud_provider.warehouse.tables import plaud_tables
from plaud_provider.warehouse.writers import writer_for
from plaud_provider.warehouse.writers.duckdb import DuckDbWriter
from plaud_provider.warehouse.writers.sqlalchemy import SqlAlchemyWriter
from tests.unit.warehouse.warehouses import Warehouse


def test_connection_leads_to_its_hook_and_writer(warehouse: Warehouse) -> None:
    hook, writer = {
        "duckdb": (DuckDBHook, DuckDbWriter),
        "sqlite": (SqliteHook, SqlAlchemyWriter),
    }[warehouse.kind]

    assert type(warehouse.hook) is hook
    assert type(writer_for(warehouse.hook, plaud_tables())) is writer
    assert not warehouse.path.exists()


def test_unknown_connection_is_named() -> None:
    with pytest.raises(
        PlaudConfigurationError, match=r"^sql_conn_id: there is no Airflow connection 'no_such'.*Nothing"
    ):
        warehouse_hook("no_such")


@pytest.mark.parametrize(
    ("conn_type", "problem"),
    [("http", "is of type 'http', which is not a SQL database"), ("nonesuch", "no installed provider knows")],
)
def test_connection_that_is_no_database_is_named(
    conn_type: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ODD", json.dumps({"conn_type": conn_type, "host": "example.com"}))

    with pytest.raises(PlaudConfigurationError, match=f"^sql_conn_id: .*{problem}"):
        warehouse_hook("odd")
