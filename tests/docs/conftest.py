from __future__ import annotations

from tests.unit.conftest import plaud, plaud_server
from tests.unit.postgres_server import postgres_database, postgres_server
from tests.unit.warehouse.conftest import warehouse

__all__ = ["plaud", "plaud_server", "postgres_database", "postgres_server", "warehouse"]
