"""How each kind of database is opened, written to and waited for; what is written is not known here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from plaud_provider.database.base import Database


def database_for(
    hook: DbApiHook,
    *,
    role: str = "warehouse",
    parameter: str = "sql_conn_id",
    keeps_connection: bool = False,
) -> Database:
    """
    Return the database behind a hook. Nothing is opened yet.

    :param hook: Its hook.
    :param role: What it is used as, for messages.
    :param parameter: Argument that names its connection, for messages.
    :param keeps_connection: Whether a connection may be kept between transactions. Close the database then.
    """
    if hook.conn_type == "duckdb":
        from plaud_provider.database.duckdb import DuckDbDatabase

        return DuckDbDatabase(hook, role=role, parameter=parameter)
    from plaud_provider.database.sqlalchemy import SqlAlchemyDatabase

    return SqlAlchemyDatabase(hook, role=role, parameter=parameter, keeps_connection=keeps_connection)
