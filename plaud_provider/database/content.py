"""What columns hold, for who spells types in a way of their own."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

import sqlalchemy as sa

from plaud_provider.database.types import JsonText, UtcTime


class Content(Enum):
    """What a column of ours holds, whatever a warehouse calls its type."""

    #: Text of a bounded length.
    NAME = auto()
    #: Text of any length.
    TEXT = auto()
    JSON = auto()
    DOUBLE = auto()
    INTEGER = auto()
    TIME = auto()
    DATE = auto()
    BOOLEAN = auto()


def content_of(column: sa.Column[Any]) -> Content:
    """
    Return what a column holds.

    :param column: A column of our tables.
    """
    kinds: tuple[tuple[type, Content], ...] = (
        (JsonText, Content.JSON),
        (UtcTime, Content.TIME),
        (sa.Boolean, Content.BOOLEAN),
        (sa.Date, Content.DATE),
        (sa.Float, Content.DOUBLE),
        (sa.Integer, Content.INTEGER),
    )
    for kind, content in kinds:
        if isinstance(column.type, kind):
            return content
    return Content.TEXT if getattr(column.type, "length", None) is None else Content.NAME
