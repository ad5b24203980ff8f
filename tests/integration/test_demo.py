"""The demo as a user runs it: ``python -m demo`` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.integration.conftest import RECORDINGS, REPOSITORY
from tests.integration.leftovers import processes_using

pytestmark = pytest.mark.timeout(300)


@contextmanager
def demo(work: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "demo", "--work", str(work)],
        cwd=REPOSITORY,
        # A user's own Airflow must not matter.
        env={
            **os.environ,
            "AIRFLOW_HOME": str(work / "elsewhere"),
            "AIRFLOW__CORE__EXECUTOR": "NoSuchExecutor",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return
    pytest.fail(f"{words!r} did not appear in:\n{''.join(seen)}")


@dataclass(frozen=True)
class FinishedDemo:
    work: Path
    returncode: int
    output: str


@pytest.fixture(scope="module")
def finished_demo(tmp_path_factory: pytest.TempPathFactory) -> FinishedDemo:
    work = tmp_path_factory.mktemp("demo")
    with demo(work) as process:
        output, _ = process.communicate()
    return FinishedDemo(work, process.returncode, output)


def sidecars() -> dict[str, dict[str, Any]]:
    """Return what was said in each recording, by the recording's file name."""
    return {
        path.name.removesuffix(".json"): json.loads(path.read_text(encoding="utf-8"))
        for path in RECORDINGS.glob("*.json")
    }


def test_it_ends_well_and_leaves_nothing_running(finished_demo: FinishedDemo) -> None:
    assert finished_demo.returncode == 0, finished_demo.output
    assert processes_using(finished_demo.work) == []
    assert not (finished_demo.work / "elsewhere").exists()


def test_it_shows_every_word_and_what_it_cost(finished_demo: FinishedDemo) -> None:
    shown = set(finished_demo.output.split())

    assert {word for transcript in sidecars().values() for word in transcript["text"].split()} <= shown
    assert f"1 token exchange, {len(sidecars())} submits" in finished_demo.output


def test_recordings_become_rows(finished_demo: FinishedDemo) -> None:
    with duckdb.connect(str(finished_demo.work / "warehouse.duckdb"), read_only=True) as warehouse:
        transcripts = warehouse.execute(
            "select audio_uri, status, text, segment_count from plaud_transcripts"
        ).fetchall()
        segments = warehouse.execute("select text from plaud_segments").fetchall()

    assert {uri.rsplit("/", 1)[-1]: rest for uri, *rest in transcripts} == {
        name: ["completed", transcript["text"], len(transcript["segments"])]
        for name, transcript in sidecars().items()
    }
    assert sorted(text for (text,) in segments) == sorted(
        segment["text"] for transcript in sidecars().values() for segment in transcript["segments"]
    )


def test_signatures_are_nowhere_but_in_what_the_user_entered(finished_demo: FinishedDemo) -> None:
    home = finished_demo.work / "airflow"
    files = [path for path in home.rglob("*") if path.is_file() and not path.name.startswith("airflow.db")]
    assert [path for path in files if b"X-Amz-Signature" in path.read_bytes()] == []

    with closing(sqlite3.connect(home / "airflow.db")) as database:
        signed = {line.split()[2] for line in database.iterdump() if "X-Amz-Signature" in line}
    # The run's configuration, and Airflow's audit log of the request that started the run with it.
    assert {table.split("(")[0].strip('"') for table in signed} == {"dag_run", "log"}


def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        read_until(process, "land: deferred")
        assert len(processes_using(tmp_path)) >= 5

        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 130, output
    assert "Stopped." in output
    assert "Traceback" not in output
    assert processes_using(tmp_path) == []
