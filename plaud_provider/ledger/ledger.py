"""The ledger: one row per recording, so that each is paid for once, whoever asks."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from plaud_provider import metrics
from plaud_provider.database.database import once_committed, open_database
from plaud_provider.database.rows import batches
from plaud_provider.database.types import UtcTime
from plaud_provider.ledger.claims import Claims, owner_columns
from plaud_provider.ledger.entry import Entry, Owner, Recording, State, kept_error
from plaud_provider.ledger.reader import BATCH, OWNER_COLUMNS

__all__ = ["BATCH", "Entry", "Ledger", "Owner", "Recording", "State", "open_ledger"]

log = logging.getLogger(__name__)

#: What is kept of why a recording failed, once it is purged.
PURGED_REASON = "its reason was purged"
# Values that a step is given for its recording; its statement is made once.
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
                                  ``expired`` with an id; ``landed`` elsewhere
    :meth:`failed`                ``processing``                                 ``failed``, with its id
    :meth:`expired`               ``processing``; ``landed``, of what the        ``expired``
                                  caller has not found where it is wanted
    :meth:`known_again`           ``expired``                                    ``processing``
    :meth:`found_at_plaud`        ``unknown``                                    ``processing``, nobody waits
    :meth:`purge`                 all but ``claimed`` and ``submitting``         the same, and ``purged_at``
    ============================  =============================================  ==========================

    A step happens if the row is in a state that it starts from, and says whether it did. Those of a submit
    are one conditional statement each, which also asks for the owner; the others lock their rows first. Each
    can be done again with the same result, so that a connection which breaks at its commit does no harm.

    See :class:`~plaud_provider.ledger.reader.LedgerReader` for the arguments.
    """

    #: For how long a submit may take; afterwards its outcome is unknown.
    LEASE_OF_SUBMIT = timedelta(minutes=3)
    #: For how long it is left to others to begin to wait for what they have submitted.
    LEASE_OF_WAIT = timedelta(hours=25)

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
        return self._step(State.SUBMITTING, self._to_submitting, key, owner)

    @cached_property
    def _to_submitting(self) -> sa.Update:
        return self._update_to(
            State.SUBMITTING,
            sa.and_(self._is(State.CLAIMED), self._is_kept),
            lease_until=self._clock(self.LEASE_OF_SUBMIT),
            submitted_at=self._now,
            error=None,
        )

    def not_accepted(self, key: str, owner: Owner) -> bool:
        """
        Note that a recording was certainly not accepted: it is claimed by this owner as before.

        :param key: A recording that this owner was sending, or whose sending has become ``unknown``.
        :param owner: Who sent it.
        """
        return self._step(State.CLAIMED, self._to_claimed, key, owner)

    @cached_property
    def _to_claimed(self) -> sa.Update:
        return self._update_to(
            State.CLAIMED,
            self._is(State.SUBMITTING, State.UNKNOWN),
            lease_until=self._clock(self.LEASE_OF_CLAIM),
            claimed_at=self._now,
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
        return self._step(State.UNKNOWN, self._to_unknown, key, owner, new_error=kept_error(error))

    @cached_property
    def _to_unknown(self) -> sa.Update:
        return self._update_to(
            State.UNKNOWN,
            self._is(State.SUBMITTING, State.UNKNOWN),
            lease_until=None,
            finished_at=self._now,
            error=_ERROR,
        )

    def refused(self, key: str, owner: Owner, error: str) -> bool:
        """
        Note that a recording cannot be submitted, or that Plaud refused it; nothing is paid for.

        :param key: A recording that this owner has claimed or was sending.
        :param owner: Who has it.
        :param error: Why.
        """
        return self._step(State.FAILED, self._to_refused, key, owner, new_error=kept_error(error))

    @cached_property
    def _to_refused(self) -> sa.Update:
        return self._update_to(
            State.FAILED,
            sa.or_(
                sa.and_(self._is(State.CLAIMED), self._is_kept), self._is(State.SUBMITTING, State.UNKNOWN)
            ),
            lease_until=None,
            submitted_at=None,
            finished_at=self._now,
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
            "new_submitted_at": submitted_at,
            "new_accepted_at": accepted_at,
        }
        key = recording.recording_key
        return self._step(State.PROCESSING, self._to_processing, key, owner, **accepted) or self._run(
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
            submitted_at=sa.bindparam("new_submitted_at", type_=UtcTime()),
            accepted_at=sa.bindparam("new_accepted_at", type_=UtcTime()),
            lease_until=self._clock(self.LEASE_OF_WAIT),
            finished_at=None,
            error=None,
        )

    def _note_late(
        self, connection: sa.Connection, recording: Recording, owner: Owner, accepted: Mapping[str, Any]
    ) -> bool:
        """Write an id whose row is gone, somebody else's, or another id's; ``True`` if it is there."""
        key, transcription_id = recording.recording_key, accepted["new_transcription_id"]
        self._lock(connection, self._has_key([key]))
        there = self._entries(connection, [key]).get(key)
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
        now = self._time(connection)
        row = self._claimed_row(recording._replace(recording_key=key), owner, now) | {
            "state": State.PROCESSING.value,
            **{name.removeprefix("new_"): value for name, value in accepted.items()},
            "lease_until": now + self.LEASE_OF_WAIT,
            "error": error,
            "purged_at": there.purged_at if there is not None else None,
        }
        self.database.dialect.clean([row])
        self.database.dialect.upsert(connection, self._table, [row])
        self._tell(connection, State.PROCESSING, 1, recording_key=key, transcription_id=transcription_id)
        return False

    def _update_to(self, state: State, is_at_start: sa.ColumnElement[bool], **values: Any) -> sa.Update:
        """Return the statement of a step, made once for all recordings: making takes longer than running."""
        c = self._c
        is_mine = [c[name] == sa.bindparam(f"is_{name}") for name in OWNER_COLUMNS]
        # An attempt that lost its connection at the commit may have done it already.
        is_done = sa.and_(c.state == state.value, sa.bindparam("is_again", type_=sa.Boolean()))
        return (
            sa.update(self._table)
            .where(c.recording_key == sa.bindparam("is_key"), *is_mine, sa.or_(is_at_start, is_done))
            .values(state=state.value, updated_at=self._now, **values)
        )

    def _step(self, state: State, statement: sa.Update, key: str, owner: Owner, **values: Any) -> bool:
        """Take one recording of this owner a step further, and return whether that happened."""
        mine = {f"is_{name}": value for name, value in owner_columns(owner).items()}
        parameters = {"is_key": key, "is_again": False, **mine, **values}

        def step(connection: sa.Connection) -> bool:
            try:
                count = connection.execute(statement, parameters).rowcount
                self._tell(connection, state, count, recording_key=key)
            except DBAPIError as error:
                # Without a transaction around it, it may be done all the same.
                parameters["is_again"] |= self.database.dialect.is_away(error)
                raise
            parameters["is_again"] = True
            return count == 1

        return self.database.run(step, failed=self._failed_text, is_patient=True, is_one_statement=True)

    # What became of it at Plaud

    def landed(
        self,
        transcription_ids: Collection[str],
        *,
        region: str,
        target: str | None = None,
        connection: sa.Connection | None = None,
    ) -> int:
        """
        Note that transcriptions are in the warehouse, whatever became of them before.

        :param transcription_ids: Ids that Plaud gave.
        :param region: Plaud region.
        :param target: Where, as :attr:`~plaud_provider.warehouse.writer.WarehouseWriter.target` says it.
        :param connection: Connection, in the transaction to do it in; ``None`` for one of its own.
        :return: How many were not noted as landed there before.
        """
        elsewhere = sa.and_(self._is(State.LANDED), self._c.target.is_distinct_from(target))
        start = sa.or_(self._is(State.PROCESSING, State.FAILED, State.UNKNOWN, State.EXPIRED), elsewhere)
        reasons = dict.fromkeys(transcription_ids)
        return self._end(State.LANDED, start, reasons, region, connection, target=target)

    def failed(
        self,
        errors: Mapping[str, str | None],
        *,
        region: str,
        connection: sa.Connection | None = None,
    ) -> int:
        """
        Note that Plaud could not transcribe recordings.

        :param errors: Why, by the id that Plaud gave.
        :param region: Plaud region.
        :param connection: As for :meth:`landed`.
        :return: How many were processing before.
        """
        reasons = {known: kept_error(error) for known, error in errors.items()}
        return self._end(State.FAILED, self._is(State.PROCESSING), reasons, region, connection)

    def expired(self, errors: Mapping[str, str], *, region: str) -> int:
        """
        Note that Plaud does not know transcriptions any more.

        :param errors: What it said, by the id that it gave; none of what is landed where it is wanted.
        :param region: Plaud region.
        :return: How many were processing, or landed elsewhere, before.
        """
        reasons = {known: kept_error(error) for known, error in errors.items()}
        return self._end(State.EXPIRED, self._is(State.PROCESSING, State.LANDED), reasons, region)

    def known_again(self, transcription_ids: Collection[str], *, region: str) -> int:
        """
        Note that Plaud knows transcriptions after all that it seemed not to know any more.

        :param transcription_ids: Ids that Plaud gave.
        :param region: Plaud region.
        :return: How many were expired before.
        """
        is_theirs = sa.and_(
            self._c.region == region,
            self._is(State.EXPIRED),
            self._c.purged_at.is_(None),
            self._c.transcription_id.in_(sorted(transcription_ids)),
        )
        return self._run(
            lambda connection: self._change(
                connection,
                is_theirs,
                state=State.PROCESSING.value,
                error=None,
                lease_until=self._clock(self.LEASE_OF_WAIT),
                finished_at=None,
                updated_at=self._now,
            )
        )

    def found_at_plaud(self, key: str, transcription_id: str) -> bool:
        """
        Note that a person has found a recording of unknown outcome in Plaud's console, and under which id.

        Nobody waits for it: the next run over its folder, or any that takes up what is overdue, lands it.

        :param key: Its key.
        :param transcription_id: The id that Plaud shows.
        :return: ``False`` if it is not ``unknown``, or purged, or another recording has this id; nothing has
            changed then.
        """

        def note(connection: sa.Connection) -> bool:
            # What was being sent when its lease ended is unknown, too.
            self._rows(connection, [key])
            is_taken = sa.select(self._c.recording_key).where(self._c.transcription_id == transcription_id)
            if connection.scalar(is_taken) not in (None, key):
                return False
            changed = self._change(
                connection,
                sa.and_(self._has_key([key]), self._is(State.UNKNOWN), self._c.purged_at.is_(None)),
                state=State.PROCESSING.value,
                transcription_id=transcription_id,
                error=None,
                lease_until=None,
                finished_at=None,
                updated_at=self._now,
            )
            return changed == 1

        return self._run(note)

    def _end(
        self,
        state: State,
        start: sa.ColumnElement[bool],
        reasons: Mapping[str, str | None],
        region: str,
        connection: sa.Connection | None = None,
        **more: Any,
    ) -> int:
        """Bring what Plaud gave these ids to an end, and return how many came to it now."""

        def end(connection: sa.Connection) -> int:
            changed = 0
            for ids in batches(sorted(reasons), BATCH):
                told = {known: reasons[known] for known in ids if reasons[known] is not None}
                changed += self._change(
                    connection,
                    sa.and_(
                        self._c.region == region,
                        start,
                        self._c.purged_at.is_(None),
                        self._c.transcription_id.in_(ids),
                    ),
                    state=state.value,
                    error=sa.case(told, value=self._c.transcription_id, else_=None) if told else None,
                    lease_until=None,
                    finished_at=self._now,
                    updated_at=self._now,
                    **more,
                )
            self._tell(connection, state, changed, region=region, **more)
            return changed

        if not reasons:
            return 0
        return end(connection) if connection is not None else self._run(end)

    # Who waits

    def waiting(self, transcription_ids: Collection[str], until: datetime, *, region: str) -> None:
        """
        Note that somebody waits for transcriptions.

        :param transcription_ids: Ids that Plaud gave.
        :param until: Until when.
        :param region: Plaud region.
        """
        is_waited_for = sa.and_(
            self._c.region == region,
            self._is(State.PROCESSING),
            sa.or_(self._c.lease_until.is_(None), self._c.lease_until < until),
        )

        def wait(connection: sa.Connection) -> None:
            for ids in batches(sorted(transcription_ids), BATCH):
                where = sa.and_(is_waited_for, self._c.transcription_id.in_(ids))
                self._change(connection, where, lease_until=until)

        self._run(wait)

    # What is forgotten

    def purge(self, keys: Collection[str]) -> set[str]:
        """
        Note that the text of recordings is removed for good: nobody claims, waits for or lands them again.

        Key, ids, state and times stay, so that nothing is paid for twice; reasons, which Plaud words, go.
        Deleting a row by hand is how a recording becomes a new one.

        :param keys: Recording keys.
        :return: Which of them are purged, now or before. Those that a task has claimed or is sending are not:
            of them there is no text yet.
        """
        is_open = self._is(State.CLAIMED, State.SUBMITTING)

        def purge(connection: sa.Connection, some: Sequence[str]) -> dict[str, bool]:
            chosen = self._has_key(some)
            self._lock(connection, chosen)
            self._note_lapsed(connection, chosen)
            changed = self._change(
                connection,
                sa.and_(chosen, self._c.purged_at.is_(None), sa.not_(is_open)),
                purged_at=self._now,
                error=sa.case((self._c.error.is_(None), sa.null()), else_=PURGED_REASON),
                lease_until=None,
                updated_at=self._now,
            )
            once_committed(connection, partial(metrics.changed, "purged", changed))
            query = sa.select(self._c.recording_key).where(chosen, self._c.purged_at.is_not(None))
            return dict.fromkeys(connection.scalars(query), True)

        return set(self._in_batches(keys, purge))


def open_ledger(ledger_conn_id: str, *, keeps_connection: bool = False, is_checked: bool = False) -> Ledger:
    """
    Return the ledger behind a connection; its table is created if it is not there, and checked if it is.

    :param ledger_conn_id: Airflow connection of a PostgreSQL, MySQL, MariaDB, SQLite or DuckDB database. It
        may be the warehouse's own.
    :param keeps_connection: Whether a connection may be kept between calls. Close the ledger then.
    :param is_checked: Whether a task before has opened it, and so has checked its table.
    :raises PlaudConfigurationError: if the connection is missing, or its database does not enforce keys.
    :raises PlaudTableMismatchError: if an existing table cannot be the ledger.
    :raises PlaudWarehouseError: if the database is away, locked or refuses.
    """
    database = open_database(
        ledger_conn_id, role="ledger", parameter="ledger_conn_id", keeps_connection=keeps_connection
    )
    ledger = Ledger(database)
    try:
        ledger.ensure_table(is_checked=is_checked)
    except BaseException:
        ledger.close()
        raise
    return ledger
