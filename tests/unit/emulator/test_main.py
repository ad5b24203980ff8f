"""The command line, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

RECORDINGS = Path(__file__).parents[3] / "demo" / "recordings"
DEMO = ("demo-client", "demo-secret-key")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
COMMAND = [sys.executable, "-m", "plaud_provider.emulator"]


@contextmanager
def running(*options: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Start it and read its greeting, up to the line about the admin API."""
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    # So that an emulator that never greets fails the test instead of holding it up.
    guard = threading.Timer(20, process.kill)
    guard.start()
    try:
        assert process.stdout is not None
        greeting = []
        for line in process.stdout:
            greeting.append(line.rstrip())
            if line.startswith("Admin API"):
                break
        yield process, greeting
    finally:
        guard.cancel()
        process.kill()
        process.communicate()


def call(method: str, url: str, **options: object) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, timeout=10, **options)  # type: ignore[arg-type]


def url_of(greeting: list[str]) -> str:
    found = re.search(r"http://\S+", greeting[0])
    assert found, greeting
    return found.group()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_greets_and_ends_cleanly_on_a_signal(number):
    began = time.monotonic()
    with running() as (process, greeting):
        assert time.monotonic() - began < 10
        url = url_of(greeting)
        assert call("GET", f"{url}/_emulator/state").status_code == 200
        assert f"{url}/_emulator/docs" in greeting[-1]
        process.send_signal(number)
        rest, _ = process.communicate(timeout=10)
        assert (process.returncode, rest) == (0, "")


def test_the_connection_it_prints_can_be_copied_into_a_shell():
    with running("--client-id", "my'id", "--secret-key", "my key", "--region", "jp") as (_, greeting):
        [line] = [line.strip() for line in greeting if "AIRFLOW_CONN" in line]
        keyword, assignment = shlex.split(line)
        name, _, value = assignment.partition("=")
        connection = json.loads(value)
        assert (keyword, name) == ("export", "AIRFLOW_CONN_PLAUD_DEFAULT")
        assert (connection["login"], connection["password"]) == ("my'id", "my key")
        assert (connection["host"], connection["extra"]) == (url_of(greeting), {"region": "jp"})


def test_the_port_file_is_written_once_it_listens(tmp_path):
    port_file = tmp_path / "port"
    with running("--port-file", str(port_file), "--quiet") as (process, greeting):
        call("GET", f"{url_of(greeting)}/_emulator/state")
        process.terminate()
        process.communicate(timeout=10)
    assert port_file.read_text() == f"{url_of(greeting).rpartition(':')[2]}\n"
    assert os.listdir(tmp_path) == ["port"]


def test_sign_prints_a_url_that_works():
    with running("--store", str(RECORDINGS)) as (_, greeting):
        url = url_of(greeting)
        sign = [*COMMAND, "sign", "--url", url, "--expires", "60", "--path"]
        signed = subprocess.run([*sign, "voicemail.wav"], capture_output=True, text=True, check=True)
        assert call("GET", signed.stdout.strip()).status_code == 200
        missing = subprocess.run([*sign, "none.wav"], capture_output=True, text=True, check=False)
        assert (missing.returncode, missing.stdout) == (1, "")
        assert "none.wav" in missing.stderr


def test_it_logs_one_line_per_request_without_secrets():
    with running("--store", str(RECORDINGS), "--transcripts", str(RECORDINGS)) as (process, greeting):
        url = url_of(greeting)
        exchange = f"{url}/oauth/partner/access-token?canary=query"
        token = call("POST", exchange, auth=DEMO, headers=FORM).json()["access_token"]
        signed = call("POST", f"{url}/_emulator/sign", json={"path": "voicemail.wav"}).json()["url"]
        submitted = call(
            "POST",
            f"{url}/open/partner/ai/transcriptions/",
            headers={"Authorization": f"Bearer {token}"},
            json={"audioUrl": signed},
        ).json()
        process.terminate()
        log, _ = process.communicate(timeout=10)
    lines = [line.partition(" ")[2] for line in log.splitlines()]
    assert lines == [
        "POST /oauth/partner/access-token 200 -",
        f"POST /open/partner/ai/transcriptions/ 200 {submitted['transcriptionId']}",
    ]


def test_a_hanging_download_does_not_keep_it_from_ending():
    # Connections are taken in, and never answered.
    with socket.create_server(("127.0.0.1", 0)) as silent, running() as (process, greeting):
        url = url_of(greeting)
        token = call("POST", f"{url}/oauth/partner/access-token", auth=DEMO, headers=FORM).json()[
            "access_token"
        ]
        call(
            "POST",
            f"{url}/open/partner/ai/transcriptions/",
            headers={"Authorization": f"Bearer {token}"},
            json={"audioUrl": f"http://127.0.0.1:{silent.getsockname()[1]}/a.wav"},
        )
        held, _ = silent.accept()
        began = time.monotonic()
        process.terminate()
        process.communicate(timeout=20)
        assert process.returncode == 0
        assert time.monotonic() - began < 10
        held.close()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--region", "mars"], "mars"),
        (["--speed", "-1"], "speed"),
        (["--store", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--secret-key", ""], "secret key"),
    ],
)
def test_wrong_options_are_refused_by_name(options, named):
    run = subprocess.run([*COMMAND, *options], capture_output=True, text=True, check=False, timeout=20)
    assert (run.returncode, run.stdout) == (2, "")
    assert named in run.stderr


def test_a_port_in_use_is_said_plainly():
    with running() as (_, greeting):
        port = url_of(greeting).rpartition(":")[2]
        run = subprocess.run(
            [*COMMAND, "--port", port], capture_output=True, text=True, check=False, timeout=20
        )
    assert run.returncode == 1
    assert run.stderr.startswith(f"plaud-emulator: [Errno 98] cannot listen on 127.0.0.1:{port}")
