"""A run that asks before it pays, and a person who answers in the browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from demo.emulator import Emulator
from demo.files import FileServer
from demo.processes import Supervisor
from demo.stack import USERNAME, AirflowStack
from tests.integration.leftovers import processes_using
from tests.ui.conftest import REPOSITORY, log_in
from tests.ui.screens import open_run

DAG_ID = "archive_that_asks"
RECORDINGS = REPOSITORY / "demo" / "recordings"


class Desk(NamedTuple):
    """An Airflow with the DAG, somebody who has logged in, and what Plaud has seen."""

    stack: AirflowStack
    person: BrowserContext
    emulator: Emulator
    warehouse: Path

    def states(self, run_id: str) -> dict[str, set[str | None]]:
        found: dict[str, set[str | None]] = {}
        for instance in self.stack.api.task_instances(DAG_ID, run_id):
            found.setdefault(instance.task_id.rpartition(".")[2], set()).add(instance.state)
        return found


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Desk]:
    work = tmp_path_factory.mktemp("approval")
    warehouse = work / "warehouse.duckdb"
    with Supervisor() as supervisor:
        emulator = Emulator(supervisor, RECORDINGS, work, "--processing-seconds", "2")
        files = FileServer(supervisor, RECORDINGS, work)
        env = {
            "AIRFLOW_CONN_PLAUD_DEFAULT": json.dumps(emulator.connection()),
            "AIRFLOW_CONN_WAREHOUSE_DEFAULT": json.dumps({"conn_type": "duckdb", "host": str(warehouse)}),
            "AIRFLOW_VAR_PLAUD_RESULTS_PATH": str(work / "results"),
            "AIRFLOW_VAR_PLAUD_PUBLIC_URLS": json.dumps({str(RECORDINGS): files.url}),
        }
        with (
            AirflowStack(work / "airflow", [Path(__file__).parent / "dags"], env=env) as stack,
            log_in(browser, stack.base_url, USERNAME, stack.password) as person,
        ):
            yield Desk(stack, person, emulator, warehouse)
        assert processes_using(work / "airflow") == []


def ask(desk: Desk) -> tuple[str, Page]:
    """Start a run, and open what it asks in the browser."""
    run_id = desk.stack.trigger(DAG_ID, {"archive": str(RECORDINGS)})
    desk.stack.wait_for_task(DAG_ID, run_id, "transcribe.approve", "awaiting_input", timeout=120)
    page = desk.person.new_page()
    open_run(page, run_id, DAG_ID)
    page.get_by_role("button", name="Required Action").first.click()
    expect(page.get_by_text("Transcribe these recordings, and pay for them?")).to_be_visible()
    return run_id, page


def test_a_rejected_plan_sends_nothing_and_an_approved_one_lands(
    desk: Desk, screenshot: Callable[..., None]
) -> None:
    run_id, page = ask(desk)
    expect(page.get_by_text("5 recordings are new, with 1 min of audio.")).to_be_visible()
    expect(page.get_by_text("about 1.98 USD")).to_be_visible()
    screenshot(page, "approval", height=860)
    page.get_by_role("button", name="Reject").click()
    rejected = desk.stack.wait_for_run(DAG_ID, run_id, timeout=120)

    assert rejected == "success"
    assert desk.states(run_id)["report"] == {"success"}
    assert desk.states(run_id)["submit"] <= {"skipped"}
    assert desk.emulator.summary()["requests"] == 0
    page.close()

    run_id, page = ask(desk)
    page.get_by_role("button", name="Approve").click()
    approved = desk.stack.wait_for_run(DAG_ID, run_id, timeout=120)

    assert approved == "success"
    assert desk.emulator.summary()["submits_accepted"] == 5
    with duckdb.connect(str(desk.warehouse), read_only=True) as warehouse:
        assert warehouse.execute("select count(*) from plaud_transcripts").fetchall() == [(5,)]
    page.close()
