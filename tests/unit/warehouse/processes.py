"""Other processes that use a warehouse at the same time: what they run, and how to start them."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from plaud_provider.exceptions import PlaudWarehouseError
from plaud_provider.warehouse.writers.duckdb import DuckDbWriter
from plaud_provider.warehouse.writers.sqlalchemy import SqlAlchemyWriter
from tests.unit.warehouse.warehouses import CONN_ID, Warehouse, landing, segment

WAIT_SECONDS = 60


def context() -> ForkServerContext:
    """Return a way to start clean processes that have imported Airflow already."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.unit.warehouse.processes"])
    return processes


def start(target: Callable[..., None], *args: Any) -> ForkServerProcess:
    process = context().Process(target=target, args=args)
    process.start()
    return process


def exit_code(process: ForkServerProcess) -> int | None:
    process.join(WAIT_SECONDS)
    if process.exitcode is None:
        process.kill()
    return process.exitcode


def land_repeatedly(warehouse: Warehouse, barrier: Barrier, name: str, times: int, segments: int) -> None:
    """Create the tables and land the same ids over and over, with a text of one's own."""
    _connect(warehouse)
    writer = warehouse.writer()
    barrier.wait(WAIT_SECONDS)
    writer.ensure_tables()
    own = tuple(segment(index, text=name) for index in range(segments))
    for _ in range(times):
        writer.replace([landing("txn_1", text=name, segments=own), landing("txn_2", text=name, segments=own)])


def die_between_delete_and_insert(warehouse: Warehouse) -> None:
    """Land ``txn_1`` anew, and be killed once its old rows are deleted."""
    _connect(warehouse)

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    writer = warehouse.writer()
    if isinstance(writer, DuckDbWriter):
        DuckDbWriter._insert = die  # type: ignore[method-assign]
    elif isinstance(writer, SqlAlchemyWriter):
        sa.event.listen(
            writer._engine,
            "before_cursor_execute",
            lambda *args: die() if args[2].startswith("INSERT INTO") else None,
        )
    writer.replace([landing("txn_1", segments=1, text="new")])


def land_on_full_disk(warehouse: Warehouse, room: int) -> None:
    """Land ``txn_1`` anew, more than there is room for; exit with 3 if that is told as it should be."""
    _connect(warehouse)
    full = warehouse.path.stat().st_size + room
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, full))
    try:
        warehouse.writer().replace([landing("txn_1", segments=2, text="x" * 16 * room)])
    except PlaudWarehouseError as told:
        os._exit(3 if "rolled back" in str(told) else 4)


@contextmanager
def holding_duckdb_file(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Have another process hold the file until its standard input is closed."""
    program = f"import duckdb, sys; held = duckdb.connect({str(path)!r}); print(flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield holder
    finally:
        holder.communicate()


def let_go(holder: subprocess.Popen[bytes]) -> None:
    """Have the holder close the file and end."""
    assert holder.stdin is not None
    holder.stdin.close()
    holder.wait(WAIT_SECONDS)
    holder.stdin = None


def _connect(warehouse: Warehouse) -> None:
    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = warehouse.connection
