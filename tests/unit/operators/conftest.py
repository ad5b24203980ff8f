from __future__ import annotations

from pathlib import Path

import pytest

from plaud_provider.emulator.server import EmulatorServer
from tests.unit.operators.archives import Archive
from tests.unit.postgres_server import postgres_database, postgres_server
from tests.unit.s3_server import s3, s3_server
from tests.unit.warehouse.warehouses import connected, connected_postgres

__all__ = ["postgres_database", "postgres_server", "s3", "s3_server"]


@pytest.fixture
def archive(plaud: EmulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An empty archive, with a ledger and a warehouse in SQLite."""
    warehouse = connected("sqlite", tmp_path, monkeypatch)
    return Archive(tmp_path / "calls", tmp_path / "results", warehouse, plaud)


@pytest.fixture(params=["sqlite", "postgres"])
def any_archive(
    request: pytest.FixtureRequest, plaud: EmulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Archive:
    """The same, also with PostgreSQL."""
    if request.param == "sqlite":
        warehouse = connected("sqlite", tmp_path, monkeypatch)
    else:
        warehouse = connected_postgres(request.getfixturevalue("postgres_database"), monkeypatch)
    return Archive(tmp_path / "calls", tmp_path / "results", warehouse, plaud)
