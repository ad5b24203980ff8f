"""What a task of a chunk costs the process that Airflow starts for it, and what it leaves behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from plaud_provider.api.waiting import WaitResult
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import PlaudArchiveError, PlaudError
from plaud_provider.handover.kept_results import ResultStore
from plaud_provider.hooks.plaud import PlaudHook
from tests.unit.operators.archives import Archive
from tests.unit.operators.fresh_process import loaded_by
from tests.unit.warehouse.warehouses import PostgresWarehouse, connected_postgres

NAMES = ("a.wav", "b.wav", "c.wav")
#: What sends requests takes longer to import than a task that sends none takes for the rest.
HTTP = ("aiohttp", "airflow.providers.http.hooks", "requests", "urllib3")
LAND = "land_recordings.LandRecordingsOperator"
SUBMIT = "submit_recordings.SubmitRecordingsOperator"


@pytest.fixture
def chunk(any_archive: Archive) -> Archive:
    """Three recordings that Plaud has finished, and whose answers are kept."""
    any_archive.add(*NAMES)
    any_archive.list()
    any_archive.submit()
    any_archive.plaud.advance(601)
    store = ResultStore(str(any_archive.results))
    with PlaudHook() as hook:
        for entry in any_archive.entries().values():
            store.save(hook.get_transcription(str(entry.transcription_id)), "us")
    return any_archive


def event(outcome: Any, *, pending: tuple[str, ...] = ()) -> dict[str, Any]:
    return WaitResult(outcome, total=3, completed=3 - len(pending), pending=pending).to_event()


def sends(modules: set[str], *names: str) -> set[str]:
    """Return which of these, or of what is in them, were loaded."""
    return {module for module in modules if any(f"{module}.".startswith(f"{name}.") for name in names)}


def test_landing_what_is_kept_loads_nothing_that_sends_requests(chunk: Archive) -> None:
    asked = len(chunk.plaud.ledger())

    modules, returned = loaded_by(
        LAND, chunk._landing("run"), method="resume", event=event("done"), started_at=time.time()
    )

    assert returned["landed"] == 3
    assert chunk.landed() == dict.fromkeys(NAMES, "completed")
    assert len(chunk.plaud.ledger()) == asked
    assert sends(modules, *HTTP) == set()


def test_neither_does_handing_over_to_the_trigger(chunk: Archive) -> None:
    modules, (trigger, arguments) = loaded_by(LAND, chunk._landing("run"))

    assert trigger.endswith(".TranscriptionTrigger")
    assert len(arguments["transcription_ids"]) == 3
    assert sends(modules, *HTTP) == set()


def test_submitting_loads_one_library_that_sends_requests(any_archive: Archive) -> None:
    any_archive.add(*NAMES)
    any_archive.list()
    task = any_archive.submit_task()

    modules, counts = loaded_by(
        SUBMIT,
        {"manifest": task.manifest, "ledger_conn_id": task.ledger_conn_id, "public_urls": task.public_urls},
    )

    assert counts["submitted"] == 3
    assert sends(modules, "aiohttp")
    assert sends(modules, "airflow.providers.http.hooks", "requests", "urllib3") == set()


@pytest.fixture
def on_postgres(
    postgres_database: dict[str, Any], plaud: EmulatorServer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> Archive:
    warehouse = connected_postgres(postgres_database, monkeypatch)
    archive = Archive(tmp_path / "calls", tmp_path / "results", warehouse, plaud)
    archive.add(*NAMES)
    archive.list()
    return archive


def wait_until_nobody_is_connected(warehouse: PostgresWarehouse) -> None:
    """A server takes a moment to let a connection go."""
    deadline = time.monotonic() + 30
    others = (
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    )
    while warehouse.rows(others) != [(0,)]:
        assert time.monotonic() < deadline


def submit(archive: Archive) -> object:
    return archive.submit()


def land(archive: Archive) -> object:
    archive.submit()
    with pytest.raises(TaskDeferred) as waiting:
        archive.land_task().execute(archive.context("land"))
    archive.plaud.advance(601)
    return archive.resumed_land(waiting.value, event("done")), waiting.value


def count(archive: Archive) -> object:
    archive.submit()
    with pytest.raises(PlaudArchiveError) as unfinished:
        archive.count()
    return unfinished.value


def break_down(archive: Archive) -> object:
    archive.plaud.inject({"match": {"kind": "submit"}, "action": "status", "status": 402, "times": 3})
    with pytest.raises(PlaudError) as broken:
        archive.submit()
    return broken.value


@pytest.mark.parametrize("run", [submit, land, count, break_down])
def test_no_connection_to_the_database_outlives_a_task(
    on_postgres: Archive, run: Callable[[Archive], object]
) -> None:
    # With what an error holds: its frames have the ledger.
    kept = run(on_postgres)

    assert isinstance(on_postgres.warehouse, PostgresWarehouse)
    wait_until_nobody_is_connected(on_postgres.warehouse)
    assert kept is not None
