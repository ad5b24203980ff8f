"""The hook by itself, as in a notebook: what it takes, what it checks, and a call that waits."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowNotFoundException

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudInputError,
    PlaudTranscriptionFailedError,
    PlaudWaitTimeoutError,
)
from plaud_provider.hooks.plaud import PlaudAsyncHook, PlaudHook
from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from tests.unit.conftest import plaud as plaud
from tests.unit.operators.test_storage_references import CALL
from tests.unit.s3_server import S3Server
from tests.unit.s3_server import s3 as s3
from tests.unit.s3_server import s3_server as s3_server
from tests.unit.tasks import TaskStateStore, task_context

URL = "https://files.example/calls/1.mp3?sig=canary-signature"


@pytest.fixture
def quick_plaud(plaud: EmulatorServer) -> Any:
    """A Plaud that takes ten minutes of its clock, each of which is a fraction of a second."""
    plaud.state.clock.set_speed(3000)
    yield plaud
    plaud.state.clock.set_speed(1)


def submit_sync(reference: Any, **options: Any) -> Any:
    with PlaudHook() as hook:
        return hook.submit_transcription(reference, **options)


def submit_async(reference: Any, **options: Any) -> Any:
    async def submit() -> Any:
        async with PlaudAsyncHook() as hook:
            return await hook.submit_transcription(reference, **options)

    return asyncio.run(submit())


both = pytest.mark.parametrize("submit", [submit_sync, submit_async])


@both
@pytest.mark.parametrize(
    "reference",
    [
        "x",
        "/data/calls/1.wav",
        "ftp://files.example/1.mp3?sig=canary",
        "http://files.example/1.mp3",
        "https://user:canary@files.example/1.mp3",
        "https://b.s3.amazonaws.com/1.mp3?X-Amz-Date=20240501T100000Z&X-Amz-Expires=60&X-Amz-Signature=canary",
        "s3://",
        Path("/data/calls/1.wav"),
    ],
    ids=str,
)
def test_it_refuses_what_the_operator_refuses_in_the_same_words(
    plaud: EmulatorServer, submit: Any, reference: Any
) -> None:
    operator = SubmitTranscriptionOperator(task_id="submit", audio_url=reference)
    with pytest.raises(PlaudInputError) as refused:
        operator.execute(task_context(TaskStateStore()))

    with pytest.raises(PlaudInputError) as caught:
        submit(reference)

    assert str(caught.value) == str(refused.value)
    assert "canary" not in str(caught.value)
    assert plaud.ledger(kind="submit") == []


@both
def test_it_signs_storage_references(
    plaud: EmulatorServer, s3: S3Server, submit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("1.wav", CALL)
    submit("s3://aws_calls@calls/1.wav", url_validity=600)

    [sent] = plaud.ledger(kind="submit")
    assert sent["body"]["audioUrl"].startswith(f"{s3.url}/calls/1.wav?X-Amz-Algorithm")
    with pytest.raises(PlaudInputError, match="does not exist in its storage"):
        submit("s3://aws_calls@calls/2.wav")
    assert len(plaud.ledger(kind="submit")) == 1


@both
def test_it_takes_local_files_that_are_served(plaud: EmulatorServer, submit: Any, tmp_path: Path) -> None:
    (tmp_path / "a b.wav").write_bytes(CALL)
    submit(tmp_path / "a b.wav", public_urls={str(tmp_path): "https://files.example/calls"})

    assert plaud.ledger(kind="submit")[0]["body"]["audioUrl"] == "https://files.example/calls/a%20b.wav"


def test_a_recording_is_submitted_waited_for_and_returned(
    quick_plaud: EmulatorServer, caplog: pytest.LogCaptureFixture
) -> None:
    with PlaudHook() as hook:
        transcription = hook.transcribe(URL, language="en", speaker_diarization=True, poke_interval=0.05)

    assert transcription.status == "completed"
    assert transcription.text
    assert transcription.segments
    [sent] = quick_plaud.ledger(kind="submit")
    assert (sent["body"]["language"], sent["body"]["speakerDiarization"]) == ("en", True)
    assert transcription.transcription_id in caplog.text
    assert "canary" not in caplog.text


def test_a_look_that_fails_does_not_end_the_wait(quick_plaud: EmulatorServer) -> None:
    quick_plaud.inject({"match": {"kind": "get"}, "times": 1, "action": "status", "status": 404})

    with PlaudHook() as hook:
        assert hook.transcribe(URL, poke_interval=0.05).status == "completed"


def test_what_plaud_cannot_transcribe_is_an_error_with_its_reason(quick_plaud: EmulatorServer) -> None:
    failed = {"transcriptionId": "txn_1", "status": "failed", "error": "no speech"}
    quick_plaud.inject(
        {
            "match": {"kind": "submit"},
            "action": "status",
            "status": 200,
            "body": {**failed, "status": "processing"},
        }
    )
    quick_plaud.inject({"match": {"kind": "get"}, "action": "status", "status": 200, "body": failed})

    with PlaudHook() as hook, pytest.raises(PlaudTranscriptionFailedError) as caught:
        hook.transcribe(URL, poke_interval=0.05)

    assert (
        str(caught.value) == "Plaud could not transcribe https://files.example/calls/1.mp3 (txn_1): no speech"
    )


def test_a_wait_ends_in_time_and_names_the_id(plaud: EmulatorServer) -> None:
    with PlaudHook() as hook, pytest.raises(PlaudWaitTimeoutError) as caught:
        hook.transcribe(URL, timeout=0.2, poke_interval=0.05)

    [row] = plaud.transcriptions()
    assert f"get_transcription({row['transcription_id']!r}) has it later" in str(caught.value)
    assert plaud.summary()["submits_accepted"] == 1


@pytest.mark.parametrize("option", [{"timeout": -1}, {"poke_interval": "often"}, {"language": "english"}])
def test_a_wrong_option_is_told_before_anything_is_paid_for(
    plaud: EmulatorServer, option: dict[str, Any]
) -> None:
    [name] = option
    with PlaudHook() as hook, pytest.raises(PlaudInputError, match=f"^{name}: "):
        hook.transcribe(URL, **option)

    assert plaud.ledger() == []


# Connections that are not there


async def ask_without_connection() -> None:
    async with PlaudAsyncHook("no_such") as hook:
        await hook.get_transcription("txn_1")


def test_a_connection_that_does_not_exist_is_named_with_the_remedy(plaud: EmulatorServer) -> None:
    words = (
        r"^plaud_conn_id: there is no Airflow connection 'no_such'\. Create it \(Admin > Connections, type "
        r"Plaud, or AIRFLOW_CONN_NO_SUCH\) or pass the id of yours\. Nothing was sent\.$"
    )
    with PlaudHook("no_such") as hook, pytest.raises(PlaudConfigurationError, match=words):
        hook.submit_transcription(URL)
    # A trigger takes it for a failure of Airflow's API, and tries again before it says so.
    with pytest.raises(AirflowNotFoundException, match=words):
        asyncio.run(ask_without_connection())
    operator = SubmitTranscriptionOperator(task_id="submit", audio_url=URL, plaud_conn_id="no_such")
    with pytest.raises(PlaudConfigurationError, match=words):
        operator.execute(task_context(TaskStateStore()))
    assert json.dumps(plaud.ledger()) == "[]"
