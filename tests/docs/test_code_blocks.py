"""Every code block of the README and the docs runs: a block that no test here knows how to run fails."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest
from airflow.sdk import DAG, BaseHook

from demo.processes import wait_until
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.hooks.plaud import PlaudHook
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator
from tests.unit.tasks import task_context

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
    assert {block.language for block in blocks()} <= {"python", "bash", "sql"}
    assert len(of("python")) >= 5


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python(block: Block, plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch) -> None:
    completed = {"transcriptionId": "txn_0123", "status": "completed", "text": "Hi.", "segments": []}
    plaud.inject(
        {"match": {"kind": "get"}, "times": None, "action": "status", "status": 200, "body": completed}
    )
    names: dict[str, object] = {"__name__": "docs"}
    with DAG("docs", schedule=None):
        exec(compile(block.code, block.page, "exec"), names)

    if "segments" in names:
        assert list(names["segments"].columns)  # type: ignore[attr-defined]


@pytest.mark.parametrize("block", of("sql"), ids=str)
@pytest.mark.parametrize("kind", ["duckdb", "sqlite"])
def test_sql(
    block: Block, kind: str, plaud: EmulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "warehouse"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps({"conn_type": kind, "host": str(file)}))
    with DAG("docs", schedule=None):
        load = TranscriptionToSqlOperator(task_id="load", transcription_id="txn_0123")
    segment = {"start": 0, "end": 2, "speaker": "Speaker 1", "text": "About my invoice."}
    body = {"transcriptionId": "txn_0123", "status": "completed", "text": "Hi.", "segments": [segment]}
    plaud.inject({"match": {"kind": "get"}, "action": "status", "status": 200, "body": body})
    load.execute(task_context(None))

    if kind == "duckdb":
        with duckdb.connect(str(file)) as connection:
            found = connection.execute(block.code).fetchall()
    else:
        with sqlite3.connect(file) as connection:
            found = connection.execute(block.code).fetchall()
    assert len(found) == (0 if "status = 'failed'" in block.code else 1)


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


@pytest.mark.parametrize("block", of("bash"), ids=str)
def test_bash(
    block: Block, emulator_process: tuple[Path, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands = [line for line in block.code.splitlines() if line and not line.startswith(" ")]
    if all(command.startswith(RUN_ELSEWHERE) for command in commands):
        return
    if commands[0].startswith("export AIRFLOW_CONN_"):
        for export in re.split(r"^(?=export )", block.code, flags=re.MULTILINE)[1:]:
            check_connection(export, monkeypatch)
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
