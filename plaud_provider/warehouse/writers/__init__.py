"""One writer per kind of database that is worth it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from plaud_provider.warehouse.tables import PlaudTables
    from plaud_provider.warehouse.writers.base import WarehouseWriter


def writer_for(hook: DbApiHook, tables: PlaudTables) -> WarehouseWriter:
    """
    Return the writer for a warehouse. Nothing is opened yet.

    :param hook: Hook of the warehouse.
    :param tables: Tables to write.
    """
    if hook.conn_type == "duckdb":
        from plaud_provider.warehouse.writers.duckdb import DuckDbWriter

        return DuckDbWriter(hook, tables)
    from plaud_provider.warehouse.writers.sqlalchemy import SqlAlchemyWriter

    return SqlAlchemyWriter(hook, tables)
