"""What Airflow is given, and what its other processes do not pay for it."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from airflow.plugins_manager import is_valid_plugin
from airflow.sdk import BaseOperator

from plaud_provider.get_provider_info import get_provider_info
from plaud_provider.views.links import DocsLink, TranscriptsLink
from plaud_provider.views.plugin import PlaudPlugin
from tests.unit.views.conftest import Login

REPOSITORY = Path(__file__).resolve().parents[3]
TOO_DEAR = (
    "fastapi",
    "sqlalchemy.orm",
    "markdown_it",
    "plaud_provider.operators",
    "plaud_provider.views.app",
)


def test_airflow_takes_it_for_a_plugin_and_finds_it() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())

    assert is_valid_plugin(PlaudPlugin)
    assert project["project"]["entry-points"]["airflow.plugins"] == {
        "plaud": f"{PlaudPlugin.__module__}:{PlaudPlugin.__name__}"
    }


def test_other_processes_than_the_api_server_import_little() -> None:
    script = (
        "import sys\nfrom airflow.sdk import plugins_manager\nbefore = set(sys.modules)\n"
        "from plaud_provider.views.plugin import PlaudPlugin\nPlaudPlugin()\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )

    assert [name for name in TOO_DEAR if name in done.stdout.splitlines()[-1].split()] == []


@pytest.mark.parametrize("base_url", ["http://airflow.example/team/", ""])
def test_pages_are_below_airflow_s_own_address(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    below = "/team" if base_url else ""

    views = PlaudPlugin().external_views

    assert {view["destination"] for view in views} == {"nav", "dag_run", "task_instance"}
    assert all(view["href"].startswith(f"{below}/plaud/") for view in views)
    routes = [view["url_route"] for view in views]
    assert len(set(routes)) == len(routes)


def test_tasks_lead_to_their_transcripts_and_docs(login: Login) -> None:
    from types import SimpleNamespace

    key = SimpleNamespace(
        dag_id="a dag", run_id="manual__2026-06-01T00:00:00+00:00", task_id="load", map_index=3
    )
    link = TranscriptsLink().get_link(None, ti_key=key)  # type: ignore[arg-type]

    assert link == (
        "/plaud/transcripts?dag_id=a+dag&run_id=manual__2026-06-01T00%3A00%3A00%2B00%3A00&task_id=load&map_index=3"
    )
    for operator in DocsLink.operators:
        task = SimpleNamespace(task_type=operator.__name__)
        page = DocsLink().get_link(task, ti_key=key)  # type: ignore[arg-type]
        answer = login("reader").get(page)
        assert answer.status_code == 200
        assert operator.__name__ in answer.text or "transcribe_archive" in answer.text
        anchor = page.partition("#")[2]
        assert not anchor or f'id="{anchor}"' in answer.text


def test_each_task_has_a_link_to_its_docs() -> None:
    modules = [
        name
        for section in ("operators", "sensors")
        for entry in get_provider_info()[section]
        for name in entry["python-modules"]
    ]
    modules += [entry["python-module"] for entry in get_provider_info()["transfers"]]
    tasks = {
        found
        for name in modules
        for found in vars(importlib.import_module(name)).values()
        if isinstance(found, type) and issubclass(found, BaseOperator) and found.__module__ == name
    }

    assert tasks == set(DocsLink.operators)


def test_docs_lead_to_each_other_and_are_for_who_is_logged_in(login: Login) -> None:
    text = login("reader").get("/plaud/docs/load").text

    assert '<a href="submit#links-and-their-signatures">' in text
    assert login().get("/plaud/docs/load").status_code == 401
    assert login("reader").get("/plaud/docs/..%2f__init__").status_code == 404
