from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable

from plaud_provider.exceptions import PlaudInputError
from plaud_provider.warehouse.tables import plaud_tables


def test_columns_are_those_of_the_design() -> None:
    tables = plaud_tables()

    assert tables.transcripts.columns.keys() == [
        *("transcription_id", "audio_uri", "region", "language", "duration_seconds", "text", "segment_count"),
        *(
            "speaker_count",
            "status",
            "error",
            "submitted_at",
            "completed_at",
            "landed_at",
            "dag_id",
            "run_id",
        ),
        *("raw", "api", "model", "recording_started_at", "recording_date", "metadata"),
    ]
    assert tables.segments.columns.keys() == [
        *("transcription_id", "segment_index", "start_seconds", "end_seconds", "speaker", "text"),
        "language",
    ]
    assert [c.name for c in tables.transcripts.primary_key] == ["transcription_id"]
    assert [c.name for c in tables.segments.primary_key] == ["transcription_id", "segment_index"]


def test_every_column_and_table_says_what_it_holds() -> None:
    for table in plaud_tables(metadata_columns=["agent"]).parameters:
        assert "per" in (table.comment or "")
        assert all(column.comment for column in table.columns), table.columns.keys()
        # Warehouses write them into statements between single quotes.
        assert not any("'" in (column.comment or "") for column in table.columns)


def test_fields_become_text_columns_that_may_be_empty() -> None:
    columns = plaud_tables(metadata_columns=["agent", "call_id"]).transcripts.columns

    assert columns.keys()[-3:] == ["metadata", "agent", "call_id"]
    assert columns["agent"].nullable
    assert isinstance(columns["agent"].type, sa.Text)


@pytest.mark.parametrize(
    "name", ["", "a b", "1a", "a-b", "ä", "a" * 64, 'a"', "status", "Status", "METADATA", 7, None]
)
def test_field_that_cannot_be_a_column_is_refused(name: Any) -> None:
    with pytest.raises(PlaudInputError, match=r"^metadata_columns: .*Nothing was sent"):
        plaud_tables(metadata_columns=[name])


def test_field_that_is_a_column_twice_is_refused() -> None:
    with pytest.raises(PlaudInputError, match=r"^metadata_columns: 'Agent' is a column"):
        plaud_tables(metadata_columns=["agent", "Agent"])


def test_seconds_are_64_bit_and_times_have_a_zone_in_postgresql() -> None:
    created = str(CreateTable(plaud_tables().transcripts).compile(dialect=postgresql.dialect()))

    assert "duration_seconds DOUBLE PRECISION" in created
    assert "landed_at TIMESTAMP WITH TIME ZONE NOT NULL" in created


@pytest.mark.parametrize("parameter", ["schema", "transcripts_table", "segments_table"])
@pytest.mark.parametrize("value", ["", "  ", "a\x00b", "a\nb", "\x7f", "\ud800", 7, ["a"]])
def test_name_that_cannot_be_is_refused_by_parameter(parameter: str, value: Any) -> None:
    with pytest.raises(PlaudInputError, match=rf"^{parameter}: .*Nothing was sent"):
        plaud_tables(**{parameter: value})


def test_two_tables_of_one_name_are_refused() -> None:
    with pytest.raises(PlaudInputError, match=r"^segments_table: 'same' is also the transcripts_table"):
        plaud_tables(None, "same", "same")


def test_name_too_long_for_the_database_is_refused_with_its_bytes() -> None:
    tables = plaud_tables(None, "é" * 40)

    with pytest.raises(PlaudInputError, match=r"^transcripts_table: .* has 80 bytes; postgresql takes .* 63"):
        tables.refuse_names_longer_than(63, "postgresql")
    tables.refuse_names_longer_than(80, "postgresql")


@given(name=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(str.strip))
def test_any_other_name_is_one_quoted_identifier(name: str) -> None:
    tables = plaud_tables(name, name, name + "2")

    for dialect in (sqlite.dialect(), postgresql.dialect(paramstyle="qmark")):
        quoted = '"' + name.replace('"', '""') + '"'
        assert str(
            sa.select(sa.literal_column("1")).select_from(tables.transcripts).compile(dialect=dialect)
        ) == (f"SELECT 1 \nFROM {quoted}.{quoted}")
