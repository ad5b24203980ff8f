from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from plaud_provider.emulator.server import EmulatorServer
from tests.unit.conftest import plaud, plaud_server
from tests.unit.operators.archives import Archive
from tests.unit.postgres_server import postgres_database, postgres_server
from tests.unit.s3_server import s3, s3_server
from tests.unit.warehouse.warehouses import connected
from tests.warehouses.bigquery_server import bigquery_server
from tests.warehouses.lakes import CHOSEN, KINDS, VIEWING, Lake
from tests.warehouses.mariadb_server import mariadb_database, mariadb_server
from tests.warehouses.other_tables import FITTING, ONE_CASE, UNFIT, change
from tests.warehouses.snowflake_server import snowflake_server

__all__ = [
    "bigquery_server",
    "mariadb_database",
    "mariadb_server",
    "plaud",
    "plaud_server",
    "postgres_database",
    "postgres_server",
    "s3",
    "s3_server",
    "snowflake_server",
]

# The development environment has neither servers nor drivers.
collect_ignore = [f"test_{name}.py" for name in ("mysql", "bigquery") if name not in CHOSEN]
if find_spec("pyarrow") is None:
    collect_ignore.append("test_sql.py")
if not {"iceberg", "delta", "parquet"} <= set(CHOSEN):
    collect_ignore.append("test_lake.py")


#: Tables as the package makes them.
_AS_MADE = "as-made"


@pytest.fixture(params=[kind for kind in CHOSEN if kind in VIEWING])
def viewing(request: pytest.FixtureRequest) -> Iterator[Lake]:
    """A warehouse in which views are created."""
    made = KINDS[request.param](request)
    yield made
    made.close()


@pytest.fixture(params=CHOSEN)
def lake(request: pytest.FixtureRequest) -> Iterator[Lake]:
    made = KINDS[request.param](request)
    yield made
    made.close()


@pytest.fixture(params=[(kind, name) for kind in CHOSEN for name in UNFIT.get(kind, {})], ids="-".join)
def unfit(request: pytest.FixtureRequest) -> Iterator[tuple[Lake, str]]:
    """A warehouse with a table that would change, lose or refuse rows, and what is to be said of it."""
    kind, name = request.param
    made, told = KINDS[kind](request), UNFIT[kind][name]
    change(made, told.changes)
    yield made, told.complaint
    made.close()


@pytest.fixture(
    params=[(kind, name) for kind in CHOSEN for name in (_AS_MADE, *FITTING.get(kind, {}))], ids="-".join
)
def fitting(request: pytest.FixtureRequest) -> Iterator[Lake]:
    """A warehouse with a table that its owner has changed, where rows land all the same."""
    kind, name = request.param
    made = KINDS[kind](request)
    change(made, () if name == _AS_MADE else FITTING[kind][name])
    yield made
    made.close()


@pytest.fixture(params=[(kind, name) for kind in CHOSEN for name in ONE_CASE.get(kind, {})], ids="-".join)
def of_one_case(request: pytest.FixtureRequest) -> Iterator[Lake]:
    """A warehouse where ids that differ in upper and lower case are one."""
    kind, name = request.param
    made = KINDS[kind](request)
    change(made, ONE_CASE[kind][name])
    yield made
    made.close()


@pytest.fixture
def rest_catalog(tmp_path: Path) -> Iterator[Any]:
    """A REST catalog of Iceberg."""
    from tests.warehouses.iceberg_rest_server import RestCatalog

    catalog = RestCatalog(tmp_path)
    yield catalog
    catalog.close()


@pytest.fixture
def archive(plaud: EmulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An empty archive, with a ledger in SQLite."""
    warehouse = connected("sqlite", tmp_path, monkeypatch)
    return Archive(tmp_path / "calls", tmp_path / "results", warehouse, plaud)
