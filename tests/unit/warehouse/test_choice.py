"""Which connections are served, and what is told of the others before anything is paid for."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from airflow.providers.common.sql.hooks.sql import DbApiHook

from plaud_provider.database import connections
from plaud_provider.database.database import DIALECTS
from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.warehouse.loaders.choice import LOADERS, refuse_unserved
from plaud_provider.warehouse.writer import open_warehouse
from tests.unit.warehouse.warehouses import Warehouse, landing

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


class OtherHook(DbApiHook):
    """The hook of a database that is not served; behind it is SQLite."""

    conn_type = "other"
    conn_name_attr = "other_conn_id"
    other_conn_id = "lake"


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file behind a connection of a type that no loader serves, whose user insists."""
    monkeypatch.setattr(connections, "hook_of", lambda *_, **__: OtherHook())
    path = tmp_path / "other.db"
    monkeypatch.setattr(OtherHook, "get_uri", lambda hook: f"sqlite:///{path}")
    connect(monkeypatch, conn_type="other", extra={"generic_sql": True})
    return path


def test_user_who_insists_lands_by_sqlalchemy_alone_with_a_warning(
    other: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_unserved("lake")
    for count in (3, 2):
        open_warehouse("lake").replace([landing("txn_1", segments=count), landing("txn_2", segments=0)])

    with closing(sqlite3.connect(other)) as file:
        assert file.execute("select transcription_id from plaud_transcripts order by 1").fetchall() == [
            ("txn_1",),
            ("txn_2",),
        ]
        assert file.execute("select count(*) from plaud_segments").fetchall() == [(2,)]
        # The scratch table is gone.
        assert file.execute("select name from sqlite_master where name like 'plaud_check%'").fetchall() == []
    assert "was not made and tested for" in caplog.text


@pytest.mark.parametrize(
    "fault, told",
    [
        ("cuts", "text came back as something else"),
        ("question marks", "text, raw came back as something else"),
        ("autocommit", "what is rolled back stays"),
    ],
)
def test_database_that_changes_what_it_is_given_is_refused_though_its_user_insists(
    other: Path, monkeypatch: pytest.MonkeyPatch, fault: str, told: str
) -> None:
    create_engine = OtherHook.get_sqlalchemy_engine

    def faulty(hook: OtherHook, engine_kwargs: dict[str, object] | None = None) -> sa.Engine:
        level = {"isolation_level": "AUTOCOMMIT"} if fault == "autocommit" else {}
        engine = create_engine(hook, {**(engine_kwargs or {}), **level})

        def change(_: object, __: object, statement: str, values: Any, *___: object) -> tuple[str, Any]:
            if statement.startswith("INSERT") and fault != "autocommit":
                rows = values if isinstance(values, list) else [values]
                values = [tuple(changed(index, value) for index, value in enumerate(row)) for row in rows]
                values = values if isinstance(rows, list) and len(values) > 1 else values[0]
            return statement, values

        sa.event.listen(engine, "before_cursor_execute", change, retval=True)
        return engine

    def changed(index: int, value: Any) -> Any:
        # The first is the key.
        if not index or not isinstance(value, str):
            return value
        return value[:65_535] if fault == "cuts" else value.encode("latin-1", "replace").decode("latin-1")

    monkeypatch.setattr(OtherHook, "get_sqlalchemy_engine", faulty)

    with pytest.raises(PlaudConfigurationError, match=rf"generic_sql does not help: {told}"):
        open_warehouse("lake").replace([landing("txn_1")])
    with closing(sqlite3.connect(other)) as file:
        assert file.execute("select name from sqlite_master where type = 'table'").fetchall() == []


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
