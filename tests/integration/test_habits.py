"""Habits of DAG authors around our tasks, each in a real scheduler and triggerer: ``dags/habits.py``."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.postgres import Postgres
from demo.processes import wait_until
from demo.stack import AirflowStack
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.emulator.settings import Settings
from tests.integration.archive import serving, write_recording
from tests.integration.conftest import SETTINGS
from tests.integration.leftovers import processes_using

pytestmark = pytest.mark.timeout(900, method="thread")

#: The recordings of each DAG, below its folder.
RECORDINGS = {
    "habit_groups": ("de/a.wav", "de/b.wav", "en/a.wav", "fr/a.wav"),
    "habit_native": ("20240501/a.wav", "20240501/b.wav", "20240501/c.wav"),
    "habit_mapped": ("48213.wav", "b.wav"),
    "habit_around": ("calls/a.wav",),
    "habit_lists": ("task/a.wav", "variable/b.wav", "form/c.wav", "query/d.wav"),
    "habit_daily": ("2024-05-01/a.wav", "2024-05-02/b.wav"),
}


@dataclass(frozen=True)
class World:
    stack: AirflowStack
    plaud: EmulatorServer
    home: Path

    def run(self, dag_id: str, conf: dict[str, Any] | None = None) -> tuple[str, dict[str, str]]:
        """Run a DAG as a form does, and return the states of the run and of its tasks."""
        run_id = self.stack.trigger(dag_id, conf)
        return self.ended(dag_id, run_id)

    def ended(self, dag_id: str, run_id: str) -> tuple[str, dict[str, str]]:
        state = self.stack.wait_for_run(dag_id, run_id, timeout=180)
        return state, {task.label: task.state for task in self.stack.api.task_instances(dag_id, run_id)}

    def error(self, dag_id: str, task_id: str) -> str:
        """Return what the log of a task's last run says."""
        [run] = self.stack.api.get(f"/dags/{dag_id}/dagRuns", limit=1, order_by="-id")["dag_runs"]
        return self.stack.task_log_files(dag_id, run["dag_run_id"], task_id)[-1].read_text()

    def files(self, dag_id: str) -> set[str]:
        return {str(self.home / dag_id / name) for name in RECORDINGS[dag_id]}

    def landed(self, dag_id: str, table: str = "plaud_transcripts") -> set[str]:
        with closing(sqlite3.connect(self.home / "warehouse.sqlite")) as connection:
            rows = connection.execute(f"select audio_uri from {table} where status = 'completed'").fetchall()
        return {uri for (uri,) in rows if uri.startswith(str(self.home / dag_id))}

    def paid(self, dag_id: str) -> Counter[str]:
        return Counter(
            job["audio_url"] for job in self.plaud.transcriptions() if f"/{dag_id}/" in job["audio_url"]
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home, airflow_home = tmp_path_factory.mktemp("habits"), tmp_path_factory.mktemp("airflow")
    for number, path in enumerate(
        home / dag_id / name for dag_id in RECORDINGS for name in RECORDINGS[dag_id]
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_recording(path, frames=9000 + number)
    warehouse = home / "warehouse.sqlite"
    with closing(sqlite3.connect(warehouse)) as connection, connection:
        connection.execute("create table habit_recordings (uri text)")
        connection.execute(
            "insert into habit_recordings values (?)", (str(home / "habit_lists" / "query" / "d.wav"),)
        )
    # Not below pytest's own folder: PostgreSQL runs as another user, whom any other pytest locks out.
    server = Path(tempfile.mkdtemp(prefix="plaud-pg-"))
    metadata = Postgres(server)
    settings = Settings(request_limit=0, token_limit=0, processing_seconds=1.0)
    try:
        with EmulatorServer(settings) as plaud, serving(home) as public_url:
            connection = json.loads(plaud.airflow_connection)
            connection["extra"]["requests_per_minute"] = 600
            env = {
                **SETTINGS,
                "AIRFLOW_CONN_PLAUD_DEFAULT": json.dumps(connection),
                "AIRFLOW_CONN_WAREHOUSE_DEFAULT": json.dumps({"conn_type": "sqlite", "host": str(warehouse)}),
                "AIRFLOW_VAR_PLAUD_PUBLIC_URLS": json.dumps({str(home): public_url}),
                "AIRFLOW_VAR_HABIT_LIST": json.dumps([str(home / "habit_lists" / "variable" / "b.wav")]),
                "PLAUD_HABITS": str(home),
            }
            database = metadata.create_database("airflow").render_as_string(hide_password=False)
            folders = [Path(__file__).parent / "dags"]
            with AirflowStack(airflow_home, folders, env=env, sql_alchemy_conn=database) as stack:
                yield World(stack, plaud, home)
            assert processes_using(airflow_home) == []
    finally:
        metadata.stop()
        shutil.rmtree(server, ignore_errors=True)


def test_green_means_rows_and_a_second_run_pays_nothing(world: World) -> None:
    conf: dict[str, dict[str, Any]] = {
        "habit_groups": {},
        "habit_mapped": {"recordings": sorted(world.files("habit_mapped"))},
        "habit_around": {},
        "habit_lists": {"one": str(world.home / "habit_lists" / "form" / "c.wav")},
    }
    for _ in range(2):
        runs = [(dag_id, world.stack.trigger(dag_id, told)) for dag_id, told in conf.items()]
        for dag_id, run_id in runs:
            state, tasks = world.ended(dag_id, run_id)
            assert (state, {*tasks.values()} <= {"success", "skipped"}) == ("success", True), (dag_id, tasks)
        for dag_id in conf:
            tables = (
                ("plaud_transcripts", "german_transcripts")
                if dag_id == "habit_groups"
                else ("plaud_transcripts",)
            )
            assert set().union(*(world.landed(dag_id, table) for table in tables)) == world.files(dag_id)
            assert [*world.paid(dag_id).values()] == [1] * len(RECORDINGS[dag_id]), dag_id
    # The defaults of the group around the archive held.
    assert len(world.landed("habit_groups", "german_transcripts")) == 2
    languages = Counter(job["language"] for job in world.plaud.transcriptions())
    assert languages["de"] == 2


def test_what_templates_make_numbers_and_lists_of_is_taken_and_what_is_no_folder_is_named(
    world: World,
) -> None:
    state, tasks = world.run("habit_native")

    assert state == "failed"
    assert {task: tasks[task] for task in tasks if task.startswith("transcribe.")} == {
        "transcribe.list": "success",
        **{
            f"transcribe.chunk.{name} [chunk-0000{n}]": "success"
            for name in ("submit", "land")
            for n in (1, 2)
        },
        "transcribe.report": "success",
    }
    assert world.landed("habit_native") == world.files("habit_native")
    assert "path: '20240501' is no folder of a kind that is known" in world.error(
        "habit_native", "of_no_folder.list"
    )


def test_a_branch_that_skips_the_archive_skips_all_of_it(world: World) -> None:
    before = len(world.plaud.transcriptions())
    state, tasks = world.run("habit_around", {"is_wanted": False})

    assert state == "success"
    assert {state for task, state in tasks.items() if task.startswith("calls.")} == {"skipped"}
    assert (tasks["after"], tasks["unmount"]) == ("success", "success")
    assert len(world.plaud.transcriptions()) == before


def test_a_day_is_paid_for_once_by_schedule_command_and_backfill(world: World) -> None:
    stack = world.stack
    stack.wait_for_dag("habit_daily")
    for dag_id in ("habit_daily", "habit_follows"):
        stack.api.request("PATCH", f"/dags/{dag_id}", json={"is_paused": False})
    # Without a logical date, as the command line does.
    subprocess.run(
        [sys.executable, "-P", "-m", "airflow", "dags", "trigger", "habit_daily"],
        env=stack.environment,
        check=True,
        capture_output=True,
        timeout=120,
    )
    body: dict[str, Any] = {
        "dag_id": "habit_daily",
        "from_date": "2024-05-01T00:00:00Z",
        "to_date": "2024-05-02T00:00:00Z",
        "max_active_runs": 2,
        "dag_run_conf": None,
        "reprocess_behavior": "completed",
    }
    backfill = stack.api.request("POST", "/backfills", json=body)["id"]
    wait_until(
        lambda: stack.api.get(f"/backfills/{backfill}")["completed_at"] is not None,
        timeout=180,
        what="the backfill's end",
    )
    for kind in ("scheduled", "manual", "backfill"):
        for run_id in runs(stack, kind):
            assert world.ended("habit_daily", run_id)[0] == "success", (kind, run_id)
    assert world.landed("habit_daily") == world.files("habit_daily")
    assert [*world.paid("habit_daily").values()] == [1, 1]

    def told() -> set[float]:
        found = stack.api.get("/dags/habit_follows/dagRuns", state="success")["dag_runs"]
        counts = [stack.api.xcom("habit_follows", run["dag_run_id"], "counted") for run in found]
        return {count for some in counts for count in some}

    wait_until(lambda: 1 in told(), timeout=60, what="a run that follows a landed day")


def runs(stack: AirflowStack, run_type: str) -> list[str]:
    found = stack.api.get("/dags/habit_daily/dagRuns", run_type=run_type)["dag_runs"]
    return [run["dag_run_id"] for run in found if run["run_type"] == run_type]
