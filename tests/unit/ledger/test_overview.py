"""What the page of the ledger asks, and how much of a million recordings is read for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from plaud_provider.ledger.entry import Owner, Recording, State
from plaud_provider.ledger.ledger import Ledger
from plaud_provider.ledger.overview import Choice, Overview
from tests.unit.warehouse.warehouses import Warehouse, connected

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
OWNER = Owner("archive", "monday", "submit", 0, 1)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def recording(number: int, folder: str = "a", seconds: float | None = 60.0) -> Recording:
    return Recording(
        f"key_{number}", f"s3://calls/{folder}/{number}.mp3", "us", "client", duration_seconds=seconds
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(warehouse: Warehouse, clock: Clock) -> Ledger:
    ledger = Ledger(warehouse.database, now=clock)
    ledger.ensure_table()
    return ledger


def submit(ledger: Ledger, clock: Clock, one: Recording, owner: Owner = OWNER, *, to: State) -> None:
    """Bring a recording to a state, by the steps that tasks take."""
    key = one.recording_key
    ledger.claim([one], owner)
    if to is State.CLAIMED:
        return
    assert ledger.submitting(key, owner)
    if to is State.UNKNOWN:
        ledger.unknown(key, owner, f"lost the answer about {one.audio_uri}")
    elif to is not State.SUBMITTING:
        ledger.processing(one, owner, f"txn_{key}", submitted_at=clock.now)
    if to is State.LANDED:
        ledger.landed([f"txn_{key}"], region="us", target="warehouse_default:plaud_transcripts")
    elif to is State.FAILED:
        ledger.failed({f"txn_{key}": f"{one.audio_uri} has no speech"}, region="us")


def test_states_are_summed_up_with_what_is_sent_too_long_as_unknown(ledger: Ledger, clock: Clock) -> None:
    submit(ledger, clock, recording(1), to=State.LANDED)
    submit(ledger, clock, recording(2, seconds=None), to=State.LANDED)
    submit(ledger, clock, recording(3), to=State.SUBMITTING)
    clock.now += timedelta(hours=1)
    submit(ledger, clock, recording(4), to=State.SUBMITTING)
    submit(ledger, clock, recording(5), to=State.UNKNOWN)
    overview = Overview(ledger.database)
    overview.database.dialect.clock = ledger._clock  # type: ignore[method-assign]

    found = overview.states(Choice())

    assert [(one.state.value, one.recordings, one.seconds, one.unmeasured) for one in found] == [
        ("submitting", 1, 60.0, 0),
        ("landed", 2, 60.0, 1),
        ("unknown", 2, 120.0, 0),
    ]
    assert found[1].since == NOW


def test_only_what_is_chosen_counts(ledger: Ledger, clock: Clock) -> None:
    tuesday, other = OWNER._replace(run_id="tuesday"), OWNER._replace(dag_id="other")
    submit(ledger, clock, recording(1, "a"), to=State.LANDED)
    submit(ledger, clock, recording(2, "A"), tuesday, to=State.LANDED)
    submit(ledger, clock, recording(3, "b"), other, to=State.FAILED)
    overview = Overview(ledger.database)

    def counted(choice: Choice) -> int:
        rows = overview.rows(choice)
        assert len(rows) == sum(one.recordings for one in overview.states(choice))
        return len(rows)

    assert overview.dag_ids() == ["archive", "other"]
    assert counted(Choice()) == 3
    assert counted(Choice(("archive",))) == 2
    assert counted(Choice(("archive",), "other")) == 0
    assert counted(Choice(())) == 0
    assert counted(Choice(("archive", "other"), "archive", "tuesday")) == 1
    # Not the one whose folder differs in case, nor is a wildcard one.
    assert counted(Choice(folder="s3://calls/a/")) == 1
    assert counted(Choice(folder="s3://calls/%")) == 0
    assert counted(Choice(state=State.FAILED)) == 1


def test_what_ended_is_counted_by_the_hour_and_by_state(ledger: Ledger, clock: Clock) -> None:
    for number, hour in enumerate((0, 2, 2, 3)):
        clock.now = NOW + timedelta(hours=hour, minutes=30)
        submit(ledger, clock, recording(number), to=State.LANDED)
    submit(ledger, clock, recording(9), to=State.FAILED)

    overview = Overview(ledger.database)

    def counted(choice: Choice) -> list[dict[State, int]]:
        return overview.ended_per_hour(choice, now=NOW + timedelta(hours=4), hours=3)

    assert counted(Choice()) == [{}, {State.LANDED: 2}, {State.LANDED: 1, State.FAILED: 1}]
    assert counted(Choice(state=State.FAILED)) == [{}, {}, {State.FAILED: 1}]
    assert counted(Choice(state=State.PROCESSING)) == [{}, {}, {}]


def test_reasons_are_told_without_the_name_of_the_recording_and_with_what_is_billed(
    ledger: Ledger, clock: Clock
) -> None:
    for number in range(3):
        submit(ledger, clock, recording(number), to=State.FAILED)
    submit(ledger, clock, recording(9), to=State.UNKNOWN)

    reasons = Overview(ledger.database).reasons(Choice())

    assert [(one.state, one.reason, one.is_billed, one.recordings) for one in reasons] == [
        (State.FAILED, "… has no speech", True, 3),
        (State.UNKNOWN, "lost the answer about …", False, 1),
    ]


@pytest.mark.parametrize("oldest", [False, True])
def test_pages_of_recordings_have_each_once(ledger: Ledger, clock: Clock, oldest: bool) -> None:
    for number in range(7):
        clock.now = NOW + timedelta(minutes=number // 3)
        submit(ledger, clock, recording(number), to=State.LANDED if number % 2 else State.FAILED)
    overview = Overview(ledger.database)

    seen = []
    after = None
    while page := overview.rows(Choice(), after=after, most=2, oldest=oldest):
        seen += page
        after = (page[-1].updated_at, page[-1].recording_key)

    assert sorted(one.recording_key for one in seen) == [f"key_{number}" for number in range(7)]
    times = [one.updated_at for one in seen]
    assert times == sorted(times, reverse=not oldest)


def test_one_recording_and_the_ids_of_a_run(ledger: Ledger, clock: Clock) -> None:
    submit(ledger, clock, recording(1), to=State.PROCESSING)
    submit(ledger, clock, recording(2), OWNER._replace(map_index=1), to=State.LANDED)
    overview = Overview(ledger.database)

    found = overview.one("key_1")

    assert found is not None
    assert (found.state, found.owner) == (State.PROCESSING, OWNER)
    assert overview.one("key_9") is None
    assert sorted(overview.submitted_by("archive", "monday", most=9)) == ["txn_key_1", "txn_key_2"]
    assert overview.submitted_by("archive", "monday", map_index=1, most=9) == ["txn_key_2"]


def test_what_a_person_found_at_plaud_is_taken_up_by_the_next_run(ledger: Ledger, clock: Clock) -> None:
    submit(ledger, clock, recording(1), to=State.UNKNOWN)
    submit(ledger, clock, recording(2), to=State.SUBMITTING)
    submit(ledger, clock, recording(3), to=State.LANDED)
    clock.now += timedelta(hours=1)

    assert ledger.found_at_plaud("key_1", "txn_found")
    # What was being sent when its lease ended is unknown as well.
    assert ledger.found_at_plaud("key_2", "txn_too")

    overdue = ledger.overdue(region="us", client_id="client", target="anywhere", most=9)
    assert {one.transcription_id for one in overdue} == {"txn_found", "txn_too"}
    assert [one.error for one in overdue] == [None, None]


@pytest.mark.parametrize(
    ("key", "transcription_id"), [("key_1", "txn_key_2"), ("key_2", "txn_9"), ("key_9", "x")]
)
def test_an_id_of_another_recording_or_for_one_that_is_known_changes_nothing(
    ledger: Ledger, clock: Clock, key: str, transcription_id: str
) -> None:
    submit(ledger, clock, recording(1), to=State.UNKNOWN)
    submit(ledger, clock, recording(2), to=State.LANDED)
    before = ledger.entries(["key_1", "key_2"])

    assert not ledger.found_at_plaud(key, transcription_id)

    assert ledger.entries(["key_1", "key_2"]) == before


def test_what_is_purged_is_neither_marked_as_known_nor_summed_up_to_be_paid_again(
    ledger: Ledger, clock: Clock
) -> None:
    submit(ledger, clock, recording(1), to=State.UNKNOWN)
    submit(ledger, clock, recording(2), to=State.UNKNOWN)
    ledger.purge(["key_1"])

    assert not ledger.found_at_plaud("key_1", "txn_found")

    [kept] = Overview(ledger.database).states(Choice(folder="s3://calls/a/", is_kept=True))
    assert kept.recordings == 1


def test_nothing_is_created_where_there_is_no_ledger(warehouse: Warehouse) -> None:
    warehouse.run("create table other (a int)")

    assert not Overview(warehouse.database).exists()
    assert warehouse.tables() == {"other"}


MILLION = """
with recursive numbers(n) as (select 0 union all select n + 1 from numbers where n < 999999)
insert into plaud_submissions (
    recording_key, state, audio_uri, region, client_id, speaker_diarization, duration_seconds,
    transcription_id, error, owner_dag_id, owner_run_id, owner_task_id, owner_map_index, owner_try_number,
    claimed_at, updated_at, target
)
select
    hex(n * 7919 % 1000003) || '-0123456789abcdef0123456789abcdef0123456789abcdef01234567',
    case when n % 100 < 90 then 'landed' when n % 100 < 95 then 'processing'
         when n % 100 < 98 then 'failed' when n % 100 < 99 then 'unknown' else 'expired' end,
    's3://aws_default@calls/2024/' || substr('0000' || (n / 1000), -4) || '/recording-' || n || '.mp3',
    'us', 'client', 1, n % 3600, 'txn_' || n,
    case when n % 100 >= 95 then 'broken at byte ' || n end,
    'dag_' || (n % 5), 'scheduled__2026-01-0' || (n % 7) || 'T00:00:00+00:00', 'transcribe.chunk.submit',
    n % 300, 1,
    strftime('%Y-%m-%d %H:%M:%S', 1780000000 + n % 600000, 'unixepoch') || '.000000+00:00',
    strftime('%Y-%m-%d %H:%M:%S', 1780000000 + n % 600000, 'unixepoch') || '.000000+00:00',
    'warehouse_default:plaud_transcripts'
from numbers
"""


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of a million recordings, in SQLite."""
    with pytest.MonkeyPatch.context() as patch:
        warehouse = connected("sqlite", tmp_path_factory.mktemp("million"), patch)
        Ledger(warehouse.database).ensure_table()
        with closing(warehouse.raw()) as connection:
            connection.execute("pragma synchronous = off")
            connection.execute(MILLION)
            connection.commit()
        return warehouse.path


CHOICES = {
    "all": Choice(),
    "of some DAGs": Choice(("dag_1", "dag_3")),
    "of a DAG": Choice(dag_id="dag_2"),
    "of a run": Choice(dag_id="dag_2", run_id="scheduled__2026-01-03T00:00:00+00:00"),
    "of a folder": Choice(folder="s3://aws_default@calls/2024/0900/"),
    "failed": Choice(state=State.FAILED),
    "unknown of some DAGs": Choice(("dag_1", "dag_3"), state=State.UNKNOWN),
    "failed of a folder": Choice(folder="s3://aws_default@calls/2024/", state=State.FAILED),
}
LATEST = datetime.fromtimestamp(1780600000, tz=UTC)
QUESTIONS: dict[str, Callable[[Overview, Choice], Any]] = {
    "states": lambda overview, choice: overview.states(choice),
    "per hour": lambda overview, choice: overview.ended_per_hour(choice, now=LATEST),
    "reasons": lambda overview, choice: overview.reasons(choice),
    "rows": lambda overview, choice: overview.rows(choice),
    "rows further on": lambda overview, choice: overview.rows(
        choice, after=(LATEST - timedelta(days=3), "a")
    ),
    "oldest": lambda overview, choice: overview.rows(
        choice._replace(state=State.PROCESSING), most=10, oldest=True
    ),
}


#: Instructions of SQLite's virtual machine, for a million recordings. Sums read an index from end to end; all
#: else looks at a part of one, but for a folder, whose references are read. Without indexes each takes 10 to
#: 40 million.
MOST_STEPS = {"states": 20_000_000}
FEW_STEPS = 4_000_000
STEP = 1000


@pytest.fixture
def steps() -> Iterator[list[int]]:
    """How often SQLite has taken a thousand steps, which is the same on each machine."""
    taken: list[int] = []

    def connect(connection: Any, record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.set_progress_handler(lambda: taken.append(STEP), STEP)

    event.listen(Engine, "connect", connect)
    yield taken
    event.remove(Engine, "connect", connect)


@pytest.mark.large
@pytest.mark.timeout(300)
@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_million_recordings_are_answered_from_the_indexes(
    million: Path, question: str, choice: Choice, monkeypatch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    warehouse = Warehouse("sqlite", million)
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", warehouse.connection)

    found = QUESTIONS[question](Overview(warehouse.database), choice)

    assert found or choice.state is not None
    assert sum(steps) <= MOST_STEPS.get(question, FEW_STEPS)
