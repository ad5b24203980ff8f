"""PostgreSQL: rows by COPY and as arrays, locks by name, a server's clock, restarts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool, QueuePool

from plaud_provider.database import arrays, copying
from plaud_provider.database.dialect import Dialect, code_of, replace_nuls, upsert_of
from plaud_provider.database.rows import are_large, columns_of
from plaud_provider.database.types import JsonText, UtcTime
from plaud_provider.exceptions import PlaudConfigurationError

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from plaud_provider.database.dialect import MayReplace
    from plaud_provider.database.rows import Columns, Row

log = logging.getLogger(__name__)

#: After so many seconds a connection is not used again: firewalls cut those that idle for some minutes.
KEPT_SECONDS = 30
# As many as submits of a task run at the same time, and more if need be. One may be broken when it is used
# again, after a restart of the server, so it is asked for an answer first.
_KEEPING: dict[str, Any] = {
    "poolclass": QueuePool,
    "pool_size": 8,
    "max_overflow": -1,
    "pool_pre_ping": True,
    "pool_recycle": KEPT_SECONDS,
}
# The server is shutting down, has crashed, or is starting.
_AWAY = frozenset({"57P01", "57P02", "57P03"})
# Advisory locks are numbers of 64 bits that all programs of a database share: ours are made of this as well.
_LOCK_SPACE = "airflow-provider-plaud"
# What a table may be closed to though another way is open: a feature that it does not go with (COPY with
# row-level security, an upsert with rules), a key that takes no upsert.
_CLOSED = ("0A", "42P10", "55000")
# Nobody may create temporary tables where that right was revoked.
_NO_TEMPORARY = (*_CLOSED, "42501")
_STAGED = "plaud_staged"
_UNUSABLE_KEYS = sa.text(
    "select relname from pg_catalog.pg_index join pg_catalog.pg_class on pg_class.oid = indexrelid "
    "where indrelid = :oid and not (indimmediate and indisvalid)"
)


class PostgresDialect(Dialect):
    """What PostgreSQL does in its own way."""

    tells_cases_apart = True
    check_late = "SET CONSTRAINTS ALL IMMEDIATE"
    # Who has waited for a lock has to see what the other one wrote.
    isolation_level = "READ COMMITTED"

    def __init__(self, hook: DbApiHook, *, parameter: str, keeps_connection: bool = False) -> None:
        super().__init__(hook, parameter=parameter, keeps_connection=keeps_connection)
        self.name = "postgresql"
        self._closed: set[str] = set()
        # A token is good for a quarter of an hour.
        self.engine_stays_good = not hook.connection_extra.get("iam")

    def create_engine(self) -> sa.Engine:
        """Return SQLAlchemy's engine; see the base class."""
        # An engine with a token is used once: nobody would come back for its connection.
        is_kept = self._keeps_connection and self.engine_stays_good
        options = _KEEPING if is_kept else {"poolclass": NullPool}
        return self._engine(isolation_level="AUTOCOMMIT", connect_args=self._connect_options(), **options)

    def insert(self, connection: sa.Connection, table: sa.Table, columns: Columns) -> None:
        """Insert rows, by COPY where the table is open to it; see the base class."""

        def copy() -> None:
            copying.copy_rows(connection, table, columns)

        has_copy = connection.dialect.driver in copying.DRIVERS
        if has_copy and self._is_done(connection, copy, f"COPY into {table.fullname}"):
            return
        if _has_json(table):
            super().insert(connection, table, columns)
        else:
            arrays.insert(connection, table, columns)

    def upsert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        rows: Sequence[Row],
        *,
        may_replace: MayReplace | None = None,
    ) -> None:
        """Insert rows, or replace those that may be; see the base class."""

        def upsert() -> None:
            if _has_json(table):
                connection.execute(upsert_of(postgresql.insert(table), table, may_replace), rows)
            else:
                arrays.upsert(connection, table, rows, may_replace)

        def staged() -> None:
            _upsert_staged(connection, table, rows)

        if may_replace is not None:
            upsert()
        elif (
            connection.dialect.driver in copying.DRIVERS
            and are_large(rows)
            and self._is_done(connection, staged, f"a temporary table for {table.fullname}", _NO_TEMPORARY)
        ):
            pass
        elif not self._is_done(connection, upsert, f"upsert into {table.fullname}"):
            self._update_or_insert(connection, table, rows)

    def delete(self, connection: sa.Connection, column: sa.Column[Any], values: Sequence[str]) -> None:
        """Delete rows; see the base class."""
        arrays.delete(connection, column, values)

    def lock(self, connection: sa.Connection, names: Iterable[str]) -> None:
        """
        Keep other transactions that lock one of these names waiting until this one ends.

        The server's lock table has room for some 6,000 locks by default, for all transactions together.
        """
        locks = sorted(_lock_number(name) for name in names)
        numbers = sa.func.unnest(sa.cast(locks, postgresql.ARRAY(sa.BigInteger))).column_valued("number")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(numbers)))

    @staticmethod
    def clock(after: timedelta) -> sa.ColumnElement[datetime]:
        """Return the server's time in SQL; not that of the transaction's start, which may have waited."""
        return sa.func.clock_timestamp(type_=UtcTime()) + sa.literal(after, sa.Interval())

    def clean(self, rows_or_columns: Iterable[Row | list[Any]], *, json: Collection[str] = ()) -> int:
        """Replace NUL, which PostgreSQL cannot store, in place, and return how many there were."""
        return replace_nuls(rows_or_columns, json)

    def refuse_unsuited(self, connection: sa.Connection, title: str) -> None:
        """Refuse a database that cannot hold every text."""
        # Redshift says that it is PostgreSQL 8, and its TEXT has 256 bytes.
        if (connection.dialect.server_version_info or ()) < (9, 5):
            raise PlaudConfigurationError(
                f"{self._parameter}: {title} is a Redshift, or a PostgreSQL before 9.5: its columns do not "
                "hold every text, nor its keys two writers apart. Name a PostgreSQL database. Nothing was "
                "sent."
            )
        encoding = connection.exec_driver_sql("show server_encoding").scalar_one()
        if encoding != "UTF8":
            raise PlaudConfigurationError(
                f"{self._parameter}: {title} is a database with encoding {encoding}, which cannot hold what "
                "people say in every language. Create one with encoding UTF8 (create database ... encoding "
                "'UTF8' template template0), and name it in the connection. Nothing was sent."
            )

    def unusable_keys(self, inspector: sa.Inspector, table: sa.Table) -> Collection[str | None]:
        """Return the names of keys that are checked later, or are not complete."""
        there: Any = inspector
        oid = there.get_table_oid(table.name, table.schema)
        return set(there.bind.execute(_UNUSABLE_KEYS, {"oid": oid}).scalars())

    def is_passing(self, error: BaseException) -> bool:
        """Whether another writer of the same rows was in the way."""
        # Locks keep writers of one row apart: a key that is there twice is not ours.
        return code_of(error) in ("40001", "40P01")

    def is_away(self, error: BaseException) -> bool:
        """Whether the server cannot be reached (any more), which may pass."""
        if not isinstance(error, DBAPIError) or not type(error.orig).__module__.startswith("psycopg"):
            return False
        code = code_of(error)
        # libpq gives no code for a connection that it could not make, or that broke.
        return (
            error.connection_invalidated
            or code in _AWAY
            or code.startswith("08")
            or (isinstance(error, OperationalError) and not code)
        )

    def explain(self, error: BaseException) -> tuple[str, str]:
        """Return what an error means, and what to do."""
        if self.is_away(error):
            code = code_of(error)
            return "the connection broke" + (f" ({code})" if code else ""), "Retry."
        return super().explain(error)

    def _is_done(
        self,
        connection: sa.Connection,
        work: Callable[[], None],
        way: str,
        closed: tuple[str, ...] = _CLOSED,
    ) -> bool:
        """
        Do something in a way that a table may be closed to, and return whether it is done.

        :param connection: Where ``work`` does it.
        :param work: What to do.
        :param way: The way; one that was found closed is not tried again.
        :param closed: What begins the codes that say that it is closed.
        """
        if way in self._closed:
            return False
        try:
            with connection.begin_nested():
                work()
        except DBAPIError as error:
            if not code_of(error).startswith(closed):
                raise
            self._closed.add(way)
            log.info("%s is refused (%s); it is done in another way", way, code_of(error))
            return False
        return True

    def _update_or_insert(self, connection: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
        (key,) = table.primary_key
        self.lock(connection, [f"{table.name}\0{row[key.name]}" for row in rows])
        new, old = arrays.split_by_key(connection, table, rows)
        self.insert(connection, table, columns_of(new))
        if old:
            values: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in old[0]}
            update = sa.update(table).where(key == values[key.name]).values(values)
            connection.execute(update, [{f"new_{name}": row[name] for name in row} for row in old])

    def _connect_options(self) -> dict[str, Any]:
        """
        Return what the hook's own connections are made with and its engine leaves out.

        Without this, ``{"sslmode": "verify-full"}`` in a connection's extra would verify nothing here.
        """
        hook: Any = self._hook
        given = {
            name: value
            for name, value in hook.connection_extra.items()
            if name not in hook.ignored_extra_options
        }
        # Of a database with another encoding the drivers would hand back bytes.
        options = {"connect_timeout": 30, "keepalives_idle": 60} | given | {"client_encoding": "utf8"}
        if sa.URL.create(hook.sqlalchemy_scheme).get_dialect().driver == "psycopg":
            # It prepares what it has run five times on a connection. A pooler such as PgBouncer, which has
            # another connection to the server for each transaction, knows nothing of it at the sixth.
            options["prepare_threshold"] = None
        return options


def _upsert_staged(connection: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """Send rows to a temporary table, and upsert them from there."""
    staged = sa.Table(_STAGED, sa.MetaData(), *(sa.Column(one.name, one.type) for one in table.c))
    like = connection.dialect.identifier_preparer.format_table(table)
    connection.exec_driver_sql(f"create temporary table {_STAGED} (like {like}) on commit drop")
    copying.copy_large_rows(connection, staged, rows)
    names = list(rows[0])
    insert = postgresql.insert(table).from_select(names, sa.select(*(staged.c[name] for name in names)))
    connection.execute(upsert_of(insert, table, None))
    connection.exec_driver_sql(f"drop table {_STAGED}")


def _has_json(table: sa.Table) -> bool:
    """
    Whether rows are given one by one: a value alone becomes jsonb or text, as its column is there.

    An array would have to tell which, and its quotes take longer to write than all the rest.
    """
    return any(isinstance(column.type, JsonText) for column in table.columns)


def _lock_number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{_LOCK_SPACE}\0{name}".encode()).digest()[:8], signed=True)
