"""PostgreSQL: rows by COPY and as arrays, locks of rows and of names, a server's clock, restarts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool, QueuePool

from plaud_provider.database import arrays, copying
from plaud_provider.database.dialect import Dialect, code_of, replace_nuls

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from plaud_provider.database.dialect import MayReplace
    from plaud_provider.database.rows import Columns, Row

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
# The server is shutting down, has crashed, or is starting.
_AWAY = frozenset({"57P01", "57P02", "57P03"})
# Redshift is reached by PostgreSQL's hook, and declares keys without enforcing them.
_REDSHIFT = ("redshift", "redshift-serverless")
# Advisory locks are numbers that all programs of a database share: the first of two is ours ("plau").
_LOCK_SPACE = int.from_bytes(b"plau")
# The lock table has room for some 6,000 locks by default, for all transactions together. Names that share one
# wait for each other, no more.
_LOCKS = 1024


class PostgresDialect(Dialect):
    """What PostgreSQL does in its own way. Redshift, which says that it is PostgreSQL 8, does less of it."""

    def __init__(self, hook: DbApiHook, *, parameter: str, keeps_connection: bool = False) -> None:
        super().__init__(hook, parameter=parameter, keeps_connection=keeps_connection)
        self.name = "postgresql"
        if any(hook.connection_extra.get(name) for name in _REDSHIFT):
            self.conn_type = "redshift"
        self.enforces_keys = self.conn_type != "redshift"
        # A token is good for a quarter of an hour.
        self.engine_stays_good = not hook.connection_extra.get("iam")

    def create_engine(self) -> sa.Engine:
        """Return SQLAlchemy's engine; see the base class."""
        # An engine with a token is used once: nobody would come back for its connection.
        is_kept = self._keeps_connection and self.engine_stays_good
        options = _KEEPING if is_kept else {"poolclass": NullPool}
        # Who has waited for a lock has to see what the other one wrote.
        return self._engine(isolation_level="READ COMMITTED", connect_args=self._connect_options(), **options)

    def insert(self, connection: sa.Connection, table: sa.Table, columns: Columns) -> None:
        """Insert rows; see the base class."""
        if not _has_arrays(connection):
            super().insert(connection, table, columns)
        elif connection.dialect.driver in copying.DRIVERS:
            copying.copy_rows(connection, table, columns)
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
        arrays.upsert(connection, table, rows, may_replace)

    def delete(self, connection: sa.Connection, column: sa.Column[Any], values: Sequence[str]) -> None:
        """Delete rows; see the base class."""
        if _has_arrays(connection):
            arrays.delete(connection, column, values)
        else:
            super().delete(connection, column, values)

    def lock(self, connection: sa.Connection, names: Iterable[str]) -> None:
        """Keep other transactions that lock one of these names waiting until this one ends."""
        if not _has_arrays(connection):
            return
        locks = sorted(
            {int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % _LOCKS for name in names}
        )
        numbers = sa.func.unnest(sa.cast(locks, postgresql.ARRAY(sa.Integer))).column_valued("number")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_SPACE, numbers)))

    def lock_rows(self, connection: sa.Connection, query: sa.Select[Any]) -> None:
        """Lock the rows that a query finds, in its order."""
        connection.execute(query.with_for_update())

    def now(self, connection: sa.Connection) -> datetime:
        """Return the server's time, in UTC; not that of the transaction's start, which may have waited."""
        moment: datetime = connection.scalars(sa.select(sa.func.clock_timestamp())).one()
        return moment.astimezone(UTC)

    def clean(self, rows_or_columns: Iterable[Row | list[Any]]) -> int:
        """Replace NUL, which PostgreSQL cannot store, in place, and return how many there were."""
        return replace_nuls(rows_or_columns)

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
        options = {"connect_timeout": 30, "keepalives_idle": 60} | given
        if sa.URL.create(hook.sqlalchemy_scheme).get_dialect().driver == "psycopg":
            # It prepares what it has run five times on a connection. A pooler such as PgBouncer, which has
            # another connection to the server for each transaction, knows nothing of it at the sixth.
            options["prepare_threshold"] = None
        return options


def _has_arrays(connection: sa.Connection) -> bool:
    # Redshift has neither arrays nor locks by name.
    return (connection.dialect.server_version_info or ()) >= (9, 5)
