"""What Airflow starts by itself, or without the parameters that were typed, pays for nothing unasked."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.postgres import Postgres
from demo.processes import wait_until
from demo.stack import AirflowStack
from plaud_provider.emulator.server import EmulatorServer
from tests.integration.archive import serving
from tests.integration.conftest import RECORDINGS, REPOSITORY, SETTINGS
from tests.integration.leftovers import processes_using

pytestmark = pytest.mark.timeout(600, method="thread")

PAYING = [
    ("plaud_transcribe_archive", "plaud_pay_for_archive"),
    ("plaud_transcribe_daily", "plaud_pay_for_daily"),
]


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, emulator_server: EmulatorServer
) -> Iterator[AirflowStack]:
    """An Airflow on PostgreSQL: on SQLite it makes no backfills while anything else runs."""
    home, warehouse = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("warehouse") / "w.sqlite"
    # Not below pytest's own folder: PostgreSQL runs as another user, whom any other pytest locks out.
    server = Path(tempfile.mkdtemp(prefix="plaud-pg-"))
    metadata = Postgres(server)
    try:
        with serving(RECORDINGS) as public_url:
            env = {
                **SETTINGS,
                "AIRFLOW_CONN_PLAUD_DEFAULT": emulator_server.airflow_connection,
                "AIRFLOW_CONN_WAREHOUSE_DEFAULT": json.dumps({"conn_type": "sqlite", "host": str(warehouse)}),
                "AIRFLOW_VAR_PLAUD_PUBLIC_URLS": json.dumps({str(RECORDINGS): public_url}),
            }
            database = metadata.create_database("airflow").render_as_string(hide_password=False)
            with AirflowStack(home, [REPOSITORY / "dags"], env=env, sql_alchemy_conn=database) as running:
                yield running
            assert processes_using(home) == []
    finally:
        metadata.stop()
        shutil.rmtree(server, ignore_errors=True)


def runs(stack: AirflowStack, dag_id: str, run_type: str) -> list[str]:
    found = stack.api.get(f"/dags/{dag_id}/dagRuns", run_type=run_type)["dag_runs"]
    return [run["dag_run_id"] for run in found if run["run_type"] == run_type]


def told(stack: AirflowStack, dag_id: str, run_id: str) -> str:
    return json.dumps(stack.api.task_log(dag_id, run_id, "transcribe.list"))


@pytest.mark.parametrize(("dag_id", "variable"), PAYING)
def test_unpausing_and_a_backfill_that_lost_its_parameters_pay_nothing(
    stack: AirflowStack, emulator: EmulatorServer, dag_id: str, variable: str
) -> None:
    stack.wait_for_dag(dag_id)
    # As the trigger form does, unless its box is unticked.
    stack.api.request("PATCH", f"/dags/{dag_id}", json={"is_paused": False})
    # As the form's Backfill does with all that was typed, unless another box is ticked.
    day = "2024-05-01T00:00:00Z"
    body: dict[str, Any] = {"dag_id": dag_id, "from_date": day, "to_date": day, "dag_run_conf": None}
    stack.api.request("POST", "/backfills", json=body)

    for run_type in ("scheduled", "backfill"):
        wait_until(
            lambda kind=run_type: bool(runs(stack, dag_id, kind)), timeout=60, what=f"a {run_type} run"
        )
        for run_id in runs(stack, dag_id, run_type):
            assert stack.wait_for_run(dag_id, run_id) == "failed"
            assert f"the Airflow variable '{variable}' is not set" in told(stack, dag_id, run_id)
    assert emulator.ledger() == []
    # Switched on, it would run once more when the day is over.
    stack.api.request("PATCH", f"/dags/{dag_id}", json={"is_paused": True})


def test_a_plan_says_what_is_new_and_pays_nothing(stack: AirflowStack, emulator: EmulatorServer) -> None:
    run_id = stack.trigger("plaud_plan_archive", {"archive": str(RECORDINGS)})

    assert stack.wait_for_run("plaud_plan_archive", run_id) == "success"
    counts = stack.api.xcom("plaud_plan_archive", run_id, "report")
    assert (counts["new"], counts["submitted"]) == (5, 0)
    assert emulator.ledger() == []
