"""What every warehouse keeps, whatever its kind: the same tests for all of them."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from plaud_provider.api.models import Status
from plaud_provider.exceptions import (
    PlaudError,
    PlaudInputError,
    PlaudTableMismatchError,
    PlaudWarehouseError,
)
from plaud_provider.recordings.description import describe
from plaud_provider.warehouse.rows import Landing
from plaud_provider.warehouse.transcripts import TranscriptReader
from tests.unit.warehouse.warehouses import NOW, landing, segment
from tests.warehouses.lakes import CONN_ID, SEGMENTS, TRANSCRIPTS, Lake, LostConnectionError
from tests.warehouses.languages import SENTENCES

TEXTS = [
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f1ef\U0001f1f5",
    "\u65e5\u672c\u8a9e\u306e\u66f8\u304d\u8d77\u3053\u3057",
    "\u0634\u0643\u0631\u0627 \u202eabc\u202c \u05e9\u05dc\u05d5\u05dd",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0928\u092e\u0938\u094d\u0924\u0947",
    "e\u0301 \u00e9 \u1100\u1161\u11a8 \uac01 \ufb01 \u00df \u0130",
    "a\0b\0",
    "",
    " \t\r\n\u2028\x1f\x7f\ufeff",
    "'; drop table plaud_segments; -- \" ` \\ \\N %s ? :x $1 {x}",
    "null",
    "\U0010ffff\ufffe",
]


def texts(lake: Lake, transcription_id: str) -> list[str]:
    return [row["text"] for row in lake.segments() if row["transcription_id"] == transcription_id]


def moment(value: Any) -> datetime:
    """Return a time that was read: as text from SQLite, in UTC without its zone from MySQL."""
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def test_first_landing_is_there_in_every_column(lake: Lake) -> None:
    assert lake.writer().replace([landing("txn_1", segments=2), landing("txn_2", segments=0, text=None)]) == (
        2,
        2,
        0,
    )

    first, second = lake.transcripts()
    times = ("submitted_at", "completed_at", "landed_at")
    assert {name: value for name, value in first.items() if name not in (*times, "raw")} == {
        "transcription_id": "txn_1",
        "audio_uri": "s3://calls/txn_1.wav",
        "region": "us",
        "language": "en",
        "duration_seconds": 12.5,
        "text": "Hello. Goodbye.",
        "segment_count": 2,
        "speaker_count": 2,
        "status": "completed",
        "error": None,
        "dag_id": "a_dag",
        "run_id": "a_run",
        "recording_started_at": None,
        "recording_date": None,
        "metadata": None,
        "api": None,
        "model": None,
    }
    assert (first["submitted_at"], moment(first["completed_at"]), moment(first["landed_at"])) == (
        None,
        NOW,
        NOW,
    )
    assert json.loads(first["raw"]) == {"status": "completed"}
    assert (second["transcription_id"], second["text"], second["segment_count"]) == ("txn_2", None, 0)
    assert [tuple(row[name] for name in SEGMENTS) for row in lake.segments()] == [
        ("txn_1", 0, 0.0, 1.25, "speaker_0", "Sentence 0.", None),
        ("txn_1", 1, 1.5, 2.75, "speaker_1", "Sentence 1.", None),
    ]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_known_of_a_recording_is_in_columns_that_can_be_joined(lake: Lake, text: str) -> None:
    zone = timezone(timedelta(hours=9))
    known = {"started_at": datetime(1969, 12, 31, 9, 30, tzinfo=zone), "agent": text, "score": 7.5}
    described = [
        landing(key, description=describe(fields, ("agent", "team"), UTC))
        for key, fields in {"txn_1": known, "txn_2": {}}.items()
    ]
    lake.writer().replace([landing("txn_1"), landing("txn_2")])

    # A table that is there gets the columns; twice is once.
    for _ in range(2):
        writer = lake.writer(metadata_columns=["agent", "team"])
        writer.replace(described)

    first, second = lake.transcripts()
    kept = text.replace("\0", lake.nul)
    assert moment(first["recording_started_at"]) == datetime(1969, 12, 31, 0, 30, tzinfo=UTC)
    assert str(first["recording_date"]) == "1969-12-31"
    assert json.loads(first["metadata"]) == {
        "started_at": "1969-12-31T09:30:00+09:00",
        "agent": kept,
        "score": 7.5,
    }
    names = ("recording_started_at", "recording_date", "metadata")
    assert {second[name] for name in names} == {None}
    assert lake.read("plaud_transcripts", ["agent", "team"], "transcription_id") == [
        {"agent": kept, "team": None},
        {"agent": None, "team": None},
    ]
    # Who does not name a field does not touch its column.
    lake.writer().replace([landing("txn_1")])
    assert lake.transcripts()[0]["metadata"] is None


def test_trying_out_writes_reads_and_leaves_nothing_behind(lake: Lake) -> None:
    lake.writer().replace([landing("txn_1")])
    before = lake.content()

    lake.writer().try_out()

    assert lake.content() == before


def test_trying_out_tells_a_role_that_may_not_write(lake: Lake) -> None:
    lake.writer().replace([landing("txn_1")])
    before = lake.content()
    lake.lose_rights()

    with pytest.raises(PlaudWarehouseError, match=r"denied|read-only|rights"):
        lake.writer().try_out()

    assert lake.content() == before


def test_speakers_are_summed_up_alike_in_every_warehouse(viewing: Lake) -> None:
    said = [
        ("A", 0.0, 6.0, "one  two\n\tthree "),
        ("B", 6.0, 8.0, "\u00e9t\u00e9 \u65e5\u672c\u8a9e"),
        ("A", 8.0, None, "" + " " * 30),
        ("A", 8.0, 7.0, "x" + " " * 30 + "y"),
        (None, None, None, "\r\nfour\r\n"),
    ]
    rows = [
        segment(index, speaker=speaker, start_seconds=start, end_seconds=end, text=text)
        for index, (speaker, start, end, text) in enumerate(said)
    ]
    viewing.writer().replace([landing("txn_1", segments=tuple(rows)), landing("txn_2", segments=1)])
    viewing.writer()

    columns = ["transcription_id", "speaker", "seconds", "segments", "words", "share"]
    found = {
        (row["transcription_id"], row["speaker"]): [float(row[name]) for name in columns[2:]]
        for row in viewing.read("plaud_speakers", columns, "transcription_id")
    }
    assert found == {
        ("txn_1", "A"): [6.0, 3, 5, 0.75],
        ("txn_1", "B"): [2.0, 1, 2, 0.25],
        ("txn_1", None): [0.0, 1, 1, 0.0],
        ("txn_2", "speaker_0"): [1.25, 1, 2, 1.0],
    }


def test_view_of_other_people_stays_and_keeps_nothing_from_landing(viewing: Lake) -> None:
    viewing.create_view("plaud_speakers", "select 1 as theirs")

    viewing.writer().replace([landing("txn_1")])

    assert viewing.read("plaud_speakers", ["theirs"], "theirs") == [{"theirs": 1}]


def test_landing_again_changes_only_when_and_by_whom(lake: Lake) -> None:
    writer = lake.writer()
    writer.replace([landing("txn_1"), landing("txn_2")])
    before, segments_before = lake.content()

    lake.writer().replace([landing("txn_1", landed_at=NOW + timedelta(days=1), run_id="next_run")])

    after, segments_after = lake.content()
    assert segments_after == segments_before
    assert {name for name in TRANSCRIPTS if before[0][name] != after[0][name]} == {"landed_at", "run_id"}
    assert before[1] == after[1]


def test_landing_again_with_the_same_or_an_earlier_time_replaces_all_the_same(lake: Lake) -> None:
    writer = lake.writer()
    for text, at in (("first", NOW), ("second", NOW), ("third", NOW - timedelta(hours=1))):
        writer.replace([landing("txn_1", text=text, segments=(segment(0, text=text),), landed_at=at)])

        assert [row["text"] for row in lake.transcripts()] == [text]
        assert texts(lake, "txn_1") == [text]


def test_fewer_segments_and_none_replace_more_and_others_stay(lake: Lake) -> None:
    writer = lake.writer()
    writer.replace(
        [landing("txn_1", segments=5), landing("txn_10", segments=1), landing("txn_2", segments=3)]
    )

    writer.replace([landing("txn_1", segments=2), landing("txn_2", segments=0)])

    assert [(row["transcription_id"], row["segment_index"]) for row in lake.segments()] == [
        ("txn_1", 0),
        ("txn_1", 1),
        ("txn_10", 0),
    ]
    assert [row["segment_count"] for row in lake.transcripts()] == [2, 1, 0]


def test_failed_transcription_replaces_what_was_there_by_its_error(lake: Lake) -> None:
    writer = lake.writer()
    writer.replace([landing("txn_1", segments=3)])

    writer.replace([landing("txn_1", segments=3, status=Status.FAILED, error="NO_SPEECH: silence")])

    (row,) = lake.transcripts()
    assert (row["status"], row["error"], row["text"], row["segment_count"]) == (
        "failed",
        "NO_SPEECH: silence",
        None,
        0,
    )
    assert lake.segments() == []


def test_transcripts_are_read_back_as_they_were_answered(lake: Lake) -> None:
    writer = lake.writer()
    raw = {"transcriptionId": "txn_1", "status": "completed", "segments": [], "text": "".join(TEXTS[:5])}
    for _ in range(2):
        writer.replace(
            [
                landing("txn_1", text=raw["text"], raw=json.dumps(raw)),
                landing("txn_2", segments=2),
                landing("txn_3", status=Status.FAILED, error="NO_SPEECH"),
            ]
        )

    loader = lake.loader()
    [(told, landed_at)] = loader.read(("raw", "landed_at"), {"transcription_id": ["txn_1", "txn_9"]})
    assert (json.loads(told) if isinstance(told, str) else told) == raw
    assert moment(landed_at) - NOW < timedelta(seconds=1)
    columns = ("segment_count", "error", "transcription_id")
    assert [tuple(row) for row in loader.read(columns, {"region": ["us", "eu"]})] == [
        (2, None, "txn_1"),
        (2, None, "txn_2"),
        (0, "NO_SPEECH", "txn_3"),
    ]
    completed = {"status": ["completed"], "region": ["us"]}
    assert [tuple(row) for row in loader.read(("transcription_id",), completed, 1)] == [("txn_1",)]


def test_pages_and_exports_read_what_was_landed(viewing: Lake) -> None:
    viewing.writer().replace(
        [landing("txn_1"), landing("txn_2", text=TEXTS[1]), landing("txn_3", run_id="other")]
    )

    reader = TranscriptReader(CONN_ID)
    assert reader.landed_by("a_dag", "a_run") == ["txn_1", "txn_2"]
    [(known, read)] = reader.transcriptions(["txn_2", "txn_9"])
    assert known == reader.known(["txn_2"])["txn_2"]
    assert (known.transcription_id, known.run_id, known.segment_count) == ("txn_2", "a_run", 2)
    assert moment(known.landed_at) == NOW
    assert read.transcription_id == "txn_2"


def test_what_is_purged_is_there_no_more_and_the_rest_stays(lake: Lake) -> None:
    writer = lake.writer()
    for _ in range(2):
        writer.replace(
            [landing("txn_1", segments=2), landing("txn_2", segments=1), landing("txn_3", segments=0)]
        )

    loader = lake.loader()
    found = loader.stored(lambda one: one.transcription_id != "txn_2")
    assert sorted((one.transcription_id, one.segment_count) for one in found) == [("txn_1", 2), ("txn_3", 0)]
    # Some kinds of warehouse tell two landings apart by a microsecond.
    assert all(moment(one.landed_at) - NOW < timedelta(seconds=1) for one in found)
    assert loader.remove(["txn_1", "txn_3", "txn_unknown"]) == (2, 2)

    assert [row["transcription_id"] for row in (*lake.transcripts(), *lake.segments())] == ["txn_2"] * 2
    assert loader.remove(["txn_1"]) == (0, 0)
    writer.replace([landing("txn_1", segments=1)])
    assert writer.landed(["txn_1", "txn_2", "txn_3"]) == {"txn_1", "txn_2"}


def test_texts_of_every_script_survive_byte_for_byte(lake: Lake) -> None:
    whole = "\n".join(TEXTS)
    stretches = tuple(segment(index, text=text, speaker=text) for index, text in enumerate(TEXTS))

    lake.writer().replace([landing(text=whole, raw=json.dumps({"text": whole}), segments=stretches)])

    kept = [text.replace("\0", lake.nul) for text in TEXTS]
    assert [row["text"] for row in lake.segments()] == kept
    assert [row["speaker"] for row in lake.segments()] == kept
    (row,) = lake.transcripts()
    assert row["text"] == whole.replace("\0", lake.nul)
    assert json.loads(row["raw"]) == {"text": whole.replace("\0", lake.nul)}


def test_36_languages_are_kept_byte_for_byte_in_every_column_that_has_text(lake: Lake) -> None:
    assert len(SENTENCES) == 36
    lake.writer().replace(
        [
            landing(
                f"txn_{code}",
                text=sentence * 20,
                audio_uri=f"s3://calls/{sentence}.wav",
                raw=json.dumps({sentence: sentence}, ensure_ascii=False),
                segments=(segment(0, text=sentence, speaker=sentence),),
            )
            for code, sentence in SENTENCES.items()
        ]
    )

    # Some databases sort ids by other rules than Python.
    transcripts = {row["transcription_id"]: row for row in lake.transcripts()}
    segments = {row["transcription_id"]: row for row in lake.segments()}
    for code, sentence in SENTENCES.items():
        row, said = transcripts[f"txn_{code}"], segments[f"txn_{code}"]
        # Not merely alike: composed and decomposed letters stay as they are.
        assert [row["text"].encode(), said["text"].encode(), said["speaker"].encode()] == [
            (sentence * 20).encode(),
            sentence.encode(),
            sentence.encode(),
        ]
        assert row["audio_uri"] == f"s3://calls/{sentence}.wav"
        assert json.loads(row["raw"]) == {sentence: sentence}


def test_text_of_4_megabytes_survives(lake: Lake) -> None:
    text = "\u8a9e\U0001f600 word " * 400_000
    raw = json.dumps({"text": text}, ensure_ascii=False)

    lake.writer().replace([landing(text=text, raw=raw, segments=(segment(0, text=text),))])

    (row,) = lake.transcripts()
    assert len(text.encode()) > 4_000_000
    assert row["text"] == text
    assert json.loads(row["raw"])["text"] == text
    assert texts(lake, "txn_1") == [text]


@pytest.mark.parametrize("seconds", [0.1, 1e300, 1 / 3, 2**53 + 1.0])
def test_seconds_are_doubles(lake: Lake, seconds: float) -> None:
    lake.writer().replace([landing(duration_seconds=seconds, segments=(segment(0, start_seconds=seconds),))])

    assert lake.transcripts()[0]["duration_seconds"] == seconds
    assert lake.segments()[0]["start_seconds"] == seconds


def test_names_with_quotes_are_taken_literally(lake: Lake) -> None:
    names = ("we\"ird `it's` name", "O'Brien; drop table plaud_segments; --")
    if not lake.takes_quotes:
        with pytest.raises(PlaudInputError, match=r"transcripts_table: .*cannot be a name"):
            lake.writer(transcripts_table=names[0], segments_table=names[1])
        return
    for _ in range(2):
        writer = lake.writer(transcripts_table=names[0], segments_table=names[1])
        writer.replace([landing("txn_1")])

    assert [row["transcription_id"] for row in lake.transcripts(names[0])] == ["txn_1"]
    assert len(lake.segments(names[1])) == 2


def test_schema_is_used_and_has_to_exist(lake: Lake) -> None:
    if not lake.has_schemas:
        with pytest.raises(PlaudError, match="no schema 'team_calls'"):
            lake.writer(schema="team_calls")
        return
    with pytest.raises(PlaudError, match="no schema 'team_calls'"):
        lake.writer(schema="team_calls")
    lake.create_schema("team_calls")

    for _ in range(2):
        lake.writer(schema="team_calls").replace([landing("txn_1")])

    assert len(lake.transcripts(schema="team_calls")) == 1
    assert len(lake.segments(schema="team_calls")) == 2


def test_tables_made_by_a_user_with_more_columns_in_another_order_are_used(lake: Lake) -> None:
    lake.create_by_hand()

    for count in (3, 2):
        lake.writer().replace([landing("txn_1", segments=count), landing("txn_2", segments=1)])

    assert [row["segment_count"] for row in lake.transcripts()] == [2, 1]
    assert texts(lake, "txn_1") == ["Sentence 0.", "Sentence 1."]
    assert lake.transcripts()[0]["audio_uri"] == "s3://calls/txn_1.wav"


def test_table_that_would_change_or_lose_rows_is_refused_before_anything_is_paid(
    unfit: tuple[Lake, str],
) -> None:
    lake, complaint = unfit

    with pytest.raises(PlaudTableMismatchError, match=complaint) as refused:
        lake.writer()

    assert "Nothing was written." in str(refused.value)
    assert "plaud_" in str(refused.value)


def test_table_that_takes_ids_of_one_case_is_used_and_says_so(
    of_one_case: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    for text in ("old", "new"):
        of_one_case.writer().replace([landing("txn_1", text=text), landing("txn_2")])

    assert "ids differ in upper and lower case only would replace each other" in caplog.text
    assert [row["transcription_id"] for row in of_one_case.transcripts()] == ["txn_1", "txn_2"]
    assert of_one_case.transcripts()[0]["text"] == "new"


def test_table_that_its_owner_has_changed_takes_every_row_as_it_is(fitting: Lake) -> None:
    ids = ("txn_1", "TXN_1", "it's", "back\\slash", "100%_:x", "\u65e5\u672c")
    landings = [
        landing(
            known,
            text="\n".join(TEXTS[:5]),
            duration_seconds=1 / 3,
            segments=tuple(segment(index, text=text, speaker=text) for index, text in enumerate(TEXTS)),
            description=describe({"started_at": datetime(1965, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)}, (), UTC),
        )
        for known in ids
    ]

    for _ in range(2):
        fitting.writer().replace(landings)
        fitting.writer().replace(landings[:1])

        transcripts, segments = fitting.content()
        assert {row["transcription_id"] for row in transcripts} == set(ids)
        assert {row["text"] for row in transcripts} == {"\n".join(TEXTS[:5])}
        assert {row["duration_seconds"] for row in transcripts} == {1 / 3}
        assert {str(row["recording_date"]) for row in transcripts} == {"1965-01-02"}
        for known in ids:
            own = [row for row in segments if row["transcription_id"] == known]
            kept = [text.replace("\0", fitting.nul) for text in TEXTS]
            assert [row["text"] for row in own] == [row["speaker"] for row in own] == kept


def test_column_that_an_earlier_version_did_not_have_is_added(lake: Lake) -> None:
    lake.writer().replace([landing("txn_1")])
    lake.drop_column("plaud_transcripts", "run_id")

    lake.writer().replace([landing("txn_2")])

    assert [(row["transcription_id"], row["run_id"]) for row in lake.transcripts()] == [
        ("txn_1", None),
        ("txn_2", "a_run"),
    ]


def test_missing_column_that_cannot_be_added_is_named_and_nothing_is_written(lake: Lake) -> None:
    lake.writer().replace([landing("txn_1")])
    lake.drop_column("plaud_segments", "text")

    with pytest.raises(PlaudTableMismatchError, match=r"'plaud_segments'.*'text' is missing"):
        lake.writer()


def test_role_that_may_not_write_is_told_so_and_the_rows_stay(lake: Lake) -> None:
    lake.writer().replace([landing("txn_1")])
    before = lake.content()
    lake.lose_rights()

    with pytest.raises(PlaudWarehouseError, match=r"denied|read-only|rights") as told:
        lake.writer().replace([landing("txn_1", text="SENTINEL", segments=7)])

    assert lake.content() == before
    assert "SENTINEL" not in str(told.value)


@pytest.mark.timeout(400)  # Each of many steps lands five times.
def test_connection_lost_at_any_step_leaves_the_old_rows_or_the_new_and_a_retry_lands(lake: Lake) -> None:
    old = [landing(known, text="old", segments=stretches("old", 3)) for known in ("txn_1", "txn_2")]
    new = [
        landing(known, text="new", segments=stretches("new", count), landed_at=NOW + timedelta(hours=1))
        for known, count in (("txn_1", 5), ("txn_2", 0))
    ]
    writer, other = lake.writer(), lake.writer()
    writer.replace([landing("txn_0")])
    step = 0
    while True:
        other.replace(old)
        with (
            lake.interrupted(writer, step) as interruption,
            suppress(PlaudWarehouseError, LostConnectionError),
        ):
            writer.replace(new)
        assert_whole(lake, {"old": {"txn_1": 3, "txn_2": 3}, "new": {"txn_1": 5, "txn_2": 0}})
        other.replace(new)
        assert {row["text"] for row in lake.segments() if row["transcription_id"] == "txn_1"} == {"new"}
        assert texts(lake, "txn_2") == []
        if not interruption.has_happened:
            break
        step += 1
    assert step >= 3


def stretches(text: str, count: int) -> tuple[Any, ...]:
    return tuple(segment(index, text=text) for index in range(count))


def assert_whole(lake: Lake, landings: dict[str, dict[str, int]]) -> None:
    """Assert that each transcription has all rows of one landing and none of another."""
    transcripts, segments = lake.content()
    found = [row for row in transcripts if row["transcription_id"] in ("txn_1", "txn_2")]
    assert [row["transcription_id"] for row in found] == ["txn_1", "txn_2"]
    for row in found:
        own = [one["text"] for one in segments if one["transcription_id"] == row["transcription_id"]]
        assert own == [row["text"]] * landings[row["text"]][row["transcription_id"]]


def test_two_writers_of_the_same_ids_leave_one_whole_landing_of_each(lake: Lake) -> None:
    counts = {"one": {"txn_1": 40, "txn_2": 40}, "other": {"txn_1": 7, "txn_2": 7}}
    lake.writer()
    barrier = threading.Barrier(2)
    problems: list[BaseException] = []

    def land(name: str) -> None:
        try:
            writer = lake.writer()
            barrier.wait(60)
            for _ in range(5):
                writer.replace(
                    [
                        landing(
                            known, text=name, segments=stretches(name, many), landed_at=datetime.now(tz=UTC)
                        )
                        for known, many in counts[name].items()
                    ]
                )
        except BaseException as error:
            problems.append(error)

    writers = [threading.Thread(target=land, args=(name,)) for name in counts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(100)

    assert problems == []
    assert_whole(lake, counts)


@pytest.mark.large
def test_200_000_segments_land_and_land_again(lake: Lake) -> None:
    def many(segments: int, some: range = range(2_000)) -> list[Landing]:
        return [landing(f"txn_{number:04}", segments=segments) for number in some]

    writer = lake.writer()
    for _ in range(2):
        for start in range(0, 2_000, 1_000):
            writer.replace(many(100, range(start, start + 1_000)))
    assert len(lake.segments()) == 200_000

    writer.replace(many(20, range(100)))

    assert len(lake.segments()) == 192_000
    assert len(lake.transcripts()) == 2_000
