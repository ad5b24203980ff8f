"""Plaud calls a real Airflow: the API server lets it in, the triggerer looks, the transcript lands."""

from __future__ import annotations

import json
import time
from pathlib import Path

import duckdb
import httpx
import pytest

from demo.processes import wait_until
from demo.stack import AirflowStack
from plaud_provider.emulator.server import EmulatorServer
from tests.integration.conftest import webhooks
from tests.integration.test_recording import RECORDING
from tests.unit.api.test_webhooks import signed

pytestmark = pytest.mark.timeout(300)

DAG_ID = "plaud_transcribe_recording"


def call(stack: AirflowStack, transcription_id: str, secret: str) -> int:
    """Call the receiver as Plaud does; nobody is logged in."""
    body = json.dumps(
        {"event": "transcription.completed", "data": {"transcriptionId": transcription_id}}
    ).encode()
    headers = signed(body, secret=secret, timestamp=f"{time.time():.0f}")
    url = f"{stack.base_url}/plaud/webhooks/plaud_called"
    return httpx.post(url, content=body, headers=headers, trust_env=False, timeout=30).status_code


def test_a_call_brings_the_only_look(
    airflow_stack: AirflowStack, emulator: EmulatorServer, warehouse: Path
) -> None:
    emulator.state.clock.set_speed(0)
    secret = webhooks(warehouse)["webhook_secret"]
    run_id = airflow_stack.trigger(
        DAG_ID, {"recording": emulator.sign(RECORDING), "plaud_conn_id": "plaud_called"}
    )
    wait_until(lambda: len(emulator.transcriptions()) == 1, timeout=120, what="it is submitted")
    [job] = emulator.state.jobs
    assert job.webhook_url == "https://airflow.example/plaud/webhooks/plaud_called"
    airflow_stack.wait_for_task(DAG_ID, run_id, "wait", "deferred")
    emulator.advance(60)
    emulator.state.clock.set_speed(1)

    assert call(airflow_stack, job.transcription_id, "guessed") == 401
    assert emulator.ledger(kind="get") == [], "nobody has looked by himself"
    assert call(airflow_stack, job.transcription_id, secret) == 200

    assert airflow_stack.wait_for_run(DAG_ID, run_id, timeout=120) == "success"
    assert len(emulator.ledger(kind="get")) == 1
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        landed = connection.execute(
            "select count(*) from plaud_transcripts where transcription_id = ?", [job.transcription_id]
        ).fetchone()
    assert landed == (1,)
    logs = "".join(path.read_text(errors="replace") for path in airflow_stack.logs.rglob("*.log"))
    assert secret not in logs
