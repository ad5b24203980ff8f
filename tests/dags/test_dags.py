"""The DAGs that users deploy: how they parse, what their forms ask for, and a run of each."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import pytest
from airflow.sdk import DAG
from airflow.sdk.definitions._internal.types import NOTSET
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.serialization.serialized_objects import DagSerialization

from plaud_provider.api.arguments import optional, validate_language
from plaud_provider.api.dialects import EMBEDDED
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.emulator.settings import Settings
from tests.dags.conftest import FOLDERS, RunDag, load_dag, states
from tests.unit.operators.test_purge_transcriptions import forms

# By a thread: Airflow uses the alarm itself while it parses, and takes a signal's away.
pytestmark = pytest.mark.timeout(120, method="thread")

FILES = sorted(FOLDERS["deployable"].glob("*.py"))
PACKAGED = FOLDERS["deployable"].parent / "plaud_provider" / "example_dags"
DAG_IDS = [file.stem for file in FILES]
SIGNATURE = "canary-signature-6f1d"
SPOKEN = "canary transcript"
URLS = [f"https://calls.s3.amazonaws.com/2024/{n}.mp3?X-Amz-Signature={SIGNATURE}" for n in range(2)]
#: DAGs for archives that pay. They have a schedule, and runs in test_archives.py.
ARCHIVES = {"plaud_transcribe_archive", "plaud_transcribe_daily"}
#: What says beforehand what they would cost; its runs are there too.
PLAN = "plaud_plan_archive"
#: What removes what the others have landed.
FORGET = "plaud_forget"
#: What each of the other DAGs is started with, and how many recordings that is.
CONFS: dict[str, tuple[dict[str, Any], int]] = {
    "plaud_transcribe_list": ({"recordings": URLS, "language": "en"}, 2),
    "plaud_transcribe_recording": ({"recording": URLS[0], "language": "en"}, 1),
}
#: Tasks that take the options of a recording.
TAKERS = {"list", "submit", "plan"}
#: The modules that parsing a DAG file may add to those of any DAG: it happens again in every task process.
MOST_MODULES = 55
#: What is imported where it is used.
FOR_TASKS = (
    "airflow.providers.common",
    "airflow.providers.duckdb",
    "airflow.providers.http",
    "plaud_provider.auth",
    "plaud_provider.emulator",
    "plaud_provider.hooks",
    "plaud_provider.quota",
    "plaud_provider.warehouse",
    "sqlalchemy",
)


@pytest.fixture(scope="module", params=FILES, ids=DAG_IDS)
def parsed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What parsing a DAG file took, in a process without network, database and connections."""
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("home")),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    finished = subprocess.run(
        [sys.executable, "-m", "tests.dags.parse", str(request.param)],
        cwd=FOLDERS["deployable"].parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return {"file": request.param, **json.loads(finished.stdout.splitlines()[-1])}


def test_a_file_parses_into_the_dag_of_its_name(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert parsed["dag_ids"] == [parsed["file"].stem]


def test_parsing_reaches_for_nothing(parsed: dict[str, Any]) -> None:
    assert parsed["forbidden"] == []


def test_parsing_imports_little(parsed: dict[str, Any]) -> None:
    imported = parsed["imported"]

    assert [name for name in imported if "." not in name] == [], "no package of its own"
    assert [name for name in imported if name.startswith(FOR_TASKS)] == []
    assert len(imported) <= MOST_MODULES, imported


def test_parsing_raises_no_deprecation(parsed: dict[str, Any]) -> None:
    assert parsed["warned"] == []


def test_every_dag_is_run_here() -> None:
    assert set(CONFS) | ARCHIVES | {PLAN, FORGET} == set(DAG_IDS)


def test_dags_of_a_checkout_are_those_of_the_package() -> None:
    # Links in a checkout, copies in a source distribution.
    assert {file.name: file.read_text() for file in FILES} == {
        file.name: file.read_text() for file in PACKAGED.glob("*.py") if file.stem != "__init__"
    }


@pytest.fixture(params=DAG_IDS)
def dag(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> DAG:
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    return load_dag(request.param)


def test_a_dag_explains_itself(dag: DAG) -> None:
    assert dag.description
    assert dag.doc_md
    assert "plaud" in dag.tags
    ours = [task.task_id.rpartition(".")[2] for task in dag.tasks if not task.task_type.startswith("_")]
    if dag.dag_id in {*ARCHIVES, "plaud_transcribe_list"}:
        assert sorted(ours) == ["land", "list", "report", "submit"]
    elif dag.dag_id == PLAN:
        assert sorted(ours) == ["list", "plan", "report"]
    elif dag.dag_id == FORGET:
        assert ours == ["forget"]
    else:
        assert sorted(ours) == ["load", "submit", "wait"]
    if dag.dag_id != "plaud_transcribe_daily":
        assert [task_id for task_id in ours if f"**{task_id}**" not in dag.doc_md] == []


def test_a_dag_runs_only_when_it_is_asked_to(dag: DAG) -> None:
    assert not dag.catchup
    if dag.dag_id in ARCHIVES:
        # They have a schedule, without which there are no backfills; somebody has to switch it on.
        assert dag.is_paused_upon_creation
    else:
        assert dag.schedule is None


def test_a_dag_serializes(dag: DAG) -> None:
    serialized = json.loads(json.dumps(DagSerialization.serialize_dag(dag)))
    read = DagSerialization.deserialize_dag(serialized)

    assert sorted(read.task_dict) == sorted(dag.task_dict)
    assert sorted(read.params) == sorted(dag.params)


def test_a_form_is_valid_and_explains_itself(dag: DAG) -> None:
    for name in dag.params:
        schema = dag.params.get_param(name).schema
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema.get("title"), name
        assert "type" in schema, name


def test_a_form_asks_for_recordings_and_has_valid_defaults_for_the_rest(dag: DAG) -> None:
    params = [dag.params.get_param(name) for name in dag.params]
    required = [name for name, param in zip(dag.params, params, strict=True) if param.value is NOTSET]

    # Scheduled runs have only defaults; a purge that is told nothing removes nothing.
    assert required in ([], ["archive"], ["recording"], ["recordings"])
    assert (required == []) == (dag.dag_id in {*ARCHIVES, FORGET})
    for param in params:
        if param.value is not NOTSET:
            # Raises if its own schema refuses it.
            param.resolve()


def test_a_form_takes_no_number_that_airflow_cannot_hand_to_a_task(dag: DAG) -> None:
    """The task would end without a word in its log: a whole number above 64 bits cannot be sent to it."""
    numbers = [
        schema
        for schema in (dag.params.get_param(name).schema for name in dag.params)
        if {"number", "integer"}.intersection(
            schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        )
    ]

    assert [schema["title"] for schema in numbers if not schema.get("maximum", 2**64) < 2**63] == []


def test_the_languages_of_a_form_are_those_that_the_operator_takes(dag: DAG) -> None:
    if dag.dag_id == FORGET:
        return
    for code in dag.params.get_param("language").schema.get("enum", []):
        validate_language(optional(code))


def test_a_form_has_the_options_of_the_other_api_and_hands_them_on(dag: DAG) -> None:
    if dag.dag_id == FORGET:
        return
    for name, choices in EMBEDDED.choices.items():
        assert dag.params.get_param(name).schema["enum"] == [None, *choices]
    takers = {name: task for task in dag.tasks if (name := task.task_id.rpartition(".")[2]) in TAKERS}
    assert takers
    for name, task in takers.items():
        arguments = task.partial_kwargs if isinstance(task, MappedOperator) else vars(task)
        names = ["model", "hotwords", "decode_silence", "detection_level"] + ["upload"] * (name != "plan")
        assert {name: arguments[name] for name in names} == {
            name: f"{{{{ params.{name} }}}}" for name in names
        }


class Warehouse:
    """A warehouse file, and what has landed in it."""

    def __init__(self, kind: str, file: Path) -> None:
        self.kind = kind
        self.file = file

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(
            duckdb.connect(str(self.file), read_only=True)
            if self.kind == "duckdb"
            else sqlite3.connect(self.file)
        ) as connection:
            return connection.execute(sql).fetchall()


@pytest.fixture(params=["sqlite", "duckdb"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    file = tmp_path / f"warehouse.{request.param}"
    monkeypatch.setenv(
        "AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps({"conn_type": request.param, "host": str(file)})
    )
    return Warehouse(request.param, file)


@pytest.fixture
def quick_plaud(plaud: EmulatorServer) -> Iterator[EmulatorServer]:
    """A Plaud that takes two seconds, long enough that a wait is deferred."""
    plaud.state.clock.set_speed(300)
    yield plaud
    plaud.state.clock.set_speed(1)


def metadata() -> dict[str, str]:
    """Return all that Airflow has stored, by table."""
    from airflow import settings

    file = settings.engine.url.database
    with closing(sqlite3.connect(file)) as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type='table'")]
        return {name: repr(connection.execute(f'select * from "{name}"').fetchall()) for name in tables}


@pytest.mark.parametrize("dag_id", CONFS)
def test_recordings_become_rows_and_leave_no_trace_elsewhere(
    run_dag: RunDag,
    quick_plaud: EmulatorServer,
    warehouse: Warehouse,
    capfd: pytest.CaptureFixture[str],
    dag_id: str,
) -> None:
    conf, count = CONFS[dag_id]
    run = run_dag(dag_id, conf)
    log = "".join(capfd.readouterr())

    assert run.state == "success", states(run)
    assert quick_plaud.summary()["submits_accepted"] == count
    transcripts = warehouse.query(
        "select audio_uri, status, region, dag_id, segment_count from plaud_transcripts order by audio_uri"
    )
    assert [row[:4] for row in transcripts] == [
        (url.partition("?")[0], "completed", "us", dag_id) for url in URLS[:count]
    ]
    [(segments,)] = warehouse.query("select count(*) from plaud_segments")
    assert segments == sum(row[4] for row in transcripts) > 0
    assert "Handing the wait for" in log, "it was deferred"

    stored = metadata()
    [(text,)] = warehouse.query("select text from plaud_transcripts order by audio_uri limit 1")
    # What users enter stays in the run's configuration, as the docs say.
    assert [table for table, rows in stored.items() if SIGNATURE in rows] == ["dag_run"]
    for secret in (text[:40], "secret-key-canary"):
        assert [table for table, rows in stored.items() if secret in rows] == []
        assert secret not in log


def test_what_is_forgotten_is_found_nowhere_any_more(
    run_dag: RunDag,
    quick_plaud: EmulatorServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "warehouse.sqlite"
    monkeypatch.setenv(
        "AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps({"conn_type": "sqlite", "host": str(file)})
    )
    warehouse = Warehouse("sqlite", file)
    run_dag("plaud_transcribe_list", CONFS["plaud_transcribe_list"][0])
    spoken = [text for (text,) in warehouse.query("select text from plaud_segments") if len(text) > 12]
    assert spoken

    planned = run_dag(FORGET, {"older_than_days": 0})
    assert warehouse.query("select count(*) from plaud_transcripts") == [(2,)]
    removed = run_dag(FORGET, {"older_than_days": 0, "remove": True})
    again = run_dag("plaud_transcribe_list", CONFS["plaud_transcribe_list"][0])

    assert (planned.state, removed.state, again.state) == ("success", "success", "success")
    assert warehouse.query("select count(*) from plaud_transcripts") == [(0,)]
    assert quick_plaud.summary()["submits_accepted"] == 2
    places = {name: rows.encode() for name, rows in metadata().items()}
    places |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places["log"] = "".join(capfd.readouterr()).encode()
    for text in spoken:
        for form in forms(text):
            assert [place for place, content in places.items() if form in content] == []


def test_recordings_whose_names_are_numbers_land_as_any(
    run_dag: RunDag, quick_plaud: EmulatorServer, warehouse: Warehouse
) -> None:
    urls = [f"https://pbx.example/api/recordings/{name}" for name in ("48213", "1e5")]

    run = run_dag("plaud_transcribe_list", {"recordings": urls})

    assert run.state == "success", states(run)
    assert [
        uri for (uri,) in warehouse.query("select audio_uri from plaud_transcripts order by 1")
    ] == sorted(urls)


@pytest.mark.parametrize("dag_id", CONFS)
def test_options_of_a_form_reach_plaud(
    run_dag: RunDag, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dag_id: str
) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "w")})
    )
    settings = Settings(api="embedded", fetch_audio=False, processing_seconds=0, processing_ratio=0)
    with EmulatorServer(settings) as server:
        monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", server.airflow_connection)
        options = {
            "model": "plaud-omni-3",
            "hotwords": ["Plaud Note", "Lisboa"],
            "decode_silence": True,
            "detection_level": "chapter",
        }
        run = run_dag(dag_id, {**CONFS[dag_id][0], **options})

        assert run.state == "success"
        sent = [request["body"]["params"] for request in server.ledger(kind="submit")]
    assert (
        sent
        == [
            {
                "transcribe": {"language": "en", "model": "plaud-omni-3", "detection_level": "chapter"},
                "vad": {"decode_silence": True},
                "diarization": {"enabled": True, "return_embedding": False},
                "hotwords": "Plaud Note,Lisboa",
            }
        ]
        * CONFS[dag_id][1]
    )


@pytest.mark.parametrize(
    ("dag_id", "mistake", "words"),
    [
        ("plaud_transcribe_list", {"language": "english"}, "language: 'english' is not a language tag"),
        ("plaud_transcribe_list", {"model": "plaud-omni-3"}, "model: the connection's API is 'openapi'"),
        (
            "plaud_transcribe_recording",
            {"hotwords": ["Plaud"]},
            "hotwords: the connection's API is 'openapi'",
        ),
        ("plaud_transcribe_recording", {"upload": "always"}, "upload: 'always' was asked for"),
        ("plaud_transcribe_recording", {"recording": "ftp://files.example/a.mp3"}, "has the scheme 'ftp'"),
        ("plaud_transcribe_recording", {"recording": "https://files.example/a.txt"}, "is a .txt file"),
        ("plaud_transcribe_recording", {"sql_conn_id": "no_such"}, "no Airflow connection 'no_such'"),
    ],
)
def test_a_mistake_is_told_and_costs_nothing(
    run_dag: RunDag,
    plaud: EmulatorServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    dag_id: str,
    mistake: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "w")})
    )
    run = run_dag(dag_id, {**CONFS[dag_id][0], **mistake})

    assert run.state == "failed"
    assert words in capfd.readouterr().out
    assert plaud.summary()["submits_accepted"] == 0
