"""Types of columns that databases spell in different ways."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

# SQLite has no time type and SQLAlchemy would write these without their offset: a reader could not tell UTC
# from local time.
_SQLITE_TIME = sqlite.DATETIME(  # type: ignore[no-untyped-call]
    storage_format=(
        "%(year)04d-%(month)02d-%(day)02d %(hour)02d:%(minute)02d:%(second)02d.%(microsecond)06d+00:00"
    )
)


def utc_time() -> sa.DateTime:
    """Return the type of a time in UTC with its zone."""
    return sa.DateTime(timezone=True).with_variant(_SQLITE_TIME, "sqlite")
