"""From a connection id to the database behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException

from plaud_provider.exceptions import PlaudConfigurationError

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from plaud_provider.database.database import Database
    from plaud_provider.database.dialect import Dialect


def open_database(
    conn_id: str,
    *,
    role: str = "warehouse",
    parameter: str = "sql_conn_id",
    keeps_connection: bool = False,
) -> Database:
    """
    Return the database behind a connection. Nothing is opened yet.

    :param conn_id: Airflow connection of a database with a ``common-sql`` hook.
    :param role: What it is used as, for messages.
    :param parameter: Argument that names its connection, for messages.
    :param keeps_connection: Whether a connection to a server may be kept between transactions. Close the
        database then.
    :raises PlaudConfigurationError: if there is no such connection, no provider for its type, or it is no
        database.
    """
    from plaud_provider.database.database import Database

    hook = _hook(conn_id, parameter)
    dialect = _dialect_of(hook.conn_type)(hook, parameter=parameter, keeps_connection=keeps_connection)
    return Database(hook, dialect, role=role, parameter=parameter)


def _dialect_of(conn_type: str) -> type[Dialect]:
    # Only the one that is needed: each imports what it takes to speak to its database.
    if conn_type == "postgres":
        from plaud_provider.database.postgresql import PostgresDialect

        return PostgresDialect
    if conn_type == "sqlite":
        from plaud_provider.database.sqlite import SqliteDialect

        return SqliteDialect
    if conn_type == "duckdb":
        from plaud_provider.database.duckdb import DuckDbDialect

        return DuckDbDialect
    from plaud_provider.database.dialect import Dialect

    return Dialect


def _hook(conn_id: str, parameter: str) -> DbApiHook:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise PlaudConfigurationError(
            f"{parameter}: there is no Airflow connection {conn_id!r}. Create it (Admin > Connections, "
            f"or AIRFLOW_CONN_{conn_id.upper()}) or pass the id of the database's connection. Nothing "
            "was sent."
        ) from None
    # Each lookup is a request to Airflow: this hook takes what has been looked up.
    given = {"connection": connection} if connection.conn_type == "postgres" else None
    try:
        hook = connection.get_hook(hook_params=given)
    except (AirflowException, ImportError):
        raise PlaudConfigurationError(
            f"{parameter}: no installed provider knows the type {connection.conn_type!r} of connection "
            f"{conn_id!r}. Install it (pip install 'airflow-provider-plaud[duckdb]' or [postgres] "
            "for these) or correct the connection's type. Nothing was sent."
        ) from None
    if not isinstance(hook, DbApiHook):
        raise PlaudConfigurationError(
            f"{parameter}: connection {conn_id!r} is of type {connection.conn_type!r}, which is not a "
            "SQL database. Pass the id of a database's connection. Nothing was sent."
        )
    return hook
