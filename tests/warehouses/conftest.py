from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.unit.postgres_server import postgres_database, postgres_server
from tests.warehouses.lakes import CHOSEN, KINDS, Lake
from tests.warehouses.mariadb_server import mariadb_database, mariadb_server
from tests.warehouses.snowflake_server import snowflake_server

__all__ = ["mariadb_database", "mariadb_server", "postgres_database", "postgres_server", "snowflake_server"]

# The development environment has neither server nor driver.
collect_ignore = [] if "mysql" in CHOSEN else ["test_mysql.py"]
if find_spec("pyarrow") is None:
    collect_ignore.append("test_sql.py")


@pytest.fixture(params=CHOSEN)
def lake(request: pytest.FixtureRequest) -> Iterator[Lake]:
    made = KINDS[request.param](request)
    yield made
    made.close()
