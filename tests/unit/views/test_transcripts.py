"""Transcripts on pages: who sees them, where they are found, and that they stay text."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from plaud_provider.views.runs import Run, TaskKey
from plaud_provider.warehouse.lake import Lake
from tests.unit.views.conftest import DAG, OTHER_DAG, RUN, Login, land
from tests.unit.warehouse.warehouses import Warehouse, connected

SENTINEL = "SENTINEL words of a caller"
OF_RUN = {"dag_id": DAG, "run_id": RUN}
Render = Callable[..., None]

LIST, ONE, EXPORT = "/plaud/api/transcripts", "/plaud/api/transcript", "/plaud/api/export"
ROUTES = (
    *(("GET", path) for path in ("transcripts", "ledger", "static/pages.css", "static/common.js")),
    *(
        ("GET", f"api/{path}")
        for path in ("transcripts", "transcript", "export", "ledger", "recordings", "recording")
    ),
    ("POST", "api/mark"),
)


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["transcription_id"] for one in answer.json()["transcripts"]]


@pytest.fixture
def landed(warehouse: Warehouse, tasks: Render) -> Warehouse:
    """A run that has landed two transcripts, of which one was landed again by another DAG."""
    land(warehouse, "txn_1", SENTINEL, "<script>alert(1)</script>")
    land(warehouse, "txn_2", SENTINEL, dag_id=OTHER_DAG)
    tasks("load", transcription_id=["txn_1", "txn_2", "txn_3"], sql_conn_id="warehouse_default")
    return warehouse


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nobody_is_answered_who_is_not_logged_in(login: Login, method: str, path: str) -> None:
    answer = login().request(method, f"/plaud/{path}", params={**OF_RUN, "transcription_id": "txn_1"})

    assert answer.status_code == 401
    assert answer.json() == {"detail": "Not authenticated"}


def test_a_person_who_is_not_logged_in_is_shown_airflow_s_login(login: Login) -> None:
    answer = login().get(
        "/plaud/transcripts", params=OF_RUN, headers={"accept": "text/html"}, follow_redirects=False
    )

    assert answer.status_code == 307
    # Airflow 3.2 forgets where to go on from there.
    assert answer.headers["location"].partition("?")[0] == "/auth/login"


@pytest.mark.usefixtures("landed")
def test_a_transcript_is_seen_by_who_may_read_the_dag_that_landed_it(login: Login) -> None:
    listed = login("reader").get(LIST, params=OF_RUN)
    assert ids(listed) == ["txn_1"]
    assert (listed.json()["hidden"], listed.json()["not_landed"]) == (1, 1)
    assert SENTINEL not in listed.text
    assert ids(login("owner").get(LIST, params=OF_RUN)) == ["txn_1", "txn_2"]

    for name, transcription_id, status in [
        ("reader", "txn_1", 200),
        ("reader", "txn_2", 404),
        ("owner", "txn_2", 200),
        ("stranger", "txn_1", 403),
    ]:
        for path in (ONE, EXPORT):
            answer = login(name).get(path, params={**OF_RUN, "transcription_id": transcription_id})
            assert answer.status_code == status
            assert (SENTINEL in answer.text) is (status == 200)
    assert login("stranger").get(LIST, params=OF_RUN).status_code == 403


@pytest.mark.usefixtures("landed")
def test_a_dag_that_may_be_read_is_no_way_to_what_another_dag_has_landed(login: Login, tasks: Render) -> None:
    tasks("mine", dag_id=DAG, run_id="mine", transcription_id="txn_2", sql_conn_id="warehouse_default")

    answer = login("reader").get(LIST, params={"dag_id": DAG, "run_id": "mine"})

    assert answer.json()["transcripts"] == []
    for twice in (f"dag_id={DAG}&dag_id={OTHER_DAG}", f"dag_id={OTHER_DAG}&dag_id={DAG}", "dag_id=~"):
        query = f"{twice}&run_id={RUN}&transcription_id=txn_2"
        assert login("reader").get(f"{ONE}?{query}").status_code in (403, 404)


def test_what_no_dag_has_landed_is_not_shown(warehouse: Warehouse, login: Login, tasks: Render) -> None:
    land(warehouse, "txn_1", SENTINEL, dag_id=None)
    tasks("load", transcription_id="txn_1", sql_conn_id="warehouse_default")

    assert ids(login("owner").get(LIST, params=OF_RUN)) == []
    assert login("owner").get(ONE, params={**OF_RUN, "transcription_id": "txn_1"}).status_code == 404


@pytest.mark.usefixtures("landed")
def test_text_can_be_turned_off_for_everybody(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__PLAUD__SHOW_TRANSCRIPTS", "False")
    wanted = {**OF_RUN, "transcription_id": "txn_1"}

    one = login("owner").get(ONE, params=wanted)
    export = login("owner").get(EXPORT, params=wanted)

    assert one.status_code == 200
    assert [segment[:3] for segment in one.json()["segments"]] == [
        [0.0, 1.5, "Speaker 0"],
        [2.0, 3.5, "Speaker 1"],
    ]
    assert one.json()["formats"] == []
    assert (export.status_code, SENTINEL in one.text + export.text) == (403, False)


@pytest.mark.usefixtures("landed")
@pytest.mark.parametrize(
    ("format", "media_type"),
    [("srt", "application/x-subrip"), ("vtt", "text/vtt"), ("txt", "text/plain"), ("md", "text/markdown"),
     ("json", "application/json")],
)  # fmt: skip
def test_downloads_are_files_and_nothing_that_a_browser_runs(
    login: Login, format: str, media_type: str
) -> None:
    answer = login("reader").get(EXPORT, params={**OF_RUN, "transcription_id": "txn_1", "format": format})

    assert answer.headers["content-type"] == f"{media_type}; charset=utf-8"
    assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''txn_1.wav.{format}"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert SENTINEL in answer.text


@pytest.mark.parametrize("path", ["transcripts", "ledger", "api/transcripts", "static/transcripts.js"])
def test_pages_run_nothing_but_their_own_files_and_are_framed_by_airflow_only(
    login: Login, path: str
) -> None:
    answer = login("reader").get(f"/plaud/{path}", params=OF_RUN)

    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["frame-ancestors"] == "'self'"
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert answer.headers["cache-control"] == "no-store"
    if answer.headers["content-type"].startswith("text/html"):
        scripts = re.findall(r"<script[^>]*>(.*?)</script>", answer.text)
        # Their own files, and nothing written into the page.
        assert scripts == ["", ""]
        assert len(re.findall(r'<script [^>]*src="static/\w+\.js">', answer.text)) == 2
        assert "style=" not in answer.text
        assert " on" not in answer.text.split("<body>")[1].replace(" one", "")


@pytest.mark.parametrize("name", ["..%2Fplugin.py", "../plugin.py", "nothing.js", "%2e%2e%2fapp.py"])
def test_only_files_of_the_pages_are_served(login: Login, name: str) -> None:
    assert login("reader").get(f"/plaud/static/{name}").status_code in (404, 405)


def test_a_task_instance_has_its_own_transcripts(warehouse: Warehouse, login: Login, tasks: Render) -> None:
    for number in (1, 2, 3):
        land(warehouse, f"txn_{number}", "text")
    place = {"sql_conn_id": "warehouse_default"}
    tasks("load", 0, transcription_id="txn_1", **place)
    tasks("load", 1, transcription_id="txn_2", **place)
    reader = login("reader")

    assert ids(reader.get(LIST, params={**OF_RUN, "task_id": "load", "map_index": 1})) == ["txn_2"]
    assert ids(reader.get(LIST, params={**OF_RUN, "task_id": "load", "map_index": 0})) == ["txn_1"]
    assert ids(reader.get(LIST, params={"dag_id": DAG, "run_id": "another"})) == []


def test_a_run_whose_arguments_airflow_has_forgotten_is_found_by_what_it_has_landed(
    warehouse: Warehouse, login: Login
) -> None:
    land(warehouse, "txn_1", "text")

    assert ids(login("reader").get(LIST, params=OF_RUN)) == ["txn_1"]


def test_transcripts_are_read_where_the_run_has_landed_them(
    login: Login, tasks: Render, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = connected("sqlite", tmp_path, monkeypatch, conn_id="elsewhere")
    land(elsewhere, "txn_1", "text")
    tasks("load", transcription_id="txn_1", sql_conn_id="elsewhere", schema=None)

    assert ids(login("reader").get(LIST, params=OF_RUN)) == ["txn_1"]


def test_of_a_run_that_lands_in_a_lake_alone_the_lake_is_read(tasks: Render) -> None:
    tasks("submit", ledger_conn_id="ledger", sql_conn_id="None", lake_path="")
    tasks("land", sql_conn_id="None", schema="None", lake_path="/shared/lake", lake_format="delta")

    place = Run(TaskKey(DAG, RUN)).place
    assert (place.sql_conn_id, place.lake) == (None, Lake("/shared/lake", "delta"))
    assert place.ledger_conn_id == "ledger"


def test_a_warehouse_that_is_not_there_is_named(login: Login) -> None:
    answer = login("reader").get(LIST, params=OF_RUN)

    assert answer.status_code == 502
    assert "there is no Airflow connection 'warehouse_default'" in answer.json()["detail"]


def test_ten_thousand_segments_take_as_many_statements_as_one(
    warehouse: Warehouse, login: Login, tasks: Render, statements: list[str]
) -> None:
    land(warehouse, "txn_1", "a sentence")
    land(warehouse, "txn_2", *(f"sentence {number} of a long meeting" for number in range(10_000)))
    tasks("load", transcription_id=["txn_1", "txn_2"], sql_conn_id="warehouse_default")
    reader = login("reader")

    taken = []
    for name, many in {"txn_1": 1, "txn_2": 10_000}.items():
        statements.clear()
        answer = reader.get(ONE, params={**OF_RUN, "transcription_id": name})
        assert len(answer.json()["segments"]) == many
        taken.append(len(statements))

    assert taken[0] == taken[1] > 0
