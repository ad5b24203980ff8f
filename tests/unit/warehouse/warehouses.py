"""Real warehouses in files and on a server, and transcriptions to land in them."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from sqlalchemy.dialects import postgresql, sqlite

from plaud_provider.api.models import Segment, Status, Transcription
from plaud_provider.database.database import Database, open_database
from plaud_provider.warehouse.loaders.rows import RowsLoader
from plaud_provider.warehouse.rows import Landing
from plaud_provider.warehouse.tables import plaud_tables
from plaud_provider.warehouse.writer import WarehouseWriter

#: Kinds of database in a file.
KINDS = ("sqlite", "duckdb")
CONN_ID = "warehouse_default"
NOW = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)


@dataclass(frozen=True)
class Warehouse:
    """A database that tests read and prepare past the package."""

    kind: str
    path: Path
    extra: dict[str, Any] = field(default_factory=dict)
    conn_id: str = CONN_ID

    @property
    def connection(self) -> str:
        return json.dumps({"conn_type": self.kind, "host": str(self.path), "extra": self.extra})

    @property
    def database(self) -> Database:
        return open_database(self.conn_id)

    def connect(self) -> None:
        """Make the Airflow connection to it, in a process of its own."""
        os.environ[f"AIRFLOW_CONN_{self.conn_id.upper()}"] = self.connection

    def writer(self, *names: str, schema: str | None = None) -> WarehouseWriter:
        return WarehouseWriter(RowsLoader(self.database, plaud_tables(schema, *names)))

    def impatient_database(
        self, *, wait_seconds: float | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> Database:
        database = self.database
        database._sleep = sleep
        if wait_seconds is not None:
            database.dialect.wait_seconds = wait_seconds
        return database

    def impatient_writer(self, **options: Any) -> WarehouseWriter:
        return WarehouseWriter(RowsLoader(self.impatient_database(**options), plaud_tables()))

    def run(self, *statements: str) -> None:
        with closing(self.raw()) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(self.raw()) as connection:
            return connection.execute(query).fetchall()

    def tables(self) -> set[str]:
        listing = {
            "sqlite": "select name from sqlite_master where type = 'table'",
            "duckdb": "select table_name from information_schema.tables where table_type = 'BASE TABLE'",
            "postgres": "select table_name from information_schema.tables "
            "where table_schema not in ('pg_catalog', 'information_schema') and table_type = 'BASE TABLE'",
        }
        return {row[0] for row in self.rows(listing[self.kind])}

    def columns(self, table: str) -> str:
        """Return the columns of a table of ours as they are declared, without its key."""
        dialect = sqlite.dialect() if self.kind == "sqlite" else postgresql.dialect()
        declared = next(one for one in plaud_tables().parameters if one.name == table)
        return ", ".join(
            f"{column.name} {column.type.compile(dialect=dialect)}{' not null' * (not column.nullable)}"
            for column in declared.columns
        ).replace("JSONB", "JSONB" if self.kind == "postgres" else "TEXT")

    def answers(self) -> list[dict[str, Any]]:
        """Return Plaud's own answers as they are in ``raw``."""
        found = self.rows("select cast(raw as text) from plaud_transcripts order by transcription_id")
        return [json.loads(raw) for (raw,) in found]

    def content(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Return everything that is in both tables."""
        return (
            self.rows("select * from plaud_transcripts order by transcription_id"),
            self.rows("select * from plaud_segments order by transcription_id, segment_index"),
        )

    @property
    def is_untouched(self) -> bool:
        """Whether nothing has been written to it."""
        return not self.path.exists()

    def raw(self) -> Any:
        """Return a connection of the driver's own."""
        return sqlite3.connect(self.path) if self.kind == "sqlite" else duckdb.connect(str(self.path))


@dataclass(frozen=True)
class PostgresWarehouse(Warehouse):
    """A database on a server; the path is that of the folder with its socket."""

    values: dict[str, Any] = field(default_factory=dict)

    @property
    def connection(self) -> str:
        return json.dumps(self.values | {"host": str(self.path), "extra": self.extra})

    @property
    def is_untouched(self) -> bool:
        return not self.tables()

    def raw(self) -> Any:
        # Past the proxy that the Airflow connection may lead to.
        return psycopg.connect(
            host=self.values["host"],
            port=self.values["port"],
            user=self.values["login"],
            dbname=self.values["schema"],
        )


def connected(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conn_id: str = CONN_ID
) -> Warehouse:
    """Return a warehouse in a new file, with an Airflow connection to it."""
    warehouse = Warehouse(kind, tmp_path / f"warehouse.{kind}", conn_id=conn_id)
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", warehouse.connection)
    return warehouse


def connected_postgres(
    database: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    *,
    host: Path | None = None,
    extra: dict[str, Any] | None = None,
    conn_id: str = CONN_ID,
) -> PostgresWarehouse:
    """Return a warehouse in a database of a server, with an Airflow connection to it."""
    warehouse = PostgresWarehouse(
        "postgres", host or Path(database["host"]), extra or {}, conn_id=conn_id, values=database
    )
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", warehouse.connection)
    return warehouse


def transcription(
    transcription_id: str = "txn_1", *, segments: int | tuple[Segment, ...] = 2, **values: Any
) -> Transcription:
    """Return a completed transcription, with these segments or so many."""
    stretches = tuple(segment(index) for index in range(segments)) if isinstance(segments, int) else segments
    told: dict[str, Any] = {
        "status": Status.COMPLETED,
        "reported_status": "completed",
        "text": "Hello. Goodbye.",
        "language": "en",
        "duration_seconds": 12.5,
        "segments": stretches,
        "completed_at": NOW,
        "raw": '{"status":"completed"}',
    }
    return Transcription(transcription_id=transcription_id, **told | values)


def segment(index: int = 0, **values: Any) -> Segment:
    told: dict[str, Any] = {
        "start_seconds": index * 1.5,
        "end_seconds": index * 1.5 + 1.25,
        "speaker": f"speaker_{index % 2}",
        "text": f"Sentence {index}.",
    }
    return Segment(index=index, **told | values)


def landing(
    transcription_id: str = "txn_1", *, segments: int | tuple[Segment, ...] = 2, **values: Any
) -> Landing:
    """Return a landing; values of a transcription go into its transcription."""
    own = {name: values.pop(name) for name in Landing._fields if name in values}
    told: dict[str, Any] = {
        "transcription": transcription(transcription_id, segments=segments, **values),
        "region": "us",
        "landed_at": NOW,
        "audio_uri": f"s3://calls/{transcription_id}.wav",
        "dag_id": "a_dag",
        "run_id": "a_run",
    }
    return Landing(**told | own)
