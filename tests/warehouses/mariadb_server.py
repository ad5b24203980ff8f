"""A real MariaDB server, from the system's packages, on a free port."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.dialects import mysql

from plaud_provider.warehouse.tables import plaud_tables
from tests.unit.warehouse.warehouses import CONN_ID, PostgresWarehouse

WAIT_SECONDS = 60


class MariaDbServer:
    """A server in a folder of its own, with settings that are as bad as those that people have."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="plaud-mariadb-"))
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        _run(
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={self.folder / 'files'}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--user=root",
        )
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                _found("mariadbd"),
                "--no-defaults",
                "--user=root",
                f"--datadir={self.folder / 'files'}",
                f"--socket={self.folder / 's'}",
                f"--pid-file={self.folder / 'pid'}",
                f"--port={self.port}",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                "--innodb-flush-log-at-trx-commit=0",
                # What a server cuts texts and loses characters with.
                "--character-set-server=latin1",
                "--sql-mode=",
                "--default-time-zone=-05:00",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                self.connect().close()
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """Stop it at once: open transactions are rolled back, their connections are cut."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(WAIT_SECONDS)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self, database: str = "", user: str = "root") -> Any:
        import MySQLdb

        return MySQLdb.connect(
            host="127.0.0.1", port=self.port, user=user, database=database, charset="utf8mb4", autocommit=True
        )

    def run(self, *statements: str, database: str = "") -> None:
        connection = self.connect(database)
        try:
            for statement in statements:
                connection.cursor().execute(statement)
        finally:
            connection.close()

    @contextmanager
    def new_database(self) -> Iterator[dict[str, Any]]:
        """Create an empty database, yield the values of an Airflow connection to it, and drop it."""
        name = f"test_{uuid.uuid4().hex}"
        self.run(f"create database {name}")
        try:
            yield {
                "conn_type": "mysql",
                "host": "127.0.0.1",
                "port": self.port,
                "login": "root",
                "schema": name,
            }
        finally:
            self.run(f"drop database {name}")


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDbServer]:
    server = MariaDbServer()
    yield server
    server.close()


@pytest.fixture
def mariadb_database(mariadb_server: MariaDbServer) -> Iterator[dict[str, Any]]:
    """An empty database of its own, as the values of an Airflow connection to it."""
    with mariadb_server.new_database() as values:
        yield values


def _run(program: str, *arguments: str) -> None:
    done = subprocess.run([_found(program), *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout


def _found(program: str) -> str:
    # Debian has the server where only its administrators look.
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin")
    assert path, f"{program} is needed: apt-get install mariadb-server"
    return path


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class MariaDbWarehouse(PostgresWarehouse):
    """A database on a MariaDB server."""

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return list(super().rows(query))

    def tables(self) -> set[str]:
        return {name for (name,) in self.rows("show tables")}

    def columns(self, table: str) -> str:
        declared = next(one for one in plaud_tables().parameters if one.name == table)
        dialect = mysql.dialect()
        return ", ".join(
            f"{column.name} {column.type.compile(dialect=dialect)}{' not null' * (not column.nullable)}"
            for column in declared.columns
        )

    def raw(self) -> Any:
        import MySQLdb

        return _Connection(
            MySQLdb.connect(
                host=self.values["host"],
                port=self.values["port"],
                user=self.values["login"],
                database=self.values["schema"],
                charset="utf8mb4",
                init_command="set time_zone = '+00:00'",
            )
        )


class _Connection:
    """A connection of MySQL's driver, with what those of the others have."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, statement: str) -> Any:
        cursor = self._connection.cursor()
        cursor.execute(statement)
        return cursor

    def commit(self) -> None:
        self._connection.commit()

    def close(self) -> None:
        self._connection.close()


def connected_mariadb(
    database: dict[str, Any], monkeypatch: pytest.MonkeyPatch, conn_id: str = CONN_ID
) -> MariaDbWarehouse:
    """Return a warehouse in a database of a server, with an Airflow connection to it."""
    warehouse = MariaDbWarehouse("mysql", Path(database["host"]), conn_id=conn_id, values=database)
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", warehouse.connection)
    return warehouse
