"""
Rows in MySQL's own text, many to a statement: half the time of parameters, which its driver writes into the
statement as well, value by value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from plaud_provider.database.dialect import into, run_on_driver
from plaud_provider.database.types import utc

if TYPE_CHECKING:
    import sqlalchemy as sa

    from plaud_provider.database.rows import Columns

#: Bytes of a statement, far below what a server takes (``max_allowed_packet``, 16 MB by default).
_STATEMENT = 1_000_000


def insert_values(
    connection: sa.Connection,
    table: sa.Table,
    columns: Columns,
    refuse_too_large: Callable[[int, int], None],
    ending: str = "",
) -> None:
    """
    Insert rows in the transaction of a connection.

    :param connection: A connection of mysqlclient, with ``utf8mb4``.
    :param table: The table.
    :param columns: The rows, as the values of each column.
    :param refuse_too_large: Called with the number and the bytes of a row that is a statement of its own.
    :param ending: What the statement says after the rows.
    """
    statement = f"INSERT INTO {into(connection, table, columns)} VALUES "
    raw: Any = connection.connection.dbapi_connection

    def send(rows: list[bytes]) -> None:
        cursor = raw.cursor()
        try:
            cursor.execute(b"%s(%s)%s" % (statement.encode(), b"),(".join(rows), ending.encode()))
        finally:
            cursor.close()

    def send_all() -> None:
        batch: list[bytes] = []
        size = 0
        for number, row in enumerate(_rows(raw, columns)):
            if batch and size + len(row) > _STATEMENT:
                send(batch)
                batch, size = [], 0
            if len(row) > _STATEMENT:
                refuse_too_large(number, len(row))
            batch.append(row)
            size += len(row)
        if batch:
            send(batch)

    run_on_driver(connection, statement, send_all)


def _rows(raw: Any, columns: Columns) -> Iterable[bytes]:
    """Return rows without their brackets."""
    return map(b",".join, zip(*(_literals(raw, values) for values in columns.values()), strict=True))


def _literals(raw: Any, values: Sequence[Any]) -> Iterable[bytes]:
    """Return values of a column as they stand in a statement."""

    def string(value: str) -> bytes:
        escaped: bytes = raw.string_literal(value.encode())
        return escaped

    def moment(value: datetime) -> bytes:
        return string(f"{(utc(value) or value).replace(tzinfo=None)}")

    writers: dict[type, Callable[[Any], bytes]] = {
        type(None): lambda value: b"NULL",
        str: string,
        int: lambda value: b"%d" % value,
        # Without an exponent it would be a decimal number.
        float: lambda value: (text if "e" in (text := repr(value)) else f"{text}e0").encode(),
        datetime: moment,
    }

    def literal(value: object) -> bytes:
        write: Callable[[Any], bytes] = writers.get(type(value), raw.literal)
        return write(value)

    different = set(values)
    if len(different) * 2 <= len(values):
        # Ids, speakers, languages and indexes come again and again.
        return map({value: literal(value) for value in different}.__getitem__, values)
    kinds = set(map(type, different))
    return map(writers.get(kinds.pop(), literal) if len(kinds) == 1 else literal, values)
