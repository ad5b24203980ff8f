from __future__ import annotations

import json
import sys

import pytest
import sqlalchemy as sa

from plaud_provider.database.database import open_database
from plaud_provider.exceptions import PlaudConfigurationError
from tests.unit.warehouse.warehouses import PostgresWarehouse, Warehouse


def test_connection_leads_to_its_database(warehouse: Warehouse) -> None:
    database = open_database(warehouse.conn_id)

    assert database.conn_id == warehouse.conn_id
    assert database.kind == {"postgres": "postgresql"}.get(warehouse.kind, warehouse.kind)
    assert database.engine.dialect.name == database.kind
    assert warehouse.is_untouched


def test_connection_to_postgresql_is_looked_up_once(
    postgres_warehouse: PostgresWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(postgres_warehouse.conn_id)
    monkeypatch.delenv(f"AIRFLOW_CONN_{postgres_warehouse.conn_id.upper()}")

    assert database.run(lambda connection: connection.scalar(sa.select(sa.literal(1))), failed="asking") == 1


@pytest.mark.parametrize("parameter", ["sql_conn_id", "ledger_conn_id"])
def test_unknown_connection_is_named(parameter: str) -> None:
    with pytest.raises(
        PlaudConfigurationError, match=rf"^{parameter}: there is no Airflow connection 'no_such'.*Nothing"
    ):
        open_database("no_such", parameter=parameter)


@pytest.mark.parametrize("conn_type", ["http", "nonesuch"])
def test_connection_that_is_no_database_is_named(conn_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ODD", json.dumps({"conn_type": conn_type, "host": "example.com"}))

    with pytest.raises(PlaudConfigurationError, match=rf"^sql_conn_id: .*'odd' is of type '{conn_type}'"):
        open_database("odd")


def test_provider_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, duckdb_warehouse: Warehouse
) -> None:
    monkeypatch.setitem(sys.modules, "airflow.providers.duckdb.hooks.duckdb", None)

    with pytest.raises(PlaudConfigurationError, match=r"airflow-provider-plaud\[duckdb\]"):
        open_database(duckdb_warehouse.conn_id)
