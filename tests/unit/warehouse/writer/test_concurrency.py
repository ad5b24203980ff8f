"""Several processes, crashes and full disks, on real files."""

from __future__ import annotations

import signal
import sqlite3

import pytest
import sqlalchemy as sa

from plaud_provider.exceptions import PlaudWarehouseError
from tests.unit.warehouse import processes
from tests.unit.warehouse.warehouses import Warehouse, landing


def test_fault_73_two_processes_that_create_and_land_the_same_ids_leave_one_whole_landing(
    warehouse: Warehouse,
) -> None:
    barrier = processes.context().Barrier(2)
    loaders = [
        processes.start(processes.land_repeatedly, warehouse, barrier, name, 15, segments)
        for name, segments in (("one", 40), ("other", 7))
    ]

    assert [processes.exit_code(loader) for loader in loaders] == [0, 0]

    transcripts = warehouse.rows(
        "select transcription_id, text, segment_count from plaud_transcripts order by 1"
    )
    segments = warehouse.rows(
        "select transcription_id, text, count(*) from plaud_segments group by 1, 2 order by 1"
    )
    assert transcripts == segments
    assert {name for _, name, _ in transcripts} in ({"one"}, {"other"})
    assert [key for key, _, _ in transcripts] == ["txn_1", "txn_2"]


def test_fault_72_process_killed_between_delete_and_insert_leaves_the_old_rows(warehouse: Warehouse) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()
    writer.replace([landing("txn_1", segments=3, text="old"), landing("txn_2")])
    before = warehouse.content()

    loader = processes.start(processes.die_between_delete_and_insert, warehouse)

    assert processes.exit_code(loader) == -signal.SIGKILL
    assert warehouse.content() == before
    assert writer.replace([landing("txn_1", segments=1)]) == (1, 1, 0)


def test_fault_79_full_disk_rolls_back_to_the_old_rows(file_warehouse: Warehouse) -> None:
    writer = file_warehouse.writer()
    writer.ensure_tables()
    writer.replace([landing("txn_1", segments=3, text="old")])
    before = file_warehouse.content()

    loader = processes.start(processes.land_on_full_disk, file_warehouse, 200_000)

    assert processes.exit_code(loader) == 3
    assert file_warehouse.content() == before


def test_duckdb_file_held_by_another_process_is_waited_for(duckdb_warehouse: Warehouse) -> None:
    duckdb_warehouse.writer().ensure_tables()
    waits: list[float] = []
    with processes.holding_duckdb_file(duckdb_warehouse.path) as holder:

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                processes.let_go(holder)

        landed = duckdb_warehouse.impatient_writer(sleep=sleep).replace([landing()])

    assert landed == (1, 2, 0)
    assert len(waits) == 3


def test_five_tasks_that_write_a_duckdb_file_get_turns_alike(duckdb_warehouse: Warehouse) -> None:
    duckdb_warehouse.writer().ensure_tables()
    context = processes.context()
    barrier, turns = context.Barrier(5), context.Array("i", 5)

    tasks = [
        processes.start(processes.take_turns, duckdb_warehouse, barrier, turns, number, 150)
        for number in range(5)
    ]

    assert [processes.exit_code(task) for task in tasks] == [0] * 5
    # An equal share would be 30.
    assert min(turns[:]) >= 15, turns[:]


def test_duckdb_file_that_stays_held_is_told_with_its_holder(duckdb_warehouse: Warehouse) -> None:
    duckdb_warehouse.writer().ensure_tables()
    waits: list[float] = []
    with processes.holding_duckdb_file(duckdb_warehouse.path) as holder:
        writer = duckdb_warehouse.impatient_writer(wait_seconds=120, sleep=waits.append)

        with pytest.raises(PlaudWarehouseError, match=rf"open for 120 s and longer, .*\(PID {holder.pid}\)"):
            writer.replace([landing()])
        with pytest.raises(
            PlaudWarehouseError, match=rf"another process .*\(PID {holder.pid}\).*Nothing was written"
        ):
            writer.ensure_tables()

    assert 2 * 100 < sum(waits) <= 2 * 120
    assert max(waits) < 5


def test_sqlite_lock_held_by_another_is_told_after_the_busy_timeout(sqlite_warehouse: Warehouse) -> None:
    sqlite_warehouse.writer().ensure_tables()
    holder = sqlite3.connect(sqlite_warehouse.path, isolation_level=None)
    holder.execute("begin immediate")

    with pytest.raises(PlaudWarehouseError, match="held SQLite's write lock"):
        sqlite_warehouse.impatient_writer(wait_seconds=0.05).replace([landing()])

    holder.execute("rollback")
    holder.close()
    assert sqlite_warehouse.writer().replace([landing()]) == (1, 2, 0)


def test_warehouse_that_comes_back_is_used_again(file_warehouse: Warehouse) -> None:
    writer = file_warehouse.writer()
    writer.ensure_tables()
    writer.replace([landing()])
    file_warehouse.path.unlink()

    with pytest.raises(PlaudWarehouseError):
        writer.replace([landing()])
    writer.ensure_tables()

    assert writer.replace([landing()]) == (1, 2, 0)


def test_sqlite_write_lock_is_taken_before_anything_is_read(sqlite_warehouse: Warehouse) -> None:
    def another_writes(_: sa.Connection) -> None:
        sqlite3.connect(sqlite_warehouse.path, timeout=0, isolation_level=None).execute("begin immediate")

    with pytest.raises(PlaudWarehouseError, match="held SQLite's write lock"):
        sqlite_warehouse.database.run(another_writes, failed="reading")
