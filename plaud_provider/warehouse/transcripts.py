"""Reading transcripts back from the warehouse: for exports and for the pages."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from plaud_provider.api.answers import parse_transcription
from plaud_provider.api.models import Status, Transcription
from plaud_provider.database.rows import batches
from plaud_provider.warehouse.loaders.choice import choose_loader
from plaud_provider.warehouse.loaders.rows import RowsLoader
from plaud_provider.warehouse.tables import DEFAULT_SEGMENTS_TABLE, DEFAULT_TRANSCRIPTS_TABLE, plaud_tables

if TYPE_CHECKING:
    from plaud_provider.warehouse.lake import Lake

#: Transcripts that are in memory at once.
_AT_ONCE = 20
#: Ids per query.
_LOOKED_UP = 300


class Known(NamedTuple):
    """
    What the warehouse knows of a transcription, without what was said.

    :param transcription_id: Plaud's id.
    :param audio_uri: Reference to the recording, without a signature.
    :param region: Region that it was made in.
    :param status: ``completed`` or ``failed``.
    :param language: BCP-47 code.
    :param duration_seconds: Length of the recording.
    :param segment_count: How many segments it has.
    :param speaker_count: How many speakers those name.
    :param error: Why it failed.
    :param submitted_at: When it was submitted.
    :param completed_at: When Plaud completed it.
    :param landed_at: When it landed.
    :param dag_id: Dag that landed it.
    :param run_id: Run that landed it.
    """

    transcription_id: str
    audio_uri: str | None
    region: str
    status: str
    language: str | None
    duration_seconds: float | None
    segment_count: int
    speaker_count: int
    error: str | None
    submitted_at: datetime | None
    completed_at: datetime | None
    landed_at: datetime
    dag_id: str | None
    run_id: str | None


class TranscriptReader:
    """
    Reads the transcripts of one warehouse or lake. It writes nothing and creates nothing.

    All methods raise :class:`~plaud_provider.exceptions.PlaudWarehouseError` if the warehouse is away or
    refuses, as when the table is not there.

    :param sql_conn_id: Airflow connection of the warehouse; ``None`` for a lake alone.
    :param schema: Schema of the table; ``None`` for the connection's own.
    :param transcripts_table: Its name, taken literally.
    :param lake: The lake, where there is no warehouse.
    :param wait_seconds: How long to wait for a database of rows that is busy; ``None``: as long as tasks do.
    :raises PlaudConfigurationError: if there is no such connection, or none of its type is served.
    :raises PlaudInputError: if a name cannot be one.
    """

    def __init__(
        self,
        sql_conn_id: str | None,
        schema: str | None = None,
        transcripts_table: str = DEFAULT_TRANSCRIPTS_TABLE,
        *,
        lake: Lake | None = None,
        wait_seconds: float | None = None,
    ) -> None:
        other = DEFAULT_SEGMENTS_TABLE
        if transcripts_table == other:
            other = DEFAULT_TRANSCRIPTS_TABLE
        tables = plaud_tables(schema, transcripts_table, other)
        self._loader = choose_loader(sql_conn_id, tables, lake=lake if sql_conn_id is None else None)
        if wait_seconds is not None and isinstance(self._loader, RowsLoader):
            self._loader.database.wait_at_most(wait_seconds)

    def known(self, transcription_ids: Collection[str]) -> dict[str, Known]:
        """
        Return what is known of transcriptions, by their ids; what is not here is left out.

        :param transcription_ids: Ids that Plaud gave.
        """
        found = (
            Known(*row)
            for some in batches(sorted(set(transcription_ids)), _LOOKED_UP)
            for row in self._loader.read(Known._fields, {"transcription_id": some})
        )
        return {one.transcription_id: one for one in found}

    def landed_by(self, dag_id: str, run_id: str, most: int | None = None) -> list[str]:
        """
        Return the ids of the completed transcriptions that a run has landed last, the oldest first.

        :param dag_id: Its dag.
        :param run_id: The run.
        :param most: Not more than so many.
        """
        of_run = {"dag_id": [dag_id], "run_id": [run_id], "status": [Status.COMPLETED.value]}
        return [known for (known,) in self._loader.read(("transcription_id",), of_run, most)]

    def transcriptions(self, transcription_ids: Sequence[str]) -> Iterator[tuple[Known, Transcription]]:
        """
        Yield transcriptions as Plaud answered them, a few in memory at once; what is not here is left out.

        :param transcription_ids: Ids that Plaud gave, each once.
        """
        for some in batches(transcription_ids, _AT_ONCE):
            for *known, raw in self._loader.read((*Known._fields, "raw"), {"transcription_id": some}):
                one = Known(*known)
                # Some drivers give JSON back as what it says.
                text = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)
                yield one, parse_transcription(text.encode(), requested_id=one.transcription_id)
