"""Transcripts that other tables reference: landing them again loses nothing of those tables."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from plaud_provider.warehouse.writer import WarehouseWriter
from tests.unit.warehouse.warehouses import Warehouse, landing

LABELS = """
create table call_labels (
  transcription_id varchar(255) references plaud_transcripts (transcription_id) {on_delete}, label text
)
"""
#: As a user may have made them before the first load.
SEGMENTS = """
create table plaud_segments (
  transcription_id varchar(255) references plaud_transcripts (transcription_id) {on_delete},
  segment_index int, start_seconds double precision, end_seconds double precision, speaker text,
  text text not null, primary key (transcription_id, segment_index)
)
"""


@pytest.fixture(params=["", "on delete cascade", "on delete restrict", "on delete set null"])
def on_delete(request: pytest.FixtureRequest, warehouse: Warehouse) -> str:
    """What a foreign key does when what it references is deleted."""
    # DuckDB only has keys that refuse it.
    return "" if warehouse.kind == "duckdb" else str(request.param)


@pytest.fixture
def writer(warehouse: Warehouse) -> WarehouseWriter:
    writer = keeping_references(warehouse)
    writer.ensure_tables()
    writer.replace([landing("txn_1", segments=3, text="old"), landing("txn_2", text="old")])
    return writer


def keeping_references(warehouse: Warehouse) -> WarehouseWriter:
    """Return a writer for whose connections foreign keys hold, which SQLite has to be told on each."""
    writer = warehouse.writer()
    if warehouse.kind == "sqlite":
        sa.event.listen(
            writer.loader.database.engine,
            "connect",
            lambda connection, _: connection.execute("pragma foreign_keys = on"),
        )
    return writer


def test_labels_of_transcripts_are_kept_when_they_land_again(
    warehouse: Warehouse, writer: WarehouseWriter, on_delete: str
) -> None:
    warehouse.run(
        LABELS.format(on_delete=on_delete),
        "insert into call_labels values ('txn_1', 'good'), ('txn_2', 'bad')",
    )

    writer.replace([landing("txn_1", segments=1, text="new"), landing("txn_3")])

    assert warehouse.rows("select * from call_labels order by 1") == [("txn_1", "good"), ("txn_2", "bad")]
    assert warehouse.rows("select transcription_id, text from plaud_transcripts order by 1") == [
        ("txn_1", "new"),
        ("txn_2", "old"),
        ("txn_3", "Hello. Goodbye."),
    ]


def test_segments_that_reference_their_transcript_are_replaced(
    warehouse: Warehouse, writer: WarehouseWriter, on_delete: str
) -> None:
    warehouse.run("drop table plaud_segments", SEGMENTS.format(on_delete=on_delete))
    writer.ensure_tables()

    for count in (4, 2):
        writer.replace([landing("txn_1", segments=count), landing("txn_4", segments=1)])

        assert warehouse.rows(
            "select transcription_id, count(*) from plaud_segments group by 1 order by 1"
        ) == [("txn_1", count), ("txn_4", 1)]


def test_key_that_is_unique_and_no_primary_one_does_as_well(
    warehouse: Warehouse, writer: WarehouseWriter
) -> None:
    columns = warehouse.columns("plaud_transcripts")
    warehouse.run(
        "drop table plaud_transcripts",
        f"create table plaud_transcripts ({columns}, unique (transcription_id))",
        LABELS.format(on_delete=""),
    )
    again = keeping_references(warehouse)
    again.replace([landing("txn_1")])
    warehouse.run("insert into call_labels values ('txn_1', 'good')")

    assert again.replace([landing("txn_1", segments=1)]) == (1, 1, 0)


def test_table_without_a_key_is_replaced_all_the_same(warehouse: Warehouse, writer: WarehouseWriter) -> None:
    columns = warehouse.columns("plaud_transcripts")
    warehouse.run("drop table plaud_transcripts", f"create table plaud_transcripts ({columns})")
    writer = warehouse.writer()
    writer.ensure_tables()

    for count in (3, 1):
        assert writer.replace([landing("txn_1", segments=count)]) == (1, count, 0)

    assert warehouse.rows("select transcription_id, segment_count from plaud_transcripts") == [("txn_1", 1)]


@pytest.mark.parametrize(
    "key",
    [
        "create unique index a_key on plaud_transcripts (transcription_id) where status = 'failed'",
        "create unique index a_key on plaud_transcripts (transcription_id, lower(region))",
        "alter table plaud_transcripts add unique (transcription_id, region)",
        "alter table plaud_transcripts add unique (transcription_id) deferrable",
    ],
)
def test_key_that_cannot_take_an_upsert_is_not_taken_for_one(postgres_warehouse: Warehouse, key: str) -> None:
    writer = postgres_warehouse.writer()
    writer.ensure_tables()
    postgres_warehouse.run("alter table plaud_transcripts drop constraint plaud_transcripts_pkey", key)
    writer.ensure_tables()

    for count in (3, 1):
        assert writer.replace([landing("txn_1", segments=count)]) == (1, count, 0)

    assert postgres_warehouse.rows("select count(*) from plaud_transcripts") == [(1,)]
