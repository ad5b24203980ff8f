"""
Members of JSON objects by plain names: ``FileId``, ``file_id`` and ``fileid`` are the same.

Values of which it is known what they are to be: text, seconds, a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

from plaud_provider.api.json_text import clean

#: Seconds since 1970 from which on a number counts milliseconds: the year 5138.
_MILLISECONDS = 1e11
#: Years in which something may have happened. Others stand for "not yet", as 0001 and 1970 do, and some
#: databases cannot tell them in each time zone.
_YEARS = range(2001, 2101)


@lru_cache(maxsize=1024)
def plain(name: str) -> str:
    """Return a name in lower case and without underscores."""
    return name.replace("_", "").lower()


def by_plain_name(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object's members by their plain names; of two that are the same, the one that is said."""
    found: dict[str, Any] = {}
    for name, value in members.items():
        known = plain(name)
        if known not in found or not is_said(found[known]):
            found[known] = value
    return found


def first(places: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Any:
    """Return the first value that is there, by place and by the order of its spellings; a full one if any."""
    found = [place[name] for place in places for name in names if place.get(name) is not None]
    return next((value for value in found if is_said(value)), found[0] if found else None)


def is_said(value: object) -> bool:
    """Whether a value says anything."""
    return value is not None and value is not False and value != "" and value != [] and value != {}


def as_text(value: object) -> str | None:
    """Return a value as text; ``None`` for an object or a list."""
    if value is None or isinstance(value, (dict, list)):
        return None
    return clean(value if isinstance(value, str) else str(value))


def as_seconds(value: object) -> float | None:
    """Return a finite number of seconds >= 0; strings of digits count, everything else is unknown."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def as_time(value: object) -> datetime | None:
    """
    Return a time in UTC: ISO 8601, as in HTTP headers, or a number of seconds, ms or µs since 1970.

    Without an offset it is taken as UTC; of what is no time, or of no year of this century, ``None``.
    """
    moment = _as_moment(value)
    return moment if moment is not None and moment.year in _YEARS else None


def _as_moment(value: object) -> datetime | None:
    try:
        if (number := as_seconds(value)) is not None and 1e9 <= number < 1e18:
            while number >= _MILLISECONDS:
                number /= 1000
            return datetime.fromtimestamp(number, UTC)
        if not isinstance(value, str):
            return None
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            moment = parsedate_to_datetime(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
