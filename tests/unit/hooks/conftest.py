from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from plaud_provider.api.models import Transcription
from plaud_provider.api.retry import RetryPolicy
from plaud_provider.emulator.faultbook import Ordered
from plaud_provider.emulator.ledger import Ledger
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.emulator.settings import Settings
from plaud_provider.hooks.plaud import PlaudAsyncHook, PlaudHook
from plaud_provider.hooks.transport import Limits
from tests.unit.hooks.servers import Authority

#: Pauses too short to be noticed; how long they should be is tested without a real clock in tests/unit/api.
FAST = RetryPolicy(base_delay=0.01, max_delay=0.02, max_retry_after=0.02)
#: For what would only be the same again.
ONCE = RetryPolicy(attempts=1, malformed_attempts=1)
#: Far above what anything here takes, so that a busy machine does not turn one failure into another.
LIMITS = Limits(connect_seconds=10, read_seconds=20, total_seconds=20, response_bytes=1024 * 1024)
#: A minute of the quota where the emulator's clock runs at ``SPEED``.
MINUTE = 2.0
SPEED = 30.0
AUDIO_URL = "https://bucket.example/a.wav?X-Amz-Signature=signature-canary&X-Amz-Expires=3600"


class Client(Protocol):
    """One of the hooks, called the same way."""

    def submit(self, audio_url: str = AUDIO_URL, **arguments: Any) -> Transcription: ...

    def get(self, transcription_id: str) -> Transcription: ...


class SyncClient:
    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments

    def submit(self, audio_url: str = AUDIO_URL, **arguments: Any) -> Transcription:
        with PlaudHook(**self._arguments) as hook:
            return hook.submit_transcription(audio_url, **arguments)

    def get(self, transcription_id: str) -> Transcription:
        with PlaudHook(**self._arguments) as hook:
            return hook.get_transcription(transcription_id)


class AsyncClient:
    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments

    def submit(self, audio_url: str = AUDIO_URL, **arguments: Any) -> Transcription:
        on_phase = arguments.pop("on_phase", None)
        if on_phase is not None:

            async def note(phase: Any) -> None:
                on_phase(phase)

            arguments["on_phase"] = note
        return self._run(lambda hook: hook.submit_transcription(audio_url, **arguments))

    def get(self, transcription_id: str) -> Transcription:
        return self._run(lambda hook: hook.get_transcription(transcription_id))

    def _run(self, call: Callable[[PlaudAsyncHook], Awaitable[Transcription]]) -> Transcription:
        async def run() -> Transcription:
            async with PlaudAsyncHook(**self._arguments) as hook:
                return await call(hook)

        return asyncio.run(run())


@pytest.fixture(params=[SyncClient, AsyncClient], ids=["sync", "async"])
def open_client(request: pytest.FixtureRequest) -> Callable[..., Client]:
    """Make a client of either kind."""

    def make(*, limits: Limits = LIMITS, policy: RetryPolicy = FAST, **arguments: Any) -> Client:
        made: Client = request.param(limits=limits, retry_policy=policy, **arguments)
        return made

    return make


@pytest.fixture
def client(open_client: Callable[..., Client]) -> Client:
    """A client of either kind, which pauses after a 429 for parts of a short minute."""
    return open_client(minute=MINUTE)


@pytest.fixture
def txn(plaud: EmulatorServer) -> str:
    """A transcription that is being processed; the token that it took is stored."""
    transcription_id = SyncClient().submit().transcription_id
    plaud.state.ledger = Ledger()
    return transcription_id


Inject = Callable[..., Ordered]


@pytest.fixture
def inject(plaud: EmulatorServer) -> Iterator[Inject]:
    """Order faults; afterwards all must have been met as often as ordered."""
    ordered: list[Ordered] = []

    def order(kind: str, action: str, **instruction: Any) -> Ordered:
        fault = plaud.inject({"match": {"kind": kind}, "action": action, **instruction})
        ordered.append(fault)
        return fault

    yield order
    assert [fault.view() for fault in ordered if fault.consumed != fault.fault.times] == []


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., EmulatorServer]]:
    """
    Start an emulator with settings of its own, behind the connection ``plaud_default``.

    Its extra is ``extra``; without one, the connection knows of no limit.
    """
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    with ExitStack() as servers:

        def start(extra: dict[str, Any] | None = None, **settings: Any) -> EmulatorServer:
            settings = {"clients": {"client": "secret-key-canary"}, "fetch_audio": False, **settings}
            server = servers.enter_context(EmulatorServer(Settings(**settings)))
            connection = json.loads(server.airflow_connection)
            connection["extra"].update(extra or {"requests_per_minute": 60_000})
            monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
            return server

        yield start


Connect = Callable[..., None]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Connect:
    """Set the connection ``plaud_default``; tokens are kept in a folder of this test."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))

    def set_connection(host: str = "", **fields: Any) -> None:
        connection = {"conn_type": "plaud", "login": "client", "password": "secret-key-canary", "host": host}
        monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps({**connection, **fields}))

    return set_connection


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


async def reached(condition: Callable[[], bool]) -> None:
    """Wait until the emulator, which runs in another thread, has come so far."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def outcomes(server: EmulatorServer) -> list[tuple[str, object]]:
    """What was asked of the emulator, and what it answered."""
    return [(entry["kind"], entry["status"]) for entry in server.ledger()]
