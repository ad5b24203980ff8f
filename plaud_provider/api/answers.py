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
                    :data:`.models.WORDS`, and :func:`_status` for where no word is known
text                ``text``, ``transcript``
language            ``language``
duration            ``duration``, ``duration_seconds``
segments            ``segments``, ``results``, or a list of them as ``data`` or where the text is to be;
                    see :mod:`.segments`
error               ``error``, ``detail``, ``message``, ``reason``, ``errors``, ``msg``, ``error_message``,
                    ``fail_reason``; text, object or list; ``code``; see :mod:`.reasons`
created, completed  ``createdAt``, ``completedAt``; ISO 8601, as in HTTP, or since 1970 in seconds, ms or µs
model               ``model``
==================  ==================================================================================

Names count in any letter case, with underscores or without: ``transcription_id`` is ``TranscriptionId``. Each
may also stand below ``data``, ``result`` and the like (:data:`_WRAPPERS`), which is an object, a list of one,
or either as JSON text. Where a name is there and empty, the next one is read. Where what is completed has no
transcript by these names, one is read below any other name. The id of a submit counts below any other name,
too, in what is cut off, or as ``data`` itself; one of a documented form (``txn_1``) wherever it stands.
Whatever stands around the JSON is left out; of several
objects the last one counts that has an id or a status.

Bytes that are not UTF-8 become U+FFFD; numbers that no warehouse takes (NaN, Infinity, more than 4,300
digits) are unknown. Keys that are not known here are warned about once per process, by name; status words
once in a wait (:mod:`.waiting`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from plaud_provider.api import reasons, segments
from plaud_provider.api.arguments import as_transcription_id
from plaud_provider.api.json_text import clean, decoded, objects_in, parsed, written
from plaud_provider.api.members import as_seconds, as_text, as_time, by_plain_name, first, is_said, plain
from plaud_provider.api.models import WORDS, Segment, Status, Transcription
from plaud_provider.api.redaction import redact, without_secrets
from plaud_provider.exceptions import PlaudResponseError

log = logging.getLogger(__name__)

#: Larger answers are parsed in a thread by the asynchronous hook. No refusal and no token is as large.
LARGE_BYTES = 256 * 1024

# By plain names, see members.py. Where the answer says whose it is; the others may name something else.
_NAMING = ("transcriptionid",)
_ID = (*_NAMING, "taskid", "jobid", "id")
_STATUS = ("taskstatus", "status", "state")
_DURATION = ("duration", "durationseconds")
_SEGMENTS = ("segments", "results")
#: What an answer may be wrapped in, also twice.
_WRAPPERS = ("data", "result", "results", "transcription", "transcript", "task", "response", "output")
#: Objects that are looked at in one answer.
_MOST_PLACES = 8
#: Values of an answer among which a transcript is looked for that has none of the names above.
_MOST_VALUES = 200
#: What an answer about a transcription has.
_TELLING = frozenset((*_ID, *_STATUS))
_CREATED = ("createdat",)
_MODEL = ("model",)
_COMPLETED = ("completedat",)
_KNOWN_KEYS = frozenset(
    (
        *(*_ID, *_STATUS, *segments.TEXT, *segments.LANGUAGE, *_DURATION, *_SEGMENTS, *_MODEL),
        *(*_CREATED, *_COMPLETED, *reasons.NAMES, *reasons.CODES, *_WRAPPERS),
        *("success", "embeddings", "audiourl", "webhookurl", "speakerdiarization"),
    )
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")
#: The id in the answer to a submit that is cut off, or has it in something unknown.
_NAMED_ID = re.compile(
    r"""\\*["']transcription[_-]?id\\*["']\s*[:=]\s*(?:\\*["']([^"'\\]+)\\*["']|(\d+)\s*[,}\]])""",
    re.IGNORECASE,
)
#: What may be an id although nothing calls it one: no word, which would say how it went.
_BARE_ID = re.compile(r"(?=.*\d)[\w.:-]{6,}", re.ASCII)
#: An id of the forms that Plaud's pages show: wherever one stands, and no other, that is what was made. What
#: follows it says that it is whole.
_DOCUMENTED_ID = re.compile(r"(?<![\w-])(?:txn|task_exec)_[\w-]*\d[\w-]*(?=[^\w.:=-])", re.ASCII)
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


def _particular_object(text: str) -> dict[str, Any]:
    """Return the object that is about a transcription, whatever stands around it or beside it."""
    try:
        return _object(text)
    except PlaudResponseError:
        if _is_page(text):
            raise
        about = [one for one in objects_in(text) if any(plain(name) in _TELLING for name in one)]
        if not about:
            raise
        return about[-1]


def _is_page(text: str) -> bool:
    """Whether it is a page for people, which may have an example in it."""
    return text.lstrip()[:1] == "<"


def _unwrapped(value: object) -> object:
    """Return the object that a list of one, or a JSON text, holds; all else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = parsed(value)
        except (ValueError, RecursionError):
            return value
    if isinstance(value, list) and len(value) == 1 and not segments.are_segments(value):
        [value] = value
    return value


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
    payload = _particular_object(text)
    places, names = _walk(payload)
    if requested_id is None:
        return _transcription(payload, places, names, _usable_id(places), text)
    for named in (_named(place[name]) for place in places for name in _NAMING if name in place):
        if is_said(named) and str(named) != requested_id:
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
    try:
        payload = _particular_object(text)
        places, names = _walk(payload)
        transcription_id = _usable_id(places, _NAMING if must_be_named else _ID)
    except PlaudResponseError:
        found = {match[match.lastindex or 0] for match in _NAMED_ID.finditer(text)}
        usable = set(filter(_is_usable_id, found))
        if not usable and not must_be_named:
            usable = set(_DOCUMENTED_ID.findall(text))
        if len(usable) != 1 or _is_page(text):
            raise
        return Transcription(usable.pop(), Status.PROCESSING, Status.PROCESSING.value)
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
    is_named = any(is_said(place.get(n)) for place in places for n in (*_ID, *segments.TEXT, *_SEGMENTS))
    # A status that is a number is that of HTTP.
    if is_named or _status_word(places) is not None:
        return ""
    return reasons.reason(places) if reasons.is_refused(places) else ""


def meant_status(status: int, body: bytes) -> int:
    """
    Return the HTTP status that an answer means.

    A gateway may answer 200 to everything, and say inside that it is busy or broken: that passes, and is no
    refusal of what was asked for.
    """
    if not 200 <= status < 300 or not refusal(body):
        return status
    said = str(first(places_in(parse_json(body))[:1], (*reasons.CODES, *_STATUS)))
    return int(said) if re.fullmatch("408|425|429|5[0-9][0-9]", said) else status


def _transcription(
    payload: dict[str, Any],
    places: Sequence[Mapping[str, Any]],
    names: Iterable[str],
    transcription_id: str,
    text: str = "",
) -> Transcription:
    """Read all but the id; ``text`` is what the payload was parsed from, the rest from :func:`_walk`."""
    reported = _status_word(places) or ""
    status = _status(reported, places)
    if status is None:
        raise PlaudResponseError(f"Plaud's answer for transcription {transcription_id} has no status.")
    _warn_of_unknown("keys", names, _KNOWN_KEYS)
    if status is Status.COMPLETED and not _has_transcript(places):
        places = [*places, *_unnamed_transcript(payload)]
    # First of all, as the segments are used up.
    redact(payload, transcripts=segments.TEXT, errors=reasons.NAMES)
    raw = written(payload, text)
    return Transcription(
        transcription_id=transcription_id,
        status=status,
        reported_status=_shown_word(reported),
        text=_text(places),
        language=as_text(first(places, segments.LANGUAGE)),
        duration_seconds=as_seconds(first(places, _DURATION)),
        segments=_segments(places, transcription_id),
        error=reasons.reason(places) if status is Status.FAILED else None,
        created_at=as_time(first(places, _CREATED)),
        completed_at=as_time(first(places, _COMPLETED)),
        raw=raw,
        model=as_text(first(places, _MODEL)),
    )


def _status(reported: str, places: Sequence[Mapping[str, Any]]) -> Status | None:
    """
    Return where a transcription stands; ``None`` if the answer does not say it.

    By its word, if that is known; else a transcript is completed, if it has the time of that or nothing says
    anything else.
    """
    if (known := WORDS.get(reported.lower())) is not None:
        return known
    if _has_transcript(places) and (not reported or as_time(first(places, _COMPLETED)) is not None):
        return Status.COMPLETED
    return Status.PROCESSING if reported else None


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
        known = by_plain_name(members)
        places.append(known)
        inner = (_unwrapped(known[name]) for name in _WRAPPERS if name in known)
        objects += [one for one in inner if isinstance(one, dict)][: _MOST_PLACES - len(objects)]
    return places, [name for members in objects for name in members]


def _unnamed_transcript(payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return where the transcript of an answer may stand that has none where one is looked for."""
    found: list[object] = [payload]
    for one in found:
        inner: Iterable[object] = ()
        if isinstance(one, dict):
            inner = one.values()
        elif isinstance(one, list) and not segments.are_segments(one):
            inner = one
        found += [_unwrapped(value) for value in inner][: _MOST_VALUES - len(found)]
    objects = [by_plain_name(one) for one in found if isinstance(one, dict)]
    return [*objects, *({"segments": one} for one in found if segments.are_segments(one))]


def _has_transcript(places: Sequence[Mapping[str, Any]]) -> bool:
    return bool(_text(places)) or bool(_listed_segments(places))


def _text(places: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the text of a transcript; what else stands in its place, as its segments, is none."""
    texts = [as_text(place.get(name)) for place in places for name in segments.TEXT]
    return max((text for text in texts if text is not None), key=bool, default=None)


def _listed_segments(places: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the segments of an answer as they are in it; none, if something else is in their place."""
    found = [_listed(place[name]) for place in places for name in _SEGMENTS if place.get(name) is not None]
    found += [
        value
        for place in places
        for name in ("data", *segments.TEXT)
        if segments.are_segments(value := place.get(name))
    ]
    return next((value for value in found if isinstance(value, list) and value), [])


def _listed(value: object) -> object:
    """Return the list that a JSON text, or an object of segments, holds; all else as it is."""
    if isinstance(value, str):
        value = _unwrapped(value)
    if isinstance(value, dict) and segments.are_segments(listed := list(value.values())):
        return listed
    return value


def _usable_id(places: Sequence[Mapping[str, Any]], names: Sequence[str] = _ID) -> str:
    found = [_named(place[name]) for name in names for place in places if place.get(name) is not None]
    if names is not _NAMING:
        found += [value for place in places if _may_be_id(value := place.get("data"))]
    for named in found:
        if _is_usable_id(named):
            return str(named)
    shown = found[0] if found else None
    is_shown = shown != "" and isinstance(shown, (str, int, float)) and not isinstance(shown, bool)
    there = f": it has {_shown(shown)!r}" if is_shown else ""
    raise PlaudResponseError(f"Plaud's answer has no usable transcriptionId{there}.")


def _is_usable_id(value: object) -> bool:
    usable = as_transcription_id(value)
    # A link with a signature in it would be shown wherever an id is.
    return usable is not None and without_secrets(usable) == usable


def _may_be_id(value: object) -> bool:
    """Whether what is no object may be an id, and neither a word nor a code."""
    return isinstance(value, (str, int)) and _BARE_ID.fullmatch(str(value)) is not None


def _named(value: object) -> object:
    """Return an id that stands in an object or a list by itself."""
    value = _unwrapped(value)
    if isinstance(value, dict):
        value = first([by_plain_name(value)], _ID)
    return value.strip(" \t\r\n") if isinstance(value, str) else value


def _shown(value: object) -> str:
    """Return what stands in the place of an id as it may be shown in a message."""
    return without_secrets(clean(str(value)))[:200]


def _warn_of_unknown(what: str, names: Iterable[str], known: AbstractSet[str]) -> None:
    # A name that is no name may be anything, even text.
    new = {name for name in names if plain(name) not in known and _NAME.fullmatch(name)} - _warned
    if new:
        _warned.update(new)
        log.warning(
            "Plaud's answers have %s that this version does not know, and leaves out: %s.",
            what,
            ", ".join(sorted(new)),
        )


def _shown_word(reported: str) -> str:
    """Return a status word as it may be logged: what is no word may be anything, even text."""
    return reported[:80] if re.fullmatch(r"[\w.-]+", reported, re.ASCII) else "(not a word)"


def _segments(places: Sequence[Mapping[str, Any]], transcription_id: str) -> tuple[Segment, ...]:
    listed = _listed_segments(places)
    if not listed and is_said(first(places, _SEGMENTS)) and not first(places, segments.TEXT):
        raise PlaudResponseError(f"The segments of transcription {transcription_id} are not a list.")
    _warn_of_unknown(
        "keys of segments",
        (name for item in listed[:20] if isinstance(item, dict) for name in item),
        segments.KNOWN_KEYS,
    )
    return tuple(segments.used_up(listed))
