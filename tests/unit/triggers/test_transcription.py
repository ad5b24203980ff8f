from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.serialization.serialized_objects import BaseSerialization
from airflow.triggers.base import TriggerEvent

from plaud_provider.api import waiting
from plaud_provider.api.waiting import WaitResult
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.emulator.settings import Settings
from plaud_provider.hooks.plaud import PlaudHook
from plaud_provider.triggers.transcription import TranscriptionTrigger

TEXT = "transcript-sentinel-93ab"


def submitted(count: int) -> list[str]:
    with PlaudHook() as hook:
        return [
            hook.submit_transcription(f"https://calls.example/{n}.mp3").transcription_id for n in range(count)
        ]


def trigger(ids: list[str], *, lasts: float = 30.0, **arguments: Any) -> TranscriptionTrigger:
    now = time.time()
    return TranscriptionTrigger(
        **{
            "transcription_ids": ids,
            "plaud_conn_id": "plaud_default",
            "region": None,
            "poke_interval": 0.05,
            "started_at": now,
            "end_time": now + lasts,
            **arguments,
        }
    )


async def ending(waiter: TranscriptionTrigger) -> WaitResult:
    events: list[TriggerEvent] = [event async for event in waiter.run()]
    assert len(events) == 1
    assert TEXT not in str(events[0].payload)
    return WaitResult.from_event(events[0].payload)


async def test_ends_when_all_are_final(plaud: EmulatorServer) -> None:
    ids = submitted(3)
    under_way = asyncio.create_task(ending(trigger(ids)))
    plaud.force(ids[0], status="completed", text=TEXT)
    plaud.force(ids[1], status="failed", error=f"{TEXT}: no speech")
    plaud.advance(601)
    result = await under_way

    assert (result.outcome, result.total, result.completed) == ("done", 3, 2)
    assert dict(result.failed) == {ids[1]: None}


async def test_ends_at_its_deadline_with_what_is_pending(plaud: EmulatorServer) -> None:
    ids = submitted(2)
    plaud.force(ids[0], status="completed", text=TEXT)
    result = await ending(trigger(ids, lasts=0.5))

    assert (result.outcome, result.completed, result.pending) == ("timeout", 1, (ids[1],))
    assert "clear the task to wait again" in result.message


async def test_a_deadline_that_passed_while_no_triggerer_ran_ends_it_at_once(plaud: EmulatorServer) -> None:
    ids = submitted(1)

    assert (await ending(trigger(ids, lasts=-3600))).outcome == "timeout"


# Airflow would take the task for one whose worker died.
async def test_no_event_comes_before_the_worker_that_deferred_can_have_ended(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = submitted(1)
    plaud.advance(601)
    monkeypatch.setattr("plaud_provider.triggers.transcription.WORKER_SECONDS", 0.7)
    began = time.monotonic()

    assert (await ending(trigger(ids))).outcome == "done"
    assert time.monotonic() - began >= 0.7


async def test_goes_on_after_what_passes(plaud: EmulatorServer) -> None:
    ids = submitted(1)
    faults = [
        plaud.inject({"match": {"kind": "get"}, "times": 1, "action": action, **more})
        for action, more in [
            ("status", {"status": 503, "headers": {"Retry-After": "0"}}),
            ("status", {"status": 429, "headers": {"Retry-After": "0"}}),
            ("drop_before", {}),
            ("malformed", {}),
            ("expire_tokens", {}),
        ]
    ]
    plaud.advance(601)
    result = await ending(trigger(ids))

    assert [fault.consumed for fault in faults] == [1] * len(faults)
    assert result.outcome == "done"


async def test_an_unknown_status_word_counts_as_processing(
    plaud: EmulatorServer, capfd: pytest.CaptureFixture[str]
) -> None:
    ids = submitted(1)
    plaud.force(ids[0], payload={"transcriptionId": ids[0], "status": "reticulating"})
    result = await ending(trigger(ids, lasts=0.5))

    assert result.outcome == "timeout"
    assert capfd.readouterr().out.count("unknown status 'reticulating'") == 1


async def test_refused_credentials_end_it_with_the_class_to_raise(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = submitted(1)
    monkeypatch.setattr(waiting, "REFUSED_SECONDS", 0.5)
    monkeypatch.setenv(
        "AIRFLOW_CONN_PLAUD_DEFAULT", plaud.airflow_connection.replace("secret-key-canary", "another-key")
    )
    result = await ending(trigger(ids))

    assert (result.outcome, result.error) == ("error", "PlaudAuthenticationError")
    assert "another-key" not in result.message
    assert plaud.summary()["unauthorized_401"] == 1


async def test_another_region_ends_it_before_any_request(plaud: EmulatorServer) -> None:
    result = await ending(trigger(["txn_1"], region="jp"))

    assert result.error == "PlaudConfigurationError"
    assert plaud.ledger() == []


async def test_what_plaud_no_longer_knows_is_failed_after_a_while(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "NOT_FOUND", waiting.Patience(3, 0.2))
    result = await ending(trigger(["txn_gone"], started_at=time.time() - 61))

    assert result.outcome == "done"
    assert list(result.failed) == ["txn_gone"]
    assert len(plaud.ledger(kind="get")) >= 3


async def test_what_plaud_does_not_know_yet_is_waited_for(plaud: EmulatorServer) -> None:
    assert (await ending(trigger(["txn_not_yet"], lasts=0.5))).outcome == "timeout"


async def test_two_copies_come_to_the_same_result(plaud: EmulatorServer) -> None:
    ids = submitted(2)
    plaud.advance(601)
    first, second = await asyncio.gather(ending(trigger(ids)), ending(trigger(ids)))

    assert first == second


async def test_cancelling_it_cancels_nothing_at_plaud(plaud: EmulatorServer) -> None:
    ids = submitted(1)
    under_way = asyncio.create_task(ending(trigger(ids)))
    while not plaud.ledger(kind="get"):  # noqa: ASYNC110  the emulator runs in another thread
        await asyncio.sleep(0.01)
    under_way.cancel()
    with pytest.raises(asyncio.CancelledError):
        await under_way

    assert {row["kind"] for row in plaud.ledger()} == {"exchange", "submit", "get"}


def test_survives_serialization_whole() -> None:
    original = trigger(["txn_1", "txn_2"], region="eu", looked_at=3.0)
    path, arguments = original.serialize()
    stored = BaseSerialization.deserialize(BaseSerialization.serialize(arguments))

    assert path == f"{TranscriptionTrigger.__module__}.{TranscriptionTrigger.__qualname__}"
    assert TranscriptionTrigger(**stored).serialize() == (path, arguments)


@pytest.mark.parametrize(
    ("api", "stale"), [("openapi", {"password": "old"}), ("embedded", {"extra": {"api_key": "old"}})]
)
async def test_secrets_that_are_changed_while_it_waits_are_taken_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, api: str, stale: dict[str, Any]
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setattr("plaud_provider.triggers.transcription.SECRETS_SECONDS", 0.0)
    settings = Settings(
        clients={"client": "secret"},
        api=api,
        api_keys={"client": "key"},
        processing_seconds=0,
        fetch_audio=False,
    )
    with EmulatorServer(settings) as server:
        connection = json.loads(server.airflow_connection)
        monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
        ids = submitted(1)
        old = {**connection, **stale, "extra": {**connection["extra"], **stale.get("extra", {})}}
        monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(old))
        under_way = asyncio.create_task(ending(trigger(ids, lasts=60)))
        async with asyncio.timeout(20):
            while server.ledger()[-1]["status"] != 401:  # noqa: ASYNC110  the emulator runs in another thread
                await asyncio.sleep(0.01)
        monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))

        assert (await under_way).outcome == "done"
