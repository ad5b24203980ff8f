from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Connection

from tests.unit.postgres_server import postgres_database, postgres_server

__all__ = ["postgres_database", "postgres_server"]


@pytest.fixture(params=["sqlite", "postgres"])
def sql_connection(request: pytest.FixtureRequest, tmp_path: Path) -> Connection:
    """An Airflow connection to an empty database."""
    if request.param == "postgres":
        return Connection(conn_id="shared", **request.getfixturevalue("postgres_database"))
    return Connection(conn_id="shared", conn_type="sqlite", host=str(tmp_path / "shared.db"))


@pytest.fixture
def postgres(postgres_database: dict[str, Any]) -> Connection:
    return Connection(conn_id="shared", **postgres_database)


@pytest.fixture
def private_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tokens"
    folder.mkdir(mode=0o700)
    return folder


Spoil = Callable[[Path], None]


def insecure(folder: Path) -> None:
    folder.chmod(0o770)


def unwritable(folder: Path) -> None:
    folder.rmdir()
    folder.write_text("a file where the folder should be")


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Stop processes as a debugger or a frozen container does, for a while."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def reached(condition: Callable[[], bool]) -> None:
    """Wait until other tasks and threads have come so far."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
