"""From a connection id to a warehouse that is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException

from plaud_provider.exceptions import PlaudConfigurationError

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from plaud_provider.warehouse.writers.base import WarehouseWriter


def open_warehouse(
    sql_conn_id: str,
    schema: str | None = None,
    transcripts_table: str = "plaud_transcripts",
    segments_table: str = "plaud_segments",
) -> WarehouseWriter:
    """
    Return the writer of a warehouse whose tables are there and fit; they are created if they are not there.

    :param sql_conn_id: Airflow connection of a database with a ``common-sql`` hook.
    :param schema: Schema of both tables; ``None`` for the connection's own. It has to exist.
    :param transcripts_table: Table for transcriptions, taken literally.
    :param segments_table: Table for segments, likewise.
    :raises PlaudConfigurationError: if the connection is missing or is none of a database.
    :raises PlaudInputError: if a name cannot be one.
    :raises PlaudTableMismatchError: if an existing table cannot hold the rows.
    :raises PlaudWarehouseError: if the warehouse is away, locked or refuses.
    """
    from plaud_provider.warehouse.tables import plaud_tables
    from plaud_provider.warehouse.writers import writer_for

    tables = plaud_tables(schema, transcripts_table, segments_table)
    writer = writer_for(warehouse_hook(sql_conn_id), tables)
    writer.ensure_tables()
    return writer


def warehouse_hook(sql_conn_id: str) -> DbApiHook:
    """
    Return the hook of the warehouse behind a connection. Nothing is opened yet.

    :param sql_conn_id: Airflow connection of a database with a ``common-sql`` hook.
    :raises PlaudConfigurationError: if there is no such connection, no provider for its type, or it is no
        database.
    """
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    try:
        connection = BaseHook.get_connection(sql_conn_id)
    except AirflowNotFoundException:
        raise PlaudConfigurationError(
            f"sql_conn_id: there is no Airflow connection {sql_conn_id!r}. Create it (Admin > Connections, "
            f"or AIRFLOW_CONN_{sql_conn_id.upper()}) or pass the id of the warehouse's connection. Nothing "
            "was sent."
        ) from None
    try:
        hook = connection.get_hook()
    except (AirflowException, ImportError):
        raise PlaudConfigurationError(
            f"sql_conn_id: no installed provider knows the type {connection.conn_type!r} of connection "
            f"{sql_conn_id!r}. Install it (for DuckDB: pip install 'airflow-provider-plaud[duckdb]') or "
            "correct the connection's type. Nothing was sent."
        ) from None
    if not isinstance(hook, DbApiHook):
        raise PlaudConfigurationError(
            f"sql_conn_id: connection {sql_conn_id!r} is of type {connection.conn_type!r}, which is not a "
            "SQL database. Pass the id of the warehouse's connection. Nothing was sent."
        )
    return hook
