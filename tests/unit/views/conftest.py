"""The application below ``/plaud``, with Airflow's own auth before it and its metadata database behind it."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.unit.warehouse.warehouses import Warehouse, connected, landing

DAG, OTHER_DAG, RUN = "archive", "payroll", "manual__2026-06-01T00:00:00+00:00"
#: Who may do what: methods by user and DAG. Nobody else may do anything.
RIGHTS = {
    "reader": {DAG: {"GET"}},
    "owner": {DAG: {"GET", "POST", "PUT"}, OTHER_DAG: {"GET"}},
    "stranger": {},
}


class PerDag(SimpleAuthManager):
    """An auth manager with rights for each DAG, as those for production have."""

    def is_authorized_dag(
        self, *, method: Any, user: Any, access_entity: Any = None, details: Any = None
    ) -> bool:
        return method in RIGHTS[user.username].get(details.id, set())


@pytest.fixture(scope="session")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Airflow's metadata database."""
    from airflow import settings
    from airflow.utils.db import initdb

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", secrets.token_hex(32))
        initdb()
        yield Path(str(settings.engine.url.database))


@pytest.fixture(scope="session")
def manager(metadata: Path) -> Iterator[PerDag]:
    from airflow.api_fastapi.app import _AuthManagerState

    before = _AuthManagerState.instance
    _AuthManagerState.instance = PerDag()
    yield _AuthManagerState.instance
    _AuthManagerState.instance = before


Login = Callable[..., TestClient]


@pytest.fixture
def login(manager: PerDag, monkeypatch: pytest.MonkeyPatch) -> Login:
    """Return a browser of somebody who is logged in; of nobody without a name."""
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    from plaud_provider.views.app import create_app

    root = FastAPI()
    root.mount("/plaud", create_app())

    def browser(name: str | None = None) -> TestClient:
        client = TestClient(root, base_url="http://airflow.example")
        if name is not None:
            token = manager.generate_jwt(SimpleAuthManagerUser(username=name, role="viewer"))
            client.cookies.set("_token", token)
        return client

    return browser


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    return connected("sqlite", tmp_path, monkeypatch)


@pytest.fixture
def tasks(metadata: Path) -> Iterator[Callable[..., None]]:
    """Note arguments of a task instance as Airflow does when it has rendered them."""

    def render(
        task_id: str, map_index: int = -1, dag_id: str = DAG, run_id: str = RUN, **fields: Any
    ) -> None:
        with closing(sqlite3.connect(metadata)) as connection:
            connection.execute(
                "insert into rendered_task_instance_fields "
                "(dag_id, task_id, run_id, map_index, rendered_fields) values (?, ?, ?, ?, ?)",
                (dag_id, task_id, run_id, map_index, json.dumps(fields)),
            )
            connection.commit()

    yield render
    with closing(sqlite3.connect(metadata)) as connection:
        connection.execute("delete from rendered_task_instance_fields")
        connection.commit()


def land(
    warehouse: Warehouse, transcription_id: str, *texts: str, dag_id: str | None = DAG, **values: Any
) -> None:
    """Land a transcript that says these texts."""
    answer = {
        "transcriptionId": transcription_id,
        "status": "completed",
        "text": " ".join(texts),
        "segments": [
            {
                "start": number * 2.0,
                "end": number * 2.0 + 1.5,
                "text": text,
                "speaker": f"Speaker {number % 2}",
            }
            for number, text in enumerate(texts)
        ],
    }
    writer = warehouse.writer()
    writer.ensure_tables()
    writer.replace(
        [
            landing(
                transcription_id,
                segments=0,
                raw=json.dumps(answer),
                dag_id=dag_id,
                run_id=RUN,
                landed_at=datetime(2026, 6, 1, tzinfo=UTC),
                **values,
            )
        ]
    )
