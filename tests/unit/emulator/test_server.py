from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.emulator.settings import Settings


def test_two_emulators_run_side_by_side_and_know_nothing_of_each_other(start):
    one, other = start().sign_in(), start().sign_in()
    transcription_id = one.submitted()
    assert one.get(transcription_id).status_code == 200
    assert other.get(transcription_id).status_code == 404
    other.token = one.token
    assert other.submit().status_code == 401


def test_after_stop_the_port_is_closed_and_the_books_can_still_be_read():
    with EmulatorServer() as emulator:
        socket.create_connection(("127.0.0.1", emulator.port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", emulator.port), timeout=5)
    assert emulator.summary()["requests"] == 0


def test_it_can_be_away_for_a_while_and_come_back_as_it_was(start):
    client = start().sign_in()
    transcription_id = client.submitted()
    client.emulator.stop()
    with pytest.raises(requests.ConnectionError):
        client.get(transcription_id)
    client.emulator.start()
    assert client.get(transcription_id).status_code == 200
    assert client.transcribed("voicemail.wav")["status"] == "completed"


def test_a_port_in_use_is_an_error_that_names_it():
    with EmulatorServer() as emulator, pytest.raises(OSError, match=str(emulator.port)):
        EmulatorServer(port=emulator.port).start()


def test_the_airflow_connection_points_here():
    with EmulatorServer(Settings(clients={"id-1": "key-1"}, region="eu")) as emulator:
        connection = json.loads(emulator.airflow_connection)
    assert connection == {
        "conn_type": "plaud", "login": "id-1", "password": "key-1", "host": emulator.url,
        "extra": {"region": "eu"},
    }  # fmt: skip


def test_many_clients_at_once_lose_nothing(start):
    client = start(request_limit=0, fetch_audio=False).sign_in()

    def submit_some(_: int) -> list[str]:
        session = type(client)(client.emulator)
        session.token = client.token
        ids = [session.submitted() for _ in range(25)]
        session.close()
        return ids

    with ThreadPoolExecutor(8) as pool:
        ids = [transcription_id for part in pool.map(submit_some, range(8)) for transcription_id in part]
    assert len(set(ids)) == 200
    assert client.emulator.summary()["submits_accepted"] == 200
    assert [entry["sequence"] for entry in client.emulator.ledger()] == list(range(1, 202))


def test_a_delayed_answer_holds_nobody_else_up(client):
    client.emulator.inject({"match": {"body_contains": "slow"}, "action": "delay", "seconds": 0.5})
    other = type(client)(client.emulator)
    other.token = client.token
    slow = threading.Thread(target=other.submit, args=("http://127.0.0.1:9/slow.wav",))
    slow.start()
    assert client.submit().status_code == 200
    assert slow.is_alive()
    slow.join()
    other.close()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"clients": {}}, "client"),
        ({"clients": {"a:b": "c"}}, "colon"),
        ({"region": "mars"}, "mars"),
        ({"error_style": "xml"}, "xml"),
        ({"token_seconds": 0}, "token_seconds"),
        ({"speed": -1}, "speed"),
        ({"processing_ratio": float("nan")}, "processing_ratio"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings, named):
    with pytest.raises(ValueError, match=named):
        Settings(**settings)


def test_the_emulator_imports_neither_airflow_nor_the_client():
    program = (
        "import sys, plaud_provider.emulator.__main__, plaud_provider.emulator.server;"
        "print([m for m in sys.modules if m.partition('.')[0] == 'airflow'"
        " or m.startswith('plaud_provider.') and not m.startswith('plaud_provider.emulator')])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
