"""Canaries: secrets that must turn up nowhere, whatever goes wrong."""

from __future__ import annotations

import base64
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import PlaudError
from plaud_provider.hooks.plaud import PlaudHook
from plaud_provider.hooks.transport import Limits
from tests.unit.hooks.conftest import FAST, Client, Connect, Inject, SyncClient
from tests.unit.hooks.servers import TcpServer

SECRET_KEY = "secret-key-canary"
SIGNATURE = "signature-canary"
TRANSCRIPT = "transcript-canary"


class Canaries:
    """Everything that a test let out, to be searched."""

    def __init__(self, plaud: EmulatorServer, folder: Path, logs: Callable[[], str]) -> None:
        self._plaud = plaud
        self._folder = folder
        self._logs = logs
        self.shown: list[str] = []

    def show(self, error: BaseException) -> None:
        """Search what a person or a log could be shown of an error."""
        self.shown += [str(error), repr(error), *map(repr, error.args), *traceback.format_exception(error)]
        seen: BaseException | None = error
        while seen is not None:
            # What is suppressed is still there for whoever collects errors.
            self.shown += [str(seen), repr(seen)]
            seen = seen.__cause__ or seen.__context__

    def found(self) -> list[str]:
        tokens = [*self._plaud.state.tokens._access, *self._plaud.state.tokens._refresh]
        files = b"".join(file.read_bytes() for file in self._folder.rglob("*") if file.is_file())
        places = "\n".join([self._logs(), *self.shown, files.decode("latin-1")])
        secrets = [SECRET_KEY, SIGNATURE, TRANSCRIPT, *tokens]
        return [shape for secret in secrets for shape in shapes(secret) if shape in places]


def shapes(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret, safe="")
    # In base64 the neighbours of a secret decide about its ends.
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret.encode()).decode()
        yield encoded[4:-4]


@pytest.fixture
def canaries(
    plaud: EmulatorServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Canaries]:
    caplog.set_level(logging.DEBUG)
    streams: list[str] = []

    def logs() -> str:
        streams.extend(capfd.readouterr())
        return caplog.text + "".join(map(str, streams)) + repr([record.__dict__ for record in caplog.records])

    found = Canaries(plaud, tmp_path, logs)
    yield found
    assert found.found() == []


def test_the_search_finds_what_is_there(plaud: EmulatorServer, tmp_path: Path, txn: str) -> None:
    token = next(iter(plaud.state.tokens._access))
    logs = f"{quote(SIGNATURE, safe='')} {base64.b64encode(f'client:{SECRET_KEY}'.encode()).decode()} {token}"

    found = Canaries(plaud, tmp_path, lambda: logs).found()

    assert SIGNATURE in found
    assert token in found
    assert any(base64.b64encode(f"client:{SECRET_KEY}".encode()).decode().find(shape) >= 0 for shape in found)


def test_nothing_leaks_where_all_goes_well(plaud: EmulatorServer, client: Client, canaries: Canaries) -> None:
    transcription = client.submit(webhook_url=f"https://hook.example/?token={SIGNATURE}")
    plaud.force(
        transcription.transcription_id, status="completed", text=TRANSCRIPT, segments=[{"text": TRANSCRIPT}]
    )

    canaries.shown.append(repr(client.get(transcription.transcription_id)))
    plaud.expire_tokens()
    client.get(transcription.transcription_id)


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("status", {"status": 500, "body": f"{SIGNATURE} {TRANSCRIPT}"}),
    ("status", {"status": 422, "body": {"error": f"cannot fetch https://b.example/?sig={SIGNATURE}"}}),
    ("status", {"status": 401}),
    ("status", {"status": 429, "headers": {"Retry-After": "0"}}),
    ("drop_before", {"reset": True}),
    ("drop_after", {}),
    ("truncate", {"keep": 25}),
    ("body", {"body": "{,"}),
    ("html", {"run_handler": True}),
    ("redirect", {"location": f"http://127.0.0.1:1/?{SIGNATURE}"}),
    ("body", {"body": f'"{TRANSCRIPT}'}),
]


@pytest.mark.parametrize(("action", "how"), FAULTS)
def test_nothing_leaks_from_a_submit_that_fails(
    plaud: EmulatorServer, client: Client, txn: str, canaries: Canaries, action: str, how: dict[str, Any]
) -> None:
    plaud.inject({"match": {"kind": "submit"}, "action": action, "times": None, **how})

    with pytest.raises(PlaudError) as caught:
        client.submit()

    canaries.show(caught.value)


@pytest.mark.parametrize(("action", "how"), FAULTS)
def test_nothing_leaks_from_a_result_that_fails(
    plaud: EmulatorServer, client: Client, txn: str, canaries: Canaries, action: str, how: dict[str, Any]
) -> None:
    plaud.force(txn, status="completed", text=TRANSCRIPT)
    plaud.inject({"match": {"kind": "get"}, "action": action, "times": None, **how})

    with pytest.raises(PlaudError) as caught:
        client.get(txn)

    canaries.show(caught.value)


@pytest.mark.parametrize(("action", "how"), FAULTS)
def test_nothing_leaks_from_a_token_call_that_fails(
    plaud: EmulatorServer, client: Client, txn: str, canaries: Canaries, action: str, how: dict[str, Any]
) -> None:
    plaud.expire_tokens()
    for kind in ("refresh", "exchange"):
        plaud.inject({"match": {"kind": kind}, "action": action, "times": None, **how})

    with pytest.raises(PlaudError) as caught:
        client.submit()

    canaries.show(caught.value)


def test_nothing_leaks_from_a_failed_transcription(
    plaud: EmulatorServer, client: Client, txn: str, canaries: Canaries
) -> None:
    plaud.force(
        txn, status="failed", error=f"403 for https://bucket.example/a.wav?X-Amz-Signature={SIGNATURE}"
    )

    transcription = client.get(txn)

    canaries.shown += [repr(transcription), str(transcription.error)]


def test_nothing_leaks_from_a_host_that_is_not_there(
    plaud: EmulatorServer, connect: Connect, client: Client, canaries: Canaries
) -> None:
    with TcpServer(lambda _: None) as gone:
        port = gone.port
    connect(f"http://127.0.0.1:{port}")

    with pytest.raises(PlaudError) as caught:
        client.submit()

    canaries.show(caught.value)


def test_nothing_leaks_from_a_call_that_is_given_up(
    open_client: Callable[..., Client], inject: Inject, txn: str, canaries: Canaries
) -> None:
    inject("submit", "drip", bytes_per_second=10)

    with pytest.raises(PlaudError) as caught:
        open_client(limits=Limits(submit_seconds=0.3)).submit()

    canaries.show(caught.value)


def test_a_hook_and_its_settings_show_no_secret(txn: str, canaries: Canaries) -> None:
    hook = PlaudHook(retry_policy=FAST)
    hook.get_transcription(txn)

    canaries.shown += [repr(hook), repr(hook.settings), str(hook.__dict__)]


def test_airflow_masks_tokens_should_anything_ever_log_them(
    plaud: EmulatorServer, client: Client, txn: str
) -> None:
    from airflow.sdk.log import redact

    client.get(txn)

    for token in [*plaud.state.tokens._access, *plaud.state.tokens._refresh][-2:]:
        assert token not in str(redact(f"Bearer {token}"))


def test_log_lines_of_the_hook_are_among_those_that_are_searched(
    plaud: EmulatorServer,
    inject: Inject,
    txn: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    inject("get", "status", status=503)

    SyncClient(retry_policy=FAST).get(txn)

    assert "PlaudServerError" in caplog.text + capfd.readouterr().out
