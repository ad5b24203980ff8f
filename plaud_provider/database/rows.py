"""Rows as the ledger and the warehouse write them: one by one, or as the values of each column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")

Row = dict[str, Any]
#: Many rows as a list of values for each column: of many segments that is made in a third of the time.
Columns = dict[str, list[Any]]

#: Characters of a large text that are handed on at once.
_PIECE = 1024 * 1024
#: Rows per statement.
_BATCH = 20_000
#: Rows with so many characters are written in ways that make fewer copies of them.
LARGE_CHARACTERS = 4 * 1024 * 1024


def columns_of(rows: Sequence[Row]) -> Columns:
    """Return rows, all with the same columns, as the values of each column."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def rows_of(columns: Columns) -> list[Row]:
    """Return what :func:`columns_of` has taken apart."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Return ``items`` in sequences of at most ``size``."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def parts(columns: Columns) -> Iterator[Columns]:
    """Yield rows in parts that fit into a statement."""
    count = len(next(iter(columns.values()), ()))
    for start in range(0, count, _BATCH):
        yield {name: values[start : start + _BATCH] for name, values in columns.items()}


def pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces, of which little is in memory once more."""
    for start in range(0, len(text), _PIECE):
        yield text[start : start + _PIECE]


def are_large(rows: Sequence[Row]) -> bool:
    """Whether rows have texts of several megabytes."""
    characters = sum(len(value) for row in rows for value in row.values() if isinstance(value, str))
    return characters >= LARGE_CHARACTERS


def split_by_size(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows that have a large text, and the others."""
    return [row for row in rows if has_large_text(row)], [row for row in rows if not has_large_text(row)]


def has_large_text(row: Row) -> bool:
    """Whether a row has a text of a megabyte or more."""
    return any(map(_is_large, row.values()))


def taken_out(row: Row) -> dict[str, str]:
    """Take the large texts out of a row: whoever gets them is the only one who has them."""
    large = {name: value for name, value in row.items() if _is_large(value)}
    row.update(dict.fromkeys(large))
    return large


def _is_large(value: object) -> bool:
    return isinstance(value, str) and len(value) >= _PIECE
