# ruff: noqa: E501
"""
What is sent to SQL Server, as one who knows it would read it; none has been run.

Statements are compiled by SQLAlchemy's own dialect and recorded in the place of a connection.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mssql

from plaud_provider.database.dialect import code_of
from plaud_provider.database.fit import CreateView, _AddColumn, _CreateTable
from plaud_provider.database.mssql import MsSqlDialect
from plaud_provider.database.rows import columns_of
from plaud_provider.exceptions import PlaudConfigurationError, PlaudWarehouseError
from plaud_provider.warehouse.rows import segment_columns
from plaud_provider.warehouse.tables import plaud_tables
from tests.unit.warehouse.warehouses import landing, segment

DIALECT = mssql.dialect(paramstyle="pyformat")  # type: ignore[no-untyped-call]
DIALECT.server_version_info = (16,)
SEGMENTS = (
    "[transcription_id], [segment_index], [start_seconds], [end_seconds], [speaker], [text], [language]"
)
FROM_JSON = (
    "OPENJSON(%(rows)s) WITH ([transcription_id] NVARCHAR(255) '$.c0', [segment_index] INTEGER '$.c1', "
    "[start_seconds] DOUBLE PRECISION '$.c2', [end_seconds] DOUBLE PRECISION '$.c3', [speaker] NVARCHAR(max) '$.c4', "
    "[text] NVARCHAR(max) '$.c5', [language] NVARCHAR(max) '$.c6')"
)


class Recorder:
    """Stands for a connection."""

    dialect = DIALECT

    def __init__(self, *answers: Any) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.answers = list(answers)

    def execute(self, statement: Any, values: Any = None) -> Any:
        self.sent.append((str(statement.compile(dialect=DIALECT)), values))
        return self.answers.pop(0) if self.answers else None

    scalar = execute


class Hook:
    conn_type = "mssql"
    sqlalchemy_scheme = "mssql+pymssql"


class Row(tuple[Any, ...]):
    __slots__ = ()

    def one(self) -> Row:
        return self


@pytest.fixture
def dialect() -> MsSqlDialect:
    return MsSqlDialect(Hook(), parameter="sql_conn_id")  # type: ignore[arg-type]


def test_tables_hold_every_script_and_tell_ids_apart() -> None:
    tables = plaud_tables("calls")
    made = str(_CreateTable(tables.transcripts).compile(dialect=DIALECT))

    assert "transcription_id NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NOT NULL" in made
    for part in (
        "CREATE TABLE [calls].[plaud_transcripts]",
        "\ttext NVARCHAR(max) NULL",
        "\traw NVARCHAR(max) NOT NULL",
        "\tduration_seconds DOUBLE PRECISION NULL",
        "\tlanded_at DATETIMEOFFSET NOT NULL",
        "\trecording_date DATE NULL",
        "PRIMARY KEY (transcription_id)",
    ):
        assert part in made
    # Those that are bare would take one alphabet.
    assert "VARCHAR" not in made.replace("NVARCHAR", "")


def test_column_and_view_are_added_in_its_own_words() -> None:
    tables = plaud_tables()
    added = str(_AddColumn(tables.transcripts.c.run_id).compile(dialect=DIALECT))
    [(name, query)] = tables.views.items()
    view = str(CreateView(name, None, query).compile(dialect=DIALECT))

    assert added == "ALTER TABLE [plaud_transcripts] ADD run_id NVARCHAR(max) NULL"
    assert view.startswith("CREATE VIEW [plaud_speakers] AS SELECT spoken.transcription_id, ")
    assert " len(" in view
    assert "length(" not in view


def test_rows_are_one_text_of_ascii_whatever_they_hold(dialect: MsSqlDialect) -> None:
    tables, recorder = plaud_tables(), Recorder()
    text = "it's \u65e5\u672c\u8a9e \U0001f600 :x %s"

    dialect.insert(
        recorder, tables.segments, segment_columns([landing("txn_1", segments=(segment(0, text=text),))])
    )

    [(statement, values)] = recorder.sent
    assert statement == f"INSERT INTO [plaud_segments] ({SEGMENTS}) SELECT {SEGMENTS} FROM {FROM_JSON}"
    assert values["rows"].isascii()
    [row] = json.loads(values["rows"])
    assert (row["c0"], row["c1"], row["c5"]) == ("txn_1", 0, text)
    # What is NULL is left out.
    assert "c6" not in row


def test_transcripts_are_replaced_in_place_under_locks_of_their_keys(dialect: MsSqlDialect) -> None:
    tables, recorder = plaud_tables("a:b"), Recorder()

    dialect.upsert(recorder, tables.transcripts, [landing("txn_1").transcript_row()])

    [(statement, values)] = recorder.sent
    assert statement.startswith(
        "MERGE INTO [a:b].[plaud_transcripts] WITH (HOLDLOCK) AS here USING (SELECT * FROM OPENJSON(%(rows)s) WITH "
        "([transcription_id] NVARCHAR(255) '$.c0', [audio_uri] NVARCHAR(max) '$.c1', "
    )
    assert (
        ") AS new ON here.[transcription_id] = new.[transcription_id] WHEN MATCHED THEN UPDATE SET [audio_uri] = "
        "new.[audio_uri], " in statement
    )
    assert " WHEN NOT MATCHED THEN INSERT ([transcription_id], [audio_uri], " in statement
    assert statement.endswith(");")
    assert "2026-03-29T01:30:00.123456+00:00" in values["rows"]


def test_rows_beyond_what_a_statement_takes_are_sent_in_parts(dialect: MsSqlDialect) -> None:
    tables, recorder = plaud_tables(), Recorder()
    # Six characters of JSON each.
    rows = [landing(f"txn_{number}", text="\u8a9e" * 1_000_000).transcript_row() for number in range(5)]

    dialect.insert(recorder, tables.transcripts, columns_of(rows))

    parts = [[row["c0"] for row in json.loads(values["rows"])] for _, values in recorder.sent]
    assert parts == [["txn_0", "txn_1"], ["txn_2", "txn_3"], ["txn_4"]]


def test_lock_of_a_table_without_a_key_that_is_not_had_is_told(dialect: MsSqlDialect) -> None:
    dialect.lock(Recorder(0), ["plaud_transcripts\0txn_1", "plaud_transcripts\0txn_2"])

    with pytest.raises(PlaudWarehouseError, match="was being written by another task for 60 s"):
        dialect.lock(Recorder(-1), ["plaud_transcripts\0txn_1"])


@pytest.mark.parametrize("edition, level, told", [(11, 160, "Fabric"), (6, 130, "Synapse"), (3, 120, "130")])
def test_what_lacks_what_is_needed_is_refused_by_name(
    dialect: MsSqlDialect, edition: int, level: int, told: str
) -> None:
    with pytest.raises(PlaudConfigurationError, match=told):
        dialect.refuse_unsuited(Recorder(Row((edition, level))), "Warehouse 'w'")

    dialect.refuse_unsuited(Recorder(Row((12, 160))), "Warehouse 'w'")


def test_columns_that_would_change_a_text_are_named(dialect: MsSqlDialect) -> None:
    there = [
        ("text", "varchar", "SQL_Latin1_General_CP1_CI_AS"),
        ("speaker", "varchar", "Latin1_General_100_CI_AS_SC_UTF8"),
        ("transcription_id", "nvarchar", "SQL_Latin1_General_CP1_CI_AS"),
    ]

    found = dialect.problems(Recorder(there), plaud_tables().segments)

    assert found.keys() == {"text", "transcription_id"}
    assert "nvarchar is needed" in str(found["text"])
    assert "BIN2" in str(found["transcription_id"])
    there[2] = ("transcription_id", "nvarchar", "Latin1_General_100_BIN2")
    assert dialect.problems(Recorder(there), plaud_tables().segments).keys() == {"text"}


@pytest.mark.parametrize(
    "number, code, passes, away",
    [
        (1205, "40P01", True, False),
        (1222, "55P03", True, False),
        (229, "42501", False, False),
        (20009, "08006", False, True),
        (99999, "", False, False),
    ],
)
def test_its_errors_are_known_by_their_numbers(
    dialect: MsSqlDialect, number: int, code: str, passes: bool, away: bool
) -> None:
    # As pymssql 2.4 raises them: in the place of the number is a pair.
    kind = type("OperationalError", (Exception,), {"__module__": "pymssql.exceptions"})
    error = sa.exc.DBAPIError("select 'SENTINEL'", None, kind((number, b"SENTINEL")))

    assert (code_of(error), dialect.is_passing(error), dialect.is_away(error)) == (code, passes, away)
    assert "SENTINEL" not in " ".join(dialect.explain(error))
