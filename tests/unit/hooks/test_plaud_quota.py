"""The quota of requests through both hooks, in one process and in many, against a Plaud that enforces it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowNotFoundException

from plaud_provider.api.effects import SubmitPhase
from plaud_provider.api.retry import RetryPolicy
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.hooks.plaud import PlaudAsyncHook, PlaudHook
from plaud_provider.quota.document import from_document
from plaud_provider.quota.rule import Quota
from tests.unit.hooks.conftest import (
    AUDIO_URL,
    FAST,
    LIMITS,
    MINUTE,
    SPEED,
    Client,
    Inject,
    SyncClient,
    outcomes,
    reached,
)
from tests.unit.hooks.herd import stampede
from tests.unit.postgres_server import postgres_database, postgres_server

__all__ = ["postgres_database", "postgres_server"]

Emulator = Callable[..., EmulatorServer]


def limited(emulator: Emulator, *, limit: int, figure: int | None = None, **extra: Any) -> EmulatorServer:
    """Start a Plaud with a fast clock, and a connection with a figure that may be wrong."""
    extra["requests_per_minute"] = figure or limit
    return emulator(extra, request_limit=limit, speed=SPEED, processing_seconds=100_000)


def refused(plaud: EmulatorServer) -> int:
    return [status for _, status in outcomes(plaud)].count(429)


def quota_on(home: Path) -> Quota:
    [file] = (home / "plaud_tokens").glob("*.budget")
    return from_document(file.read_bytes())


async def get_many(transcription_id: str, count: int, **arguments: Any) -> None:
    async with PlaudAsyncHook(limits=LIMITS, minute=MINUTE, **arguments) as hook:
        await asyncio.gather(*(hook.get_transcription(transcription_id) for _ in range(count)))


def test_a_host_s_processes_and_its_triggerer_are_never_refused(emulator: Emulator) -> None:
    plaud = limited(emulator, limit=8)
    txn = SyncClient(minute=MINUTE).submit().transcription_id

    with ThreadPoolExecutor(1) as pool:
        herd = pool.submit(stampede, 4, call=txn, again=3, minute=MINUTE)
        asyncio.run(get_many(txn, 12))
        got = herd.result()

    assert got == [txn] * 12
    assert outcomes(plaud).count(("get", 200)) == 24
    assert refused(plaud) == 0


def test_hosts_that_share_a_database_are_never_refused(
    emulator: Emulator,
    postgres_database: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SHARED", json.dumps(postgres_database))
    plaud = limited(emulator, limit=8, budget_conn_id="shared")
    txn = SyncClient(minute=MINUTE).submit().transcription_id

    with ThreadPoolExecutor(2) as pool:
        herds = [
            pool.submit(stampede, 3, call=txn, again=2, minute=MINUTE, home=tmp_path / host)
            for host in ("one", "two")
        ]
        asyncio.run(get_many(txn, 8))
        got = [outcome for herd in herds for outcome in herd.result()]

    assert got == [txn] * 12
    assert outcomes(plaud).count(("get", 200)) == 20
    assert refused(plaud) == 0


def test_an_emulator_whose_minute_is_short_needs_nothing_but_a_higher_figure(
    emulator: Emulator,
) -> None:
    plaud = emulator({"requests_per_minute": 300}, request_limit=60, speed=5.0, processing_seconds=100_000)

    async def get_all() -> None:
        async with PlaudAsyncHook(limits=LIMITS) as hook:
            txn = (await hook.submit_transcription(AUDIO_URL)).transcription_id
            await asyncio.gather(*(hook.get_transcription(txn) for _ in range(100)))

    asyncio.run(get_all())

    assert outcomes(plaud).count(("get", 200)) == 100
    assert refused(plaud) == 0


def test_a_figure_that_is_wrong_is_corrected_by_the_first_refusals(
    emulator: Emulator, tmp_path: Path
) -> None:
    """Twice what Plaud allows: the first ones are refused, and then no more."""
    plaud = limited(emulator, limit=5, figure=10)
    txn = SyncClient(minute=MINUTE).submit().transcription_id

    asyncio.run(get_many(txn, 13, retry_policy=RetryPolicy()))

    statuses = [status for _, status in outcomes(plaud)]
    assert statuses.count(200) == 15
    # The exchange, what Plaud allows, and no more than could be sent before the first refusal was there.
    assert 429 not in statuses[11:]
    assert quota_on(tmp_path).lowered_limit == 5.0


async def test_results_come_before_submits_that_were_there_first(
    emulator: Emulator,
) -> None:
    plaud = emulator({"requests_per_minute": 3}, request_limit=0, speed=SPEED, processing_seconds=100_000)
    async with PlaudAsyncHook(limits=LIMITS, minute=MINUTE) as hook:
        txn = (await hook.submit_transcription(AUDIO_URL)).transcription_id
        await asyncio.gather(*(hook.get_transcription(txn) for _ in range(2)))
        submits = [asyncio.create_task(hook.submit_transcription(AUDIO_URL)) for _ in range(2)]
        await asyncio.sleep(0)
        results = [asyncio.create_task(hook.get_transcription(txn)) for _ in range(3)]
        await asyncio.gather(*submits, *results)

    kinds = [kind for kind, _ in outcomes(plaud) if kind != "exchange"]
    assert kinds == ["submit", "get", "get"] + ["get"] * 3 + ["submit"] * 2


async def test_a_cancelled_call_that_waits_leaves_no_trace(emulator: Emulator, tmp_path: Path) -> None:
    plaud = emulator({"requests_per_minute": 1}, processing_seconds=100_000)
    noted: list[SubmitPhase] = []

    async def note(phase: SubmitPhase) -> None:
        noted.append(phase)

    async with PlaudAsyncHook(limits=LIMITS) as hook:
        txn = (await hook.submit_transcription(AUDIO_URL)).transcription_id
        calls = [
            asyncio.create_task(hook.get_transcription(txn)),
            asyncio.create_task(hook.submit_transcription(AUDIO_URL, on_phase=note)),
        ]
        await reached(lambda: len(quota_on(tmp_path).waiting) == 2)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    quota = quota_on(tmp_path)
    assert (quota.waiting, quota.out, len(quota.returned)) == ({}, {}, 1)
    assert noted == []
    assert outcomes(plaud) == [("exchange", 200), ("submit", 200)]


async def test_a_call_that_is_cancelled_on_its_way_has_used_its_slot(
    plaud: EmulatorServer, txn: str, tmp_path: Path
) -> None:
    slow = plaud.inject({"match": {"kind": "get"}, "action": "delay", "seconds": 60})
    async with PlaudAsyncHook(limits=LIMITS) as hook:
        call = asyncio.create_task(hook.get_transcription(txn))
        await reached(lambda: slow.consumed == 1)
        assert len(quota_on(tmp_path).out) == 1
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    assert quota_on(tmp_path).out == {}


def test_a_submit_that_could_not_be_noted_has_not_used_its_slot(
    plaud: EmulatorServer, client: Client, txn: str, tmp_path: Path
) -> None:
    def fail(_: SubmitPhase) -> None:
        raise OSError("the state store is down")

    before = len(quota_on(tmp_path).returned)
    with pytest.raises(OSError, match="the state store is down"):
        client.submit(on_phase=fail)

    quota = quota_on(tmp_path)
    assert quota.out == {}
    assert len(quota.returned) <= before


@pytest.mark.parametrize("seconds", [0.0, 61.0])
def test_what_is_held_up_after_it_has_taken_its_slot_takes_another_one(
    plaud: EmulatorServer, client: Client, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """By a ledger that hangs, or as its process was stopped: the slot may have lapsed meanwhile."""
    client.submit()
    taken: list[str] = []
    passed = 0.0
    take = Quota.take

    def noted(quota: Quota, ticket: str, *arguments: Any, **named: Any) -> float:
        taken.append(ticket)
        return take(quota, ticket, *arguments, **named)

    def hold_up(phase: SubmitPhase) -> None:
        nonlocal passed
        passed = seconds

    monotonic = time.monotonic
    clock = SimpleNamespace(**{**vars(time), "monotonic": lambda: monotonic() + passed})
    monkeypatch.setattr("plaud_provider.hooks.shells.time", clock)
    monkeypatch.setattr(Quota, "take", noted)
    client.submit(on_phase=hold_up)

    assert len(set(taken)) == (1 if seconds == 0.0 else 2)
    assert outcomes(plaud).count(("submit", 200)) == 2


def test_a_refusal_makes_the_host_pause(
    plaud: EmulatorServer, inject: Inject, client: Client, txn: str, tmp_path: Path
) -> None:
    inject("get", "status", status=429, headers={"Retry-After": "1"})

    client.get(txn)

    assert quota_on(tmp_path).paused_until > 0
    assert quota_on(tmp_path).lowered_limit is not None


def test_a_budget_connection_that_does_not_exist_is_found_before_anything_is_sent(
    emulator: Emulator, open_client: Callable[..., Client]
) -> None:
    plaud = emulator({"budget_conn_id": "nowhere"})
    noted: list[SubmitPhase] = []

    with pytest.raises(AirflowNotFoundException, match=r"budget_conn_id: .*'nowhere'.*Nothing was sent"):
        open_client().submit(on_phase=noted.append)

    assert noted == []
    assert plaud.ledger() == []


def test_a_budget_connection_of_something_else_is_found_before_anything_is_sent(
    emulator: Emulator, open_client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", '{"conn_type": "http", "host": "example.com"}')
    plaud = emulator({"budget_conn_id": "other"})

    with pytest.raises(PlaudConfigurationError, match="PostgreSQL"):
        open_client().submit()

    assert plaud.ledger() == []


def test_without_the_database_the_calls_go_on(
    emulator: Emulator,
    open_client: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = {"conn_type": "postgres", "host": "127.0.0.1", "port": 1, "password": "password-canary"}
    monkeypatch.setenv("AIRFLOW_CONN_AWAY", json.dumps(away))
    emulator({"budget_conn_id": "away", "requests_per_minute": 600}, processing_seconds=100_000)
    # Without it there is one request a minute.
    client = open_client(minute=0.2)

    for _ in range(2):
        client.get(client.submit().transcription_id)

    warnings = [record for record in caplog.records if "connection 'away'" in record.getMessage()]
    assert len(warnings) == 1
    assert "canary" not in caplog.text


async def test_an_asynchronous_hook_takes_settings_that_were_read_already(
    plaud: EmulatorServer, txn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PlaudHook().settings
    monkeypatch.delenv("AIRFLOW_CONN_PLAUD_DEFAULT")

    async with PlaudAsyncHook(settings=settings, region="us", retry_policy=FAST) as hook:
        assert (await hook.get_transcription(txn)).transcription_id == txn


async def test_settings_of_another_region_are_refused(plaud: EmulatorServer) -> None:
    with pytest.raises(PlaudConfigurationError, match="region: 'eu' was asked for"):
        async with PlaudAsyncHook(settings=PlaudHook().settings, region="eu"):
            pass
