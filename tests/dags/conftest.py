"""
An Airflow within the test process, for ``dag.test()``.

It has a metadata database and the execution API that tasks talk to, and neither scheduler nor triggerer: a
deferred task's trigger runs in line.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.operators.land_recordings import LandRecordingsOperator
from plaud_provider.sensors.transcription import TranscriptionSensor
from tests.unit.conftest import new_triggers as new_triggers
from tests.unit.conftest import plaud_server as plaud_server

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = {"deployable": REPOSITORY / "dags", "attempts": Path(__file__).parent / "bundle"}
DEPLOYABLE = {file.stem for file in FOLDERS["deployable"].glob("*.py")}

RunDag = Callable[..., "DagRun"]


@pytest.fixture(scope="session")
def execution_api() -> Any:
    """The metadata database, in the session's ``AIRFLOW_HOME``, and the API that tasks reach it by."""
    from airflow.sdk.execution_time.supervisor import in_process_api_server
    from airflow.utils.db import initdb

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", secrets.token_hex(32))
        initdb()
        api = in_process_api_server()
        assert api.transport is not None
        # Airflow 3.2 does not wait for its start.
        deadline = time.monotonic() + 30
        while not hasattr(api.app.state, "svcs_registry"):
            assert time.monotonic() < deadline, "the execution API did not start"
            time.sleep(0.02)
    return api


@pytest.fixture
def airflow_in_process(execution_api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that ``dag.test()`` works with."""
    bundles = [
        {
            "name": name,
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(folder)},
        }
        for name, folder in FOLDERS.items()
    ]
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps(bundles))
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    # Airflow 3.2 starts another one for each task.
    monkeypatch.setattr("airflow.sdk.execution_time.supervisor.in_process_api_server", lambda: execution_api)
    # Tokens are kept there: none of another test.
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))


@pytest.fixture
def run_dag(airflow_in_process: None) -> RunDag:
    """Run a DAG as ``dag.test()`` does."""

    def run(dag_id: str, conf: dict[str, Any] | None = None) -> DagRun:
        dag = load_dag(dag_id)
        for sensor in dag.tasks:
            if dag_id in DEPLOYABLE:
                # Their retries are minutes away too; retries are tested with the DAGs of tests.
                sensor.retries = 0
            if isinstance(sensor, (TranscriptionSensor, LandRecordingsOperator)):
                # What users wait for is minutes away, what the emulator does is not.
                sensor.poke_interval = 0.2
        return dag.test(run_conf=conf or {})

    return run


def load_dag(dag_id: str) -> DAG:
    """Return a DAG as its file has it: those that have run have rendered fields."""
    from airflow.dag_processing.dagbag import DagBag

    for folder in FOLDERS.values():
        bag = DagBag(str(folder))
        assert bag.import_errors == {}
        if dag_id in bag.dags:
            return bag.dags[dag_id]
    raise AssertionError(f"There is no DAG {dag_id}.")


def clear(run: DagRun, task_id: str) -> str:
    """Clear a task instance as a user does, run it again, and return its state."""
    from airflow.models.taskinstance import clear_task_instances
    from airflow.sdk.definitions.dag import _run_task
    from airflow.utils.session import create_session

    with create_session() as session:
        [ti] = [ti for ti in run.get_task_instances(session=session) if ti.task_id == task_id]
        clear_task_instances([ti], session)
        # Which is what the scheduler does next.
        ti.try_number += 1
    _run_task(ti=ti, task=load_dag(run.dag_id).get_task(task_id), run_triggerer=True)
    return states(run)[task_id, -1]


def states(run: DagRun) -> dict[tuple[str, int], str]:
    """Return the states of a run's task instances, by task id and map index."""
    return {(ti.task_id, ti.map_index): str(ti.state) for ti in run.get_task_instances()}


@pytest.fixture
def plaud(plaud_server: EmulatorServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatorServer]:
    """A Plaud without limits, where everything takes ten minutes of its clock, and a connection to it."""
    plaud_server.reset()
    connection = json.loads(plaud_server.airflow_connection)
    connection["extra"]["requests_per_minute"] = 60_000
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
    yield plaud_server
    plaud_server.state.clock.set_speed(1)
