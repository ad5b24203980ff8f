"""What a user knows of a recording: the fields of its row beside the transcript, and when it was made."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, tzinfo
from typing import Any, NamedTuple

from plaud_provider.exceptions import PlaudInputError

#: Fields that say when a recording begins, and on which day it was made; the first that can be read counts.
STARTS = ("recording_started_at", "started_at")
DATES = ("recording_date", "date")
#: Names that are one column in every warehouse, quoted or not.
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
#: Other times are slips, and some warehouses have no room for them.
_YEARS = range(1900, 2200)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Description(NamedTuple):
    """
    What is known of a recording.

    :param started_at: When it begins, with time zone.
    :param date: The day that it was made.
    :param json: All fields, as a JSON object; ``None`` if there are none.
    :param columns: Fields that are columns of their own, as text; all of them, whether known or not.
    """

    started_at: datetime | None = None
    date: date | None = None
    json: str | None = None
    columns: Mapping[str, str | None] = {}


NOTHING = Description()


def describe(
    fields: Mapping[str, Any],
    columns: Sequence[str],
    zone: tzinfo,
    *,
    started_at: datetime | None = None,
    day: date | None = None,
) -> Description:
    """
    Return the description that fields make.

    :param fields: Values by name: text, what JSON has, dates and times.
    :param columns: Fields that are columns of their own.
    :param zone: Time zone of times that tell none.
    :param started_at: When it begins, if no field says so.
    :param day: On which day it was made, likewise.
    """
    known: dict[str, Any] = plain(fields)
    told = [_moment(value, zone) for value in (*map(fields.get, STARTS), started_at)]
    started_at = next(filter(None, told), None)
    day = next(filter(None, map(_day, (*map(fields.get, DATES), day))), None)
    if day is None and started_at is not None:
        day = started_at.date()
    return Description(
        started_at=started_at,
        date=day,
        json=json.dumps(known, ensure_ascii=False) if known else None,
        columns={name: _as_text(known.get(name)) for name in columns},
    )


def validate_columns(names: Sequence[object]) -> tuple[str, ...]:
    """
    Return the names of fields that are to be columns of their own.

    :param names: The names.
    :raises PlaudInputError: if one cannot be that of a column; nothing was sent.
    """
    for name in names:
        if not isinstance(name, str) or not _COLUMN.fullmatch(name):
            raise PlaudInputError(
                f"metadata_columns: {name!r} is no name that every warehouse takes: letters of ASCII, digits "
                "and _, 63 at most, no digit first. Rename the field where it comes from. Nothing was sent."
            )
    return tuple(str(name) for name in names)


def plain(value: Any) -> Any:
    """Return a value as JSON has it: every database takes the text that it becomes."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, bool) or value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        # NaN and infinity are no JSON.
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {plain(str(name)): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    return plain(str(value))


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _moment(value: Any, zone: tzinfo) -> datetime | None:
    """Return a time that a field tells; ``None`` if it tells none, or only a day."""
    if isinstance(value, str):
        text = value.strip()
        try:
            value = None if _day_of(text) else datetime.fromisoformat(text)
        except ValueError:
            return None
    if not isinstance(value, datetime) or value.year not in _YEARS:
        return None
    return value if value.tzinfo else value.replace(tzinfo=zone)


def _day(value: Any) -> date | None:
    day = _any_day(value)
    return day if day is not None and day.year in _YEARS else None


def _any_day(value: Any) -> date | None:
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    if not isinstance(value, str):
        return None
    text = value.strip()
    if (day := _day_of(text)) is not None:
        return day
    try:
        return datetime.fromisoformat(text).date()
    except ValueError:
        return None


def _day_of(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
