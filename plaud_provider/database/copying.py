"""
PostgreSQL's COPY: the fastest way in, and the same with either of its drivers.

Rows are written in COPY's own text format. Names come from SQLAlchemy's preparer, values are escaped here:
COPY takes no parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from plaud_provider.database.dialect import into, run_on_driver
from plaud_provider.database.rows import pieces

if TYPE_CHECKING:
    import sqlalchemy as sa

    from plaud_provider.database.rows import Columns, Row

#: Drivers that know it.
DRIVERS = frozenset({"psycopg2", "psycopg"})
#: Characters of small rows that are handed to the driver at once.
_PIECE = 1024 * 1024
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_rows(connection: sa.Connection, table: sa.Table, values: Columns) -> None:
    """
    Insert rows in the transaction of a connection.

    :param connection: A connection of one of :data:`DRIVERS`.
    :param table: The table.
    :param values: The rows, as the values of each column.
    """
    if any(values.values()):
        _run(connection, table, values, _pieces(zip(*values.values(), strict=True)))


def copy_large_rows(connection: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """
    Insert a few rows as :func:`copy_rows` does, of which none is in memory as a whole once more.

    :param connection: A connection of one of :data:`DRIVERS`.
    :param table: The table.
    :param rows: The rows, all with the same columns.
    """
    _run(connection, table, rows[0], (piece for row in rows for piece in _slices(list(row.values()))))


def _run(connection: sa.Connection, table: sa.Table, names: Iterable[str], pieces: Iterable[str]) -> None:
    statement = f"COPY {into(connection, table, names)} FROM STDIN"
    run_on_driver(connection, statement, lambda: _copy(connection, statement, pieces))


def _copy(connection: sa.Connection, statement: str, pieces: Iterable[str]) -> None:
    cursor: Any = connection.connection.cursor()
    try:
        if connection.dialect.driver == "psycopg2":
            cursor.copy_expert(statement, _File(iter(pieces)))
        else:
            with cursor.copy(statement) as copy:
                for piece in pieces:
                    copy.write(piece)
    finally:
        cursor.close()


class _File:
    """
    Text as psycopg2 reads it: a piece at each read, of whatever length, and nothing at the end.

    :param pieces: The text.
    """

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces

    def read(self, size: int = -1) -> str:
        return next(self._pieces, "")


def _slices(row: Sequence[Any]) -> Iterator[str]:
    """Return a row as text, a slice of a value at a time."""
    for number, value in enumerate(row):
        if number:
            yield "\t"
        if not isinstance(value, str):
            yield _text(value)
            continue
        yield from map(_string, pieces(value))
    yield "\n"


def _pieces(rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Return rows as text, many at a time."""
    lines: list[str] = []
    size = 0
    for row in rows:
        line = "\t".join([_text(value) for value in row])
        lines.append(line)
        size += len(line)
        if size >= _PIECE:
            yield "\n".join([*lines, ""])
            lines, size = [], 0
    if lines:
        yield "\n".join([*lines, ""])


def _text(value: Any) -> str:
    return _WRITERS.get(type(value), _other)(value)


def _string(value: str) -> str:
    return value.translate(_ESCAPES) if "\\" in value or not value.isprintable() else value


def _other(value: object) -> str:
    # Of a subclass, such as the words of an enumeration.
    return _string(str(value))


_WRITERS: Mapping[type, Callable[[Any], str]] = {
    type(None): lambda value: "\\N",
    str: _string,
    int: str,
    float: repr,
    bool: lambda value: "t" if value else "f",
    datetime: datetime.isoformat,
}
