"""
How SQLAlchemy speaks to DuckDB, over connections that the Airflow hook opens.

DuckDB speaks PostgreSQL's SQL: SQLAlchemy's dialect for it writes the statements, and what it would ask
PostgreSQL's catalog is asked of DuckDB's own. There is a package for this, ``duckdb-sqlalchemy``; its last
release (1.5.6.5) refuses DuckDB 2 as "not supported yet". ``duckdb-engine``, which the hook's own
``get_sqlalchemy_engine`` would need, fails with today's versions as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import duckdb
import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.base import PGCompiler, PGDialect, PGIdentifierPreparer
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.pool import NullPool

# A name of our own: that of either package may be taken.
_NAME = "plaud_duckdb"
registry.register(_NAME, __name__, "_DuckDb")


def create_engine(connect: Callable[[], duckdb.DuckDBPyConnection]) -> sa.Engine:
    """
    Return an engine that keeps no connection.

    :param connect: Opens the database.
    """
    return sa.create_engine(
        f"{_NAME}://",
        creator=lambda: _Connection(connect()),
        poolclass=NullPool,
        # SQLAlchemy's errors and logs would quote the rows otherwise.
        hide_parameters=True,
    )


class _Connection:
    """
    A DuckDB connection as SQLAlchemy takes it.

    DuckDB's own ``cursor()`` is another connection, with a transaction of its own.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._is_in_transaction = False
        # Closing the file writes a checkpoint anyhow; done at the commit, it spares the write-ahead log,
        # which takes as much memory again as a long transcript.
        with suppress(duckdb.Error):  # Its configuration may be locked.
            connection.execute("SET checkpoint_threshold = '0KB'")

    def cursor(self) -> _Cursor:
        return _Cursor(self._connection)

    def register(self, name: str, rows: Any) -> None:
        """Let statements of this connection read a table of Arrow by a name."""
        self._connection.register(name, rows)

    def unregister(self, name: str) -> None:
        """Forget it."""
        self._connection.unregister(name)

    def begin(self) -> None:
        self._connection.begin()
        self._is_in_transaction = True

    def commit(self) -> None:
        # One that cannot be committed is gone as well.
        self._is_in_transaction = False
        self._connection.commit()

    def rollback(self) -> None:
        # SQLAlchemy rolls back to be sure, where DuckDB takes it for an error if there is nothing to do.
        if self._is_in_transaction:
            self._is_in_transaction = False
            self._connection.rollback()

    def close(self) -> None:
        self._connection.close()


class _Cursor:
    """One statement and its result."""

    arraysize = 1

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self.description: Any = None
        self.rowcount = -1

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        self._connection.execute(statement, parameters)
        verb = statement.lstrip()[:6].upper()
        self.description, self.rowcount = None, -1
        if verb in ("INSERT", "UPDATE", "DELETE"):
            # DuckDB tells how many rows that were as the one row of the result.
            [[self.rowcount]] = self._connection.fetchall()
        elif verb in ("SELECT", "WITH"):
            # Without the types, which SQLAlchemy would look up and which have no hash in DuckDB 1.4.
            self.description = [(name, *[None] * 6) for name, *_ in self._connection.description or ()]

    def executemany(self, statement: str, parameters: Sequence[Sequence[Any]]) -> None:
        self._connection.executemany(statement, parameters)

    def fetchone(self) -> Any:
        return self._connection.fetchone()

    def fetchmany(self, size: int = 1) -> list[Any]:
        return self._connection.fetchmany(size)

    def fetchall(self) -> list[Any]:
        return self._connection.fetchall()

    def close(self) -> None:
        pass


class _Preparer(PGIdentifierPreparer):
    """
    Writes schemas with their database before them.

    ``"analytics"."plaud_segments"`` alone is ambiguous to DuckDB where the file is called
    ``analytics.duckdb``.
    """

    def quote_schema(self, schema: str) -> str:
        dialect: Any = self.dialect
        return f"{self.quote_identifier(dialect.database)}.{self.quote_identifier(schema)}"


class _Compiler(PGCompiler):
    """Leaves locks of rows out, which DuckDB does not know: one transaction at a time changes a row."""

    def for_update_clause(self, select: Any, **_: Any) -> str:
        return ""


class _Named(sa.types.UserDefinedType[Any]):
    """
    A type that is known by its name only.

    :param name: The name.
    """

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: object) -> str:
        return self.name


class _WholeNumber(_Named, sa.Integer):
    """A type of whole numbers that PostgreSQL does not have."""


_TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "VARCHAR": sa.VARCHAR(),
    "DOUBLE": sa.DOUBLE_PRECISION(),
    "INTEGER": sa.INTEGER(),
    "BIGINT": sa.BIGINT(),
    **{name: _WholeNumber(name) for name in ("UINTEGER", "UBIGINT", "HUGEINT", "UHUGEINT")},
    "BOOLEAN": sa.BOOLEAN(),
    "DATE": sa.DATE(),
    # As text is: of a user's own table.
    "JSON": sa.VARCHAR(),
    "TIMESTAMP WITH TIME ZONE": sa.TIMESTAMP(timezone=True),
}

_SCHEMAS = """
select 1 from information_schema.schemata
where catalog_name = current_database() and lower(schema_name) = lower(?)
"""
_TABLES = """
select table_name from information_schema.tables
where table_catalog = current_database() and lower(table_schema) = lower(coalesce(?, current_schema()))
"""
# Not by their names: DuckDB 1 does not tell what is generated.
_COLUMNS = """
select * from duckdb_columns()
where database_name = current_database() and lower(schema_name) = lower(coalesce(?, current_schema()))
and lower(table_name) = lower(?)
order by column_index
"""
_KEYS = """
select constraint_column_names from duckdb_constraints()
where database_name = current_database() and lower(schema_name) = lower(coalesce(?, current_schema()))
and lower(table_name) = lower(?) and constraint_type = ?
"""


class _DuckDb(PGDialect):
    """SQLAlchemy's dialect of PostgreSQL, as far as DuckDB speaks it, with DuckDB's own catalog."""

    name = "duckdb"
    driver = "duckdb"
    supports_statement_cache = True
    # It takes names of any length.
    max_identifier_length = 1_000_000
    preparer = _Preparer
    statement_compiler = _Compiler
    #: The database that is written to: schemas are in it.
    database = ""

    @classmethod
    def import_dbapi(cls) -> Any:
        return duckdb

    def initialize(self, connection: sa.Connection) -> None:
        self.database = connection.exec_driver_sql("select current_database()").scalar_one()

    def do_begin(self, dbapi_connection: Any) -> None:
        # Without this DuckDB commits each statement.
        dbapi_connection.begin()

    def has_schema(self, connection: sa.Connection, schema: str, **_: Any) -> bool:  # type: ignore[override]
        return bool(connection.exec_driver_sql(_SCHEMAS, (schema,)).all())

    def has_table(
        self, connection: sa.Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> bool:
        query = f"{_TABLES} and lower(table_name) = lower(?)"
        return bool(connection.exec_driver_sql(query, (schema, table_name)).all())

    def get_view_names(self, connection: sa.Connection, schema: str | None = None, **_: Any) -> list[str]:
        return list(connection.exec_driver_sql(f"{_TABLES} and table_type = 'VIEW'", (schema,)).scalars())

    def get_columns(
        self, connection: sa.Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> list[Any]:
        found = connection.exec_driver_sql(_COLUMNS, (schema, table_name)).mappings().all()
        if not found:
            raise NoSuchTableError(table_name)
        return [
            {
                "name": column["column_name"],
                "type": _TYPES.get(column["data_type"]) or _Named(column["data_type"]),
                "nullable": column["is_nullable"],
                "default": column["column_default"],
                "computed": column["generation_expression"] if column.get("is_generated") else None,
            }
            for column in found
        ]

    def get_materialized_view_names(
        self, connection: sa.Connection, schema: str | None = None, **_: Any
    ) -> list[str]:
        return []

    def get_pk_constraint(
        self, connection: sa.Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> Any:
        found = connection.exec_driver_sql(_KEYS, (schema, table_name, "PRIMARY KEY"))
        return {"name": None, "constrained_columns": found.scalar() or []}

    def get_unique_constraints(
        self, connection: sa.Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> Any:
        found = connection.exec_driver_sql(_KEYS, (schema, table_name, "UNIQUE"))
        return [{"name": None, "column_names": columns} for columns in found.scalars()]

    def get_indexes(
        self, connection: sa.Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> list[Any]:
        # DuckDB does not tell which columns an index has; a key made of one is not taken for one.
        return []
