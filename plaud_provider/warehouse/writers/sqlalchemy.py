"""
The writer for everything that SQLAlchemy speaks: SQLite, PostgreSQL and others with a ``common-sql`` hook.

Engines are made with ``hide_parameters``: SQLAlchemy's errors and logs would quote the rows otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateTable

from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.warehouse.writers.base import WarehouseWriter, batches, origin, told
from plaud_provider.warehouse.writers.fit import ExistingColumn, ExistingTable, refuse_misfits

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from plaud_provider.warehouse.rows import Row
    from plaud_provider.warehouse.tables import PlaudTables

Result = TypeVar("Result")

# Ids per DELETE: the smallest limit on variables is 999, of older SQLite.
_BATCH = 500
# SQLSTATEs of two loaders of one transcription: unique violation, serialization failure, deadlock.
_CONFLICTS = frozenset({"23505", "40001", "40P01"})
_LOOK_FOR_CONSTRAINTS = "Look for checks, keys and triggers that this package did not make."
#: What a database's own code means, by the start of SQLite's name for it or of a SQLSTATE.
_ADVICE = {
    "SQLITE_BUSY": (
        "another process held SQLite's write lock for too long",
        "Let fewer tasks write at once.",
    ),
    "SQLITE_READONLY": ("the database is read-only", "Check the file's permissions and the connection."),
    "SQLITE_FULL": ("the disk is full", "Make room, then retry."),
    "SQLITE_IOERR": (
        "the file could not be written",
        "Make room on its disk, check its permissions; then retry.",
    ),
    "SQLITE_CONSTRAINT": ("a constraint of the table refused a row", _LOOK_FOR_CONSTRAINTS),
    "08": ("the connection broke", "Retry."),
    "22": ("a column cannot hold a value of ours", "Compare the table's types with ours."),
    "23": ("a constraint of the table refused a row", _LOOK_FOR_CONSTRAINTS),
    "40": ("other writers kept getting in the way", "Retry."),
    "42501": (
        "permission was denied",
        "Grant select, insert and delete on both tables, create on the schema.",
    ),
    "53": ("the database is out of disk space, memory or connections", "Make room, then retry."),
    "57": (
        "the statement was cancelled, by a timeout or by an operator",
        "Raise statement_timeout, or retry.",
    ),
}


class SqlAlchemyWriter(WarehouseWriter):
    """
    Writes through the hook's SQLAlchemy engine.

    :param hook: Hook of the warehouse.
    :param tables: Tables to write.
    :param wait_seconds: For how long to wait for other writers, in seconds.
    :param sleep: How to wait (SQLite waits by itself).
    """

    def __init__(
        self,
        hook: DbApiHook,
        tables: PlaudTables,
        *,
        wait_seconds: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(hook, tables, wait_seconds=wait_seconds, sleep=sleep)

    def ensure_tables(self) -> None:
        """Create the tables if they are not there, and check those that are; see the base class."""
        self._tables.refuse_names_longer_than(self._engine.dialect.max_identifier_length, self._database)
        told(self._ensure, self._not_prepared)

    def _ensure(self) -> None:
        found = self._in_transaction(self._existing)
        refuse_misfits(self._tables, found, self._engine.dialect, self._conn_id)
        for table in self._tables.metadata.sorted_tables:
            if table in found:
                continue
            try:
                self._in_transaction(partial(_create, table))
            except DBAPIError:
                # Another task may have been faster. IF NOT EXISTS is no help: in PostgreSQL it can fail then.
                if not self._in_transaction(partial(_has_table, table)):
                    raise

    @property
    def _database(self) -> str:
        return self._engine.dialect.name

    def _replace(self, transcription_ids: list[str], transcripts: list[Row], segments: list[Row]) -> None:
        ours = self._tables

        def replace(connection: sa.Connection) -> None:
            for ids in batches(transcription_ids, _BATCH):
                for table in (ours.transcripts, ours.segments):
                    connection.execute(sa.delete(table).where(table.c.transcription_id.in_(ids)))
            connection.execute(sa.insert(ours.transcripts), transcripts)
            if segments:
                connection.execute(sa.insert(ours.segments), segments)

        self._wait_out(lambda: self._in_transaction(replace), _is_conflict)

    def _in_transaction(self, work: Callable[[sa.Connection], Result]) -> Result:
        with told(self._engine.connect, self._not_opened) as connection, connection.begin():
            return work(connection)

    @cached_property
    def _engine(self) -> sa.Engine:
        return told(self._create_engine, self._not_opened)

    def _create_engine(self) -> sa.Engine:
        # No pool: a connection that idles through minutes of API calls may be cut by a firewall or a restart.
        options: dict[str, Any] = {"hide_parameters": True, "poolclass": NullPool}
        if self._hook.conn_type == "sqlite":
            options["connect_args"] = {"timeout": self._wait_seconds}
        engine: sa.Engine = self._hook.get_sqlalchemy_engine(engine_kwargs=options)
        if engine.dialect.name == "sqlite":
            if _is_in_memory(engine.url):
                raise PlaudConfigurationError(
                    f"sql_conn_id: connection {self._conn_id!r} names no SQLite file. An in-memory database "
                    "would vanish with the task, and the rows with it. Put the path of a file into the "
                    "connection's host. Nothing was sent."
                )
            event.listen(engine, "connect", _leave_transactions_to_us)
            event.listen(engine, "begin", _take_write_lock)
        return engine

    def _existing(self, connection: sa.Connection) -> dict[sa.Table, ExistingTable]:
        inspector = sa.inspect(connection)
        schema = self._tables.schema
        if schema is not None and not inspector.has_schema(schema):
            raise self._missing_schema()
        views = set(inspector.get_view_names(schema))
        return {
            table: ExistingTable(
                columns=[
                    _existing_column(column, connection.dialect)
                    for column in inspector.get_columns(table.name, schema)
                ],
                is_view=table.name in views,
            )
            for table in self._tables.metadata.sorted_tables
            if inspector.has_table(table.name, schema)
        }

    def _reason(self, error: Exception) -> tuple[str, str]:
        code = _code(error)
        for start, (reason, advice) in _ADVICE.items():
            if code.startswith(start):
                return f"{reason} ({code})", advice
        return f"{origin(error)} {code}".strip(), "Retry; if it stays, look at the database's own log."


def _existing_column(column: Any, dialect: sa.Dialect) -> ExistingColumn:
    there = column["type"]
    return ExistingColumn(
        name=column["name"],
        type_name="of no type" if isinstance(there, sa.types.NullType) else there.compile(dialect=dialect),
        nullable=column["nullable"],
        has_default=bool(
            column.get("default") is not None
            or column.get("identity")
            or column.get("computed")
            or column.get("autoincrement") is True
        ),
        holds=partial(_holds, there, dialect),
    )


def _holds(there: sa.types.TypeEngine[Any], dialect: sa.Dialect, column: sa.Column[Any]) -> bool:
    """Whether a type can hold every value of a column of ours; one that SQLAlchemy does not know may."""
    needed = column.type
    if isinstance(there, sa.types.NullType) or there.compile(dialect=dialect) == needed.compile(
        dialect=dialect
    ):
        return True
    is_sqlite = dialect.name == "sqlite"
    is_text = isinstance(there, sa.String) and not isinstance(there, (sa.CHAR, sa.NCHAR, sa.Enum))
    length = getattr(there, "length", None)
    if isinstance(needed, sa.String):
        return is_text and (length is None or (needed.length is not None and needed.length <= length))
    if isinstance(needed, sa.Float):
        # SQLite's REAL has 64 bits, that of others 32.
        return isinstance(there, sa.Float) and (is_sqlite or not _is_single(there))
    if isinstance(needed, sa.Integer):
        is_whole = isinstance(there, sa.Numeric) and not isinstance(there, sa.Float) and there.scale == 0
        return is_whole or (isinstance(there, sa.Integer) and not isinstance(there, sa.SmallInteger))
    return (isinstance(there, sa.DateTime) and (is_sqlite or there.timezone)) or (
        is_sqlite and is_text and length is None
    )


def _is_single(there: sa.Float[Any]) -> bool:
    return isinstance(there, sa.REAL) or (there.precision is not None and there.precision <= 24)


def _create(table: sa.Table, connection: sa.Connection) -> None:
    connection.execute(CreateTable(table))


def _has_table(table: sa.Table, connection: sa.Connection) -> bool:
    return sa.inspect(connection).has_table(table.name, table.schema)


def _leave_transactions_to_us(connection: Any, _record: object) -> None:
    connection.isolation_level = None


def _take_write_lock(connection: sa.Connection) -> None:
    # A transaction that starts by reading fails at its first write if another one wrote meanwhile, without
    # waiting.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _is_in_memory(url: sa.URL) -> bool:
    name = url.database or ""
    return name in ("", ":memory:", "file:", "file::memory:") or url.query.get("mode") == "memory"


def _code(error: BaseException) -> str:
    """Return the database's code for an error: SQLite's name, a SQLSTATE, or nothing."""
    original = getattr(error, "orig", None) or error
    for attribute in ("sqlite_errorname", "sqlstate", "pgcode"):
        if isinstance(code := getattr(original, attribute, None), str):
            return code
    return ""


def _is_conflict(error: BaseException) -> bool:
    return _code(error) in _CONFLICTS
