"""Other processes that use a warehouse at the same time: what they run, and how to start them."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.queues import Queue
from multiprocessing.sharedctypes import SynchronizedArray
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from plaud_provider.database import copying
from plaud_provider.database.database import Database
from plaud_provider.exceptions import PlaudWarehouseError
from plaud_provider.ledger.ledger import Owner
from plaud_provider.warehouse.loaders.rows import RowsLoader
from plaud_provider.warehouse.tables import plaud_tables
from plaud_provider.warehouse.writer import WarehouseWriter
from tests.unit.ledger.ledgers import OWNER, ledger_in, recording
from tests.unit.warehouse.warehouses import Warehouse, landing, segment

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
    warehouse.connect()
    writer = warehouse.writer()
    barrier.wait(WAIT_SECONDS)
    writer.ensure_tables()
    own = tuple(segment(index, text=name) for index in range(segments))
    for _ in range(times):
        writer.replace([landing("txn_1", text=name, segments=own), landing("txn_2", text=name, segments=own)])


def take_turns(
    warehouse: Warehouse, barrier: Barrier, turns: SynchronizedArray[int], number: int, total: int
) -> None:
    """Write again and again, and count it, until all processes together have done it so many times."""
    warehouse.connect()
    writer = warehouse.writer()
    barrier.wait(WAIT_SECONDS)
    while sum(turns[:]) < total:
        writer.replace([landing(f"txn_{number}")])
        turns[number] += 1


def die_between_delete_and_insert(warehouse: Warehouse) -> None:
    """Land ``txn_1`` anew, and be killed once its old rows are deleted."""
    warehouse.connect()

    database = warehouse.database
    before_statement(database, "INSERT INTO", die)
    WarehouseWriter(RowsLoader(database, plaud_tables())).replace([landing("txn_1", segments=1, text="new")])


def before_statement(database: Database, start: str, action: Callable[[], None]) -> None:
    """Do something before each statement that starts like this."""

    def listen(*args: Any) -> None:
        if args[2].startswith(start):
            action()

    sa.event.listen(database.engine, "before_cursor_execute", listen)
    _before_copy(database, start.replace("INSERT INTO", "COPY"), action)


def _before_copy(database: Database, start: str, action: Callable[[], None]) -> None:
    """Do something before rows go in by PostgreSQL's COPY, of which SQLAlchemy knows nothing."""
    copy = copying._copy

    def listening(connection: sa.Connection, statement: str, pieces: Iterable[str]) -> None:
        if connection.engine is database.engine and statement.startswith(start):
            action()
        copy(connection, statement, pieces)

    copying._copy = listening


def die() -> None:
    """End like a process that the kernel has killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def land_on_full_disk(warehouse: Warehouse, room: int) -> None:
    """Land ``txn_1`` anew, more than there is room for; exit with 3 if that is told as it should be."""
    warehouse.connect()
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


def claim_all(warehouse: Warehouse, barrier: Barrier, number: int, count: int, won: Queue[Any]) -> None:
    """Claim all recordings at the same time as others, in an order of one's own; say which one has got."""
    warehouse.connect()
    ledger = ledger_in(warehouse)
    recordings = [recording(f"key_{index:04}") for index in range(count)]
    random.Random(number).shuffle(recordings)
    owner = Owner("archive", f"run_{number}", "submit", number, 1)
    barrier.wait(WAIT_SECONDS)
    entries = ledger.claim(recordings, owner)
    won.put((number, [key for key, entry in entries.items() if entry.is_claimed_by(owner)]))


def die_in_claim(warehouse: Warehouse, count: int) -> None:
    """Claim recordings, and be killed when the rows are written and not committed."""
    warehouse.connect()
    ledger = ledger_in(warehouse)
    before_statement(ledger.database, "SELECT", die)
    ledger.claim([recording(f"key_{index:04}") for index in range(count)], OWNER)


def die_before_the_ledger_is_written(warehouse: Warehouse) -> None:
    """Land what the ledger has as processing, and be killed when only its own rows are left to write."""
    warehouse.connect()
    ledger = ledger_in(warehouse)
    database = warehouse.database
    before_statement(database, "UPDATE", die)
    WarehouseWriter(RowsLoader(database, plaud_tables())).replace([landing("txn_key_1")], ledger)
