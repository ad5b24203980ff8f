"""
Real warehouses as the contract sees them: landed in by the package, prepared and read past it.

A warehouse joins the contract by a class here and a line in :data:`KINDS`.
"""

from __future__ import annotations

import json
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import pytest
import sqlalchemy as sa

from plaud_provider.database import copying
from plaud_provider.database import mysql as mysql_dialect
from plaud_provider.warehouse.lake import Lake as OpenFormat
from plaud_provider.warehouse.lake import folder_name
from plaud_provider.warehouse.loaders.choice import choose_loader
from plaud_provider.warehouse.loaders.lake import storage_path
from plaud_provider.warehouse.loaders.object_store import storage_options
from plaud_provider.warehouse.tables import plaud_tables
from plaud_provider.warehouse.writer import WarehouseWriter, open_warehouse
from tests.unit.s3_server import ACCESS_KEY, REGION, SECRET_KEY, S3Server
from tests.unit.warehouse.warehouses import Warehouse, connected, connected_postgres

CONN_ID = "warehouse_default"
TRANSCRIPTS = plaud_tables().transcripts.columns.keys()
SEGMENTS = plaud_tables().segments.columns.keys()
Rows = list[dict[str, Any]]


class LostConnectionError(Exception):
    """The connection broke, as a test has it."""


@dataclass
class Interruption:
    """
    Where a landing is broken off.

    :param step: Number of the step, from 0.
    :param steps: How many steps have begun.
    """

    step: int
    steps: int = 0

    @property
    def has_happened(self) -> bool:
        return self.steps > self.step

    def is_now(self) -> bool:
        self.steps += 1
        return self.steps == self.step + 1


class Lake(ABC):
    """One warehouse, empty at first."""

    #: What becomes of NUL.
    nul = "\0"
    #: Whether a schema can be created in it.
    has_schemas = True
    #: Whether names may have quotes.
    takes_quotes = True

    def writer(self, **names: Any) -> WarehouseWriter:
        """Open it as tasks do."""
        return open_warehouse(CONN_ID, **names)

    def loader(self, **names: Any) -> Any:
        """Return another loader of it, which has seen nothing."""
        return choose_loader(CONN_ID, plaud_tables(**names))

    @abstractmethod
    def transcripts(self, table: str = "plaud_transcripts", schema: str | None = None) -> Rows:
        """Return what readers find, in the order of the ids."""

    @abstractmethod
    def segments(self, table: str = "plaud_segments", schema: str | None = None) -> Rows:
        """Return what readers find, in order."""

    @abstractmethod
    def read(self, table: str, columns: list[str], order: str) -> Rows:
        """Return some columns of what readers find in a table."""

    @abstractmethod
    def create_schema(self, name: str) -> None: ...

    def create_view(self, name: str, query: str) -> None:
        """Create a view of other people; only where ours is created, see :data:`VIEWING`."""
        raise NotImplementedError

    @abstractmethod
    def create_by_hand(self) -> None:
        """Create both tables as a user might: in another order, with columns of their own."""

    @abstractmethod
    def drop_column(self, table: str, column: str) -> None: ...

    @abstractmethod
    def interrupted(self, writer: WarehouseWriter, step: int) -> Any:
        """Return a context in which the connection is lost at a step of a landing."""

    @abstractmethod
    def lose_rights(self) -> None:
        """Make the Airflow connection one that may read and not write."""

    def close(self) -> None:
        """Let go of it."""
        return

    def content(self) -> tuple[Rows, Rows]:
        return self.transcripts(), self.segments()


class SqlLake(Lake):
    """A database that the package writes to through SQLAlchemy."""

    quote = '"'
    options = ""
    #: Type of texts, of doubles and of times.
    types = ("text", "double precision", "timestamp with time zone")

    def __init__(self, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
        self.warehouse = warehouse
        self.monkeypatch = monkeypatch

    def transcripts(self, table: str = "plaud_transcripts", schema: str | None = None) -> Rows:
        return self._read(TRANSCRIPTS, table, schema, "transcription_id")

    def segments(self, table: str = "plaud_segments", schema: str | None = None) -> Rows:
        return self._read(SEGMENTS, table, schema, "transcription_id, segment_index")

    def read(self, table: str, columns: list[str], order: str) -> Rows:
        return self._read(columns, table, None, order)

    def create_schema(self, name: str) -> None:
        self.warehouse.run(f"create schema {self.quoted(name)}")

    def create_view(self, name: str, query: str) -> None:
        self.warehouse.run(f"create view {name} as {query}")

    def create_by_hand(self) -> None:
        text, double, time = self.types
        self.warehouse.run(
            f"create table plaud_transcripts (reviewed_by {text}, raw {text} not null, run_id {text}, "
            f"dag_id {text}, landed_at {time} not null, completed_at {time}, submitted_at {time}, "
            f"error {text}, status {text} not null, speaker_count bigint not null, "
            f"segment_count bigint not null, text {text}, duration_seconds {double}, language {text}, "
            f"region {text} not null, audio_uri {text}, source varchar(9) default 'plaud', "
            f"transcription_id varchar(255) not null) {self.options}",
            f"create table plaud_segments (text {text} not null, speaker {text}, end_seconds {double}, "
            f"start_seconds {double}, segment_index bigint not null, note {text}, "
            f"transcription_id varchar(255) not null) {self.options}",
        )

    def drop_column(self, table: str, column: str) -> None:
        # Some databases keep a column that a view shows.
        self.warehouse.run("drop view if exists plaud_speakers", f"alter table {table} drop column {column}")

    @contextmanager
    def interrupted(self, writer: WarehouseWriter, step: int) -> Iterator[Interruption]:
        interruption = Interruption(step)
        engine = writer.loader.database.engine  # type: ignore[attr-defined]
        # Neither is a statement that SQLAlchemy sends.
        copy, insert_values = copying._copy, mysql_dialect.insert_values

        def before(connection: Any) -> None:
            if interruption.is_now():
                self.lose(connection)

        def execute(connection: Any, *_: Any) -> None:
            before(connection)

        def copying_rows(connection: sa.Connection, *arguments: Any) -> None:
            before(connection)
            copy(connection, *arguments)

        def inserting_rows(connection: sa.Connection, *arguments: Any) -> None:
            before(connection)
            insert_values(connection, *arguments)

        sa.event.listen(engine, "before_cursor_execute", execute)
        sa.event.listen(engine, "commit", before)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(copying, "_copy", copying_rows)
            patch.setattr(mysql_dialect, "insert_values", inserting_rows)
            yield interruption
        sa.event.remove(engine, "before_cursor_execute", execute)
        sa.event.remove(engine, "commit", before)

    def lose(self, connection: sa.Connection) -> None:
        """Lose a connection; of a database in this process there is none, and the task ends there."""
        raise LostConnectionError

    def lose_rights(self) -> None:
        raise NotImplementedError

    def reconnect(self, **values: Any) -> None:
        told = json.loads(self.warehouse.connection) | values
        self.monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(told))

    def quoted(self, name: str) -> str:
        return self.quote + name.replace(self.quote, self.quote * 2) + self.quote

    def _read(self, columns: list[str], table: str, schema: str | None, order: str) -> Rows:
        where = self.quoted(table) if schema is None else f"{self.quoted(schema)}.{self.quoted(table)}"
        found = self.warehouse.rows(f"select {self.chosen(columns)} from {where} order by {order}")
        return [dict(zip(columns, row, strict=True)) for row in found]

    def chosen(self, columns: list[str]) -> str:
        return ", ".join(f"cast({name} as text)" if name in ("raw", "metadata") else name for name in columns)


class SqliteLake(SqlLake):
    has_schemas = False
    types = ("text", "double", "timestamp")

    def lose_rights(self) -> None:
        self.reconnect(host=f"file:{self.warehouse.path}", extra={"mode": "ro", "uri": "true"})


class DuckDbLake(SqlLake):
    def lose_rights(self) -> None:
        self.reconnect(extra={"read_only": True})


class PostgresLake(SqlLake):
    nul = "\ufffd"

    def lose(self, connection: sa.Connection) -> None:
        pid = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]
        self.warehouse.rows(f"select pg_terminate_backend({pid}, 5000)")

    def lose_rights(self) -> None:
        self.warehouse.run(
            "do $$ begin create role reader login; exception when duplicate_object then null; end $$",
            "grant select on all tables in schema public to reader",
        )
        self.reconnect(login="reader")


class MySqlLake(SqlLake):
    quote = "`"
    types = ("longtext", "double", "datetime(6)")
    options = "default charset utf8mb4"

    def lose(self, connection: sa.Connection) -> None:
        pid = connection.connection.dbapi_connection.thread_id()  # type: ignore[union-attr]
        self.warehouse.run(f"kill connection {pid}")

    def lose_rights(self) -> None:
        name = self.warehouse.values["schema"]  # type: ignore[attr-defined]
        self.warehouse.run(
            "create user if not exists reader identified by 'reader'", f"grant select on {name}.* to reader"
        )
        self.reconnect(login="reader", password="reader")

    def chosen(self, columns: list[str]) -> str:
        return ", ".join(columns)


class ClickHouseLake(Lake):
    """ClickHouse's engine in this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.client_kwargs = {"interface": "chdb", "path": str(folder / "chdb")}
        self.connect()

    def connect(self, **extra: Any) -> None:
        told = {"conn_type": "clickhouse", "extra": {"client_kwargs": self.client_kwargs, **extra}}
        self.monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(told))

    @cached_property
    def client(self) -> Any:
        import clickhouse_connect

        return clickhouse_connect.get_client(**self.client_kwargs)

    def close(self) -> None:
        self.client.close()

    def transcripts(self, table: str = "plaud_transcripts", schema: str | None = None) -> Rows:
        return self._read(TRANSCRIPTS, table, schema, "transcription_id")

    def segments(self, table: str = "plaud_segments", schema: str | None = None) -> Rows:
        return self._read(SEGMENTS, table, schema, "transcription_id, segment_index")

    def read(self, table: str, columns: list[str], order: str) -> Rows:
        name = f"{table}_current" if self.client.query(f"exists {table}_current").first_row[0] else table
        return self._select(columns, _backquoted(name), order)

    def create_schema(self, name: str) -> None:
        self.client.command(f"create database {_backquoted(name)}")

    def create_view(self, name: str, query: str) -> None:
        self.client.command(f"create view {name} as {query}")

    def create_by_hand(self) -> None:
        self.client.command(
            "create table plaud_transcripts (reviewed_by String, raw String, run_id Nullable(String), "
            "dag_id Nullable(String), landed_at DateTime64(9), completed_at Nullable(DateTime64(6, 'UTC')), "
            "submitted_at Nullable(DateTime64(6, 'Asia/Tokyo')), error Nullable(String), "
            "status LowCardinality(String), speaker_count Int64, segment_count UInt32, "
            "text Nullable(String), duration_seconds Nullable(Float64), language Nullable(String), "
            "region LowCardinality(String), audio_uri Nullable(String), source String default 'plaud', "
            "transcription_id String) engine = ReplacingMergeTree order by transcription_id"
        )
        self.client.command(
            "create table plaud_segments (landed_at DateTime64(6), text String, speaker Nullable(String), "
            "end_seconds Nullable(Float64), start_seconds Nullable(Float64), segment_index UInt64, "
            "note Nullable(String), transcription_id String) engine = MergeTree order by transcription_id"
        )

    def drop_column(self, table: str, column: str) -> None:
        self.client.command(f"alter table {table} drop column {column}")

    @contextmanager
    def interrupted(self, writer: WarehouseWriter, step: int) -> Iterator[Interruption]:
        interruption = Interruption(step)
        kind = type(self.client)

        def wrapped(method: Any) -> Any:
            def call(client: Any, *arguments: Any, **named: Any) -> Any:
                # Before the server has it, and after it has, when the answer is lost.
                if interruption.is_now():
                    raise LostConnectionError
                answer = method(client, *arguments, **named)
                if interruption.is_now():
                    raise LostConnectionError
                return answer

            return call

        with pytest.MonkeyPatch.context() as patch:
            for name in ("query", "command", "insert_arrow"):
                patch.setattr(kind, name, wrapped(getattr(kind, name)))
            yield interruption

    def lose_rights(self) -> None:
        self.connect(session_settings={"readonly": 1})

    def _read(self, columns: list[str], table: str, schema: str | None, order: str) -> Rows:
        name = _backquoted(f"{table}_current")
        where = name if schema is None else f"{_backquoted(schema)}.{name}"
        return self._select(columns, where, order)

    def _select(self, columns: list[str], where: str, order: str) -> Rows:
        found = self.client.query(f"select {', '.join(columns)} from {where} order by {order}").result_rows
        return [dict(zip(columns, row, strict=True)) for row in found]


class SnowflakeLake(Lake):
    """Snowflake's stand-in, through the real connector."""

    def __init__(self, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.server = server
        self.database = f"TEST_{uuid.uuid4().hex.upper()}"
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.certificate))
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        self.connect()

    def connect(self, **extra: Any) -> None:
        told = {
            "conn_type": "snowflake",
            "login": "user",
            "password": "password",
            "schema": "PUBLIC",
            "extra": {
                "account": "local",
                "database": self.database,
                "host": "127.0.0.1",
                "port": self.server.port,
                "insecure_mode": True,
                **extra,
            },
        }
        self.monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(told))

    @cached_property
    def connection(self) -> Any:
        import snowflake.connector

        return snowflake.connector.connect(
            user="user",
            password="password",
            account="local",
            host="127.0.0.1",
            port=self.server.port,
            database=self.database,
            schema="PUBLIC",
            insecure_mode=True,
            session_parameters={"TIMEZONE": "UTC"},
        )

    def run(self, statement: str) -> list[Any]:
        return list(self.connection.cursor().execute(statement).fetchall())

    def close(self) -> None:
        self.connection.close()

    def transcripts(self, table: str = "plaud_transcripts", schema: str | None = None) -> Rows:
        return self._read(TRANSCRIPTS, table, schema, "transcription_id")

    def segments(self, table: str = "plaud_segments", schema: str | None = None) -> Rows:
        return self._read(SEGMENTS, table, schema, "transcription_id, segment_index")

    def read(self, table: str, columns: list[str], order: str) -> Rows:
        return self._read(columns, table, None, order)

    def create_schema(self, name: str) -> None:
        self.run(f"create schema {name}")
        # The new one is the session's own now.
        self.run("use schema PUBLIC")

    def create_by_hand(self) -> None:
        self.run(
            "create table PLAUD_TRANSCRIPTS (REVIEWED_BY varchar, RAW variant not null, RUN_ID varchar, "
            "DAG_ID varchar, LANDED_AT timestamp_tz not null, COMPLETED_AT timestamp_tz, "
            "SUBMITTED_AT timestamp_tz, ERROR varchar, STATUS varchar not null, SPEAKER_COUNT number(38,0), "
            "SEGMENT_COUNT bigint not null, TEXT varchar, DURATION_SECONDS double, LANGUAGE string, "
            "REGION varchar not null, AUDIO_URI varchar, SOURCE varchar default 'plaud', "
            "TRANSCRIPTION_ID varchar not null)"
        )
        self.run(
            "create table plaud_segments (text varchar not null, speaker varchar, end_seconds float, "
            "start_seconds float, segment_index int not null, note varchar, "
            "transcription_id varchar not null)"
        )

    def create_view(self, name: str, query: str) -> None:
        self.run(f"create view {name} as {query}")

    def drop_column(self, table: str, column: str) -> None:
        self.run(f"alter table {table} drop column {column}")

    @contextmanager
    def interrupted(self, writer: WarehouseWriter, step: int) -> Iterator[Interruption]:
        from snowflake.connector.cursor import SnowflakeCursor

        interruption = Interruption(step)
        execute = SnowflakeCursor.execute

        def interrupted(cursor: Any, *arguments: Any, **named: Any) -> Any:
            # Before the server has it, and after it has, when the answer is lost; nothing gets through then.
            if interruption.is_now() or interruption.has_happened:
                raise LostConnectionError
            answer = execute(cursor, *arguments, **named)
            if interruption.is_now():
                raise LostConnectionError
            return answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SnowflakeCursor, "execute", interrupted)
            yield interruption

    def lose_rights(self) -> None:
        self.connect(role="READER")

    def _read(self, columns: list[str], table: str, schema: str | None, order: str) -> Rows:
        name = (
            table
            if table.islower() and table.replace("_", "").isalpha()
            else '"' + table.replace('"', '""') + '"'
        )
        where = name if schema is None else f"{schema}.{name}"
        # The stand-in answers 1970 where a time is missing.
        times = [name for name in columns if name.endswith("_at")]
        chosen = ", ".join([*columns, *(f"{name} is null" for name in times)])
        found = []
        for row in self.run(f"select {chosen} from {where} order by {order}"):
            values = dict(zip(columns, row, strict=False))
            missing = dict(zip(times, row[len(columns) :], strict=True))
            found.append({name: None if missing.get(name) else value for name, value in values.items()})
        return found


class BigQueryLake(Lake):
    """BigQuery's stand-in, through the real client."""

    takes_quotes = False

    def __init__(self, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.dataset = f"test_{uuid.uuid4().hex}"
        monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", server.address)
        extra = {"is_anonymous": True, "project": "plaud", "dataset": self.dataset}
        told = {"conn_type": "gcpbigquery", "extra": extra}
        monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(told))
        self.client.create_dataset(self.dataset)

    @cached_property
    def client(self) -> Any:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import bigquery

        return bigquery.Client(project="plaud", credentials=AnonymousCredentials())

    def run(self, statement: str) -> list[Any]:
        return [tuple(row.values()) for row in self.client.query(statement).result()]

    def close(self) -> None:
        self.client.close()

    def transcripts(self, table: str = "plaud_transcripts", schema: str | None = None) -> Rows:
        return self._read(TRANSCRIPTS, table, schema, "transcription_id")

    def segments(self, table: str = "plaud_segments", schema: str | None = None) -> Rows:
        return self._read(SEGMENTS, table, schema, "transcription_id, segment_index")

    def read(self, table: str, columns: list[str], order: str) -> Rows:
        return self._read(columns, table, None, order)

    def create_schema(self, name: str) -> None:
        self.client.create_dataset(name)

    def create_by_hand(self) -> None:
        self.run(
            f"create table {self.dataset}.plaud_transcripts (reviewed_by string, raw json not null, "
            "run_id string, DAG_ID string, landed_at timestamp not null, completed_at timestamp, "
            "submitted_at timestamp, error string, status string not null, speaker_count int64, "
            "segment_count int64 not null, text string, duration_seconds float64, language string, "
            "region string not null, audio_uri string, source string default 'plaud', "
            "transcription_id string not null)"
        )
        self.run(
            f"create table {self.dataset}.plaud_segments (text string not null, speaker string, "
            "end_seconds float64, start_seconds float64, segment_index int64 not null, note string, "
            "transcription_id string not null)"
        )

    def create_view(self, name: str, query: str) -> None:
        self.run(f"create view {self.dataset}.{name} as {query}")

    def drop_column(self, table: str, column: str) -> None:
        self.run(f"alter table {self.dataset}.{table} drop column {column}")

    @contextmanager
    def interrupted(self, writer: WarehouseWriter, step: int) -> Iterator[Interruption]:
        from google.auth.transport.requests import AuthorizedSession

        interruption = Interruption(step)
        request = AuthorizedSession.request

        def interrupted(session: Any, method: str, *arguments: Any, **named: Any) -> Any:
            # Before the server has it, and after it has, when the answer is lost; nothing gets through then.
            changes = method != "GET"
            if (changes and interruption.is_now()) or interruption.has_happened:
                raise LostConnectionError
            answer = request(session, method, *arguments, **named)
            if changes and interruption.is_now():
                raise LostConnectionError
            return answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AuthorizedSession, "request", interrupted)
            yield interruption
        # What was asked for goes on without us.
        for job in self.client.list_jobs(state_filter="running"):
            job.result()

    def lose_rights(self) -> None:
        """Answer as BigQuery does to one who may only look: the stand-in knows no roles."""
        from airflow.providers.google.cloud.hooks.bigquery import BigQueryHook
        from google.api_core.exceptions import Forbidden

        get_client = BigQueryHook.get_client

        def limited(hook: Any, **named: Any) -> Any:
            client = get_client(hook, **named)
            call = client._call_api

            def refuse(*arguments: Any, **details: Any) -> Any:
                if details.get("method") != "GET":
                    raise Forbidden("Access Denied", errors=[{"reason": "accessDenied"}])
                return call(*arguments, **details)

            client._call_api = refuse
            return client

        self.monkeypatch.setattr(BigQueryHook, "get_client", limited)

    def _read(self, columns: list[str], table: str, schema: str | None, order: str) -> Rows:
        chosen = ", ".join(
            # Of NULL that is the text "null".
            f"if({name} is null, null, to_json_string({name}))" if name in ("raw", "metadata") else name
            for name in columns
        )
        found = self.run(f"select {chosen} from `{schema or self.dataset}.{table}` order by {order}")
        return [dict(zip(columns, row, strict=True)) for row in found]


def _backquoted(name: str) -> str:
    return "`" + name.replace("`", "\\`") + "`"


class OpenLake(Lake):
    """Files in a local folder or in S3, read as people read them: by DuckDB with the query of the docs."""

    has_schemas = False

    def __init__(self, lake: OpenFormat, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.lake = lake
        self.monkeypatch = monkeypatch
        self.folder = folder

    def writer(self, **names: Any) -> WarehouseWriter:
        return open_warehouse(None, lake=self.lake, **names)

    def loader(self, **names: Any) -> Any:
        return choose_loader(None, plaud_tables(**names), lake=self.lake)

    @abstractmethod
    def arrow(self, table: str, schema: str | None) -> Any:
        """Return all rows of a table, past the package."""

    @abstractmethod
    def create(self, table: str, schema: Any) -> None: ...

    #: How readers find the rows of a transcript once.
    latest = ""

    def transcripts(self, table: str = "plaud_transcripts", schema: str | None = None) -> Rows:
        return self._query(
            f"select {', '.join(TRANSCRIPTS)} from transcripts {self.latest} order by transcription_id",
            transcripts=self.arrow(table, schema),
        )

    def segments(self, table: str = "plaud_segments", schema: str | None = None) -> Rows:
        return self._query(
            f"select {', '.join('s.' + name for name in SEGMENTS)} from segments s "
            f"join (from transcripts {self.latest}) t using (transcription_id, landed_at) "
            "order by transcription_id, segment_index",
            transcripts=self.arrow(self._transcripts_beside(table), schema),
            segments=self.arrow(table, schema),
        )

    def read(self, table: str, columns: list[str], order: str) -> Rows:
        return self._query(
            f"select {', '.join(columns)} from rows_of_it {self.latest} order by {order}",
            rows_of_it=self.arrow(table, None),
        )

    def _transcripts_beside(self, segments: str) -> str:
        return "plaud_transcripts" if segments == "plaud_segments" else "we\"ird `it's` name"

    @staticmethod
    def _query(query: str, **tables: Any) -> Rows:
        import duckdb

        with duckdb.connect() as connection:
            for name, table in tables.items():
                connection.register(name, table)
            return list(connection.sql(query).to_arrow_table().to_pylist())

    def create_schema(self, name: str) -> None:
        raise NotImplementedError

    def create_by_hand(self) -> None:
        import pyarrow as pa

        text, time, double = pa.string(), pa.timestamp("us", tz="UTC"), pa.float64()
        ours = dict.fromkeys(("reviewed_by", "raw", "run_id", "dag_id", "error", "status", "text"), text)
        ours |= dict.fromkeys(("landed_at", "completed_at", "submitted_at"), time)
        counts = dict.fromkeys(("speaker_count", "segment_count"), pa.int64())
        rest = {"duration_seconds": double, "language": text, "region": text, "audio_uri": text}
        ours |= counts | rest | {"source": text, "transcription_id": text}
        self.create("plaud_transcripts", pa.schema(list(ours.items())))
        segments = {"landed_at": time, "text": text, "speaker": text, "end_seconds": double, "note": text}
        segments |= {"start_seconds": double, "segment_index": pa.int64(), "transcription_id": text}
        self.create("plaud_segments", pa.schema(list(segments.items())))

    @contextmanager
    def interrupted(self, writer: WarehouseWriter, step: int) -> Iterator[Interruption]:
        interruption = Interruption(step)

        def wrapped(method: Any) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                # Before it is written, and after it is, when the answer is lost.
                if interruption.is_now():
                    raise LostConnectionError
                answer = method(*arguments, **named)
                if interruption.is_now():
                    raise LostConnectionError
                return answer

            return call

        with pytest.MonkeyPatch.context() as patch:
            for where, name in self.steps():
                patch.setattr(where, name, wrapped(getattr(where, name)))
            yield interruption

    @abstractmethod
    def steps(self) -> list[tuple[Any, str]]:
        """Return the calls that write."""

    def lose_rights(self) -> None:
        """Go on as a user who may read only; root may do everything."""
        for path in (self.folder, *self.folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        for path in list(self.folder.parents)[:-2]:
            path.chmod(path.stat().st_mode | 0o055)
        os.seteuid(NOBODY)

    def close(self) -> None:
        os.seteuid(os.getuid())


NOBODY = 65534


class IcebergLake(OpenLake):
    has_schemas = True

    def create_schema(self, name: str) -> None:
        self.loader()._catalog.create_namespace(name)

    def create(self, table: str, schema: Any) -> None:
        catalog = self.loader()._catalog
        catalog.create_namespace_if_not_exists("plaud")
        catalog.create_table(("plaud", table), schema, location=f"{self.lake.location}/by_hand/{table}")

    def arrow(self, table: str, schema: str | None) -> Any:
        return self.loader()._catalog.load_table((schema or "plaud", table)).scan().to_arrow()

    def drop_column(self, table: str, column: str) -> None:
        with (
            self.loader()
            ._catalog.load_table(("plaud", table))
            .update_schema(allow_incompatible_changes=True) as update
        ):
            update.delete_column(column)

    def steps(self) -> list[tuple[Any, str]]:
        from pyiceberg.table import Transaction

        return [(Transaction, "commit_transaction")]


class DeltaLake(OpenLake):
    def create(self, table: str, schema: Any) -> None:
        from deltalake import DeltaTable

        options = storage_options(self.lake)
        DeltaTable.create(f"{self.lake.location}/{table}", schema, storage_options=options)

    def arrow(self, table: str, schema: str | None) -> Any:
        return self._table(table).to_pyarrow_table()

    def _table(self, table: str) -> Any:
        from deltalake import DeltaTable

        uri = f"{self.lake.location}/{folder_name(table)}"
        return DeltaTable(uri, storage_options=storage_options(self.lake))

    def drop_column(self, table: str, column: str) -> None:
        from deltalake import write_deltalake

        rest = self._table(table).to_pyarrow_table().drop_columns([column])
        write_deltalake(self._table(table), rest, mode="overwrite", schema_mode="overwrite")

    def steps(self) -> list[tuple[Any, str]]:
        import deltalake

        return [(deltalake, "write_deltalake"), (deltalake.DeltaTable, "delete")]


class ParquetLake(OpenLake):
    latest = "qualify row_number() over (partition by transcription_id order by landed_at desc) = 1"

    def create(self, table: str, schema: Any) -> None:
        import pyarrow.parquet as pq

        path = storage_path(self.lake) / table
        path.mkdir(parents=True, exist_ok=True)
        with (path / "a.parquet").open("wb") as file:
            pq.write_table(schema.empty_table(), file)

    def arrow(self, table: str, schema: str | None) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts = []
        for path in self._files(table):
            with path.open("rb") as file:
                parts.append(pq.read_table(file))
        return pa.concat_tables(parts, promote_options="permissive")

    def _files(self, table: str) -> list[Any]:
        folder = storage_path(self.lake) / folder_name(table)
        folder.fs.invalidate_cache()
        return sorted(folder.glob("*.parquet"), key=str)

    def drop_column(self, table: str, column: str) -> None:
        import pyarrow.parquet as pq

        for path in self._files(table):
            with path.open("rb") as file:
                rest = pq.read_table(file).drop_columns([column])
            with path.open("wb") as file:
                pq.write_table(rest, file)

    def steps(self) -> list[tuple[Any, str]]:
        import pyarrow.parquet as pq

        return [(pq, "write_table")]


class InS3:
    """S3 as a lake is in it."""

    server: S3Server

    def lose_rights(self) -> None:
        self.server.gate.is_read_only = True


Make = Callable[[pytest.FixtureRequest], Lake]


def _in_file(kind: str, lake: type[SqlLake]) -> Make:
    def make(request: pytest.FixtureRequest) -> Lake:
        monkeypatch = request.getfixturevalue("monkeypatch")
        return lake(connected(kind, request.getfixturevalue("tmp_path"), monkeypatch), monkeypatch)

    return make


def _postgres(request: pytest.FixtureRequest) -> Lake:
    monkeypatch = request.getfixturevalue("monkeypatch")
    return PostgresLake(
        connected_postgres(request.getfixturevalue("postgres_database"), monkeypatch), monkeypatch
    )


def _mysql(request: pytest.FixtureRequest) -> Lake:
    from tests.warehouses.mariadb_server import connected_mariadb

    monkeypatch = request.getfixturevalue("monkeypatch")
    database = request.getfixturevalue("mariadb_database")
    return MySqlLake(connected_mariadb(database, monkeypatch), monkeypatch)


def _clickhouse(request: pytest.FixtureRequest) -> Lake:
    return ClickHouseLake(request.getfixturevalue("tmp_path"), request.getfixturevalue("monkeypatch"))


def _bigquery(request: pytest.FixtureRequest) -> Lake:
    server = request.getfixturevalue("bigquery_server")
    return BigQueryLake(server, request.getfixturevalue("monkeypatch"))


def _snowflake(request: pytest.FixtureRequest) -> Lake:
    server = request.getfixturevalue("snowflake_server")
    return SnowflakeLake(server, request.getfixturevalue("monkeypatch"))


def _empty_glue(server: S3Server) -> None:
    """Remove what another test has left in the catalog beside the bucket."""
    glue = boto3.client(
        "glue",
        endpoint_url=server.url,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name=REGION,
    )
    for database in glue.get_databases()["DatabaseList"]:
        glue.delete_database(Name=database["Name"])
    glue.close()


def _open(name: str, kind: type[OpenLake], *, is_in_s3: bool = False, catalog: str | None = None) -> Make:
    def make(request: pytest.FixtureRequest) -> Lake:
        monkeypatch, folder = request.getfixturevalue("monkeypatch"), request.getfixturevalue("tmp_path")
        conn_id = None
        if catalog == "rest":
            conn_id = "a_catalog"
            monkeypatch.setenv("AIRFLOW_CONN_A_CATALOG", request.getfixturevalue("rest_catalog").connection())
        if not is_in_s3:
            return kind(OpenFormat(str(folder / "lake"), name, conn_id), monkeypatch, folder)
        server = request.getfixturevalue("s3")
        if catalog == "sql":
            conn_id = "a_catalog"
            told = json.dumps({"conn_type": "sqlite", "host": str(folder / "catalog.db")})
            monkeypatch.setenv("AIRFLOW_CONN_A_CATALOG", told)
        elif catalog == "glue":
            conn_id = "aws_calls"
            _empty_glue(server)
        lake = OpenFormat("s3://aws_calls@calls/lake", name, conn_id)
        made = type(f"S3{kind.__name__}", (InS3, kind), {})(lake, monkeypatch, folder)
        made.server = server
        return made  # type: ignore[no-any-return]

    return make


KINDS: dict[str, Make] = {
    "sqlite": _in_file("sqlite", SqliteLake),
    "duckdb": _in_file("duckdb", DuckDbLake),
    "postgres": _postgres,
    "mysql": _mysql,
    "clickhouse": _clickhouse,
    "snowflake": _snowflake,
    "bigquery": _bigquery,
    "iceberg": _open("iceberg", IcebergLake),
    "delta": _open("delta", DeltaLake),
    "parquet": _open("parquet", ParquetLake),
    "iceberg-rest": _open("iceberg", IcebergLake, catalog="rest"),
    "iceberg-s3": _open("iceberg", IcebergLake, is_in_s3=True, catalog="sql"),
    "iceberg-glue": _open("iceberg", IcebergLake, is_in_s3=True, catalog="glue"),
    "delta-s3": _open("delta", DeltaLake, is_in_s3=True),
    "parquet-s3": _open("parquet", ParquetLake, is_in_s3=True),
}
#: What the development environment has is tested by default; ``make test-warehouses`` names the others.
CHOSEN = os.environ.get("PLAUD_TEST_WAREHOUSES", "sqlite duckdb postgres").split()
#: Where the view of speakers is created; of a lake the docs have its query.
VIEWING = frozenset({"sqlite", "duckdb", "postgres", "mysql", "clickhouse", "snowflake", "bigquery"})
