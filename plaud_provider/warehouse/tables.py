"""
The tables that transcriptions land in, declared once.

Names come from users. They reach SQL only as quoted identifiers that a dialect compiler writes; what no
database could take as a name is refused here, before anything is opened.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql import quoted_name

from plaud_provider.exceptions import PlaudInputError

DEFAULT_TRANSCRIPTS_TABLE = "plaud_transcripts"
DEFAULT_SEGMENTS_TABLE = "plaud_segments"

# SQLite has no time type and SQLAlchemy would write these without their offset: a reader could not tell UTC
# from local time.
_SQLITE_TIME = sqlite.DATETIME(  # type: ignore[no-untyped-call]
    storage_format=(
        "%(year)04d-%(month)02d-%(day)02d %(hour)02d:%(minute)02d:%(second)02d.%(microsecond)06d+00:00"
    )
)


class DeclaredTables:
    """
    Tables that are created on first use, and have to fit if they are there.

    :param schema: Schema that they are in; ``None`` for the connection's own.
    :param parameters: The tables, each with the argument that names it.
    :param keyed: Those whose primary key the database itself has to enforce.
    """

    def __init__(
        self, schema: str | None, parameters: Mapping[sa.Table, str], *, keyed: frozenset[sa.Table]
    ) -> None:
        self.schema = schema
        self.parameters = parameters
        self.keyed = keyed

    def refuse_names_longer_than(self, limit: int, database: str) -> None:
        """
        Refuse names that this kind of database would cut short, which PostgreSQL does without an error.

        :param limit: Bytes (UTF-8) that a name may have.
        :param database: Kind of database, for the message.
        :raises PlaudInputError: if a name is longer.
        """
        names = {parameter: table.name for table, parameter in self.parameters.items()}
        if self.schema is not None:
            names["schema"] = self.schema
        for parameter, name in names.items():
            if (length := len(name.encode())) > limit:
                raise PlaudInputError(
                    f"{parameter}: {_shown(name)} has {length} bytes; {database} takes names of at most "
                    f"{limit}. Choose a shorter one. Nothing was sent."
                )


class PlaudTables(DeclaredTables):
    """
    The tables that transcriptions land in.

    :param schema: Schema that they are in; ``None`` for the connection's own.
    :param transcripts: One row per transcription, key ``transcription_id``.
    :param segments: One row per stretch of speech, key ``transcription_id, segment_index``.
    """

    def __init__(self, schema: str | None, transcripts: sa.Table, segments: sa.Table) -> None:
        # Delete and insert replaces rows without a key too, and not every warehouse enforces one.
        super().__init__(
            schema, {transcripts: "transcripts_table", segments: "segments_table"}, keyed=frozenset()
        )
        self.transcripts = transcripts
        self.segments = segments


def plaud_tables(
    schema: str | None = None,
    transcripts_table: str = DEFAULT_TRANSCRIPTS_TABLE,
    segments_table: str = DEFAULT_SEGMENTS_TABLE,
) -> PlaudTables:
    """
    Declare the tables under names given by a user.

    :param schema: Schema that both are in; ``None`` for the connection's own. It has to exist.
    :param transcripts_table: Table for transcriptions, taken literally (always quoted, a dot is part of the
        name).
    :param segments_table: Table for segments, likewise.
    :raises PlaudInputError: if a name is empty, has control characters, or both tables are one.
    """
    schema = schema_name(schema)
    transcripts_name = table_name(
        "transcripts_table", transcripts_table, f"the default is {DEFAULT_TRANSCRIPTS_TABLE!r}"
    )
    segments_name = table_name("segments_table", segments_table, f"the default is {DEFAULT_SEGMENTS_TABLE!r}")
    # SQLite and DuckDB do not tell upper from lower case, quoted or not.
    if transcripts_name.casefold() == segments_name.casefold():
        raise PlaudInputError(
            f"segments_table: {_shown(segments_table)} is also the transcripts_table. Give the two tables "
            "different names. Nothing was sent."
        )
    metadata = sa.MetaData(schema=schema)
    transcripts = sa.Table(
        transcripts_name,
        metadata,
        sa.Column("transcription_id", sa.String(255), primary_key=True),
        sa.Column("audio_uri", sa.Text),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("language", sa.Text),
        sa.Column("duration_seconds", sa.Double),
        sa.Column("text", sa.Text),
        sa.Column("segment_count", sa.Integer, nullable=False),
        sa.Column("speaker_count", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("submitted_at", utc_time()),
        sa.Column("completed_at", utc_time()),
        sa.Column("landed_at", utc_time(), nullable=False),
        sa.Column("dag_id", sa.Text),
        sa.Column("run_id", sa.Text),
        sa.Column("raw", sa.Text, nullable=False),
    )
    segments = sa.Table(
        segments_name,
        metadata,
        sa.Column("transcription_id", sa.String(255), primary_key=True),
        sa.Column("segment_index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("start_seconds", sa.Double),
        sa.Column("end_seconds", sa.Double),
        sa.Column("speaker", sa.Text),
        sa.Column("text", sa.Text, nullable=False),
    )
    return PlaudTables(schema, transcripts, segments)


def utc_time() -> sa.DateTime:
    """Return the type of a time in UTC with its zone."""
    return sa.DateTime(timezone=True).with_variant(_SQLITE_TIME, "sqlite")


def schema_name(value: str | None) -> quoted_name | None:
    """
    Return a schema's name as an identifier that is always quoted; ``None`` for the connection's own.

    :param value: What a user gave.
    :raises PlaudInputError: if it cannot be a name.
    """
    if value is None:
        return None
    return table_name("schema", value, "leave it out for the connection's own schema")


def table_name(parameter: str, value: object, remedy: str) -> quoted_name:
    """
    Return a name as an identifier that is always quoted.

    :param parameter: Argument that it was given as, for the message.
    :param value: What a user gave.
    :param remedy: What else to do, for the message.
    :raises PlaudInputError: if it cannot be a name.
    """
    if not isinstance(value, str):
        problem = f"is a {type(value).__name__}, not a name"
    elif not value.strip():
        problem = "is empty"
    elif any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        problem = "has control characters (a tab, a line break, NUL) or is not valid Unicode"
    else:
        return quoted_name(value, quote=True)
    raise PlaudInputError(
        f"{parameter}: {_shown(value)} {problem}. Give a plain name; {remedy}. Nothing was sent."
    )


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
