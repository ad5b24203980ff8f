"""What the ledger says to its database, in statements that all kinds which keep one understand."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from plaud_provider.database.rows import batches, utc
from plaud_provider.ledger.entry import Entry, Owner, Recording, State

if TYPE_CHECKING:
    from sqlalchemy.sql.base import ReadOnlyColumnCollection

    from plaud_provider.database.dialect import Dialect
    from plaud_provider.database.rows import Row

MAX_ERROR_CHARACTERS = 500
_OWNER_COLUMNS = [f"owner_{name}" for name in Owner._fields]
_URL_QUERY = re.compile(r"\?[^\s?'\"<>]*=[^\s'\"<>]*")
#: Keys per statement: SQLite before 3.32 takes 999 variables, and an id that ends has three.
BATCH = 300
LAPSED = (
    "Its task ended or stalled while it was being sent, and noted no answer: Plaud may have accepted and "
    "billed it. Compare with Plaud's own account, then have it submitted again if it is not there."
)


class LedgerStatements:
    """
    The statements of one ledger's table.

    :param table: The table.
    :param dialect: Dialect of its database.
    """

    def __init__(self, table: sa.Table, dialect: Dialect) -> None:
        self._dialect = dialect
        self._table = table
        self._c = table.c
        self._is_kept = table.c.lease_until > table.c.claimed_at
        self._steps: dict[tuple[frozenset[State], frozenset[str]], sa.Update] = {}

    def has_key(self, keys: Sequence[str]) -> sa.ColumnElement[bool]:
        """Whether a row is one of these recordings."""
        return self._c.recording_key.in_(keys)

    def is_in(self, *states: State) -> sa.ColumnElement[bool]:
        """Whether a row is in one of these states."""
        # Not IN: it cannot be in a statement that is run for many rows.
        return sa.or_(sa.false(), *(self._c.state == state.value for state in states))

    def is_owned_by(self, owner: Owner) -> sa.ColumnElement[bool]:
        """Whether this try has the row."""
        return sa.and_(*(self._c[name] == value for name, value in _owner_columns(owner).items()))

    def is_claimed_by(self, owner: Owner) -> sa.ColumnElement[bool]:
        """Whether this try may submit the row: a claim that was released has a lease of no length."""
        return sa.and_(self.is_in(State.CLAIMED), self._is_kept, self.is_owned_by(owner))

    def claimed_row(self, recording: Recording, owner: Owner, now: datetime, lease_until: datetime) -> Row:
        """Return the row of a recording that is claimed now."""
        return {
            "recording_key": recording.recording_key,
            "state": State.CLAIMED.value,
            "audio_uri": recording.audio_uri,
            "region": recording.region,
            "client_id": recording.client_id,
            "language": recording.language,
            "speaker_diarization": recording.speaker_diarization,
            "duration_seconds": recording.duration_seconds,
            "transcription_id": None,
            "error": None,
            **_owner_columns(owner),
            "lease_until": lease_until,
            "claimed_at": now,
            "submitted_at": None,
            "accepted_at": None,
            "finished_at": None,
            "updated_at": now,
        }

    def claim(
        self,
        connection: sa.Connection,
        rows: Sequence[Row],
        resubmit: Collection[State],
        *,
        resubmit_own: bool,
    ) -> None:
        """
        Insert rows, or let them replace those that may be claimed.

        :param connection: Where.
        :param rows: Rows of :meth:`claimed_row`, in the order of their keys.
        :param resubmit: States to claim again from.
        :param resubmit_own: Whether also those that came about in this run.
        """
        if not rows:
            return
        there = self._c
        # First all locks, in the order of the keys, then all changes: two claims never wait in a circle.
        keys = [row["recording_key"] for row in rows]
        for batch in batches(keys, BATCH):
            self._dialect.lock_rows(
                connection,
                sa.select(there.recording_key).where(self.has_key(batch)).order_by(there.recording_key),
            )
        for batch in batches(keys, BATCH):
            self.note_lapsed(connection, rows[0]["claimed_at"], self.has_key(batch))

        def may_replace(new: ReadOnlyColumnCollection[str, Any]) -> sa.ColumnElement[bool]:
            is_same_run = sa.and_(
                there.owner_dag_id == new.owner_dag_id, there.owner_run_id == new.owner_run_id
            )
            # An earlier try that is still alive must not take from a later one.
            is_earlier_try = sa.and_(
                is_same_run,
                there.owner_task_id == new.owner_task_id,
                there.owner_map_index == new.owner_map_index,
                there.owner_try_number <= new.owner_try_number,
            )
            is_open = sa.or_(there.lease_until <= new.claimed_at, is_earlier_try)
            return sa.or_(
                sa.and_(self.is_in(State.CLAIMED), is_open),
                sa.and_(self.is_in(*sorted(resubmit)), sa.true() if resubmit_own else sa.not_(is_same_run)),
            )

        self._dialect.upsert(connection, self._table, rows, may_replace=may_replace)

    def note_lapsed(self, connection: sa.Connection, now: datetime, where: sa.ColumnElement[bool]) -> None:
        """Make ``unknown`` what was being sent when its lease ended."""
        self.change(
            connection,
            sa.and_(where, self.is_in(State.SUBMITTING), self._c.lease_until <= now),
            state=State.UNKNOWN.value,
            error=LAPSED,
            lease_until=None,
            finished_at=now,
            updated_at=now,
        )

    def change(self, connection: sa.Connection, where: sa.ColumnElement[bool], **values: Any) -> int:
        """Change all rows that a condition holds for, and return how many they are."""
        key = self._c.recording_key
        self._dialect.lock_rows(connection, sa.select(key).where(where).order_by(key))
        return connection.execute(sa.update(self._table).where(where).values(values)).rowcount

    def step(
        self,
        connection: sa.Connection,
        key: str,
        owner: Owner,
        start: Collection[State],
        values: Row,
        *,
        since: datetime | None,
    ) -> bool:
        """
        Change one recording of an owner, and return whether it was changed.

        :param connection: Where.
        :param key: The recording.
        :param owner: Who has to have it.
        :param start: States it may be in: ``claimed`` with a claim that is not released, ``processing`` with
            the transcription id that ``values`` has.
        :param values: What to write, the new state among it.
        :param since: It may also have come to the new state then or later.
        """
        made_of = (frozenset(start), frozenset(values))
        if made_of not in self._steps:
            # Once for all recordings: it takes longer to make than to run.
            self._steps[made_of] = self._step(*made_of)
        parameters = {"is_recording_key": key, "since": since}
        parameters |= {f"is_{name}": value for name, value in _owner_columns(owner).items()}
        parameters |= {f"new_{name}": value for name, value in values.items()}
        return connection.execute(self._steps[made_of], parameters).rowcount == 1

    def _step(self, start: Collection[State], names: Collection[str]) -> sa.Update:
        conditions = {
            State.CLAIMED: self._is_kept,
            State.PROCESSING: self._c.transcription_id == sa.bindparam("new_transcription_id"),
        }
        is_at_start = sa.or_(
            *(sa.and_(self.is_in(state), conditions.get(state, sa.true())) for state in sorted(start))
        )
        is_done = sa.and_(
            self._c.state == sa.bindparam("new_state"), self._c.updated_at >= sa.bindparam("since")
        )
        is_mine = (self._c[name] == sa.bindparam(f"is_{name}") for name in ("recording_key", *_OWNER_COLUMNS))
        return (
            sa.update(self._table)
            .where(*is_mine, sa.or_(is_at_start, is_done))
            .values({name: sa.bindparam(f"new_{name}") for name in sorted(names)})
        )

    def end(
        self,
        connection: sa.Connection,
        region: str,
        errors: Mapping[str, str | None],
        state: State,
        now: datetime,
    ) -> int:
        """
        Bring recordings to an end, and return how many came to it now.

        :param connection: Where.
        :param region: Plaud region.
        :param errors: What to note of each, by the id that Plaud gave.
        :param state: ``landed``, from wherever they were; ``failed`` or ``expired``, from ``processing``.
        :param now: The time.
        """
        others = (State.FAILED, State.UNKNOWN, State.EXPIRED) if state is State.LANDED else ()
        start = sa.and_(self._c.region == region, self.is_in(State.PROCESSING, *others))
        changed = 0
        for ids in batches(sorted(errors), BATCH):
            reasons = {known: errors[known] for known in ids if errors[known] is not None}
            changed += self.change(
                connection,
                sa.and_(start, self._c.transcription_id.in_(ids)),
                state=state.value,
                error=sa.case(reasons, value=self._c.transcription_id, else_=None) if reasons else None,
                lease_until=None,
                finished_at=now,
                updated_at=now,
            )
        return changed

    def entries(self, connection: sa.Connection, keys: Sequence[str]) -> dict[str, Entry]:
        """Return rows by their keys."""
        found = [
            self._entry(row)
            for batch in batches(keys, BATCH)
            for row in connection.execute(sa.select(self._table).where(self.has_key(batch)))
        ]
        return {entry.recording_key: entry for entry in found}

    def origins(
        self, connection: sa.Connection, ids: Collection[tuple[str, str]]
    ) -> dict[tuple[str, str], Entry]:
        """Return rows by region and transcription id."""
        found = {}
        for region in {region for region, _ in ids}:
            here = sorted(known for where, known in ids if where == region)
            for batch in batches(here, BATCH):
                is_one = sa.and_(self._c.region == region, self._c.transcription_id.in_(batch))
                for row in connection.execute(sa.select(self._table).where(is_one)):
                    entry = self._entry(row)
                    if entry.transcription_id is not None:
                        found[region, entry.transcription_id] = entry
        return found

    def seconds(self, connection: sa.Connection, dag_id: str, run_id: str) -> float:
        """Return how many seconds of audio a run has claimed, submitted or paid for."""
        is_released = sa.and_(self.is_in(State.CLAIMED), self._c.lease_until <= self._c.claimed_at)
        is_unpaid = sa.and_(self.is_in(State.FAILED), self._c.transcription_id.is_(None))
        query = sa.select(sa.func.sum(self._c.duration_seconds)).where(
            self._c.owner_dag_id == dag_id,
            self._c.owner_run_id == run_id,
            sa.not_(sa.or_(is_released, is_unpaid)),
        )
        ((seconds,),) = connection.execute(query)
        return float(seconds or 0)

    def counts(self, connection: sa.Connection) -> dict[State, int]:
        """Return how many rows are in each state."""
        query = sa.select(self._c.state, sa.func.count()).group_by(self._c.state)
        found = {str(state): int(count) for state, count in connection.execute(query)}
        return {state: found.get(state.value, 0) for state in State}

    def _entry(self, row: Sequence[Any]) -> Entry:
        values = dict(zip(self._c.keys(), row, strict=True))
        owner = Owner(*(values.pop(name) for name in _OWNER_COLUMNS))
        times = {name: utc(values[name]) for name in values if name.endswith("_at") or name == "lease_until"}
        values |= {
            **times,
            "state": State(values["state"]),
            "speaker_diarization": bool(values["speaker_diarization"]),
        }
        return Entry(owner=owner, **values)


def _owner_columns(owner: Owner) -> dict[str, Any]:
    return dict(zip(_OWNER_COLUMNS, owner, strict=True))


def kept_error(error: str | None) -> str:
    """Return an error as it is kept: short, without query strings, which may be signatures."""
    text = _URL_QUERY.sub("", " ".join((error or "").split())).replace("\x00", "\ufffd")
    if len(text) > MAX_ERROR_CHARACTERS:
        text = f"{text[: MAX_ERROR_CHARACTERS - 3]}..."
    return text or "no reason given"
