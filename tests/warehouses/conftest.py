from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.unit.postgres_server import postgres_database, postgres_server
from tests.warehouses.bigquery_server import bigquery_server
from tests.warehouses.lakes import CHOSEN, KINDS, Lake
from tests.warehouses.mariadb_server import mariadb_database, mariadb_server
from tests.warehouses.snowflake_server import snowflake_server

__all__ = [
    "bigquery_server",
    "mariadb_database",
    "mariadb_server",
    "postgres_database",
    "postgres_server",
    "snowflake_server",
]

# The development environment has neither servers nor drivers.
collect_ignore = [f"test_{name}.py" for name in ("mysql", "bigquery") if name not in CHOSEN]
if find_spec("pyarrow") is None:
    collect_ignore.append("test_sql.py")


@pytest.fixture(params=CHOSEN)
def lake(request: pytest.FixtureRequest) -> Iterator[Lake]:
    made = KINDS[request.param](request)
    yield made
    made.close()
