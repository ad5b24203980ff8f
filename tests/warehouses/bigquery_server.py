"""A stand-in for BigQuery, local-bigquery, with a Python of its own, on a free port of 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

WAIT_SECONDS = 60
PYTHON = Path(__file__).parents[2] / ".venv-local-bigquery/bin/python"
# It would look elsewhere for these extensions of its engine.
PROGRAM = """
from duckdb_extensions import import_extension
for name in ("ducklake", "icu", "spatial"):
    import_extension(name)
import re
from local_bigquery import errors
# What BigQuery says of two transactions that are in each other's way.
conflict = "Transaction is aborted due to concurrent update against table"
errors.DUCKDB_ERRORS.insert(0, (re.compile("(?P<name>Failed to commit DuckLake)"), "invalidQuery", conflict))
from local_bigquery.cli import main
main()
"""


class BigQueryServer:
    """The server in a process of its own."""

    def __init__(self) -> None:
        assert PYTHON.exists(), "make test-warehouses installs it"
        self.folder = Path(tempfile.mkdtemp(prefix="plaud-bigquery-"))
        self.port, grpc_port = _free_port(), _free_port()
        self._process = subprocess.Popen(
            [
                str(PYTHON),
                "-c",
                PROGRAM,
                "--host=127.0.0.1",
                f"--port={self.port}",
                f"--grpc-port={grpc_port}",
                f"--data-dir={self.folder}",
                "--project=plaud",
            ],
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
            stdout=(self.folder / "log").open("wb"),
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)
            else:
                return

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait(WAIT_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def bigquery_server() -> Iterator[BigQueryServer]:
    server = BigQueryServer()
    yield server
    server.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
