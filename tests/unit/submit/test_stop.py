"""A task that is ended while it submits: nothing more is sent, and what is paid for is noted."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from airflow.sdk.exceptions import AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import PlaudStoppedError
from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from tests.unit.operators.archives import PUBLIC, STRANGER, SUBMIT, Archive
from tests.unit.tasks import TaskStateStore, task_context
from tests.unit.warehouse.warehouses import CONN_ID

NAMES = [f"{number}.wav" for number in range(40)]
SLOW = 4.0


@contextmanager
def as_soon_as(happened: Callable[[], bool], then: Callable[[], object]) -> Iterator[None]:
    """Do something from another thread once something has happened, as a signal would."""

    def watch() -> None:
        while not happened():
            time.sleep(0.01)
        then()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    yield
    watching.join(10)


def slow_answers(plaud: EmulatorServer) -> Callable[[], bool]:
    """Have Plaud take a second for each submit; return whether some are under way."""
    ordered = plaud.inject({"match": {"kind": "submit"}, "times": None, "action": "delay", "seconds": SLOW})
    return lambda: ordered.consumed > 0


def check_nothing_is_lost(archive: Archive, sent: int) -> None:
    """Check that what Plaud has accepted is noted, and that all others can be had by anybody."""
    accepted = len(archive.plaud.transcriptions())
    assert 0 < accepted == sent < len(NAMES)
    assert archive.count_of_states() == {"processing": accepted, "claimed": len(NAMES) - accepted}
    others = [key for name, key in archive.keys().items() if archive.states()[name] == "claimed"]
    assert archive.ledger.claimable(others, STRANGER)[1] == set(others)


def test_a_signal_ends_a_chunk_in_order(archive: Archive) -> None:
    archive.add(*NAMES)
    archive.list()
    task = archive.submit_task()
    under_way = slow_answers(archive.plaud)

    with as_soon_as(under_way, task.on_kill), pytest.raises(PlaudStoppedError, match="was not sent"):
        task.execute(archive.context(SUBMIT))

    check_nothing_is_lost(archive, sent=len(archive.posted()))
    assert len(archive.posted()) <= 8, "only what was under way already"
    archive.submit(try_number=2)
    assert archive.paid() == dict.fromkeys(NAMES, 1), "a retry takes up the rest"


def test_a_timeout_of_the_task_ends_a_chunk_in_order(archive: Archive) -> None:
    archive.add(*NAMES)
    archive.list()
    task = archive.submit_task()
    slow_answers(archive.plaud)

    with pytest.raises(AirflowTaskTimeout), timeout(3):
        task.execute(archive.context(SUBMIT))

    check_nothing_is_lost(archive, sent=len(archive.posted()))


@pytest.mark.timeout(50, func_only=True)  # The next turn is a minute away.
def test_what_waits_for_its_turn_is_not_waited_for(
    archive: Archive, plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = json.loads(os.environ["AIRFLOW_CONN_PLAUD_DEFAULT"])
    connection["extra"]["requests_per_minute"] = 1
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
    archive.add(*NAMES)
    archive.list()
    task = archive.submit_task()

    with as_soon_as(lambda: len(archive.posted()) > 0, task.on_kill), pytest.raises(PlaudStoppedError):
        task.execute(archive.context(SUBMIT))

    check_nothing_is_lost(archive, sent=len(archive.posted()))


def test_the_answer_about_a_single_recording_is_waited_for(archive: Archive) -> None:
    archive.add("a.wav")
    task = SubmitTranscriptionOperator(
        task_id="submit",
        audio_url=str(archive.folder / "a.wav"),
        public_urls={str(archive.folder): PUBLIC},
        ledger_conn_id=CONN_ID,
    )
    slow_answers(archive.plaud)

    with pytest.raises(AirflowTaskTimeout), timeout(3):
        task.execute(task_context(TaskStateStore()))

    assert archive.states() == {"a.wav": "processing"}
    assert archive.paid() == {"a.wav": 1}


def test_a_single_recording_that_is_not_sent_yet_is_not_sent(archive: Archive) -> None:
    archive.add("a.wav")
    task = SubmitTranscriptionOperator(
        task_id="submit",
        audio_url=str(archive.folder / "a.wav"),
        public_urls={str(archive.folder): PUBLIC},
        ledger_conn_id=CONN_ID,
    )
    exchange = archive.plaud.inject(
        {"match": {"kind": "exchange"}, "times": None, "action": "delay", "seconds": SLOW}
    )

    with as_soon_as(lambda: exchange.consumed > 0, task.on_kill), pytest.raises(PlaudStoppedError):
        task.execute(task_context(TaskStateStore()))

    assert archive.posted() == []
    assert archive.ledger.claimable(list(archive.entries()), STRANGER)[1]
