"""Which loader serves which type of connection; everything else is refused by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from plaud_provider.database.connections import kind_of, look_up, with_extra
from plaud_provider.exceptions import PlaudConfigurationError, PlaudInputError

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from plaud_provider.database.dialect import Dialect
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.warehouse.lake import Lake
    from plaud_provider.warehouse.loaders.loader import Loader
    from plaud_provider.warehouse.tables import PlaudTables


log = logging.getLogger(__name__)

#: In a connection's extra, for who insists on a database that this package was not made for.
_GENERIC = "generic_sql"


def _rows(connection: Connection, tables: PlaudTables) -> Loader:
    from plaud_provider.database.database import open_database
    from plaud_provider.warehouse.loaders.rows import RowsLoader

    return RowsLoader(open_database(str(connection.conn_id), connection=connection), tables)


def _rows_by(hook: Any, dialect: type[Dialect], tables: PlaudTables) -> Loader:
    """Return the loader of rows for a kind of database that keeps no ledger."""
    from plaud_provider.database.database import Database
    from plaud_provider.warehouse.loaders.rows import RowsLoader

    made = dialect(hook, parameter="sql_conn_id")
    return RowsLoader(Database(hook, made, role="warehouse", parameter="sql_conn_id"), tables)


def _mssql(connection: Connection, tables: PlaudTables) -> Loader:
    from plaud_provider.database.connections import hook_of
    from plaud_provider.database.mssql import MsSqlDialect

    log.info("SQL Server: built and tested as far as it goes without one (`plaud docs mssql`)")
    return _rows_by(hook_of(connection, parameter="sql_conn_id"), MsSqlDialect, tables)


def _clickhouse(connection: Connection, tables: PlaudTables) -> Loader:
    from plaud_provider.warehouse.loaders.clickhouse import ClickHouseLoader

    return ClickHouseLoader(connection, tables)


def _snowflake(connection: Connection, tables: PlaudTables) -> Loader:
    from plaud_provider.warehouse.loaders.snowflake import SnowflakeLoader

    return SnowflakeLoader(connection, tables)


def _bigquery(connection: Connection, tables: PlaudTables) -> Loader:
    from plaud_provider.warehouse.loaders.bigquery import BigQueryLoader

    return BigQueryLoader(connection, tables)


def _redshift(connection: Connection, tables: PlaudTables) -> Loader:
    from plaud_provider.warehouse.loaders.redshift import RedshiftLoader

    return RedshiftLoader(connection, tables)


def _databricks(connection: Connection, tables: PlaudTables) -> Loader:
    from plaud_provider.warehouse.loaders.databricks import DatabricksLoader

    return DatabricksLoader(connection, tables)


def _generic(connection: Connection, tables: PlaudTables) -> Loader:
    from plaud_provider.database.connections import hook_of
    from plaud_provider.database.generic import GenericDialect

    extra = {name: value for name, value in connection.extra_dejson.items() if name != _GENERIC}
    bare = with_extra(connection, extra)
    hook = hook_of(bare, parameter="sql_conn_id")
    if not hasattr(hook, "get_sqlalchemy_engine"):
        raise _not_served(connection)
    hook.get_connection = lambda _: bare
    log.warning(
        "Connection %s is of type %r, which airflow-provider-plaud was not made and tested for; %s is set, "
        "so rows are landed by SQLAlchemy alone, after a check in a scratch table. Two tasks that "
        "land one recording at once may be in each other's way.",
        connection.conn_id,
        connection.conn_type,
        _GENERIC,
    )
    return _rows_by(hook, GenericDialect, tables)


class Choice(NamedTuple):
    """
    How one type of connection is served.

    :param title: What people call what it leads to.
    :param make: Makes the loader; imports what that needs, and opens nothing.
    """

    title: str
    make: Callable[[Connection, PlaudTables], Loader]


#: By the type of the Airflow connection.
LOADERS: Mapping[str, Choice] = {
    "postgres": Choice("PostgreSQL", _rows),
    "mysql": Choice("MySQL or MariaDB", _rows),
    "duckdb": Choice("DuckDB", _rows),
    "sqlite": Choice("SQLite", _rows),
    "clickhouse": Choice("ClickHouse", _clickhouse),
    "snowflake": Choice("Snowflake", _snowflake),
    "gcpbigquery": Choice("BigQuery", _bigquery),
    "google_cloud_platform": Choice("BigQuery", _bigquery),
    "redshift": Choice("Redshift", _redshift),
    "databricks": Choice("Databricks", _databricks),
    "mssql": Choice("SQL Server, Azure SQL or Fabric's SQL database", _mssql),
}


def _lake(lake: Lake, tables: PlaudTables) -> Loader:
    """Return the loader of a lake's format; each imports a library of its own."""
    if lake.format == "iceberg":
        from plaud_provider.warehouse.loaders.iceberg import IcebergLoader

        return IcebergLoader(lake, tables)
    if lake.format == "delta":
        from plaud_provider.warehouse.loaders.delta import DeltaLoader

        return DeltaLoader(lake, tables)
    from plaud_provider.warehouse.loaders.parquet import ParquetLoader

    return ParquetLoader(lake, tables)


def choose_loader(
    sql_conn_id: str | None, tables: PlaudTables, *, lake: Lake | None = None, ledger: Ledger | None = None
) -> Loader:
    """
    Return the loader of the warehouse behind a connection, of a lake, or of both. Nothing is opened.

    :param sql_conn_id: The connection; ``None`` for the lake alone.
    :param tables: Tables to write.
    :param lake: A lake to land in as well, or alone.
    :param ledger: A ledger that is open; if it is behind the same connection, what it has open is used.
    :raises PlaudConfigurationError: if there is no such connection, or none of its type is served.
    """
    if lake is not None:
        lake_loader = _lake(lake, tables)
        if sql_conn_id is None:
            return lake_loader
        from plaud_provider.warehouse.loaders.both import BothLoader

        return BothLoader(choose_loader(sql_conn_id, tables, ledger=ledger), lake_loader)
    if sql_conn_id is None:
        raise PlaudInputError(
            "sql_conn_id: it is empty, and lake_path too, so transcripts have no place to land. Pass a "
            "connection of a warehouse, or a folder for a lake. Nothing was sent."
        )
    if ledger is not None and ledger.conn_id == sql_conn_id:
        from plaud_provider.warehouse.loaders.rows import RowsLoader

        return RowsLoader(ledger.database.as_warehouse(), tables)
    connection = look_up(sql_conn_id, parameter="sql_conn_id")
    return _choice(connection).make(connection, tables)


def refuse_unserved(sql_conn_id: str) -> None:
    """
    Refuse a connection that no loader serves, before anything is paid for. Nothing is opened.

    :param sql_conn_id: The connection.
    :raises PlaudConfigurationError: if there is no such connection, or none of its type is served.
    """
    _choice(look_up(sql_conn_id, parameter="sql_conn_id"))


def _choice(connection: Connection) -> Choice:
    kind = kind_of(connection)
    if kind == "redshift" != connection.conn_type:
        raise PlaudConfigurationError(
            f"sql_conn_id: connection {connection.conn_id!r} leads to Redshift through PostgreSQL's hook. "
            "Make it one of type 'redshift', which has what Redshift needs. Nothing was sent."
        )
    if (choice := LOADERS.get(kind)) is not None:
        return choice
    if connection.extra_dejson.get(_GENERIC) is True:
        return Choice(kind, _generic)
    raise _not_served(connection)


def _not_served(connection: Connection) -> PlaudConfigurationError:
    kind = kind_of(connection)
    served = ", ".join(f"{choice.title} ({name!r})" for name, choice in LOADERS.items())
    return PlaudConfigurationError(
        f"sql_conn_id: connection {connection.conn_id!r} is of type {kind!r}. Transcripts are not landed "
        "there, as this package has not been made and tested for it: texts could be cut, or rows left "
        f"half written. Pass a connection to one of these: {served}. Who insists sets "
        f'"{_GENERIC}": true in its extra (`plaud docs warehouses`). Nothing was sent.'
    )
