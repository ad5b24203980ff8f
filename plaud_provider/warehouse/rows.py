"""From a transcription to the rows it becomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from plaud_provider.api.models import Status, Transcription
from plaud_provider.database.rows import Columns, Row
from plaud_provider.database.types import utc
from plaud_provider.recordings.description import NOTHING, Description


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

    @property
    def transcription_id(self) -> str:
        """Key of its rows."""
        return self.transcription.transcription_id

    def transcript_row(self) -> Row:
        """Return its row of ``plaud_transcripts``; of a failed one that is its error, without text."""
        transcription = self.transcription
        is_failed = transcription.status is Status.FAILED
        return {
            "transcription_id": transcription.transcription_id,
            "audio_uri": self.audio_uri,
            "region": self.region,
            "language": transcription.language,
            "duration_seconds": _finite(transcription.duration_seconds),
            "text": None if is_failed else transcription.text,
            "segment_count": 0 if is_failed else len(transcription.segments),
            "speaker_count": 0 if is_failed else transcription.speaker_count,
            "status": transcription.status.value,
            "error": transcription.error,
            "submitted_at": utc(self.submitted_at or transcription.created_at),
            "completed_at": utc(transcription.completed_at),
            "landed_at": utc(self.landed_at),
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "raw": transcription.raw,
            "api": self.api,
            "model": transcription.model or self.model,
            "recording_started_at": utc(self.description.started_at),
            "recording_date": self.description.date,
            "metadata": self.description.json,
            **self.description.columns,
        }


def segment_columns(landings: Sequence[Landing]) -> Columns:
    """Return the rows of ``plaud_segments``; of a failed transcription there are none."""
    done = [
        landing.transcription for landing in landings if landing.transcription.status is not Status.FAILED
    ]
    segments = [segment for transcription in done for segment in transcription.segments]
    return {
        "transcription_id": [one.transcription_id for one in done for _ in one.segments],
        "segment_index": [segment.index for segment in segments],
        "start_seconds": [_finite(segment.start_seconds) for segment in segments],
        "end_seconds": [_finite(segment.end_seconds) for segment in segments],
        "speaker": [segment.speaker for segment in segments],
        "text": [segment.text for segment in segments],
        "language": [segment.language for segment in segments],
    }


def _finite(seconds: float | None) -> float | None:
    """Return finite seconds or ``None``: of NaN SQLite would make a NULL, DuckDB a value that sorts last."""
    return float(seconds) if seconds is not None and math.isfinite(seconds) else None
