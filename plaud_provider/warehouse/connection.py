"""From a connection id to a warehouse or a ledger that is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException

from plaud_provider.exceptions import PlaudConfigurationError

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.warehouse.writer import WarehouseWriter


_KEEP_A_LEDGER = frozenset({"postgres", "sqlite", "duckdb"})
_REDSHIFT = ("redshift", "redshift-serverless")


def open_warehouse(
    sql_conn_id: str,
    schema: str | None = None,
    transcripts_table: str = "plaud_transcripts",
    segments_table: str = "plaud_segments",
    *,
    ledger: Ledger | None = None,
) -> WarehouseWriter:
    """
    Return the writer of a warehouse whose tables are there and fit; they are created if they are not there.

    :param sql_conn_id: Airflow connection of a database with a ``common-sql`` hook.
    :param schema: Schema of both tables; ``None`` for the connection's own. It has to exist.
    :param transcripts_table: Table for transcriptions, taken literally.
    :param segments_table: Table for segments, likewise.
    :param ledger: A ledger that is open; if it is behind the same connection, what it has open is used.
    :raises PlaudConfigurationError: if the connection is missing or is none of a database.
    :raises PlaudInputError: if a name cannot be one.
    :raises PlaudTableMismatchError: if an existing table cannot hold the rows.
    :raises PlaudWarehouseError: if the warehouse is away, locked or refuses.
    """
    from plaud_provider.database import database_for
    from plaud_provider.warehouse.tables import plaud_tables
    from plaud_provider.warehouse.writer import WarehouseWriter

    tables = plaud_tables(schema, transcripts_table, segments_table)
    if ledger is not None and ledger.conn_id == sql_conn_id:
        database = ledger.database.as_warehouse()
    else:
        database = database_for(database_hook(sql_conn_id))
    writer = WarehouseWriter(database, tables)
    writer.ensure_tables()
    return writer


def open_ledger(
    ledger_conn_id: str,
    *,
    schema: str | None = None,
    table: str = "plaud_submissions",
    keeps_connection: bool = False,
) -> Ledger:
    """
    Return the ledger behind a connection; its table is created if it is not there, and checked if it is.

    :param ledger_conn_id: Airflow connection of a PostgreSQL, SQLite or DuckDB database. It may be the
        warehouse's own.
    :param schema: Schema of the table; ``None`` for the connection's own. It has to exist.
    :param table: Name of the table, taken literally.
    :param keeps_connection: Whether a connection may be kept between calls. Close the ledger then.
    :raises PlaudConfigurationError: if the connection is missing, or its database does not enforce keys.
    :raises PlaudInputError: if a name cannot be one.
    :raises PlaudTableMismatchError: if an existing table cannot be the ledger.
    :raises PlaudWarehouseError: if the database is away, locked or refuses.
    """
    from plaud_provider.database import database_for
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.ledger.table import ledger_tables

    tables = ledger_tables(schema, table)
    hook = database_hook(ledger_conn_id, parameter="ledger_conn_id")
    kind = hook.conn_type
    # Redshift is reached by PostgreSQL's hook, and declares keys without enforcing them.
    if kind == "postgres" and any(hook.connection_extra.get(name) for name in _REDSHIFT):
        kind = "redshift"
    if kind not in _KEEP_A_LEDGER:
        raise PlaudConfigurationError(
            f"ledger_conn_id: connection {ledger_conn_id!r} is of type {kind!r}. The ledger needs a "
            "database that enforces keys, or two tasks could pay for one recording: PostgreSQL, SQLite or "
            "DuckDB. It need not be the warehouse. Nothing was sent."
        )
    database = database_for(
        hook, role="ledger", parameter="ledger_conn_id", keeps_connection=keeps_connection
    )
    ledger = Ledger(database, tables)
    try:
        ledger.ensure_table()
    except BaseException:
        ledger.close()
        raise
    return ledger


def database_hook(conn_id: str, *, parameter: str = "sql_conn_id") -> DbApiHook:
    """
    Return the hook of the database behind a connection. Nothing is opened yet.

    :param conn_id: Airflow connection of a database with a ``common-sql`` hook.
    :param parameter: Argument that it was given as, for messages.
    :raises PlaudConfigurationError: if there is no such connection, no provider for its type, or it is no
        database.
    """
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
