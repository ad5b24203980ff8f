"""Real warehouses in files, and transcriptions to land in them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook

from plaud_provider.api.models import Segment, Status, Transcription
from plaud_provider.warehouse.connection import warehouse_hook
from plaud_provider.warehouse.rows import Landing
from plaud_provider.warehouse.tables import plaud_tables
from plaud_provider.warehouse.writers import writer_for
from plaud_provider.warehouse.writers.base import WarehouseWriter
from plaud_provider.warehouse.writers.duckdb import DuckDbWriter
from plaud_provider.warehouse.writers.sqlalchemy import SqlAlchemyWriter

KINDS = ("sqlite", "duckdb")
CONN_ID = "warehouse_default"
NOW = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)


@dataclass(frozen=True)
class Warehouse:
    """A database file that tests read and prepare past the package."""

    kind: str
    path: Path
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def connection(self) -> str:
        return json.dumps({"conn_type": self.kind, "host": str(self.path), "extra": self.extra})

    @property
    def hook(self) -> DbApiHook:
        return warehouse_hook(CONN_ID)

    def writer(self, *names: str, schema: str | None = None) -> WarehouseWriter:
        return writer_for(self.hook, plaud_tables(schema, *names))

    def impatient_writer(self, **options: Any) -> WarehouseWriter:
        writer = DuckDbWriter if self.kind == "duckdb" else SqlAlchemyWriter
        return writer(self.hook, plaud_tables(), **options)

    def run(self, *statements: str) -> None:
        with closing(self._connect()) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(self._connect()) as connection:
            return connection.execute(query).fetchall()

    def tables(self) -> set[str]:
        listing = (
            "sqlite_master where type = 'table'" if self.kind == "sqlite" else "information_schema.tables"
        )
        name = "name" if self.kind == "sqlite" else "table_name"
        return {row[0] for row in self.rows(f"select {name} from {listing}")}

    def content(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Return everything that is in both tables."""
        return (
            self.rows("select * from plaud_transcripts order by transcription_id"),
            self.rows("select * from plaud_segments order by transcription_id, segment_index"),
        )

    def _connect(self) -> Any:
        return sqlite3.connect(self.path) if self.kind == "sqlite" else duckdb.connect(str(self.path))


def connected(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """Return a warehouse in a new file, with an Airflow connection to it."""
    warehouse = Warehouse(kind, tmp_path / f"warehouse.{kind}")
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", warehouse.connection)
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
    own = {name: values.pop(name) for name in Landing.__dataclass_fields__ if name in values}
    told: dict[str, Any] = {
        "transcription": transcription(transcription_id, segments=segments, **values),
        "region": "us",
        "landed_at": NOW,
        "audio_uri": f"s3://calls/{transcription_id}.wav",
        "dag_id": "a_dag",
        "run_id": "a_run",
    }
    return Landing(**told | own)
