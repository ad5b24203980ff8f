"""
From an answer to what it says: one tolerant reader, for the words of all of Plaud's pages.

What is paid for must survive an answer that is spelled otherwise than documented, or that has one flaw. What
can be read is read; what cannot is told by the name of its key, never by its value.

==================  ==================================================================================
value               names, the documented one first
==================  ==================================================================================
id                  ``transcriptionId``, ``task_id``, ``job_id``, ``id``; a string without control
                    characters, or a whole number
status              ``task_status``, ``status``, ``state``, the innermost first; in any letter case, see
                    :data:`.models.WORDS`
text                ``text``, ``transcript``
language            ``language``
duration            ``duration``, ``duration_seconds``
segments            ``segments``, ``results``, or a list of them as ``data``; what is no object in the list
                    is left out
of a segment        ``start``, ``start_time``; ``end``, ``end_time``; ``speaker``, ``speaker_id``;
                    ``text``; ``language``
error               ``error``, ``detail``, ``message``, ``reason``, ``errors``, ``msg``, ``error_message``,
                    ``fail_reason``; text, object or list; ``code``
created             ``createdAt``
completed           ``completedAt``
model               ``model``
==================  ==================================================================================

Names count in any letter case, with underscores or without: ``transcription_id`` is ``TranscriptionId``. Each
may also stand below ``data``, ``result`` and the like (:data:`_WRAPPERS`), which is an object, a list of one,
or either as JSON text. Where a name is there and empty, the next one is read. The id of a submit counts below
any other name, too.

Bytes that are not UTF-8 become U+FFFD; numbers that no warehouse takes (NaN, Infinity, more than 4,300
digits) are unknown. Keys that are not known here are warned about once per process, by name; status words
once in a wait (:mod:`.waiting`).
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from plaud_provider.api.arguments import as_transcription_id
from plaud_provider.api.json_text import clean, decoded, parsed, written
from plaud_provider.api.models import WORDS, Segment, Status, Transcription
from plaud_provider.api.redaction import redact, without_secrets
from plaud_provider.exceptions import PlaudResponseError

log = logging.getLogger(__name__)

MAX_ERROR_CHARACTERS = 500
#: Larger answers are parsed in a thread by the asynchronous hook. No refusal and no token is as large.
LARGE_BYTES = 256 * 1024

# In plain letters, see _plain(). Where the answer says whose it is; the others may name something else.
_NAMING = ("transcriptionid",)
_ID = (*_NAMING, "taskid", "jobid", "id")
_STATUS = ("taskstatus", "status", "state")
_TEXT = ("text", "transcript")
_LANGUAGE = ("language",)
_DURATION = ("duration", "durationseconds")
_SEGMENTS = ("segments", "results")
_START = ("start", "starttime")
_END = ("end", "endtime")
_SPEAKER = ("speaker", "speakerid")
#: Which errors say by themselves that something is wrong; a ``message`` may also be a friendly one.
_REFUSING = ("error", "detail", "errors")
_ERROR = ("error", "detail", "message", "reason", "errors", "msg", "errormessage", "failreason")
_CODE = ("code", "errorcode")
_CODES_OF_SUCCESS = frozenset(("", "0", "200", "201", "202", "ok", "success", "none"))
#: What an answer may be wrapped in, also twice.
_WRAPPERS = ("data", "result", "results", "transcription", "task", "response", "output")
#: Objects that are looked at in one answer.
_MOST_PLACES = 8
_CREATED = ("createdat",)
_MODEL = ("model",)
_COMPLETED = ("completedat",)
_KNOWN_KEYS = frozenset(
    (
        *(*_ID, *_STATUS, *_TEXT, *_LANGUAGE, *_DURATION, *_SEGMENTS, *_CREATED, *_COMPLETED, *_MODEL),
        *(*_ERROR, *_CODE, *_WRAPPERS, "embeddings", "audiourl", "webhookurl", "speakerdiarization"),
    )
)
_KNOWN_SEGMENT_KEYS = frozenset(
    [*_START, *_END, *_SPEAKER, *_TEXT, "language", "languageprobability", "languageprobabilitiy", "id"]
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")
#: The id in the answer to a submit that is cut off, or wraps it in something unknown.
_NAMED_ID = re.compile(
    r"""\\*["']transcription[_-]?id\\*["']\s*[:=]\s*(?:\\*["']([^"'\\]+)\\*["']|(\d+)\s*[,}\]])""",
    re.IGNORECASE,
)
_warned: set[str] = set()


def parse_json(body: bytes) -> dict[str, Any]:
    """
    Return a body's JSON object.

    :raises PlaudResponseError: if the body is not one. The body itself is never quoted.
    """
    return _object(decoded(body))


def _object(text: str) -> dict[str, Any]:
    try:
        payload = _unwrapped(parsed(text))
    except (ValueError, RecursionError):
        raise PlaudResponseError(
            f"Plaud's answer ({len(text)} characters) is not valid JSON; it is not shown here as it may hold "
            "a transcript."
        ) from None
    if not isinstance(payload, dict):
        raise PlaudResponseError(
            f"Plaud's answer is a JSON {type(payload).__name__} where an object is expected."
        )
    return payload


def _unwrapped(value: object) -> object:
    """Return the object that a list of one, or a JSON text, holds; all else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = parsed(value)
        except (ValueError, RecursionError):
            return value
    if isinstance(value, list) and len(value) == 1 and not _are_segments(value):
        [value] = value
    return value


@lru_cache(maxsize=1024)
def _plain(name: str) -> str:
    """Return a name in lower case and without underscores: of ``FileId`` and ``file_id`` the same."""
    return name.replace("_", "").lower()


def _by_plain_name(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object's members by their plain names; of two that are the same, the one that is said."""
    plain: dict[str, Any] = {}
    for name, value in members.items():
        known = _plain(name)
        if known not in plain or not _is_said(plain[known]):
            plain[known] = value
    return plain


def parse_transcription(body: bytes, *, requested_id: str | None = None) -> Transcription:
    """
    Parse the answer to a result call.

    :param body: The response body.
    :param requested_id: The id that was asked for; an answer that names another one is refused.
    :raises PlaudResponseError: if the answer is not a transcription, or that of another one.
    """
    text = decoded(body)
    # A long transcript is in memory often enough.
    del body
    payload = _object(text)
    places, names = _walk(payload)
    if requested_id is None:
        return _transcription(payload, places, names, _usable_id(places), text)
    named = _first(places, _NAMING)
    if named is not None and str(named) != requested_id:
        raise PlaudResponseError(
            f"Plaud answered with transcription {_shown(named)} where {requested_id} was asked for."
        )
    return _transcription(payload, places, names, requested_id, text)


def parse_submission(body: bytes, *, must_be_named: bool = False) -> Transcription:
    """
    Parse the answer to a submit.

    Only its id matters: whatever else may be wrong with it, the recording is paid for, and an id that is
    thrown away cannot be looked up.

    :param must_be_named: Whether only what is called a transcription's id counts as one.
    :raises PlaudResponseError: if there is no usable id in it; what stands in its place is quoted.
    """
    text = decoded(body)
    found = (match[match.lastindex or 0] for match in _NAMED_ID.finditer(text))
    try:
        payload = _object(text)
    except PlaudResponseError as malformed:
        # For people: what is cut off, or not Plaud's, is not relied upon.
        there = next((f" It names {known!r}." for known in found if _is_usable_id(known)), "")
        raise PlaudResponseError(f"{malformed}{there}") from None
    places, names = _walk(payload)
    try:
        transcription_id = _usable_id(places, _NAMING if must_be_named else _ID)
    except PlaudResponseError:
        usable = next(filter(_is_usable_id, found), None)
        if usable is None:
            raise
        return Transcription(usable, Status.PROCESSING, Status.PROCESSING.value)
    try:
        return _transcription(payload, places, names, transcription_id)
    except PlaudResponseError:
        return Transcription(transcription_id, Status.PROCESSING, Status.PROCESSING.value)


def transcription_id_in(event: Mapping[str, Any]) -> str | None:
    """
    Return the id of the transcription that a webhook's event is about; ``None`` if it names none.

    :param event: The event; what it is about stands below ``data``, where its own id does not.
    """
    try:
        return _usable_id(places_in(event)[::-1])
    except PlaudResponseError:
        return None


def refusal(body: bytes) -> str:
    """
    Return the reason, if an answer says nothing but that something is wrong; else an empty text.

    Such an answer is a refusal whatever its HTTP status: ``{"detail": "CLIENT_NOT_FOUND"}``. A ``message``
    alone is none, and what has an id, a status or a result is none either: it may have been paid for.
    """
    if len(body) > LARGE_BYTES:
        return ""
    try:
        payload = parse_json(body)
    except PlaudResponseError:
        return ""
    places = places_in(payload)
    is_named = any(_is_said(place.get(n)) for place in places for n in (*_ID, *_TEXT, *_SEGMENTS))
    # A status that is a number is that of HTTP.
    if is_named or _status_word(places) is not None:
        return ""
    is_refused = any(_is_said(place.get(name)) for place in places for name in _REFUSING) or (
        str(_first(places[:1], _CODE) or "").strip().lower() not in _CODES_OF_SUCCESS
    )
    return _error(places) if is_refused else ""


def _transcription(
    payload: dict[str, Any],
    places: Sequence[Mapping[str, Any]],
    names: Iterable[str],
    transcription_id: str,
    text: str = "",
) -> Transcription:
    """Read all but the id; ``text`` is what the payload was parsed from, the rest from :func:`_walk`."""
    reported = _status_word(places)
    if reported is None:
        raise PlaudResponseError(f"Plaud's answer for transcription {transcription_id} has no status.")
    status = WORDS.get(reported.lower(), Status.PROCESSING)
    _warn_of_unknown("keys", names, _KNOWN_KEYS)
    # First of all, as the segments are used up.
    redact(payload, transcripts=_TEXT, errors=_ERROR)
    raw = written(payload, text)
    return Transcription(
        transcription_id=transcription_id,
        status=status,
        reported_status=_shown_word(reported),
        text=_text(_first(places, _TEXT)),
        language=_text(_first(places, _LANGUAGE)),
        duration_seconds=_seconds(_first(places, _DURATION)),
        segments=_segments(_listed_segments(places), transcription_id),
        error=_error(places) if status is Status.FAILED else None,
        created_at=_time(_first(places, _CREATED)),
        completed_at=_time(_first(places, _COMPLETED)),
        raw=raw,
        model=_text(_first(places, _MODEL)),
    )


def _status_word(places: Sequence[Mapping[str, Any]]) -> str | None:
    """
    Return the word that says where a transcription stands, if there is one.

    An answer may also have one about itself, around it: the most particular that is known counts, so that
    what is still in progress is not taken for an empty transcript.
    """
    words = [
        word.strip()
        for name in _STATUS
        for place in reversed(places)
        if isinstance(word := place.get(name), str) and word.strip()
    ]
    return next((word for word in words if word.lower() in WORDS), words[0] if words else None)


def places_in(payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return where values may stand, by plain names: the answer, and what is wrapped in it, inwards."""
    return _walk(payload)[0]


def _walk(payload: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Return :func:`places_in` an answer, and the names there as they are spelled."""
    objects: list[Mapping[str, Any]] = [payload]
    places: list[Mapping[str, Any]] = []
    for members in objects:
        plain = _by_plain_name(members)
        places.append(plain)
        inner = (_unwrapped(plain[name]) for name in _WRAPPERS if name in plain)
        objects += [one for one in inner if isinstance(one, dict)][: _MOST_PLACES - len(objects)]
    return places, [name for members in objects for name in members]


def _are_segments(value: object) -> bool:
    """Whether a list is one of segments: what else an answer may hold has neither beginning nor end."""
    return isinstance(value, list) and any(
        isinstance(one, dict) and not {*_START, *_END}.isdisjoint(map(_plain, one)) for one in value[:20]
    )


def _listed_segments(places: Sequence[Mapping[str, Any]]) -> Any:
    """Return the segments of an answer, or what stands in their place."""
    found = [_listed(place[name]) for place in places for name in _SEGMENTS if place.get(name) is not None]
    found += [place["data"] for place in places if _are_segments(place.get("data"))]
    lists = [value for value in found if isinstance(value, list)]
    return next((value for value in (*lists, *found) if value), lists[0] if lists else None)


def _listed(value: object) -> object:
    """Return the list that a JSON text holds; all else as it is."""
    return _unwrapped(value) if isinstance(value, str) else value


def _first(places: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Any:
    """Return the first value that is there, by place and by the order of its spellings; a full one if any."""
    found = [place[name] for place in places for name in names if place.get(name) is not None]
    return next((value for value in found if _is_said(value)), found[0] if found else None)


def _is_said(value: object) -> bool:
    return value is not None and value is not False and value != "" and value != [] and value != {}


def _usable_id(places: Sequence[Mapping[str, Any]], names: Sequence[str] = _ID) -> str:
    found = [_named(place[name]) for name in names for place in places if place.get(name) is not None]
    for named in found:
        if _is_usable_id(named):
            return str(named)
    shown = found[0] if found else None
    is_shown = shown != "" and isinstance(shown, (str, int, float)) and not isinstance(shown, bool)
    there = f": it has {_shown(shown)!r}" if is_shown else ""
    raise PlaudResponseError(f"Plaud's answer has no usable transcriptionId{there}.")


def _is_usable_id(value: object) -> bool:
    transcription_id = as_transcription_id(value)
    # A link with a signature in it would be shown wherever an id is.
    return transcription_id is not None and without_secrets(transcription_id) == transcription_id


def _named(value: object) -> object:
    """Return an id that stands in an object or a list by itself."""
    value = _unwrapped(value)
    return _first([_by_plain_name(value)], _ID) if isinstance(value, dict) else value


def _shown(value: object) -> str:
    """Return what stands in the place of an id as it may be shown in a message."""
    return without_secrets(clean(str(value)))[:200]


def _warn_of_unknown(what: str, names: Iterable[str], known: AbstractSet[str]) -> None:
    # A name that is no name may be anything, even text.
    new = {name for name in names if _plain(name) not in known and _NAME.fullmatch(name)} - _warned
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


def _segments(value: object, transcription_id: str) -> tuple[Segment, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise PlaudResponseError(f"The segments of transcription {transcription_id} are not a list.")
    _warn_of_unknown(
        "keys of segments",
        (name for item in value[:20] if isinstance(item, dict) for name in item),
        _KNOWN_SEGMENT_KEYS,
    )
    return tuple(_used_up(value))


def _used_up(items: list[Any]) -> Iterator[Segment]:
    """Yield segments, and forget what they are made of: it takes more memory than they do."""
    index = 0
    # A long transcript names the same few speakers and languages a hundred thousand times.
    same: dict[str | None, str | None] = {}
    for place, item in enumerate(items):
        if isinstance(item, dict):
            members = [_by_plain_name(item)]
            speaker, language = _speaker(_first(members, _SPEAKER)), _text(_first(members, _LANGUAGE))
            yield Segment(
                index=index,
                start_seconds=_seconds(_first(members, _START)),
                end_seconds=_seconds(_first(members, _END)),
                speaker=same.setdefault(speaker, speaker),
                text=_text(_first(members, _TEXT)) or "",
                language=same.setdefault(language, language),
            )
            index += 1
        items[place] = None


def _speaker(value: object) -> str | None:
    """Return a speaker's label, also of an object that has one."""
    if isinstance(value, dict):
        value = _first([_by_plain_name(value)], ("label", "name", *_SPEAKER, "id"))
    return _text(value)


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
    return clean(value if isinstance(value, str) else str(value))


def _error(places: Sequence[Mapping[str, Any]]) -> str:
    """Return the error as one line; its inner shape is not documented, so take text, an object or a list."""
    said = (_words(place.get(name)) for place in places for name in _ERROR)
    # Around it may stand that the request was a success.
    text = next((words for words in said if words.lower() not in _CODES_OF_SUCCESS), "")
    code = str(_first(places, _CODE) or "")
    if code.strip().lower() not in _CODES_OF_SUCCESS and code not in text:
        text = f"{code}: {text}" if text else code
    text = without_secrets(clean(" ".join(text.split())))
    return text[:MAX_ERROR_CHARACTERS] or "no reason given"


def _words(error: object, depth: int = 0) -> str:
    """Return what an error says; of an object its known members, of a list (FastAPI) what each one says."""
    if error is None or isinstance(error, bool) or depth > 4:
        return ""
    if isinstance(error, list):
        return "; ".join(filter(None, (_words(one, depth + 1) for one in error[:10])))
    if isinstance(error, Mapping):
        members = _by_plain_name(error)
        names = ("code", "message", "msg", "reason", "detail", "error", "errors")
        said = filter(None, (_words(members.get(name), depth + 1) for name in names))
        return ": ".join(said) or (json.dumps(error, default=str) if error else "")
    return str(error)
