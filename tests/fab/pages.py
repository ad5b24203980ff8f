"""
Who sees what with FAB's roles, in the API server as Airflow makes it: `make test-fab`.

The environment of the other tests has no FAB, so it is not collected with them.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ |= {
    "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
    "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
    "_AIRFLOW_PROCESS_CONTEXT": "server",
}

from fastapi.testclient import TestClient

from plaud_provider.ledger.entry import Owner, Recording
from plaud_provider.ledger.ledger import Ledger
from tests.unit.views.conftest import DAG, OTHER_DAG, RUN, land
from tests.unit.warehouse.warehouses import Warehouse, connected

#: To FAB, task instances may be read by who may read runs as well.
TASKS = [("can_read", "DAG Runs"), ("can_read", "Task Instances")]
#: Permissions of each role, as an administrator gives them in FAB.
ROLES = {
    "tasks of all": [("can_read", "DAGs"), *TASKS],
    "tasks of one": [("can_read", f"DAG:{DAG}"), *TASKS],
    "no tasks": [("can_read", "DAGs"), ("can_read", "DAG Runs")],
    "nothing": [],
    "owner of one": [
        *(("can_read", f"DAG:{DAG}"), ("can_edit", f"DAG:{DAG}")),
        *(*TASKS, ("can_edit", "DAG Runs"), ("can_edit", "Task Instances")),
    ],
}
SENTINEL = "SENTINEL words of a caller"
OF_RUN = {"dag_id": DAG, "run_id": RUN}
Login = Callable[[str | None], TestClient]


@pytest.fixture(scope="module")
def login() -> Login:
    """Return a browser of a user who has a role of that name; of nobody without one."""
    from airflow.utils.db import initdb

    initdb()
    from airflow.api_fastapi.app import create_app, get_auth_manager
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    application = create_app(apps="core")
    tokens = {}
    with get_application_builder() as builder:
        manager = builder.sm
        for name, permissions in ROLES.items():
            role = manager.add_role(name)
            for action, resource in permissions:
                manager.add_permission_to_role(role, manager.create_permission(action, resource))
            user = manager.add_user(name, "A", "Person", f"{name}@example.com".replace(" ", "."), role, "x")
            tokens[name] = get_auth_manager().generate_jwt(user)

    def browser(name: str | None) -> TestClient:
        client = TestClient(application, base_url="http://airflow.example", follow_redirects=False)
        if name is not None:
            client.cookies.set("_token", tokens[name])
        return client

    return browser


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """A transcript and an unknown recording of each of two DAGs."""
    warehouse = connected("sqlite", tmp_path, monkeypatch)
    monkeypatch.setenv("AIRFLOW__PLAUD__SQL_CONN_ID", "warehouse_default")
    ledger = Ledger(warehouse.database)
    ledger.ensure_table()
    for dag_id in (DAG, OTHER_DAG):
        land(warehouse, f"txn_{dag_id}", SENTINEL, dag_id=dag_id)
        owner = Owner(dag_id, RUN, "submit", -1, 1)
        ledger.claim([Recording(dag_id, f"s3://calls/{dag_id}.mp3", "us", "client")], owner)
        ledger.submitting(dag_id, owner)
        ledger.unknown(dag_id, owner, "the answer was lost")
    return warehouse


@pytest.mark.usefixtures("warehouse")
@pytest.mark.parametrize(
    ("role", "own", "other"),
    [
        ("tasks of all", True, True),
        ("tasks of one", True, False),
        ("owner of one", True, False),
        ("no tasks", False, False),
        ("nothing", False, False),
    ],
)
def test_a_role_sees_what_was_said_in_dags_whose_task_instances_it_may_read(
    login: Login, role: str, own: bool, other: bool
) -> None:
    for dag_id, may in ((DAG, own), (OTHER_DAG, other)):
        query = {"dag_id": dag_id, "run_id": RUN, "transcription_id": f"txn_{dag_id}"}
        for path in ("transcript", "export"):
            answer = login(role).get(f"/plaud/api/{path}", params=query)
            assert (answer.status_code, SENTINEL in answer.text) == ((200, True) if may else (403, False))
    states = login(role).get("/plaud/api/ledger").json()["states"]
    assert sum(one["recordings"] for one in states) == own + other
    rows = login(role).get("/plaud/api/recordings").json()
    assert {row["dag_id"] for row in rows} == {dag for dag, may in ((DAG, own), (OTHER_DAG, other)) if may}


@pytest.mark.usefixtures("warehouse")
@pytest.mark.parametrize(
    ("role", "key", "status"),
    [
        ("tasks of all", DAG, 403),
        ("no tasks", DAG, 404),
        ("owner of one", OTHER_DAG, 404),
        ("owner of one", DAG, 200),
    ],
)
def test_a_role_changes_recordings_of_dags_whose_task_instances_it_may_edit(
    login: Login, role: str, key: str, status: int
) -> None:
    answer = login(role).post(
        "/plaud/api/mark",
        content=json.dumps({"recording_key": key, "transcription_id": "txn_found"}),
        headers={"x-requested-with": "plaud", "content-type": "application/json"},
    )

    assert answer.status_code == status, answer.text


def test_who_is_not_logged_in_is_sent_to_fab_s_login(login: Login) -> None:
    answer = login(None).get("/plaud/ledger", headers={"accept": "text/html"})

    assert answer.status_code == 307
    assert answer.headers["location"].partition("?")[0].endswith("/auth/login/")
    assert login(None).get("/plaud/api/ledger").status_code == 401
