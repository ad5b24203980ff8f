"""
PostgreSQL's COPY: the fastest way in, and the same with either of its drivers.

Rows are written in COPY's own text format. Names come from SQLAlchemy's preparer, values are escaped here:
COPY takes no parameters.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from plaud_provider.database.rows import Columns

#: Drivers that know it.
DRIVERS = frozenset({"psycopg2", "psycopg"})
#: Characters that are handed to the driver at once.
_PIECE = 1024 * 1024
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_rows(connection: sa.Connection, table: sa.Table, values: Columns) -> None:
    """
    Insert rows in the transaction of a connection.

    :param connection: A connection of one of :data:`DRIVERS`.
    :param table: The table.
    :param values: The rows, as the values of each column.
    """
    if not any(values.values()):
        return
    preparer = connection.dialect.identifier_preparer
    columns = ", ".join(preparer.format_column(table.c[name]) for name in values)
    # Drivers take %% for % in statements with parameters, which this is not.
    statement = f"COPY {preparer.format_table(table)} ({columns}) FROM STDIN".replace("%%", "%")
    try:
        _copy(connection, statement, _pieces(zip(*values.values(), strict=True)))
    except connection.dialect.loaded_dbapi.Error as error:
        failure = error
    else:
        return
    # As SQLAlchemy would have raised it, had it sent the statement.
    raise sa.exc.DBAPIError.instance(
        statement,
        None,
        failure,
        connection.dialect.loaded_dbapi.Error,
        hide_parameters=True,
        connection_invalidated=connection.dialect.is_disconnect(failure, connection.connection, None),
        dialect=connection.dialect,
    )


def _copy(connection: sa.Connection, statement: str, pieces: Iterable[str]) -> None:
    cursor: Any = connection.connection.cursor()
    try:
        if connection.dialect.driver == "psycopg2":
            for piece in pieces:
                cursor.copy_expert(statement, io.StringIO(piece))
        else:
            with cursor.copy(statement) as copy:
                for piece in pieces:
                    copy.write(piece)
    finally:
        cursor.close()


def _pieces(rows: Iterable[Sequence[Any]]) -> Iterable[str]:
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
