"""
DuckDB: a file that one process at a time may write, or MotherDuck.

What it takes to wait for the file, and what DuckDB's errors mean. How SQLAlchemy speaks to it is in
:mod:`.duckdb_driver`.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import duckdb
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from plaud_provider.database import arrays
from plaud_provider.database.dialect import Dialect, upsert_of
from plaud_provider.database.duckdb_driver import create_engine
from plaud_provider.database.file_queue import FileQueue
from plaud_provider.database.rows import (
    are_large,
    columns_of,
    has_large_text,
    parts,
    pieces,
    split_by_size,
    taken_out,
)

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from plaud_provider.database.dialect import MayReplace
    from plaud_provider.database.rows import Columns, Row

_quiet = logging.getLogger(f"{__name__}.hook")
_quiet.setLevel(logging.WARNING)
_LOCK_HOLDER = re.compile(r"Conflicting lock is held in (.*?\(PID \d+\)(?: by user [^\s.]+)?)")
#: For so long a file without DuckDB's header may be one that another process creates, which has no lock yet.
CREATION_SECONDS = 10.0
#: So many rows take less time as a table of Arrow, with the import of pyarrow.
_ROWS_FOR_ARROW = 5_000
_LOOKS_AT_VALUES = re.compile(r"CHECK constraint failed|foreign key constraint", re.IGNORECASE)
_CONFLICT = re.compile(r"conflict|constraint violation", re.IGNORECASE)
#: What DuckDB's errors mean, and what to do.
_ADVICE: dict[type[Exception], tuple[str, str]] = {
    duckdb.ConversionException: (
        "a column cannot hold a value of ours",
        "Compare the table's types with ours.",
    ),
    duckdb.ConstraintException: (
        "a constraint of the table refused a row",
        "Look for checks that are not ours.",
    ),
    duckdb.OutOfMemoryException: (
        "DuckDB ran out of memory",
        "Raise memory_limit in the connection's extra.",
    ),
    duckdb.IOException: (
        "the file could not be written",
        "Make room on its disk, check its permissions; then retry.",
    ),
    duckdb.TransactionException: ("it could not be committed", "Make room if the disk is full; then retry."),
    duckdb.CatalogException: (
        "a table is not there any more",
        "Retry: each task creates missing tables first.",
    ),
}
#: What rows of Arrow are called while they are inserted.
_ROWS = "plaud_rows_to_insert"
_MAY_READ_FILES = (
    "select current_setting('enable_external_access') and current_setting('disabled_filesystems') = ''"
)
#: How paths of MotherDuck begin.
_REMOTE = ("md:", "motherduck:")
_LOCK_ADVICE = (
    "DuckDB lets one process at a time open a file that is written. Close that program, or let fewer tasks "
    "write at once (max_active_tis_per_dag, a pool); then retry."
)


class DuckDbDialect(Dialect):
    """
    What DuckDB does in its own way.

    It lets one process at a time open a file that is written. So each transaction opens, writes and closes,
    takes turns with the other tasks of its host (:class:`~.file_queue.FileQueue`), and waits while another
    program has the file.

    :param hook: Its hook, a ``DuckDBHook``.
    :param parameter: Argument that names its connection, for messages.
    :param keeps_connection: No connection is kept, whatever this says.
    """

    takes_one_writer = True
    wait_seconds = 120.0

    def __init__(self, hook: DbApiHook, *, parameter: str, keeps_connection: bool = False) -> None:
        super().__init__(hook, parameter=parameter, keeps_connection=keeps_connection)
        # It says so each time that it opens the file: hundreds of lines for a task with many transactions.
        hook._log = _quiet

    def create_engine(self) -> sa.Engine:
        """Return SQLAlchemy's engine; see the base class."""
        if self._path() in ("", ":memory:"):
            raise self._names_no_file("DuckDB")
        return create_engine(self._hook.get_conn)

    def turn(self) -> AbstractContextManager[object]:
        """Wait for this task's turn at the file; MotherDuck takes several at once."""
        path = self._path()
        if path in ("", ":memory:") or path.startswith(_REMOTE):
            return super().turn()
        return FileQueue(path, seconds=self.wait_seconds).turn()

    def insert(self, connection: sa.Connection, table: sa.Table, columns: Columns) -> None:
        """Insert rows; see the base class."""
        with _conflicts_told(table):
            _insert(connection, table, columns)

    def upsert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        rows: Sequence[Row],
        *,
        may_replace: MayReplace | None = None,
    ) -> None:
        """Insert rows, or replace those that may be; see the base class."""
        if are_large(rows):
            _use_one_thread(connection)
        with _conflicts_told(table):
            if may_replace is not None:
                arrays.upsert(connection, table, rows, may_replace)
                return
            # With long texts an upsert takes three times as long as an insert.
            new, old = arrays.split_by_key(connection, table, rows)
            if any(map(has_large_text, rows)) and self._reads_files(connection):
                large, new = split_by_size(new)
                for row in large:
                    _write_by_files(connection, table, row, lambda insert: insert)
                large, old = split_by_size(old)
                for row in large:
                    _write_by_files(connection, table, row, partial(upsert_of, table=table, may_replace=None))
            _insert(connection, table, columns_of(new))
            arrays.upsert(connection, table, old, None)

    def delete(self, connection: sa.Connection, column: sa.Column[Any], values: Sequence[str]) -> None:
        """Delete rows; see the base class."""
        arrays.delete(connection, column, values)

    def is_passing(self, error: BaseException) -> bool:
        """Whether another writer is in the way: a process that has the file, or a transaction of a thread."""
        error = _own(error)
        # A full disk is a TransactionException as well: waiting does not empty it.
        is_conflict = isinstance(error, duckdb.TransactionException) and _CONFLICT.search(str(error))
        # Another thread of this process is opening or closing the same file.
        is_attaching = "Unique file handle conflict" in str(error)
        is_new = _is_incomplete(error) and self._is_new()
        return bool(is_conflict) or is_attaching or _is_locked(error) or is_new

    def looks_at_values(self, error: BaseException) -> bool:
        """Whether what refused a row may let others pass."""
        error = _own(error)
        return isinstance(error, duckdb.ConstraintException) and bool(_LOOKS_AT_VALUES.search(str(error)))

    def is_by_table(self, error: BaseException) -> bool:
        """Whether a table is to blame for an error."""
        return not isinstance(_own(error), (duckdb.IOException, duckdb.OutOfMemoryException)) and not (
            isinstance(_own(error), duckdb.InvalidInputException) and "read-only mode" in str(_own(error))
        )

    def explain(self, error: BaseException) -> tuple[str, str]:
        """Return what an error means, and what to do."""
        own = _own(error)
        if _is_locked(own):
            held = _LOCK_HOLDER.search(str(own))
            return (
                f"another process had the DuckDB file open for {self.wait_seconds:.0f} s and longer"
                + (f", {held.group(1)}" if held else ""),
                _LOCK_ADVICE,
            )
        if isinstance(own, duckdb.InvalidInputException) and "read-only mode" in str(own):
            return "the DuckDB file is opened read-only", "Remove read_only from the connection's extra."
        for kind, (reason, advice) in _ADVICE.items():
            if isinstance(own, kind):
                return f"{reason} ({type(own).__name__})", advice
        return super().explain(error)

    def _path(self) -> str:
        hook: Any = self._hook
        database: str = hook.get_database()
        return database.partition("?")[0]

    def _reads_files(self, connection: sa.Connection) -> bool:
        """Whether DuckDB can read temporary files of this process: its user may have forbidden that."""
        return not self._path().startswith(_REMOTE) and bool(
            connection.exec_driver_sql(_MAY_READ_FILES).scalar()
        )

    def _is_new(self) -> bool:
        """Whether another process may be about to create the file."""
        try:
            return time.time() < os.stat(self._path()).st_mtime + CREATION_SECONDS
        except OSError:
            return False


def _use_one_thread(connection: sa.Connection) -> None:
    """Have this transaction, after which the file is closed, make fewer copies of long texts."""
    # A setting that is refused would end the transaction.
    if not connection.exec_driver_sql("select current_setting('lock_configuration')").scalar():
        connection.exec_driver_sql("SET threads = 1")


def _write_by_files(
    connection: sa.Connection,
    table: sa.Table,
    row: Row,
    finish: Callable[[postgresql.Insert], sa.Insert],
) -> None:
    """
    Insert a row, or replace it as ``finish`` has it, of which DuckDB reads large texts from files.

    It makes two copies of a text that it reads, four of a parameter, beside the one of this process.
    """
    with ExitStack() as files:
        texts = taken_out(row)
        paths: dict[str, str] = {}
        for name in [*texts]:
            # Without a name: nothing of it is left if this process is killed.
            file = files.enter_context(TemporaryFile(prefix="plaud-"))
            file.writelines(piece.encode() for piece in pieces(texts.pop(name)))
            file.flush()
            paths[name] = f"/dev/fd/{file.fileno()}"
        contents: dict[str, sa.ColumnElement[Any]] = {
            name: sa.literal_column(f"file_{number}.content") for number, name in enumerate(paths)
        }
        values = [
            contents.get(column.name, sa.bindparam(None, row[column.name], type_=column.type))
            for column in table.c
        ]
        # Each has one row. Any other join would keep one of them in memory once more.
        read = " positional join ".join(f"read_text(:file_{n}) as file_{n}" for n in range(len(paths)))
        source = sa.text(read).bindparams(**{f"file_{n}": path for n, path in enumerate(paths.values())})
        insert = postgresql.insert(table).from_select(
            table.columns.keys(), sa.select(*values).select_from(source)
        )
        connection.execute(finish(insert))


def _insert(connection: sa.Connection, table: sa.Table, columns: Columns) -> None:
    """Insert rows: many from tables of Arrow, if pyarrow is installed."""
    count = len(next(iter(columns.values()), ()))
    if count < _ROWS_FOR_ARROW or find_spec("pyarrow") is None:
        arrays.insert(connection, table, columns)
        return
    from plaud_provider.database.arrow import arrow_schema, arrow_table

    names = table.columns.keys()
    rows = sa.table(_ROWS, *map(sa.column, names))
    statement = sa.insert(table).from_select(names, sa.select(rows))
    schema = arrow_schema(table.columns.items())
    driver: Any = connection.connection.driver_connection
    for part in parts(columns):
        driver.register(_ROWS, arrow_table(part, schema))
        connection.execute(statement)
        driver.unregister(_ROWS)


@contextmanager
def _conflicts_told(table: sa.Table) -> Iterator[None]:
    """
    Tell a key that another transaction has added since this one began from one of ours that is there twice.

    Rows go in with keys that this transaction has found free, or has freed; DuckDB compares them with those
    of others nevertheless.
    """
    first, *_ = table.primary_key
    try:
        yield
        return
    except DBAPIError as error:
        if f'Duplicate key "{first.name}: ' not in str(error.orig):
            raise
    raise duckdb.TransactionException("Conflict with another transaction's key")


def _own(error: BaseException) -> BaseException:
    """Return DuckDB's own error behind SQLAlchemy's."""
    return getattr(error, "orig", None) or error


def _is_locked(error: BaseException) -> bool:
    return isinstance(error, duckdb.IOException) and (
        "Could not set lock on file" in str(error) or "already open in" in str(error)
    )


def _is_incomplete(error: BaseException) -> bool:
    return isinstance(error, duckdb.IOException) and (
        "not a valid DuckDB database file" in str(error) or "Could not read enough bytes" in str(error)
    )
