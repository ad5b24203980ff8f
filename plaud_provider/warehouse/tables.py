"""The tables that transcriptions land in, declared once."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from plaud_provider.database.tables import DeclaredTables, schema_name, shown, table_name
from plaud_provider.database.types import KEY_TEXT, LONG_TEXT, JsonText, UtcTime
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.recordings.description import validate_columns
from plaud_provider.warehouse.speakers import speakers, speakers_name

DEFAULT_TRANSCRIPTS_TABLE = "plaud_transcripts"
DEFAULT_SEGMENTS_TABLE = "plaud_segments"


class PlaudTables(DeclaredTables):
    """
    The tables that transcriptions land in.

    :param schema: Schema that they are in; ``None`` for the connection's own.
    :param transcripts: One row per transcription, key ``transcription_id``.
    :param segments: One row per stretch of speech, key ``transcription_id, segment_index``.
    :param metadata_columns: Fields of recordings that are columns of the first.
    """

    def __init__(
        self,
        schema: str | None,
        transcripts: sa.Table,
        segments: sa.Table,
        metadata_columns: Sequence[str] = (),
    ) -> None:
        # Delete and insert replaces rows without a key too, and not every warehouse enforces one.
        super().__init__(
            schema,
            {transcripts: "transcripts_table", segments: "segments_table"},
            keyed=frozenset(),
            views={speakers_name(str(segments.name)): speakers(segments)},
        )
        self.transcripts = transcripts
        self.segments = segments
        self.metadata_columns = tuple(metadata_columns)

    def target(self, conn_id: str) -> str:
        """
        Return what the ledger calls these tables, as the place where a transcript lands.

        :param conn_id: Connection of the warehouse.
        """
        return f"{conn_id}:{self.transcripts.fullname}"


def plaud_tables(
    schema: str | None = None,
    transcripts_table: str = DEFAULT_TRANSCRIPTS_TABLE,
    segments_table: str = DEFAULT_SEGMENTS_TABLE,
    metadata_columns: Sequence[str] = (),
) -> PlaudTables:
    """
    Declare the tables under names given by a user.

    :param schema: Schema that both are in; ``None`` for the connection's own. It has to exist.
    :param transcripts_table: Table for transcriptions, taken literally (always quoted, a dot is part of the
        name).
    :param segments_table: Table for segments, likewise.
    :param metadata_columns: Fields of recordings that are text columns of their own beside ``metadata``.
    :raises PlaudInputError: if a name is empty, has control characters, or both tables are one; if a field
        cannot be a column.
    """
    schema = schema_name(schema)
    transcripts_name = table_name(
        "transcripts_table", transcripts_table, f"the default is {DEFAULT_TRANSCRIPTS_TABLE!r}"
    )
    segments_name = table_name("segments_table", segments_table, f"the default is {DEFAULT_SEGMENTS_TABLE!r}")
    if transcripts_name == segments_name:
        raise PlaudInputError(
            f"segments_table: {shown(segments_table)} is also the transcripts_table. Give the two tables "
            "different names. Nothing was sent."
        )
    metadata = sa.MetaData(schema=schema)
    transcripts = sa.Table(
        transcripts_name,
        metadata,
        sa.Column("transcription_id", KEY_TEXT, primary_key=True, comment="Id that Plaud gave"),
        sa.Column("audio_uri", LONG_TEXT, comment="Reference to the recording, without its signature"),
        sa.Column("region", LONG_TEXT, nullable=False, comment="Plaud region"),
        sa.Column("language", LONG_TEXT, comment="Language asked for or detected, BCP-47"),
        sa.Column("duration_seconds", sa.Double, comment="Length of the recording"),
        sa.Column("text", LONG_TEXT, comment="The whole transcript"),
        sa.Column("segment_count", sa.Integer, nullable=False, comment="Rows of the segments table"),
        sa.Column(
            "speaker_count",
            sa.Integer,
            nullable=False,
            comment="Speakers, where asked for",
        ),
        sa.Column("status", LONG_TEXT, nullable=False, comment="completed or failed"),
        sa.Column("error", LONG_TEXT, comment="Why it failed"),
        sa.Column("submitted_at", UtcTime, comment="When it was submitted"),
        sa.Column("completed_at", UtcTime, comment="When Plaud finished it"),
        sa.Column("landed_at", UtcTime, nullable=False, comment="When this row was written"),
        sa.Column("dag_id", LONG_TEXT, comment="DAG that wrote this row"),
        sa.Column("run_id", LONG_TEXT, comment="Run that wrote this row"),
        sa.Column("raw", JsonText, nullable=False, comment="Answer of Plaud as JSON"),
        sa.Column("api", LONG_TEXT, comment="API of Plaud that it was made by"),
        sa.Column("model", LONG_TEXT, comment="Speech model"),
        sa.Column("recording_started_at", UtcTime, comment="When the recording begins"),
        sa.Column("recording_date", sa.Date, comment="Day of the recording"),
        sa.Column("metadata", JsonText, comment="Fields of the recording as a JSON object"),
        comment="One row per transcription",
    )
    segments = sa.Table(
        segments_name,
        metadata,
        sa.Column(
            "transcription_id",
            KEY_TEXT,
            primary_key=True,
            comment="Row of its transcript",
        ),
        sa.Column(
            "segment_index",
            sa.Integer,
            primary_key=True,
            autoincrement=False,
            comment="Order of Plaud, from 0",
        ),
        sa.Column("start_seconds", sa.Double, comment="From the beginning of the recording"),
        sa.Column("end_seconds", sa.Double, comment="From the beginning of the recording"),
        sa.Column("speaker", LONG_TEXT, comment="Label, where speakers were asked for"),
        sa.Column("text", LONG_TEXT, nullable=False, comment="What was said"),
        sa.Column("language", LONG_TEXT, comment="Language of this segment, where it is told"),
        comment="One row per stretch of speech",
    )
    fields = validate_columns(metadata_columns)
    for name in fields:
        transcripts.append_column(_metadata_column(name, transcripts))
    return PlaudTables(schema, transcripts, segments, fields)


def _metadata_column(name: str, transcripts: sa.Table) -> sa.Column[str]:
    if name.casefold() in (column.name.casefold() for column in transcripts.columns):
        raise PlaudInputError(
            f"metadata_columns: {shown(name)} is a column that is there already. Rename the field where it "
            "comes from. Nothing was sent."
        )
    return sa.Column(name, LONG_TEXT, comment="Field of the recording, also in metadata")
