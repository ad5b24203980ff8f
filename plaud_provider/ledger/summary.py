"""The ledger in numbers, for people. It only reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from plaud_provider.api.limits import LATE_AFTER, RETENTION
from plaud_provider.database.database import Database, open_database
from plaud_provider.exceptions import PlaudError
from plaud_provider.ledger.entry import State
from plaud_provider.ledger.table import LEDGER_TABLE, is_lapsed, ledger_table
from plaud_provider.recordings.length import duration

#: What to do about recordings in a state.
ADVICE = {
    State.FAILED: "their reasons are in the column error; resubmit=['failed'] pays for them again",
    State.UNKNOWN: "they may be billed: look for them in Plaud's console or bill before resubmit=['unknown']",
    State.EXPIRED: "the next run over their folder asks once more; then resubmit=['expired'] pays again",
}


class StateCount(NamedTuple):
    """
    The recordings in one state.

    :param state: The state. One that was being sent when its lease ended is ``unknown``, as for every task
        that looks at it.
    :param recordings: How many there are.
    :param seconds: How long they are together, as far as that is known.
    :param unmeasured: Of how many the length is not known.
    :param oldest: When the first of them was submitted, else claimed.
    """

    state: State
    recordings: int
    seconds: float
    unmeasured: int
    oldest: datetime


def count_states(database: Database) -> list[StateCount] | None:
    """
    Count the recordings of a ledger by state, in the order of :class:`State`.

    :param database: Database that keeps it.
    :return: The states that there are recordings in; ``None`` if there is no ledger yet.
    :raises PlaudWarehouseError: if the database is away, locked or refuses.
    """
    table = ledger_table()
    c = table.c
    lapsed = is_lapsed(table, database.dialect.clock(timedelta(0)))
    state = sa.case((lapsed, State.UNKNOWN.value), else_=c.state).label("counted_as")
    query = sa.select(
        state,
        sa.func.count(),
        sa.func.sum(c.duration_seconds),
        sa.func.count(c.duration_seconds),
        sa.func.min(sa.func.coalesce(c.submitted_at, c.claimed_at, type_=c.claimed_at.type)),
        # By name: repeated, an expression with parameters is another one to DuckDB.
    ).group_by(sa.text("counted_as"))

    def count(connection: sa.Connection) -> list[StateCount] | None:
        if not sa.inspect(connection).has_table(table.name):
            return None
        return [
            StateCount(State(word), many, float(seconds or 0), many - measured, oldest)
            for word, many, seconds, measured, oldest in connection.execute(query)
        ]

    found = database.run(count, failed=f"{table.name} could not be read")
    return None if found is None else sorted(found, key=lambda one: list(State).index(one.state))


def print_summary(ledger_conn_id: str, *, now: datetime | None = None) -> int:
    """
    Print a ledger in numbers.

    :param ledger_conn_id: Airflow connection of its database.
    :param now: The time, with time zone, instead of this host's.
    :return: 1 if it could not be read, else 0.
    """
    try:
        database = open_database(ledger_conn_id, role="ledger", parameter="ledger_conn_id")
        counts = count_states(database)
    except PlaudError as error:
        print(f"plaud: {error}")
        return 1
    if counts is None:
        print(f"{ledger_conn_id!r} has no table {LEDGER_TABLE} yet: no run has used it.")
        return 0
    for line in _lines(counts, now or datetime.now(tz=UTC)):
        print(line)
    return 0


def _lines(counts: Sequence[StateCount], now: datetime) -> Iterator[str]:
    yield f"{'state':12}{'recordings':>12}{'audio':>14}   since"
    for one in counts:
        since = f"{one.oldest:%Y-%m-%d %H:%M} UTC"
        yield f"{one.state.value:12}{one.recordings:>12,}{duration(one.seconds):>14}   {since}"
    total = sum(one.recordings for one in counts)
    yield f"{'all':12}{total:>12,}{duration(sum(one.seconds for one in counts)):>14}"
    if unmeasured := sum(one.unmeasured for one in counts):
        yield f"The length of {unmeasured:,} is not known."
    yield ""
    waiting = next((one for one in counts if one.state is State.PROCESSING), None)
    if waiting is not None:
        age = duration((now - waiting.oldest).total_seconds())
        yield f"processing: {waiting.recordings:,} are at Plaud, the first of them for {age}"
        if now - waiting.oldest >= LATE_AFTER:
            yield f"processing: {soon_lost('some of them')}"
    for one in counts:
        if one.state in ADVICE:
            yield f"{one.state.value}: {ADVICE[one.state]}"


def soon_lost(which: str) -> str:
    """
    Return what to say of recordings that are late (:data:`plaud_provider.api.limits.LATE_AFTER`).

    :param which: How many, in words.
    """
    return (
        f"{which} were submitted {LATE_AFTER.days} or more days ago and have not landed. Plaud keeps results "
        f"for {RETENTION.days} days, then they are lost and paid for: run the DAG over their folder now, "
        "which pays for nothing again."
    )
