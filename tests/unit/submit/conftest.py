from __future__ import annotations

from tests.unit.embedded_plaud import embedded
from tests.unit.operators.conftest import any_archive, archive
from tests.unit.postgres_server import postgres_database, postgres_server
from tests.unit.s3_server import s3, s3_server

__all__ = ["any_archive", "archive", "embedded", "postgres_database", "postgres_server", "s3", "s3_server"]
