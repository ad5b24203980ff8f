from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.emulator.settings import Settings
from plaud_provider.handover.marks import Marks
from tests.unit.tasks import bring_never_expire


@pytest.fixture(scope="session")
def plaud_server() -> Iterator[EmulatorServer]:
    settings = Settings(
        clients={"client": "secret-key-canary"},
        fetch_audio=False,
        request_limit=0,
        token_limit=0,
        processing_seconds=600,
        processing_ratio=0,
    )
    with EmulatorServer(settings) as server:
        yield server


@pytest.fixture
def plaud(plaud_server: EmulatorServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EmulatorServer:
    """A Plaud without limits where everything takes ten minutes, and an Airflow connection to it."""
    plaud_server.reset()
    connection = json.loads(plaud_server.airflow_connection)
    connection["extra"]["requests_per_minute"] = 60_000
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
    # Tokens are kept there: none of another test.
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    return plaud_server


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """The SQL statements that SQLAlchemy has sent, of all databases."""
    sent: list[str] = []

    def listen(connection: object, cursor: object, statement: str, *others: object) -> None:
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", listen)
    yield sent
    event.remove(Engine, "before_cursor_execute", listen)


def call_webhook(plaud: EmulatorServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> Marks:
    """Have the connection say that Plaud calls; return where its calls leave their marks."""
    connection = json.loads(plaud.airflow_connection)
    connection["extra"] |= {
        "requests_per_minute": 60_000,
        "webhook_base_url": "https://airflow.example",
        "webhook_secret": "whsec-canary",
        "webhook_path": str(path),
    }
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
    return Marks(str(path))


@pytest.fixture(autouse=True)
def _never_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    bring_never_expire(partial(monkeypatch.setattr, raising=False))


@pytest.fixture(autouse=True)
def new_triggers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triggers of a process that has learned nothing yet; no worker has deferred to them that has to end."""
    monkeypatch.setattr("plaud_provider.triggers.transcription.WORKER_SECONDS", 0.0)
    # Else they would expect what Plaud took in other tests, whose clock ran at another speed.
    monkeypatch.setattr("plaud_provider.triggers.transcription._KNOWN", {})
