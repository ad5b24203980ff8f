"""Types of columns that databases spell in different ways, and the time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mssql, mysql, sqlite

# SQLite has no time type and SQLAlchemy would write these without their offset: a reader could not tell UTC
# from local time.
_SQLITE_TIME = sqlite.DATETIME(  # type: ignore[no-untyped-call]
    storage_format=(
        "%(year)04d-%(month)02d-%(day)02d %(hour)02d:%(minute)02d:%(second)02d.%(microsecond)06d+00:00"
    )
)


class UtcTime(sa.types.TypeDecorator[datetime]):
    """A time with its zone: in Python it is in UTC, whatever zone a database answers in."""

    impl = (
        sa.DateTime(timezone=True)
        .with_variant(_SQLITE_TIME, "sqlite")
        # Its TIMESTAMP ends in 2038, and either has whole seconds unless it is told otherwise.
        .with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    )
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Return a time as it is written; where columns have no zone, they are in UTC."""
        moment = utc(value)
        return moment.replace(tzinfo=None) if moment and dialect.name in ("mysql", "mariadb") else moment

    def process_result_value(self, value: Any | None, dialect: sa.Dialect) -> datetime | None:
        """Return a time that was read; one without zone is taken as UTC."""
        # A parameter that is asked for comes back from MySQL as the text that it was sent as.
        return utc(datetime.fromisoformat(value) if isinstance(value, str) else value)


def host_clock(after: timedelta, *, now: Callable[[], datetime] | None = None) -> sa.ColumnElement[datetime]:
    """
    Return, in SQL, the time when a statement is run.

    :param after: How much later it is to be.
    :param now: Tells the time, with time zone, instead of this host's clock.
    """
    tell = now or partial(datetime.now, tz=UTC)
    return sa.bindparam(None, callable_=lambda: tell() + after, type_=UtcTime())


def utc(moment: datetime | None) -> datetime | None:
    """Return a time in UTC; one without zone is taken as UTC."""
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


#: Text of a bounded length in a key, of which no two that differ are one.
KEY_TEXT = sa.String(255).with_variant(mssql.NVARCHAR(255, collation="Latin1_General_100_BIN2"), "mssql")
#: Text of any length and script, where TEXT has 64 KB or one alphabet.
LONG_TEXT = (
    sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb").with_variant(mssql.NVARCHAR(), "mssql")
)


class JsonText(sa.types.TypeDecorator[str]):
    """JSON that is written as text: PostgreSQL keeps it as jsonb, other databases as the text it is."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Return the type that a database has for it."""
        # Redshift says that it is PostgreSQL 8.
        is_old = (getattr(dialect, "server_version_info", None) or (9, 5)) < (9, 5)
        is_kept_as_json = dialect.name == "postgresql" and not is_old
        return dialect.type_descriptor(_Jsonb() if is_kept_as_json else LONG_TEXT)


class _Jsonb(sa.types.UserDefinedType[str]):
    """PostgreSQL's jsonb, without making JSON of what is JSON already."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "JSONB"
