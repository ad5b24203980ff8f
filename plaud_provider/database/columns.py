"""Whether a column, as SQLAlchemy's inspector describes it, can hold one of ours."""

from __future__ import annotations

from functools import partial
from typing import Any

import sqlalchemy as sa

from plaud_provider.database.fit import ExistingColumn


def existing_column(column: Any, dialect: sa.Dialect) -> ExistingColumn:
    """
    Return a column as SQLAlchemy's inspector describes it.

    :param column: What the inspector says.
    :param dialect: Dialect of the database.
    """
    there = column["type"]
    return ExistingColumn(
        name=column["name"],
        type_name="of no type" if isinstance(there, sa.types.NullType) else there.compile(dialect=dialect),
        nullable=column["nullable"],
        has_default=bool(
            column.get("default") is not None
            or column.get("identity")
            or column.get("computed")
            or column.get("autoincrement") is True
        ),
        holds=partial(holds, there, dialect),
    )


def holds(there: sa.types.TypeEngine[Any], dialect: sa.Dialect, column: sa.Column[Any]) -> bool:
    """Whether a type can hold every value of a column of ours; one that SQLAlchemy does not know may."""
    needed = column.type
    if isinstance(there, sa.types.NullType) or there.compile(dialect=dialect) == needed.compile(
        dialect=dialect
    ):
        return True
    is_sqlite = dialect.name == "sqlite"
    is_text = isinstance(there, sa.String) and not isinstance(there, (sa.CHAR, sa.NCHAR, sa.Enum))
    length = getattr(there, "length", None)
    if isinstance(needed, sa.Boolean):
        return isinstance(there, sa.Boolean) or (is_sqlite and isinstance(there, sa.Integer))
    if isinstance(needed, sa.String):
        return is_text and (length is None or (needed.length is not None and needed.length <= length))
    if isinstance(needed, sa.Float):
        # SQLite's REAL has 64 bits, that of others 32.
        return isinstance(there, sa.Float) and (is_sqlite or not _is_single(there))
    if isinstance(needed, sa.Integer):
        is_whole = isinstance(there, sa.Numeric) and not isinstance(there, sa.Float) and there.scale == 0
        return is_whole or (isinstance(there, sa.Integer) and not isinstance(there, sa.SmallInteger))
    return (isinstance(there, sa.DateTime) and (is_sqlite or there.timezone)) or (
        is_sqlite and is_text and length is None
    )


def _is_single(there: sa.Float[Any]) -> bool:
    return isinstance(there, sa.REAL) or (there.precision is not None and there.precision <= 24)
