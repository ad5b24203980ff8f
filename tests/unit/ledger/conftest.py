from __future__ import annotations

import pytest

from plaud_provider.ledger.ledger import Ledger
from tests.unit.ledger.ledgers import Clock, ledger_in
from tests.unit.postgres_server import lossy_proxy, postgres_database, postgres_server
from tests.unit.warehouse.conftest import (
    duckdb_warehouse,
    file_warehouse,
    postgres_warehouse,
    sqlite_warehouse,
    warehouse,
)
from tests.unit.warehouse.warehouses import Warehouse

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


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(warehouse: Warehouse, clock: Clock) -> Ledger:
    return ledger_in(warehouse, clock)
