"""Uploads through the emulator, from the file to the transcript, with what can go wrong on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plaud_provider.api.models import Status
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.emulator.settings import Settings
from plaud_provider.emulator.uploads import PART_BYTES
from plaud_provider.exceptions import PlaudSubmitOutcomeUnknownError
from plaud_provider.hooks.plaud import PlaudHook
from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from tests.unit.recordings.sounds import MP3, RECORDINGS, WAV, WAV_SECONDS
from tests.unit.s3_server import S3Server
from tests.unit.tasks import TaskStateStore, task_context

PUT = {"kind": "upload_storage", "method": "PUT"}


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[EmulatorServer]:
    settings = Settings(
        api="embedded", transcripts=(RECORDINGS,), speed=0, token_seconds=3600, request_limit=0, token_limit=0
    )
    with EmulatorServer(settings) as server:
        connection = json.loads(server.airflow_connection)
        connection["extra"]["requests_per_minute"] = 60_000
        monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
        monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "home"))
        yield server


def submit(**arguments: Any) -> str:
    operator = SubmitTranscriptionOperator(task_id="submit", **arguments)
    return operator.execute(task_context(TaskStateStore()))


@pytest.fixture
def mp3(tmp_path: Path) -> Path:
    """A recording of three parts."""
    file = tmp_path / "long.mp3"
    file.write_bytes(MP3 * (2 * PART_BYTES // len(MP3) + 1))
    return file


def test_a_local_wav_is_transcribed(emulator: EmulatorServer, tmp_path: Path) -> None:
    file = tmp_path / "voicemail.wav"
    file.write_bytes(WAV)

    transcription_id = submit(audio_url=str(file))
    emulator.advance(3600)

    with PlaudHook() as hook:
        found = hook.get_transcription(transcription_id)
    assert found.status is Status.COMPLETED
    assert found.duration_seconds == pytest.approx(WAV_SECONDS, abs=0.3)
    assert [entry["kind"] for entry in emulator.ledger()][:5] == [
        *("exchange", "user_token", "upload_urls", "upload_complete", "submit")
    ]


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "status", "status": 500},
        {"action": "status", "status": 503},
        {"action": "drop_before"},
        {"action": "drop_before", "reset": True},
        {"action": "drop_after"},
    ],
)
def test_a_part_that_fails_is_sent_again_and_no_other(
    emulator: EmulatorServer, mp3: Path, fault: dict[str, Any]
) -> None:
    ordered = emulator.inject({"match": {**PUT, "path_contains": "/2"}, **fault})

    transcription_id = submit(audio_url=str(mp3))

    assert ordered.consumed == 1
    [upload] = emulator.uploads()
    is_taken_twice = fault["action"] == "drop_after"
    assert upload["puts"] == {1: 1, 2: 2 if is_taken_twice else 1, 3: 1}
    assert [one["transcription_id"] for one in emulator.transcriptions()] == [transcription_id]


def test_after_a_wrong_etag_the_upload_is_begun_anew(emulator: EmulatorServer, mp3: Path) -> None:
    wrong = {"action": "status", "status": 200, "headers": {"ETag": '"wrong"'}, "run_handler": True}
    emulator.inject({"match": PUT, **wrong})

    submit(audio_url=str(mp3))

    assert [upload["completed"] for upload in emulator.uploads()] == [False, True]
    assert emulator.summary()["submits_accepted"] == 1


def test_a_user_token_that_has_ended_is_replaced(emulator: EmulatorServer, mp3: Path, tmp_path: Path) -> None:
    submit(audio_url=str(mp3))
    emulator.state.uploads.expire_user_tokens()
    other = tmp_path / "other.mp3"
    other.write_bytes(MP3)

    submit(audio_url=str(other))

    assert [entry["kind"] for entry in emulator.ledger()].count("user_token") == 2


def test_uploading_avoids_the_500_of_what_is_not_in_plauds_storage(
    emulator: EmulatorServer, s3: S3Server
) -> None:
    s3.put("a.mp3", MP3)
    match = {"kind": "submit", "external_url": True}
    emulator.inject({"match": match, "action": "status", "status": 500, "times": None})

    with pytest.raises(PlaudSubmitOutcomeUnknownError, match="upload='always'"):
        submit(audio_url="s3://aws_calls@calls/a.mp3")
    submit(audio_url="s3://aws_calls@calls/a.mp3", upload="always")

    assert emulator.summary()["submits_accepted"] == 1
