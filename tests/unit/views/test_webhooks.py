"""The receiver as Plaud finds it: a call that is Plaud's leaves one mark, any other leaves nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from plaud_provider.handover.marks import Marks, mark_name
from plaud_provider.views import webhooks
from plaud_provider.views.app import create_app
from tests.unit.api.test_webhooks import signed

SECRET = "whsec-canary-5b1f"
TEXT = "transcript-sentinel-93ab"
URL = "/webhooks/plaud_default"
BODY = json.dumps(
    {"event": "transcription.completed", "data": {"transcriptionId": "txn_1", "text": TEXT}}
).encode()


def connect(monkeypatch: pytest.MonkeyPatch, name: str = "plaud_default", **extra: Any) -> None:
    connection = {"conn_type": "plaud", "login": "client", "password": "secret-key-canary", "extra": extra}
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Marks:
    path = str(tmp_path / "marks")
    connect(
        monkeypatch,
        webhook_base_url="https://airflow.example/",
        webhook_secret=f"{SECRET} next",
        webhook_path=path,
    )
    return Marks(path)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(webhooks, "_receivers", webhooks._Receivers())
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        yield client


def call(client: TestClient, body: bytes = BODY, url: str = URL, **change: Any) -> int:
    """Have Plaud call; return the status, and check that nothing else is answered."""
    told = {"secret": SECRET, "timestamp": f"{time.time():.0f}", **change}
    answer = client.post(url, content=body, headers=signed(body, **told))
    assert answer.content == b""
    return answer.status_code


def test_a_call_leaves_a_mark(client: TestClient, marks: Marks) -> None:
    assert call(client) == 200
    assert marks.recent(now=time.time()) == {mark_name("us", "txn_1")}


def test_a_hundred_at_once_leave_one_mark(client: TestClient, marks: Marks) -> None:
    with ThreadPoolExecutor(20) as callers:
        statuses = set(callers.map(lambda _: call(client), range(100)))

    assert statuses <= {200, 503}, "503 has Plaud call again"
    assert 200 in statuses
    assert len(marks.all()) == 1


@pytest.mark.parametrize(
    "change", [{"secret": "guessed"}, {"timestamp": f"{time.time() - 301:.0f}"}, {"timestamp": "9" * 10}]
)
def test_a_forged_or_an_old_call_leaves_nothing(
    client: TestClient, marks: Marks, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert call(client, **change) == 401
    assert marks.all() == set()
    assert TEXT not in caplog.text
    assert SECRET not in caplog.text


def test_a_call_without_a_signature_is_refused(client: TestClient, marks: Marks) -> None:
    assert client.post(URL, content=BODY).status_code == 401
    assert client.get(URL).status_code == 405


def test_the_next_secret_is_taken_too(client: TestClient, marks: Marks) -> None:
    assert call(client, secret="next") == 200


@pytest.mark.parametrize("body", [b"{}", b"nonsense", b'{"event": "transcription.started"}'])
def test_a_call_that_says_nothing_of_use_is_taken_and_leaves_nothing(
    client: TestClient, marks: Marks, body: bytes
) -> None:
    assert call(client, body) == 200
    assert marks.all() == set()


def test_a_large_body_is_refused(client: TestClient, marks: Marks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "MAX_BODY_BYTES", 1000)
    large = b"x" * 1001

    assert call(client, large) == 413

    def parts() -> Iterator[bytes]:
        yield from (large[:500], large[500:])

    headers = signed(large, secret=SECRET, timestamp=f"{time.time():.0f}")
    assert client.post(URL, content=parts(), headers=headers).status_code == 413, "without a length, too"
    assert marks.all() == set()


def test_a_slow_body_is_given_up(client: TestClient, marks: Marks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "BODY_SECONDS", 0.01)

    async def never(request: Any, signature: Any, slot: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    monkeypatch.setattr(webhooks, "_body", never)

    assert call(client) == 408
    assert marks.all() == set()


def test_who_holds_up_large_bodies_keeps_no_small_call_out(
    client: TestClient, marks: Marks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "_bodies", asyncio.Semaphore(0))

    assert call(client, BODY.ljust(webhooks.SMALL_BODY_BYTES + 1)) == 503
    assert marks.all() == set()
    assert call(client) == 200


def test_while_airflow_s_database_is_away_plaud_is_asked_to_call_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(conn_id: str) -> Any:
        raise OperationalError("select", {}, Exception(SECRET))

    monkeypatch.setattr(webhooks, "_look_up", away)

    assert call(client) == 503


@pytest.mark.parametrize("url", ["/webhooks/no_such", "/webhooks/plaud_plain", "/webhooks/" + "x" * 1000])
def test_a_receiver_that_is_not_set_up_takes_nothing(
    client: TestClient, marks: Marks, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    connect(monkeypatch, "plaud_plain")

    assert call(client, url=url) == 503


def test_a_mark_that_cannot_be_left_has_plaud_call_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    connect(
        monkeypatch,
        webhook_base_url="https://airflow.example",
        webhook_secret=SECRET,
        webhook_path=str(tmp_path / "file"),
    )

    assert call(client) == 503


def test_forged_calls_cost_one_lookup_and_many_names_no_memory(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = []
    monkeypatch.setattr(
        webhooks, "_look_up", lambda conn_id: looked_up.append(conn_id) or webhooks._Receiver()
    )
    for _ in range(5):
        call(client, url="/webhooks/a")
    assert looked_up == ["a"]
    for number in range(webhooks.MAX_CONNECTIONS + 5):
        call(client, url=f"/webhooks/{number}")
    assert len(webhooks._receivers._known) == webhooks.MAX_CONNECTIONS
