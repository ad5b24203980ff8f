"""
What a second attempt knows of the first, in the real context of a task.

Airflow 3.3 has a task state store; 3.2 has not, and what the docs say of it there is proven here.
"""

from __future__ import annotations

import re

import pytest
from airflow import __version__
from packaging.version import Version

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.hooks.plaud import PlaudHook
from tests.dags.conftest import RunDag, clear, states

# By a thread: Airflow uses the alarm itself while it parses, and takes a signal's away.
pytestmark = pytest.mark.timeout(120, method="thread")

HAS_STATE_STORE = Version(__version__) >= Version("3.3")
SUBMIT = ("submit", -1)
WAIT = ("wait", -1)


def test_a_context_has_a_state_store_from_airflow_33_on(run_dag: RunDag, plaud: EmulatorServer) -> None:
    run = run_dag("submit")
    [first] = [ti for ti in run.get_task_instances() if ti.task_id == "has_state_store"]

    assert first.xcom_pull(task_ids="has_state_store") is HAS_STATE_STORE


def test_the_first_try_submits(run_dag: RunDag, plaud: EmulatorServer) -> None:
    assert run_dag("submit").state == "success"
    assert plaud.summary()["submits_accepted"] == 1


@pytest.mark.parametrize("dies", ["before", "after"])
def test_a_retry_of_a_submit(
    run_dag: RunDag, plaud: EmulatorServer, capfd: pytest.CaptureFixture[str], dies: str
) -> None:
    run = run_dag(f"submit_dies_{dies}")
    [submit] = [ti for ti in run.get_task_instances() if ti.task_id == "submit"]

    assert submit.try_number == 2
    if HAS_STATE_STORE and dies == "after":
        assert submit.state == "success"
        assert plaud.summary()["submits_accepted"] == 1
    else:
        # Of a try that died before it began nothing is noted, as if the store had been emptied.
        assert submit.state == "failed"
        assert plaud.summary()["submits_accepted"] == (1 if dies == "after" else 0)
        assert_says_what_to_do(capfd.readouterr().out)


def test_a_clear_of_a_submit(
    run_dag: RunDag, plaud: EmulatorServer, capfd: pytest.CaptureFixture[str]
) -> None:
    state = clear(run_dag("submit"), "submit")

    assert state == ("success" if HAS_STATE_STORE else "failed")
    assert plaud.summary()["submits_accepted"] == 1, "in neither case is it paid twice"
    if not HAS_STATE_STORE:
        assert_says_what_to_do(capfd.readouterr().out)


def test_a_clear_of_a_submit_that_may_be_sent_again(run_dag: RunDag, plaud: EmulatorServer) -> None:
    run = run_dag("submit", {"on_unknown_submit": "resubmit"})

    assert clear(run, "submit") == "success"
    # With a state store there is nothing unknown about a success.
    assert plaud.summary()["submits_accepted"] == (1 if HAS_STATE_STORE else 2)


def assert_says_what_to_do(log: str) -> None:
    assert "PlaudSubmitOutcomeUnknownError" in log
    why = "task state store was emptied" if HAS_STATE_STORE else "Airflow before 3.3 has no task state store"
    assert why in log
    assert "run this task with on_unknown_submit='resubmit'" in log


def endless() -> str:
    with PlaudHook() as hook:
        return hook.submit_transcription("https://calls.example/endless.mp3").transcription_id


def deadlines(log: str) -> list[float]:
    return [float(at) for at in re.findall(r"The wait ends at ([0-9.]+)\.", log)]


@pytest.mark.parametrize("mode", ["deferrable", "poke", "reschedule"])
def test_a_wait_ends_at_its_deadline(
    run_dag: RunDag, plaud: EmulatorServer, capfd: pytest.CaptureFixture[str], mode: str
) -> None:
    run = run_dag(f"wait_{mode}", {"transcription_id": endless()})
    log = capfd.readouterr().out

    assert states(run)[WAIT] == "failed"
    assert "PlaudWaitTimeoutError" in log
    if mode == "reschedule":
        first, *later = deadlines(log)
        assert later, "it was rescheduled"
        # Airflow 3.2 knows when it was first rescheduled, which is when the first look was over.
        assert later == pytest.approx([first] * len(later), abs=0.001 if HAS_STATE_STORE else 1.5)
        assert len(set(later)) == 1, "from then on it does not move"


def test_a_retry_of_a_wait(run_dag: RunDag, plaud: EmulatorServer, capfd: pytest.CaptureFixture[str]) -> None:
    run = run_dag("wait_retried", {"transcription_id": endless()})
    first, *later = deadlines(capfd.readouterr().out)

    assert states(run)[WAIT] == "failed"
    if HAS_STATE_STORE:
        assert set(later) == {first}
    else:
        assert len(set(later)) == 1
        assert later[0] > first, "nothing is known of the first attempt"
