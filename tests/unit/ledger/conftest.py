from __future__ import annotations

import os
from pathlib import Path

import pytest

from plaud_provider.ledger.ledger import Ledger
from tests.unit.ledger.ledgers import Clock, ledger_in
from tests.unit.postgres_server import lossy_proxy, postgres_database, postgres_server
from tests.unit.warehouse.conftest import (
    duckdb_warehouse,
    file_warehouse,
    postgres_warehouse,
    sqlite_warehouse,
)
from tests.unit.warehouse.warehouses import KINDS, Warehouse, connected, connected_postgres
from tests.warehouses.mariadb_server import connected_mariadb, mariadb_database, mariadb_server

__all__ = [
    "duckdb_warehouse",
    "file_warehouse",
    "lossy_proxy",
    "mariadb_database",
    "mariadb_server",
    "postgres_database",
    "postgres_server",
    "postgres_warehouse",
    "sqlite_warehouse",
]

#: `make test-warehouses` runs what follows on MariaDB, which the development environment has not.
CHOSEN = ["mysql"] if "mysql" in os.environ.get("PLAUD_TEST_WAREHOUSES", "") else [*KINDS, "postgres"]


@pytest.fixture(params=CHOSEN)
def warehouse(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    if request.param == "postgres":
        return connected_postgres(request.getfixturevalue("postgres_database"), monkeypatch)
    if request.param == "mysql":
        return connected_mariadb(request.getfixturevalue("mariadb_database"), monkeypatch)
    return connected(request.param, tmp_path, monkeypatch)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(warehouse: Warehouse, clock: Clock) -> Ledger:
    return ledger_in(warehouse, clock)
