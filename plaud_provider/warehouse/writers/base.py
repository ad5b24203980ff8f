"""What all writers share: the protocol, the waiting, and errors that quote no row."""

from __future__ import annotations

import logging
import os
import re
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential, wait_random

from plaud_provider.exceptions import PlaudError, PlaudWarehouseError

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from plaud_provider.warehouse.rows import Landing, Row
    from plaud_provider.warehouse.tables import PlaudTables

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_SECRET_EXTRA = re.compile(r"token|secret|passw|key", re.IGNORECASE)
#: Kinds of database whose text cannot hold a NUL character, by SQLAlchemy's name of the dialect.
_REFUSE_NUL = frozenset({"postgresql", "redshift", "cockroachdb"})


class Landed(NamedTuple):
    """How many rows were written."""

    transcripts: int
    segments: int


class WarehouseWriter(ABC):
    """
    Writes transcriptions to one warehouse. Holds no connection between calls.

    :param hook: Hook of the warehouse.
    :param tables: Tables to write.
    :param wait_seconds: For how long to wait while another process keeps the warehouse locked, in seconds.
    :param sleep: How to wait.
    """

    def __init__(
        self,
        hook: DbApiHook,
        tables: PlaudTables,
        *,
        wait_seconds: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._hook = hook
        self._tables = tables
        self._wait_seconds = wait_seconds
        self._sleep = sleep

    @abstractmethod
    def ensure_tables(self) -> None:
        """
        Create the tables if they are not there; safe when several tasks do it at once.

        :raises PlaudTableMismatchError: if an existing table cannot hold the rows.
        :raises PlaudWarehouseError: if the warehouse cannot be reached, or does not let us.
        :raises PlaudConfigurationError: if the connection names a database that would vanish with the task.
        :raises PlaudInputError: if a name is too long for this kind of database.
        """

    def replace(self, landings: Sequence[Landing]) -> Landed:
        """
        Replace all rows of these transcriptions, in one transaction.

        Whatever goes wrong, a crash included, the rows are either those from before or the new ones. Doing it
        again changes nothing but ``landed_at``, ``dag_id`` and ``run_id``.

        :param landings: Transcriptions to land; of one id the last.
        :raises PlaudWarehouseError: if it was rolled back.
        """
        # In the same order in every task: two that land the same ids wait for each other, not in a circle.
        in_order = sorted(landings, key=lambda landing: landing.transcription_id)
        latest = {landing.transcription_id: landing for landing in in_order}
        if not latest:
            return Landed(0, 0)
        return told(
            lambda: self._replace_rows(list(latest.values())),
            lambda error: self._landing_refused(error, len(latest)),
        )

    def _replace_rows(self, landings: list[Landing]) -> Landed:
        transcripts = [landing.transcript_row() for landing in landings]
        segments = [row for landing in landings for row in landing.segment_rows()]
        for rows in (transcripts, segments):
            clean_text(rows, self._database)
        self._replace([landing.transcription_id for landing in landings], transcripts, segments)
        return Landed(len(transcripts), len(segments))

    @property
    @abstractmethod
    def _database(self) -> str:
        """Kind of database, by SQLAlchemy's name of the dialect."""

    @abstractmethod
    def _replace(self, transcription_ids: list[str], transcripts: list[Row], segments: list[Row]) -> None:
        """Delete all rows of these ids and insert these, in one transaction; let errors pass as they are."""

    @abstractmethod
    def _reason(self, error: Exception) -> tuple[str, str]:
        """Return why the database refused, and what to do; in words that quote no row."""

    def _wait_out(self, action: Callable[[], Result], is_busy: Callable[[BaseException], bool]) -> Result:
        """Run ``action`` until the warehouse is not busy with another writer, for a bounded time."""
        attempts = Retrying(
            retry=retry_if_exception(is_busy),
            wait=wait_exponential(multiplier=0.05, max=3) + wait_random(0, 0.2),
            stop=lambda state: state.idle_for + state.upcoming_sleep > self._wait_seconds,
            sleep=self._sleep,
            before_sleep=self._say_that_we_wait,
            reraise=True,
        )
        return attempts(action)

    def _say_that_we_wait(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            log.info(
                "Warehouse %r is busy with another writer; waiting up to %.0f s",
                self._conn_id,
                self._wait_seconds,
            )

    @property
    def _conn_id(self) -> str:
        return str(self._hook.get_conn_id())

    @property
    def _table_names(self) -> str:
        return f"{self._tables.transcripts.fullname} and {self._tables.segments.fullname}"

    def _missing_schema(self) -> PlaudWarehouseError:
        return PlaudWarehouseError(
            f"schema: warehouse {self._conn_id!r} has no schema {self._tables.schema!r}. Create it (it is "
            "not created here), or correct the name; names are taken literally, upper and lower case "
            "included. Nothing was written."
        )

    def _not_opened(self, error: Exception) -> PlaudWarehouseError:
        return PlaudWarehouseError(
            f"Warehouse {self._conn_id!r} could not be opened: {self._safe_message(error)}. Nothing was "
            "written. Check the connection; a retry helps if the database was only away."
        )

    def _not_prepared(self, error: Exception) -> PlaudWarehouseError:
        reason, advice = self._reason(error)
        return PlaudWarehouseError(
            f"Tables {self._table_names} of warehouse {self._conn_id!r} could not be created or looked at: "
            f"{reason} ({self._safe_message(error)}). Nothing was written. {advice}"
        )

    def _landing_refused(self, error: Exception, count: int) -> PlaudWarehouseError:
        reason, advice = self._reason(error)
        return PlaudWarehouseError(
            f"Warehouse {self._conn_id!r} did not take {count} transcription{'s' * (count != 1)} into "
            f"{self._table_names}: {reason}. The transaction was rolled back, the rows from before are as "
            f"they were. {advice} What the database itself said is not shown, as it may quote a transcript."
        )

    def _safe_message(self, error: Exception) -> str:
        """
        Return the first line of a driver's message without the connection's secrets.

        Only for what happens before any row is sent: later messages may quote rows.
        """
        lines = str(getattr(error, "orig", None) or error).strip().splitlines()
        message = f"{type(error).__name__}: {lines[0].strip().rstrip('.') if lines else 'no message'}"
        connection = self._hook.get_connection(self._conn_id)
        secrets = [connection.password]
        secrets += [value for name, value in connection.extra_dejson.items() if _SECRET_EXTRA.search(name)]
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


def batches(rows: list[Any], size: int) -> list[list[Any]]:
    """Return ``rows`` in lists of at most ``size``."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def clean_text(rows: list[Row], database: str) -> None:
    """
    Replace, in place, what this kind of database refuses in text: NUL in PostgreSQL and its kin becomes
    U+FFFD.

    :param rows: Rows to clean.
    :param database: Kind of database, by SQLAlchemy's name of the dialect.
    """
    if database not in _REFUSE_NUL:
        return
    replaced = 0
    for row in rows:
        for name, value in row.items():
            if isinstance(value, str) and "\x00" in value:
                row[name] = value.replace("\x00", "\ufffd")
                replaced += value.count("\x00")
    if replaced:
        log.warning("%d NUL characters, which %s cannot store, were replaced by U+FFFD", replaced, database)
