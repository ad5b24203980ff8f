"""
What the API answers, as values. How they are read from an answer is in :mod:`.answers`.

Source: https://docs.plaud.ai (transcription API).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from plaud_provider.exceptions import PlaudInputError

if TYPE_CHECKING:
    from pandas import DataFrame


class Status(StrEnum):
    """Where a transcription stands."""

    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


#: Status words of all of Plaud's pages, in lower case. Any other counts as processing.
WORDS: Mapping[str, Status] = {
    **dict.fromkeys(("completed", "complete", "success", "succeeded", "done", "finished"), Status.COMPLETED),
    # Not "error": a gateway in trouble says so for a while, of a transcription that goes on.
    **dict.fromkeys(("failed", "failure", "revoked", "canceled", "cancelled", "aborted"), Status.FAILED),
    **dict.fromkeys(("processing", "pending", "received", "started", "progress"), Status.PROCESSING),
}


@dataclass(frozen=True, slots=True)
class Segment:
    """
    One stretch of speech.

    :param index: Position in the API's own order, from 0. Segments may overlap; they are not re-sorted.
    :param start_seconds: Start in seconds from the beginning; ``None`` where the API gave no finite number >=
        0.
    :param end_seconds: End in seconds, likewise.
    :param speaker: Speaker label; present when diarization was asked for.
    :param text: What was said.
    :param language: BCP-47 code of this segment, where the API told it.
    """

    index: int
    start_seconds: float | None
    end_seconds: float | None
    speaker: str | None
    text: str = field(repr=False)
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Transcription:
    """
    A transcription as the API reports it. ``repr()`` leaves the text out, so that it never reaches a log.

    :param transcription_id: Plaud's id, ``txn_...``.
    :param status: Where it stands. A status word that this version does not know counts as ``processing``.
    :param reported_status: The status word as it came; ``(not a word)`` for what may not be shown in a log.
    :param text: The whole transcript; ``None`` until completed, or where Plaud returned none (silence).
    :param language: BCP-47 code, asked for or detected.
    :param duration_seconds: Length of the audio in seconds.
    :param segments: The transcript in stretches, in the API's order.
    :param error: Why it failed, without query strings of URLs and at most 500 characters.
    :param created_at: When it was submitted (UTC); only the answer to a submit has it, as ``createdAt`` or
        else as the date of the answer itself.
    :param completed_at: When it was completed (UTC).
    :param raw: The answer itself as JSON text.
    :param model: Name of the speech model, where the API told it.
    """

    transcription_id: str
    status: Status
    reported_status: str
    text: str | None = field(default=None, repr=False)
    language: str | None = None
    duration_seconds: float | None = None
    segments: tuple[Segment, ...] = field(default=(), repr=False)
    error: str | None = None
    created_at: datetime | None = None
    completed_at: datetime | None = None
    raw: str = field(default="{}", repr=False)
    model: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether Plaud will not change it any more."""
        return self.status is not Status.PROCESSING

    @property
    def has_unknown_status(self) -> bool:
        """Whether Plaud used a status word that this version does not know."""
        return self.reported_status.strip().lower() not in WORDS

    @property
    def segment_count(self) -> int:
        """How many segments it has."""
        return len(self.segments)

    @property
    def speaker_count(self) -> int:
        """How many different speakers the segments name."""
        return len({segment.speaker for segment in self.segments if segment.speaker is not None})

    def _completed(self, method: str) -> Self:
        """Return itself, if there is something to export."""
        if self.status is Status.COMPLETED:
            return self
        raise PlaudInputError(
            f"{method}: transcription {self.transcription_id} is {self.status.value} and has no transcript. "
            "Export it once it is completed."
        )

    def to_srt(self) -> str:
        """
        Return the transcript as SubRip subtitles, for players and editors.

        Missing times, overlaps and long segments are handled as :mod:`.exports` says. A speaker is named
        where a segment begins. SRT has no escape for markup: a text that looks like it gets a word joiner
        (U+2060), which does not show, after each ``<`` and ``{``.

        :raises PlaudInputError: if it is not completed.
        """
        from plaud_provider.api import exports

        return exports.to_srt(self._completed("to_srt"))

    def to_vtt(self) -> str:
        """
        Return the transcript as WebVTT subtitles, for browsers; each has its speaker as its voice.

        Missing times, overlaps and long segments are handled as :mod:`.exports` says.

        :raises PlaudInputError: if it is not completed.
        """
        from plaud_provider.api import exports

        return exports.to_vtt(self._completed("to_vtt"))

    def to_text(self) -> str:
        """
        Return the transcript as text: a paragraph for each turn of a speaker, which begins with the name.

        :raises PlaudInputError: if it is not completed.
        """
        from plaud_provider.api import exports

        return exports.to_text(self._completed("to_text"))

    def to_markdown(self) -> str:
        """
        Return the transcript as Markdown: what is known of it, then a paragraph for each turn of a speaker.

        What was said is escaped: it is text, whatever it looks like.

        :raises PlaudInputError: if it is not completed.
        """
        from plaud_provider.api import exports

        return exports.to_markdown(self._completed("to_markdown"))

    def to_frame(self) -> DataFrame:
        """
        Return this transcription as a pandas frame of one row.

        Columns: ``transcription_id, status, language, duration_seconds, text, segment_count, speaker_count,
        error, created_at, completed_at``.
        """
        import pandas as pd

        return pd.DataFrame(
            {
                "transcription_id": [self.transcription_id],
                "status": [self.status.value],
                "language": [self.language],
                "duration_seconds": pd.Series([self.duration_seconds], dtype="float64"),
                "text": [self.text],
                "segment_count": [len(self.segments)],
                "speaker_count": [self.speaker_count],
                "error": [self.error],
                "created_at": pd.Series([self.created_at], dtype="datetime64[us, UTC]"),
                "completed_at": pd.Series([self.completed_at], dtype="datetime64[us, UTC]"),
            }
        )

    def segments_to_frame(self) -> DataFrame:
        """
        Return the segments as a pandas frame, one row each.

        Columns: ``transcription_id, segment_index, start_seconds, end_seconds, speaker, text, language``.
        """
        import pandas as pd

        return pd.DataFrame(
            {
                "transcription_id": [self.transcription_id] * len(self.segments),
                "segment_index": pd.Series([s.index for s in self.segments], dtype="int64"),
                "start_seconds": pd.Series([s.start_seconds for s in self.segments], dtype="float64"),
                "end_seconds": pd.Series([s.end_seconds for s in self.segments], dtype="float64"),
                "speaker": pd.Series([s.speaker for s in self.segments], dtype="object"),
                "text": pd.Series([s.text for s in self.segments], dtype="object"),
                "language": pd.Series([s.language for s in self.segments], dtype="object"),
            }
        )


#: What writes a transcription as a file, by the ending of its name; ``json`` is the answer itself.
EXPORTS: Mapping[str, Callable[[Transcription], str]] = {
    "srt": Transcription.to_srt,
    "vtt": Transcription.to_vtt,
    "txt": Transcription.to_text,
    "md": Transcription.to_markdown,
    "json": lambda transcription: transcription.raw,
}
