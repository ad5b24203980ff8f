"""What the ledger knows of recordings, and the parts that its statements are made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import sqlalchemy as sa

from plaud_provider.database.rows import batches, utc
from plaud_provider.ledger.entry import Entry, Owner, State

if TYPE_CHECKING:
    from plaud_provider.database.database import Database
    from plaud_provider.ledger.table import LedgerTables

Result = TypeVar("Result")


class _Run(Protocol):
    def __call__(self, work: Callable[[sa.Connection], Result], /) -> Result: ...


#: Keys per statement: SQLite before 3.32 takes 999 variables, and an id that ends has three.
BATCH = 300
LAPSED = (
    "Its task ended or stalled while it was being sent, and noted no answer: Plaud may have accepted and "
    "billed it. Compare with Plaud's own account, then have it submitted again if it is not there."
)


class LedgerReader:
    """
    The ledger as far as it is looked at.

    :param database: Database that keeps it.
    :param tables: Its table.
    :param now: Tells the time, with time zone, on a connection; by default the database's own clock.
    """

    def __init__(
        self,
        database: Database,
        tables: LedgerTables,
        *,
        now: Callable[[sa.Connection], datetime] | None = None,
    ) -> None:
        self.database = database
        self._tables = tables
        self._table = tables.submissions
        self._now = now or database.dialect.now
        c = self._c = tables.submissions.c
        #: A claim that was released has a lease of no length.
        self._is_kept = c.lease_until > c.claimed_at
        #: Runs work in a transaction; while the database is away, it is waited for.
        self._run: _Run = partial(
            database.run,
            failed=f"{self._table.fullname} of {database.title} could not be read or written",
            is_patient=True,
        )

    @property
    def conn_id(self) -> str:
        """Airflow connection of its database."""
        return self.database.conn_id

    def close(self) -> None:
        """Close the connection that is kept between calls, if there is one."""
        self.database.close()

    def ensure_table(self) -> None:
        """
        Create the table if it is not there; safe when several tasks do it at once.

        :raises PlaudTableMismatchError: if an existing table cannot be the ledger.
        :raises PlaudWarehouseError: if the database cannot be reached, or does not let us.
        """
        self.database.ensure(self._tables)

    def entries(self, keys: Collection[str]) -> dict[str, Entry]:
        """
        Return what is known of these recordings; one that nobody has claimed is left out.

        :param keys: Recording keys.
        """
        return self._run(lambda connection: self._read_settled(connection, sorted(set(keys))))

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
        c = self._c
        is_released = sa.and_(self._is(State.CLAIMED), sa.not_(self._is_kept))
        is_unpaid = sa.and_(self._is(State.FAILED), c.transcription_id.is_(None))
        query = sa.select(sa.func.sum(c.duration_seconds)).where(
            c.owner_dag_id == dag_id, c.owner_run_id == run_id, sa.not_(sa.or_(is_released, is_unpaid))
        )
        return float(self._run(lambda connection: connection.scalar(query)) or 0) / 3600

    def counts(self) -> dict[State, int]:
        """Return how many recordings are in each state."""
        query = sa.select(self._c.state, sa.func.count()).group_by(self._c.state)

        def count(connection: sa.Connection) -> dict[State, int]:
            self._note_lapsed(connection, self._now(connection), sa.true())
            found = {str(state): int(many) for state, many in connection.execute(query)}
            return {state: found.get(state.value, 0) for state in State}

        return self._run(count)

    def _is(self, *states: State) -> sa.ColumnElement[bool]:
        # Not IN: it cannot be in a statement that is run for many rows.
        return sa.or_(sa.false(), *(self._c.state == state.value for state in states))

    def _has_key(self, keys: Sequence[str]) -> sa.ColumnElement[bool]:
        return self._c.recording_key.in_(keys)

    def _change(self, connection: sa.Connection, where: sa.ColumnElement[bool], **values: Any) -> int:
        """Change all rows that a condition holds for, locked in the order of their keys."""
        self._lock(connection, where)
        return connection.execute(sa.update(self._table).where(where).values(values)).rowcount

    def _lock(self, connection: sa.Connection, where: sa.ColumnElement[bool]) -> None:
        key = self._c.recording_key
        self.database.dialect.lock_rows(connection, sa.select(key).where(where).order_by(key))

    def _note_lapsed(self, connection: sa.Connection, now: datetime, where: sa.ColumnElement[bool]) -> None:
        """Make ``unknown`` what was being sent when its lease ended."""
        self._change(
            connection,
            sa.and_(where, self._is(State.SUBMITTING), self._c.lease_until <= now),
            state=State.UNKNOWN.value,
            error=LAPSED,
            lease_until=None,
            finished_at=now,
            updated_at=now,
        )

    def _read_settled(self, connection: sa.Connection, keys: Sequence[str]) -> dict[str, Entry]:
        found, now = self._read(connection, keys), self._now(connection)
        lapsed = sorted(
            key for key, entry in found.items() if entry.state is State.SUBMITTING and not entry.is_held(now)
        )
        for batch in batches(lapsed, BATCH):
            self._note_lapsed(connection, now, self._has_key(batch))
        return found | self._read(connection, lapsed)

    def _read(self, connection: sa.Connection, keys: Sequence[str]) -> dict[str, Entry]:
        found = (
            row_to_entry(row)
            for batch in batches(keys, BATCH)
            for row in connection.execute(sa.select(self._table).where(self._has_key(batch)))
        )
        return {entry.recording_key: entry for entry in found}


def owner_columns(owner: Owner) -> dict[str, Any]:
    """Return an owner as the table has it."""
    return {f"owner_{name}": value for name, value in zip(Owner._fields, owner, strict=True)}


def row_to_entry(row: sa.Row[Any]) -> Entry:
    """Return a row of the table; times of a database that knows no zones are UTC."""
    values = dict(row._mapping)
    owner = Owner(*(values.pop(f"owner_{name}") for name in Owner._fields))
    for name, value in values.items():
        if isinstance(value, datetime):
            values[name] = utc(value)
    values |= {"state": State(values["state"]), "speaker_diarization": bool(values["speaker_diarization"])}
    return Entry(owner=owner, **values)
