"""The ledger: one row per recording, so that each is paid for once, whoever asks."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from plaud_provider import metrics
from plaud_provider.api.limits import LATE_AFTER
from plaud_provider.database.connections import kind_of, look_up
from plaud_provider.database.database import DIALECTS, once_committed, open_database
from plaud_provider.database.rows import batches
from plaud_provider.database.types import UtcTime, host_clock
from plaud_provider.exceptions import PlaudConfigurationError, PlaudInputError
from plaud_provider.ledger.entry import RESUBMITTABLE, Entry, Owner, Recording, State, kept_error
from plaud_provider.ledger.table import ledger_tables

if TYPE_CHECKING:
    from plaud_provider.database.database import Database
    from plaud_provider.database.rows import Row
    from plaud_provider.ledger.table import LedgerTables

__all__ = ["Entry", "Ledger", "Owner", "Recording", "State", "open_ledger"]

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

#: Keys per statement: SQLite before 3.32 takes 999 variables, and :meth:`Ledger.failed` three for each id.
BATCH = 300
#: References per query, likewise.
LOOKED_UP = 900
LAPSED = (
    "Its task ended or stalled while it was being sent, and noted no answer: Plaud may have accepted and "
    "billed it. Compare with Plaud's own account, then have it submitted again if it is not there."
)
#: What is kept of why a recording failed, once it is purged.
PURGED_REASON = "its reason was purged"
#: Rows that are read at once, where all are.
PAGE = 5000
#: Kinds of database that keep a ledger, for messages.
LEDGER_DATABASES = "PostgreSQL, MySQL, MariaDB, SQLite or DuckDB"
OWNER_COLUMNS = tuple(f"owner_{name}" for name in Owner._fields)
# Values that a step is given for its recording; its statement is made once.
_ERROR = sa.bindparam("new_error", type_=sa.Text())
_NEW_ID = sa.bindparam("new_transcription_id", type_=sa.Text())


class Outcome(NamedTuple):
    """
    What has become of a recording.

    :param state: Its state.
    :param transcription_id: Plaud's id, once accepted.
    :param submitted_at: When it was sent.
    :param is_purged: Whether its text was removed for good.
    """

    state: State
    transcription_id: str | None
    submitted_at: datetime | None
    is_purged: bool = False


class Ledger:
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
    :meth:`expired`               ``processing``; ``landed``, but elsewhere      ``expired``
    :meth:`known_again`           ``expired``                                    ``processing``
    :meth:`found_at_plaud`        ``unknown``                                    ``processing``, nobody waits
    :meth:`purge`                 all but ``claimed`` and ``submitting``         the same, and ``purged_at``
    ============================  =============================================  ==========================

    A step is one conditional statement: it happens if the row is in a state, and with the owner, that it
    starts from, and says whether it did. Each can be done again with the same result, so that a connection
    which breaks at its commit does no harm. Leases go by the clock of the database, which all hosts share.

    Holds no connection between calls, unless it is opened to keep one; thread-safe. It waits, for a bounded
    time, while its database restarts or other writers are in the way.

    :param database: Database that keeps it.
    :param tables: Its table.
    :param now: Tells the time, with time zone, instead of the database's own clock.
    """

    #: For how long a claimed recording is its owner's, unless renewed.
    LEASE_OF_CLAIM = timedelta(minutes=3)
    #: For how long a submit may take; afterwards its outcome is unknown.
    LEASE_OF_SUBMIT = timedelta(minutes=3)
    #: For how long it is left to others to begin to wait for what they have submitted.
    LEASE_OF_WAIT = timedelta(hours=25)

    def __init__(
        self, database: Database, tables: LedgerTables, *, now: Callable[[], datetime] | None = None
    ) -> None:
        self.database = database
        self._tables = tables
        self._table = tables.submissions
        self._clock = partial(host_clock, now=now) if now is not None else database.dialect.clock
        #: The time by this clock.
        self._now = self._clock(timedelta(0))
        c = self._c = tables.submissions.c
        self._failed_text = f"{self._table.fullname} could not be read or written"
        #: A claim that was released has a lease of no length.
        self._is_kept = c.lease_until > c.claimed_at

    @property
    def conn_id(self) -> str:
        """Airflow connection of its database."""
        return self.database.conn_id

    def close(self) -> None:
        """Close the connection that is kept between calls, if there is one."""
        self.database.close()

    def ensure_table(self, *, is_checked: bool = False) -> None:
        """
        Create the table if it is not there; safe when several tasks do it at once.

        :param is_checked: Whether a task before has done so.
        :raises PlaudTableMismatchError: if an existing table cannot be the ledger.
        :raises PlaudWarehouseError: if the database cannot be reached, or does not let us.
        """
        self.database.ensure(self._tables, is_checked=is_checked)

    # Who may submit

    def claim(
        self,
        recordings: Collection[Recording],
        owner: Owner,
        *,
        resubmit: Collection[State] = (),
        resubmit_own: bool = False,
        max_hours: float | None = None,
    ) -> dict[str, Entry]:
        """
        Claim recordings for submitting, and return the state of all of them afterwards.

        Those that ``owner`` has got are claimed by it in what is returned. What it could have claimed, but
        for ``max_hours``, is left out.

        :param recordings: Recordings to claim.
        :param owner: Who claims.
        :param resubmit: States to claim again from: ``failed``, ``unknown``, ``expired``. What Plaud has
            accepted before is paid for again.
        :param resubmit_own: Whether also what came to such a state in this very run.
        :param max_hours: Audio hours that the run may submit, see :meth:`audio_hours`; recordings that would
            go beyond are not claimed.
        :raises PlaudInputError: if recordings in another state were to be resubmitted.
        """
        if beyond := set(resubmit) - RESUBMITTABLE:
            raise PlaudInputError(
                f"resubmit: what is {', '.join(sorted(beyond))} cannot be submitted again; only failed, "
                "unknown and expired recordings can. Nothing was sent."
            )
        by_key = {recording.recording_key: recording for recording in recordings}

        def claim(connection: sa.Connection, keys: Sequence[str]) -> dict[str, Entry]:
            self._lock(connection, self._has_key(keys))
            self._note_lapsed(connection, self._has_key(keys))
            # Once there is nothing to wait for any more: a lease is not to be spent on that.
            now = self._time(connection)
            dialect = self.database.dialect
            beyond: set[str] = set()
            if max_hours is not None:
                # Of two tasks of a run, each sees what the other has claimed.
                dialect.lock(connection, [f"{self._table.name}\0{owner.dag_id}\0{owner.run_id}"])
                rule = self._may_claim(self._claim_of(owner), resubmit, resubmit_own=resubmit_own)
                known = {
                    row.recording_key: row.may_claim
                    for row in self._rows(connection, keys, rule.label("may_claim"))
                }
                wanted = [by_key[key] for key in keys if known.get(key, True)]
                beyond = self._beyond_hours(connection, wanted, owner, max_hours)
            rows = [self._claimed_row(by_key[key], owner, now) for key in keys if key not in beyond]
            dialect.clean(rows)
            dialect.upsert(
                connection,
                self._table,
                rows,
                may_replace=lambda new: self._may_claim(new, resubmit, resubmit_own=resubmit_own),
            )
            found = {
                key: entry for key, entry in self._entries(connection, keys).items() if key not in beyond
            }
            claimed = sum(entry.is_claimed_by(owner) for entry in found.values())
            self._tell(connection, State.CLAIMED, claimed)
            return found

        return self._in_batches(by_key, claim)

    def _beyond_hours(
        self, connection: sa.Connection, wanted: Collection[Recording], owner: Owner, max_hours: float
    ) -> set[str]:
        """Return which recordings a run may not claim, as it would go beyond its audio hours."""
        keys = [recording.recording_key for recording in wanted]
        left = max_hours * 3600 - self._audio_seconds(connection, owner.dag_id, owner.run_id, but=keys)
        beyond = set()
        for recording in wanted:
            seconds = recording.duration_seconds or 0.0
            if seconds <= left:
                left -= seconds
            else:
                beyond.add(recording.recording_key)
        return beyond

    def _may_claim(
        self, new: Any, resubmit: Collection[State], *, resubmit_own: bool
    ) -> sa.ColumnElement[bool]:
        """
        Return the rule of claims: whether a row may be replaced by a claim.

        :param new: The row of the claim: its columns, or its values.
        :param resubmit: States to claim again from.
        :param resubmit_own: Whether also those that came about in this very run: what failed is tried once a
            run, unless somebody says so.
        """
        there = self._c
        is_same_run = sa.and_(there.owner_dag_id == new.owner_dag_id, there.owner_run_id == new.owner_run_id)
        # Of this try, whose lease starts anew, or an earlier one: one that is still alive must not take from
        # a later one.
        is_earlier_try = sa.and_(
            is_same_run,
            there.owner_task_id == new.owner_task_id,
            there.owner_map_index == new.owner_map_index,
            there.owner_try_number <= new.owner_try_number,
        )
        has_lapsed = there.lease_until <= new.claimed_at
        return sa.and_(
            there.purged_at.is_(None),
            sa.or_(
                sa.and_(self._is(State.CLAIMED), sa.or_(has_lapsed, is_earlier_try)),
                sa.and_(self._is(*sorted(resubmit)), sa.true() if resubmit_own else sa.not_(is_same_run)),
            ),
        )

    def claimable(
        self, keys: Collection[str], owner: Owner, *, resubmit: Collection[State] = ()
    ) -> tuple[dict[str, Entry], set[str]]:
        """
        Return what is known of recordings, and which of them a claim would get now.

        :param keys: Recording keys.
        :param owner: Who would claim.
        :param resubmit: States to claim again from.
        :return: Rows by their keys, and the keys a claim would get: those without a row too.
        """
        may_claim = self._may_claim(self._claim_of(owner), resubmit, resubmit_own=False)
        found = self._in_batches(
            keys,
            lambda connection, some: {
                row.recording_key: (row_to_entry(row), bool(row.may_claim))
                for row in self._rows(connection, some, may_claim.label("may_claim"))
            },
        )
        claimable = {key for key in keys if key not in found or found[key][1]}
        return {key: entry for key, (entry, _) in found.items()}, claimable

    def renew(self, owner: Owner) -> int:
        """
        Start the lease of what this owner still has claimed anew.

        :param owner: Who has claimed.
        :return: How many recordings that are.
        """
        return self._run(
            self._change,
            self._is_claimed_by(owner),
            lease_until=self._clock(self.LEASE_OF_CLAIM),
            updated_at=self._now,
        )

    def release(self, owner: Owner, error: str | None = None, *, keys: Collection[str] | None = None) -> int:
        """
        Give up claims: others may take them at once.

        :param owner: Who has claimed.
        :param error: Why they are given up; kept until they are claimed again.
        :param keys: Recordings to give up; ``None`` for all that this owner has claimed.
        :return: How many were given up.
        """
        chosen = [sa.true()] if keys is None else [*map(self._has_key, batches(sorted(keys), BATCH))]
        values = {
            "lease_until": self._c.claimed_at,
            "error": kept_error(error) if error is not None else None,
            "updated_at": self._now,
        }

        def release(connection: sa.Connection) -> int:
            return sum(
                self._change(connection, sa.and_(self._is_claimed_by(owner), some), **values)
                for some in chosen
            )

        return self._run(release)

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
        return self._step(
            State.PROCESSING, self._to_processing, recording.recording_key, owner, **accepted
        ) or self._run(self._note_late, recording, owner, accepted)

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

    # What became of it at Plaud

    def landed(self, transcription_ids: Collection[str], *, region: str, target: str | None = None) -> int:
        """
        Note that transcriptions are in the warehouse, whatever became of them before.

        :param transcription_ids: Ids that Plaud gave.
        :param region: Plaud region.
        :param target: Where, as :attr:`~plaud_provider.warehouse.writer.WarehouseWriter.target` says it.
        :return: How many were not noted as landed there before.
        """
        return self._run(self._landed, transcription_ids, region, target)

    def _landed(
        self, connection: sa.Connection, ids: Collection[str], region: str, target: str | None
    ) -> int:
        elsewhere = sa.and_(self._is(State.LANDED), self._c.target.is_distinct_from(target))
        start = sa.or_(self._is(State.PROCESSING, State.FAILED, State.UNKNOWN, State.EXPIRED), elsewhere)
        return self._end(connection, State.LANDED, start, dict.fromkeys(ids), region, target=target)

    def failed(self, errors: Mapping[str, str | None], *, region: str) -> int:
        """
        Note that Plaud could not transcribe recordings.

        :param errors: Why, by the id that Plaud gave.
        :param region: Plaud region.
        :return: How many were processing before.
        """
        return self._run(self._failed, errors, region)

    def _failed(self, connection: sa.Connection, errors: Mapping[str, str | None], region: str) -> int:
        reasons = {known: kept_error(error) for known, error in errors.items()}
        return self._end(connection, State.FAILED, self._is(State.PROCESSING), reasons, region)

    def expired(self, errors: Mapping[str, str], *, region: str) -> int:
        """
        Note that Plaud does not know transcriptions any more.

        :param errors: What it said, by the id that it gave; none of what is landed where it is wanted.
        :param region: Plaud region.
        :return: How many were processing, or landed elsewhere, before.
        """
        reasons = {known: kept_error(error) for known, error in errors.items()}
        start = self._is(State.PROCESSING, State.LANDED)
        return self._run(lambda connection: self._end(connection, State.EXPIRED, start, reasons, region))

    def known_again(self, transcription_ids: Collection[str], *, region: str) -> int:
        """
        Note that Plaud knows transcriptions after all that it seemed not to know any more.

        :param transcription_ids: Ids that Plaud gave.
        :param region: Plaud region.
        :return: How many were expired before.
        """
        return self._run(
            self._change,
            sa.and_(
                self._c.region == region,
                self._is(State.EXPIRED),
                self._c.purged_at.is_(None),
                self._c.transcription_id.in_(sorted(transcription_ids)),
            ),
            state=State.PROCESSING.value,
            error=None,
            lease_until=self._clock(self.LEASE_OF_WAIT),
            finished_at=None,
            updated_at=self._now,
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

    def settle(
        self,
        landed: Collection[str],
        failed: Mapping[str, str | None],
        *,
        region: str,
        target: str | None = None,
        connection: sa.Connection | None = None,
    ) -> None:
        """
        Note what was landed: transcripts as ``landed``, failed transcriptions as ``failed``.

        :param landed: Ids of transcripts.
        :param failed: Why, by the id of a transcription that has failed.
        :param region: Plaud region.
        :param target: Where, as :meth:`landed` has it.
        :param connection: Connection, in the transaction to do it in; ``None`` for one of its own.
        """

        def settle(connection: sa.Connection) -> None:
            self._landed(connection, landed, region, target)
            self._failed(connection, failed, region)

        if connection is not None:
            settle(connection)
        else:
            self._run(settle)

    def _end(
        self,
        connection: sa.Connection,
        state: State,
        start: sa.ColumnElement[bool],
        reasons: Mapping[str, str | None],
        region: str,
        **more: Any,
    ) -> int:
        """Bring what Plaud gave these ids to an end, and return how many came to it now."""
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

    def purged(self, transcription_ids: Collection[str], *, region: str) -> set[str]:
        """
        Return those of transcriptions whose text is removed for good.

        :param transcription_ids: Ids that Plaud gave.
        :param region: Plaud region.
        """
        c = self._c

        def find(connection: sa.Connection) -> set[str]:
            return {
                known
                for batch in batches(sorted(set(transcription_ids)), BATCH)
                for known in connection.scalars(
                    sa.select(c.transcription_id).where(
                        c.region == region, c.transcription_id.in_(batch), c.purged_at.is_not(None)
                    )
                )
            }

        return self._run(find)

    def chosen(self, is_chosen: Callable[[Entry], bool]) -> list[Entry]:
        """
        Return the rows that something holds for; all are read, a page at a time.

        :param is_chosen: Whether a row is one of them.
        """

        def choose(connection: sa.Connection) -> list[Entry]:
            rows = connection.execution_options(yield_per=PAGE).execute(sa.select(self._table))
            return [entry for row in rows if is_chosen(entry := row_to_entry(row))]

        return self._run(choose)

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

    def overdue(self, *, region: str, client_id: str, target: str, most: int) -> list[Entry]:
        """
        Return what is at Plaud and nobody waits for any more, the oldest first.

        :param region: Plaud region.
        :param client_id: Plaud client id.
        :param target: Where it is to be landed; what is to be landed elsewhere is left out.
        :param most: Not more than so many.
        """
        c = self._c
        query = (
            sa.select(self._table)
            .where(
                c.region == region,
                c.client_id == client_id,
                self._is(State.PROCESSING),
                c.purged_at.is_(None),
                c.transcription_id.is_not(None),
                sa.or_(c.target.is_(None), c.target == target),
                sa.or_(c.lease_until.is_(None), c.lease_until <= self._now),
            )
            .order_by(c.submitted_at, c.recording_key)
            .limit(most)
        )
        return self._run(lambda connection: [row_to_entry(row) for row in connection.execute(query)])

    def late(self, *, region: str, client_id: str) -> int:
        """
        Return how many recordings have been at Plaud for so long that their results are soon lost.

        :param region: Plaud region.
        :param client_id: Plaud client id.
        """
        query = (
            sa.select(sa.func.count())
            .select_from(self._table)
            .where(
                self._c.region == region,
                self._c.client_id == client_id,
                self._is(State.PROCESSING),
                self._c.submitted_at <= self._clock(-LATE_AFTER),
            )
        )
        return self._run(lambda connection: int(connection.execute(query).scalar_one()))

    # What is known

    def entries(self, keys: Collection[str]) -> dict[str, Entry]:
        """
        Return what is known of these recordings; one that nobody has claimed is left out.

        :param keys: Recording keys.
        """
        return self._in_batches(keys, self._entries)

    def outcomes(self, keys: Collection[str]) -> dict[str, Outcome]:
        """
        Return what has become of recordings; one that nobody has claimed is left out.

        :param keys: Recording keys, also tens of thousands.
        """
        c = self._c

        def find(connection: sa.Connection, some: Sequence[str]) -> dict[str, Outcome]:
            query = sa.select(c.recording_key, c.state, c.transcription_id, c.submitted_at, c.purged_at)
            return {
                key: Outcome(State(state), known, submitted_at, purged_at is not None)
                for key, state, known, submitted_at, purged_at in connection.execute(
                    query.where(self._has_key(some))
                )
            }

        return self._in_batches(keys, find)

    def paid_uris(
        self,
        uris: Collection[str],
        *,
        region: str,
        client_id: str,
        language: str | None,
        speaker_diarization: bool,
    ) -> set[str]:
        """
        Return those references of which a recording was paid for, or may have been, whatever its version.

        :param uris: References as they are stored, also tens of thousands.
        :param region: Plaud region.
        :param client_id: Plaud client id.
        :param language: Language that was asked for: another one is another transcription.
        :param speaker_diarization: Whether speakers were asked for, likewise.
        """
        c = self._c
        # Each statement reads the whole table: an index of texts of any length is none that all databases
        # have, and a hundred thousand rows are read in some hundredths of a second.
        query = sa.select(c.audio_uri).where(
            c.region == region,
            c.client_id == client_id,
            c.language.is_not_distinct_from(language),
            c.speaker_diarization == speaker_diarization,
            sa.or_(c.transcription_id.is_not(None), self._is(State.SUBMITTING, State.UNKNOWN)),
        )

        def find(connection: sa.Connection, some: Sequence[str]) -> dict[str, str]:
            return {uri: uri for uri in connection.scalars(query.where(c.audio_uri.in_(some)))}

        return set(self._in_batches(uris, find, size=LOOKED_UP))

    def origins(
        self, transcription_ids: Collection[str], *, region: str, connection: sa.Connection | None = None
    ) -> dict[str, Entry]:
        """
        Return what is known of recordings, by the ids of their transcriptions.

        :param transcription_ids: Ids that Plaud gave.
        :param region: Plaud region.
        :param connection: Connection, in the transaction to look in; ``None`` for one of its own.
        """

        def find(connection: sa.Connection) -> dict[str, Entry]:
            found = (
                row_to_entry(row)
                for batch in batches(sorted(set(transcription_ids)), BATCH)
                for row in connection.execute(
                    sa.select(self._table).where(
                        self._c.region == region, self._c.transcription_id.in_(batch)
                    )
                )
            )
            return {str(entry.transcription_id): entry for entry in found}

        return find(connection) if connection is not None else self._run(find)

    def audio_hours(self, dag_id: str, run_id: str) -> float:
        """
        Return how many hours of audio a run has claimed, submitted or paid for, where their length is known.

        What it has released, or what was refused without being paid for, does not count.

        :param dag_id: Its dag.
        :param run_id: The run.
        """
        return self._run(self._audio_seconds, dag_id, run_id) / 3600

    def _audio_seconds(
        self, connection: sa.Connection, dag_id: str, run_id: str, but: Sequence[str] = ()
    ) -> float:
        c = self._c
        is_released = sa.and_(self._is(State.CLAIMED), sa.not_(self._is_kept))
        is_unpaid = sa.and_(self._is(State.FAILED), c.transcription_id.is_(None))
        query = sa.select(sa.func.sum(c.duration_seconds)).where(
            c.owner_dag_id == dag_id,
            c.owner_run_id == run_id,
            sa.not_(sa.or_(is_released, is_unpaid)),
            c.recording_key.not_in(but),
        )
        return float(connection.scalar(query) or 0)

    def ended_since(self, moment: datetime) -> list[tuple[str, str, str]]:
        """
        Return what has landed or failed at Plaud since a moment, as keys, regions and ids.

        :param moment: When to begin.
        """
        c = self._c
        query = sa.select(c.recording_key, c.region, c.transcription_id).where(
            self._is(State.LANDED, State.FAILED), c.transcription_id.is_not(None), c.finished_at >= moment
        )
        return self._run(lambda connection: [(row[0], row[1], row[2]) for row in connection.execute(query)])

    def queue(self) -> tuple[int, float]:
        """Return how many recordings are at Plaud, and for how many seconds the first of them has been."""
        c = self._c
        query = sa.select(sa.func.count(), sa.func.min(c.submitted_at, type_=c.submitted_at.type)).where(
            self._is(State.PROCESSING), c.purged_at.is_(None)
        )

        def look(connection: sa.Connection) -> tuple[int, float]:
            many, oldest = connection.execute(query).one()
            age = (self._time(connection) - oldest).total_seconds() if oldest is not None else 0.0
            return int(many), max(0.0, age)

        return self._run(look)

    def counts(self) -> dict[State, int]:
        """Return how many recordings are in each state."""
        query = sa.select(self._c.state, sa.func.count()).group_by(self._c.state)

        def count(connection: sa.Connection) -> dict[State, int]:
            self._lock(connection, self._is_lapsed)
            self._note_lapsed(connection, sa.true())
            found = {str(state): int(many) for state, many in connection.execute(query)}
            return {state: found.get(state.value, 0) for state in State}

        return self._run(count)

    # How statements are run, and what they are made of

    def _run(
        self,
        work: Callable[Concatenate[sa.Connection, Arguments], Result],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> Result:
        """Do something in a transaction; while the database is away, it is waited for."""
        return self.database.run(
            lambda connection: work(connection, *arguments, **named),
            failed=self._failed_text,
            is_patient=True,
        )

    def _time(self, connection: sa.Connection) -> datetime:
        """Return the time by the ledger's clock."""
        return connection.scalars(sa.select(self._now)).one()

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

    def _is_claimed_by(self, owner: Owner) -> sa.ColumnElement[bool]:
        is_mine = (self._c[name] == value for name, value in owner_columns(owner).items())
        return sa.and_(self._is(State.CLAIMED), self._is_kept, *is_mine)

    def _claim_of(self, owner: Owner) -> SimpleNamespace:
        """Return what the rule of claims asks of a claim that would be made now."""
        return SimpleNamespace(**owner_columns(owner), claimed_at=self._now)

    def _claimed_row(self, recording: Recording, owner: Owner, now: datetime) -> Row:
        return {
            **recording._asdict(),
            "state": State.CLAIMED.value,
            "transcription_id": None,
            "error": None,
            **owner_columns(owner),
            "lease_until": now + self.LEASE_OF_CLAIM,
            "claimed_at": now,
            "submitted_at": None,
            "accepted_at": None,
            "finished_at": None,
            "updated_at": now,
            "purged_at": None,
        }

    def _is(self, *states: State) -> sa.ColumnElement[bool]:
        # Not IN: it cannot be in a statement that is run for many rows.
        return sa.or_(sa.false(), *(self._c.state == state.value for state in states))

    def _has_key(self, keys: Sequence[str]) -> sa.ColumnElement[bool]:
        return self._c.recording_key.in_(keys)

    @staticmethod
    def _tell(connection: sa.Connection, state: State, many: int, **about: Any) -> None:
        """Have a change of state told once it is committed: a transaction may be tried several times."""
        once_committed(connection, partial(metrics.changed, state.value, many, **about))

    def _change(self, connection: sa.Connection, where: sa.ColumnElement[bool], /, **values: Any) -> int:
        """Change all rows that a condition holds for, locked in the order of their keys."""
        self._lock(connection, where)
        return connection.execute(sa.update(self._table).where(where).values(values)).rowcount

    def _lock(self, connection: sa.Connection, where: sa.ColumnElement[bool]) -> None:
        key = self._c.recording_key
        # Databases that take one writer at a time leave the lock of the rows out.
        connection.execute(sa.select(key).where(where).order_by(key).with_for_update())

    @property
    def _is_lapsed(self) -> sa.ColumnElement[bool]:
        """Whether it was being sent when its lease ended."""
        return sa.and_(self._is(State.SUBMITTING), self._c.lease_until <= self._now)

    def _note_lapsed(self, connection: sa.Connection, where: sa.ColumnElement[bool]) -> None:
        """Make ``unknown``, of rows that are locked, what was being sent when its lease ended."""
        lapsed = sa.update(self._table).where(where, self._is_lapsed)
        changed = connection.execute(
            lapsed.values(
                state=State.UNKNOWN.value,
                error=LAPSED,
                lease_until=None,
                finished_at=self._now,
                updated_at=self._now,
            )
        )
        self._tell(connection, State.UNKNOWN, changed.rowcount)

    def _entries(self, connection: sa.Connection, keys: Sequence[str]) -> dict[str, Entry]:
        return {row.recording_key: row_to_entry(row) for row in self._rows(connection, keys)}

    def _rows(
        self, connection: sa.Connection, keys: Sequence[str], *more: sa.ColumnElement[Any]
    ) -> Sequence[sa.Row[Any]]:
        """Return rows, with more values of each; what has lapsed is ``unknown`` from now on."""
        is_lapsed = self._is_lapsed.label("is_lapsed")
        rows = connection.execute(sa.select(self._table, is_lapsed, *more).where(self._has_key(keys))).all()
        lapsed = sorted(row.recording_key for row in rows if row.is_lapsed)
        if not lapsed:
            return rows
        self._lock(connection, self._has_key(lapsed))
        self._note_lapsed(connection, self._has_key(lapsed))
        return self._rows(connection, keys, *more)

    def _in_batches(
        self,
        keys: Collection[str],
        work: Callable[[sa.Connection, Sequence[str]], dict[str, Result]],
        *,
        size: int = BATCH,
    ) -> dict[str, Result]:
        """
        Do something with keys in as many transactions as it takes, and return all that they return.

        In the order of the keys: two tasks that lock the same ones wait for each other, not in a circle.
        """
        found: dict[str, Result] = {}
        for some in batches(sorted(set(keys)), size):
            found |= self._run(work, some)
        return found


def owner_columns(owner: Owner) -> dict[str, Any]:
    """Return an owner as the table has it."""
    return dict(zip(OWNER_COLUMNS, owner, strict=True))


def row_to_entry(row: sa.Row[Any]) -> Entry:
    """Return a row of the table."""
    owner = Owner(*(row._mapping[name] for name in OWNER_COLUMNS))
    values = {name: row._mapping[name] for name in Entry._fields if name != "owner"}
    values |= {"state": State(row.state), "speaker_diarization": bool(row.speaker_diarization)}
    return Entry(owner=owner, **values)


def open_ledger(
    ledger_conn_id: str,
    *,
    schema: str | None = None,
    table: str = "plaud_submissions",
    keeps_connection: bool = False,
    is_checked: bool = False,
) -> Ledger:
    """
    Return the ledger behind a connection; its table is created if it is not there, and checked if it is.

    :param ledger_conn_id: Airflow connection of a PostgreSQL, MySQL, MariaDB, SQLite or DuckDB database. It
        may be the warehouse's own.
    :param schema: Schema of the table; ``None`` for the connection's own. It has to exist.
    :param table: Name of the table, taken literally.
    :param keeps_connection: Whether a connection may be kept between calls. Close the ledger then.
    :param is_checked: Whether a task before has opened it, and so has checked its table.
    :raises PlaudConfigurationError: if the connection is missing, or its database does not enforce keys.
    :raises PlaudInputError: if a name cannot be one.
    :raises PlaudTableMismatchError: if an existing table cannot be the ledger.
    :raises PlaudWarehouseError: if the database is away, locked or refuses.
    """
    tables = ledger_tables(schema, table)
    connection = look_up(ledger_conn_id, parameter="ledger_conn_id")
    if (kind := kind_of(connection)) not in DIALECTS:
        raise PlaudConfigurationError(
            f"ledger_conn_id: connection {ledger_conn_id!r} is of type {kind!r}. The ledger needs a database "
            f"that enforces keys, or two tasks could pay for one recording: {LEDGER_DATABASES}. It need not "
            "be the warehouse. Nothing was sent."
        )
    database = open_database(
        ledger_conn_id,
        role="ledger",
        parameter="ledger_conn_id",
        keeps_connection=keeps_connection,
        connection=connection,
    )
    ledger = Ledger(database, tables)
    try:
        ledger.ensure_table(is_checked=is_checked)
    except BaseException:
        ledger.close()
        raise
    return ledger
