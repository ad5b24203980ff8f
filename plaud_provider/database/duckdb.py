"""
DuckDB: a file, or MotherDuck.

Statements are compiled with SQLAlchemy's PostgreSQL dialect, whose SQL DuckDB speaks, and run on the hook's
own connection: ``duckdb-engine``, which ``get_sqlalchemy_engine`` would need, fails with today's versions.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import duckdb
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql.compiler import SQLCompiler

from plaud_provider.database import arrays
from plaud_provider.database.base import Database, Transaction, origin, told
from plaud_provider.database.fit import ExistingColumn, ExistingTable, refuse_misfits
from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.warehouse.rows import columns_of

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.providers.duckdb.hooks.duckdb import DuckDBHook

    from plaud_provider.database.base import MayReplace
    from plaud_provider.exceptions import PlaudWarehouseError
    from plaud_provider.warehouse.rows import Columns, Row
    from plaud_provider.warehouse.tables import DeclaredTables

Result = TypeVar("Result")

_quiet = logging.getLogger(f"{__name__}.hook")
_quiet.setLevel(logging.WARNING)
_LOCK_HOLDER = re.compile(r"Conflicting lock is held in (.*?\(PID \d+\)(?: by user [^\s.]+)?)")
#: For so long a file without DuckDB's header may be one that another process creates, which has no lock yet.
CREATION_SECONDS = 10.0
_CONFLICT = re.compile(r"conflict|constraint violation", re.IGNORECASE)
#: What DuckDB calls the types that hold ours.
_HOLDING: tuple[tuple[type[sa.types.TypeEngine[Any]], frozenset[str]], ...] = (
    (sa.String, frozenset({"VARCHAR"})),
    (sa.Float, frozenset({"DOUBLE"})),
    (sa.Integer, frozenset({"INTEGER", "UINTEGER", "BIGINT", "UBIGINT", "HUGEINT", "UHUGEINT"})),
    (sa.DateTime, frozenset({"TIMESTAMP WITH TIME ZONE"})),
    (sa.Boolean, frozenset({"BOOLEAN"})),
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


class DuckDbTransaction(Transaction):
    """
    A transaction on a DuckDB connection.

    :param connection: The connection, in a transaction.
    :param missing_schema: What to raise for a schema that is not there.
    """

    kind = "duckdb"

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, missing_schema: Callable[[str], PlaudWarehouseError]
    ) -> None:
        self._connection = connection
        self._missing_schema = missing_schema
        self._schemas: dict[str, tuple[str, str]] = {}
        self.dialect = _dialect()
        self.dialect.identifier_preparer = _Qualifying(self.dialect, self.find_schema)

    def rows(self, query: sa.Select[Any]) -> Sequence[Sequence[Any]]:
        """Return what a query finds."""
        return self.run(query).fetchall()

    def change(self, statement: sa.Update, parameters: Mapping[str, Any] | None = None) -> int:
        """Run a statement and return how many rows it changed."""
        count = self.run(statement, parameters).fetchone()
        return int(count[0]) if count else 0

    def insert(self, table: sa.Table, columns: Columns) -> None:
        """Insert rows, given as the values of each column."""
        for batch in arrays.parts(columns):
            self.run(arrays.insert(table), batch)

    def upsert(self, table: sa.Table, rows: Sequence[Row], *, may_replace: MayReplace) -> None:
        """Insert rows, or replace those that may be; see the base class."""
        for batch in arrays.parts(columns_of(rows)):
            try:
                self.run(arrays.upsert(table, may_replace), batch)
            except duckdb.ConstraintException as error:
                if "Duplicate key" not in str(error):
                    raise
                # An upsert does not see a key that another transaction has added since this one began.
                raise duckdb.TransactionException("Conflict with another transaction's key") from None

    def delete(self, column: sa.Column[Any], values: Sequence[str]) -> None:
        """Delete the rows of the column's table that have one of these values."""
        self.run(arrays.delete(column), {column.name: list(values)})

    def run(
        self, statement: sa.ClauseElement, parameters: Mapping[str, Any] | None = None
    ) -> duckdb.DuckDBPyConnection:
        """
        Compile a statement and run it.

        :param statement: The statement.
        :param parameters: Values of its parameters that have none yet.
        """
        compiled = statement.compile(dialect=self.dialect)
        if not isinstance(compiled, SQLCompiler):
            return self._connection.execute(str(compiled))
        expanded = compiled.construct_expanded_state(parameters)
        return self._connection.execute(expanded.statement, expanded.positional_parameters)

    def find_schema(self, name: str) -> tuple[str, str]:
        """
        Return a schema's database, and its name in the letters that it was created with.

        :param name: Its name; DuckDB does not tell upper from lower case.
        :raises PlaudWarehouseError: if there is none.
        """
        if name not in self._schemas:
            is_named = sa.func.lower(_SCHEMATA.c.schema_name) == sa.func.lower(str(name))
            found = self.rows(
                sa.select(_SCHEMATA.c.catalog_name, _SCHEMATA.c.schema_name).where(_IN_DATABASE, is_named)
            )
            if not found:
                raise self._missing_schema(name)
            self._schemas[name] = (found[0][0], found[0][1])
        return self._schemas[name]


class _Qualifying(postgresql.base.PGIdentifierPreparer):
    """
    Writes schemas with their database before them.

    ``"analytics"."plaud_segments"`` alone is ambiguous to DuckDB where the file is called
    ``analytics.duckdb``.
    """

    def __init__(self, dialect: sa.Dialect, find: Callable[[str], tuple[str, str]]) -> None:
        super().__init__(dialect)
        self._find = find

    def quote_schema(self, schema: str) -> str:
        """Return a schema's name as it goes into a statement."""
        if schema == "information_schema":
            return schema
        return ".".join(self.quote_identifier(name) for name in self._find(schema))


class DuckDbDatabase(Database):
    """
    A DuckDB file, or MotherDuck.

    DuckDB lets one process at a time open a file that is written. So each transaction opens, writes and
    closes, and waits while another process has the file.

    :param hook: Its hook, a ``DuckDBHook``.
    :param role: What it is used as, for messages.
    :param parameter: Argument that names its connection, for messages.
    :param wait_seconds: For how long to wait for another process to let go of the file, in seconds.
    :param sleep: How to wait.
    """

    kind = "duckdb"

    def __init__(
        self,
        hook: DbApiHook,
        *,
        role: str = "warehouse",
        parameter: str = "sql_conn_id",
        wait_seconds: float = 120.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(hook, role=role, parameter=parameter, wait_seconds=wait_seconds, sleep=sleep)
        # It says so each time that it opens the file: hundreds of lines for a task with many transactions.
        hook._log = _quiet

    def transaction(self, work: Callable[[Transaction], Result], *, is_patient: bool = False) -> Result:
        """Open the database, run ``work`` in a transaction, close; see the base class."""

        def attempt() -> Result:
            # Closing a connection rolls back what was not committed.
            with closing(self._open()) as connection:
                connection.begin()
                result = work(DuckDbTransaction(connection, self._missing_schema))
                connection.commit()
                return result

        return self._wait_out(attempt, self._is_busy)

    def reason(self, error: Exception) -> tuple[str, str]:
        """Return why DuckDB refused, and what to do."""
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

    def _refuse_names(self, tables: DeclaredTables) -> None:
        # DuckDB takes names of any length.
        pass

    def _ensure(self, tables: DeclaredTables) -> None:
        def ensure(transaction: Transaction) -> None:
            assert isinstance(transaction, DuckDbTransaction)  # noqa: S101
            found = {table: there for table in tables.parameters if (there := _existing(transaction, table))}
            refuse_misfits(tables, found, transaction.dialect, self.title)
            for table in tables.parameters:
                if table not in found:
                    # Without its indexes: DuckDB scans a column faster than it keeps an index.
                    transaction.run(CreateTable(table, if_not_exists=True))

        self.transaction(ensure)

    def _open(self) -> duckdb.DuckDBPyConnection:
        hook = cast("DuckDBHook", self._hook)
        if self._path() in ("", ":memory:"):
            raise PlaudConfigurationError(
                f"{self._parameter}: connection {self.conn_id!r} names no DuckDB file. An in-memory database "
                "would vanish with the task, and the rows with it. Put the path of a file into the "
                "connection's host. Nothing was sent."
            )
        return told(hook.get_conn, self.not_opened, unless=self._is_busy)

    def _path(self) -> str:
        database: str = told(cast("DuckDBHook", self._hook).get_database, self.not_opened)
        return database.partition("?")[0]

    def _is_busy(self, error: BaseException) -> bool:
        return _is_busy(error) or (_is_incomplete(error) and self._is_new())

    def _is_new(self) -> bool:
        """Whether another process may be about to create the file."""
        try:
            return time.time() < os.stat(self._path()).st_mtime + CREATION_SECONDS
        except OSError:
            return False


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
_KEYS = sa.func.duckdb_constraints().table_valued(
    "database_name", "schema_name", "table_name", "constraint_type", "constraint_column_names"
)
_IN_DATABASE = _SCHEMATA.c.catalog_name == sa.func.current_database()


def _existing(transaction: DuckDbTransaction, table: sa.Table) -> ExistingTable | None:
    schema = transaction.find_schema(table.schema)[1] if table.schema is not None else None
    kind = transaction.rows(
        sa.select(_TABLES.c.table_type).where(
            *_is_at(table.name, schema, _TABLES.c.table_catalog, _TABLES.c.table_schema, _TABLES.c.table_name)
        )
    )
    if not kind:
        return None
    columns = transaction.rows(
        sa.select(
            _COLUMNS.c.column_name, _COLUMNS.c.data_type, _COLUMNS.c.is_nullable, _COLUMNS.c.column_default
        )
        .where(
            *_is_at(
                table.name, schema, _COLUMNS.c.table_catalog, _COLUMNS.c.table_schema, _COLUMNS.c.table_name
            )
        )
        .order_by(_COLUMNS.c.ordinal_position)
    )
    keys = transaction.rows(
        sa.select(_KEYS.c.constraint_column_names).where(
            *_is_at(table.name, schema, _KEYS.c.database_name, _KEYS.c.schema_name, _KEYS.c.table_name),
            _KEYS.c.constraint_type.in_(("PRIMARY KEY", "UNIQUE")),
        )
    )
    return ExistingTable(
        columns=[
            ExistingColumn(
                name=column,
                type_name=data_type,
                nullable=is_nullable == "YES",
                has_default=default is not None,
                holds=partial(_holds, data_type),
            )
            for column, data_type, is_nullable, default in columns
        ],
        is_view=kind[0][0] == "VIEW",
        keys=[frozenset(name.casefold() for name in names) for (names,) in keys],
    )


def _is_at(
    name: str,
    schema: str | None,
    database_column: sa.ColumnElement[str],
    schema_column: sa.ColumnElement[str],
    name_column: sa.ColumnElement[str],
) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        database_column == sa.func.current_database(),
        schema_column == (sa.func.current_schema() if schema is None else schema),
        sa.func.lower(name_column) == sa.func.lower(name),
    )


def _holds(data_type: str, column: sa.Column[Any]) -> bool:
    return any(isinstance(column.type, ours) and data_type in theirs for ours, theirs in _HOLDING)


def _dialect() -> sa.Dialect:
    return postgresql.dialect(paramstyle="qmark")  # type: ignore[no-untyped-call]


def _is_locked(error: BaseException) -> bool:
    return isinstance(error, duckdb.IOException) and (
        "Could not set lock on file" in str(error) or "already open in" in str(error)
    )


def _is_incomplete(error: BaseException) -> bool:
    return isinstance(error, duckdb.IOException) and (
        "not a valid DuckDB database file" in str(error) or "Could not read enough bytes" in str(error)
    )


def _is_busy(error: BaseException) -> bool:
    """Whether another writer is in the way: a process that has the file, or a transaction (of a thread)."""
    # A full disk is a TransactionException as well: waiting does not empty it.
    is_conflict = isinstance(error, duckdb.TransactionException) and _CONFLICT.search(str(error)) is not None
    return is_conflict or _is_locked(error)
