"""The submit of a chunk: what becomes of each recording, by where it stands."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred

from plaud_provider.exceptions import PlaudConfigurationError, PlaudInputError
from plaud_provider.ledger.ledger import Owner, State
from plaud_provider.operators.chunk import HELD_SECONDS
from plaud_provider.operators.submit_recordings import SubmitRecordingsOperator
from plaud_provider.recordings.local_files import LocalFile
from plaud_provider.submit.chunk import ChunkSubmit
from tests.integration.archive import BAD_NAMES, write_bad
from tests.unit.operators.archives import STRANGER, SUBMIT, Archive


def test_each_recording_is_submitted_once(any_archive: Archive) -> None:
    archive = any_archive
    archive.add("a.wav", "b.wav", "c.wav", seconds=36)
    archive.list()

    assert archive.submit(language="en", speaker_diarization=True) == {
        "total": 3,
        "landed_before": 0,
        "waiting": 0,
        "new": 3,
        "refused": 0,
        "failed_before": 0,
        "unknown_before": 0,
        "expired_before": 0,
        "audio_hours": 0.03,
        "submitted": 3,
    }
    assert archive.paid() == {"a.wav": 1, "b.wav": 1, "c.wav": 1}
    assert archive.plaud.ledger(kind="submit")[0]["body"] == {
        "audioUrl": f"https://files.example/{archive.posted()[0]}",
        "language": "en",
        "speakerDiarization": True,
    }
    entry = archive.entries()["a.wav"]
    assert entry.state is State.PROCESSING
    assert entry.owner == Owner("dag", "run", SUBMIT, 0, 1)
    assert entry.duration_seconds == pytest.approx(36, abs=0.1)
    assert entry.audio_uri == str(archive.folder / "a.wav")


def test_another_run_pays_for_nothing_that_is_known(any_archive: Archive) -> None:
    archive = any_archive
    archive.add("a.wav", "b.wav")
    archive.list()
    archive.submit()
    archive.plaud.force(archive.entries()["a.wav"].transcription_id or "", status="completed", text="a")
    archive.plaud.advance(601)
    archive.land()
    archive.add("c.wav", "d.wav")
    archive.list("second")

    counts = archive.submit("second")

    assert (counts["landed_before"], counts["waiting"], counts["new"]) == (2, 0, 2)
    assert archive.submit("second", try_number=2)["waiting"] == 2, "a retry attaches to what it has submitted"
    assert set(archive.paid().values()) == {1}


def test_the_plan_is_said_in_numbers(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    archive.add("landed.wav", "failed.wav", "waiting.wav", "unknown.wav", "expired.wav")
    archive.list()
    archive.submit()
    ids = {name: str(entry.transcription_id) for name, entry in archive.entries().items()}
    archive.ledger.landed([ids["landed.wav"]], region="us")
    archive.ledger.failed({ids["failed.wav"]: "no speech"}, region="us")
    archive.ledger.expired({ids["expired.wav"]: "gone"}, region="us")
    forgotten(archive)
    archive.warehouse.run("update plaud_submissions set state = 'unknown' where audio_uri like '%unknown%'")
    archive.add("new.wav", seconds=3600)
    (archive.folder / "bad.wav").write_bytes(b"")
    archive.list("second")

    counts = archive.submit("second")

    said = (
        "7 recordings: 1 landed before, 1 waiting, 1 new, 1 h 0 min of audio, 1 refused, "
        "1 failed before, 1 of unknown outcome, 1 expired."
    )
    assert said in caplog.text
    assert counts["failed_before"] == counts["unknown_before"] == counts["expired_before"] == 1


def test_what_is_left_for_another_run_is_counted(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    archive.add("a.wav", "b.wav", seconds=3600)
    archive.list()
    archive.submit(max_audio_hours=1)
    archive.add("c.wav")
    archive.list()

    counts = archive.submit(max_audio_hours=1)

    assert counts["left"] == 2
    assert (
        "3 recordings: 0 landed before, 1 waiting, 0 new, 0 s of audio, 2 left for another run."
        in caplog.text
    )


# What another task is about to submit


def test_what_another_task_holds_is_waited_for_without_a_worker(archive: Archive) -> None:
    archive.add("a.wav", "b.wav")
    archive.list()
    archive.submit(plan_only=True)
    archive.hold("a.wav")

    before = datetime.now(tz=UTC)
    with pytest.raises(TaskDeferred) as deferred:
        archive.submit()
    after = datetime.now(tz=UTC)

    trigger = deferred.value.trigger
    assert isinstance(trigger, DateTimeTrigger)
    assert before <= trigger.moment - timedelta(seconds=HELD_SECONDS) <= after
    assert archive.paid() == {"b.wav": 1}, "what nobody holds is not held up"

    # The other one lets go of it.
    archive.ledger.release(STRANGER)
    counts = archive.resumed_submit(deferred.value)

    assert archive.paid() == {"a.wav": 1, "b.wav": 1}
    assert (counts["new"], counts["submitted"], counts["waiting"]) == (2, 2, 0), "of both looks"


def test_what_another_task_has_submitted_meanwhile_is_waiting(archive: Archive) -> None:
    archive.add("a.wav", "b.wav")
    archive.list()
    archive.submit(plan_only=True)
    archive.hold("a.wav")
    with pytest.raises(TaskDeferred) as deferred:
        archive.submit()
    key = archive.keys()["a.wav"]
    archive.ledger.submitting(key, STRANGER)
    archive.ledger.processing(
        archive._recording("a.wav", key), STRANGER, "txn_theirs", submitted_at=datetime.now(tz=UTC)
    )

    counts = archive.resumed_submit(deferred.value)

    assert archive.paid() == {"b.wav": 1}
    assert (counts["new"], counts["submitted"], counts["waiting"]) == (1, 1, 1)


def test_it_waits_again_as_long_as_another_task_holds_some(archive: Archive) -> None:
    archive.add("a.wav")
    archive.list()
    archive.submit(plan_only=True)
    archive.hold("a.wav")
    with pytest.raises(TaskDeferred) as deferred:
        archive.submit()

    with pytest.raises(TaskDeferred):
        archive.resumed_submit(deferred.value)
    archive.lapse()

    assert archive.resumed_submit(deferred.value)["submitted"] == 1


def test_what_another_task_was_sending_when_it_died_becomes_unknown(archive: Archive) -> None:
    archive.add("a.wav")
    archive.list()
    archive.submit(plan_only=True)
    archive.hold("a.wav")
    archive.ledger.submitting(archive.keys()["a.wav"], STRANGER)
    with pytest.raises(TaskDeferred) as deferred:
        archive.submit()
    archive.lapse()

    counts = archive.resumed_submit(deferred.value)

    assert counts["submitted"] == 0
    assert archive.posted() == []
    assert archive.states() == {"a.wav": "unknown"}


# Fault row 57
def test_a_retry_takes_the_claims_of_its_own_earlier_try_at_once(archive: Archive) -> None:
    archive.add("a.wav", "b.wav")
    archive.list()
    archive.submit(plan_only=True)
    archive.hold("a.wav", "b.wav", owner=Owner("dag", "run", SUBMIT, 0, 1))

    assert archive.submit(try_number=2)["submitted"] == 2


# Fault row 57
def test_a_retry_does_not_send_what_its_earlier_try_was_sending(archive: Archive) -> None:
    archive.add("a.wav", "b.wav")
    archive.list()
    archive.submit(plan_only=True)
    first_try = Owner("dag", "run", SUBMIT, 0, 1)
    archive.hold("a.wav", "b.wav", owner=first_try)
    archive.ledger.submitting(archive.keys()["a.wav"], first_try)

    with pytest.raises(TaskDeferred) as deferred:
        archive.submit(try_number=2)
    archive.lapse()
    archive.resumed_submit(deferred.value)

    assert archive.posted() == ["b.wav"]
    assert archive.states() == {"a.wav": "unknown", "b.wav": "processing"}


# What ended badly before


def forgotten(archive: Archive) -> None:
    """Have Plaud know nothing any more."""
    archive.plaud.inject({"match": {"kind": "get"}, "times": 1000, "action": "status", "status": 404})


def ended(archive: Archive, state: State, run_id: str = "run") -> None:
    """Bring ``a.wav`` to an end in a run."""
    archive.add("a.wav")
    archive.list(run_id)
    archive.submit(run_id)
    transcription_id = str(archive.entries()["a.wav"].transcription_id)
    if state is State.FAILED:
        archive.ledger.failed({transcription_id: "no speech"}, region="us")
    elif state is State.EXPIRED:
        archive.ledger.expired({transcription_id: "gone"}, region="us")
        forgotten(archive)
    else:
        archive.warehouse.run("update plaud_submissions set state = 'unknown', error = 'lost'")


@pytest.mark.parametrize("state", [State.FAILED, State.EXPIRED, State.UNKNOWN])
def test_what_ended_badly_is_paid_again_only_when_told(archive: Archive, state: State) -> None:
    ended(archive, state)
    archive.list("second")
    others = [other.value for other in (State.FAILED, State.EXPIRED, State.UNKNOWN) if other is not state]

    assert archive.submit("second")[f"{state.value}_before"] == 1
    assert archive.submit("second", resubmit=others)[f"{state.value}_before"] == 1
    assert archive.paid() == {"a.wav": 1}
    assert archive.submit("second", resubmit=[state.value])["submitted"] == 1
    assert archive.paid() == {"a.wav": 2}


@pytest.mark.parametrize("resubmit", [[], ["expired"]])
def test_what_plaud_knows_after_all_is_waited_for_and_not_paid_again(
    archive: Archive, resubmit: list[str]
) -> None:
    """A proxy without a route answered 404 for a while."""
    ended(archive, State.EXPIRED)
    archive.plaud.state.faults.clear()
    archive.list("second")

    counts = archive.submit("second", resubmit=resubmit)

    assert (counts["waiting"], counts["new"], counts["expired_before"]) == (1, 0, 0)
    assert archive.entries()["a.wav"].state is State.PROCESSING
    assert archive.paid() == {"a.wav": 1}


def test_a_plan_asks_plaud_for_nothing(archive: Archive) -> None:
    ended(archive, State.EXPIRED)
    archive.list("second")
    before = len(archive.plaud.ledger())

    assert archive.submit("second", plan_only=True)["expired_before"] == 1
    assert len(archive.plaud.ledger()) == before


def test_what_plaud_keeps_no_longer_is_only_asked_for_before_it_is_paid_again(archive: Archive) -> None:
    ended(archive, State.EXPIRED)
    archive.warehouse.run("update plaud_submissions set submitted_at = '2020-01-01 00:00:00+00:00'")
    archive.list("second")

    archive.submit("second")
    assert archive.plaud.ledger(kind="get") == []
    archive.submit("second", resubmit=["expired"])
    assert len(archive.plaud.ledger(kind="get")) == 1


@pytest.mark.parametrize("state", [State.FAILED, State.EXPIRED, State.UNKNOWN])
def test_what_ended_badly_in_this_very_run_is_not_paid_again(archive: Archive, state: State) -> None:
    ended(archive, state)

    counts = archive.submit(try_number=2, resubmit=["failed", "expired", "unknown"])

    assert counts[f"{state.value}_before"] == 1
    assert archive.paid() == {"a.wav": 1}


def test_a_template_that_gives_text_asks_for_the_same(archive: Archive) -> None:
    ended(archive, State.FAILED)
    archive.list("second")
    text = {
        "resubmit": "['failed', 'unknown']",
        "speaker_diarization": "False",
        "language": "None",
        "webhook_url": "",
        "url_validity": "3600",
        "public_urls": json.dumps({str(archive.folder): "https://other.example"}),
        "max_audio_hours": "None",
        "max_recording_hours": "24.0",
        "plan_only": "False",
        "region": "None",
    }

    assert archive.submit("second", **text)["submitted"] == 1
    assert archive.plaud.ledger(kind="submit")[-1]["body"] == {"audioUrl": "https://other.example/a.wav"}


# What cannot be a recording


def test_what_is_no_recording_is_a_row_with_its_reason_and_is_never_sent(archive: Archive) -> None:
    write_bad(archive.folder)
    archive.add("good.wav")
    archive.list()

    counts = archive.submit()

    assert (counts["new"], counts["refused"], counts["submitted"]) == (1, len(BAD_NAMES), 1)
    assert archive.posted() == ["good.wav"]
    rows = {name: entry for name, entry in archive.entries().items() if name != "good.wav"}
    assert set(rows) == set(BAD_NAMES)
    assert {entry.state for entry in rows.values()} == {State.FAILED}
    for name, reason in {
        "empty.mp3": "is empty",
        "text.wav": "WAV",
        "26 hours.wav": "26 hours.wav",
        "noise.mp3": "noise.mp3",
    }.items():
        assert reason in (rows[name].error or "")


def test_what_is_too_long_is_not_sent(archive: Archive) -> None:
    archive.add("long.wav", seconds=3700)
    archive.add("short.wav", seconds=3500)
    archive.list()
    archive.submit(max_recording_hours="1")

    assert archive.posted() == ["short.wav"]
    assert archive.states() == {"long.wav": "failed", "short.wav": "processing"}


def test_with_speakers_a_recording_may_be_six_hours_long_unless_somebody_says_otherwise(
    archive: Archive,
) -> None:
    archive.add("long.wav", seconds=6.5 * 3600)
    archive.list()
    archive.submit(speaker_diarization=True)

    assert archive.posted() == []
    assert "more than the 6 hours" in (archive.entries()["long.wav"].error or "")
    assert archive.submit(speaker_diarization=True, max_recording_hours=7, resubmit=["failed"])["new"] == 0
    archive.list("second")
    archive.submit("second", speaker_diarization=True, max_recording_hours=7, resubmit=["failed"])
    assert archive.posted() == ["long.wav"]


def test_what_is_refused_by_plaud_is_a_row_with_its_reason(archive: Archive) -> None:
    archive.add("a.wav", "b.wav", "c.wav")
    archive.list()
    refusal = {"match": {"kind": "submit", "body_contains": "b.wav"}, "action": "status", "status": 422}
    archive.plaud.inject(refusal)

    assert archive.submit()["submitted"] == 2
    assert archive.states() == {"a.wav": "processing", "b.wav": "failed", "c.wav": "processing"}
    assert "422" in (archive.entries()["b.wav"].error or "")


# What it may cost


def test_no_more_than_the_audio_hours_that_a_run_may_submit(archive: Archive) -> None:
    archive.add(*(f"{n}.wav" for n in range(5)), seconds=360)
    archive.list()

    counts = archive.submit(max_audio_hours="0.35")

    assert (counts["new"], counts["submitted"]) == (5, 3)
    assert len(archive.paid()) == 3
    assert len(archive.entries()) == 3, "nobody has claimed the others"
    assert archive.submit(try_number=2, max_audio_hours=0.35)["submitted"] == 0, "a retry has the same budget"
    archive.list("second")
    assert archive.submit("second", max_audio_hours=0.35)["submitted"] == 2, "another run has its own"


def test_a_plan_costs_nothing_and_leaves_nothing(archive: Archive) -> None:
    archive.add("a.wav", "b.wav", seconds=1800)
    archive.list()

    counts = archive.submit(plan_only="True")

    assert (counts["new"], counts["audio_hours"]) == (2, 1.0)
    assert "submitted" not in counts
    assert archive.entries() == {}
    assert archive.plaud.ledger() == []


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"language": "english"}, PlaudInputError, "language: 'english'"),
        ({"webhook_url": "http://me.example"}, PlaudInputError, "webhook_url"),
        ({"speaker_diarization": "perhaps"}, PlaudInputError, "speaker_diarization: 'perhaps'"),
        ({"plan_only": "perhaps"}, PlaudInputError, "plan_only: 'perhaps'"),
        ({"url_validity": 60}, PlaudInputError, "url_validity"),
        ({"public_urls": "/data"}, PlaudInputError, "public_urls"),
        ({"resubmit": ["landed"]}, PlaudInputError, "resubmit: 'landed' is none of expired, failed, unknown"),
        ({"max_audio_hours": "-1"}, PlaudInputError, "max_audio_hours: '-1' is not a number of at least 0"),
        ({"max_audio_hours": "much"}, PlaudInputError, "max_audio_hours: 'much'"),
        ({"max_recording_hours": True}, PlaudInputError, "max_recording_hours: True"),
        ({"region": "eu"}, PlaudConfigurationError, "'eu' was asked for.*'us'"),
        ({"plaud_conn_id": "no_such"}, Exception, "no_such"),
        ({"ledger_conn_id": "no_such"}, PlaudConfigurationError, "ledger_conn_id: .*'no_such'"),
        ({"ledger_conn_id": "plaud_default"}, PlaudConfigurationError, "ledger_conn_id"),
        ({"manifest": "/nowhere/chunk-00001.jsonl"}, PlaudInputError, "manifest: .*does not exist"),
    ],
)
def test_a_wrong_argument_is_told_before_anything_is_sent(
    archive: Archive, arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    archive.add("a.wav")
    archive.list()

    with pytest.raises(kind, match=f"(?s){message}"):
        archive.submit(**arguments)
    assert archive.entries() == {}
    assert archive.plaud.ledger() == []


def test_every_argument_is_templated() -> None:
    arguments = {name: f"{{{{ '{name}' }}}}" for name in SubmitRecordingsOperator.template_fields}
    with DAG("d", schedule=None):
        task = SubmitRecordingsOperator(task_id="submit", **arguments)  # type: ignore[arg-type]
    task.render_template_fields({})

    assert {name: getattr(task, name) for name in arguments} == {name: name for name in arguments}


# Fault row 96
def test_a_claim_that_lapses_while_its_chunk_is_planned_is_taken_up(archive: Archive) -> None:
    archive.add("a.wav", "b.wav")
    archive.list()
    archive.submit(plan_only=True)
    archive.hold("a.wav")
    task = archive.submit_task()
    look_at = ChunkSubmit._looked_at

    def slowly(chunk: ChunkSubmit, candidates: Any) -> Any:
        # The task that has claimed it is gone; nobody renews its lease.
        archive.lapse()
        return look_at(chunk, candidates)

    with pytest.MonkeyPatch.context() as slow:
        slow.setattr(ChunkSubmit, "_looked_at", slowly)
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(archive.context(SUBMIT))
    archive.resumed_submit(deferred.value)

    assert archive.paid() == {"a.wav": 1, "b.wav": 1}


def test_a_run_whose_audio_hours_are_spent_reads_no_files(
    archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    archive.add("a.wav", "b.wav", "c.wav", seconds=3600)
    archive.list()
    archive.submit(max_audio_hours=2)
    assert len(archive.paid()) == 2
    reads: list[str] = []

    with pytest.MonkeyPatch.context() as watched:
        watched.setattr(LocalFile, "open", lambda source: reads.append(source.audio.uri))
        counts = archive.submit(try_number=2, max_audio_hours=2)

    assert (counts["new"], counts["submitted"], reads) == (0, 0, [])
    assert caplog.text.count("1 recordings are not submitted: max_audio_hours") == 2, "once each time"
