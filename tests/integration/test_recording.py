"""Recordings through a real Airflow, with the faults that only real processes can have."""

from __future__ import annotations

import base64
import itertools
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import duckdb
import pytest

from demo.processes import wait_until
from demo.stack import AirflowStack
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.emulator.settings import Settings
from tests.integration.conftest import RECORDINGS

pytestmark = pytest.mark.timeout(300)

RECORDING = min(path.name for path in RECORDINGS.iterdir() if path.suffix in (".wav", ".mp3", ".m4a"))
_numbers = itertools.count()


def start(stack: AirflowStack, url: str, **params: str) -> str:
    """Start the DAG ``recording`` for a URL, which it finds in a variable of its own."""
    variable = f"recording_{next(_numbers)}"
    stack.api.request("POST", "/variables", json={"key": variable, "value": url})
    return stack.trigger("recording", {"variable": variable, **params})


def rows(warehouse: Path, transcription_id: str) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]]:
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        parameters = [transcription_id]
        [transcript] = connection.execute(
            "select status, text, segment_count, audio_uri, region, dag_id from plaud_transcripts where "
            "transcription_id = ?",
            parameters,
        ).fetchall()
        segments = connection.execute(
            "select start_seconds, end_seconds, speaker, text from plaud_segments where transcription_id = ? "
            "order by segment_index",
            parameters,
        ).fetchall()
    return transcript, segments


def test_a_recording_becomes_the_rows_that_plaud_answered(
    airflow_stack: AirflowStack, emulator: EmulatorServer, warehouse: Path
) -> None:
    url = emulator.sign(RECORDING)
    run_id = start(airflow_stack, url)

    assert airflow_stack.wait_for_run("recording", run_id, timeout=120) == "success"
    transcription_id = airflow_stack.api.xcom("recording", run_id, "submit")
    transcript, segments = rows(warehouse, transcription_id)
    truth = json.loads((RECORDINGS / f"{RECORDING}.json").read_text())
    unsigned = url.partition("?")[0]
    assert transcript == ("completed", truth["text"], len(truth["segments"]), unsigned, "us", "recording")
    assert segments == [(s["start"], s["end"], s["speaker"], s["text"]) for s in truth["segments"]]
    assert airflow_stack.api.xcom("recording", run_id, "load") == {
        "version": 1,
        "transcripts": 1,
        "segments": len(segments),
        "failed": 0,
    }


def test_a_run_costs_one_submit_and_the_host_one_token(
    airflow_stack: AirflowStack, emulator: EmulatorServer
) -> None:
    # The emulator has forgotten its tokens; what the host still has is rejected, and replaced once.
    run_id = start(airflow_stack, emulator.sign(RECORDING))

    assert airflow_stack.wait_for_run("recording", run_id, timeout=120) == "success"
    assert emulator.summary()["exchanges"] == 1
    assert len(emulator.transcriptions()) == 1


def test_a_worker_killed_while_the_post_is_under_way_does_not_pay_twice(
    airflow_stack: AirflowStack, emulator: EmulatorServer
) -> None:
    # No token of an earlier test, which would be rejected first. The submit is accepted, its answer takes
    # minutes.
    for token in airflow_stack.home.rglob("*.token"):
        token.unlink()
    fault = emulator.inject(
        {"match": {"kind": "submit"}, "times": 1, "action": "drip", "bytes_per_second": 0.5}
    )
    url = emulator.sign(RECORDING)
    run_id = start(airflow_stack, url)
    task = airflow_stack.wait_for_task("recording", run_id, "submit", "running")
    wait_until(lambda: fault.consumed == 1, timeout=60, what="the submit has arrived", poll=0.05)
    airflow_stack.task_processes(task)[0].send_signal(signal.SIGKILL)

    assert airflow_stack.wait_for_run("recording", run_id, timeout=120) == "failed"
    submit = next(
        task for task in airflow_stack.api.task_instances("recording", run_id) if task.task_id == "submit"
    )
    assert submit.try_number == 2
    log = airflow_stack.task_log_files("recording", run_id, "submit")[-1].read_text()
    assert "PlaudSubmitOutcomeUnknownError" in log
    assert "when its worker ended" in log
    assert len(emulator.transcriptions()) == 1


def test_a_cleared_run_re_attaches_and_lands_the_same_rows(
    airflow_stack: AirflowStack, emulator: EmulatorServer, warehouse: Path
) -> None:
    run_id = start(airflow_stack, emulator.sign(RECORDING))
    assert airflow_stack.wait_for_run("recording", run_id, timeout=120) == "success"
    transcription_id = airflow_stack.api.xcom("recording", run_id, "submit")
    before = rows(warehouse, transcription_id)

    airflow_stack.api.clear("recording", run_id, ["submit", "wait", "load"])
    wait_until(
        lambda: airflow_stack.api.run_state("recording", run_id) != "success", timeout=30, what="cleared"
    )
    assert airflow_stack.wait_for_run("recording", run_id, timeout=120) == "success"

    assert airflow_stack.api.xcom("recording", run_id, "submit") == transcription_id
    assert rows(warehouse, transcription_id) == before
    assert len(emulator.transcriptions()) == 1


def test_a_triggerer_that_is_killed_loses_nothing(
    airflow_stack: AirflowStack, emulator: EmulatorServer, warehouse: Path
) -> None:
    emulator.state.clock.set_speed(0)
    run_id = start(airflow_stack, emulator.sign(RECORDING))
    airflow_stack.wait_for_task("recording", run_id, "wait", "deferred")

    airflow_stack.restart("triggerer", signal.SIGKILL)
    emulator.state.clock.set_speed(1)
    emulator.advance(60)

    assert airflow_stack.wait_for_run("recording", run_id, timeout=120) == "success"
    assert rows(warehouse, airflow_stack.api.xcom("recording", run_id, "submit"))[0][0] == "completed"
    assert len(emulator.transcriptions()) == 1


def test_cleared_while_it_waits_it_re_attaches(airflow_stack: AirflowStack, emulator: EmulatorServer) -> None:
    emulator.state.clock.set_speed(0)
    run_id = start(airflow_stack, emulator.sign(RECORDING))
    airflow_stack.wait_for_task("recording", run_id, "wait", "deferred")

    airflow_stack.api.clear("recording", run_id, ["submit", "wait"])
    wait_until(
        lambda: any(
            task.task_id == "wait" and task.state != "deferred"
            for task in airflow_stack.api.task_instances("recording", run_id)
        ),
        timeout=30,
        what="cleared",
    )
    emulator.state.clock.set_speed(1)
    emulator.advance(60)

    assert airflow_stack.wait_for_run("recording", run_id, timeout=120) == "success"
    assert len(emulator.transcriptions()) == 1


@pytest.fixture
def short_lived(airflow_stack: AirflowStack) -> Iterator[EmulatorServer]:
    """A Plaud whose tokens live for 2 seconds, under the connection ``plaud_short_lived``."""
    settings = Settings(
        transcripts=(RECORDINGS,),
        store=RECORDINGS,
        token_seconds=2,
        processing_seconds=10,
        processing_ratio=0,
    )
    with EmulatorServer(settings) as server:
        connection = {"connection_id": "plaud_short_lived", **json.loads(server.airflow_connection)}
        connection["extra"] = json.dumps(connection["extra"])
        airflow_stack.api.request("POST", "/connections", json=connection)
        yield server
        airflow_stack.api.request("DELETE", "/connections/plaud_short_lived")


def test_tokens_that_expire_during_the_wait_are_renewed(
    airflow_stack: AirflowStack, short_lived: EmulatorServer
) -> None:
    run_id = start(airflow_stack, short_lived.sign(RECORDING), plaud_conn_id="plaud_short_lived")

    assert airflow_stack.wait_for_run("recording", run_id, timeout=120) == "success"
    summary = short_lived.summary()
    assert summary["exchanges"] == 1
    # As often as it looks, which is less and less.
    assert summary["refreshes"] >= 2
    assert summary["refused_429"] == 0


def test_a_wait_without_a_chance_ends_at_its_deadline_in_every_mode(
    airflow_stack: AirflowStack, emulator: EmulatorServer
) -> None:
    emulator.state.clock.set_speed(0)
    first = start(airflow_stack, emulator.sign(RECORDING))
    airflow_stack.wait_for_task("recording", first, "wait", "deferred")
    transcription_id = airflow_stack.api.xcom("recording", first, "submit")
    run_id = airflow_stack.trigger("waits_in_vain", {"transcription_id": transcription_id})

    assert airflow_stack.wait_for_run("waits_in_vain", run_id, timeout=120) == "failed"
    for task in airflow_stack.api.task_instances("waits_in_vain", run_id):
        assert task.state == "failed"
        log = "".join(
            path.read_text() for path in airflow_stack.task_log_files("waits_in_vain", run_id, task.task_id)
        )
        assert "PlaudWaitTimeoutError" in log, task.task_id
        assert "0/1 completed, 0 failed" in log, task.task_id

    emulator.state.clock.set_speed(1)
    emulator.advance(60)
    assert airflow_stack.wait_for_run("recording", first, timeout=120) == "success"


def test_nothing_under_airflow_home_tells_a_secret(
    airflow_stack: AirflowStack, emulator: EmulatorServer
) -> None:
    url = emulator.sign(RECORDING)
    run_id = start(airflow_stack, url)
    assert airflow_stack.wait_for_run("recording", run_id, timeout=120) == "success"
    truth = json.loads((RECORDINGS / f"{RECORDING}.json").read_text())
    canaries = {
        "secret key": emulator.settings.clients["demo-client"],
        "signature": parse_qs(urlsplit(url).query)["X-Amz-Signature"][0],
        "transcript": truth["segments"][0]["text"],
        **{f"access token {n}": token for n, token in enumerate(emulator.state.tokens._access)},
        **{f"refresh token {n}": token for n, token in enumerate(emulator.state.tokens._refresh)},
    }
    assert len(canaries) >= 5

    found = [
        f"{name} in {path.relative_to(airflow_stack.home)}"
        for path in airflow_stack.home.rglob("*")
        if path.is_file()
        for name, canary in canaries.items()
        if any(form in path.read_bytes() for form in forms(canary))
    ]
    assert found == []


def forms(secret: str) -> set[bytes]:
    """Return a secret as it is, URL-quoted, as JSON, and in base64 at each offset."""
    plain = secret.encode()
    shifted = {base64.b64encode(b"\0" * offset + plain)[offset * 2 : -4] for offset in range(3)}
    return {plain, quote(secret).encode(), json.dumps(secret).encode()[1:-1], *shifted}
