from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import TaskDeferred

from plaud_provider.api.account import Account
from plaud_provider.api.schedule import ENOUGH, REMEMBERED, Taken
from plaud_provider.api.waiting import AT_ONCE, SUBMITTED_AT_KEY, WaitResult
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import PlaudWaitTimeoutError
from plaud_provider.handover.known_times import KnownTimes
from plaud_provider.hooks.connection import PlaudConnection
from plaud_provider.hooks.plaud import PlaudHook
from plaud_provider.private_folder import PrivateFolder
from plaud_provider.sensors.transcription import TranscriptionSensor
from tests.unit.tasks import TaskStateStore, task_context

MODES = ["deferrable", "poke", "reschedule"]


def submitted() -> str:
    with PlaudHook() as hook:
        return hook.submit_transcription("https://calls.example/1.mp3").transcription_id


def wait_for(
    transcription_id: str, mode: str, monkeypatch: pytest.MonkeyPatch, *, age: float, **arguments: Any
) -> None:
    """Wait in processes that remember nothing: a task's, and for a deferred one a new triggerer's."""
    monkeypatch.setattr("plaud_provider.triggers.transcription._KNOWN", {})
    with DAG("dag", schedule=None):
        wait = TranscriptionSensor(
            task_id="wait",
            transcription_id=transcription_id,
            deferrable=mode == "deferrable",
            mode="poke" if mode == "deferrable" else mode,
            **arguments,
        )
        BaseOperator(task_id="submit") >> wait
    told = {("submit", SUBMITTED_AT_KEY): [{transcription_id: time.time() - age}]}
    try:
        wait.execute(task_context(TaskStateStore(), others=told))
    except TaskDeferred as deferred:
        event = asyncio.run(event_of(deferred.trigger))
        if WaitResult.from_event(event).outcome == "timeout":
            raise PlaudWaitTimeoutError from None


async def event_of(trigger: Any) -> Any:
    [payload] = [event.payload async for event in trigger.run()]
    return payload


def looks(plaud: EmulatorServer) -> int:
    return sum(entry.kind == "get" for entry in plaud.state.ledger.entries())


def account() -> Account:
    return PlaudConnection("plaud_default").settings.account


@pytest.mark.parametrize("later", MODES)
@pytest.mark.parametrize("earlier", MODES)
def test_what_a_process_has_seen_spares_later_ones_looks_in_vain(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch, earlier: str, later: str
) -> None:
    """At Plaud each takes ten minutes; half a minute after its submit it would be looked at."""
    for _ in range(ENOUGH):
        transcription_id = submitted()
        plaud.advance(601)
        wait_for(transcription_id, earlier, monkeypatch, age=601)
    before = looks(plaud)

    with pytest.raises(PlaudWaitTimeoutError):
        wait_for(submitted(), later, monkeypatch, age=30, timeout=0.5)

    assert looks(plaud) == before


def test_one_that_was_given_up_tells_nothing_of_how_long_plaud_takes(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plaud_provider.api.waiting.NOT_FOUND", AT_ONCE)
    monkeypatch.setattr("plaud_provider.api.waiting.NOT_FOUND_GRACE_SECONDS", 0.0)

    wait_for("txn_gone", "deferrable", monkeypatch, age=3600, on_failed="continue")

    assert KnownTimes(account()).load() == []


@pytest.mark.parametrize("mode", MODES)
def test_what_plaud_says_took_longer_than_it_was_waited_for_is_not_kept(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """As of an emulator whose clock is fast: later waits would look too late for as long as it is kept."""
    transcription_id = submitted()
    plaud.advance(601)

    wait_for(transcription_id, mode, monkeypatch, age=60)

    assert KnownTimes(account()).load() == []


def test_the_last_times_are_kept_of_each_client_for_itself(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(REMEMBERED + 5):
        KnownTimes(account()).add([Taken(None, number)])
    KnownTimes(replace(account(), client_id="another")).add([Taken(60.0, 1.0)])

    assert KnownTimes(account()).load() == [(None, number) for number in range(5, REMEMBERED + 5)]
    assert KnownTimes(replace(account(), client_id="another")).load() == [(60.0, 1.0)]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "7",
        "[7]",
        "[[1]]",
        "[[null, null]]",
        "[[null, -1]]",
        "[[null, NaN]]",
        '[["1", 1]]',
        "[" * 9999,
    ],
)
def test_a_damaged_file_tells_nothing_and_is_written_anew(plaud: EmulatorServer, content: str) -> None:
    known_times = KnownTimes(account())
    known_times.add([Taken(None, 20.0)])
    (PrivateFolder().path / f"{account().client_name}.times").write_text(content)

    assert known_times.load() == []
    known_times.add([Taken(None, 30.0)])
    assert known_times.load() == [(None, 30.0)]


@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_cannot_be_read_or_written_holds_up_no_wait(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    (PrivateFolder().path / f"{account().client_name}.times").mkdir()
    transcription_id = submitted()
    plaud.advance(601)

    wait_for(transcription_id, mode, monkeypatch, age=601)

    assert KnownTimes(account()).load() == []
