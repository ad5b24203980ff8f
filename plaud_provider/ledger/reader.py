"""The ledger as it is read: what has become of which recording, who waits, what a run has used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import sqlalchemy as sa

from plaud_provider import metrics
from plaud_provider.api.limits import LATE_AFTER
from plaud_provider.database.database import once_committed
from plaud_provider.database.tables import DeclaredTables
from plaud_provider.database.types import host_clock
from plaud_provider.ledger.entry import Entry, Owner, State
from plaud_provider.ledger.table import is_lapsed, ledger_table

if TYPE_CHECKING:
    from plaud_provider.database.database import Database

Result = TypeVar("Result")

#: Keys per statement: SQLite before 3.32 takes 999 variables, and :meth:`Ledger.failed` three for each id.
BATCH = 300
#: References per query, likewise.
LOOKED_UP = 900
#: Rows that are read at once, where all are.
PAGE = 5000
LAPSED = (
    "Its task ended or stalled while it was being sent, and noted no answer: Plaud may have accepted and "
    "billed it. Compare with Plaud's own account, then have it submitted again if it is not there."
)
OWNER_COLUMNS = tuple(f"owner_{name}" for name in Owner._fields)


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


class LedgerReader:
    """
    What is known of recordings.

    What was being sent when its lease ended is ``unknown`` from then on: whoever reads it notes that.

    Holds no connection between calls, unless it is opened to keep one; thread-safe. It waits, for a bounded
    time, while its database restarts or other writers are in the way.

    :param database: Database that keeps the ledger.
    :param now: Tells the time, with time zone, instead of the database's own clock.
    """

    def __init__(self, database: Database, *, now: Callable[[], datetime] | None = None) -> None:
        self.database = database
        self._table = ledger_table()
        # What a user can do about a table that does not fit is to name another database.
        self._tables = DeclaredTables(None, {self._table: "ledger_conn_id"}, keyed=frozenset({self._table}))
        self._clock = partial(host_clock, now=now) if now is not None else database.dialect.clock
        #: The time by this clock.
        self._now = self._clock(timedelta(0))
        c = self._c = self._table.c
        self._failed_text = f"{self._table.fullname} could not be read or written"
        self._is_lapsed = is_lapsed(self._table, self._now)
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

    # What has become of recordings

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
        query = sa.select(self._table).where(self._c.region == region)

        def find(connection: sa.Connection, some: Sequence[str]) -> dict[str, Entry]:
            rows = connection.execute(query.where(self._c.transcription_id.in_(some)))
            return {row.transcription_id: row_to_entry(row) for row in rows}

        return self._in_batches(transcription_ids, find, connection=connection)

    def purged(self, transcription_ids: Collection[str], *, region: str) -> set[str]:
        """
        Return those of transcriptions whose text is removed for good.

        :param transcription_ids: Ids that Plaud gave.
        :param region: Plaud region.
        """
        c = self._c

        query = sa.select(c.transcription_id).where(c.region == region, c.purged_at.is_not(None))

        def find(connection: sa.Connection, some: Sequence[str]) -> dict[str, bool]:
            return dict.fromkeys(connection.scalars(query.where(c.transcription_id.in_(some))), True)

        return set(self._in_batches(transcription_ids, find))

    def chosen(self, is_chosen: Callable[[Entry], bool]) -> list[Entry]:
        """
        Return the rows that something holds for; all are read, a page at a time.

        :param is_chosen: Whether a row is one of them.
        """

        def choose(connection: sa.Connection) -> list[Entry]:
            rows = connection.execution_options(yield_per=PAGE).execute(sa.select(self._table))
            return [entry for row in rows if is_chosen(entry := row_to_entry(row))]

        return self._run(choose)

    # How far runs and archives are

    def audio_hours(self, dag_id: str, run_id: str) -> float:
        """
        Return how many hours of audio a run has claimed, submitted or paid for, where their length is known.

        What it has released, or what was refused without being paid for, does not count.

        :param dag_id: Its dag.
        :param run_id: The run.
        """
        return self._run(lambda connection: self._audio_seconds(connection, dag_id, run_id)) / 3600

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

    # How statements are run, and what they are made of

    def _run(self, work: Callable[[sa.Connection], Result]) -> Result:
        """Do something in a transaction; while the database is away, it is waited for."""
        return self.database.run(work, failed=self._failed_text, is_patient=True)

    def _in_batches(
        self,
        keys: Collection[str],
        work: Callable[[sa.Connection, Sequence[str]], dict[str, Result]],
        *,
        size: int = BATCH,
        connection: sa.Connection | None = None,
    ) -> dict[str, Result]:
        """
        Do something with keys, or ids, and return all that it returns.

        In the order of the keys: two tasks that lock the same ones wait for each other, not in a circle.

        :param connection: Connection, in the transaction to do all of it in; ``None``: one for each batch.
        """

        def batch(some: Sequence[str]) -> dict[str, Result]:
            if connection is not None:
                return work(connection, some)
            return self._run(lambda own: work(own, some))

        found: dict[str, Result] = {}
        in_order = sorted(set(keys))
        for start in range(0, len(in_order), size):
            found |= batch(in_order[start : start + size])
        return found

    def _time(self, connection: sa.Connection) -> datetime:
        """Return the time by the ledger's clock."""
        return connection.scalars(sa.select(self._now)).one()

    def _is(self, *states: State) -> sa.ColumnElement[bool]:
        # Not IN: it cannot be in a statement that is run for many rows.
        return sa.or_(sa.false(), *(self._c.state == state.value for state in states))

    def _has_key(self, keys: Sequence[str]) -> sa.ColumnElement[bool]:
        return self._c.recording_key.in_(keys)

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

    def _lock(self, connection: sa.Connection, where: sa.ColumnElement[bool]) -> None:
        key = self._c.recording_key
        # Databases that take one writer at a time leave the lock of the rows out.
        connection.execute(sa.select(key).where(where).order_by(key).with_for_update())

    def _change(self, connection: sa.Connection, where: sa.ColumnElement[bool], /, **values: Any) -> int:
        """Change all rows that a condition holds for, locked in the order of their keys."""
        self._lock(connection, where)
        return connection.execute(sa.update(self._table).where(where).values(values)).rowcount

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

    @staticmethod
    def _tell(connection: sa.Connection, state: State, many: int, **about: Any) -> None:
        """Have a change of state told once it is committed: a transaction may be tried several times."""
        once_committed(connection, partial(metrics.changed, state.value, many, **about))


def row_to_entry(row: sa.Row[Any]) -> Entry:
    """Return a row of the table."""
    owner = Owner(*(row._mapping[name] for name in OWNER_COLUMNS))
    values = {name: row._mapping[name] for name in Entry._fields if name != "owner"}
    values |= {"state": State(row.state), "speaker_diarization": bool(row.speaker_diarization)}
    return Entry(owner=owner, **values)
