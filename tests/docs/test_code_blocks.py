"""Every code block of the README and the docs runs: a block that no test here knows how to run fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, BaseHook
from jinja2 import meta

from demo.processes import wait_until
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.hooks.plaud import PlaudHook
from plaud_provider.ledger.ledger import Ledger, Owner, State
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator
from tests.unit.ledger.ledgers import Clock, ledger_in, recording
from tests.unit.tasks import task_context
from tests.unit.warehouse.warehouses import Warehouse

REPOSITORY = Path(__file__).resolve().parents[2]
RECORDINGS = REPOSITORY / "demo" / "recordings"
BIN = Path(sys.executable).parent
_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
#: Run elsewhere: test_demo.py runs `make demo`'s command, CI runs `make test`, test_packaging.py installs.
RUN_ELSEWHERE = ("make ", "pip install ")


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}: {self.code.strip().splitlines()[0][:60]}"


def blocks() -> Iterator[Block]:
    for path in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]:
        for found in _BLOCK.finditer(path.read_text()):
            code = textwrap.dedent(found["code"])
            yield Block(str(path.relative_to(REPOSITORY)), found["language"], code)


def of(language: str) -> list[Block]:
    return [block for block in blocks() if block.language == language]


def test_every_block_has_a_language_that_is_run() -> None:
    assert {block.language for block in blocks()} <= {"python", "bash", "sql", "json"}
    assert len(of("python")) >= 5


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_a_policy_allows_what_the_storage_is_asked_for_and_no_more(block: Block) -> None:
    policy = json.loads(block.code)
    allowed = {
        (action, resource)
        for statement in policy["Statement"]
        for action in _listed(statement["Action"])
        for resource in _listed(statement["Resource"])
    }

    assert {statement["Effect"] for statement in policy["Statement"]} == {"Allow"}
    calls, work = "arn:aws:s3:::calls", "arn:aws:s3:::plaud-work"
    # A listing asks a bucket, everything else an object.
    assert allowed == {
        *(("s3:ListBucket", bucket) for bucket in (calls, work)),
        *(("s3:GetObject", f"{bucket}/*") for bucket in (calls, work)),
        *((f"s3:{action}Object", f"{work}/*") for action in ("Put", "Delete")),
    }


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python(block: Block, plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Some of them write files where they are run.
    monkeypatch.chdir(tmp_path)
    completed = {"transcriptionId": "txn_0123", "status": "completed", "text": "Hi.", "segments": []}
    plaud.inject(
        {"match": {"kind": "get"}, "times": None, "action": "status", "status": 200, "body": completed}
    )
    names: dict[str, object] = {"__name__": "docs"}
    with DAG("docs", schedule=None):
        exec(compile(block.code, block.page, "exec"), names)

    if "segments" in names:
        assert list(names["segments"].columns)  # type: ignore[attr-defined]


@pytest.mark.parametrize("block", [one for one in of("python") if "{{" in one.code], ids=str)
def test_a_template_needs_no_logical_date(block: Block) -> None:
    """A run that is triggered by hand or by an asset need not have one."""
    names = meta.find_undeclared_variables(DAG("docs").get_template_env().parse(block.code))

    assert [name for name in names if re.match(r"(ds|ts)(_|$)|logical_date|data_interval|prev_", name)] == []


@pytest.mark.parametrize("block", of("sql"), ids=str)
def test_sql(block: Block, plaud: EmulatorServer, warehouse: Warehouse) -> None:
    ledger = fill(warehouse, plaud)
    if block.code.startswith("update "):
        warehouse.run(block.code)
        found = ledger.entries(["0007"])["0007"]
        assert (found.state, found.transcription_id, found.error) == (State.PROCESSING, "txn_0007", None)
        return
    found_rows = [tuple(map(plain, row)) for row in warehouse.rows(block.code)]
    [expected] = [rows for part, rows in ROWS.items() if part in block.code]
    assert found_rows == expected


#: What the queries of the docs find, by a part of each.
ROWS: dict[str, list[tuple[Any, ...]]] = {
    "group by transcription_id, speaker": [("txn_0001", "Speaker 1", 2)],
    "like '%invoice%'": [("s3://calls/2024/0001.mp3", 0, "Speaker 1", "About my invoice.")],
    "select recording_date, status": [(None, "completed", 1, None), (None, "failed", 1, None)],
    "select speaker, seconds, segments": [("Speaker 1", 2, 1, 3, 1)],
    "from plaud_transcripts where status = 'failed'": [("s3://calls/2024/0003.mp3", "no speech", None)],
    "group by state\n": [
        ("failed", 3, 1),
        ("claimed", 1, 0.5),
        ("expired", 1, 0.5),
        ("landed", 1, 0.5),
        ("processing", 1, 0.5),
        ("submitting", 1, 0.5),
        ("unknown", 1, 0.5),
    ],
    "owner_dag_id, owner_run_id, count(*)": [
        ("2024-05-01", "plaud_transcribe_archive", "backfill__2024-05-01", 4, 2.5)
    ],
    "where state = 'processing'": [("2024-05-01 10:00", "s3://calls/2024/0002.mp3", "txn_0002")],
    "as reason": [
        ("failed", "audio_url: '…' is empty. Nothing was sent, nothing is paid for.", 2),
        ("expired", "Plaud does not know it any more.", 1),
        ("failed", "no speech", 1),
        ("unknown", "No answer came in 60 s.", 1),
    ],
    "select speaker, start_seconds, text": [("Speaker 1", 0, "About my invoice.")],
    "lease_until < current_timestamp": [
        ("s3://calls/2024/0008.mp3", "claimed", "max_audio_hours: enough.", "2024-05-01 10:00"),
        ("s3://calls/2024/0009.mp3", "submitting", None, "2024-05-01 10:03"),
    ],
}


def plain(value: Any) -> Any:
    """Make one of what databases say in different ways."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:.*\+00:00", value):
        return value[:16]
    return value


def fill(warehouse: Warehouse, plaud: EmulatorServer) -> Ledger:
    """Put a recording in each state into the ledger, and land what is final."""
    now = datetime(2024, 5, 1, 10, tzinfo=UTC)
    owner = Owner("plaud_transcribe_archive", "backfill__2024-05-01", "transcribe.chunk.submit", 0, 1)
    ledger = ledger_in(warehouse, Clock(now))
    lengths = {f"{n:04}": 1800.0 for n in range(1, 10)} | {"0003": 3600.0, "0004": None, "0005": None}
    recordings = [
        recording(key, audio_uri=f"s3://calls/2024/{key}.mp3", duration_seconds=seconds)
        for key, seconds in lengths.items()
    ]
    ledger.claim(recordings, owner)
    for key in ("0004", "0005"):
        uri = f"s3://calls/2024/{key}.mp3"
        ledger.refused(key, owner, f"audio_url: {uri!r} is empty. Nothing was sent, nothing is paid for.")
    ledger.release(owner, "max_audio_hours: enough.", keys=["0008"])
    for key in ("0001", "0002", "0003", "0006", "0007", "0009"):
        assert ledger.submitting(key, owner)
    for key in ("0001", "0002", "0003", "0006"):
        assert ledger.processing(recording(key), owner, f"txn_{key}", submitted_at=now)
    ledger.unknown("0007", owner, "No answer came in 60 s.")
    ledger.expired({"txn_0006": "Plaud does not know it any more."}, region="us")

    segment = {"start": 0, "end": 2, "speaker": "Speaker 1", "text": "About my invoice."}
    for body in (
        {"transcriptionId": "txn_0001", "status": "completed", "text": "Hi.", "segments": [segment]},
        {"transcriptionId": "txn_0003", "status": "failed", "error": "no speech"},
    ):
        plaud.inject({"match": {"kind": "get"}, "action": "status", "status": 200, "body": body})
    with DAG("docs", schedule=None):
        load = TranscriptionToSqlOperator(
            task_id="load", transcription_id=["txn_0001", "txn_0003"], ledger_conn_id=warehouse.conn_id
        )
    load.execute(task_context(None))
    return ledger


@pytest.fixture(scope="module")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Airflow that knows the DAGs that users deploy, and runs nothing."""
    home = tmp_path_factory.mktemp("airflow")
    for command in (["db", "migrate"], ["dags", "reserialize"]):
        subprocess.run(
            [BIN / "airflow", *command], env=airflow_environment(home), capture_output=True, check=True
        )
    return home


def airflow_environment(home: Path) -> dict[str, str]:
    return {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(home),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }


def check_airflow(code: str, airflow_home: Path, home: Path) -> None:
    """Run Airflow's commands, and look at what they have left in its database."""
    shutil.copytree(airflow_home, home)
    environment = airflow_environment(home) | {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db"
    }
    answer = subprocess.run(
        ["bash", "-ec", code], env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr + answer.stdout
    with closing(sqlite3.connect(home / "airflow.db")) as database:
        runs = database.execute("select run_type, count(*) from dag_run group by run_type").fetchall()
    assert runs == [("backfill", 31) if "backfill create" in code else ("manual", 1)]


@pytest.fixture(scope="module")
def emulator_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """What the docs start with `plaud-emulator`, in a folder that has recordings, on a free port."""
    folder = tmp_path_factory.mktemp("emulator")
    shutil.copytree(RECORDINGS, folder / "recordings")
    shutil.copy(RECORDINGS / "voicemail.wav", folder / "recordings" / "call.wav")
    [command] = {line for block in of("bash") for line in block.code.splitlines() if "--store" in line}
    port_file = folder / "port"
    process = subprocess.Popen(
        [BIN / command.split()[0], *command.split()[1:], "--port", "0", "--port-file", port_file],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(port_file.exists, timeout=30, what="the emulator listens", poll=0.05)
        yield folder, int(port_file.read_text())
    finally:
        process.terminate()
        process.wait(10)


# Airflow's command line starts several times.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("block", of("bash"), ids=str)
def test_bash(
    block: Block,
    emulator_process: tuple[Path, int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    commands = [line for line in block.code.splitlines() if line and not line.startswith(" ")]
    if all(command.startswith(RUN_ELSEWHERE) for command in commands):
        return
    if commands[0].startswith("airflow "):
        check_airflow(block.code, request.getfixturevalue("airflow_home"), tmp_path / "airflow")
        return
    if commands[0].startswith("export AIRFLOW_CONN_"):
        for export in re.split(r"^(?=export )", block.code, flags=re.MULTILINE)[1:]:
            check_connection(export, monkeypatch)
        return
    if commands[0].startswith("plaud "):
        check_plaud(block.code, request, monkeypatch, tmp_path)
        return
    if "--store" in block.code:
        return  # It runs: it is the emulator of the other blocks.
    folder, port = emulator_process
    code = block.code.replace(
        "plaud-emulator sign", f"{BIN}/plaud-emulator sign --url http://127.0.0.1:{port}"
    )
    answer = subprocess.run(
        ["bash", "-ec", code.replace("curl ", "curl -sS --fail-with-body ").replace(":8765", f":{port}")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr + answer.stdout
    assert answer.stdout


def check_plaud(
    code: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """Run `plaud` as somebody does whose connections are good, and who has no Airflow running."""
    request.getfixturevalue("plaud")
    warehouse = {"conn_type": "sqlite", "host": str(home / "warehouse.sqlite")}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps(warehouse))
    monkeypatch.setenv("HOME", str(home))
    answer = subprocess.run(
        ["bash", "-ec", re.sub(r"^plaud ", f"{sys.executable} -m plaud_provider ", code, flags=re.MULTILINE)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stdout


def check_connection(export: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run an export in bash, and read the connection as Airflow and the hooks do."""
    name = export.removeprefix("export ").partition("=")[0]
    shown = subprocess.run(
        ["bash", "-ec", f"{export}\nprintenv {name}"], capture_output=True, text=True, check=True
    )
    monkeypatch.setenv(name, shown.stdout.strip())
    connection = BaseHook.get_connection(name.removeprefix("AIRFLOW_CONN_").lower())
    if connection.conn_type == "plaud":
        assert PlaudHook(region="eu").client_id
    else:
        assert connection.host
