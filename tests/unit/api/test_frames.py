"""Transcriptions as pandas frames, for notebooks and ``@task`` functions."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pandas as pd
import pytest

from plaud_provider.api.answers import parse_transcription

COMPLETED = parse_transcription(
    json.dumps(
        {
            "transcriptionId": "txn_1",
            "status": "completed",
            "text": "Hello 👋",
            "language": "en",
            "duration": 3,
            "segments": [
                {"start": 0, "end": 1.5, "text": "Hello", "speaker": "Speaker 1"},
                {"text": "👋"},
            ],
            "completedAt": "2026-03-24T10:02:14Z",
        }
    ).encode()
)
EMPTY = parse_transcription(b'{"transcriptionId": "txn_2", "status": "processing"}')

TRANSCRIPT_COLUMNS = [
    "transcription_id", "status", "language", "duration_seconds", "text", "segment_count", "speaker_count",
    "error", "created_at", "completed_at",
]  # fmt: skip
SEGMENT_COLUMNS = [
    *("transcription_id", "segment_index", "start_seconds", "end_seconds", "speaker", "text", "language")
]


def test_a_transcription_is_one_row() -> None:
    frame = COMPLETED.to_frame()

    assert list(frame.columns) == TRANSCRIPT_COLUMNS
    [row] = frame.to_dict("records")
    assert row["transcription_id"] == "txn_1"
    assert row["status"] == "completed"
    assert row["text"] == "Hello 👋"
    assert row["duration_seconds"] == 3.0
    assert (row["segment_count"], row["speaker_count"]) == (2, 1)
    assert row["completed_at"] == datetime(2026, 3, 24, 10, 2, 14, tzinfo=UTC)
    assert row["created_at"] is pd.NaT


def test_segments_are_one_row_each() -> None:
    frame = COMPLETED.segments_to_frame()

    assert list(frame.columns) == SEGMENT_COLUMNS
    assert list(frame["transcription_id"]) == ["txn_1", "txn_1"]
    assert list(frame["segment_index"]) == [0, 1]
    assert frame["start_seconds"].isna().tolist() == [False, True]
    assert list(frame["text"]) == ["Hello", "👋"]
    assert frame["speaker"][1] is None


@pytest.mark.parametrize("transcription", [COMPLETED, EMPTY], ids=["full", "empty"])
def test_the_types_are_the_same_with_and_without_values(transcription: object) -> None:
    transcript = transcription.to_frame().dtypes.astype(str)  # type: ignore[attr-defined]
    segments = transcription.segments_to_frame().dtypes.astype(str)  # type: ignore[attr-defined]

    assert transcript["duration_seconds"] == "float64"
    assert transcript["completed_at"] == transcript["created_at"] == "datetime64[us, UTC]"
    assert segments[["segment_index", "start_seconds", "end_seconds"]].tolist() == [
        "int64",
        "float64",
        "float64",
    ]
    assert segments[["speaker", "text"]].tolist() == ["object", "object"]


def test_no_segments_are_an_empty_frame_with_all_columns() -> None:
    frame = EMPTY.segments_to_frame()

    assert len(frame) == 0
    assert list(frame.columns) == SEGMENT_COLUMNS


def test_frames_of_several_transcriptions_go_together() -> None:
    together = pd.concat([COMPLETED.to_frame(), EMPTY.to_frame()], ignore_index=True)

    assert list(together["transcription_id"]) == ["txn_1", "txn_2"]
    assert str(together["duration_seconds"].dtype) == "float64"
