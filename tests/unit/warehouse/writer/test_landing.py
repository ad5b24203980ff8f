"""What lands, and what is there afterwards: the same in every database."""

from __future__ import annotations

import json
import sqlite3
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plaud_provider.api.models import Status
from plaud_provider.exceptions import PlaudInputError
from tests.unit.warehouse.warehouses import NOW, Warehouse, landing, segment

ODD_TEXTS = [
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f1ef\U0001f1f5",
    "\u0634\u0643\u0631\u0627 \u202eabc\u202c \u05e9\u05dc\u05d5\u05dd",
    "e\u0301 \u00e9 \u1100\u1161\u11a8 \uac01 \ufb01",
    "a\x00b\x00",
    "\x00",
    "",
    " \t\r\n\u2028\u2029\x1f\x7f\ufeff",
    "'; drop table plaud_segments; --",
    '"quoted" `back` %s ? :name $1 {brace} \\N \\0',
    "null",
    "NaN",
    "007",
    "1e5",
    "\U0010ffff\ufffe\ufdd0",
]


def test_tables_are_created_on_first_use(warehouse: Warehouse) -> None:
    warehouse.writer().ensure_tables()

    assert warehouse.tables() == {"plaud_transcripts", "plaud_segments"}
    assert warehouse.content() == ([], [])


def test_tables_that_fit_are_left_alone(warehouse: Warehouse) -> None:
    warehouse.writer().ensure_tables()
    warehouse.writer().replace([landing()])
    before = warehouse.content()

    warehouse.writer().ensure_tables()

    assert warehouse.content() == before


def test_transcripts_and_segments_land(warehouse: Warehouse) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()

    landed = writer.replace([landing("txn_1", segments=2), landing("txn_2", segments=0, text=None)])

    assert landed == (2, 2, 0)
    columns = (
        "transcription_id, audio_uri, region, language, duration_seconds, text, segment_count, speaker_count"
    )
    assert warehouse.rows(f"select {columns} from plaud_transcripts order by 1") == [
        ("txn_1", "s3://calls/txn_1.wav", "us", "en", 12.5, "Hello. Goodbye.", 2, 2),
        ("txn_2", "s3://calls/txn_2.wav", "us", "en", 12.5, None, 0, 0),
    ]
    assert warehouse.rows("select status, error, dag_id, run_id from plaud_transcripts limit 1") == [
        ("completed", None, "a_dag", "a_run")
    ]
    assert warehouse.answers() == [{"status": "completed"}] * 2
    assert warehouse.rows("select * from plaud_segments order by segment_index") == [
        ("txn_1", 0, 0.0, 1.25, "speaker_0", "Sentence 0.", None),
        ("txn_1", 1, 1.5, 2.75, "speaker_1", "Sentence 1.", None),
    ]


def test_failed_transcription_lands_with_its_error(warehouse: Warehouse) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()

    assert writer.replace([landing(status=Status.FAILED, error="NO_SPEECH: silence", segments=2)]) == (
        1,
        0,
        0,
    )

    assert warehouse.rows("select status, error, text, segment_count from plaud_transcripts") == [
        ("failed", "NO_SPEECH: silence", None, 0)
    ]
    assert warehouse.rows("select * from plaud_segments") == []


def test_landing_nothing_is_nothing(warehouse: Warehouse) -> None:
    assert warehouse.writer().replace([]) == (0, 0, 0)
    assert warehouse.is_untouched


def test_fewer_segments_replace_more_and_others_stay(warehouse: Warehouse) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()
    writer.replace([landing("txn_1", segments=5), landing("txn_10", segments=1)])

    writer.replace([landing("txn_1", segments=2, text="Shorter.")])

    assert warehouse.rows("select transcription_id, text from plaud_transcripts order by 1") == [
        ("txn_1", "Shorter."),
        ("txn_10", "Hello. Goodbye."),
    ]
    counts = "select transcription_id, count(*) from plaud_segments group by 1 order by 1"
    assert warehouse.rows(counts) == [("txn_1", 2), ("txn_10", 1)]


def test_landing_again_changes_only_when_and_by_whom(warehouse: Warehouse) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()
    writer.replace([landing()])
    (before,), segments_before = warehouse.content()

    writer.replace([landing(landed_at=NOW + timedelta(days=1), run_id="next_run")])

    (after,), segments_after = warehouse.content()
    assert segments_after == segments_before
    assert before[:12] + before[15:] == after[:12] + after[15:]
    assert (before[14], after[14]) == ("a_run", "next_run")
    assert before[12] != after[12]


def test_of_one_id_given_twice_the_last_lands(warehouse: Warehouse) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()

    assert writer.replace([landing(segments=3, text="old"), landing(segments=1, text="new")]) == (1, 1, 0)

    assert warehouse.rows("select text from plaud_transcripts") == [("new",)]


def test_more_than_a_statement_holds_lands(warehouse: Warehouse) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()
    many = [landing(f"txn_{n:04}", segments=20) for n in range(1_200)]

    assert writer.replace(many) == writer.replace(many) == (1_200, 24_000, 0)

    assert warehouse.rows(
        "select count(*), count(distinct transcription_id), sum(segment_index) from plaud_segments"
    ) == [(24_000, 1_200, 1_200 * 190)]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_text_survives_byte_for_byte(warehouse: Warehouse, text: str) -> None:
    assert round_trip(warehouse, text) == [stored(warehouse, text)] * 4


def stored(warehouse: Warehouse, text: str) -> str:
    """Return what becomes of a text: PostgreSQL cannot hold NUL."""
    return text.replace("\x00", "\ufffd") if warehouse.kind == "postgres" else text


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=("Cs",))), min_size=1, max_size=40))
def test_any_texts_survive_byte_for_byte(warehouse: Warehouse, texts: list[str]) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()

    writer.replace(
        [landing(text=texts[0], segments=tuple(segment(n, text=text) for n, text in enumerate(texts)))]
    )

    assert warehouse.rows("select text from plaud_transcripts") == [(stored(warehouse, texts[0]),)]
    assert warehouse.rows("select text from plaud_segments order by segment_index") == [
        (stored(warehouse, text),) for text in texts
    ]


def round_trip(warehouse: Warehouse, text: str) -> list[Any]:
    writer = warehouse.writer()
    writer.ensure_tables()
    writer.replace(
        [
            landing(
                text=text,
                raw=json.dumps({"text": text}, ensure_ascii=False),
                segments=(segment(0, text=text, speaker=text), segment(1, speaker=None)),
            )
        ]
    )
    ((whole,),) = warehouse.rows("select text from plaud_transcripts")
    (answer,) = warehouse.answers()
    (first, (_, nobody)) = warehouse.rows("select text, speaker from plaud_segments order by segment_index")
    assert nobody is None
    return [whole, answer["text"], *first]


@pytest.mark.parametrize("seconds", [0.0, 0.1, 1e308, 5e-324, 1 / 3, 2**53 + 1.0, 3600, None])
def test_seconds_are_64_bit_doubles_or_null(warehouse: Warehouse, seconds: float | None) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()

    writer.replace(
        [landing(duration_seconds=seconds, segments=(segment(0, start_seconds=seconds), segment(1)))]
    )

    assert warehouse.rows("select duration_seconds from plaud_transcripts") == [(seconds,)]
    assert warehouse.rows("select start_seconds from plaud_segments order by segment_index") == [
        (seconds,),
        (1.5,),
    ]


def test_only_unknown_seconds_land_as_null(warehouse: Warehouse) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()
    unknown = segment(0, start_seconds=None, end_seconds=None, speaker=None)

    writer.replace([landing(language=None, duration_seconds=None, completed_at=None, segments=(unknown,))])

    nulls = "select count(*) from plaud_segments where start_seconds is null and end_seconds is null"
    assert warehouse.rows(nulls) == [(1,)]
    assert warehouse.rows(
        "select duration_seconds, completed_at, submitted_at, language from plaud_transcripts"
    ) == [(None, None, None, None)]


MOMENTS = [
    (datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC), "2026-03-29 01:30:00.123456"),
    (datetime(2026, 10, 25, 2, 30, tzinfo=timezone(timedelta(hours=2))), "2026-10-25 00:30:00"),
    (datetime(2026, 10, 25, 2, 30, tzinfo=timezone(timedelta(hours=1))), "2026-10-25 01:30:00"),
    (datetime(2026, 1, 1, 12, 0), "2026-01-01 12:00:00"),
]


@pytest.mark.parametrize(("moment", "utc"), MOMENTS)
def test_fault_77_times_are_stored_in_utc_with_their_zone(
    warehouse: Warehouse, moment: datetime, utc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    writer = warehouse.writer()
    writer.ensure_tables()

    writer.replace([landing(completed_at=moment, submitted_at=moment)])

    ((completed, submitted, landed),) = warehouse.rows(
        "select completed_at, submitted_at, landed_at from plaud_transcripts"
    )
    if warehouse.kind == "sqlite":
        completed, submitted, landed = (
            datetime.fromisoformat(text) for text in (completed, submitted, landed)
        )
    assert completed == submitted == datetime.fromisoformat(utc).replace(tzinfo=UTC)
    assert landed == NOW
    assert completed.utcoffset() is not None


def test_times_sort_and_compare_in_sqlite(sqlite_warehouse: Warehouse) -> None:
    writer = sqlite_warehouse.writer()
    writer.ensure_tables()
    writer.replace([landing()])

    assert sqlite_warehouse.rows("select landed_at, datetime(landed_at) from plaud_transcripts") == [
        ("2026-03-29 01:30:00.123456+00:00", "2026-03-29 01:30:00")
    ]


NAMES = [
    'we"ird',
    "a; drop table plaud_segments; --",
    "select",
    "qualify",
    "Mixed Case",
    "a.b",
    "100 %",
    "what?",
    ":name",
    "$1",
    "O'Brien",
    "[x]",
    "`x`",
    "\u8868 \U0001f600",
    "trailing ",
]


@pytest.mark.parametrize("name", NAMES)
def test_fault_71_any_table_name_works_as_it_is(warehouse: Warehouse, name: str) -> None:
    writer = warehouse.writer(name, f"{name} segments")

    for _ in range(2):
        writer.ensure_tables()
        assert writer.replace([landing()]) == (1, 2, 0)

    assert warehouse.tables() == {name, f"{name} segments"}


def test_tables_whose_names_differ_in_case_are_two_where_the_database_says_so(warehouse: Warehouse) -> None:
    writer = warehouse.writer("Calls", "calls")

    if warehouse.kind == "postgres":
        writer.ensure_tables()
        assert writer.replace([landing()]) == (1, 2, 0)
        assert warehouse.tables() == {"Calls", "calls"}
    else:
        with pytest.raises(PlaudInputError, match=r"^segments_table: 'calls' is also the transcripts_table"):
            writer.ensure_tables()
        assert warehouse.is_untouched


def test_fault_71_name_of_300_characters_works_in_files(file_warehouse: Warehouse) -> None:
    writer = file_warehouse.writer("n" * 300)
    writer.ensure_tables()

    assert writer.replace([landing()]) == (1, 2, 0)


@pytest.mark.parametrize("schema", ["analytics", "warehouse", 's"; drop', "select", "x.y", "[x]", "100 %"])
@pytest.mark.parametrize("warehouse", ["duckdb", "postgres"], indirect=True)
def test_fault_71_any_existing_schema_works(warehouse: Warehouse, schema: str) -> None:
    # The file's own name is "warehouse": DuckDB calls that name ambiguous.
    quoted = '"' + schema.replace('"', '""') + '"'
    warehouse.run(f"create schema {quoted}")
    writer = warehouse.writer(schema=schema)

    for _ in range(2):
        writer.ensure_tables()
        assert writer.replace([landing()]) == (1, 2, 0)

    assert warehouse.rows(
        "select distinct table_schema from information_schema.tables where table_name like 'plaud%'"
    ) == [(schema,)]


def test_schema_of_300_characters_works_in_duckdb(duckdb_warehouse: Warehouse) -> None:
    duckdb_warehouse.run(f"create schema {'s' * 300}")
    writer = duckdb_warehouse.writer(schema="S" * 300)
    writer.ensure_tables()

    assert writer.replace([landing()]) == (1, 2, 0)


def test_main_schema_works_in_sqlite(sqlite_warehouse: Warehouse) -> None:
    writer = sqlite_warehouse.writer(schema="main")
    writer.ensure_tables()

    assert writer.replace([landing()]) == (1, 2, 0)


def test_no_other_file_is_left_behind(file_warehouse: Warehouse) -> None:
    writer = file_warehouse.writer()
    writer.ensure_tables()
    writer.replace([landing()])

    folder = file_warehouse.path.parent
    assert list(folder.iterdir()) == [file_warehouse.path]


def test_sqlite_file_can_be_opened_for_writing_right_after(sqlite_warehouse: Warehouse) -> None:
    writer = sqlite_warehouse.writer()
    writer.ensure_tables()
    writer.replace([landing()])

    with sqlite3.connect(sqlite_warehouse.path, timeout=0) as connection:
        connection.execute("delete from plaud_segments")


def test_fault_31_nul_in_text_is_replaced_counted_and_logged_in_postgresql(
    postgres_warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    writer = postgres_warehouse.writer()
    writer.ensure_tables()

    landed = writer.replace([landing(text="a\x00b", segments=(segment(0, text="\x00c", speaker="\x00"),))])

    assert landed.nuls_replaced == 3
    assert postgres_warehouse.rows("select text, speaker from plaud_segments") == [("\ufffdc", "\ufffd")]
    assert "3 NUL characters, which postgresql cannot store" in caplog.text


def test_fault_31_nul_in_text_is_kept_where_it_can_be(file_warehouse: Warehouse) -> None:
    writer = file_warehouse.writer()
    writer.ensure_tables()

    assert writer.replace([landing(text="a\x00b")]).nuls_replaced == 0


def test_rows_of_many_segments_are_not_in_memory_all_at_once(sqlite_warehouse: Warehouse) -> None:
    writer = sqlite_warehouse.writer()
    writer.ensure_tables()
    long = landing(segments=60_000)
    tracemalloc.start()
    try:
        writer.replace([long])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # Their columns take 5 MB, all of their rows 30.
    assert most < 20 * 2**20
    assert sqlite_warehouse.rows("select count(*) from plaud_segments") == [(60_000,)]


def test_long_text_lands_in_a_duckdb_whose_configuration_is_locked(
    duckdb_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = replace(duckdb_warehouse, extra={"settings": {"lock_configuration": True}})
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", locked.connection)
    writer = duckdb_warehouse.writer()
    writer.ensure_tables()

    writer.replace([landing(text="x" * 2**23)])

    assert duckdb_warehouse.rows("select length(text) from plaud_transcripts") == [(2**23,)]
