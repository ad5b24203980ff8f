"""Tables that are already there: those that fit are used, the others are told apart by column."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from plaud_provider.database.fit import holds
from plaud_provider.exceptions import PlaudInputError, PlaudTableMismatchError, PlaudWarehouseError
from plaud_provider.warehouse.tables import plaud_tables
from tests.unit.warehouse.warehouses import CONN_ID, Warehouse, landing

COLUMNS = {
    "transcription_id": "varchar not null",
    "segment_index": "bigint not null",
    "start_seconds": "double",
    "end_seconds": "double",
    "speaker": "text",
    "text": "text",
}


def existing(warehouse: Warehouse, **changes: str | None) -> None:
    """Create the segments table as a user might have, with some columns changed, added or (None) left out."""
    columns = {name: in_words_of(warehouse, kind) for name, kind in (COLUMNS | changes).items() if kind}
    warehouse.run(
        f"create table plaud_segments ({', '.join(f'{name} {kind}' for name, kind in columns.items())})"
    )


def in_words_of(warehouse: Warehouse, kind: str) -> str:
    if warehouse.kind == "postgres":
        return {"double": "double precision", "blob": "bytea"}.get(kind, kind)
    return kind


def refusal(warehouse: Warehouse) -> str:
    with pytest.raises(PlaudTableMismatchError) as refused:
        warehouse.writer().ensure_tables()
    return str(refused.value)


def test_table_made_by_hand_is_used(warehouse: Warehouse) -> None:
    existing(warehouse)
    writer = warehouse.writer()

    writer.ensure_tables()

    assert writer.replace([landing()]) == writer.replace([landing()]) == (1, 2, 0)
    assert warehouse.rows("select count(*) from plaud_segments") == [(2,)]


def test_extra_columns_that_may_be_empty_or_have_a_default_are_fine(warehouse: Warehouse) -> None:
    existing(warehouse, reviewed_by="text", source="text not null default 'plaud'")
    writer = warehouse.writer()

    writer.ensure_tables()
    writer.replace([landing(segments=1)])

    assert warehouse.rows("select reviewed_by, source from plaud_segments") == [(None, "plaud")]


def test_fault_76_missing_column_is_named(warehouse: Warehouse) -> None:
    existing(warehouse, text=None)

    message = refusal(warehouse)

    assert "Table 'plaud_segments' of warehouse 'warehouse_default'" in message
    assert "column 'text' is missing, TEXT is needed" in message
    assert "segments_table" in message
    assert message.endswith("Nothing was written.")


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("text", "integer"),
        ("text", "double"),
        ("text", "blob"),
        ("speaker", "date"),
        ("start_seconds", "integer"),
        ("start_seconds", "decimal(9, 3)"),
        ("end_seconds", "text"),
        ("segment_index", "smallint"),
        ("segment_index", "text"),
        ("transcription_id", "integer"),
    ],
)
def test_fault_76_column_that_cannot_hold_ours_is_named_with_both_types(
    warehouse: Warehouse, column: str, kind: str
) -> None:
    existing(warehouse, **{column: kind})

    message = refusal(warehouse)

    shown = {
        "text": ("TEXT", "VARCHAR"),
        "decimal(9, 3)": ("DECIMAL(9", "NUMERIC(9"),
        "double": ("DOUBLE",),
        "blob": ("BLOB", "BYTEA"),
    }.get(kind, (kind.upper(),))
    assert any(f"column '{column}' is {name}" in message for name in shown)
    assert "is needed" in message


@pytest.mark.parametrize("kind", ["date", "integer"])
def test_time_column_that_loses_the_time_is_named(warehouse: Warehouse, kind: str) -> None:
    warehouse.writer().ensure_tables()
    warehouse.run(
        "alter table plaud_transcripts drop column completed_at",
        f"alter table plaud_transcripts add column completed_at {kind}",
    )

    assert f"does not fit: column 'completed_at' is {kind.upper()}" in refusal(warehouse)


def test_time_without_zone_is_named_in_duckdb(duckdb_warehouse: Warehouse) -> None:
    duckdb_warehouse.writer().ensure_tables()
    duckdb_warehouse.run("alter table plaud_transcripts alter completed_at type timestamp")

    assert "column 'completed_at' is TIMESTAMP, TIMESTAMP WITH TIME ZONE is needed" in refusal(
        duckdb_warehouse
    )


def test_32_bit_seconds_are_named_in_duckdb(duckdb_warehouse: Warehouse) -> None:
    existing(duckdb_warehouse, start_seconds="float")

    assert "column 'start_seconds' is FLOAT, DOUBLE PRECISION is needed" in refusal(duckdb_warehouse)


@pytest.mark.parametrize("warehouse", ["sqlite", "postgres"], indirect=True)
def test_bounded_text_is_named(warehouse: Warehouse) -> None:
    existing(warehouse, text="varchar(200)")

    assert "column 'text' is VARCHAR(200), TEXT is needed" in refusal(warehouse)


def test_time_without_zone_is_named_in_postgresql(postgres_warehouse: Warehouse) -> None:
    postgres_warehouse.writer().ensure_tables()
    postgres_warehouse.run("alter table plaud_transcripts alter completed_at type timestamp")

    assert "column 'completed_at' is TIMESTAMP, TIMESTAMP WITH TIME ZONE is needed" in refusal(
        postgres_warehouse
    ).replace(" WITHOUT TIME ZONE", "")


def test_extra_column_that_must_be_filled_is_named(warehouse: Warehouse) -> None:
    existing(warehouse, reviewer="text not null")

    assert "column 'reviewer' is NOT NULL without a default, and nothing here fills it" in refusal(warehouse)


def test_column_that_must_be_filled_where_ours_may_be_empty_is_named(warehouse: Warehouse) -> None:
    existing(warehouse, speaker="text not null")

    assert "column 'speaker' is NOT NULL, but not every row has a value" in refusal(warehouse)


def test_all_that_is_wrong_is_named_at_once(warehouse: Warehouse) -> None:
    existing(warehouse, segment_index=None, text="integer")
    warehouse.run("create table plaud_transcripts (transcription_id varchar)")

    message = refusal(warehouse)

    assert all(
        part in message for part in ("'segment_index' is missing", "'text' is INTEGER", "'raw' is missing")
    )


def test_view_is_refused(warehouse: Warehouse) -> None:
    existing(warehouse)
    warehouse.run("create view plaud_transcripts as select * from plaud_segments")

    assert "it is a view, a table is needed" in refusal(warehouse)


def test_materialized_view_is_refused(postgres_warehouse: Warehouse) -> None:
    existing(postgres_warehouse)
    postgres_warehouse.run("create materialized view plaud_transcripts as select * from plaud_segments")

    assert "it is a view, a table is needed" in refusal(postgres_warehouse)


@pytest.mark.parametrize("name", ["Speaker", "SPEAKER"])
def test_column_in_other_letters_is_another_one_where_the_database_says_so(
    warehouse: Warehouse, name: str
) -> None:
    existing(warehouse, speaker=None, **{f'"{name}"': "text"})

    if warehouse.kind == "postgres":
        before = warehouse.rows("select * from plaud_segments")
        assert f"column '{name}' is not 'speaker': upper and lower case differ here" in refusal(warehouse)
        assert warehouse.rows("select * from plaud_segments") == before
    else:
        writer = warehouse.writer()
        writer.ensure_tables()
        assert writer.replace([landing(segments=1)]) == (1, 1, 0)
        assert warehouse.rows(f'select "{name}" from plaud_segments') == [("speaker_0",)]


def test_column_that_the_database_fills_itself_is_named(warehouse: Warehouse) -> None:
    stored = ("end_seconds", "double generated always as (start_seconds + 1) stored")
    virtual = ("end_seconds", "double generated always as (start_seconds + 1)")
    identity = ("segment_index", "integer not null generated always as identity")
    known = {"sqlite": [stored, virtual], "duckdb": [virtual], "postgres": [stored, virtual, identity]}
    for column, kind in known[warehouse.kind]:
        warehouse.run("drop table if exists plaud_segments")
        words = kind.replace("double", "double precision") if warehouse.kind == "postgres" else kind
        existing(warehouse, **{column: words})

        assert f"column '{column}' is generated by the database, and takes no value" in refusal(warehouse)


def test_check_that_lets_some_rows_pass_is_told_and_the_table_is_used(
    warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    columns = ", ".join(
        f"{name} {in_words_of(warehouse, kind)}" for name, kind in (COLUMNS | {"language": "text"}).items()
    )
    warehouse.run(f"create table plaud_segments ({columns}, check (length(text) > 0))")
    writer = warehouse.writer()

    writer.ensure_tables()

    assert "Some transcriptions will not land: plaud_transcripts and plaud_segments" in caplog.text
    assert "check" in caplog.text.lower()
    assert writer.replace([landing()]) == (1, 2, 0)


def test_check_that_lets_no_row_pass_is_refused(warehouse: Warehouse) -> None:
    columns = ", ".join(
        f"{name} {in_words_of(warehouse, kind)}" for name, kind in (COLUMNS | {"language": "text"}).items()
    )
    warehouse.run(f"create table plaud_segments ({columns}, check (segment_index > 5))")

    message = refusal(warehouse)

    assert "do not take every transcription" in message
    assert "segments_table" in message


def test_looking_at_tables_leaves_nothing_in_them(warehouse: Warehouse) -> None:
    writer = warehouse.writer()
    for _ in range(2):
        writer.ensure_tables()

    assert warehouse.content() == ([], [])


def test_identity_that_takes_values_is_fine(postgres_warehouse: Warehouse) -> None:
    existing(postgres_warehouse, segment_index="integer not null generated by default as identity")
    writer = postgres_warehouse.writer()
    writer.ensure_tables()

    assert writer.replace([landing()]) == (1, 2, 0)


def test_refusal_creates_nothing(warehouse: Warehouse) -> None:
    existing(warehouse, text=None)
    refusal(warehouse)

    assert warehouse.tables() == {"plaud_segments"}


def test_missing_schema_is_told(warehouse: Warehouse) -> None:
    with pytest.raises(PlaudWarehouseError, match=r"^schema: .* has no schema 'analytics'. Create it"):
        warehouse.writer(schema="analytics").ensure_tables()


def test_schema_in_other_letters_is_found_in_duckdb(duckdb_warehouse: Warehouse) -> None:
    duckdb_warehouse.run("create schema Analytics")

    duckdb_warehouse.writer(schema="ANALYTICS").ensure_tables()

    assert duckdb_warehouse.rows("select distinct table_schema from information_schema.tables") == [
        ("Analytics",)
    ]


def test_table_in_another_schema_is_not_taken_for_ours(duckdb_warehouse: Warehouse) -> None:
    duckdb_warehouse.run("create schema other", "create table other.plaud_segments (i integer)")

    duckdb_warehouse.writer().ensure_tables()

    assert duckdb_warehouse.writer().replace([landing()]) == (1, 2, 0)


def test_fault_71_name_longer_than_sqlite_takes_is_refused(sqlite_warehouse: Warehouse) -> None:
    with pytest.raises(PlaudInputError, match=r"^transcripts_table: .* sqlite takes names of at most 9999"):
        sqlite_warehouse.writer("n" * 10_000).ensure_tables()
    assert not sqlite_warehouse.path.exists()


POSTGRESQL = postgresql.dialect()


@pytest.mark.parametrize(
    ("column", "there", "fits"),
    [
        ("text", sa.TEXT(), True),
        ("text", sa.VARCHAR(), True),
        ("text", sa.VARCHAR(2000), False),
        ("text", sa.CHAR(), False),
        ("text", postgresql.JSONB(), False),
        ("text", postgresql.ENUM("a", name="e"), False),
        ("text", sa.types.NullType(), True),
        ("transcription_id", sa.VARCHAR(255), True),
        ("transcription_id", sa.VARCHAR(64), False),
        ("transcription_id", sa.TEXT(), True),
        ("duration_seconds", postgresql.DOUBLE_PRECISION(precision=53), True),
        ("duration_seconds", sa.REAL(), False),
        ("duration_seconds", sa.FLOAT(24), False),
        ("duration_seconds", sa.NUMERIC(), False),
        ("segment_count", sa.BIGINT(), True),
        ("segment_count", sa.SMALLINT(), False),
        ("segment_count", sa.NUMERIC(38, 0), True),
        ("segment_count", sa.DOUBLE(), False),
        ("landed_at", postgresql.TIMESTAMP(timezone=True), True),
        ("landed_at", postgresql.TIMESTAMP(timezone=False), False),
        ("landed_at", sa.DATE(), False),
        ("landed_at", sa.TEXT(), False),
    ],
)
def test_what_fits_in_postgresql(column: str, there: sa.types.TypeEngine[Any], fits: bool) -> None:
    assert holds(there, POSTGRESQL, plaud_tables().transcripts.c[column]) is fits


@pytest.mark.parametrize(
    ("there", "fits"), [(sa.TEXT(), True), (sa.TIMESTAMP(), True), (sa.DATE(), False), (sa.TIME(), False)]
)
def test_what_holds_a_time_in_sqlite(there: sa.types.TypeEngine[Any], fits: bool) -> None:
    assert holds(there, sqlite.dialect(), plaud_tables().transcripts.c.landed_at) is fits


def test_view_keeps_nobody_from_altering_moving_or_dropping_what_it_shows(warehouse: Warehouse) -> None:
    def landed(transcription_id: str) -> list[Any]:
        writer = warehouse.writer()
        writer.ensure_tables()
        writer.replace([landing(transcription_id, segments=1)])
        return warehouse.rows("select transcription_id from plaud_speakers")

    assert landed("txn_1") == [("txn_1",)]
    if warehouse.kind == "postgres":
        warehouse.run(
            "alter table plaud_segments alter column text type varchar",
            "alter table plaud_segments rename to old",
        )
        assert landed("txn_2") == [("txn_2",)]
    warehouse.run("drop table plaud_segments")
    assert landed("txn_3") == [("txn_3",)]


def test_views_have_the_names_of_their_tables(warehouse: Warehouse) -> None:
    for segments, view in (
        ("call_segments", "call_speakers"),
        ("100 %", "100 %_speakers"),
        ("segments", "speakers"),
    ):
        writer = warehouse.writer(f"{segments} t", segments)
        writer.ensure_tables()
        writer.replace([landing("txn_1")])

        assert warehouse.rows(f'select speaker, words from "{view}" order by 1') == [
            ("speaker_0", 2),
            ("speaker_1", 2),
        ]


def test_role_that_may_not_create_a_view_lands_without_it(
    postgres_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres_warehouse.writer().ensure_tables()
    postgres_warehouse.run(
        "drop view plaud_speakers",
        "do $$ begin create role lander login; exception when duplicate_object then null; end $$",
        "grant usage on schema public to lander",
        "revoke create on schema public from public",
        "grant select, insert, update, delete on all tables in schema public to lander",
    )
    told = json.loads(postgres_warehouse.connection) | {"login": "lander"}
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(told))

    writer = postgres_warehouse.writer()
    writer.ensure_tables()

    assert writer.replace([landing("txn_1")]) == (1, 2, 0)
