from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from demo.guard import session_members
from demo.processes import ProcessDiedError
from demo.stack import AirflowStack
from tests.integration.leftovers import processes_using

pytestmark = pytest.mark.timeout(300)


def test_a_run_ends_well_and_can_be_read_back(airflow_stack: AirflowStack) -> None:
    states: list[str | None] = []
    run_id = airflow_stack.trigger("trivial")

    state = airflow_stack.wait_for_run(
        "trivial", run_id, timeout=60, on_progress=lambda instances: states.append(instances[0].state)
    )

    assert state == "success"
    assert states[-1] == "success"
    assert airflow_stack.api.xcom("trivial", run_id, "answer") == 42
    [log] = airflow_stack.task_log_files("trivial", run_id, "answer")
    assert "Returned value was: 42" in log.read_text()
    assert any(
        "Returned value" in str(line["event"])
        for line in airflow_stack.api.task_log("trivial", run_id, "answer")
    )


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_a_deferred_task_survives_its_triggerer(airflow_stack: AirflowStack, sig: signal.Signals) -> None:
    moment = datetime.now(tz=UTC) + timedelta(seconds=5)
    run_id = airflow_stack.trigger("waits_until", {"moment": moment.isoformat()})
    airflow_stack.wait_for_task("waits_until", run_id, "wait", "deferred")
    before = airflow_stack.component("triggerer").pid

    airflow_stack.restart("triggerer", sig)

    assert session_members({before}) == []
    assert airflow_stack.wait_for_run("waits_until", run_id, timeout=60) == "success"


def test_a_task_that_is_killed_is_tried_again(airflow_stack: AirflowStack) -> None:
    run_id = airflow_stack.trigger("hangs_once")
    instance = airflow_stack.wait_for_task("hangs_once", run_id, "hang", "running")
    process, worker = airflow_stack.task_processes(instance)
    assert {process.pid, worker.pid} <= {m.pid for m in airflow_stack.component("scheduler").members()}

    process.kill()

    assert airflow_stack.wait_for_run("hangs_once", run_id, timeout=60) == "success"
    assert worker.is_running()
    assert [i.try_number for i in airflow_stack.api.task_instances("hangs_once", run_id)] == [2]


def test_every_component_listens_on_loopback_only(airflow_stack: AirflowStack) -> None:
    addresses = {
        connection.laddr.ip
        for process in session_members(airflow_stack.sessions())
        for connection in process.net_connections(kind="inet")
        if connection.status == "LISTEN"
    }

    assert addresses == {"127.0.0.1"}


def test_a_component_that_dies_is_reported_at_once(airflow_stack: AirflowStack) -> None:
    dag_processor = airflow_stack.component("dag-processor")
    psutil.Process(dag_processor.pid).kill()

    with pytest.raises(
        ProcessDiedError, match=r"(?s)dag-processor ended with exit code -9.*dag-processor\.log"
    ):
        airflow_stack.wait_for_dag("there_is_no_such_dag")

    airflow_stack.restart("dag-processor")
    airflow_stack.check()
    assert airflow_stack.component("dag-processor").pid != dag_processor.pid


def test_what_holds_files_below_a_home_are_the_stack_processes(airflow_stack: AirflowStack) -> None:
    """The proof that nothing is left after a stack rests on this."""
    members = {process.pid for process in session_members(airflow_stack.sessions())}

    assert members
    assert {process.pid for process in processes_using(airflow_stack.home)} >= members
