"""Why a transcription failed, or a call was refused, as an answer says it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from plaud_provider.api.json_text import clean
from plaud_provider.api.members import by_plain_name, first, is_said
from plaud_provider.api.redaction import without_secrets

MAX_ERROR_CHARACTERS = 500
#: By plain names, see members.py.
NAMES = ("error", "detail", "message", "reason", "errors", "msg", "errormessage", "failreason")
CODES = ("code", "errorcode")
#: Which say by themselves that something is wrong; a ``message`` may also be a friendly one.
_REFUSING = ("error", "detail", "errors")
_CODES_OF_SUCCESS = frozenset(("", "0", "200", "201", "202", "ok", "success", "none"))


def is_refused(places: Sequence[Mapping[str, Any]]) -> bool:
    """
    Whether an answer says by itself that something is wrong.

    :param places: Where values may stand, by plain names, the outermost first.
    """
    return (
        any(is_said(place.get(name)) for place in places for name in _REFUSING)
        or any(place.get("success") is False for place in places)
        or not _is_of_success(first(places[:1], CODES))
    )


def reason(places: Sequence[Mapping[str, Any]]) -> str:
    """
    Return the reason as one line; its inner shape is not documented, so take text, an object or a list.

    :param places: Where values may stand, by plain names, the outermost first.
    """
    said = (_words(place.get(name)) for place in places for name in NAMES)
    # Around it may stand that the request was a success.
    text = next((words for words in said if words.lower() not in _CODES_OF_SUCCESS), "")
    code = first(places, CODES)
    if not _is_of_success(code) and str(code) not in text:
        text = f"{code}: {text}" if text else str(code)
    text = without_secrets(clean(" ".join(text.split())))
    return text[:MAX_ERROR_CHARACTERS] or "no reason given"


def _is_of_success(code: object) -> bool:
    return str(code or "").strip().lower() in _CODES_OF_SUCCESS


def _words(error: object, depth: int = 0) -> str:
    """Return what an error says; of an object its known members, of a list (FastAPI) what each one says."""
    if error is None or isinstance(error, bool) or depth > 4:
        return ""
    if isinstance(error, list):
        return "; ".join(filter(None, (_words(one, depth + 1) for one in error[:10])))
    if isinstance(error, Mapping):
        members = by_plain_name(error)
        names = ("code", "message", "msg", "reason", "detail", "error", "errors")
        said = filter(None, (_words(members.get(name), depth + 1) for name in names))
        return ": ".join(said) or (json.dumps(error, default=str) if error else "")
    return str(error)
