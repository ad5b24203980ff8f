"""
The writer for DuckDB.

Statements are compiled with SQLAlchemy's PostgreSQL dialect, whose SQL DuckDB speaks, and run on the hook's
own connection: ``duckdb-engine``, which ``get_sqlalchemy_engine`` would need, fails with today's versions.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import duckdb
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql import quoted_name

from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.warehouse.writers.base import WarehouseWriter, batches, origin, told
from plaud_provider.warehouse.writers.fit import ExistingColumn, ExistingTable, refuse_misfits

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.providers.duckdb.hooks.duckdb import DuckDBHook

    from plaud_provider.warehouse.rows import Row
    from plaud_provider.warehouse.tables import PlaudTables

Result = TypeVar("Result")

_DIALECT = postgresql.dialect(paramstyle="qmark")  # type: ignore[no-untyped-call]
# Rows per statement. A statement takes whole columns as lists: 340,000 rows/s, where executemany makes 2,200.
_BATCH = 20_000
_LOCK_HOLDER = re.compile(r"Conflicting lock is held in (.*?\(PID \d+\)(?: by user [^\s.]+)?)")
_CONFLICT = re.compile(r"conflict|constraint violation", re.IGNORECASE)
#: What DuckDB calls the types that hold ours.
_HOLDING: tuple[tuple[type[sa.types.TypeEngine[Any]], frozenset[str]], ...] = (
    (sa.String, frozenset({"VARCHAR"})),
    (sa.Float, frozenset({"DOUBLE"})),
    (sa.Integer, frozenset({"INTEGER", "UINTEGER", "BIGINT", "UBIGINT", "HUGEINT", "UHUGEINT"})),
    (sa.DateTime, frozenset({"TIMESTAMP WITH TIME ZONE"})),
)
#: What DuckDB's errors mean, and what to do.
_ADVICE: dict[type[Exception], tuple[str, str]] = {
    duckdb.ConversionException: (
        "a column cannot hold a value of ours",
        "Compare the table's types with ours.",
    ),
    duckdb.ConstraintException: (
        "a constraint of the table refused a row",
        "Look for checks that are not ours.",
    ),
    duckdb.OutOfMemoryException: (
        "DuckDB ran out of memory",
        "Raise memory_limit in the connection's extra.",
    ),
    duckdb.IOException: (
        "the file could not be written",
        "Make room on its disk, check its permissions; then retry.",
    ),
    duckdb.TransactionException: ("it could not be committed", "Make room if the disk is full; then retry."),
    duckdb.CatalogException: (
        "a table is not there any more",
        "Retry: each task creates missing tables first.",
    ),
}
_LOCK_ADVICE = (
    "DuckDB lets one process at a time open a file that is written. Close that program, or let fewer tasks "
    "write at once (max_active_tis_per_dag, a pool); then retry."
)


class DuckDbWriter(WarehouseWriter):
    """
    Writes to a DuckDB file or to MotherDuck.

    DuckDB lets one process at a time open a file that is written. So each call opens, writes and closes, and
    waits while another process has the file.

    :param hook: Hook of the warehouse, a ``DuckDBHook``.
    :param tables: Tables to write.
    :param wait_seconds: For how long to wait for another process to let go of the file, in seconds.
    :param sleep: How to wait.
    """

    def __init__(
        self,
        hook: DbApiHook,
        tables: PlaudTables,
        *,
        wait_seconds: float = 120.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(hook, tables, wait_seconds=wait_seconds, sleep=sleep)
        # The connection is put into the schema instead: "analytics"."plaud_segments" is ambiguous to DuckDB
        # where the file is called analytics.duckdb.
        self._unqualified = tables.without_schema()

    def ensure_tables(self) -> None:
        """Create the tables if they are not there, and check those that are; see the base class."""
        told(lambda: self._in_transaction(self._ensure), self._not_prepared)

    def _ensure(self, connection: duckdb.DuckDBPyConnection) -> None:
        pairs = (
            (self._tables.transcripts, self._unqualified.transcripts),
            (self._tables.segments, self._unqualified.segments),
        )
        found = {table: there for table, _ in pairs if (there := _existing(connection, table.name))}
        refuse_misfits(self._tables, found, _DIALECT, self._conn_id)
        for table, unqualified in pairs:
            if table not in found:
                connection.execute(_sql(CreateTable(unqualified, if_not_exists=True)))

    @property
    def _database(self) -> str:
        return "duckdb"

    def _replace(self, transcription_ids: list[str], transcripts: list[Row], segments: list[Row]) -> None:
        ours = self._unqualified

        def replace(connection: duckdb.DuckDBPyConnection) -> None:
            for table in (ours.transcripts, ours.segments):
                self._delete(connection, table, transcription_ids)
            self._insert(connection, ours.transcripts, transcripts)
            self._insert(connection, ours.segments, segments)

        self._in_transaction(replace)

    def _delete(
        self, connection: duckdb.DuckDBPyConnection, table: sa.Table, transcription_ids: list[str]
    ) -> None:
        ids = sa.select(sa.func.unnest(sa.cast(sa.bindparam("ids"), postgresql.ARRAY(sa.Text()))))
        connection.execute(
            _sql(sa.delete(table).where(table.c.transcription_id.in_(ids))), [transcription_ids]
        )

    def _insert(self, connection: duckdb.DuckDBPyConnection, table: sa.Table, rows: list[Row]) -> None:
        names = table.columns.keys()
        columns = [
            sa.func.unnest(sa.cast(sa.bindparam(name), postgresql.ARRAY(table.c[name].type))).label(name)
            for name in names
        ]
        statement = _sql(sa.insert(table).from_select(names, sa.select(*columns)))
        for batch in batches(rows, _BATCH):
            connection.execute(statement, [[row[name] for row in batch] for name in names])

    def _in_transaction(self, work: Callable[[duckdb.DuckDBPyConnection], Result]) -> Result:
        """Open the database, run ``work`` in a transaction, close; again while a writer is in the way."""

        def attempt() -> Result:
            # Closing a connection rolls back what was not committed.
            with closing(self._open()) as connection:
                self._enter_schema(connection)
                connection.begin()
                result = work(connection)
                connection.commit()
                return result

        return self._wait_out(attempt, _is_busy)

    def _open(self) -> duckdb.DuckDBPyConnection:
        hook = cast("DuckDBHook", self._hook)
        if told(hook.get_database, self._not_opened).partition("?")[0] in ("", ":memory:"):
            raise PlaudConfigurationError(
                f"sql_conn_id: connection {self._conn_id!r} names no DuckDB file. An in-memory database "
                "would vanish with the task, and the rows with it. Put the path of a file into the "
                "connection's host. Nothing was sent."
            )
        return told(hook.get_conn, self._not_opened, unless=_is_busy)

    def _enter_schema(self, connection: duckdb.DuckDBPyConnection) -> None:
        if self._tables.schema is None:
            return
        is_named = sa.func.lower(_SCHEMATA.c.schema_name) == sa.func.lower(sa.bindparam("schema"))
        query = sa.select(_SCHEMATA.c.catalog_name, _SCHEMATA.c.schema_name).where(_IN_DATABASE, is_named)
        found = connection.execute(_sql(query), [self._tables.schema]).fetchone()
        if found is None:
            raise self._missing_schema()
        catalog, schema = (quoted_name(name, quote=True) for name in found)
        # USE takes no parameter; the dialect quotes both names.
        qualified = _DIALECT.identifier_preparer.format_table(sa.table(schema, schema=catalog))
        connection.execute(f"USE {qualified}")

    def _reason(self, error: Exception) -> tuple[str, str]:
        if _is_locked(error):
            held = _LOCK_HOLDER.search(str(error))
            return (
                f"another process had the DuckDB file open for {self._wait_seconds:.0f} s and longer"
                + (f", {held.group(1)}" if held else ""),
                _LOCK_ADVICE,
            )
        if isinstance(error, duckdb.InvalidInputException) and "read-only mode" in str(error):
            return "the DuckDB file is opened read-only", "Remove read_only from the connection's extra."
        for kind, (reason, advice) in _ADVICE.items():
            if isinstance(error, kind):
                return f"{reason} ({type(error).__name__})", advice
        return origin(error), "Retry; if it stays, look at the tables with DuckDB's own client."


_SCHEMATA = sa.table(
    "schemata", sa.column("catalog_name"), sa.column("schema_name"), schema="information_schema"
)
_TABLES = sa.table(
    "tables",
    *map(sa.column, ("table_catalog", "table_schema", "table_name", "table_type")),
    schema="information_schema",
)
_COLUMNS = sa.table(
    "columns",
    *map(sa.column, ("table_catalog", "table_schema", "table_name", "column_name", "data_type")),
    *map(sa.column, ("is_nullable", "column_default", "ordinal_position")),
    schema="information_schema",
)
_IN_DATABASE = _SCHEMATA.c.catalog_name == sa.func.current_database()


def _existing(connection: duckdb.DuckDBPyConnection, name: str) -> ExistingTable | None:
    kind = connection.execute(
        _sql(sa.select(_TABLES.c.table_type).where(*_is_table(_TABLES))), [name]
    ).fetchone()
    if kind is None:
        return None
    query = (
        sa.select(
            _COLUMNS.c.column_name, _COLUMNS.c.data_type, _COLUMNS.c.is_nullable, _COLUMNS.c.column_default
        )
        .where(*_is_table(_COLUMNS))
        .order_by(_COLUMNS.c.ordinal_position)
    )
    columns = [
        ExistingColumn(
            name=column,
            type_name=data_type,
            nullable=is_nullable == "YES",
            has_default=default is not None,
            holds=partial(_holds, data_type),
        )
        for column, data_type, is_nullable, default in connection.execute(_sql(query), [name]).fetchall()
    ]
    return ExistingTable(columns=columns, is_view=kind[0] == "VIEW")


def _is_table(listing: sa.TableClause) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        listing.c.table_catalog == sa.func.current_database(),
        listing.c.table_schema == sa.func.current_schema(),
        sa.func.lower(listing.c.table_name) == sa.func.lower(sa.bindparam("name")),
    )


def _holds(data_type: str, column: sa.Column[Any]) -> bool:
    return any(isinstance(column.type, ours) and data_type in theirs for ours, theirs in _HOLDING)


def _sql(statement: sa.ClauseElement) -> str:
    return str(statement.compile(dialect=_DIALECT))


def _is_locked(error: BaseException) -> bool:
    return isinstance(error, duckdb.IOException) and (
        "Could not set lock on file" in str(error) or "already open in" in str(error)
    )


def _is_busy(error: BaseException) -> bool:
    """Whether another writer is in the way: a process that has the file, or (MotherDuck) a transaction."""
    # A full disk is a TransactionException as well: waiting does not empty it.
    is_conflict = isinstance(error, duckdb.TransactionException) and _CONFLICT.search(str(error)) is not None
    return is_conflict or _is_locked(error)
