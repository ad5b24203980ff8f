"""
The ledger: one row per recording, so that each is paid for once, whoever asks.

Every transition is one conditional statement: it happens if the row is in a state, and with the owner, that
it starts from, and says whether it did. Each can be done again with the same result, so that a connection
which breaks at its commit does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from plaud_provider.api.models import Status
from plaud_provider.database.connection import open_database
from plaud_provider.database.rows import batches, utc
from plaud_provider.exceptions import PlaudConfigurationError, PlaudInputError
from plaud_provider.ledger.entry import RESUBMITTABLE, Entry, Owner, Recording, State
from plaud_provider.ledger.statements import BATCH, LedgerStatements, kept_error
from plaud_provider.ledger.table import DEFAULT_SUBMISSIONS_TABLE, ledger_tables

if TYPE_CHECKING:
    from plaud_provider.database.database import Database
    from plaud_provider.ledger.table import LedgerTables
    from plaud_provider.warehouse.rows import Landing

__all__ = ["Entry", "Ledger", "Owner", "Recording", "State", "open_ledger"]

Result = TypeVar("Result")


class Ledger:
    """
    Who has which recording, and how far it has come. Holds no connection between calls, unless it is opened
    to keep one; thread-safe.

    It waits, for a bounded time, while its database restarts or other writers are in the way.

    :param database: Database that keeps it.
    :param tables: Its table.
    :param now: Tells the time, with time zone.
    """

    #: For how long a claimed recording is its owner's, unless renewed.
    LEASE_OF_CLAIM = timedelta(minutes=3)
    #: For how long a submit may take; afterwards its outcome is unknown.
    LEASE_OF_SUBMIT = timedelta(minutes=3)

    def __init__(
        self,
        database: Database,
        tables: LedgerTables,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(tz=UTC),
    ) -> None:
        self._database = database
        self._tables = tables
        self._statements = LedgerStatements(tables.submissions, database.dialect)
        self._now = now

    @property
    def conn_id(self) -> str:
        """Airflow connection of its database."""
        return self._database.conn_id

    @property
    def database(self) -> Database:
        """The database that keeps it."""
        return self._database

    def close(self) -> None:
        """Close the connection that is kept between calls, if there is one."""
        self._database.close()

    def ensure_table(self) -> None:
        """
        Create the table if it is not there; safe when several tasks do it at once.

        :raises PlaudTableMismatchError: if an existing table cannot be the ledger.
        :raises PlaudWarehouseError: if the database cannot be reached, or does not let us.
        """
        self._database.ensure(self._tables)

    def entries(self, keys: Collection[str]) -> dict[str, Entry]:
        """
        Return what is known of these recordings; one that nobody has claimed is left out.

        :param keys: Recording keys.
        """
        in_order = sorted(set(keys))

        def read(connection: sa.Connection) -> dict[str, Entry]:
            now = self._time()
            found = self._statements.entries(connection, in_order)
            lapsed = sorted(
                key
                for key, entry in found.items()
                if entry.state is State.SUBMITTING and not entry.is_held(now)
            )
            for batch in batches(lapsed, BATCH):
                self._statements.note_lapsed(connection, now, self._statements.has_key(batch))
            return found | self._statements.entries(connection, lapsed)

        return self._run(read)

    def claim(
        self,
        recordings: Collection[Recording],
        owner: Owner,
        *,
        resubmit: Collection[State] = (),
        resubmit_own: bool = False,
    ) -> dict[str, Entry]:
        """
        Claim recordings for submitting, and return the state of all of them afterwards.

        Those that ``owner`` has got are claimed by it in what is returned. Claimed are those that nobody has,
        those whose claim has lapsed or was released, those of an earlier try of the same task instance (and
        of this one, whose lease starts anew), and those in a state of ``resubmit``, unless it came about in
        this very run: what failed is tried once a run.

        :param recordings: Recordings to claim.
        :param owner: Who claims.
        :param resubmit: States to claim again from: ``failed``, ``unknown``, ``expired``. What Plaud has
            accepted before is paid for again.
        :param resubmit_own: Whether also what came to such a state in this very run.
        :raises PlaudInputError: if recordings in another state were to be resubmitted.
        """
        if beyond := set(resubmit) - RESUBMITTABLE:
            raise PlaudInputError(
                f"resubmit: what is {', '.join(sorted(beyond))} cannot be submitted again; only failed, "
                "unknown and expired recordings can. Nothing was sent."
            )
        by_key = {recording.recording_key: recording for recording in recordings}
        # In the same order in every task: two that claim the same keys wait for each other, not in a circle.
        keys = sorted(by_key)
        now = self._time()
        rows = [
            self._statements.claimed_row(by_key[key], owner, now, now + self.LEASE_OF_CLAIM) for key in keys
        ]
        self._database.dialect.clean(rows)

        def claim(connection: sa.Connection) -> dict[str, Entry]:
            self._statements.claim(connection, rows, resubmit, resubmit_own=resubmit_own)
            return self._statements.entries(connection, keys)

        return self._run(claim)

    def renew(self, owner: Owner) -> int:
        """
        Start the lease of what this owner still has claimed anew.

        :param owner: Who has claimed.
        :return: How many recordings that are.
        """
        now = self._time()
        return self._run(
            lambda connection: self._statements.change(
                connection,
                self._statements.is_claimed_by(owner),
                lease_until=now + self.LEASE_OF_CLAIM,
                updated_at=now,
            )
        )

    def release(self, owner: Owner, error: str | None = None, *, keys: Collection[str] | None = None) -> int:
        """
        Give up claims: others may take them at once.

        :param owner: Who has claimed.
        :param error: Why they are given up; kept until they are claimed again.
        :param keys: Recordings to give up; ``None`` for all that this owner has claimed.
        :return: How many were given up.
        """
        now = self._time()
        values = {
            "lease_until": self._tables.submissions.c.claimed_at,
            "error": kept_error(error) if error is not None else None,
            "updated_at": now,
        }
        chosen = (
            [sa.true()] if keys is None else [*map(self._statements.has_key, batches(sorted(keys), BATCH))]
        )
        is_claimed = self._statements.is_claimed_by(owner)
        return self._run(
            lambda connection: sum(
                self._statements.change(connection, sa.and_(is_claimed, some), **values) for some in chosen
            )
        )

    def submitting(self, key: str, owner: Owner) -> bool:
        """
        Note that a recording is about to be sent, right before the POST.

        If this raises, nothing was sent: call :meth:`not_accepted` once the database is there again, which
        keeps the recording from becoming ``unknown``.

        :param key: A recording that this owner has claimed.
        :param owner: Who sends it.
        :return: ``False`` if somebody else has taken it over: then it must not be sent.
        """
        return self._step(
            key,
            owner,
            {State.CLAIMED},
            State.SUBMITTING,
            lambda now: {
                "lease_until": now + self.LEASE_OF_SUBMIT,
                "submitted_at": now,
                "error": None,
            },
        )

    def not_accepted(self, key: str, owner: Owner) -> bool:
        """
        Note that a recording was certainly not accepted: it is claimed by this owner as before.

        :param key: A recording that this owner was sending, or whose sending has become ``unknown``.
        :param owner: Who sent it.
        """
        return self._step(
            key,
            owner,
            {State.SUBMITTING, State.UNKNOWN},
            State.CLAIMED,
            lambda now: {
                "lease_until": now + self.LEASE_OF_CLAIM,
                "claimed_at": now,
                "submitted_at": None,
                "finished_at": None,
                "error": None,
            },
        )

    def processing(
        self,
        key: str,
        owner: Owner,
        transcription_id: str,
        *,
        submitted_at: datetime,
        accepted_at: datetime | None = None,
    ) -> bool:
        """
        Note that Plaud has accepted a recording; it is billed from now on.

        :param key: A recording that this owner was sending, or whose sending has become ``unknown``: a late
            answer.
        :param owner: Who sent it.
        :param transcription_id: Plaud's id.
        :param submitted_at: When it was submitted.
        :param accepted_at: When Plaud accepted it, by Plaud's clock, where Plaud told.
        """
        return self._step(
            key,
            owner,
            {State.SUBMITTING, State.UNKNOWN, State.PROCESSING},
            State.PROCESSING,
            lambda _: {
                "transcription_id": transcription_id,
                "submitted_at": utc(submitted_at),
                "accepted_at": utc(accepted_at),
                "lease_until": None,
                "finished_at": None,
                "error": None,
            },
        )

    def unknown(self, key: str, owner: Owner, error: str) -> bool:
        """
        Note that the answer to a submit was lost: the recording may be accepted and billed.

        :param key: A recording that this owner was sending.
        :param owner: Who sent it.
        :param error: What happened.
        """
        start = {State.SUBMITTING, State.UNKNOWN}
        return self._step(key, owner, start, State.UNKNOWN, _finished(error))

    def refused(self, key: str, owner: Owner, error: str) -> bool:
        """
        Note that a recording cannot be submitted, or that Plaud refused it; nothing is paid for.

        :param key: A recording that this owner has claimed or was sending.
        :param owner: Who has it.
        :param error: Why.
        """
        start = {State.CLAIMED, State.SUBMITTING, State.UNKNOWN}
        return self._step(key, owner, start, State.FAILED, _finished(error, submitted_at=None))

    def landed(self, transcription_ids: Collection[str], *, region: str) -> int:
        """
        Note that transcriptions are in the warehouse, whatever became of them before.

        :param transcription_ids: Ids that Plaud gave.
        :param region: Plaud region.
        :return: How many were not noted as landed before.
        """
        ids = dict.fromkeys(transcription_ids)
        return self._run(lambda connection: self._end(connection, region, ids, State.LANDED))

    def failed(self, errors: Mapping[str, str], *, region: str) -> int:
        """
        Note that Plaud could not transcribe recordings.

        :param errors: Why, by the id that Plaud gave.
        :param region: Plaud region.
        :return: How many were processing before.
        """
        return self._run(lambda connection: self._end(connection, region, errors, State.FAILED))

    def expired(self, errors: Mapping[str, str], *, region: str) -> int:
        """
        Note that Plaud does not know transcriptions any more.

        :param errors: What it said, by the id that it gave.
        :param region: Plaud region.
        :return: How many were processing before.
        """
        return self._run(lambda connection: self._end(connection, region, errors, State.EXPIRED))

    def settle(self, landings: Sequence[Landing], connection: sa.Connection | None = None) -> None:
        """
        Note what was landed: transcripts as ``landed``, failed transcriptions as ``failed``.

        :param landings: What was landed.
        :param connection: Connection to do it on; ``None`` for a transaction of its own.
        """

        def settle(connection: sa.Connection) -> None:
            for region in sorted({landing.region for landing in landings}):
                here = [landing.transcription for landing in landings if landing.region == region]
                failed = {t.transcription_id: t.error for t in here if t.status is Status.FAILED}
                landed = dict.fromkeys(t.transcription_id for t in here if t.status is not Status.FAILED)
                self._end(connection, region, landed, State.LANDED)
                self._end(connection, region, failed, State.FAILED)

        self._run(settle, connection)

    def origins(
        self, landings: Sequence[Landing], connection: sa.Connection | None = None
    ) -> dict[tuple[str, str], Entry]:
        """
        Return what is known of recordings, by the region and the id of their transcriptions.

        :param landings: Transcriptions of them.
        :param connection: Connection to look on; ``None`` for a transaction of its own.
        """
        ids = [(landing.region, landing.transcription_id) for landing in landings]
        return self._run(lambda connection: self._statements.origins(connection, ids), connection)

    def audio_hours(self, dag_id: str, run_id: str) -> float:
        """
        Return how many hours of audio a run has claimed, submitted or paid for, where their length is known.

        What it has released, or what was refused without being paid for, does not count.

        :param dag_id: Its dag.
        :param run_id: The run.
        """
        return self._run(lambda connection: self._statements.seconds(connection, dag_id, run_id)) / 3600

    def counts(self) -> dict[State, int]:
        """Return how many recordings are in each state."""

        def count(connection: sa.Connection) -> dict[State, int]:
            self._statements.note_lapsed(connection, self._time(), sa.true())
            return self._statements.counts(connection)

        return self._run(count)

    def _step(
        self,
        key: str,
        owner: Owner,
        start: Collection[State],
        state: State,
        values_at: Callable[[datetime], dict[str, Any]],
    ) -> bool:
        """Take one recording of this owner from ``start`` to ``state``, and return whether that happened."""
        attempts: list[datetime] = []

        def step(connection: sa.Connection) -> bool:
            # The time of this attempt: a lease is not to be spent on waiting for the database.
            now = self._time()
            # Should an attempt lose its connection at the commit, the next one finds what it has done.
            since = min(attempts, default=None)
            attempts.append(now)
            values = {**values_at(now), "state": state.value, "updated_at": now}
            return self._statements.step(connection, key, owner, start, values, since=since)

        return self._run(step)

    def _end(
        self, connection: sa.Connection, region: str, errors: Mapping[str, str | None], state: State
    ) -> int:
        reasons = {
            known: kept_error(error) if state is not State.LANDED else None for known, error in errors.items()
        }
        return self._statements.end(connection, region, reasons, state, self._time())

    def _run(
        self, work: Callable[[sa.Connection], Result], connection: sa.Connection | None = None
    ) -> Result:
        if connection is not None:
            return work(connection)
        failed = f"{self._tables.submissions.fullname} of {self._database.title} could not be read or written"
        return self._database.run(work, failed=failed, is_patient=True)

    def _time(self) -> datetime:
        moment = utc(self._now())
        assert moment is not None  # noqa: S101
        return moment


def _finished(error: str, **values: Any) -> Callable[[datetime], dict[str, Any]]:
    reason = kept_error(error)
    return lambda now: {**values, "lease_until": None, "finished_at": now, "error": reason}


def open_ledger(
    ledger_conn_id: str,
    *,
    schema: str | None = None,
    table: str = DEFAULT_SUBMISSIONS_TABLE,
    keeps_connection: bool = False,
) -> Ledger:
    """
    Return the ledger behind a connection; its table is created if it is not there, and checked if it is.

    :param ledger_conn_id: Airflow connection of a PostgreSQL, SQLite or DuckDB database. It may be the
        warehouse's own.
    :param schema: Schema of the table; ``None`` for the connection's own. It has to exist.
    :param table: Name of the table, taken literally.
    :param keeps_connection: Whether a connection may be kept between calls. Close the ledger then.
    :raises PlaudConfigurationError: if the connection is missing, or its database does not enforce keys.
    :raises PlaudInputError: if a name cannot be one.
    :raises PlaudTableMismatchError: if an existing table cannot be the ledger.
    :raises PlaudWarehouseError: if the database is away, locked or refuses.
    """
    tables = ledger_tables(schema, table)
    database = open_database(
        ledger_conn_id, role="ledger", parameter="ledger_conn_id", keeps_connection=keeps_connection
    )
    if not database.dialect.enforces_keys:
        raise PlaudConfigurationError(
            f"ledger_conn_id: connection {ledger_conn_id!r} is of type {database.dialect.conn_type!r}. The "
            "ledger needs a database that enforces keys, or two tasks could pay for one recording: "
            "PostgreSQL, SQLite or DuckDB. It need not be the warehouse. Nothing was sent."
        )
    ledger = Ledger(database, tables)
    try:
        ledger.ensure_table()
    except BaseException:
        ledger.close()
        raise
    return ledger
