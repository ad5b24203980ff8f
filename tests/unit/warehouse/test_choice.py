"""Which connections are served, and what is told of the others before anything is paid for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from plaud_provider.database.database import DIALECTS
from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.warehouse.loaders.choice import LOADERS, refuse_unserved
from plaud_provider.warehouse.writer import open_warehouse
from tests.unit.warehouse.warehouses import Warehouse

#: Types of databases that Airflow's own providers know, and that no loader has been made for.
UNSERVED = [
    "odbc",
    "oracle",
    "trino",
    "vertica",
    "sqlalchemy",
    "http",
    "nonesuch",
]


def connect(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", json.dumps({"host": "example.com", **values}))


@pytest.mark.parametrize("conn_type", UNSERVED)
def test_database_that_is_not_served_is_refused_by_name_with_those_that_are(
    conn_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, conn_type=conn_type)

    for refuse in (open_warehouse, refuse_unserved):
        with pytest.raises(
            PlaudConfigurationError, match=rf"^sql_conn_id: .*'lake' is of type '{conn_type}'"
        ) as told:
            refuse("lake")
        assert "Nothing was sent" in str(told.value)
        assert all(
            name in str(told.value) and choice.title in str(told.value) for name, choice in LOADERS.items()
        )


@pytest.mark.parametrize("flag", ["redshift", "redshift-serverless"])
def test_redshift_behind_postgresqls_hook_is_refused_with_the_type_that_it_needs(
    flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, conn_type="postgres", extra={flag: True})

    with pytest.raises(PlaudConfigurationError, match="Make it one of type 'redshift'"):
        refuse_unserved("lake")


def test_redshift_that_does_not_say_so_is_refused_when_it_is_opened(
    postgres_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.dialects.postgresql.base import PGDialect

    # What Redshift tells; there is none that runs here.
    monkeypatch.setattr(PGDialect, "_get_server_version_info", lambda *_: (8, 0, 2))

    with pytest.raises(PlaudConfigurationError, match="is a Redshift, or a PostgreSQL before"):
        open_warehouse(postgres_warehouse.conn_id)
    assert postgres_warehouse.is_untouched


def test_served_connection_is_not_refused_and_not_opened(warehouse: Warehouse) -> None:
    refuse_unserved(warehouse.conn_id)

    assert warehouse.is_untouched


def test_connection_that_is_missing_is_refused() -> None:
    with pytest.raises(PlaudConfigurationError, match=r"^sql_conn_id: there is no Airflow connection"):
        refuse_unserved("no_such")


def test_library_that_a_warehouse_needs_and_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, conn_type="clickhouse")
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(PlaudConfigurationError, match=r"pyarrow.*airflow-provider-plaud\[clickhouse\]"):
        open_warehouse("lake")


def test_every_database_that_keeps_a_ledger_is_a_warehouse_too() -> None:
    assert DIALECTS.keys() <= LOADERS.keys()


def test_choosing_imports_nothing_that_another_warehouse_needs() -> None:
    heavy = "duckdb psycopg psycopg2 MySQLdb clickhouse_connect pyiceberg pyarrow pandas"
    program = (
        "import sys, plaud_provider.warehouse.writer\n"
        f"print({{name.partition('.')[0] for name in sys.modules}} & set({heavy!r}.split()))"
    )

    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert told.stdout == "set()\n"
