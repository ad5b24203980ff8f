from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import (
    PlaudAuthenticationError,
    PlaudConfigurationError,
    PlaudError,
    PlaudInputError,
    PlaudRequestError,
    PlaudSubmitOutcomeUnknownError,
)
from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.sensors.transcription import TranscriptionSensor
from plaud_provider.submit import task_memory
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator
from tests.unit.tasks import TaskStateStore, task_context

SIGNATURE = "canary-signature-6f1d"
# The emulator's ledger shows signatures as fingerprints.
FINGERPRINT = "sha256:" + hashlib.sha256(SIGNATURE.encode()).hexdigest()[:12]
URL = f"https://calls.s3.amazonaws.com/2024/call%201.mp3?X-Amz-Signature={SIGNATURE}"


def submit(store: TaskStateStore | None = None, *, try_number: int = 1, **arguments: Any) -> str:
    operator = SubmitTranscriptionOperator(task_id="submit", **{"audio_url": URL, **arguments})
    return operator.execute(task_context(store, try_number=try_number))


def signed(valid_for: timedelta) -> str:
    signed_at = datetime.now(tz=UTC) - timedelta(hours=1)
    seconds = int((timedelta(hours=1) + valid_for).total_seconds())
    return f"https://b.s3.amazonaws.com/a.wav?X-Amz-Date={signed_at:%Y%m%dT%H%M%SZ}&X-Amz-Expires={seconds}"


def test_submits_once_and_returns_the_id(plaud: EmulatorServer) -> None:
    transcription_id = submit(TaskStateStore(), language="pt-BR", speaker_diarization=True)

    [sent] = plaud.ledger(kind="submit")
    assert sent["body"] == {
        "audioUrl": URL.replace(SIGNATURE, FINGERPRINT),
        "language": "pt-BR",
        "speakerDiarization": True,
    }
    assert [row["transcription_id"] for row in plaud.transcriptions()] == [transcription_id]


def test_leaves_out_what_is_left_at_its_default(plaud: EmulatorServer) -> None:
    submit(TaskStateStore())

    assert plaud.ledger(kind="submit")[0]["body"] == {"audioUrl": URL.replace(SIGNATURE, FINGERPRINT)}


def test_a_retry_re_attaches(plaud: EmulatorServer) -> None:
    store = TaskStateStore()

    assert submit(store) == submit(store, try_number=2)
    assert plaud.summary()["submits_accepted"] == 1


def test_a_clear_re_attaches_although_the_url_is_signed_anew_or_has_expired(plaud: EmulatorServer) -> None:
    store = TaskStateStore()
    first = submit(store, audio_url=signed(timedelta(hours=1)))

    assert submit(store, try_number=2, audio_url=signed(timedelta(hours=2))) == first
    assert submit(store, try_number=3, audio_url=signed(timedelta(minutes=-5))) == first


def test_another_recording_under_the_same_map_index_is_submitted(plaud: EmulatorServer) -> None:
    store = TaskStateStore()
    first = submit(store)

    assert submit(store, try_number=2, audio_url="https://calls.example/other.mp3") != first
    assert submit(store, try_number=3) == first
    assert plaud.summary()["submits_accepted"] == 2


@pytest.mark.parametrize(
    "changed", [{"language": "en"}, {"speaker_diarization": True}, {"audio_url": URL + "&versionId=2"}]
)
def test_what_changes_the_transcript_is_another_submit(
    plaud: EmulatorServer, changed: dict[str, Any]
) -> None:
    store = TaskStateStore()
    submit(store)
    submit(store, try_number=2, **changed)

    assert plaud.summary()["submits_accepted"] == 2


def test_the_webhook_url_does_not_make_another_submit(plaud: EmulatorServer) -> None:
    store = TaskStateStore()

    assert submit(store) == submit(store, try_number=2, webhook_url="https://me.example/hook")


def test_an_answer_lost_after_the_handler_is_unknown_and_not_sent_again(plaud: EmulatorServer) -> None:
    store = TaskStateStore()
    fault = plaud.inject({"match": {"kind": "submit"}, "times": 1, "action": "drop_after"})

    with pytest.raises(PlaudSubmitOutcomeUnknownError, match="on_unknown_submit='resubmit'") as lost:
        submit(store)
    with pytest.raises(PlaudSubmitOutcomeUnknownError, match="got no usable answer"):
        submit(store, try_number=2)

    assert fault.consumed == 1
    assert isinstance(lost.value, AirflowFailException), "a retry would only repeat the question"
    assert plaud.summary()["submits_accepted"] == 1


def test_a_worker_killed_while_sending_leaves_an_unknown_outcome(plaud: EmulatorServer) -> None:
    store = TaskStateStore()

    class Killed(BaseException):
        pass

    def kill(key: str, value: Any, **_: Any) -> None:
        TaskStateStore.set(store, key, value)
        if value["state"] == "sending":
            raise Killed

    store.set = kill  # type: ignore[method-assign]
    with pytest.raises(Killed):
        submit(store)
    del store.set  # type: ignore[attr-defined]

    with pytest.raises(PlaudSubmitOutcomeUnknownError, match="when its worker ended"):
        submit(store, try_number=2)
    assert plaud.ledger(kind="submit") == []


def test_a_worker_killed_before_the_post_submits_on_retry(plaud: EmulatorServer) -> None:
    store = TaskStateStore()
    fault = plaud.inject({"match": {"kind": "exchange"}, "times": 1, "action": "status", "status": 401})
    with pytest.raises(PlaudAuthenticationError):
        submit(store)
    for file in (plaud_tokens := __import__("pathlib").Path(__import__("os").environ["AIRFLOW_HOME"])).rglob(
        "*.token"
    ):
        file.unlink()

    assert plaud_tokens.exists()
    assert submit(store, try_number=2)
    assert fault.consumed == 1
    assert plaud.summary()["submits_accepted"] == 1


def test_resubmit_sends_an_unknown_one_again(plaud: EmulatorServer, caplog: pytest.LogCaptureFixture) -> None:
    store = TaskStateStore()
    plaud.inject({"match": {"kind": "submit"}, "times": 1, "action": "drop_after"})

    transcription_id = submit(store, on_unknown_submit="resubmit")

    assert "may be billed twice" in caplog.text
    assert plaud.summary()["submits_accepted"] == 2
    assert submit(store, try_number=2, on_unknown_submit="resubmit") == transcription_id


def test_an_answer_without_an_id_is_unknown(plaud: EmulatorServer) -> None:
    plaud.inject({"match": {"kind": "submit"}, "times": 1, "action": "patch", "remove": ["transcriptionId"]})

    with pytest.raises(PlaudSubmitOutcomeUnknownError, match="no usable transcriptionId"):
        submit(TaskStateStore())


def test_a_refused_submit_may_be_sent_again_by_a_retry(plaud: EmulatorServer) -> None:
    store = TaskStateStore()
    plaud.inject({"match": {"kind": "submit"}, "times": 1, "action": "status", "status": 422})

    with pytest.raises(PlaudRequestError, match="Nothing was accepted"):
        submit(store)
    assert submit(store, try_number=2)


def test_without_a_state_store_a_retry_does_not_pay_again(plaud: EmulatorServer) -> None:
    submit(None)

    with pytest.raises(PlaudSubmitOutcomeUnknownError, match=r"Airflow before 3\.3"):
        submit(None, try_number=2)
    assert submit(None, try_number=2, on_unknown_submit="resubmit")


# Fault row 69
@pytest.mark.parametrize("try_number", [2, 5])
def test_a_state_store_that_was_emptied_before_a_retry_or_a_clear_is_an_unknown_outcome(
    plaud: EmulatorServer, try_number: int
) -> None:
    store = TaskStateStore()
    submit(store)
    store.rows.clear()

    with pytest.raises(PlaudSubmitOutcomeUnknownError, match="state store was emptied"):
        submit(store, try_number=try_number)
    assert len(plaud.transcriptions()) == 1
    assert submit(store, try_number=try_number, on_unknown_submit="resubmit")


def test_a_retry_of_an_attempt_that_sent_nothing_submits(plaud: EmulatorServer) -> None:
    store = TaskStateStore()
    plaud.inject({"match": {"kind": "submit"}, "action": "status", "status": 402})
    with pytest.raises(PlaudError, match="402"):
        submit(store)

    assert submit(store, try_number=2)


def test_a_state_store_that_cannot_be_read_stops_the_submit(plaud: EmulatorServer) -> None:
    store = TaskStateStore()
    store.get = lambda key, default=None: (_ for _ in ()).throw(RuntimeError("execution API"))  # type: ignore[method-assign]

    with pytest.raises(RuntimeError):
        submit(store)
    assert plaud.ledger() == []


def test_a_note_of_another_version_stops_the_submit(plaud: EmulatorServer) -> None:
    store = TaskStateStore()
    submit(store)
    [key] = [key for key in store.rows if key.startswith("plaud_submission_")]
    store.set(key, {"version": 99, "state": "accepted"})

    with pytest.raises(PlaudError, match="another version"):
        submit(store, try_number=2)


@pytest.mark.parametrize("away", [AirflowException, RuntimeError], ids=str)
def test_an_id_that_cannot_be_noted_is_still_returned_and_not_paid_again(
    plaud: EmulatorServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    away: type[Exception],
) -> None:
    monkeypatch.setattr(task_memory, "STATE_STORE_SECONDS", 0)
    caplog.set_level("INFO")
    store = TaskStateStore()

    def refuse(key: str, value: Any, **_: Any) -> None:
        if value["state"] == "accepted":
            raise away("execution API is down")
        TaskStateStore.set(store, key, value)

    store.set = refuse  # type: ignore[method-assign]
    transcription_id = submit(store)

    assert f"as transcription {transcription_id}" in caplog.text
    with pytest.raises(PlaudSubmitOutcomeUnknownError):
        submit(store, try_number=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"audio_url": "ftp://files.example/a.mp3"},
            r"audio_url: 'ftp://files.example/a.mp3' has the scheme 'ftp'",
        ),
        ({"audio_url": "a.mp3"}, "is not a URL"),
        ({"audio_url": ""}, "audio_url: it is empty"),
        ({"audio_url": []}, "audio_url: it is empty"),
        ({"audio_url": "http://files.example/a.mp3"}, "https://"),
        ({"audio_url": "https://user:pw-canary@files.example/a.mp3"}, "user name or password"),
        ({"audio_url": "https://files.example/notes.txt"}, r"is a \.txt file.*convert it"),
        ({"audio_url": timedelta(minutes=-5)}, "expired at .*sign it again"),
        ({"audio_url": timedelta(seconds=20)}, "too soon"),
        (
            {"audio_url": ["https://files.example/a.mp3", "https://files.example/b.mp3"]},
            r"expand\(audio_url=",
        ),
        ({"language": "english"}, "language: 'english' is not a language tag.*'en'"),
        ({"webhook_url": "http://me.example/hook"}, "webhook_url"),
        ({"speaker_diarization": "perhaps"}, "speaker_diarization: 'perhaps'"),
        ({"on_unknown_submit": "retry"}, "on_unknown_submit: 'retry'"),
    ],
)
def test_a_wrong_argument_is_told_before_anything_is_sent(
    plaud: EmulatorServer, arguments: dict[str, Any], message: str
) -> None:
    if isinstance(validity := arguments.get("audio_url"), timedelta):
        arguments = {"audio_url": signed(validity)}
    with pytest.raises(PlaudInputError, match=f"(?s){message}") as refused:
        submit(TaskStateStore(), **arguments)

    assert "Nothing was sent" in str(refused.value)
    assert "canary" not in str(refused.value)
    assert "X-Amz" not in str(refused.value)
    assert plaud.ledger(kind="submit") == []


def test_another_region_than_the_connections_fails_before_any_request(plaud: EmulatorServer) -> None:
    with pytest.raises(PlaudConfigurationError, match=r"'eu' was asked for.*'us'"):
        submit(TaskStateStore(), region="eu")
    assert plaud.ledger() == []


def test_no_signature_in_state_logs_or_rendered_fields(
    plaud: EmulatorServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    store = TaskStateStore()
    with caplog.at_level("DEBUG"):
        submit(store)
    logged = caplog.text + "".join(capfd.readouterr())

    assert "Submitting https://calls.s3.amazonaws.com/2024/call%201.mp3" in logged
    assert SIGNATURE not in store.text + logged
    assert "secret-key-canary" not in store.text + logged


def rendered(operator: BaseOperator, **context: Any) -> dict[str, Any]:
    operator.render_template_fields({"task": operator, **context})
    return _serialize_rendered_fields(operator)


@pytest.mark.parametrize("audio_url", [URL, "{{ url }}"])
def test_rendered_fields_show_the_url_unsigned(audio_url: str) -> None:
    with DAG("d", schedule=None):
        operator = SubmitTranscriptionOperator(task_id="submit", audio_url=audio_url)

    assert rendered(operator, url=URL)["audio_url"] == "https://calls.s3.amazonaws.com/2024/call%201.mp3"


def test_a_rendered_url_is_submitted_with_its_signature(plaud: EmulatorServer) -> None:
    with DAG("d", schedule=None):
        operator = SubmitTranscriptionOperator(
            task_id="submit",
            audio_url="{{ url }}",
            language="{{ none }}",
            speaker_diarization="{{ diarize }}",
        )
    operator.render_template_fields({"task": operator, "url": URL, "none": "", "diarize": True})  # type: ignore[arg-type]
    operator.execute(task_context(TaskStateStore()))

    assert plaud.ledger(kind="submit")[0]["body"] == {
        "audioUrl": URL.replace(SIGNATURE, FINGERPRINT),
        "speakerDiarization": True,
    }


def test_the_output_of_another_task_is_an_upstream() -> None:
    with DAG("d", schedule=None):
        first = SubmitTranscriptionOperator(task_id="first", audio_url=URL)
        second = SubmitTranscriptionOperator(task_id="second", audio_url=first.output)

    assert second.upstream_task_ids == {"first"}


# What the DAG does with it later


@pytest.mark.parametrize("conn_id", ["no_such", "{{ params.warehouse }}"])
def test_nothing_is_paid_for_that_a_loader_behind_it_could_not_land(
    plaud: EmulatorServer, conn_id: str
) -> None:
    """Three tasks without a ledger: the missing warehouse was found when the transcript was there."""
    with DAG("calls", schedule=None) as dag:
        submit = SubmitTranscriptionOperator(task_id="submit", audio_url=URL)
        wait = TranscriptionSensor(task_id="wait", transcription_id=submit.output)
        wait >> TranscriptionToSqlOperator(
            task_id="load", transcription_id=submit.output, sql_conn_id=conn_id
        )
    context: Any = {**task_context(TaskStateStore()), "params": {"warehouse": "no_such"}, "dag": dag}

    with pytest.raises(PlaudConfigurationError, match=r"sql_conn_id: .*'no_such'"):
        submit.execute(context)

    assert plaud.summary()["submits_accepted"] == 0


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, r"sql_conn_id: .*'warehouse_default'"),
        ({"sql_conn_id": "no_such"}, r"sql_conn_id: .*'no_such'"),
        ({"lake_path": "s3://b/lake/"}, "lake_catalog_conn_id: Iceberg tables in object storage"),
        ({"lake_path": "/lake/", "lake_format": "csv"}, "lake_format: 'csv' is none of"),
        ({"default_args": {"sql_conn_id": "no_such"}}, r"sql_conn_id: .*'no_such'"),
    ],
    ids=["default", "warehouse", "lake", "format", "default_args"],
)
@pytest.mark.parametrize("is_mapped", [True, False])
def test_nothing_is_paid_for_that_a_loader_behind_it_has_no_place_for(
    plaud: EmulatorServer, given: dict[str, Any], why: str, is_mapped: bool
) -> None:
    given = dict(given)
    with DAG("calls", schedule=None, default_args=given.pop("default_args", {})) as dag:
        submit = SubmitTranscriptionOperator(task_id="submit", audio_url=URL)
        if is_mapped:
            load = TranscriptionToSqlOperator.partial(task_id="load", **given)
            load.expand(transcription_id=[submit.output])
        else:
            TranscriptionToSqlOperator(task_id="load", transcription_id=submit.output, **given)
    context: Any = {**task_context(TaskStateStore()), "dag": dag}

    with pytest.raises((PlaudConfigurationError, PlaudInputError), match=why):
        submit.execute(context)

    assert plaud.summary()["submits_accepted"] == 0


def test_a_mapped_loader_whose_warehouses_are_known_when_it_runs_keeps_nobody(plaud: EmulatorServer) -> None:
    with DAG("calls", schedule=None) as dag:
        submit = SubmitTranscriptionOperator(task_id="submit", audio_url=URL)
        loads = TranscriptionToSqlOperator.partial(task_id="load", transcription_id=submit.output)
        loads.expand(sql_conn_id=["one", "other"])
    context: Any = {**task_context(TaskStateStore()), "dag": dag}

    assert submit.execute(context)


def test_a_loader_whose_warehouse_is_not_known_yet_keeps_nobody(plaud: EmulatorServer) -> None:
    with DAG("calls", schedule=None) as dag:
        submit = SubmitTranscriptionOperator(task_id="submit", audio_url=URL)
        submit >> TranscriptionToSqlOperator(
            task_id="load", transcription_id="txn_1", sql_conn_id="{{ nobody.knows.this }}"
        )
    context: Any = {**task_context(TaskStateStore()), "dag": dag}

    assert submit.execute(context)


def test_what_it_returns_is_pushed_whatever_multiple_outputs_says() -> None:
    with DAG("d", schedule=None):
        task = SubmitTranscriptionOperator(
            task_id="submit", audio_url="s3://calls/1.mp3", multiple_outputs=True
        )

    task.pre_execute({})
    pushed: dict[str, str] = {}
    ti: Any = SimpleNamespace(
        task=task, is_mapped=False, xcom_push=pushed.__setitem__, task_id="submit", map_index=-1
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            task_runner, "_xcom_push", lambda ti, key, value, mapped_length=None: ti.xcom_push(key, value)
        )
        task_runner._push_xcom_if_needed("txn_1", ti, structlog.get_logger())

    assert pushed == {"return_value": "txn_1"}
