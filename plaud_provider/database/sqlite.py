"""SQLite: a file, one writer at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.pool import NullPool

from plaud_provider.database.dialect import Dialect, upsert_of
from plaud_provider.database.rows import split_by_size, taken_out

if TYPE_CHECKING:
    from plaud_provider.database.dialect import MayReplace
    from plaud_provider.database.rows import Row

#: What statements call the function that gives a large text, once.
_TEXT = "plaud_text"


class SqliteDialect(Dialect):
    """
    What SQLite does in its own way.

    Its own timeout waits for other writers: an error that says that it is busy comes afterwards.
    """

    takes_one_writer = True
    # A transaction that starts by reading fails at its first write if another one wrote meanwhile, without
    # waiting.
    begin = "BEGIN IMMEDIATE"
    advice: ClassVar[Mapping[str, tuple[str, str]]] = {
        "SQLITE_BUSY": (
            "another process held SQLite's write lock for too long",
            "Let fewer tasks write at once.",
        ),
        "SQLITE_READONLY": ("the database is read-only", "Check the file's permissions and the connection."),
        "SQLITE_FULL": ("the disk is full", "Make room, then retry."),
        "SQLITE_IOERR": (
            "the file could not be written",
            "Make room on its disk, check its permissions; then retry.",
        ),
        "SQLITE_CONSTRAINT": Dialect.advice["23"],
    }

    def create_engine(self) -> sa.Engine:
        """Return SQLAlchemy's engine; see the base class."""
        # No isolation level: the driver is to begin no transaction of its own.
        options = {"timeout": self.wait_seconds, "isolation_level": None}
        engine = self._engine(poolclass=NullPool, connect_args=options)
        if _is_in_memory(engine.url):
            raise self._names_no_file("SQLite")
        return engine

    def overwrite_deleted(self, connection: sa.Connection) -> None:
        """Have deleted rows overwritten; else they stay in the file until their pages are used again."""
        connection.exec_driver_sql("PRAGMA secure_delete = ON")

    def upsert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        rows: Sequence[Row],
        *,
        may_replace: MayReplace | None = None,
    ) -> None:
        """Insert rows, or replace those that may be; see the base class."""
        large, others = split_by_size(rows)
        if others:
            connection.execute(upsert_of(sqlite.insert(table), table, may_replace), others)
        for row in large:
            _upsert_large(connection, table, row, may_replace)


def _upsert_large(
    connection: sa.Connection, table: sa.Table, row: Row, may_replace: MayReplace | None
) -> None:
    """
    Upsert a row whose large texts are fetched by SQLite.

    The driver would hold a parameter until the end, beside SQLite's own copies of it.
    """
    texts = taken_out(row)
    driver: Any = connection.connection.driver_connection
    driver.create_function(_TEXT, 1, texts.pop)
    fetched: Row = {name: sa.Function(_TEXT, name) for name in texts}
    insert = sqlite.insert(table).values(row | fetched)
    connection.execute(upsert_of(insert, table, may_replace))


def _is_in_memory(url: sa.URL) -> bool:
    name = url.database or ""
    return name in ("", ":memory:", "file:", "file::memory:") or url.query.get("mode") == "memory"
