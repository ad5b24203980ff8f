"""Recordings that a user names one by one: in a form, a Variable, a query's result, a task's output."""

from __future__ import annotations

import json
from ast import literal_eval
from collections.abc import Iterable, Iterator, Mapping, Sequence

from plaud_provider.api.arguments import is_path
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.recordings.listing import Found
from plaud_provider.recordings.reference import AudioReference

_STATE = "Nothing was sent, nothing is paid for."
_TAKEN = (
    "Pass references to recordings (https:// URLs, s3://, gs:// or abfs:// references, paths): as a list, as "
    "text with one a line or as JSON, or as rows of a query with one column."
)


def given_references(value: object) -> list[AudioReference]:
    """
    Return what a user means by a list of recordings, each reference once, in its order.

    :param value: References, as text or paths; rows of one column, as a query returns them; or text, in JSON
        or with a reference a line, as a form or a Variable has it and as a template renders a list.
    :raises PlaudInputError: if it is something else, or empty; nothing was sent.
    """
    items = _parsed(value) if isinstance(value, str) else value
    if isinstance(items, (AudioReference, str, int)) or is_path(items):
        items = [items]
    if not isinstance(items, Iterable) or isinstance(items, (Mapping, bytes)):
        raise PlaudInputError(f"recordings: takes a list, not a {type(items).__name__}. {_TAKEN} {_STATE}")
    found = list(dict.fromkeys(_reference(item, at) for at, item in enumerate(items)))
    if not found:
        raise PlaudInputError(f"recordings: the list is empty. {_TAKEN} {_STATE}")
    return found


def given_recordings(references: Iterable[AudioReference]) -> Iterator[Found]:
    """
    Yield recordings as a listing has them; nothing is asked of their storage.

    :param references: The references.
    """
    for one in references:
        is_signed = one.uri != one.reveal()
        yield Found(one.uri, given=one if is_signed else None)


def _parsed(text: str) -> object:
    stripped = text.strip()
    if stripped.startswith("["):
        # JSON, or a list of Python's that a template has made text of.
        for read in (json.loads, literal_eval):
            try:
                return read(stripped)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return [line.strip() for line in text.splitlines() if line.strip()]


def _reference(item: object, at: int) -> AudioReference:
    if isinstance(item, Sequence) and not isinstance(item, (str, bytes)) and len(item) == 1:
        # A row of a query.
        [item] = item
    if isinstance(item, AudioReference):
        if item.reveal():
            return item
        # It was wrapped before anybody looked at it.
        item = None
    # A template of native values makes a number of a name of digits.
    is_number = isinstance(item, int) and not isinstance(item, bool)
    if is_path(item) or is_number or (isinstance(item, str) and item.strip()):
        return AudioReference(str(item))
    if isinstance(item, str) or item is None:
        what = "is empty"
    elif isinstance(item, Sequence):
        what = f"is a row of {len(item)} columns"
    else:
        what = f"is a {type(item).__name__}"
    raise PlaudInputError(f"recordings: number {at + 1} of the list {what}. {_TAKEN} {_STATE}")
