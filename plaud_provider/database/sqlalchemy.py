"""
Everything that SQLAlchemy speaks: SQLite, PostgreSQL and others with a ``common-sql`` hook.

Engines are made with ``hide_parameters``: SQLAlchemy's errors and logs would quote the rows otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool
from sqlalchemy.schema import CreateIndex, CreateTable

from plaud_provider.database import codes
from plaud_provider.database.base import Database, Transaction, batches, origin, told
from plaud_provider.database.columns import existing_column
from plaud_provider.database.fit import ExistingTable, refuse_misfits
from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.warehouse.rows import rows_of

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from plaud_provider.database.base import MayReplace
    from plaud_provider.warehouse.rows import Columns, Row
    from plaud_provider.warehouse.tables import DeclaredTables

Result = TypeVar("Result")

# Values per DELETE: the smallest limit on variables is 999, of older SQLite.
_BATCH = 500
#: After so many seconds a connection is not used again: firewalls cut those that idle for some minutes.
KEPT_SECONDS = 30
# One connection for the next transaction, and a new one for each that runs at the same time. It may be broken
# by then, after a restart of the server, so it is asked for an answer first.
_KEEPING: dict[str, Any] = {
    "poolclass": QueuePool,
    "pool_size": 1,
    "max_overflow": -1,
    "pool_pre_ping": True,
    "pool_recycle": KEPT_SECONDS,
}


class SqlAlchemyTransaction(Transaction):
    """
    A transaction on a SQLAlchemy connection.

    :param connection: The connection, in a transaction.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    @property
    def kind(self) -> str:
        """Kind of database, by SQLAlchemy's name of the dialect."""
        return self._connection.dialect.name

    def rows(self, query: sa.Select[Any]) -> Sequence[Sequence[Any]]:
        """Return what a query finds."""
        return self._connection.execute(query).all()

    def change(self, statement: sa.Update, parameters: Mapping[str, Any] | None = None) -> int:
        """Run a statement and return how many rows it changed."""
        return self._connection.execute(statement, parameters).rowcount

    def insert(self, table: sa.Table, columns: Columns) -> None:
        """Insert rows, given as the values of each column."""
        if rows := rows_of(columns):
            self._connection.execute(sa.insert(table), rows)

    def upsert(self, table: sa.Table, rows: Sequence[Row], *, may_replace: MayReplace) -> None:
        """Insert rows, or replace those that may be, in SQLite's words; see the base class."""
        statement = sqlite.insert(table)
        others = [column.name for column in table.c if not column.primary_key]
        self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=list(table.primary_key),
                set_={name: statement.excluded[name] for name in others},
                where=may_replace(statement.excluded),
            ),
            rows,
        )

    def delete(self, column: sa.Column[Any], values: Sequence[str]) -> None:
        """Delete the rows of the column's table that have one of these values."""
        for batch in batches(values, _BATCH):
            self._connection.execute(sa.delete(column.table).where(column.in_(batch)))


class SqlAlchemyDatabase(Database):
    """
    A database that the hook's SQLAlchemy engine reaches.

    :param hook: Its hook.
    :param role: What it is used as, for messages.
    :param parameter: Argument that names its connection, for messages.
    :param keeps_connection: Whether a connection to PostgreSQL is kept for the next transaction, until
        :meth:`close`.
    :param wait_seconds: For how long to wait for other writers, in seconds.
    :param sleep: How to wait (SQLite waits by itself).
    """

    def __init__(
        self,
        hook: DbApiHook,
        *,
        role: str = "warehouse",
        parameter: str = "sql_conn_id",
        keeps_connection: bool = False,
        wait_seconds: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(hook, role=role, parameter=parameter, wait_seconds=wait_seconds, sleep=sleep)
        self._keeps_connection = keeps_connection
        self._engine: sa.Engine | None = None

    @property
    def kind(self) -> str:
        """Kind of database, by SQLAlchemy's name of the dialect."""
        return self.engine.dialect.name

    def transaction(self, work: Callable[[Transaction], Result], *, is_patient: bool = False) -> Result:
        """Run ``work`` in a transaction of a connection; see the base class."""

        def is_passing(error: BaseException) -> bool:
            # In PostgreSQL locks keep writers of one row apart: a key that is there twice is not ours.
            is_other_writer = codes.is_conflict(error) or (
                codes.code_of(error) == codes.UNIQUE_VIOLATION and self.kind != "postgresql"
            )
            return is_other_writer or (is_patient and self._is_away(error))

        def attempt() -> Result:
            connect = told(self.engine.connect, self.not_opened, unless=is_passing)
            with connect as connection, connection.begin():
                return work(self._begun(connection))

        return self._wait_out(attempt, is_passing)

    def reason(self, error: Exception) -> tuple[str, str]:
        """Return what the database's code for an error means, and what to do."""
        return codes.explained(error) or (
            f"{origin(error)} {codes.code_of(error)}".strip(),
            "Retry; if it stays, look at the database's own log.",
        )

    @property
    def engine(self) -> sa.Engine:
        """The engine, made at first use."""
        if self._engine is None or self._hook.connection_extra.get("iam"):
            # Such an engine holds a token that is good for a quarter of an hour.
            self._engine = told(self._create_engine, self.not_opened)
        return self._engine

    def close(self) -> None:
        """Close the connection that is kept, if there is one."""
        if self._engine is not None:
            self._engine.dispose()

    def _create_engine(self) -> sa.Engine:
        options: dict[str, Any] = {"hide_parameters": True, "poolclass": NullPool}
        if self._hook.conn_type == "sqlite":
            options["connect_args"] = {"timeout": self._wait_seconds}
        elif self._hook.conn_type == "postgres":
            options["connect_args"] = _libpq_options(self._hook)
            # An engine with a token is used once: nobody would come back for its connection.
            if self._keeps_connection and not self._hook.connection_extra.get("iam"):
                options |= _KEEPING
        engine: sa.Engine = self._hook.get_sqlalchemy_engine(engine_kwargs=options)
        if engine.dialect.name == "sqlite":
            if _is_in_memory(engine.url):
                raise PlaudConfigurationError(
                    f"{self._parameter}: connection {self.conn_id!r} names no SQLite file. An in-memory "
                    "database would vanish with the task, and the rows with it. Put the path of a file into "
                    "the connection's host. Nothing was sent."
                )
            event.listen(engine, "connect", _leave_transactions_to_us)
            event.listen(engine, "begin", _take_write_lock)
        elif engine.dialect.name == "postgresql":
            event.listen(engine, "connect", partial(_set_up_postgres, engine.dialect))
        return engine

    def _begun(self, connection: sa.Connection) -> Transaction:
        dialect = connection.dialect
        # Redshift, which says that it is PostgreSQL 8, has neither arrays nor these locks.
        if dialect.name == "postgresql" and (dialect.server_version_info or ()) >= (9, 5):
            from plaud_provider.database.postgresql import PostgresTransaction

            return PostgresTransaction(connection)
        return SqlAlchemyTransaction(connection)

    def _is_away(self, error: BaseException) -> bool:
        return codes.is_away(error)

    def _refuse_names(self, tables: DeclaredTables) -> None:
        tables.refuse_names_longer_than(self.engine.dialect.max_identifier_length, self.kind)

    def _ensure(self, tables: DeclaredTables) -> None:
        found = self._connected(partial(self._existing, tables))
        refuse_misfits(tables, found, self.engine.dialect, self.title)
        for table in tables.parameters:
            if table in found:
                continue
            try:
                self._connected(partial(_create, table))
            except DBAPIError:
                # Another task may have been faster. IF NOT EXISTS is no help: in PostgreSQL it can fail then.
                if not self._connected(partial(_has_table, table)):
                    raise

    def _connected(self, work: Callable[[sa.Connection], Result]) -> Result:
        with told(self.engine.connect, self.not_opened) as connection, connection.begin():
            return work(connection)

    def _existing(self, tables: DeclaredTables, connection: sa.Connection) -> dict[sa.Table, ExistingTable]:
        inspector = sa.inspect(connection)
        schema = tables.schema
        if schema is not None and not inspector.has_schema(schema):
            raise self._missing_schema(schema)
        views = set(inspector.get_view_names(schema))
        return {
            table: ExistingTable(
                columns=[
                    existing_column(column, connection.dialect)
                    for column in inspector.get_columns(table.name, schema)
                ],
                is_view=table.name in views,
                keys=_keys(inspector, table) if table in tables.keyed and table.name not in views else (),
            )
            for table in tables.parameters
            if inspector.has_table(table.name, schema)
        }


def _keys(inspector: sa.Inspector, table: sa.Table) -> list[frozenset[str]]:
    where = (table.name, table.schema)
    primary = inspector.get_pk_constraint(*where)["constrained_columns"]
    keys = [primary, *(known["column_names"] for known in inspector.get_unique_constraints(*where))]
    for index in inspector.get_indexes(*where):
        is_partial = any(option.endswith("_where") for option in index.get("dialect_options", {}))
        if index["unique"] and not is_partial:
            keys.append([name for name in index["column_names"] if name is not None])
    return [frozenset(name.casefold() for name in key) for key in keys]


def _create(table: sa.Table, connection: sa.Connection) -> None:
    connection.execute(CreateTable(table))
    for index in sorted(table.indexes, key=lambda index: [column.name for column in index.columns]):
        connection.execute(CreateIndex(index))


def _has_table(table: sa.Table, connection: sa.Connection) -> bool:
    return sa.inspect(connection).has_table(table.name, table.schema)


def _libpq_options(hook: Any) -> dict[str, Any]:
    """
    Return what the hook's own connections are made with and its engine leaves out.

    Without this, ``{"sslmode": "verify-full"}`` in a connection's extra would verify nothing here.
    """
    given = {
        name: value for name, value in hook.connection_extra.items() if name not in hook.ignored_extra_options
    }
    return {"connect_timeout": 30, "keepalives_idle": 60} | given


def _set_up_postgres(dialect: sa.Dialect, connection: Any, _record: object) -> None:
    # Who has waited for a lock has to see what the other one wrote.
    dialect.set_isolation_level(connection, "READ COMMITTED")
    # psycopg prepares what it has run five times on a connection, of which a pooler such as PgBouncer, with a
    # server's connection for each transaction, knows nothing at the sixth.
    if hasattr(connection, "prepare_threshold"):
        connection.prepare_threshold = None


def _leave_transactions_to_us(connection: Any, _record: object) -> None:
    connection.isolation_level = None


def _take_write_lock(connection: sa.Connection) -> None:
    # A transaction that starts by reading fails at its first write if another one wrote meanwhile, without
    # waiting.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _is_in_memory(url: sa.URL) -> bool:
    name = url.database or ""
    return name in ("", ":memory:", "file:", "file::memory:") or url.query.get("mode") == "memory"
