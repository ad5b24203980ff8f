"""One database behind an Airflow connection: work in a transaction, waiting, and errors that quote no row."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential, wait_random

from plaud_provider.database.connections import hook_of, kind_of, look_up, safe_message
from plaud_provider.database.fit import create_or_check
from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudError,
    PlaudTableMismatchError,
    PlaudWarehouseError,
)

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import Connection

    from plaud_provider.database.dialect import Dialect
    from plaud_provider.database.fit import CreateView
    from plaud_provider.database.tables import DeclaredTables

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_ONCE_COMMITTED = "plaud_once_committed"


class Database:
    """
    A database behind an Airflow connection. Holds no connection between calls, unless its dialect is told to
    keep one; may be used by many threads.

    :param hook: Its hook.
    :param dialect: What this kind of database does in its own way.
    :param role: What it is used as, for messages.
    :param parameter: Argument that names its connection, for messages.
    """

    def __init__(self, hook: DbApiHook, dialect: Dialect, *, role: str, parameter: str) -> None:
        self.dialect = dialect
        self.conn_id = str(hook.get_conn_id())
        self._hook = hook
        self._role = role
        self._parameter = parameter
        self._sleep = time.sleep
        self._lock = threading.Lock()
        self._engine: sa.Engine | None = None

    @property
    def title(self) -> str:
        """What it is, for the middle of a sentence."""
        named = f" ({self._parameter})" if self._role != "warehouse" else ""
        return f"{self._role} {self.conn_id!r}{named}"

    @property
    def title_at_start(self) -> str:
        """The same at the start of a sentence."""
        return self.title[0].upper() + self.title[1:]

    @property
    def kind(self) -> str:
        """Kind of database, by SQLAlchemy's name of the dialect."""
        return self.dialect.name

    def as_warehouse(self) -> Self:
        """Return the same database as a warehouse, for messages; the two share what they have open."""
        other = copy(self)
        other._role, other._parameter = "warehouse", "sql_conn_id"
        return other

    def wait_at_most(self, seconds: float) -> Self:
        """Have it wait no longer than so for others who use the database; return it."""
        self.dialect.wait_seconds = min(self.dialect.wait_seconds, seconds)
        return self

    def close(self) -> None:
        """Close the connection that is kept between calls, if there is one."""
        if self._engine is not None:
            self._engine.dispose()

    def run(
        self,
        work: Callable[[sa.Connection], Result],
        *,
        failed: str,
        is_patient: bool = False,
        is_one_statement: bool = False,
        only_reads: bool = False,
    ) -> Result:
        """
        Run ``work`` in a transaction, again while another writer is in the way, for a bounded time.

        :param work: What to do; it may be done several times, the last of which counts.
        :param failed: What has not been done, for the message.
        :param is_patient: Whether to wait as well while the database is away, in a restart. Then ``work`` is
            also done again if the connection broke at its commit: it has to be one that can be.
        :param is_one_statement: Whether that is one statement, which needs no transaction around it.
        :param only_reads: Whether it writes nothing: then it keeps no writer out.
        :raises PlaudWarehouseError: if it cannot be opened, or refuses; in words that quote no row.
        :raises PlaudError: what ``work`` raises of it.
        """
        return self._run(
            work,
            lambda error: self._refusal(failed, error),
            is_patient=is_patient,
            is_one_statement=is_one_statement,
            only_reads=only_reads,
        )

    def try_out(
        self, work: Callable[[sa.Connection], object], tables: DeclaredTables
    ) -> PlaudTableMismatchError | None:
        """
        Run ``work``, which lands rows that are made up, in a transaction that is rolled back.

        :param work: What to do.
        :param tables: Tables that it writes, for the message.
        :return: What refused these rows, if others may pass: a check, a foreign key or a trigger.
        :raises PlaudTableMismatchError: if a table takes no rows such as these.
        :raises PlaudWarehouseError: if it cannot be opened, or this role may not write.
        """
        looks_at_values = False

        def tell(error: Exception) -> PlaudError:
            nonlocal looks_at_values
            looks_at_values = self.dialect.looks_at_values(error)
            return self._not_taken(error, tables)

        try:
            self._run(work, tell, is_rolled_back=True)
        except PlaudTableMismatchError as refused:
            if not looks_at_values:
                raise
            return refused
        return None

    def ensure(self, tables: DeclaredTables, *, is_checked: bool = False) -> bool:
        """
        Create tables if they are not there, and check those that are; safe when several tasks do it at once.

        :param tables: What is needed.
        :param is_checked: Whether a task before has done that: then one query of each table is enough that it
            answers.
        :return: Whether they were looked at, not merely asked.
        :raises PlaudTableMismatchError: if an existing table does not fit.
        :raises PlaudWarehouseError: if the database cannot be reached, or does not let us.
        :raises PlaudConfigurationError: if no table of this database would do, as it would vanish with the
            task, does not enforce keys or cannot hold every text.
        :raises PlaudInputError: if a name is too long for this kind of database.
        """
        if is_checked and self._answers(tables):
            return False
        tables.refuse_names_longer_than(self.engine.dialect.max_identifier_length, self.kind)
        tables.refuse_one_name_for_two(tells_cases_apart=self.dialect.tells_cases_apart)
        missing = self._run(
            partial(create_or_check, tables=tables, dialect=self.dialect, title=self.title),
            lambda error: self._not_prepared(error, tables),
            # Another task may have been faster. IF NOT EXISTS is no help: in PostgreSQL it can fail then.
            is_tried_twice=True,
        )
        for view in missing:
            self._create(view)
        return True

    @property
    def engine(self) -> sa.Engine:
        """SQLAlchemy's engine, made at first use; it may commit each statement, unlike :meth:`run`."""
        refusal: PlaudError
        with self._lock:
            if self._engine is not None and self.dialect.engine_stays_good:
                return self._engine
            try:
                self._engine = self.dialect.create_engine()
            except PlaudError:
                raise
            except Exception as error:
                refusal = self._not_opened(error)
            else:
                return self._engine
        raise refusal

    def _create(self, view: CreateView) -> None:
        """Make a view if this role may; tables are landed in without it, and another task may be faster."""
        try:
            self.run(lambda connection: connection.execute(view), failed=f"View {view.name} was not created")
        except PlaudWarehouseError as refused:
            log.info("%s Nothing depends on it; docs/model.md has what its owner may create.", refused)

    def _answers(self, tables: DeclaredTables) -> bool:
        """Whether all columns of all tables can be asked for."""

        def ask(connection: sa.Connection) -> None:
            for table in tables.parameters:
                connection.execute(sa.select(table).where(sa.false()))

        try:
            self.run(ask, failed="The tables could not be read", is_patient=True)
        except PlaudWarehouseError:
            return False
        return True

    def _run(
        self,
        work: Callable[[sa.Connection], Result],
        tell: Callable[[Exception], PlaudError],
        *,
        is_patient: bool = False,
        is_tried_twice: bool = False,
        is_one_statement: bool = False,
        only_reads: bool = False,
        is_rolled_back: bool = False,
    ) -> Result:
        """
        Do it; on an error raise what ``tell`` says of it, with nothing left of the error itself.

        Messages of databases quote values, and the frames they come from hold rows. ``raise ... from None``
        only hides the original: ``__context__`` would still lead to it, and error trackers print the local
        variables of its frames. So it is raised after the ``except`` block, where there is no context any
        more.
        """
        is_open = False

        def attempt() -> Result:
            nonlocal is_open
            is_open = False
            after_commit: list[Callable[[], object]] = []
            level = self.dialect.isolation_level
            with self.engine.connect() as connection:
                if level is not None and not is_one_statement:
                    connection.execution_options(isolation_level=level)
                # Where each statement is committed by itself this begins nothing.
                with connection.begin() as transaction:
                    is_open = True
                    connection.info[_ONCE_COMMITTED] = after_commit
                    if self.dialect.begin is not None and not only_reads:
                        connection.exec_driver_sql(self.dialect.begin)
                    result = work(connection)
                    if is_rolled_back:
                        if self.dialect.check_late is not None:
                            connection.exec_driver_sql(self.dialect.check_late)
                        transaction.rollback()
            for call in after_commit:
                call()
            return result

        def passes(error: BaseException) -> bool:
            return self.dialect.is_passing(error) or (is_patient and self.dialect.is_away(error))

        try:
            with self.dialect.turn():
                return self._retried(attempt, passes, is_tried_twice=is_tried_twice)
        except PlaudError:
            raise
        except Exception as error:
            refusal = tell(error) if is_open or passes(error) else self._not_opened(error)
        raise refusal

    def _retried(
        self,
        attempt: Callable[[], Result],
        passes: Callable[[BaseException], bool],
        *,
        is_tried_twice: bool,
    ) -> Result:
        attempts = Retrying(
            retry=retry_if_exception(passes),
            wait=wait_exponential(multiplier=0.05, max=3) + wait_random(0, 0.2),
            stop=lambda state: state.idle_for + state.upcoming_sleep > self.dialect.wait_seconds,
            sleep=self._sleep,
            before_sleep=self._say_that_we_wait,
            reraise=True,
        )
        try:
            return attempts(attempt)
        except DBAPIError as error:
            if not is_tried_twice or passes(error):
                raise
        return attempts(attempt)

    def _say_that_we_wait(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            error = state.outcome.exception() if state.outcome is not None else None
            log.info(
                "%s is %s; waiting up to %.0f s",
                self.title_at_start,
                "away" if error is not None and self.dialect.is_away(error) else "busy with another writer",
                self.dialect.wait_seconds,
            )

    def _refusal(self, failed: str, error: Exception) -> PlaudWarehouseError:
        reason, advice = self.dialect.explain(error)
        outcome = "The transaction was rolled back"
        if self.dialect.is_away(error):
            outcome += (
                ", unless it was complete when the connection broke; then doing it again changes nothing"
            )
        return PlaudWarehouseError(f"{self.title_at_start}: {failed}: {reason}. {outcome}. {advice}")

    def _not_opened(self, error: Exception) -> PlaudWarehouseError:
        return PlaudWarehouseError(
            f"{self.title_at_start} could not be opened: {self._safe_message(error)}. Nothing was written. "
            "Check the connection; a retry helps if the database was only away."
        )

    def _not_prepared(self, error: Exception, tables: DeclaredTables) -> PlaudWarehouseError:
        reason, advice = self.dialect.explain(error)
        return PlaudWarehouseError(
            f"{tables.names} of {self.title} could not be created or looked at: {reason} "
            f"({self._safe_message(error)}). Nothing was written. {advice}"
        )

    def _not_taken(self, error: Exception, tables: DeclaredTables) -> PlaudWarehouseError:
        reason, advice = self.dialect.explain(error)
        # No row is of a transcript.
        told = f"{reason} ({self._safe_message(error)}). Nothing was written."
        if not self.dialect.is_by_table(error):
            return PlaudWarehouseError(
                f"{self.title_at_start} does not let rows into {tables.names}: {told} {advice}"
            )
        return PlaudTableMismatchError(
            f"{tables.names} of {self.title} do not take every transcription. Two that are made up were "
            f"refused: {told} Change what refuses them, move the tables away (they are then created anew), "
            f"or name others in {' and '.join(tables.parameters.values())}."
        )

    def _safe_message(self, error: Exception) -> str:
        return safe_message(error, self._hook.get_connection(self.conn_id))


def once_committed(connection: sa.Connection, tell: Callable[[], object]) -> None:
    """
    Have something told when the transaction that :meth:`Database.run` began is committed, and only then.

    :param connection: The connection that ``work`` was given.
    :param tell: Tells it; must not raise.
    """
    connection.info[_ONCE_COMMITTED].append(tell)


def open_database(
    conn_id: str,
    *,
    role: str = "warehouse",
    parameter: str = "sql_conn_id",
    keeps_connection: bool = False,
    connection: Connection | None = None,
) -> Database:
    """
    Return the database behind a connection. Nothing is opened yet.

    :param conn_id: Airflow connection of a database with a ``common-sql`` hook.
    :param role: What it is used as, for messages.
    :param parameter: Argument that names its connection, for messages.
    :param keeps_connection: Whether a connection to a server may be kept between transactions. Close the
        database then.
    :param connection: The connection, if it has been looked up.
    :raises PlaudConfigurationError: if there is no such connection, no provider for its type, or it is none
        of :data:`DIALECTS`.
    """
    found = connection if connection is not None else look_up(conn_id, parameter=parameter)
    kind = kind_of(found)
    if kind not in DIALECTS:
        raise PlaudConfigurationError(
            f"{parameter}: connection {conn_id!r} is of type {kind!r}. The {role} needs a database that "
            "enforces keys, or two tasks could pay for one recording: PostgreSQL, MySQL, MariaDB, SQLite or "
            f"DuckDB{'; it need not be the warehouse' * (role == 'ledger')}. Nothing was sent."
        )
    hook = hook_of(found, parameter=parameter)
    dialect = DIALECTS[kind]()(hook, parameter=parameter, keeps_connection=keeps_connection)
    return Database(hook, dialect, role=role, parameter=parameter)


def _postgres() -> type[Dialect]:
    from plaud_provider.database.postgresql import PostgresDialect

    return PostgresDialect


def _sqlite() -> type[Dialect]:
    from plaud_provider.database.sqlite import SqliteDialect

    return SqliteDialect


def _duckdb() -> type[Dialect]:
    from plaud_provider.database.duckdb import DuckDbDialect

    return DuckDbDialect


def _mysql() -> type[Dialect]:
    from plaud_provider.database.mysql import MySqlDialect

    return MySqlDialect


#: What each kind of database does in its own way, by the type of its connection. They enforce keys and take
#: several tables in one transaction. Each imports what it takes to speak to its database.
DIALECTS: Mapping[str, Callable[[], type[Dialect]]] = {
    "postgres": _postgres,
    "sqlite": _sqlite,
    "duckdb": _duckdb,
    "mysql": _mysql,
}
