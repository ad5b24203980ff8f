"""Real processes that meet at one ledger, and some that die there."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from plaud_provider.ledger.ledger import Owner, State
from tests.unit.ledger.ledgers import (
    OWNER,
    STRANGER,
    Clock,
    bring,
    counts,
    entry,
    ledger_in,
    recording,
    state,
)
from tests.unit.warehouse import processes
from tests.unit.warehouse.warehouses import Warehouse, landing

PROCESSES = 8
KEYS = 500


def test_eight_processes_that_claim_the_same_500_at_once_get_disjoint_sets(warehouse: Warehouse) -> None:
    context = processes.context()
    barrier, won = context.Barrier(PROCESSES), context.Queue()
    claimants = [
        processes.start(processes.claim_all, warehouse, barrier, number, KEYS, won)
        for number in range(PROCESSES)
    ]

    shares = dict(won.get(timeout=processes.WAIT_SECONDS) for _ in claimants)

    assert [processes.exit_code(claimant) for claimant in claimants] == [0] * PROCESSES
    claimed = [key for keys in shares.values() for key in keys]
    assert len(claimed) == len(set(claimed)) == KEYS
    owners = warehouse.rows("select owner_map_index, count(*) from plaud_submissions group by 1")
    assert dict(owners) == {number: len(keys) for number, keys in shares.items() if keys}


def test_threads_that_claim_the_same_at_once_get_disjoint_sets(warehouse: Warehouse) -> None:
    ledger = ledger_in(warehouse)
    barrier = threading.Barrier(4)
    recordings = [recording(f"key_{index:04}") for index in range(100)]

    def claim(number: int) -> list[str]:
        owner = Owner("archive", f"run_{number}", "submit", number, 1)
        barrier.wait(processes.WAIT_SECONDS)
        entries = ledger.claim(recordings, owner)
        return [key for key, known in entries.items() if known.is_claimed_by(owner)]

    with ThreadPoolExecutor(4) as threads:
        shares = list(threads.map(claim, range(4)))

    claimed = [key for keys in shares for key in keys]
    assert len(claimed) == len(set(claimed)) == 100


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_bulk_claims_and_ends_of_the_same_rows_never_wait_in_a_circle(warehouse: Warehouse) -> None:
    keys = [f"key_{index:04}" for index in range(400)]
    clock = Clock()
    ledger = ledger_in(warehouse, clock)
    ledger.claim([recording(key) for key in keys[::2]], OWNER)
    # Rows in another order than that of their keys, some of which have lapsed, and some at Plaud.
    warehouse.run(
        "update plaud_submissions set state = 'submitting', lease_until = claimed_at "
        "where recording_key like '%8'",
        "update plaud_submissions set state = 'processing', transcription_id = recording_key "
        "where recording_key like '%6'",
    )
    clock.advance(minutes=10)

    def meddle(number: int) -> None:
        owner = Owner("archive", f"run_{number}", "submit", number, 1)
        mine = keys[:: 1 if number % 2 else -1]
        for _ in range(4):
            ledger.claim([recording(key) for key in mine], owner, resubmit=[State.UNKNOWN])
            ledger.failed(dict.fromkeys(mine, "no speech"), region="us")
            ledger.release(owner)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(meddle, range(6)))

    deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
    assert warehouse.rows(deadlocks) == [(0,)]


def test_process_killed_in_the_middle_of_a_claim_has_claimed_nothing(warehouse: Warehouse) -> None:
    claimant = processes.start(processes.die_in_claim, warehouse, 200)

    assert processes.exit_code(claimant) == -signal.SIGKILL
    ledger = ledger_in(warehouse)
    assert counts(ledger) == {}
    assert len(ledger.claim([recording("key_0000")], STRANGER)) == 1


def test_process_killed_between_landing_and_ledger_leaves_neither(warehouse: Warehouse) -> None:
    ledger = ledger_in(warehouse)
    bring(ledger, State.PROCESSING)
    writer = warehouse.writer()
    writer.ensure_tables()

    lander = processes.start(processes.die_before_the_ledger_is_written, warehouse)

    assert processes.exit_code(lander) == -signal.SIGKILL
    assert warehouse.content() == ([], [])
    assert state(ledger) is State.PROCESSING
    writer.replace([landing("txn_key_1")], ledger)
    assert state(ledger) is State.LANDED


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_claims_that_meet_those_of_a_landing_wait_for_it(warehouse: Warehouse) -> None:
    clock = Clock()
    ledger = ledger_in(warehouse, clock)
    bring(ledger, State.SUBMITTING)
    clock.advance(minutes=3)
    # Another transaction has the row: it notes the late answer.
    with warehouse.raw() as other:
        other.execute("update plaud_submissions set state = 'processing', lease_until = null")
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(ledger.claim, [recording()], STRANGER, resubmit=[State.UNKNOWN])
            while not warehouse.rows("select 1 from pg_stat_activity where wait_event_type = 'Lock'"):
                pass
            other.commit()
            claimed = waiting.result(processes.WAIT_SECONDS)

    assert claimed["key_1"].state is State.PROCESSING
    assert entry(ledger).owner == OWNER
