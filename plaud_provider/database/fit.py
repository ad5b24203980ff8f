"""Whether tables that are already there can hold our rows; those that are not there are created."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from plaud_provider.exceptions import PlaudTableMismatchError, PlaudWarehouseError

if TYPE_CHECKING:
    from plaud_provider.database.tables import DeclaredTables


def create_or_check(connection: sa.Connection, *, tables: DeclaredTables, title: str) -> None:
    """
    Create tables that are not there, and compare those that are with what we need.

    :param connection: Where.
    :param tables: What we need.
    :param title: What they are in, for messages.
    :raises PlaudTableMismatchError: that names every column that does not fit.
    :raises PlaudWarehouseError: if there is no such schema.
    """
    inspector = sa.inspect(connection)
    schema = tables.schema
    if schema is not None and not inspector.has_schema(schema):
        raise PlaudWarehouseError(
            f"schema: {title} has no schema {schema!r}. Create it (it is not created here), or correct "
            "the name; names are taken literally, upper and lower case included. Nothing was written."
        )
    missing = [table for table in tables.parameters if not inspector.has_table(table.name, schema)]
    complaints = [
        f"Table {table.fullname!r} of {title} does not fit: {'; '.join(problems)}. Change it, move it away "
        f"(it is then created anew), or name another one in {parameter}."
        for table, parameter in tables.parameters.items()
        if table not in missing and (problems := _problems(inspector, table, is_keyed=table in tables.keyed))
    ]
    if complaints:
        raise PlaudTableMismatchError(f"{' '.join(complaints)} Nothing was written.")
    for table in missing:
        connection.execute(CreateTable(table))
        # DuckDB scans a column faster than it keeps an index.
        for index in table.indexes if connection.dialect.name != "duckdb" else ():
            connection.execute(CreateIndex(index))


def has_key(inspector: sa.Inspector, table: sa.Table, columns: frozenset[str]) -> bool:
    """
    Whether a table's primary key, or another unique one, is of exactly these columns.

    :param inspector: SQLAlchemy's inspector of the database.
    :param table: The table.
    :param columns: Their names.
    """
    where = (table.name, table.schema)
    keys = [inspector.get_pk_constraint(*where)["constrained_columns"]]
    keys += [known["column_names"] for known in inspector.get_unique_constraints(*where)]
    for index in inspector.get_indexes(*where):
        is_partial = any(option.endswith("_where") for option in index.get("dialect_options", {}))
        if index["unique"] and not is_partial:
            keys.append([name for name in index["column_names"] if name is not None])
    return columns in [frozenset(name.casefold() for name in key) for key in keys]


def _problems(inspector: sa.Inspector, table: sa.Table, *, is_keyed: bool) -> list[str]:
    """Return what does not fit about a table that is there."""
    if table.name in inspector.get_view_names(table.schema):
        return ["it is a view, a table is needed"]
    dialect = inspector.bind.dialect
    there = {column["name"].casefold(): column for column in inspector.get_columns(table.name, table.schema)}
    problems = []
    for column in table.columns:
        needed = column.type.compile(dialect=dialect)
        match = there.pop(column.name.casefold(), None)
        if match is None:
            problems.append(f"column {column.name!r} is missing, {needed} is needed")
        elif not holds(match["type"], dialect, column):
            problems.append(f"column {column.name!r} is {_shown(match['type'], dialect)}, {needed} is needed")
        elif column.nullable and not match["nullable"]:
            problems.append(f"column {column.name!r} is NOT NULL, but not every row has a value")
    problems += [
        f"column {extra['name']!r} is NOT NULL without a default, and nothing here fills it"
        for extra in there.values()
        if not extra["nullable"] and not _has_default(extra)
    ]
    key = [column.name for column in table.primary_key]
    if is_keyed and not has_key(inspector, table, frozenset(key)):
        problems.append(f"{', '.join(map(repr, key))} is not its primary key")
    return problems


def _has_default(column: Any) -> bool:
    """Whether the database fills a column where a row leaves it out."""
    return bool(
        column.get("default") is not None
        or column.get("identity")
        or column.get("computed")
        or column.get("autoincrement") is True
    )


def _shown(there: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> str:
    return "of no type" if isinstance(there, sa.types.NullType) else there.compile(dialect=dialect)


def holds(there: sa.types.TypeEngine[Any], dialect: sa.Dialect, column: sa.Column[Any]) -> bool:
    """
    Whether a type can hold every value of a column of ours; one that SQLAlchemy does not know may.

    :param there: The type, as SQLAlchemy's inspector describes it.
    :param dialect: SQLAlchemy's dialect of the database.
    :param column: The column of ours.
    """
    needed = column.type
    if isinstance(there, sa.types.NullType) or there.compile(dialect=dialect) == needed.compile(
        dialect=dialect
    ):
        return True
    is_sqlite = dialect.name == "sqlite"
    is_text = isinstance(there, sa.String) and not isinstance(there, (sa.CHAR, sa.NCHAR, sa.Enum))
    length = getattr(there, "length", None)
    if isinstance(needed, sa.Boolean):
        return isinstance(there, sa.Boolean) or (is_sqlite and isinstance(there, sa.Integer))
    if isinstance(needed, sa.String):
        return is_text and (length is None or (needed.length is not None and needed.length <= length))
    if isinstance(needed, sa.Float):
        # SQLite's REAL has 64 bits, that of others 32.
        return isinstance(there, sa.Float) and (is_sqlite or not _is_single(there))
    if isinstance(needed, sa.Integer):
        is_whole = isinstance(there, sa.Numeric) and not isinstance(there, sa.Float) and there.scale == 0
        return is_whole or (isinstance(there, sa.Integer) and not isinstance(there, sa.SmallInteger))
    return (isinstance(there, sa.DateTime) and (is_sqlite or there.timezone)) or (
        is_sqlite and is_text and length is None
    )


def _is_single(there: sa.Float[Any]) -> bool:
    return isinstance(there, sa.REAL) or (there.precision is not None and there.precision <= 24)
