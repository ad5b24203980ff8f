"""Tables of the first versions that had them: they are brought up to date, and nothing in them is lost."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import sqlalchemy as sa

from plaud_provider import __version__
from plaud_provider.exceptions import PlaudTableMismatchError
from plaud_provider.ledger.ledger import State, open_ledger
from plaud_provider.ledger.table import ledger_table
from plaud_provider.warehouse.writer import open_warehouse
from tests.unit.ledger.ledgers import bring, entry
from tests.unit.warehouse.warehouses import CONN_ID, PostgresWarehouse, Warehouse, connected_postgres, landing

#: As "Land transcriptions in DuckDB and SQLite, replaced in one transaction" (b6c1c43) created them.
FIRST_TRANSCRIPTS = """
create table "plaud_transcripts" (
    transcription_id varchar(255) not null, audio_uri text, region text not null, language text,
    duration_seconds {double}, text text, segment_count integer not null, speaker_count integer not null,
    status text not null, error text, submitted_at {time}, completed_at {time}, landed_at {time} not null,
    dag_id text, run_id text, raw text not null, primary key (transcription_id)
)
"""
FIRST_SEGMENTS = """
create table "plaud_segments" (
    transcription_id varchar(255) not null, segment_index integer not null, start_seconds {double},
    end_seconds {double}, speaker text, text text not null, primary key (transcription_id, segment_index)
)
"""
#: As "Add the ledger, and split databases from what is written to them" (67c4d00) did: without accepted_at.
FIRST_LEDGER = """
create table "plaud_submissions" (
    recording_key varchar(255) not null, state text not null, audio_uri text, region text not null,
    client_id text not null, language text, speaker_diarization boolean not null, duration_seconds {double},
    transcription_id varchar(255), error text, owner_dag_id varchar(255) not null,
    owner_run_id varchar(255) not null, owner_task_id text not null, owner_map_index integer not null,
    owner_try_number integer not null, lease_until {time}, claimed_at {time} not null, submitted_at {time},
    finished_at {time}, updated_at {time} not null, primary key (recording_key)
)
"""
FIRST_LEDGER_INDEXES = (
    "create index ix_plaud_submissions_transcription_id on plaud_submissions (transcription_id)",
    "create index ix_plaud_submissions_owner_run on plaud_submissions (owner_dag_id, owner_run_id)",
)
OLD_TRANSCRIPT = """
insert into plaud_transcripts values (
    'txn_old', null, 'us', 'en', 12.5, 'Old.', 1, 1, 'completed', null, null, null,
    '2026-01-01 00:00:00.000000+00:00', 'd', 'r', '{"old":"a\\u0000"}'
)
"""
OLD_ENTRY = """
insert into plaud_submissions values (
    'key_old', 'processing', 's3://b/old.wav', 'us', 'client', null, false, 60.0, 'txn_old', null, 'd', 'r',
    't', 0, 1, null, '2026-01-01 00:00:00.000000+00:00', '2026-01-01 00:00:01.000000+00:00', null,
    '2026-01-01 00:00:02.000000+00:00'
)
"""


def in_words_of(warehouse: Warehouse, statement: str) -> str:
    time = "datetime" if warehouse.kind == "sqlite" else "timestamp with time zone"
    double = "double" if warehouse.kind == "sqlite" else "double precision"
    return statement.replace("{time}", time).replace("{double}", double)


@pytest.fixture
def first(warehouse: Warehouse) -> Warehouse:
    """A warehouse and a ledger that the first versions have made, and written to."""
    made = (FIRST_TRANSCRIPTS, FIRST_SEGMENTS, FIRST_LEDGER, OLD_TRANSCRIPT, OLD_ENTRY)
    warehouse.run(*(in_words_of(warehouse, statement) for statement in made))
    if warehouse.kind != "duckdb":
        warehouse.run(*FIRST_LEDGER_INDEXES)
    return warehouse


def test_first_warehouse_is_landed_in(first: Warehouse) -> None:
    before = first.rows("select * from plaud_transcripts")
    writer = open_warehouse(CONN_ID)

    assert writer.replace([landing("txn_1")]) == writer.replace([landing("txn_1")]) == (1, 2, 0)

    [old] = first.rows("select * from plaud_transcripts where transcription_id = 'txn_old'")
    # What this version knows of a recording and that one did not is behind it.
    assert (old[: len(before[0])], set(old[len(before[0]) :])) == (before[0], {None})
    assert writer.replace([landing("txn_old", segments=1)]) == (1, 1, 0)


def test_first_ledger_gets_the_column_that_it_lacks(first: Warehouse) -> None:
    before = first.rows("select recording_key, updated_at from plaud_submissions")

    ledger = open_ledger(CONN_ID)

    assert first.rows("select recording_key, updated_at from plaud_submissions") == before
    assert first.rows("select accepted_at from plaud_submissions") == [(None,)]
    old = entry(ledger, "key_old")
    assert (old.state, old.transcription_id, old.accepted_at) == (State.PROCESSING, "txn_old", None)
    bring(ledger, State.LANDED, key="key_new")
    assert ledger.landed(["txn_old"], region="us") == 1


@pytest.mark.parametrize("warehouse", ["sqlite", "postgres"], indirect=True)
def test_first_ledger_gets_the_indexes_of_a_new_one(
    first: Warehouse,
) -> None:
    with closing(open_ledger(CONN_ID)) as ledger:
        indexes = sa.inspect(ledger.database.engine).get_indexes("plaud_submissions")
        found = {one["name"]: one["column_names"] for one in indexes}

    assert found == {index.name: [*index.columns.keys()] for index in ledger_table().indexes}
    # Those that somebody has added are left alone.
    first.run("create index of_theirs on plaud_submissions (target)")
    with closing(open_ledger(CONN_ID)) as ledger:
        there = sa.inspect(ledger.database.engine).get_indexes("plaud_submissions")
    assert {one["name"] for one in there} == {*found, "of_theirs"}


def test_several_that_open_the_first_ledger_at_once_all_can(first: Warehouse) -> None:
    gate = threading.Barrier(8)

    def open_at_once(number: int) -> State:
        gate.wait(30)
        with closing(open_ledger(CONN_ID)) as ledger:
            bring(ledger, State.PROCESSING, key=f"key_{number}")
            return entry(ledger, f"key_{number}").state

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(open_at_once, range(8))) == {State.PROCESSING}
    assert first.rows("select count(*) from plaud_submissions where accepted_at is null") == [(9,)]


def nullable(warehouse: Warehouse, table: str) -> list[str]:
    """Return the columns of a table of ours that may be empty."""
    columns = warehouse.columns(table).split(", ")
    return [column.split()[0] for column in columns if not column.endswith("not null")]


@pytest.mark.parametrize("table", ["plaud_transcripts", "plaud_segments"])
def test_any_column_that_may_be_empty_is_added(warehouse: Warehouse, table: str) -> None:
    warehouse.writer().ensure_tables()
    # SQLite keeps a column that a view shows.
    warehouse.run("drop view plaud_speakers")
    warehouse.run(*(f"alter table {table} drop column {name}" for name in nullable(warehouse, table)))
    warehouse.run("alter table plaud_segments add column note text")

    writer = warehouse.writer()
    writer.ensure_tables()

    assert writer.replace([landing("txn_1", segments=1)]) == (1, 1, 0)
    assert warehouse.rows("select language from plaud_transcripts") == [("en",)]
    assert warehouse.rows("select speaker, note from plaud_segments") == [("speaker_0", None)]


def test_added_columns_are_those_of_a_new_table(warehouse: Warehouse) -> None:
    tables = ("plaud_transcripts", "plaud_segments")
    warehouse.writer().ensure_tables()
    described = {table: described_in(warehouse, table) for table in tables}
    warehouse.run("drop view plaud_speakers")
    for table in tables:
        warehouse.run(*(f"alter table {table} drop column {name}" for name in nullable(warehouse, table)))

    warehouse.writer().ensure_tables()

    assert {table: described_in(warehouse, table) for table in tables} == described


def described_in(warehouse: Warehouse, table: str) -> list[tuple[object, ...]]:
    if warehouse.kind == "sqlite":
        return sorted(row[1:4] for row in warehouse.rows(f"pragma table_info({table})"))
    return warehouse.rows(
        "select column_name, data_type, is_nullable from information_schema.columns "
        f"where table_name = '{table}' order by 1"
    )


def test_nothing_is_added_where_something_else_does_not_fit(warehouse: Warehouse) -> None:
    warehouse.writer().ensure_tables()
    warehouse.run(
        "alter table plaud_transcripts drop column language",
        "alter table plaud_transcripts drop column status",
    )
    before = described_in(warehouse, "plaud_transcripts")

    with pytest.raises(PlaudTableMismatchError, match="column 'status' is missing, TEXT is needed"):
        warehouse.writer().ensure_tables()

    assert described_in(warehouse, "plaud_transcripts") == before


def test_role_that_may_not_add_a_column_is_told_what_its_owner_has_to_run(
    postgres_warehouse: PostgresWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres_warehouse.writer("100 %").ensure_tables()
    role = postgres_warehouse.values["schema"] + "_loader"
    postgres_warehouse.run(
        'alter table "100 %" drop column completed_at',
        "alter table plaud_segments drop column speaker",
        f"create role {role} login",
        f"grant select, insert, update, delete on all tables in schema public to {role}",
    )
    loader = connected_postgres(postgres_warehouse.values | {"login": role}, monkeypatch)

    with pytest.raises(PlaudTableMismatchError) as told:
        loader.writer("100 %").ensure_tables()

    statement = 'ALTER TABLE "100 %" ADD COLUMN IF NOT EXISTS completed_at TIMESTAMP WITH TIME ZONE'
    assert "column 'completed_at' is missing, TIMESTAMP WITH TIME ZONE is needed" in str(told.value)
    assert statement in str(told.value)
    assert told.value.__context__ is None
    other = "ALTER TABLE plaud_segments ADD COLUMN IF NOT EXISTS speaker TEXT"
    assert other.replace("plaud_segments", '"plaud_segments"') in str(told.value)
    postgres_warehouse.run(statement, other)
    loader.writer("100 %").ensure_tables()
    postgres_warehouse.run(f"drop owned by {role}", f"drop role {role}")


def test_what_created_a_table_is_recorded(warehouse: Warehouse) -> None:
    warehouse.writer("100 %").ensure_tables()
    open_ledger(CONN_ID)

    queries = {
        "sqlite": "select sql from sqlite_master where type = 'table'",
        "duckdb": "select comment from duckdb_tables()",
        "postgres": "select obj_description(oid) from pg_class where relname in "
        "('100 %', 'plaud_segments', 'plaud_submissions') and relkind = 'r'",
    }
    recorded = warehouse.rows(queries[warehouse.kind])
    assert len(recorded) == 3
    for (words,) in recorded:
        assert f"Created by airflow-provider-plaud {__version__}" in words
