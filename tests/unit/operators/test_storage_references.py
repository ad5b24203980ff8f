"""The submit of recordings in storage: signed inside ``execute``, downloaded by the emulator, paid once."""

from __future__ import annotations

import functools
import http.server
import json
import logging
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from airflow.sdk import DAG
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields

from plaud_provider.api.models import Status, Transcription
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.emulator.settings import Settings
from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudInputError,
    PlaudRequestError,
    PlaudStorageError,
    PlaudSubmitOutcomeUnknownError,
)
from plaud_provider.hooks.plaud import PlaudHook
from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.recordings.stored_objects import StoredObject
from tests.unit.s3_server import BUCKET, S3Server
from tests.unit.tasks import TaskStateStore, task_context

RECORDINGS = Path(__file__).parents[3] / "demo" / "recordings"
CALL = (RECORDINGS / "voicemail.wav").read_bytes()
OTHER_CALL = (RECORDINGS / "support-call.wav").read_bytes()
REFERENCE = "s3://aws_calls@calls/2024/call 1.wav"


@pytest.fixture(scope="module")
def fetching_server() -> Iterator[EmulatorServer]:
    settings = Settings(
        clients={"client": "secret-key-canary"},
        token_limit=0,
        request_limit=0,
        transcripts=(RECORDINGS,),
        speed=0,
    )
    with EmulatorServer(settings) as server:
        yield server


@pytest.fixture
def plaud(
    plaud: EmulatorServer, fetching_server: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EmulatorServer]:
    """A Plaud that downloads what it is given, and an Airflow connection to it."""
    fetching_server.reset()
    connection = json.loads(fetching_server.airflow_connection)
    connection["extra"]["requests_per_minute"] = 60_000
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
    yield fetching_server
    # Its downloads are not the next test's.
    fetching_server.settle()


@pytest.fixture
def s3(s3: S3Server) -> S3Server:
    s3.put("2024/call 1.wav", CALL)
    return s3


def submit(store: TaskStateStore | None = None, *, try_number: int = 1, **arguments: Any) -> str:
    operator = SubmitTranscriptionOperator(task_id="submit", **{"audio_url": REFERENCE, **arguments})
    return operator.execute(task_context(store or TaskStateStore(), try_number=try_number))


def outcome(plaud: EmulatorServer, transcription_id: str) -> Transcription:
    plaud.advance(3600)
    with PlaudHook() as hook:
        return hook.get_transcription(transcription_id)


def paid(plaud: EmulatorServer) -> int:
    return int(plaud.summary()["submits_accepted"])


def test_plaud_downloads_and_transcribes_what_a_reference_names(plaud: EmulatorServer, s3: S3Server) -> None:
    transcription = outcome(plaud, submit())

    assert transcription.status is Status.COMPLETED
    assert len(s3.signatures) == 1


def test_a_url_that_has_expired_when_plaud_comes_is_of_no_use(plaud: EmulatorServer, s3: S3Server) -> None:
    s3.gate.later = timedelta(hours=1, seconds=1)

    assert outcome(plaud, submit(url_validity=3600)).status is Status.FAILED
    assert outcome(plaud, submit(url_validity=timedelta(hours=2))).status is Status.COMPLETED


def test_a_url_that_was_tampered_with_is_of_no_use(
    plaud: EmulatorServer, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("2024/call 2.wav", OTHER_CALL)
    signed = StoredObject.url

    def tampered(stored: StoredObject) -> AudioReference:
        return AudioReference(signed(stored).reveal().replace("call%201", "call%202"))

    monkeypatch.setattr(StoredObject, "url", tampered)

    assert outcome(plaud, submit()).status is Status.FAILED


def test_a_local_file_is_fetched_from_where_the_user_serves_it(plaud: EmulatorServer, tmp_path: Path) -> None:
    folder = tmp_path / "calls"
    folder.mkdir()
    shutil.copy(RECORDINGS / "voicemail.wav", folder / "call #1 100%.wav")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    urls = {f"file://{folder}/": f"http://127.0.0.1:{server.server_port}/"}
    try:
        transcription_id = submit(audio_url=f"file://{folder}/call #1 100%.wav", public_urls=urls)
        assert outcome(plaud, transcription_id).status is Status.COMPLETED
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", ["call.wav ", " call.wav", "call.wav\n", "call%20.wav", "e\u0301.wav"])
def test_what_is_submitted_is_the_object_of_exactly_that_name(
    plaud: EmulatorServer, s3: S3Server, name: str
) -> None:
    for other in ("call.wav", "call .wav", "é.wav"):
        s3.put(other, OTHER_CALL)
    s3.put(name, CALL)

    submit(audio_url=f" s3://aws_calls@calls/{name}")

    [row] = plaud.ledger(kind="submit")
    assert unquote(urlsplit(row["body"]["audioUrl"]).path) == f"/calls/{name}"


# Paid once


def test_a_retry_re_attaches_with_another_signature(plaud: EmulatorServer, s3: S3Server) -> None:
    store = TaskStateStore()

    assert submit(store) == submit(store, try_number=2)
    assert paid(plaud) == 1


def test_a_clear_re_attaches_although_the_object_is_gone(
    plaud: EmulatorServer, s3: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    store = TaskStateStore()
    first = submit(store)
    caplog.set_level("INFO")
    s3.client.delete_object(Bucket=BUCKET, Key="2024/call 1.wav")

    assert submit(store, try_number=2) == first
    assert "The recording itself could not be looked up" in caplog.text
    assert paid(plaud) == 1


@pytest.mark.parametrize("trouble", ["forbidden", "away", "no connection", "no library"])
def test_a_clear_re_attaches_although_the_storage_cannot_be_asked(
    plaud: EmulatorServer, s3: S3Server, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TaskStateStore()
    first = submit(store)
    if trouble == "forbidden":
        s3.gate.is_forbidden = True
    elif trouble == "away":
        extra = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_CALLS", s3.connection(extra=extra))
    elif trouble == "no connection":
        monkeypatch.delenv("AIRFLOW_CONN_AWS_CALLS")
    else:
        monkeypatch.setattr("airflow.sdk.io.has_fs", lambda scheme: False)

    assert submit(store, try_number=2) == first
    assert paid(plaud) == 1


def test_a_replaced_object_is_another_recording(
    plaud: EmulatorServer, s3: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = TaskStateStore()
    first = submit(store)
    s3.put("2024/call 1.wav", OTHER_CALL)
    second = submit(store, try_number=2)

    assert second != first
    assert f"replaced since it was submitted as transcription {first}" in caplog.text
    assert submit(store, try_number=3) == second
    assert paid(plaud) == 2


def test_an_object_that_gets_its_old_content_back_is_not_paid_again(
    plaud: EmulatorServer, s3: S3Server
) -> None:
    store = TaskStateStore()
    first = submit(store)
    s3.put("2024/call 1.wav", OTHER_CALL)
    second = submit(store, try_number=2)
    s3.put("2024/call 1.wav", CALL)
    assert submit(store, try_number=3) == first

    # What the storage does not tell is what was submitted last.
    s3.gate.is_forbidden = True
    assert submit(store, try_number=4) == second
    assert paid(plaud) == 2


def test_an_unknown_outcome_stays_unknown_although_the_object_was_replaced(
    plaud: EmulatorServer, s3: S3Server
) -> None:
    store = TaskStateStore()
    plaud.inject({"match": {"kind": "submit"}, "times": 1, "action": "drop_after"})
    with pytest.raises(PlaudSubmitOutcomeUnknownError):
        submit(store)
    s3.put("2024/call 1.wav", OTHER_CALL)

    with pytest.raises(PlaudSubmitOutcomeUnknownError, match="got no usable answer"):
        submit(store, try_number=2)
    s3.gate.is_forbidden = True
    with pytest.raises(PlaudSubmitOutcomeUnknownError, match="got no usable answer"):
        submit(store, try_number=3)
    s3.gate.is_forbidden = False
    assert submit(store, try_number=4, on_unknown_submit="resubmit")
    assert submit(store, try_number=5)
    assert paid(plaud) == 2


def test_resubmitting_needs_the_object(plaud: EmulatorServer, s3: S3Server) -> None:
    store = TaskStateStore()
    plaud.inject({"match": {"kind": "submit"}, "times": 1, "action": "drop_after"})
    with pytest.raises(PlaudSubmitOutcomeUnknownError):
        submit(store)
    s3.client.delete_object(Bucket=BUCKET, Key="2024/call 1.wav")

    with pytest.raises(PlaudInputError, match="does not exist"):
        submit(store, try_number=2, on_unknown_submit="resubmit")
    assert paid(plaud) == 1


def test_resubmitting_at_once_signs_anew(plaud: EmulatorServer, s3: S3Server) -> None:
    plaud.inject({"match": {"kind": "submit"}, "times": 1, "action": "drop_after"})

    assert outcome(plaud, submit(on_unknown_submit="resubmit")).status is Status.COMPLETED


# Nothing is paid before everything is checked


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"audio_url": "s3://aws_calls@calls/no.mp3"},
            PlaudInputError,
            "'s3://aws_calls@calls/no.mp3' does not",
        ),
        ({"audio_url": "s3://aws_calls@calls/2024"}, PlaudInputError, "is a folder"),
        (
            {"audio_url": "s3://aws_typo@calls/a.mp3"},
            PlaudConfigurationError,
            "'aws_typo', which does not exist",
        ),
        ({"audio_url": "gs://calls/a.mp3"}, PlaudConfigurationError, r"airflow-provider-plaud\[gcs\]"),
        ({"audio_url": "/data/calls/a.mp3"}, PlaudInputError, "public_urls"),
        ({"url_validity": 60}, PlaudInputError, "url_validity"),
        ({"public_urls": "/data"}, PlaudInputError, "public_urls"),
    ],
)
def test_what_is_wrong_is_told_and_costs_nothing(
    plaud: EmulatorServer,
    s3: S3Server,
    arguments: dict[str, Any],
    kind: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "[gcs" in message:
        monkeypatch.setattr("airflow.sdk.io.has_fs", lambda scheme: False)
    with pytest.raises(kind, match=message) as refused:
        submit(**arguments)

    assert "Nothing was sent, nothing is paid for." in str(refused.value)
    assert plaud.ledger() == []


def test_a_storage_that_cannot_be_asked_may_be_asked_again(
    plaud: EmulatorServer, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TaskStateStore()
    with monkeypatch.context() as away:
        away.setattr("plaud_provider.storage.bucket.LOOKUP_SECONDS", 0.001)
        with pytest.raises(PlaudStorageError):
            submit(store)

    assert submit(store, try_number=2)
    assert paid(plaud) == 1


# Secrets


def test_no_signature_of_ours_anywhere(
    plaud: EmulatorServer, s3: S3Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    store = TaskStateStore()
    with DAG("d", schedule=None):
        operator = SubmitTranscriptionOperator(task_id="submit", audio_url="{{ reference }}")
    operator.render_template_fields({"task": operator, "reference": REFERENCE})  # type: ignore[arg-type]
    plaud.inject({"match": {"kind": "submit"}, "times": 1, "action": "status", "status": 422})
    # Here the emulator, which downloads, is in the same process: urllib3 would log its requests.
    with (
        caplog.at_level(logging.INFO, "urllib3"),
        caplog.at_level(logging.DEBUG, "botocore"),
        caplog.at_level(logging.DEBUG),
    ):
        with pytest.raises(PlaudRequestError) as refused:
            operator.execute(task_context(store))
        xcom = operator.execute(task_context(store, try_number=2))
    plaud.settle()
    logged = caplog.text + "".join(capfd.readouterr())
    shown = (
        f"{logged}{_serialize_rendered_fields(operator)}{store.text}{xcom}{refused.getrepr(showlocals=False)}"
    )

    assert len(s3.signatures) == 1
    assert f"Submitting {REFERENCE}" in logged
    for secret in (*s3.signatures, "X-Amz-Signature", "storage-secret-canary", "secret-key-canary"):
        assert secret not in shown


def test_rendered_fields_show_reference_and_settings() -> None:
    with DAG("d", schedule=None):
        operator = SubmitTranscriptionOperator(
            task_id="submit",
            audio_url="s3://aws_calls@calls/{{ name }}",
            url_validity="{{ seconds }}",  # type: ignore[arg-type]
            public_urls={"/data": "https://{{ name }}"},
        )
    operator.render_template_fields({"task": operator, "name": "a.wav", "seconds": 600})  # type: ignore[arg-type]

    rendered = _serialize_rendered_fields(operator)
    assert rendered["audio_url"] == "s3://aws_calls@calls/a.wav"
    assert rendered["url_validity"] == "600"
    assert rendered["public_urls"] == {"/data": "https://a.wav"}
