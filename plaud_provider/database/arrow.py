"""Columns and rows as Arrow has them, for what takes Arrow itself, or Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from plaud_provider.database.content import Content, content_of

if TYPE_CHECKING:
    import sqlalchemy as sa

    from plaud_provider.database.rows import Columns


def arrow_type(column: sa.Column[Any]) -> Any:
    """
    Return the type of Arrow that a column has: times are in UTC with microseconds, JSON is text.

    :param column: The column.
    """
    import pyarrow as pa

    types = {
        Content.DOUBLE: pa.float64(),
        Content.INTEGER: pa.int32(),
        Content.TIME: pa.timestamp("us", tz="UTC"),
        Content.DATE: pa.date32(),
        Content.BOOLEAN: pa.bool_(),
    }
    return types.get(content_of(column), pa.string())


def arrow_schema(columns: Iterable[tuple[str, sa.Column[Any]]]) -> Any:
    """
    Return columns as a schema of Arrow.

    :param columns: The columns, each with its name.
    """
    import pyarrow as pa

    return pa.schema([pa.field(name, arrow_type(one), bool(one.nullable)) for name, one in columns])


def arrow_table(columns: Columns, schema: Any, in_all: Mapping[str, Any] | None = None) -> Any:
    """
    Return rows as a table of Arrow.

    :param columns: Rows.
    :param schema: Columns of the table that they go to; those that are told nowhere are null.
    :param in_all: Values of columns that are the same in all rows.
    """
    import pyarrow as pa

    count, told = len(next(iter(columns.values()))), in_all or {}
    return pa.table(
        [
            pa.array(columns[field.name], field.type)
            if field.name in columns
            else pa.repeat(pa.scalar(told.get(field.name), field.type), count)
            for field in schema
        ],
        schema=schema,
    )
