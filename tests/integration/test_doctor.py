"""`plaud doctor` beside a real Airflow: what is in its database, and whether a triggerer is alive."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo.stack import AirflowStack
from plaud_provider.emulator.server import EmulatorServer

pytestmark = pytest.mark.timeout(300)


def examined(stack: AirflowStack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "plaud_provider", "doctor", *arguments],
        env=stack.environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_finds_what_was_entered_in_the_ui_and_misses_a_triggerer(
    airflow_stack: AirflowStack, emulator: EmulatorServer, tmp_path: Path
) -> None:
    stack = airflow_stack
    stack.api.create_connection("plaud_ui", json.loads(emulator.airflow_connection))
    stack.api.create_connection("dwh_ui", {"conn_type": "sqlite", "host": str(tmp_path / "dwh.sqlite")})
    arguments = ["--plaud-conn-id", "plaud_ui", "--sql-conn-id", "dwh_ui", "--results-path", str(tmp_path)]

    found = examined(stack, *arguments)
    assert found.returncode == 0, found.stdout + found.stderr
    # Nothing of what Airflow and its providers log.
    assert len(found.stdout.strip().splitlines()) == 12, found.stdout
    assert "✓ triggerer        1 running, on " in found.stdout
    assert "secret" not in found.stdout + found.stderr

    stack.kill("triggerer", signal.SIGTERM)
    try:
        missed = examined(stack, *arguments)
    finally:
        stack.restart("triggerer")
    assert missed.returncode == 1
    assert "✗ triggerer        none is running, so that no wait ever ends" in missed.stdout
    assert emulator.ledger(kind="submit") == []
