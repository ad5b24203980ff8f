"""
Which landings some rows of a lake are of, whole.

A condition that names landings drops their files unread; one with a thousand ids has each row looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

#: Landings that a condition names at most.
_STAMPS = 50


class Meant(NamedTuple):
    """
    The landings that the rows which are meant are of.

    :param whole: The ``landed_at`` of those of which each row is meant.
    :param are_all: Whether the rows that are meant are all of these.
    """

    whole: list[datetime]
    are_all: bool


def meant(
    rows: Any,
    landed_between: Callable[[datetime, datetime], Any],
    ids: Sequence[str],
    before: datetime | None = None,
) -> Meant | None:
    """
    Return the landings of the rows that are meant; ``None`` if there is no such row.

    :param rows: ``transcription_id`` and ``landed_at`` of all rows of these ids; a table of Arrow.
    :param landed_between: Returns ``landed_at`` of all rows that landed in a time, both ends included.
    :param ids: The ids.
    :param before: Only rows with an earlier ``landed_at`` are meant, to be deleted; ``None``: all, to be
        replaced.
    """
    own = _counts(rows)
    if before is not None:
        own = {stamp: count for stamp, count in own.items() if stamp is None or stamp < before}
    if not own:
        return None
    stamps = sorted(stamp for stamp in own if stamp is not None)
    # Another task may be landing an id that has no row yet: only a condition that names the id tells the
    # format that these two commits are in each other's way.
    is_new = before is None and len(rows["transcription_id"].unique()) < len(ids)
    if is_new or not 0 < len(stamps) <= _STAMPS:
        return Meant([], are_all=False)
    landed = _counts(landed_between(stamps[0], stamps[-1]))
    whole = [stamp for stamp in stamps if own[stamp] == landed[stamp]]
    return Meant(whole, are_all=len(whole) == len(own))


def _counts(rows: Any) -> dict[datetime | None, int]:
    return {one["values"]: one["counts"] for one in rows["landed_at"].value_counts().to_pylist()}
