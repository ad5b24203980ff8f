from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.warehouse.warehouses import KINDS, Warehouse, connected


@pytest.fixture(params=KINDS)
def warehouse(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    return connected(request.param, tmp_path, monkeypatch)


@pytest.fixture
def duckdb_warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    return connected("duckdb", tmp_path, monkeypatch)
