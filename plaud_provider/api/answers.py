"""
From an answer to what it says: one tolerant reader, for the words of all of Plaud's pages.

What is paid for must survive an answer that is spelled otherwise than documented, or that has one flaw. What
can be read is read; what cannot is told by the name of its key, never by its value.

==================  ==================================================================================
value               spellings, the documented one first; also below ``data``
==================  ==================================================================================
id                  ``transcriptionId``, ``transcription_id``, ``task_id``, ``taskId``, ``id``; a string
                    without control characters, or a whole number
status              ``status``, ``task_status``, ``taskStatus``; in any letter case, see :data:`.models.WORDS`
text                ``text``, ``transcript``
language            ``language``
duration            ``duration``, ``duration_seconds``
segments            ``segments``, ``results``; what is no object in the list is left out
of a segment        ``start``, ``start_time``; ``end``, ``end_time``; ``speaker``, ``speaker_id``,
                    ``speakerId``; ``text``
error               ``error``, ``detail``, ``message``, ``reason``
created             ``createdAt``, ``created_at``
completed           ``completedAt``, ``completed_at``
==================  ==================================================================================

Bytes that are not UTF-8 become U+FFFD; numbers that no warehouse takes (NaN, Infinity, more than 4,300
digits) are unknown. Keys that are not known here are warned about once per process, by name; status words
once in a wait (:mod:`.waiting`).
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from plaud_provider.api.arguments import as_transcription_id
from plaud_provider.api.models import WORDS, Segment, Status, Transcription
from plaud_provider.api.redaction import redact, without_secrets
from plaud_provider.exceptions import PlaudResponseError

log = logging.getLogger(__name__)

MAX_ERROR_CHARACTERS = 500
#: Larger answers are parsed in a thread by the asynchronous hook. No refusal and no token is as large.
LARGE_BYTES = 256 * 1024

# Where the answer says whose it is; the others may name something else.
_NAMING = ("transcriptionId", "transcription_id")
_ID = (*_NAMING, "task_id", "taskId", "id")
_STATUS = ("status", "task_status", "taskStatus")
_TEXT = ("text", "transcript")
_LANGUAGE = ("language",)
_DURATION = ("duration", "duration_seconds")
_SEGMENTS = ("segments", "results")
_START = ("start", "start_time")
_END = ("end", "end_time")
_SPEAKER = ("speaker", "speaker_id", "speakerId")
_ERROR = ("error", "detail", "message", "reason")
_CREATED = ("createdAt", "created_at")
_COMPLETED = ("completedAt", "completed_at")
_KNOWN_KEYS = frozenset(
    (
        *(*_ID, *_STATUS, *_TEXT, *_LANGUAGE, *_DURATION, *_SEGMENTS, *_ERROR, *_CREATED, *_COMPLETED),
        *("data", "embeddings", "audioUrl", "webhookUrl", "speakerDiarization"),
    )
)
_KNOWN_SEGMENT_KEYS = frozenset(
    [*_START, *_END, *_SPEAKER, *_TEXT, "language", "language_probability", "language_probabilitiy", "id"]
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_warned: set[str] = set()


def parse_json(body: bytes) -> dict[str, Any]:
    """
    Return a body's JSON object.

    :raises PlaudResponseError: if the body is not one. The body itself is never quoted.
    """
    try:
        # As json.loads does for bytes; what is not of that encoding is replaced.
        text = body.decode(json.detect_encoding(body), "replace")
        # As null they do no harm.
        parsed = json.loads(text, parse_constant=lambda _: None, parse_float=_finite, parse_int=_whole)
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
    places = _places(payload)
    if requested_id is None:
        return _transcription(payload, places, _usable_id(places))
    named = _first(places, _NAMING)
    if named is not None and str(named) != requested_id:
        raise PlaudResponseError(
            f"Plaud answered with transcription {_shown(named)} where {requested_id} was asked for."
        )
    return _transcription(payload, places, requested_id)


def parse_submission(body: bytes) -> Transcription:
    """
    Parse the answer to a submit.

    Only its id matters: whatever else may be wrong with it, the recording is paid for, and an id that is
    thrown away cannot be looked up.

    :raises PlaudResponseError: if there is no usable id in it; what stands in its place is quoted.
    """
    payload = parse_json(body)
    places = _places(payload)
    transcription_id = _usable_id(places)
    try:
        return _transcription(payload, places, transcription_id)
    except PlaudResponseError:
        return Transcription(transcription_id, Status.PROCESSING, Status.PROCESSING.value)


def transcription_id_in(event: Mapping[str, Any]) -> str | None:
    """
    Return the id of the transcription that a webhook's event is about; ``None`` if it names none.

    :param event: The event; what it is about stands below ``data``, where its own id does not.
    """
    try:
        return _usable_id(_places(event)[::-1])
    except PlaudResponseError:
        return None


def _transcription(
    payload: dict[str, Any], places: Sequence[Mapping[str, Any]], transcription_id: str
) -> Transcription:
    """Read all but the id."""
    reported = _first(places, _STATUS)
    if not isinstance(reported, str) or not reported.strip():
        raise PlaudResponseError(f"Plaud's answer for transcription {transcription_id} has no status.")
    status = WORDS.get(reported.strip().lower(), Status.PROCESSING)
    _warn_of_unknown("keys", {name for place in places for name in place} - _KNOWN_KEYS)
    return Transcription(
        transcription_id=transcription_id,
        status=status,
        reported_status=_shown_word(reported),
        text=_text(_first(places, _TEXT)),
        language=_text(_first(places, _LANGUAGE)),
        duration_seconds=_seconds(_first(places, _DURATION)),
        segments=_segments(_first(places, _SEGMENTS), transcription_id),
        error=_error(places) if status is Status.FAILED else None,
        created_at=_time(_first(places, _CREATED)),
        completed_at=_time(_first(places, _COMPLETED)),
        raw=_dump(payload),
    )


def _places(payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return where values may stand: the answer itself, and what is below ``data``."""
    data = payload.get("data")
    return [payload, data] if isinstance(data, dict) else [payload]


def _first(places: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Any:
    """Return the first value that is there, by the order of its spellings."""
    for place in places:
        for name in names:
            if place.get(name) is not None:
                return place[name]
    return None


def _usable_id(places: Sequence[Mapping[str, Any]]) -> str:
    named = _first(places, _ID)
    transcription_id = as_transcription_id(named)
    # A link with a signature in it would be shown wherever an id is.
    if transcription_id is not None and without_secrets(transcription_id) == transcription_id:
        return transcription_id
    is_shown = named != "" and isinstance(named, (str, int, float)) and not isinstance(named, bool)
    there = f": it has {_shown(named)!r}" if is_shown else ""
    raise PlaudResponseError(f"Plaud's answer has no usable transcriptionId{there}.")


def _shown(value: object) -> str:
    """Return what stands in the place of an id as it may be shown in a message."""
    return without_secrets(_clean(str(value)))[:200]


def _warn_of_unknown(what: str, names: set[str]) -> None:
    # A name that is no name may be anything, even text.
    new = {name for name in names if _NAME.fullmatch(name)} - _warned
    if new:
        _warned.update(new)
        log.warning(
            "Plaud's answers have %s that this version does not know, and leaves out: %s.",
            what,
            ", ".join(sorted(new)),
        )


def _shown_word(reported: str) -> str:
    """Return a status word as it may be logged: what is no word may be anything, even text."""
    word = reported.strip()
    return word[:80] if re.fullmatch(r"[\w.-]+", word, re.ASCII) else "(not a word)"


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _whole(digits: str) -> int | None:
    try:
        return int(digits)
    except ValueError:
        # Python reads no more than 4,300.
        return None


def _segments(value: object, transcription_id: str) -> tuple[Segment, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise PlaudResponseError(f"The segments of transcription {transcription_id} are not a list.")
    items = [item for item in value if isinstance(item, dict)]
    _warn_of_unknown("keys of segments", {name for item in items[:20] for name in item} - _KNOWN_SEGMENT_KEYS)
    return tuple(
        Segment(
            index=index,
            start_seconds=_seconds(_first([item], _START)),
            end_seconds=_seconds(_first([item], _END)),
            speaker=_text(_first([item], _SPEAKER)),
            text=_text(_first([item], _TEXT)) or "",
        )
        for index, item in enumerate(items)
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
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)


def _error(places: Sequence[Mapping[str, Any]]) -> str:
    """Return the error as one line; its inner shape is not documented, so take a string or an object."""
    value = _first(places, _ERROR)
    if isinstance(value, Mapping):
        parts = [str(value[key]) for key in ("code", "message", "reason", "detail") if value.get(key)]
        text = ": ".join(parts) or json.dumps(value, default=str)
    else:
        text = "" if value is None else str(value)
    text = without_secrets(_clean(" ".join(text.split())))
    return text[:MAX_ERROR_CHARACTERS] or "no reason given"


def _dump(payload: dict[str, Any]) -> str:
    """Return a payload as JSON, without secrets in its keys and texts; transcripts stay as they are."""
    redact(payload, transcripts=_TEXT, errors=_ERROR)
    return _clean("".join(_pieces(payload)))


def _pieces(answer: Mapping[str, Any]) -> Iterator[str]:
    """
    Encode an answer as JSON, a thousand segments at a time.

    Encoding 23 MB at once keeps all other threads from running for a quarter of a second, the event loop's
    too. Parsing does not, as it calls back for each number.
    """
    before = "{"
    for name, value in answer.items():
        yield f"{before}{_encode(name)}:"
        before = ","
        if isinstance(value, list) and value:
            for start in range(0, len(value), 1000):
                yield f"{',' if start else '['}{_encode(value[start : start + 1000])[1:-1]}"
            yield "]"
        elif name == "data" and isinstance(value, dict) and value:
            yield from _pieces(value)
        else:
            yield _encode(value)
    yield "}" if answer else "{}"


def _encode(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
