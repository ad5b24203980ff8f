"""A recording that is replaced on its way is paid for as what it is, and once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import PlaudReplacedError
from plaud_provider.handover.manifest import write_manifest
from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.recordings.listing import list_recordings
from plaud_provider.recordings.stored_objects import StoredObject
from tests.unit.operators.archives import Archive
from tests.unit.recordings.sounds import wav
from tests.unit.s3_server import S3Server
from tests.unit.tasks import TaskStateStore, task_context
from tests.unit.warehouse.warehouses import CONN_ID

FOLDER = "s3://aws_calls@calls/"
NAMES = ("a.wav", "b.wav")


@pytest.fixture
def stored(archive: Archive, s3: S3Server) -> Archive:
    """An archive of two recordings in a bucket, listed for ``run``."""
    for name in NAMES:
        s3.put(name, wav(1.0) + name.encode())
    list_bucket(archive)
    return archive


def list_bucket(archive: Archive, run_id: str = "run") -> None:
    write_manifest(list_recordings(FOLDER), str(archive.results / "manifests" / run_id))


def replace(s3: S3Server, name: str, content: str) -> None:
    s3.put(name, wav(2.0) + content.encode())


def test_one_that_is_replaced_after_it_was_listed_is_paid_once(stored: Archive, s3: S3Server) -> None:
    replace(s3, "a.wav", "new")

    assert stored.submit()["submitted"] == 2

    list_bucket(stored, "next")
    counts = stored.submit("next")
    assert (counts["submitted"], counts["waiting"]) == (0, 2), "what was sent is known by what it was"
    assert stored.paid() == {"a.wav": 1, "b.wav": 1}
    assert stored.entries()["a.wav"].duration_seconds == pytest.approx(2.0, abs=0.1)


def test_the_tasks_that_follow_know_it_by_what_it_is_now(stored: Archive, s3: S3Server) -> None:
    replace(s3, "a.wav", "new")
    stored.submit()
    stored.plaud.advance(3600)

    stored.land()
    assert stored.count()["landed"] == 2


def test_one_that_another_run_has_submitted_as_it_is_now_is_not_paid_again(
    stored: Archive, s3: S3Server
) -> None:
    replace(s3, "a.wav", "new")
    list_bucket(stored, "faster")
    stored.submit("faster")

    counts = stored.submit()

    assert counts["submitted"] == 0
    assert stored.paid() == {"a.wav": 1, "b.wav": 1}


@pytest.mark.parametrize("times", [1, 2])
def test_one_that_is_replaced_while_it_waits_for_its_turn_is_sent_as_what_it_is(
    stored: Archive, s3: S3Server, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    changes: list[str] = []
    real = StoredObject.look

    def look(source: StoredObject) -> Any:
        # The first look is the plan's; those that follow are made when it is its turn.
        if source.audio.uri.endswith("a.wav") and source in looked and len(changes) < times:
            changes.append("change")
            replace(s3, "a.wav", f"change {len(changes)}")
        looked.append(source)
        return real(source)

    looked: list[StoredObject] = []
    monkeypatch.setattr(StoredObject, "look", look)

    assert stored.submit()["submitted"] == 2
    assert len(changes) == times

    list_bucket(stored, "next")
    assert stored.submit("next")["submitted"] == 0
    assert stored.paid() == {"a.wav": 1, "b.wav": 1}


def test_a_local_file_that_is_replaced_is_paid_once(archive: Archive) -> None:
    archive.add("a.wav")
    archive.list()
    archive.add("a.wav", seconds=2.0)

    assert archive.submit()["submitted"] == 1
    archive.list("next")
    assert archive.submit("next")["submitted"] == 0


def test_a_single_submit_sends_what_is_there_when_it_is_its_turn(
    archive: Archive, s3: S3Server, plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("a.wav", wav(1.0))
    looks: list[int] = []
    real = StoredObject.look

    def look(source: StoredObject) -> Any:
        looks.append(1)
        if len(looks) == 2:
            replace(s3, "a.wav", "new")
        return real(source)

    monkeypatch.setattr(StoredObject, "look", look)
    first = single()
    monkeypatch.setattr(StoredObject, "look", real)

    assert single(run_id="next") == first, "it is known by what it was when it was sent"
    assert int(plaud.summary()["submits_accepted"]) == 1


def test_a_single_submit_of_what_keeps_being_replaced_ends(
    archive: Archive, s3: S3Server, plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = iter(range(100))
    s3.put("a.wav", wav(1.0))
    monkeypatch.setattr(StoredObject, "look", lambda _: str(next(versions)))

    with pytest.raises(PlaudReplacedError, match="Nothing was sent"):
        single()
    assert plaud.ledger(kind="submit") == []


def single(run_id: str = "run") -> str:
    task = SubmitTranscriptionOperator(
        task_id="submit",
        audio_url=f"{FOLDER}a.wav",
        ledger_conn_id=CONN_ID,
        url_validity=timedelta(hours=1),
    )
    return task.execute(task_context(TaskStateStore(), task_id="submit", run_id=run_id))
