from __future__ import annotations

from tests.unit.postgres_server import lossy_proxy, postgres_database, postgres_server
from tests.unit.warehouse.conftest import (
    duckdb_warehouse,
    file_warehouse,
    postgres_warehouse,
    sqlite_warehouse,
    warehouse,
)

__all__ = [
    "duckdb_warehouse",
    "file_warehouse",
    "lossy_proxy",
    "postgres_database",
    "postgres_server",
    "postgres_warehouse",
    "sqlite_warehouse",
    "warehouse",
]
