"""Which module may import which, and what importing an operator costs every task instance."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
AT_PARSE_TIME = (
    "plaud_provider.operators.finish_recordings",
    "plaud_provider.operators.list_recordings",
    "plaud_provider.operators.submit_recordings",
    "plaud_provider.operators.transcription",
    "plaud_provider.sensors.transcription",
    "plaud_provider.transfers.transcription_to_sql",
)
# Each mapped task instance imports its DAG file again.
TOO_DEAR = (
    "aiohttp",
    "airflow.models",
    "airflow.providers.common.sql",
    "airflow.providers.http",
    "cryptography",
    "duckdb",
    "fastapi",
    "httpx",
    "numpy",
    "pandas",
    "plaud_provider.emulator",
    "plaud_provider.hooks",
    "pyarrow",
    "requests",
    "sqlalchemy",
    "urllib3",
    "uvicorn",
)


def test_imports_run_downward_only() -> None:
    pytest.importorskip("importlinter")

    linted = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )

    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each of our modules loads that importing Airflow's base classes has not."""
    script = (
        "import json, sys\n"
        "from airflow.sdk import BaseOperator, BaseSensorOperator\n"
        "loaded = {}\n"
        f"for name in {AT_PARSE_TIME!r}:\n"
        "    before = set(sys.modules)\n"
        "    __import__(name)\n"
        "    loaded[name] = sorted(set(sys.modules) - before)\n"
        "print(json.dumps(loaded))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env={
            "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
            "PYTHONPATH": str(REPOSITORY),
            "PATH": "",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("module", AT_PARSE_TIME)
def test_an_import_at_parse_time_loads_nothing_dear(loaded: dict[str, list[str]], module: str) -> None:
    dear = [
        name
        for name in loaded[module]
        if any(name == root or name.startswith(f"{root}.") for root in TOO_DEAR)
    ]

    assert dear == []
