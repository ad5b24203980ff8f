"""
The quota of several hosts: one row of a table in a SQL database.

The database's clock is the outer one of the quota's :class:`~plaud_provider.quota.clock.Clock`, so that it
does not matter whether those of the hosts agree.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socket import SHUT_RDWR, socket
from threading import Event, Timer
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from plaud_provider.exceptions import PlaudConfigurationError, how_to_install
from plaud_provider.quota.document import from_document, to_document
from plaud_provider.quota.rule import Quota
from plaud_provider.quota.stores import LOCK_SECONDS, Change, StoreUnavailableError, tell_time

if TYPE_CHECKING:
    from airflow.sdk import Connection

T = TypeVar("T")

TABLE = sa.Table(
    "plaud_budget",
    sa.MetaData(),
    sa.Column("base_url", sa.Text, primary_key=True),
    sa.Column("client_id", sa.Text, primary_key=True),
    # The names are those of the tables that exist.
    sa.Column("budget", sa.Text, key="quota"),
)
_CONNECT_SECONDS = 5


class SqlStore:
    """
    A quota in the row of one client; the row is locked while it is changed.

    One connection is kept as long as the store is: connecting takes longer than all the rest.

    :param connection: Airflow connection of a PostgreSQL database, or of a SQLite file. Making a store opens
        nothing, but may ask Airflow for its providers: it does not belong on an event loop.
    :param base_url: Where the client's requests go.
    :param client_id: Plaud client id.
    :raises PlaudConfigurationError: if it is a connection of something else.
    """

    def __init__(self, connection: Connection, *, base_url: str, client_id: str) -> None:
        self._conn_id = connection.conn_id
        self._engine = _engine(connection)
        # Not at the end of the process: a child of fork() would close its parent's connection.
        weakref.finalize(self, self._engine.dispose).atexit = False
        self._key = {"base_url": base_url, "client_id": client_id}
        self._row = sa.and_(TABLE.c.base_url == base_url, TABLE.c.client_id == client_id)
        self._is_ready = False
        self._was_there = False

    def update(self, change: Change[T]) -> T:
        """Change the quota."""
        try:
            if not self._is_ready:
                self._prepare()
                self._is_ready = True
            try:
                return self._in_transaction(lambda connection: self._update(connection, change))
            except DBAPIError as broken:
                if not broken.connection_invalidated and not isinstance(broken, IntegrityError):
                    raise
                # The kept connection did not outlive the pause, or another one has just made the row.
                return self._in_transaction(lambda connection: self._update(connection, change))
        except SQLAlchemyError as unusable:
            self._is_ready = False
            raise StoreUnavailableError(
                f"the database of connection {self._conn_id!r} cannot be used ({_words(unusable)})"
            ) from None

    def look(self) -> tuple[Quota, float] | None:
        """Return the quota and the time, changing nothing; ``None`` if there is none yet, or none to read."""

        def look(connection: sa.Connection) -> tuple[Quota, float] | None:
            if not _has_table(connection):
                return None
            document = connection.scalar(sa.select(TABLE.c.quota).where(self._row))
            if document is None:
                return None
            quota = from_document(document)
            return quota, self._tell_time(quota, connection)

        try:
            return self._in_transaction(look)
        except SQLAlchemyError:
            return None
        finally:
            # People look now and then.
            self._engine.dispose()

    def _update(self, connection: sa.Connection, change: Change[T]) -> T:
        self._begin(connection)
        row = connection.execute(sa.select(TABLE.c.quota).where(self._row).with_for_update()).one_or_none()
        if row is None:
            # Removed by someone, or the first use of a client in a table of others: no telling which.
            quota = Quota.unknown()
            connection.execute(sa.insert(TABLE).values(self._key))
        else:
            quota = Quota() if row.quota is None else from_document(row.quota)
        # Only now: what was waited for the row has passed.
        result = change(quota, self._tell_time(quota, connection))
        connection.execute(sa.update(TABLE).where(self._row).values(quota=to_document(quota)))
        self._was_there = True
        return result

    def _begin(self, connection: sa.Connection) -> None:
        if self._engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            # A host that has been stopped with the row in its hands must not stop all others.
            settings = ("lock_timeout", "idle_in_transaction_session_timeout")
            bound = f"{LOCK_SECONDS * 1000:.0f}ms"
            connection.execute(sa.select(*(sa.func.set_config(name, bound, True) for name in settings)))

    def _tell_time(self, quota: Quota, connection: sa.Connection) -> float:
        if self._engine.dialect.name == "sqlite":
            return tell_time(quota)
        now: Any = connection.scalar(sa.select(sa.extract("epoch", sa.func.clock_timestamp())))
        return tell_time(quota, outer=float(now))

    def _prepare(self) -> None:
        """Create the table, with this client's row, if it is not there."""
        if self._in_transaction(_has_table):
            return

        def create(connection: sa.Connection) -> None:
            self._begin(connection)
            TABLE.create(connection)
            if not self._was_there:
                # Nobody has sent anything yet.
                connection.execute(sa.insert(TABLE).values(self._key))

        try:
            self._in_transaction(create)
        except DBAPIError:
            # Another one may have created it at the same time.
            if not self._in_transaction(_has_table):
                raise

    def _in_transaction(self, work: Callable[[sa.Connection], T]) -> T:
        with self._engine.connect() as connection, self._answering(connection), connection.begin():
            return work(connection)

    @contextmanager
    def _answering(self, connection: sa.Connection) -> Iterator[None]:
        """
        Hang up if the database does not answer in time.

        :raises StoreUnavailableError: if it did not.
        """
        if self._engine.dialect.name == "sqlite":
            yield
            return
        # No driver has a timeout for this, and a server that was stopped still acknowledges what is sent.
        driver: Any = connection.connection.driver_connection
        seconds = LOCK_SECONDS + 1
        with socket(fileno=os.dup(driver.fileno())) as line:
            hung_up = Event()

            def hang_up() -> None:
                hung_up.set()
                with suppress(OSError):
                    line.shutdown(SHUT_RDWR)

            timer = Timer(seconds, hang_up)
            timer.daemon = True
            timer.start()
            try:
                yield
            except SQLAlchemyError:
                if not hung_up.is_set():
                    raise
                connection.invalidate()
                raise StoreUnavailableError(
                    f"the database of connection {self._conn_id!r} has not answered for {seconds:g} seconds"
                ) from None
            finally:
                timer.cancel()


def _engine(connection: Connection) -> sa.Engine:
    from airflow.sdk.exceptions import AirflowException

    options: dict[str, Any] = {
        "hide_parameters": True,
        "poolclass": QueuePool,
        "pool_size": 1,
        "max_overflow": 0,
        "pool_timeout": LOCK_SECONDS,
    }
    if connection.conn_type == "sqlite":
        options["connect_args"] = {"timeout": LOCK_SECONDS}
        return sa.create_engine(sa.URL.create("sqlite", database=connection.host), **options)
    if connection.conn_type == "postgres":
        options["isolation_level"] = "READ COMMITTED"
        options["connect_args"] = {
            "connect_timeout": _CONNECT_SECONDS,
            "keepalives_idle": 30,
            "tcp_user_timeout": _CONNECT_SECONDS * 1000,
        }
        with suppress(AirflowException, ImportError):
            hook = connection.get_hook(hook_params={"connection": connection})
            engine: sa.Engine = hook.get_sqlalchemy_engine(engine_kwargs=options)
            return engine
    raise PlaudConfigurationError(
        f"budget_conn_id: connection {connection.conn_id!r} is of type {connection.conn_type!r}. The quota "
        "of several hosts is kept in PostgreSQL, with its provider and driver installed "
        f"({how_to_install('postgres')}). Correct that connection's type, or the extra budget_conn_id of the "
        "Plaud connection. Nothing was sent."
    )


def _has_table(connection: sa.Connection) -> bool:
    return sa.inspect(connection).has_table(TABLE.name)


def _words(failure: SQLAlchemyError) -> str:
    """Return the driver's first line: statements and parameters come after it, if at all."""
    said = str(getattr(failure, "orig", None) or type(failure).__name__).strip().splitlines()
    return (said[0] if said else type(failure).__name__).rstrip(".")
