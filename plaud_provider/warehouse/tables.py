"""The tables that transcriptions land in, declared once."""

from __future__ import annotations

import sqlalchemy as sa

from plaud_provider.database.tables import DeclaredTables, schema_name, shown, table_name
from plaud_provider.database.types import LONG_TEXT, JsonText, UtcTime
from plaud_provider.exceptions import PlaudInputError

DEFAULT_TRANSCRIPTS_TABLE = "plaud_transcripts"
DEFAULT_SEGMENTS_TABLE = "plaud_segments"

#: What each column holds, for whoever looks at the tables in the warehouse.
_COMMENTS = {
    "transcription_id": "Id that Plaud gave",
    "audio_uri": "Reference to the recording, without a signature",
    "region": "Region of Plaud that it was made in",
    "language": "Language, as Plaud reports it",
    "duration_seconds": "Length of the recording in seconds",
    "segment_count": "Number of its rows in the table of segments",
    "speaker_count": "Number of speakers that were told apart",
    "status": "completed or failed",
    "error": "Why it failed",
    "submitted_at": "When it was submitted",
    "completed_at": "When Plaud had finished it",
    "landed_at": "When its rows were written",
    "dag_id": "Dag that wrote its rows",
    "run_id": "Dag run that wrote its rows",
    "raw": "The answer of Plaud",
    "segment_index": "Place in the transcript, from 0",
    "start_seconds": "Start in seconds from the beginning of the recording",
    "end_seconds": "End in seconds from the beginning of the recording",
    "speaker": "Speaker, if speakers were told apart",
    "text": "What was said",
}


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
    if transcripts_name == segments_name:
        raise PlaudInputError(
            f"segments_table: {shown(segments_table)} is also the transcripts_table. Give the two tables "
            "different names. Nothing was sent."
        )
    metadata = sa.MetaData(schema=schema)
    transcripts = sa.Table(
        transcripts_name,
        metadata,
        sa.Column("transcription_id", sa.String(255), primary_key=True),
        sa.Column("audio_uri", LONG_TEXT),
        sa.Column("region", LONG_TEXT, nullable=False),
        sa.Column("language", LONG_TEXT),
        sa.Column("duration_seconds", sa.Double),
        sa.Column("text", LONG_TEXT),
        sa.Column("segment_count", sa.Integer, nullable=False),
        sa.Column("speaker_count", sa.Integer, nullable=False),
        sa.Column("status", LONG_TEXT, nullable=False),
        sa.Column("error", LONG_TEXT),
        sa.Column("submitted_at", UtcTime),
        sa.Column("completed_at", UtcTime),
        sa.Column("landed_at", UtcTime, nullable=False),
        sa.Column("dag_id", LONG_TEXT),
        sa.Column("run_id", LONG_TEXT),
        sa.Column("raw", JsonText, nullable=False),
    )
    segments = sa.Table(
        segments_name,
        metadata,
        sa.Column("transcription_id", sa.String(255), primary_key=True),
        sa.Column("segment_index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("start_seconds", sa.Double),
        sa.Column("end_seconds", sa.Double),
        sa.Column("speaker", LONG_TEXT),
        sa.Column("text", LONG_TEXT, nullable=False),
    )
    for table in (transcripts, segments):
        for column in table.columns:
            column.comment = _COMMENTS.get(column.name)
    return PlaudTables(schema, transcripts, segments)
