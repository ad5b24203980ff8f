from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from plaud_provider.api.waiting import SUBMITTED_AT_KEY
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import (
    PlaudAuthenticationError,
    PlaudInputError,
    PlaudTranscriptionFailedError,
    PlaudTriggerEventError,
    PlaudWaitTimeoutError,
)
from plaud_provider.hooks.plaud import PlaudHook
from plaud_provider.hooks.plaud_async import PlaudAsyncHook
from plaud_provider.quota.rule import Quota
from plaud_provider.sensors.transcription import TranscriptionSensor
from tests.unit.tasks import TaskStateStore, task_context

MODES = ["deferrable", "poke", "reschedule"]
INTERVAL = 0.05


def submitted(count: int) -> list[str]:
    with PlaudHook() as hook:
        return [
            hook.submit_transcription(f"https://calls.example/{n}.mp3").transcription_id for n in range(count)
        ]


def sensor(mode: str, ids: Any, **arguments: Any) -> TranscriptionSensor:
    arguments = {"timeout": 30, "poke_interval": INTERVAL, **arguments}
    if mode == "deferrable":
        return TranscriptionSensor(task_id="wait", transcription_id=ids, **arguments)
    return TranscriptionSensor(task_id="wait", transcription_id=ids, deferrable=False, mode=mode, **arguments)


def run(
    mode: str,
    ids: Any,
    *,
    store: TaskStateStore | None = None,
    between: Callable[[], object] = lambda: None,
    **arguments: Any,
) -> Any:
    """Run a sensor to its end as Airflow does: a new operator in each process, with what Airflow keeps."""
    store = store or TaskStateStore()
    first_reschedule: datetime | None = None
    while True:
        try:
            return sensor(mode, ids, **arguments).execute(
                task_context(store, first_reschedule=first_reschedule)
            )
        except TaskDeferred as deferred:
            between()
            event = asyncio.run(_event(deferred.trigger))
            resumed = sensor(mode, ids, **arguments)
            return resumed.resume_execution(
                deferred.method_name, {**(deferred.kwargs or {}), "event": event}, task_context(store)
            )
        except AirflowRescheduleException as again:
            first_reschedule = first_reschedule or datetime.now(tz=UTC)
            between()
            time.sleep(max(0.0, (again.reschedule_date - datetime.now(tz=UTC)).total_seconds()))


async def _event(trigger: Any) -> Any:
    [payload] = [event.payload async for event in trigger.run()]
    return payload


@pytest.mark.parametrize("mode", MODES)
def test_returns_counts_when_all_are_final(plaud: EmulatorServer, mode: str) -> None:
    ids = submitted(3)
    plaud.advance(601)

    assert run(mode, ids) == {"version": 1, "total": 3, "completed": 3, "failed": 0, "failed_ids": []}


@pytest.mark.parametrize("mode", MODES)
def test_ends_at_its_deadline(plaud: EmulatorServer, mode: str) -> None:
    [transcription_id] = submitted(1)
    with pytest.raises(PlaudWaitTimeoutError, match="0/1 completed, 0 failed") as ended:
        run(mode, transcription_id, timeout=0.6, poke_interval=0.25)

    assert isinstance(ended.value, AirflowSensorTimeout), "Airflow never retries it"


@pytest.mark.parametrize("mode", MODES)
def test_ends_at_its_deadline_although_the_next_look_is_later(plaud: EmulatorServer, mode: str) -> None:
    [transcription_id] = submitted(1)
    with pytest.raises(PlaudWaitTimeoutError):
        run(mode, transcription_id, timeout=0.3, poke_interval=3600)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 3])
def test_a_failed_transcription_fails_the_task_with_plauds_reason(
    plaud: EmulatorServer, mode: str, count: int
) -> None:
    ids = submitted(count)
    plaud.advance(601)
    plaud.force(ids[0], status="failed", error={"code": "no_speech", "message": "nothing was said"})

    with pytest.raises(
        PlaudTranscriptionFailedError, match=f"1 of {count} .*{ids[0]}: no_speech: nothing"
    ) as failed:
        run(mode, ids)
    assert isinstance(failed.value, AirflowFailException), "a retry would find the same"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 3])
def test_on_failed_skip_skips(plaud: EmulatorServer, mode: str, count: int) -> None:
    ids = submitted(count)
    plaud.advance(601)
    plaud.force(ids[0], status="failed", error="nothing was said")

    with pytest.raises(AirflowSkipException, match="nothing was said"):
        run(mode, ids, on_failed="skip")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 3])
def test_on_failed_continue_goes_on(plaud: EmulatorServer, mode: str, count: int) -> None:
    ids = submitted(count)
    plaud.advance(601)
    plaud.force(ids[0], status="failed", error="nothing was said")

    assert run(mode, ids, on_failed="continue") == {
        "version": 1,
        "total": count,
        "completed": count - 1,
        "failed": 1,
        "failed_ids": [ids[0]],
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 2])
def test_soft_fail_skips_on_failure(plaud: EmulatorServer, mode: str, count: int) -> None:
    ids = submitted(count)
    plaud.advance(601)
    plaud.force(ids[0], status="failed", error="nothing was said")

    with pytest.raises(AirflowSkipException):
        run(mode, ids, soft_fail=True)


@pytest.mark.parametrize("mode", MODES)
def test_soft_fail_skips_at_the_deadline(plaud: EmulatorServer, mode: str) -> None:
    with pytest.raises(AirflowSkipException):
        run(mode, submitted(1), soft_fail=True, timeout=0.3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 2])
def test_refused_credentials_fail_it_once_they_were_refused_for_a_while(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch, mode: str, count: int
) -> None:
    monkeypatch.setattr("plaud_provider.api.waiting.REFUSED_SECONDS", 0.3)
    ids = submitted(count)
    monkeypatch.setenv(
        "AIRFLOW_CONN_PLAUD_DEFAULT", plaud.airflow_connection.replace("secret-key-canary", "another-key")
    )

    with pytest.raises(PlaudAuthenticationError):
        run(mode, ids)
    assert plaud.summary()["unauthorized_401"] == 1


class Clock:
    """The time as sensors see it; who sleeps has it pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        self.looks: list[float] = []
        for module in ("plaud_provider.sensors.transcription", "airflow.sdk.bases.sensor"):
            monkeypatch.setattr(f"{module}.time", self)

    def time(self) -> float:
        return self.now

    monotonic = perf_counter = time

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
@pytest.mark.parametrize(("took", "by", "looks"), [(5, 5.1, 1), (20, 23.0, 4), (45, 50.0, 9)])
def test_one_that_was_just_submitted_is_seen_soon_and_not_looked_at_in_vain_at_once(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch, took: float, by: float, looks: int, mode: str
) -> None:
    """With the defaults, as in the README, and in one process; the trigger goes by the same schedule."""
    [transcription_id] = submitted(1)
    clock = Clock(monkeypatch)
    began = clock.now
    with DAG("dag", schedule=None):
        wait = TranscriptionSensor(
            task_id="wait", transcription_id=transcription_id, deferrable=False, mode=mode
        )
        BaseOperator(task_id="submit") >> wait
    asked = PlaudAsyncHook.get_transcription

    async def get(hook: PlaudAsyncHook, transcription_id: str) -> Any:
        clock.looks.append(clock.now - began)
        if clock.now >= began + took:
            plaud.force(transcription_id, status="completed", text="done")
        return await asked(hook, transcription_id)

    monkeypatch.setattr(PlaudAsyncHook, "get_transcription", get)
    context = task_context(
        TaskStateStore(), others={("submit", SUBMITTED_AT_KEY): [{transcription_id: began}]}
    )

    assert wait.execute(context)["completed"] == 1
    assert clock.looks[-1] <= by
    assert len(clock.looks) <= looks
    assert min(clock.looks) >= 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("trouble", ["a server that hangs", "a quota that is used up"])
def test_the_deadline_holds_whatever_holds_up_a_look(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch, mode: str, trouble: str
) -> None:
    ids = submitted(1)
    if trouble == "a server that hangs":
        plaud.inject({"match": {"kind": "get"}, "times": 100, "action": "delay", "seconds": 60})
    else:
        monkeypatch.setattr(Quota, "take", lambda *_, **__: 3600.0)
    began = time.monotonic()

    with pytest.raises(AirflowSensorTimeout):
        run(mode, ids, timeout=1.0)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("mode", MODES)
def test_goes_on_after_a_look_that_failed(plaud: EmulatorServer, mode: str) -> None:
    ids = submitted(2)
    fault = plaud.inject({"match": {"kind": "get"}, "times": 3, "action": "malformed"})
    plaud.advance(601)

    assert run(mode, ids)["completed"] == 2
    assert fault.consumed == 3


def test_one_that_is_ready_is_not_deferred(plaud: EmulatorServer) -> None:
    ids = submitted(1)
    plaud.advance(601)
    result = sensor("deferrable", ids[0]).execute(task_context(TaskStateStore()))

    assert result["completed"] == 1
    assert len(plaud.ledger(kind="get")) == 1


def test_many_are_deferred_without_a_look(plaud: EmulatorServer) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        sensor("deferrable", submitted(2), timeout=60).execute(task_context(TaskStateStore()))

    assert plaud.ledger(kind="get") == []
    backstop = deferred.value.timeout.total_seconds()
    assert backstop > 60, "the trigger ends the wait; Airflow's timeout comes later"


def test_reschedule_does_not_look_again_at_what_is_final(plaud: EmulatorServer) -> None:
    ids = submitted(3)
    plaud.force(ids[0], status="completed", text="a")
    plaud.force(ids[1], status="failed", error="b")
    run("reschedule", ids, on_failed="continue", between=lambda: plaud.advance(601))
    looked_at = [row["path"].rpartition("/")[2] for row in plaud.ledger(kind="get")]

    assert looked_at.count(ids[0]) == 1
    # Once more at the end, for Plaud's reason, unless the last poke has just seen it.
    assert looked_at.count(ids[1]) in (1, 2)


@pytest.mark.parametrize("mode", MODES)
def test_a_retry_keeps_the_deadline(plaud: EmulatorServer, mode: str) -> None:
    store = TaskStateStore()
    ids = submitted(1)
    with pytest.raises(AirflowSensorTimeout):
        run(mode, ids, store=store, timeout=0.2)
    looks = len(plaud.ledger(kind="get"))

    with pytest.raises(AirflowSensorTimeout):
        run(mode, ids, store=store, timeout=0.2)
    assert len(plaud.ledger(kind="get")) <= looks + 1


def test_a_clear_waits_again(plaud: EmulatorServer) -> None:
    store = TaskStateStore()
    ids = submitted(1)
    with pytest.raises(AirflowSensorTimeout):
        run("poke", ids, store=store, timeout=0.2)
    plaud.advance(601)

    cleared = task_context(store, try_number=2, max_tries=1)
    assert sensor("poke", ids, timeout=0.2).execute(cleared)["completed"] == 1


@pytest.mark.parametrize(("count", "age"), [(1, 58), (3, 0)])
def test_reschedule_lets_the_worker_go_for_several_and_after_a_minute(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch, count: int, age: float
) -> None:
    ids = submitted(count)
    clock = Clock(monkeypatch)
    told = [dict.fromkeys(ids, clock.now - age)]
    with DAG("dag", schedule=None):
        wait = sensor("reschedule", ids, timeout=3600, poke_interval=30)
        BaseOperator(task_id="submit") >> wait

    with pytest.raises(AirflowRescheduleException):
        wait.execute(task_context(TaskStateStore(), others={("submit", SUBMITTED_AT_KEY): told}))


def test_reschedule_without_a_state_store_keeps_the_deadline_of_the_first_look(plaud: EmulatorServer) -> None:
    first = datetime.now(tz=UTC) - timedelta(hours=2)
    with pytest.raises(AirflowSensorTimeout):
        sensor("reschedule", submitted(1), timeout=3600).execute(task_context(None, first_reschedule=first))


def test_execution_timeout_ends_a_deferred_wait_and_may_be_retried(plaud: EmulatorServer) -> None:
    with pytest.raises(AirflowTaskTimeout, match="execution_timeout"):
        run("deferrable", submitted(1), timeout=3600, execution_timeout=timedelta(seconds=0.3))


def test_an_event_of_another_version_fails_closed(plaud: EmulatorServer) -> None:
    with pytest.raises(PlaudTriggerEventError, match="same version"):
        sensor("deferrable", "txn_1").execute_complete(
            task_context(None), event={"version": 2, "outcome": "done"}
        )


def test_an_empty_list_is_nothing_to_wait_for(plaud: EmulatorServer) -> None:
    assert run("deferrable", [])["total"] == 0
    assert plaud.ledger() == []


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("['txn_1', 'txn_2']", "render_template_as_native_obj"),
        ("../oauth", "is not a transcription id"),
        (["txn_1", None], "a NoneType"),
        (7, "takes an id or a list of ids, not a int"),
        ({"version": 1, "completed": 1}, "not a dict. Pass what SubmitTranscriptionOperator returned"),
    ],
)
def test_what_is_no_id_is_told_before_any_request(plaud: EmulatorServer, ids: Any, message: str) -> None:
    with pytest.raises(PlaudInputError, match=message):
        run("deferrable", ids)
    assert plaud.ledger() == []


def test_ids_from_a_mapped_task_are_upstream() -> None:
    from plaud_provider.operators.transcription import SubmitTranscriptionOperator

    with DAG("d", schedule=None):
        submit = SubmitTranscriptionOperator.partial(task_id="submit").expand(
            audio_url=["https://a.example/a.mp3"]
        )
        wait = TranscriptionSensor(task_id="wait", transcription_id=submit.output)

    assert wait.upstream_task_ids == {"submit"}


def test_a_wrong_on_failed_is_told_when_the_dag_is_parsed() -> None:
    with pytest.raises(PlaudInputError, match="on_failed: 'ignore'"):
        sensor("poke", "txn_1", on_failed="ignore")
