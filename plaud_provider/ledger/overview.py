"""
The ledger as its page shows it: what is where, how fast it lands, what needs somebody.

It only reads, and creates nothing. Every question has an index, or looks at a bounded number of rows, so that
a ledger of a million recordings answers each within a second; one by folder reads the table once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from plaud_provider.database.database import Database
from plaud_provider.ledger.entry import Entry, State
from plaud_provider.ledger.reader import row_to_entry
from plaud_provider.ledger.table import is_lapsed, ledger_table

Result = TypeVar("Result")

#: Recordings whose reasons are looked at, the latest of each state.
MOST_REASONS = 2000
#: States that need somebody, or a further run.
BAD = (State.FAILED, State.UNKNOWN, State.EXPIRED)
#: States that a recording ends in.
ENDED = (State.LANDED, *BAD)
#: States of recordings that are still to land.
UNDER_WAY = (State.CLAIMED, State.SUBMITTING, State.PROCESSING)
ROWS = 100


class Choice(NamedTuple):
    """
    Which recordings.

    :param dag_ids: Of these DAGs only: those that the reader may see; ``None`` for all.
    :param dag_id: Submitted by this DAG.
    :param run_id: Submitted by this run of it.
    :param folder: Whose references begin so.
    :param state: In this state.
    :param is_kept: Only those that are not purged.
    """

    dag_ids: tuple[str, ...] | None = None
    dag_id: str | None = None
    run_id: str | None = None
    folder: str | None = None
    state: State | None = None
    is_kept: bool = False

    @property
    def dags(self) -> tuple[str, ...] | None:
        """The DAGs that are left; ``None`` for all."""
        if self.dag_id is None:
            return self.dag_ids
        return (self.dag_id,) if self.dag_ids is None or self.dag_id in self.dag_ids else ()


class StateSum(NamedTuple):
    """
    The recordings in one state.

    :param state: The state; what was being sent when its lease ended counts as ``unknown``.
    :param recordings: How many there are.
    :param seconds: How long they are together, as far as that is known.
    :param unmeasured: Of how many the length is not known.
    :param since: Since when the first of them has been in it.
    """

    state: State
    recordings: int
    seconds: float
    unmeasured: int
    since: datetime


class Reason(NamedTuple):
    """
    Why recordings are in a state.

    :param state: The state.
    :param reason: Why, without the reference to the recording.
    :param is_billed: Whether Plaud has given an id, so that the recording is paid for.
    :param recordings: How many of the latest :data:`MOST_REASONS` of that state.
    :param example: The key of one of them.
    """

    state: State
    reason: str
    is_billed: bool
    recordings: int
    example: str


class Overview:
    """
    What the ledger says, for people.

    All methods raise :class:`~plaud_provider.exceptions.PlaudWarehouseError` if the database is away or
    refuses, and say nothing of rows that :class:`Choice` leaves out.

    :param database: Database that keeps the ledger.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._table = ledger_table()
        self._c = self._table.c
        self._connection: sa.Connection | None = None

    def together(self, work: Callable[[Overview], Result]) -> Result:
        """
        Ask several things over one connection: DuckDB opens its file anew for each.

        :param work: What asks; given what to ask.
        """

        def ask(connection: sa.Connection) -> Result:
            connected = copy(self)
            connected._connection = connection
            return work(connected)

        return self._run(ask)

    def exists(self) -> bool:
        """Whether there is a ledger yet."""
        return self._run(lambda connection: sa.inspect(connection).has_table(self._table.name))

    def dag_ids(self) -> list[str]:
        """Return the DAGs that have recordings, one look at the index for each."""

        def find(connection: sa.Connection) -> list[str]:
            found: list[str] = []
            query = sa.select(sa.func.min(self._c.owner_dag_id))
            following = query.where(self._c.owner_dag_id > sa.bindparam("last", type_=sa.String()))
            found_one = connection.scalar(query)
            while found_one is not None:
                found.append(str(found_one))
                found_one = connection.scalar(following, {"last": found_one})
            return found

        return self._run(find)

    def states(self, choice: Choice) -> list[StateSum]:
        """Return the recordings by state, in the order of :class:`~.entry.State`, without empty states."""
        c = self._c
        sums = (
            sa.func.count(),
            sa.func.sum(c.duration_seconds),
            sa.func.count(c.duration_seconds),
            sa.func.min(c.updated_at),
        )
        # By an expression: else SQLite takes the order of the index, and looks each recording of a folder up.
        group = sa.func.lower(c.state) if choice.folder else c.state
        # By name: repeated, an expression is another one to some databases.
        query = sa.select(group.label("word"), *sums).where(*self._where(choice)).group_by(sa.text("word"))
        now = self.database.dialect.clock(timedelta(0))
        lapsed = sa.select(sa.literal(State.UNKNOWN.value), *sums).where(
            *self._where(choice._replace(state=None)), is_lapsed(self._table, now)
        )

        def find(connection: sa.Connection) -> list[StateSum]:
            rows = {State(word): (*numbers,) for word, *numbers in connection.execute(query)}
            _, *late = connection.execute(lapsed).one()
            if late[0]:
                rows = _moved(rows, late, choice.state)
            return [
                StateSum(state, many, float(seconds or 0), many - measured, since)
                for state, (many, seconds, measured, since) in sorted(
                    rows.items(), key=lambda one: list(State).index(one[0])
                )
                if many
            ]

        return self._run(find)

    def ended_per_hour(self, choice: Choice, *, now: datetime, hours: int = 24) -> list[dict[State, int]]:
        """
        Return how many recordings have come to an end in each of the last hours, by state, the oldest first.

        :param now: The time, with time zone.
        """
        c = self._c
        states = [state.value for state in ENDED if choice.state in (None, state)]
        starts = [now - timedelta(hours=hours - number) for number in range(hours)]
        counts = [
            sa.select(sa.literal(number).label("hour"), c.state, sa.func.count().label("many"))
            .where(
                *self._where(choice._replace(state=None)),
                c.state.in_(states),
                c.updated_at >= start,
                c.updated_at < start + timedelta(hours=1),
            )
            .group_by(c.state)
            for number, start in enumerate(starts)
        ]
        found: list[dict[State, int]] = [{} for _ in starts]
        for hour, state, many in self._all(sa.union_all(*counts)):
            found[hour][State(state)] = int(many)
        return found

    def reasons(self, choice: Choice) -> list[Reason]:
        """Return why recordings are failed, unknown or expired, the most frequent first."""
        c = self._c
        found: Counter[tuple[State, str, bool]] = Counter()
        examples: dict[tuple[State, str, bool], str] = {}
        for state in BAD if choice.state is None else {choice.state}.intersection(BAD):
            query = (
                sa.select(c.recording_key, c.audio_uri, c.error, c.transcription_id)
                .where(*self._where(choice._replace(state=state)))
                .order_by(c.updated_at.desc())
                .limit(MOST_REASONS)
            )
            for key, uri, error, known in self._all(query):
                reason = (state, (error or "").replace(uri or "\0", "…"), known is not None)
                found[reason] += 1
                examples.setdefault(reason, key)
        return [Reason(*reason, many, examples[reason]) for reason, many in found.most_common(50)]

    def rows(
        self,
        choice: Choice,
        *,
        after: tuple[datetime, str] | None = None,
        most: int = ROWS,
        oldest: bool = False,
    ) -> list[Entry]:
        """
        Return recordings, what was changed last first.

        :param after: Time of change and key of the last one that was seen, to go on behind it.
        :param most: How many.
        :param oldest: Whether what has not changed for the longest time comes first instead.
        """
        c = self._c
        entries: list[Entry] = []
        for state in State if choice.state is None else [choice.state]:
            query = sa.select(self._table).where(*self._where(choice._replace(state=state)))
            if after is not None:
                moment, key = after
                # A range apart from the order within a moment: PostgreSQL finds its begin in the index.
                query = query.where(c.updated_at >= moment if oldest else c.updated_at <= moment)
                query = query.where(sa.or_(c.updated_at != moment, c.recording_key > key))
            order = c.updated_at.asc() if oldest else c.updated_at.desc()
            query = query.order_by(order, c.recording_key).limit(most)
            entries += map(row_to_entry, self._all(query))
        entries.sort(key=lambda entry: entry.recording_key)
        entries.sort(key=lambda entry: entry.updated_at, reverse=not oldest)
        return entries[:most]

    def one(self, recording_key: str) -> Entry | None:
        """Return a recording, whoever may see it; ``None`` if there is none of that key."""
        query = sa.select(self._table).where(self._c.recording_key == recording_key)
        row = self._run(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else row_to_entry(row)

    def submitted_by(self, dag_id: str, run_id: str, *, map_index: int | None = None, most: int) -> list[str]:
        """
        Return ids of what a run has submitted.

        :param map_index: Of its tasks with this map index only.
        :param most: How many.
        """
        c = self._c
        query = sa.select(c.transcription_id).where(
            c.owner_dag_id == dag_id, c.owner_run_id == run_id, c.transcription_id.is_not(None)
        )
        if map_index is not None:
            query = query.where(c.owner_map_index == map_index)
        return self._run(lambda connection: [*connection.scalars(query.limit(most))])

    def _where(self, choice: Choice) -> list[sa.ColumnElement[bool]]:
        c = self._c
        where: list[sa.ColumnElement[bool]] = []
        if choice.dags is not None:
            where.append(c.owner_dag_id.in_(choice.dags))
        if choice.run_id is not None:
            where.append(c.owner_run_id == choice.run_id)
        if choice.folder:
            where.append(sa.func.substr(c.audio_uri, 1, len(choice.folder)) == choice.folder)
        if choice.state is not None:
            where.append(c.state == choice.state.value)
        if choice.is_kept:
            where.append(c.purged_at.is_(None))
        return where

    def _all(self, query: sa.Select[Any] | sa.CompoundSelect[Any]) -> Sequence[Any]:
        return self._run(lambda connection: connection.execute(query).all())

    def _run(self, work: Callable[[sa.Connection], Result]) -> Result:
        if self._connection is not None:
            return work(self._connection)
        return self.database.run(work, failed=f"{self._table.name} could not be read", only_reads=True)


def _moved(
    rows: dict[State, tuple[Any, ...]], late: Sequence[Any], chosen: State | None
) -> dict[State, tuple[Any, ...]]:
    """Count as ``unknown`` what was being sent when its lease ended."""
    many, seconds, measured, since = late
    sending = rows.pop(State.SUBMITTING, None)
    if sending is not None:
        rows[State.SUBMITTING] = (
            sending[0] - many,
            (sending[1] or 0) - (seconds or 0),
            sending[2] - measured,
            sending[3],
        )
    if chosen in (None, State.UNKNOWN):
        there = rows.get(State.UNKNOWN, (0, 0, 0, since))
        rows[State.UNKNOWN] = (
            there[0] + many,
            (there[1] or 0) + (seconds or 0),
            there[2] + measured,
            min(there[3], since),
        )
    return rows
