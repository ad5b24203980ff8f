"""What all kinds of database share: transactions, waiting, and errors that quote no row."""

from __future__ import annotations

import logging
import os
import re
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential, wait_random

from plaud_provider.exceptions import PlaudError, PlaudWarehouseError

if TYPE_CHECKING:
    import sqlalchemy as sa
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from sqlalchemy.sql.base import ReadOnlyColumnCollection

    from plaud_provider.warehouse.rows import Columns, Row
    from plaud_provider.warehouse.tables import DeclaredTables

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

_SECRET_NAME = r"(?i)token|secret|passw|key"


class Transaction(ABC):
    """
    What can be done in one transaction. Statements are SQLAlchemy Core's, whatever runs them.

    Errors pass as the database raises them.
    """

    @property
    @abstractmethod
    def kind(self) -> str:
        """Kind of database, by SQLAlchemy's name of the dialect."""

    @abstractmethod
    def rows(self, query: sa.Select[Any]) -> Sequence[Sequence[Any]]:
        """Return what a query finds."""

    @abstractmethod
    def change(self, statement: sa.Update, parameters: Mapping[str, Any] | None = None) -> int:
        """
        Run a statement and return how many rows it changed.

        :param statement: The statement.
        :param parameters: Values of its parameters that have none yet.
        """

    @abstractmethod
    def insert(self, table: sa.Table, columns: Columns) -> None:
        """Insert rows, given as the values of each column."""

    @abstractmethod
    def upsert(self, table: sa.Table, rows: Sequence[Row], *, may_replace: MayReplace) -> None:
        """
        Insert rows; one whose primary key is there replaces that row if it may, else nothing happens to it.

        Each row is one atomic step, taken in the order given: two transactions that upsert the same keys in
        the same order wait for each other, not in a circle.

        :param table: A table whose primary key the database enforces.
        :param rows: Rows, all with every column of the table, no key twice.
        :param may_replace: Tells, of the columns of the row to be inserted, when it replaces the one there.
        """

    @abstractmethod
    def delete(self, column: sa.Column[Any], values: Sequence[str]) -> None:
        """Delete the rows of the column's table that have one of these values."""

    def lock(self, names: Collection[str]) -> None:  # noqa: B027
        """
        Keep other transactions that lock one of these names waiting until this one ends.

        For what no key keeps apart. Databases that take one writer at a time need nothing.
        """

    def lock_rows(self, query: sa.Select[Any]) -> None:  # noqa: B027
        """Lock the rows that a query finds, in its order; where one writer at a time is the rule, nothing."""


MayReplace = Callable[["ReadOnlyColumnCollection[str, Any]"], "sa.ColumnElement[bool]"]


class Database(ABC):
    """
    A database behind an Airflow connection. Holds no connection between calls, unless it is told to keep one;
    may be used by many threads.

    :param hook: Its hook.
    :param role: What it is used as, for messages.
    :param parameter: Argument that names its connection, for messages.
    :param wait_seconds: For how long to wait while another process is in the way, in seconds.
    :param sleep: How to wait.
    """

    def __init__(
        self,
        hook: DbApiHook,
        *,
        role: str = "warehouse",
        parameter: str = "sql_conn_id",
        wait_seconds: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._hook = hook
        self._role = role
        self._parameter = parameter
        self._wait_seconds = wait_seconds
        self._sleep = sleep

    @property
    def conn_id(self) -> str:
        """Airflow connection."""
        return str(self._hook.get_conn_id())

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
    @abstractmethod
    def kind(self) -> str:
        """Kind of database, by SQLAlchemy's name of the dialect."""

    def ensure(self, tables: DeclaredTables) -> None:
        """
        Create tables if they are not there, and check those that are; safe when several tasks do it at once.

        :param tables: What is needed.
        :raises PlaudTableMismatchError: if an existing table does not fit.
        :raises PlaudWarehouseError: if the database cannot be reached, or does not let us.
        :raises PlaudConfigurationError: if the connection names a database that would vanish with the task.
        :raises PlaudInputError: if a name is too long for this kind of database.
        """
        self._refuse_names(tables)
        told(lambda: self._ensure(tables), lambda error: self._not_prepared(error, tables))

    def as_warehouse(self) -> Self:
        """Return the same database as a warehouse, for messages; the two share what they have open."""
        other = copy(self)
        other._role, other._parameter = "warehouse", "sql_conn_id"
        return other

    def close(self) -> None:  # noqa: B027
        """Close the connection that is kept between calls, if there is one."""

    @abstractmethod
    def transaction(self, work: Callable[[Transaction], Result], *, is_patient: bool = False) -> Result:
        """
        Run ``work`` in a transaction, again while another writer is in the way.

        :param work: What to do; it may be done several times, the last of which counts.
        :param is_patient: Whether to wait as well while the database is away, in a restart. Then ``work`` is
            also done again if the connection broke at its commit: it has to be one that can be.
        """

    @abstractmethod
    def reason(self, error: Exception) -> tuple[str, str]:
        """Return why the database refused, and what to do; in words that quote no row."""

    def outcome(self, error: Exception) -> str:
        """Return what became of a transaction, in a sentence."""
        if self._is_away(error):
            return (
                "The transaction was rolled back, unless it was complete when the connection broke; then "
                "doing it again changes nothing"
            )
        return "The transaction was rolled back"

    @abstractmethod
    def _ensure(self, tables: DeclaredTables) -> None:
        """Create or check tables; let errors pass as they are."""

    @abstractmethod
    def _refuse_names(self, tables: DeclaredTables) -> None:
        """Refuse names that are too long."""

    def _is_away(self, error: BaseException) -> bool:
        """Whether the database cannot be reached (any more) but may come back by itself."""
        return False

    def _wait_out(self, action: Callable[[], Result], is_passing: Callable[[BaseException], bool]) -> Result:
        """Run ``action`` until it meets no error that passes by itself, for a bounded time."""
        attempts = Retrying(
            retry=retry_if_exception(is_passing),
            wait=wait_exponential(multiplier=0.05, max=3) + wait_random(0, 0.2),
            stop=lambda state: state.idle_for + state.upcoming_sleep > self._wait_seconds,
            sleep=self._sleep,
            before_sleep=self._say_that_we_wait,
            reraise=True,
        )
        return attempts(action)

    def _say_that_we_wait(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            error = state.outcome.exception() if state.outcome is not None else None
            log.info(
                "%s is %s; waiting up to %.0f s",
                self.title_at_start,
                "away" if error is not None and self._is_away(error) else "busy with another writer",
                self._wait_seconds,
            )

    def _missing_schema(self, schema: str) -> PlaudWarehouseError:
        return PlaudWarehouseError(
            f"schema: {self.title} has no schema {schema!r}. Create it (it is not created here), or correct "
            "the name; names are taken literally, upper and lower case included. Nothing was written."
        )

    def not_opened(self, error: Exception) -> PlaudWarehouseError:
        """Return what to say of an error at opening the database, with the first line of what it said."""
        return PlaudWarehouseError(
            f"{self.title_at_start} could not be opened: {self._safe_message(error)}. Nothing was written. "
            "Check the connection; a retry helps if the database was only away."
        )

    def _not_prepared(self, error: Exception, tables: DeclaredTables) -> PlaudWarehouseError:
        reason, advice = self.reason(error)
        names = " and ".join(table.fullname for table in tables.parameters)
        return PlaudWarehouseError(
            f"{names} of {self.title} could not be created or looked at: {reason} "
            f"({self._safe_message(error)}). Nothing was written. {advice}"
        )

    def _safe_message(self, error: Exception) -> str:
        """
        Return the first line of a driver's message without the connection's secrets.

        Only for what happens before any row is sent: later messages may quote rows.
        """
        lines = str(getattr(error, "orig", None) or error).strip().splitlines()
        message = f"{type(error).__name__}: {lines[0].strip().rstrip('.') if lines else 'no message'}"
        connection = self._hook.get_connection(self.conn_id)
        secrets = [connection.password]
        secrets += [value for name, value in connection.extra_dejson.items() if re.search(_SECRET_NAME, name)]
        for secret in secrets:
            if isinstance(secret, str) and secret:
                message = message.replace(secret, "***")
        return message[:300]


def told(
    action: Callable[[], Result],
    tell: Callable[[Exception], PlaudError],
    *,
    unless: Callable[[Exception], bool] = lambda _: False,
) -> Result:
    """
    Run ``action``; on an error raise what ``tell`` says of it, with nothing left of the error itself.

    Messages of databases quote values, and the frames they come from hold rows. ``raise ... from None`` only
    hides the original: ``__context__`` would still lead to it, and error trackers print the local variables
    of its frames. So it is raised after the ``except`` block, where there is no context any more.

    :param action: What to do.
    :param tell: What to say of an error.
    :param unless: Which errors pass as they are, for a caller that handles them.
    """
    try:
        return action()
    except PlaudError:
        raise
    except Exception as error:
        if unless(error):
            raise
        refusal = tell(error)
    raise refusal


def origin(error: BaseException) -> str:
    """Return an error's class and the line it came from, which show no value."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Return ``items`` in sequences of at most ``size``."""
    return [items[start : start + size] for start in range(0, len(items), size)]
