from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from plaud_provider.api.models import Status
from plaud_provider.warehouse.rows import segment_columns
from plaud_provider.warehouse.tables import plaud_tables
from tests.unit.warehouse.warehouses import NOW, landing


def test_transcript_row_has_what_the_answer_and_the_landing_say() -> None:
    row = landing(
        "txn_9", segments=3, region="eu", audio_uri="s3://b/k.wav", dag_id="d", run_id="r"
    ).transcript_row()

    assert row == {
        "transcription_id": "txn_9",
        "audio_uri": "s3://b/k.wav",
        "region": "eu",
        "language": "en",
        "duration_seconds": 12.5,
        "text": "Hello. Goodbye.",
        "segment_count": 3,
        "speaker_count": 2,
        "status": "completed",
        "error": None,
        "submitted_at": None,
        "completed_at": NOW,
        "landed_at": NOW,
        "dag_id": "d",
        "run_id": "r",
        "raw": '{"status":"completed"}',
        "api": None,
        "model": None,
        "recording_started_at": None,
        "recording_date": None,
        "metadata": None,
    }


def test_the_model_that_the_answer_names_outranks_the_one_asked_for() -> None:
    asked = landing(api="embedded", model="plaud-fast-whisper")
    told = asked._replace(transcription=replace(asked.transcription, model="plaud-omni-3"))

    assert told.transcript_row()["api"] == "embedded"
    assert told.transcript_row()["model"] == "plaud-omni-3"
    assert asked.transcript_row()["model"] == "plaud-fast-whisper"


def test_segments_are_keyed_by_the_apis_own_order() -> None:
    columns = segment_columns([landing("txn_8", segments=1), landing("txn_9", segments=2)])

    assert list(zip(*columns.values(), strict=True))[2] == (
        *("txn_9", 1),
        *(1.5, 2.75),
        *("speaker_1", "Sentence 1.", None),
    )
    assert list(columns) == list(plaud_tables().segments.columns.keys())


def test_failed_transcription_is_a_row_with_its_error_and_no_segments() -> None:
    failed = landing(status=Status.FAILED, error="AUDIO_TOO_SHORT", segments=2)

    row = failed.transcript_row()

    assert (row["status"], row["error"], row["text"]) == ("failed", "AUDIO_TOO_SHORT", None)
    assert (row["segment_count"], row["speaker_count"], segment_columns([failed])["text"]) == (0, 0, [])


def test_submit_time_given_outranks_the_apis() -> None:
    created = datetime(2026, 1, 1, tzinfo=UTC)

    assert landing(created_at=created).transcript_row()["submitted_at"] == created
    assert landing(created_at=created, submitted_at=NOW).transcript_row()["submitted_at"] == NOW


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 10, 25, 0, 30),
        datetime(2026, 10, 25, 2, 30, tzinfo=timezone(timedelta(hours=2))),
        datetime(2026, 10, 24, 15, 0, tzinfo=timezone(-timedelta(hours=9, minutes=30))),
    ],
)
def test_fault_77_times_become_utc_and_naive_ones_are_taken_as_utc(moment: datetime) -> None:
    row = landing(completed_at=moment, landed_at=moment, submitted_at=moment).transcript_row()

    assert (
        row["completed_at"]
        == row["landed_at"]
        == row["submitted_at"]
        == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    )
    assert row["completed_at"].tzinfo is UTC


def test_representation_shows_no_transcript_text() -> None:
    assert "Hello" not in repr(landing())
    assert "Sentence" not in repr(landing())
