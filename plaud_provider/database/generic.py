"""A database that this package was not made for, once it has shown that it keeps what it is given."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from plaud_provider.database.dialect import Dialect
from plaud_provider.database.types import KEY_TEXT, LONG_TEXT, JsonText, UtcTime
from plaud_provider.exceptions import PlaudConfigurationError

if TYPE_CHECKING:
    from plaud_provider.database.dialect import MayReplace
    from plaud_provider.database.rows import Row

#: Scripts that one alphabet does not have, in more characters and bytes than many types take.
_LONG = "日本語 é שלום \U0001f600 " * 100_000
_KEPT = {
    "transcription_id": "Id_日本語",
    "text": _LONG,
    # Oracle makes NULL of it.
    "speaker": "",
    "raw": '{"text": "\U0001f600"}',
    "landed_at": datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC),
    "seconds": 1 / 3,
}
#: What else is another row.
_OTHER_ID = "id_日本語"


class GenericDialect(Dialect):
    """What SQLAlchemy alone does on any database."""

    def upsert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        rows: Sequence[Row],
        *,
        may_replace: MayReplace | None = None,
    ) -> None:
        """Delete rows and insert them; see the base class. No ledger is here, so all may be replaced."""
        if may_replace is not None:
            raise NotImplementedError
        [key] = table.primary_key
        self.delete(connection, key, [row[key.name] for row in rows])
        connection.execute(sa.insert(table), rows)

    def refuse_unsuited(self, connection: sa.Connection, title: str) -> None:
        """Refuse a database that does not give back what it was given in a scratch table."""
        problem = None
        try:
            problem = _problem(connection.engine)
        except Exception as error:
            # Its message quotes what was to be written.
            problem = f"a scratch table could not be used ({type(error).__name__})"
        if problem is not None:
            raise PlaudConfigurationError(
                f"{self._parameter}: {title} ({self.name}) is none of those that this package was made for, "
                f"and generic_sql does not help: {problem}. Land in one of those that are served (`plaud "
                "docs warehouses`), and copy from it. Nothing was sent."
            )


def _problem(engine: sa.Engine) -> str | None:
    """Return what a database does to rows that it must not do; ``None`` if there is nothing."""
    with _scratch(engine) as table:
        with engine.connect() as connection:
            connection.execute(sa.insert(table), [_KEPT])
            connection.rollback()
            if connection.scalar(sa.select(sa.func.count()).select_from(table)):
                return "what is rolled back stays, so that half of a landing could"
        with engine.begin() as connection:
            connection.execute(sa.insert(table), [_KEPT, _KEPT | {"transcription_id": _OTHER_ID}])
        with engine.connect() as connection:
            is_ours = table.c.transcription_id == _KEPT["transcription_id"]
            found = connection.execute(sa.select(table).where(is_ours)).mappings().all()
    if len(found) != 1:
        return f"two ids that differ in upper and lower case are {len(found)} rows"
    [row] = found
    changed = [name for name, value in _KEPT.items() if row[name] != value]
    if changed:
        return f"{', '.join(changed)} came back as something else (a long text, another script, or a time)"
    return None


@contextmanager
def _scratch(engine: sa.Engine) -> Iterator[sa.Table]:
    columns: list[tuple[str, Any]] = [("text", LONG_TEXT), ("speaker", LONG_TEXT), ("raw", JsonText)]
    columns += [("landed_at", UtcTime), ("seconds", sa.Double)]
    table = sa.Table(
        f"plaud_check_{secrets.token_hex(6)}",
        sa.MetaData(),
        sa.Column("transcription_id", KEY_TEXT, primary_key=True),
        *(sa.Column(name, kind, nullable=False) for name, kind in columns),
    )
    table.create(engine)
    try:
        yield table
    finally:
        with suppress(Exception):
            table.drop(engine)
