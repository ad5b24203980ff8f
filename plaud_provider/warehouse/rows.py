"""From a transcription to the rows it becomes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from plaud_provider.api.models import Segment, Status, Transcription
from plaud_provider.database.rows import Columns, Row
from plaud_provider.database.types import utc
from plaud_provider.recordings.description import NOTHING, Description

if TYPE_CHECKING:
    from plaud_provider.warehouse.set_aside import SetAside


class Landing(NamedTuple):
    """
    A transcription with what the API's answer does not tell of it.

    ``repr()`` shows no transcript text.

    :param transcription: A completed or failed transcription.
    :param region: Region that it was made in.
    :param landed_at: The time, with time zone.
    :param audio_uri: Reference to the recording, without a signature.
    :param submitted_at: When it was submitted; ``None`` takes what the API told.
    :param dag_id: Dag that lands it.
    :param run_id: Run that lands it.
    :param api: Which of Plaud's APIs it was made by.
    :param model: Speech model that was asked for, where the answer does not tell it.
    :param description: What its user knows of the recording.
    :param aside: Texts and segments that the transcription had, if they are large.
    """

    transcription: Transcription
    region: str
    landed_at: datetime
    audio_uri: str | None = None
    submitted_at: datetime | None = None
    dag_id: str | None = None
    run_id: str | None = None
    api: str | None = None
    model: str | None = None
    description: Description = NOTHING
    aside: SetAside | None = None

    @property
    def transcription_id(self) -> str:
        """Key of its rows."""
        return self.transcription.transcription_id

    def transcript_row(self) -> Row:
        """Return its row of ``plaud_transcripts``; of a failed one that is its error, without text."""
        transcription = self.transcription
        large = self.aside or transcription
        is_failed = transcription.status is Status.FAILED
        return {
            "transcription_id": transcription.transcription_id,
            "audio_uri": self.audio_uri,
            "region": self.region,
            "language": transcription.language,
            "duration_seconds": transcription.duration_seconds,
            "text": None if is_failed else large.text,
            "segment_count": 0 if is_failed else large.segment_count,
            "speaker_count": 0 if is_failed else large.speaker_count,
            "status": transcription.status.value,
            "error": transcription.error,
            "submitted_at": utc(self.submitted_at or transcription.created_at),
            "completed_at": utc(transcription.completed_at),
            "landed_at": utc(self.landed_at),
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "raw": large.raw,
            "api": self.api,
            "model": transcription.model or self.model,
            "recording_started_at": utc(self.description.started_at),
            "recording_date": self.description.date,
            "metadata": self.description.json,
            **self.description.columns,
        }


def segment_columns(landings: Sequence[Landing]) -> Columns:
    """Return the rows of ``plaud_segments``; of a failed transcription there are none."""
    first, *others = segment_parts(landings)
    for columns in others:
        for name, values in columns.items():
            first[name] += values
    return first


def segment_parts(landings: Iterable[Landing]) -> Iterator[Columns]:
    """Yield the same rows: those in memory at once, those that are set aside in parts."""
    done = [landing for landing in landings if landing.transcription.status is not Status.FAILED]
    here = (landing.transcription for landing in done if landing.aside is None)
    yield columns_of_segments([(one.transcription_id, one.segments) for one in here])
    for landing in done:
        if landing.aside is not None:
            yield from landing.aside.segment_columns()


def columns_of_segments(of_ids: Sequence[tuple[str, Sequence[Segment]]]) -> Columns:
    """
    Return rows of segments.

    :param of_ids: Ids of transcriptions, each with some of its segments.
    """
    segments = list(chain.from_iterable(some for _, some in of_ids))
    return {
        "transcription_id": [known for known, some in of_ids for _ in some],
        "segment_index": [segment.index for segment in segments],
        "start_seconds": [segment.start_seconds for segment in segments],
        "end_seconds": [segment.end_seconds for segment in segments],
        "speaker": [segment.speaker for segment in segments],
        "text": [segment.text for segment in segments],
        "language": [segment.language for segment in segments],
    }
