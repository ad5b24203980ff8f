"""Whether tables that are already there can hold our rows; what is missing is created or added."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import (
    CreateIndex,
    CreateTable,
    DropIndex,
    ExecutableDDLElement,
    SetColumnComment,
    SetTableComment,
)
from sqlalchemy.sql import quoted_name

from plaud_provider.database.dialect import code_of
from plaud_provider.database.types import JsonText
from plaud_provider.exceptions import PlaudTableMismatchError, PlaudWarehouseError

if TYPE_CHECKING:
    from plaud_provider.database.dialect import Dialect
    from plaud_provider.database.tables import DeclaredTables

log = logging.getLogger(__name__)

#: From 255 bytes to 4 GB.
_MYSQL_TEXTS: tuple[type, ...] = (mysql.TINYTEXT, mysql.TEXT, mysql.MEDIUMTEXT, mysql.LONGTEXT)


def create_or_check(
    connection: sa.Connection, *, tables: DeclaredTables, dialect: Dialect, title: str
) -> list[CreateView]:
    """
    Create tables that are not there, and compare those that are with what we need.

    What a table of an earlier version lacks is added: columns that may be empty; indexes, if this role may.

    :param connection: Where.
    :param tables: What we need.
    :param dialect: What this kind of database does in its own way.
    :param title: What they are in, for messages.
    :return: What makes the views that are not there.
    :raises PlaudTableMismatchError: that names every column that does not fit.
    :raises PlaudConfigurationError: if no table of this database would do.
    :raises PlaudWarehouseError: if there is no such schema.
    """
    dialect.refuse_unsuited(connection, title)
    inspector = sa.inspect(connection)
    if tables.schema is not None and not inspector.has_schema(tables.schema):
        raise PlaudWarehouseError(
            f"schema: {title} has no schema {tables.schema!r}. Create it (it is not created here), or "
            "correct the name; names are taken literally, upper and lower case included. Nothing was written."
        )
    new = [table for table in tables.parameters if not inspector.has_table(table.name, table.schema)]
    there = [table for table in tables.parameters if table not in new]
    missing: list[sa.Column[Any]] = []
    problems = {table: list(_problems(inspector, dialect, table, missing)) for table in there}
    for table in there:
        own = dialect.problems(connection, table)
        ours = {None, *(column.name.casefold() for column in table.columns)}
        problems[table].extend(problem for name, problem in own.items() if name in ours)
    for table in tables.keyed.intersection(there):
        key = frozenset(table.primary_key.columns.keys())
        if key not in keys(inspector, dialect, table) and not _is_view(inspector, table):
            problems[table].append(f"{', '.join(map(repr, sorted(key)))} is not its primary key")
    _refuse(tables, problems, title)
    if not all(_is_added(connection, column) for column in missing):
        for column in missing:
            # As a person runs it, a statement has no parameters.
            statement = str(_AddColumn(column).compile(dialect=connection.dialect)).replace("%%", "%")
            problems[column.table].append(
                f"column {column.name!r} is missing, {column.type.compile(dialect=connection.dialect)} is "
                f"needed, and this role may not add it; its owner may: {statement}"
            )
        _refuse(tables, problems, title)
    for column in missing:
        log.info("Added column %s to table %s of an earlier version", column.name, column.table.fullname)
    for table in there:
        _add_indexes(connection, inspector, table)
    for table in new:
        _create(connection, table)
    longest = connection.dialect.max_identifier_length
    return [
        CreateView(name, tables.schema, query)
        for name, query in tables.views.items()
        if len(name.encode()) <= longest and not inspector.has_table(name, tables.schema)
    ]


def keys(inspector: sa.Inspector, dialect: Dialect, table: sa.Table) -> set[frozenset[str]]:
    """
    Return the columns of a table's primary key and of each other that keeps two rows apart at once.

    :param inspector: SQLAlchemy's inspector of the database.
    :param dialect: What this kind of database does in its own way.
    :param table: The table.
    """
    where = (table.name, table.schema)
    primary = inspector.get_pk_constraint(*where)
    unique = inspector.get_unique_constraints(*where)
    found: list[tuple[str | None, Sequence[str | None]]] = [
        (primary["name"], primary["constrained_columns"]),
        *((key["name"], key["column_names"]) for key in unique),
    ]
    for index in inspector.get_indexes(*where):
        is_partial = any(option.endswith("_where") for option in index.get("dialect_options", {}))
        # Of an expression the inspector knows no column.
        if index["unique"] and not is_partial and None not in index["column_names"]:
            found.append((index["name"], index["column_names"]))
    unusable = dialect.unusable_keys(inspector, table)
    return {
        frozenset(_named(name, dialect) for name in columns) for key, columns in found if key not in unusable
    }


def _problems(
    inspector: sa.Inspector, dialect: Dialect, table: sa.Table, missing: list[sa.Column[Any]]
) -> Iterable[str]:
    """Yield what does not fit about a table that is there; a column that can be added joins ``missing``."""
    if _is_view(inspector, table):
        yield "it is a view, a table is needed"
        return
    there = _columns(inspector, dialect, table)
    spellings = {name.casefold(): name for name in there}
    for column in table.columns:
        needed = column.type.compile(dialect=inspector.dialect)
        match = there.pop(_named(column.name, dialect), None)
        if match is None:
            if (other := spellings.get(column.name.casefold())) is not None:
                yield f"column {other!r} is not {column.name!r}: upper and lower case differ here"
            elif column.nullable:
                missing.append(column)
            else:
                yield f"column {column.name!r} is missing, {needed} is needed"
        elif match.get("computed") or (match.get("identity") or {}).get("always"):
            yield f"column {column.name!r} is generated by the database, and takes no value"
        elif not holds(match["type"], inspector.dialect, column):
            yield f"column {column.name!r} is {_shown(match['type'], inspector.dialect)}, {needed} is needed"
        elif column.nullable and not match["nullable"]:
            yield f"column {column.name!r} is NOT NULL, but not every row has a value"
    unfilled = [one for one in there.values() if not one["nullable"] and not _has_default(one)]
    filled = dialect.filled(inspector, table) if unfilled else ()
    for extra in unfilled:
        if extra["name"] not in filled:
            yield f"column {extra['name']!r} is NOT NULL without a default, and nothing here fills it"


def _refuse(tables: DeclaredTables, problems: dict[sa.Table, list[str]], title: str) -> None:
    complaints = [
        f"Table {table.fullname!r} of {title} does not fit: {'; '.join(problems[table])}. Change it, move it "
        f"away (it is then created anew), or name another one in {tables.parameters[table]}."
        for table in problems
        if problems[table]
    ]
    if complaints:
        raise PlaudTableMismatchError(f"{' '.join(complaints)} Nothing was written.")


def _is_view(inspector: sa.Inspector, table: sa.Table) -> bool:
    views = set(inspector.get_view_names(table.schema))
    with suppress(NotImplementedError):
        views.update(inspector.get_materialized_view_names(table.schema))
    return table.name in views


def _columns(inspector: sa.Inspector, dialect: Dialect, table: sa.Table) -> dict[str, Any]:
    return {
        _named(column["name"], dialect): column for column in inspector.get_columns(table.name, table.schema)
    }


def _named(name: str | None, dialect: Dialect) -> str:
    """Return a name as this database tells it from others."""
    return str(name) if dialect.tells_cases_apart else str(name).casefold()


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
    if (
        dialect.name == "mysql"
        and (answer := _holds_in_mysql(there, needed.dialect_impl(dialect))) is not None
    ):
        return answer
    is_text = isinstance(there, sa.String) and not isinstance(there, (sa.CHAR, sa.NCHAR, sa.Enum))
    length = getattr(there, "length", None)
    if isinstance(needed, JsonText):
        return isinstance(there, sa.JSON) or (is_text and length is None)
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
    if isinstance(needed, sa.Date):
        return isinstance(there, sa.Date) or (is_sqlite and is_text and length is None)
    return (isinstance(there, sa.DateTime) and (is_sqlite or there.timezone)) or (
        is_sqlite and is_text and length is None
    )


def _holds_in_mysql(there: sa.types.TypeEngine[Any], needed: sa.types.TypeEngine[Any]) -> bool | None:
    """Answer for the types whose limits SQLAlchemy does not tell; ``None`` for all others."""
    if isinstance(needed, sa.types.TypeDecorator):
        needed = needed.impl_instance
    if type(there) in _MYSQL_TEXTS:
        size = _MYSQL_TEXTS.index(type(there))
        return isinstance(needed, sa.String) and size >= _MYSQL_TEXTS.index(
            type(needed) if type(needed) in _MYSQL_TEXTS else mysql.TEXT
        )
    if isinstance(there, (mysql.TINYINT, mysql.MEDIUMINT)):
        return isinstance(needed, sa.Boolean)
    if isinstance(there, (mysql.DATETIME, mysql.TIMESTAMP)):
        return isinstance(needed, sa.DateTime) and there.fsp == 6
    return None


def _is_single(there: sa.Float[Any]) -> bool:
    return isinstance(there, sa.REAL) or (there.precision is not None and there.precision <= 24)


def _create(connection: sa.Connection, table: sa.Table) -> None:
    connection.execute(_CreateTable(table))
    # DuckDB scans a column faster than it keeps an index.
    for index in table.indexes if connection.dialect.name != "duckdb" else ():
        connection.execute(CreateIndex(index))
    if _has_comments_apart(connection):
        connection.execute(SetTableComment(table))
        for column in table.columns:
            _comment(connection, column)


def _add_indexes(connection: sa.Connection, inspector: sa.Inspector, table: sa.Table) -> None:
    """
    Create the indexes that a table of an earlier version lacks, or has with other columns.

    Nothing but speed depends on them: where this role may not, the log says what their owner may do.
    """
    if connection.dialect.name == "duckdb":
        return
    there = {one["name"]: [*one["column_names"]] for one in inspector.get_indexes(table.name, table.schema)}
    for index in sorted(table.indexes, key=lambda one: str(one.name)):
        columns = there.get(index.name)
        if columns == [*index.columns.keys()]:
            continue
        try:
            with connection.begin_nested():
                if columns is not None:
                    connection.execute(DropIndex(index, if_exists=True))
                connection.execute(CreateIndex(index, if_not_exists=connection.dialect.name != "mysql"))
        except DBAPIError as error:
            statement = str(CreateIndex(index).compile(dialect=connection.dialect))
            log.warning("This role may not do so (%s), and pages are slow: %s", code_of(error), statement)
        else:
            log.info("Brought index %s of table %s up to date", index.name, table.fullname)


def _has_comments_apart(connection: sa.Connection) -> bool:
    """Whether comments are statements of their own; MySQL has them in those that create."""
    return connection.dialect.supports_comments and not connection.dialect.inline_comments


def _comment(connection: sa.Connection, column: sa.Column[Any]) -> None:
    if column.comment is not None:
        connection.execute(SetColumnComment(column))


def _is_added(connection: sa.Connection, column: sa.Column[Any]) -> bool:
    """Add a column, unless another task did; return whether this role may."""
    try:
        connection.execute(_AddColumn(column))
    except DBAPIError as error:
        if not code_of(error).startswith("42"):
            raise
        return False
    if _has_comments_apart(connection):
        _comment(connection, column)
    return True


class _CreateTable(CreateTable):
    """``CREATE TABLE`` with the comment in it, where a database has no other place."""


@compiles(_CreateTable, "sqlite")
def _with_comment(element: _CreateTable, compiler: Any, **options: Any) -> str:
    # SQLite keeps the text of the statement.
    start, _, end = compiler.visit_create_table(element, **options).rpartition(")")
    return f"{start}/* {element.element.comment} */\n){end}"


class CreateView(ExecutableDDLElement):
    """
    ``CREATE VIEW``.

    :param name: Its name, taken literally.
    :param schema: Schema that it is in; ``None`` for the connection's own.
    :param query: What it shows.
    """

    def __init__(self, name: str, schema: str | None, query: sa.Select[Any]) -> None:
        self.name = quoted_name(name, quote=True)
        self.schema = schema
        self.query = query


@compiles(CreateView)
def _create_view(element: CreateView, compiler: Any, **_: Any) -> str:
    name = compiler.preparer.format_table(sa.table(element.name, schema=element.schema))
    return f"CREATE VIEW {name} AS {compiler.sql_compiler.process(element.query, literal_binds=True)}"


@compiles(CreateView, "postgresql")
def _create_view_of_a_function(element: CreateView, compiler: Any, **_: Any) -> str:
    # PostgreSQL lets nobody alter, move or drop what a view shows. A function looks its tables up when it is
    # called, so that what is there for convenience is in nobody's way; the planner takes it for its query.
    name = compiler.preparer.format_table(sa.table(element.name, schema=element.schema))
    query = compiler.sql_compiler.process(element.query, literal_binds=True)
    columns = ", ".join(
        f"{compiler.preparer.quote(column.name)} {column.type.compile(dialect=compiler.dialect)}"
        for column in element.query.selected_columns
    )
    made = f"RETURNS TABLE ({columns}) LANGUAGE sql STABLE AS {_text(query)}"
    create = f"CREATE OR REPLACE FUNCTION {name}() {made}; CREATE VIEW {name} AS SELECT * FROM {name}()"
    return f"DO {_text(f'BEGIN {create}; END')}"


def _text(sql: str) -> str:
    return "'" + sql.replace("'", "''") + "'"


class _AddColumn(ExecutableDDLElement):
    """
    ``ALTER TABLE ... ADD COLUMN``.

    :param column: The column, which may be empty.
    """

    def __init__(self, column: sa.Column[Any]) -> None:
        self.column = column


@compiles(_AddColumn)
def _add_column(element: _AddColumn, compiler: Any, **_: Any) -> str:
    # Another task may be faster; SQLite, which takes one writer at a time, does not know the words.
    guard = "IF NOT EXISTS " if compiler.dialect.name in ("postgresql", "duckdb") else ""
    word = "ADD" if compiler.dialect.name == "mssql" else "ADD COLUMN"
    table = compiler.preparer.format_table(element.column.table)
    return f"ALTER TABLE {table} {word} {guard}{compiler.get_column_specification(element.column)}"
