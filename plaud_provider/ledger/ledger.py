"""The ledger: one row per recording, so that each is paid for once, whoever asks."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from plaud_provider.database.connection import open_database
from plaud_provider.database.rows import batches, utc
from plaud_provider.database.types import utc_time
from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.ledger.claims import Claims
from plaud_provider.ledger.entry import Entry, Owner, Recording, State, kept_error
from plaud_provider.ledger.reading import BATCH, owner_columns
from plaud_provider.ledger.table import ledger_tables

__all__ = ["Entry", "Ledger", "Owner", "Recording", "State", "open_ledger"]

log = logging.getLogger(__name__)

# What the statements of steps are given when they are run.
_NOW = sa.bindparam("now_at", type_=utc_time())
_LEASE = sa.bindparam("new_lease", type_=utc_time())
_SINCE = sa.bindparam("since_at", type_=utc_time())
_ERROR = sa.bindparam("new_error", type_=sa.Text())
_NEW_ID = sa.bindparam("new_transcription_id", type_=sa.Text())


class Ledger(Claims):
    """
    Who has which recording, and how far it has come.

    ============================  =============================================  ==========================
    step                          from                                           to
    ============================  =============================================  ==========================
    :meth:`claim`                 no row; ``claimed`` with a lease that has      ``claimed``, nothing sent
                                  ended, or of an earlier try of the same task;
                                  what ``resubmit`` names
    :meth:`release`               ``claimed``                                    ``claimed``, anybody's
    :meth:`submitting`            ``claimed``                                    ``submitting``
    :meth:`not_accepted`          ``submitting``, ``unknown``                    ``claimed``
    :meth:`refused`               ``claimed``, ``submitting``, ``unknown``       ``failed``, without an id
    :meth:`unknown`; or the       ``submitting``                                 ``unknown``
    lease of a submit ends
    :meth:`processing`            ``submitting``, ``unknown``; and from          ``processing``
                                  wherever an id comes late
    :meth:`landed`                ``processing``; ``failed``, ``unknown``,       ``landed``
                                  ``expired`` with an id
    :meth:`failed`                ``processing``                                 ``failed``, with its id
    :meth:`expired`               ``processing``                                 ``expired``
    ============================  =============================================  ==========================

    A step is one conditional statement: it happens if the row is in a state, and with the owner, that it
    starts from, and says whether it did. Each can be done again with the same result, so that a connection
    which breaks at its commit does no harm. Leases go by the clock of the database, which all hosts share.

    Holds no connection between calls, unless it is opened to keep one; thread-safe. It waits, for a bounded
    time, while its database restarts or other writers are in the way.

    :param database: Database that keeps it.
    :param tables: Its table.
    :param now: Tells the time, with time zone, on a connection; by default the database's own.
    """

    #: For how long a submit may take; afterwards its outcome is unknown.
    LEASE_OF_SUBMIT = timedelta(minutes=3)

    # The steps of a submit, each of one recording by its owner

    def submitting(self, key: str, owner: Owner) -> bool:
        """
        Note that a recording is about to be sent, right before the POST.

        If this raises, nothing was sent: call :meth:`not_accepted` once the database is there again, which
        keeps the recording from becoming ``unknown``.

        :param key: A recording that this owner has claimed.
        :param owner: Who sends it.
        :return: ``False`` if somebody else has taken it over: then it must not be sent.
        """
        return self._step(self._to_submitting, key, owner, lease=self.LEASE_OF_SUBMIT)

    @cached_property
    def _to_submitting(self) -> sa.Update:
        return self._update_to(
            State.SUBMITTING,
            sa.and_(self._is(State.CLAIMED), self._is_kept),
            lease_until=_LEASE,
            submitted_at=_NOW,
            error=None,
        )

    def not_accepted(self, key: str, owner: Owner) -> bool:
        """
        Note that a recording was certainly not accepted: it is claimed by this owner as before.

        :param key: A recording that this owner was sending, or whose sending has become ``unknown``.
        :param owner: Who sent it.
        """
        return self._step(self._to_claimed, key, owner, lease=self.LEASE_OF_CLAIM)

    @cached_property
    def _to_claimed(self) -> sa.Update:
        return self._update_to(
            State.CLAIMED,
            self._is(State.SUBMITTING, State.UNKNOWN),
            lease_until=_LEASE,
            claimed_at=_NOW,
            submitted_at=None,
            finished_at=None,
            error=None,
        )

    def unknown(self, key: str, owner: Owner, error: str) -> bool:
        """
        Note that the answer to a submit was lost: the recording may be accepted and billed.

        :param key: A recording that this owner was sending.
        :param owner: Who sent it.
        :param error: What happened.
        """
        return self._step(self._to_unknown, key, owner, new_error=kept_error(error))

    @cached_property
    def _to_unknown(self) -> sa.Update:
        return self._update_to(
            State.UNKNOWN,
            self._is(State.SUBMITTING, State.UNKNOWN),
            lease_until=None,
            finished_at=_NOW,
            error=_ERROR,
        )

    def refused(self, key: str, owner: Owner, error: str) -> bool:
        """
        Note that a recording cannot be submitted, or that Plaud refused it; nothing is paid for.

        :param key: A recording that this owner has claimed or was sending.
        :param owner: Who has it.
        :param error: Why.
        """
        return self._step(self._to_refused, key, owner, new_error=kept_error(error))

    @cached_property
    def _to_refused(self) -> sa.Update:
        return self._update_to(
            State.FAILED,
            sa.or_(
                sa.and_(self._is(State.CLAIMED), self._is_kept), self._is(State.SUBMITTING, State.UNKNOWN)
            ),
            lease_until=None,
            submitted_at=None,
            finished_at=_NOW,
            error=_ERROR,
        )

    def processing(
        self,
        recording: Recording,
        owner: Owner,
        transcription_id: str,
        *,
        submitted_at: datetime,
        accepted_at: datetime | None = None,
    ) -> bool:
        """
        Note that Plaud has accepted a recording; it is billed from now on.

        Whatever has become of its row meanwhile, the id is in the ledger afterwards: a row that has no id
        takes it, whoever has claimed it; beside a row that has another id, it gets a row of its own.

        :param recording: A recording that this owner was sending.
        :param owner: Who sent it.
        :param transcription_id: Plaud's id.
        :param submitted_at: When it was submitted.
        :param accepted_at: When Plaud accepted it, by Plaud's clock, where Plaud told.
        :return: ``False`` if the id came late, and was written with an error that names it.
        """
        accepted: dict[str, Any] = {
            "new_transcription_id": transcription_id,
            "new_submitted_at": utc(submitted_at),
            "new_accepted_at": utc(accepted_at),
        }
        return self._step(self._to_processing, recording.recording_key, owner, **accepted) or self._run(
            lambda connection: self._note_late(connection, recording, owner, accepted)
        )

    @cached_property
    def _to_processing(self) -> sa.Update:
        return self._update_to(
            State.PROCESSING,
            sa.or_(
                self._is(State.SUBMITTING, State.UNKNOWN),
                sa.and_(self._is(State.PROCESSING), self._c.transcription_id == _NEW_ID),
            ),
            transcription_id=_NEW_ID,
            submitted_at=sa.bindparam("new_submitted_at", type_=utc_time()),
            accepted_at=sa.bindparam("new_accepted_at", type_=utc_time()),
            lease_until=None,
            finished_at=None,
            error=None,
        )

    def _note_late(
        self, connection: sa.Connection, recording: Recording, owner: Owner, accepted: Mapping[str, Any]
    ) -> bool:
        """Write an id whose row is gone, somebody else's, or another id's; ``True`` if it is there."""
        key, transcription_id = recording.recording_key, accepted["new_transcription_id"]
        self._lock(connection, self._has_key([key]))
        there = self._read(connection, [key]).get(key)
        if there is not None and there.transcription_id == transcription_id:
            return True
        if there is None:
            what = "its row was gone"
        elif there.transcription_id is None:
            what = f"its row was {there.state.value}, of {there.owner.in_words}"
        else:
            what = f"it has been paid for as {there.transcription_id} as well"
            # Nobody looks for it under this key; its text says to which recording it belongs.
            key = hashlib.sha256(f"{key}\x00{transcription_id}".encode()).hexdigest()
        error = kept_error(
            f"Plaud accepted it as {transcription_id}, submitted by {owner.in_words}, when {what}."
        )
        log.error("%s: %s It is waited for like any other.", recording.audio_uri, error)
        now = self._now(connection)
        row = self._claimed_row(recording._replace(recording_key=key), owner, now) | {
            "state": State.PROCESSING.value,
            **{name.removeprefix("new_"): value for name, value in accepted.items()},
            "lease_until": None,
            "error": error,
        }
        self.database.dialect.clean([row])
        self.database.dialect.upsert(connection, self._table, [row])
        return False

    # What became of it at Plaud

    def landed(self, transcription_ids: Collection[str], *, region: str) -> int:
        """
        Note that transcriptions are in the warehouse, whatever became of them before.

        :param transcription_ids: Ids that Plaud gave.
        :param region: Plaud region.
        :return: How many were not noted as landed before.
        """
        return self._run(lambda connection: self._landed(connection, transcription_ids, region))

    def _landed(self, connection: sa.Connection, ids: Collection[str], region: str) -> int:
        start = (State.PROCESSING, State.FAILED, State.UNKNOWN, State.EXPIRED)
        return self._end(connection, State.LANDED, start, dict.fromkeys(ids), region)

    def failed(self, errors: Mapping[str, str | None], *, region: str) -> int:
        """
        Note that Plaud could not transcribe recordings.

        :param errors: Why, by the id that Plaud gave.
        :param region: Plaud region.
        :return: How many were processing before.
        """
        return self._run(lambda connection: self._failed(connection, errors, region))

    def _failed(self, connection: sa.Connection, errors: Mapping[str, str | None], region: str) -> int:
        reasons = {known: kept_error(error) for known, error in errors.items()}
        return self._end(connection, State.FAILED, (State.PROCESSING,), reasons, region)

    def expired(self, errors: Mapping[str, str], *, region: str) -> int:
        """
        Note that Plaud does not know transcriptions any more.

        :param errors: What it said, by the id that it gave.
        :param region: Plaud region.
        :return: How many were processing before.
        """
        reasons = {known: kept_error(error) for known, error in errors.items()}
        return self._run(
            lambda connection: self._end(connection, State.EXPIRED, (State.PROCESSING,), reasons, region)
        )

    def settle(
        self,
        landed: Collection[str],
        failed: Mapping[str, str | None],
        *,
        region: str,
        connection: sa.Connection | None = None,
    ) -> None:
        """
        Note what was landed: transcripts as ``landed``, failed transcriptions as ``failed``.

        :param landed: Ids of transcripts.
        :param failed: Why, by the id of a transcription that has failed.
        :param region: Plaud region.
        :param connection: Connection, in the transaction to do it in; ``None`` for one of its own.
        """

        def settle(connection: sa.Connection) -> None:
            self._landed(connection, landed, region)
            self._failed(connection, failed, region)

        if connection is not None:
            settle(connection)
        else:
            self._run(settle)

    def _end(
        self,
        connection: sa.Connection,
        state: State,
        start: Collection[State],
        reasons: Mapping[str, str | None],
        region: str,
    ) -> int:
        """Bring what Plaud gave these ids to an end, and return how many came to it now."""
        changed, now = 0, self._now(connection)
        for ids in batches(sorted(reasons), BATCH):
            told = {known: reasons[known] for known in ids if reasons[known] is not None}
            changed += self._change(
                connection,
                sa.and_(self._c.region == region, self._is(*start), self._c.transcription_id.in_(ids)),
                state=state.value,
                error=sa.case(told, value=self._c.transcription_id, else_=None) if told else None,
                lease_until=None,
                finished_at=now,
                updated_at=now,
            )
        return changed

    # What the statements of steps are made of

    def _update_to(self, state: State, is_at_start: sa.ColumnElement[bool], **values: Any) -> sa.Update:
        """Return the statement of a step, made once for all recordings: making takes longer than running."""
        c = self._c
        is_mine = [
            c[name] == sa.bindparam(f"is_{name}") for name in (f"owner_{name}" for name in Owner._fields)
        ]
        # An attempt that lost its connection at the commit has done it already.
        is_done = sa.and_(c.state == state.value, c.updated_at >= _SINCE)
        return (
            sa.update(self._table)
            .where(c.recording_key == sa.bindparam("is_key"), *is_mine, sa.or_(is_at_start, is_done))
            .values(state=state.value, updated_at=_NOW, **values)
        )

    def _step(
        self, statement: sa.Update, key: str, owner: Owner, *, lease: timedelta | None = None, **values: Any
    ) -> bool:
        """Take one recording of this owner a step further, and return whether that happened."""
        parameters = {"is_key": key, **values}
        parameters |= {f"is_{name}": value for name, value in owner_columns(owner).items()}
        attempts: list[datetime] = []

        def step(connection: sa.Connection) -> bool:
            now = self._now(connection)
            # Should an attempt lose its connection at the commit, the next one finds what it has done.
            parameters["since_at"] = min(attempts, default=None)
            attempts.append(now)
            parameters["now_at"] = now
            if lease is not None:
                parameters["new_lease"] = now + lease
            return connection.execute(statement, parameters).rowcount == 1

        return self._run(step)


def open_ledger(
    ledger_conn_id: str,
    *,
    schema: str | None = None,
    table: str = "plaud_submissions",
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
