from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.postgres_server import lossy_proxy, postgres_database, postgres_server
from tests.unit.warehouse.warehouses import (
    KINDS,
    PostgresWarehouse,
    Warehouse,
    connected,
    connected_postgres,
)

__all__ = ["lossy_proxy", "postgres_database", "postgres_server"]


@pytest.fixture(params=[*KINDS, "postgres"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    if request.param == "postgres":
        return connected_postgres(request.getfixturevalue("postgres_database"), monkeypatch)
    return connected(request.param, tmp_path, monkeypatch)


@pytest.fixture(params=KINDS)
def file_warehouse(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Warehouse:
    return connected(request.param, tmp_path, monkeypatch)


@pytest.fixture
def sqlite_warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    return connected("sqlite", tmp_path, monkeypatch)


@pytest.fixture
def duckdb_warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    return connected("duckdb", tmp_path, monkeypatch)


@pytest.fixture
def postgres_warehouse(
    postgres_database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> PostgresWarehouse:
    return connected_postgres(postgres_database, monkeypatch)
