"""
What the API answers, parsed and validated.

Source: https://docs.plaud.ai (transcription API). What the contract leaves open is decided here and said in
the docstrings; nothing outside :mod:`plaud_provider.api` reads the wire format.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from plaud_provider.api.arguments import validate_transcription_id
from plaud_provider.exceptions import PlaudInputError, PlaudResponseError

if TYPE_CHECKING:
    from pandas import DataFrame

_URL_QUERY = r"(https?://[^\s\"'<>?]+)\?[^\s\"'<>]*"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_ERROR_CHARACTERS = 500


class Status(StrEnum):
    """Where a transcription stands."""

    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


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
    """

    index: int
    start_seconds: float | None
    end_seconds: float | None
    speaker: str | None
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Transcription:
    """
    A transcription as the API reports it. ``repr()`` leaves the text out, so that it never reaches a log.

    :param transcription_id: Plaud's id, ``txn_...``.
    :param status: Where it stands. A status word that this version does not know counts as ``processing``.
    :param reported_status: The status word as it came.
    :param text: The whole transcript; ``None`` until completed, or where Plaud returned none (silence).
    :param language: BCP-47 code, asked for or detected.
    :param duration_seconds: Length of the audio in seconds.
    :param segments: The transcript in stretches, in the API's order.
    :param error: Why it failed, without query strings of URLs and at most 500 characters.
    :param created_at: When it was submitted (UTC); only the answer to a submit has it.
    :param completed_at: When it was completed (UTC).
    :param raw: The answer itself as JSON text.
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

    @property
    def is_final(self) -> bool:
        """Whether Plaud will not change it any more."""
        return self.status is not Status.PROCESSING

    @property
    def has_unknown_status(self) -> bool:
        """Whether Plaud used a status word that this version does not know."""
        return self.reported_status not in tuple(Status)

    @property
    def speaker_count(self) -> int:
        """How many different speakers the segments name."""
        return len({segment.speaker for segment in self.segments if segment.speaker is not None})

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

        Columns: ``transcription_id, segment_index, start_seconds, end_seconds, speaker, text``.
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
            }
        )


def parse_json(body: bytes) -> dict[str, Any]:
    """
    Return a body's JSON object.

    :raises PlaudResponseError: if the body is not one. The body itself is never quoted.
    """
    try:
        # NaN, Infinity and what overflows to it are not numbers a warehouse takes; as null they do no harm.
        parsed = json.loads(body, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError):
        raise PlaudResponseError(
            f"Plaud's answer ({len(body)} bytes) is not valid JSON; it is not shown here as it may hold a "
            "transcript."
        ) from None
    if not isinstance(parsed, dict):
        raise PlaudResponseError(
            f"Plaud's answer is a JSON {type(parsed).__name__} where an object is expected."
        )
    return parsed


def parse_transcription(body: bytes, *, requested_id: str | None = None) -> Transcription:
    """
    Parse the answer to a result call.

    :param body: The response body.
    :param requested_id: The id that was asked for; an answer that names another one is refused.
    :raises PlaudResponseError: if the answer is not a transcription, or that of another one.
    """
    payload = parse_json(body)
    transcription_id = _transcription_id(payload.get("transcriptionId", requested_id))
    if requested_id is not None and transcription_id != requested_id:
        raise PlaudResponseError(
            f"Plaud answered with transcription {transcription_id} where {requested_id} was asked for."
        )
    reported = payload.get("status")
    if not isinstance(reported, str) or not reported:
        raise PlaudResponseError(f"Plaud's answer for transcription {transcription_id} has no status.")
    return Transcription(
        transcription_id=transcription_id,
        status=_status(reported),
        reported_status=_clean(reported)[:80],
        text=_text(payload.get("text")),
        language=_text(payload.get("language")),
        duration_seconds=_seconds(payload.get("duration")),
        segments=_segments(payload.get("segments"), transcription_id),
        error=_error(payload.get("error")) if _status(reported) is Status.FAILED else None,
        created_at=_time(payload.get("createdAt")),
        completed_at=_time(payload.get("completedAt")),
        raw=_dump(payload),
    )


def parse_submission(body: bytes) -> Transcription:
    """
    Parse the answer to a submit.

    Only its id matters: whatever else may be wrong with it, the recording is paid for, and an id that is
    thrown away cannot be looked up.

    :raises PlaudResponseError: if there is no usable id in it.
    """
    transcription_id = _transcription_id(parse_json(body).get("transcriptionId"))
    try:
        return parse_transcription(body)
    except PlaudResponseError:
        return Transcription(transcription_id, Status.PROCESSING, Status.PROCESSING.value)


def _transcription_id(value: object) -> str:
    try:
        return validate_transcription_id(value)
    except PlaudInputError:
        raise PlaudResponseError("Plaud's answer has no usable transcriptionId.") from None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _status(word: str) -> Status:
    try:
        return Status(word)
    except ValueError:
        return Status.PROCESSING


def _segments(value: object, transcription_id: str) -> tuple[Segment, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise PlaudResponseError(
            f"The segments of transcription {transcription_id} are not a list of objects."
        )
    return tuple(
        Segment(
            index=index,
            start_seconds=_seconds(item.get("start")),
            end_seconds=_seconds(item.get("end")),
            speaker=_text(item.get("speaker")),
            text=_text(item.get("text")) or "",
        )
        for index, item in enumerate(value)
    )


def _seconds(value: object) -> float | None:
    """Return a finite number of seconds >= 0; strings of digits count, everything else is unknown."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _time(value: object) -> datetime | None:
    """Return an ISO 8601 time in UTC; without an offset it is taken as UTC."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _text(value: object) -> str | None:
    if value is None or isinstance(value, (dict, list)):
        return None
    return _clean(value if isinstance(value, str) else str(value))


def _clean(text: str) -> str:
    """Replace lone surrogates, which JSON can carry but UTF-8 cannot; all else stays as it is."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def _error(value: object) -> str:
    """Return the error as one line; its inner shape is not documented, so take a string or an object."""
    if isinstance(value, Mapping):
        parts = [str(value[key]) for key in ("code", "message", "reason", "detail") if value.get(key)]
        text = ": ".join(parts) or json.dumps(value, default=str)
    else:
        text = "" if value is None else str(value)
    text = re.sub(_URL_QUERY, r"\1?<query removed>", _clean(" ".join(text.split())), flags=re.IGNORECASE)
    return text[:MAX_ERROR_CHARACTERS] or "no reason given"


def _dump(payload: dict[str, Any]) -> str:
    return _clean(json.dumps(payload, ensure_ascii=False, separators=(",", ":")))
