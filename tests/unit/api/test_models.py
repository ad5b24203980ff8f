from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.api.answers import parse_json, parse_submission, parse_transcription
from plaud_provider.api.models import Status, Transcription
from plaud_provider.exceptions import PlaudResponseError

FULL = {
    "transcriptionId": "txn_1",
    "status": "completed",
    "text": "Good morning.",
    "language": "en",
    "duration": 1843,
    "segments": [
        {"start": 0.0, "end": 4.2, "text": "Good", "speaker": "Speaker 1"},
        {"start": 4, "end": "5.5", "text": "morning.", "speaker": "Speaker 2"},
    ],
    "completedAt": "2026-03-24T10:02:14Z",
}

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
near_transcriptions = st.fixed_dictionaries(
    {},
    optional={
        "transcriptionId": st.just("txn_1") | any_json,
        "status": st.sampled_from(["processing", "completed", "failed", "SUCCESS"]) | any_json,
        "text": any_json,
        "language": any_json,
        "duration": any_json,
        "segments": any_json
        | st.lists(
            st.dictionaries(st.sampled_from(["start", "end", "text", "speaker"]), any_json, max_size=4),
            max_size=4,
        ),
        "error": any_json,
        "createdAt": st.datetimes().map(str) | any_json,
        "completedAt": st.datetimes(timezones=st.timezones()).map(str) | any_json,
    },
)


def parse(**changes: object) -> Transcription:
    payload = {key: value for key, value in {**FULL, **changes}.items() if value is not ...}
    return parse_transcription(json.dumps(payload).encode())


def test_the_contract_s_example_is_read_whole() -> None:
    transcription = parse()

    assert transcription.transcription_id == "txn_1"
    assert transcription.status is Status.COMPLETED
    assert transcription.is_final
    assert transcription.text == "Good morning."
    assert transcription.language == "en"
    assert transcription.duration_seconds == 1843.0
    assert transcription.completed_at == datetime(2026, 3, 24, 10, 2, 14, tzinfo=UTC)
    assert [(s.index, s.start_seconds, s.end_seconds, s.speaker, s.text) for s in transcription.segments] == [
        (0, 0.0, 4.2, "Speaker 1", "Good"),
        (1, 4.0, 5.5, "Speaker 2", "morning."),
    ]
    assert transcription.speaker_count == 2


@given(near_transcriptions | any_json)
def test_whatever_json_comes_it_is_read_or_refused_as_a_broken_answer(payload: object) -> None:
    body = json.dumps(payload).encode("utf-8", "surrogatepass")
    try:
        transcription = parse_transcription(body, requested_id="txn_1")
    except PlaudResponseError:
        return
    assert json.loads(transcription.raw, parse_constant=pytest.fail) is not None
    for seconds in (
        transcription.duration_seconds,
        *(s.start_seconds for s in transcription.segments),
        *(s.end_seconds for s in transcription.segments),
    ):
        assert seconds is None or (math.isfinite(seconds) and seconds >= 0)
    stored = (transcription.text, transcription.error, transcription.raw, transcription.language)
    assert all(text is None or text.encode() is not None for text in stored)


@given(st.binary())
def test_whatever_bytes_come_they_are_read_or_refused_as_a_broken_answer(body: bytes) -> None:
    with suppress(PlaudResponseError):
        parse_transcription(body)


@pytest.mark.parametrize("depth", [100, 500, 900, 990, 5_000, 100_000])
@pytest.mark.parametrize("field", ["error", "segments", "text", "elsewhere"])
def test_deep_nesting_is_read_or_refused_as_a_broken_answer(field: str, depth: int) -> None:
    nested = "[" * depth + "]" * depth
    with suppress(PlaudResponseError):
        parse_transcription(
            f'{{"transcriptionId": "txn_1", "status": "failed", "{field}": {nested}}}'.encode()
        )


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_text_comes_through_unchanged(text: str) -> None:
    segments = [{"start": 0, "end": 1, "text": text, "speaker": text}]
    transcription = parse(text=text, segments=segments)

    assert transcription.text == text
    assert (transcription.segments[0].text, transcription.segments[0].speaker) == (text, text)
    assert json.loads(transcription.raw)["text"] == text


@pytest.mark.parametrize(
    "text",
    ["👩‍👩‍👧‍👦 naïve", "שלום עולם\u200f", "e\u0301 ≠ é", "\x00 NUL", "日本語。", "\u2028 \ufeff \U0010ffff"],
)
def test_text_sent_as_it_is_and_sent_as_escapes_reads_the_same(text: str) -> None:
    payload = {"transcriptionId": "txn_1", "status": "completed", "text": text}
    literal = parse_transcription(json.dumps(payload, ensure_ascii=False).encode())

    assert literal.text == text == parse_transcription(json.dumps(payload).encode()).text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_understood(encoding: str) -> None:
    assert parse_transcription(json.dumps(FULL).encode(encoding)).text == "Good morning."


def test_a_lone_surrogate_which_no_database_takes_is_replaced() -> None:
    transcription = parse(text="a\ud83d b", language="\udfff", segments=[{"text": "\ude00"}])

    assert transcription.text == "a\ufffd b"
    assert transcription.language == "\ufffd"
    assert transcription.segments[0].text == "\ufffd"
    transcription.raw.encode()


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        (1843, 1843.0),
        (0, 0.0),
        (0.25, 0.25),
        ("1843.5", 1843.5),
        (" 12 ", 12.0),
        (1e308, 1e308),
        (-1, None),
        ("-0.5", None),
        ("an hour", None),
        ("", None),
        ("nan", None),
        ("1e999", None),
        (None, None),
        (True, None),
        ([1], None),
        ({}, None),
        (10**400, None),
        (math.nan, None),
        (math.inf, None),
    ],
)
def test_a_duration_is_a_finite_number_of_seconds_or_unknown(duration: object, seconds: float | None) -> None:
    assert parse(duration=duration).duration_seconds == seconds


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_number_that_no_warehouse_takes_is_null_in_raw(number: str) -> None:
    body = f'{{"transcriptionId": "txn_1", "status": "completed", "duration": {number}, "deep": [{number}]}}'
    transcription = parse_transcription(body.encode())

    assert transcription.duration_seconds is None
    assert json.loads(transcription.raw)["deep"] == [None]


def test_segments_keep_the_order_of_the_api_and_may_overlap() -> None:
    segments = [{"start": 9, "end": 8}, {"start": -1, "end": 1e308}, {"start": "x"}, {}]

    read = parse(segments=segments).segments

    assert [(s.index, s.start_seconds, s.end_seconds, s.speaker, s.text) for s in read] == [
        (0, 9.0, 8.0, None, ""),
        (1, None, 1e308, None, ""),
        (2, None, None, None, ""),
        (3, None, None, None, ""),
    ]


@pytest.mark.parametrize("missing", [None, ..., []])
def test_no_segments_are_no_error(missing: object) -> None:
    assert parse(segments=missing).segments == ()


def test_completed_without_text_is_silence() -> None:
    transcription = parse(text=None)

    assert (transcription.status, transcription.text) == (Status.COMPLETED, None)


@pytest.mark.parametrize("word", ["reticulating", "x" * 200])
def test_an_unknown_status_word_counts_as_processing_and_is_kept(word: str) -> None:
    transcription = parse(status=word, completedAt=None)

    assert transcription.status is Status.PROCESSING
    assert not transcription.is_final
    assert transcription.has_unknown_status
    assert transcription.reported_status == word[:80]


@pytest.mark.parametrize(
    "word", ["processing", "completed", "failed", "COMPLETED", "SUCCESS", "PENDING", "REVOKED"]
)
def test_a_known_status_word_is_known(word: str) -> None:
    assert not parse(status=word).has_unknown_status


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("audio could not be read", "audio could not be read"),
        ({"code": "bad_audio", "message": "no sound"}, "bad_audio: no sound"),
        ({"reason": "no sound"}, "no sound"),
        ({"detail": {"a": 1}}, '{"a": 1}'),
        ({"other": "x"}, '{"other": "x"}'),
        (["a", 1], "a; 1"),
        (404, "404"),
        ("two\nlines\tand  blanks", "two lines and blanks"),
        (None, "no reason given"),
        ("", "no reason given"),
        ({}, "no reason given"),
        (True, "no reason given"),
        ({"code": 422, "detail": [{"msg": "no sound", "loc": ["body"]}]}, "422: no sound"),
        ({"error": {"message": "no sound"}}, "no sound"),
        ("e" * 900, "e" * 500),
    ],
)
def test_an_error_of_any_shape_becomes_a_line(error: object, text: str) -> None:
    assert parse(status="failed", error=error).error == text


@pytest.mark.parametrize(
    "error",
    [
        "cannot fetch https://bucket.example/a.wav?X-Amz-Signature=canary&b=1 (403)",
        {"message": "HTTP://bucket.example/a.wav?sig=canary"},
        {"url": "https://bucket.example/a.wav?sig=canary"},
        ["https://bucket.example/a.wav?sig=canary"],
        "x" * 480 + " https://bucket.example/a.wav?sig=canary",
    ],
)
def test_an_error_does_not_repeat_a_signature(error: object) -> None:
    text = parse(status="failed", error=error).error

    assert text is not None
    assert "canary" not in text


@pytest.mark.parametrize("status", ["processing", "completed"])
def test_only_a_failed_transcription_has_an_error(status: str) -> None:
    assert parse(status=status, error="left over").error is None


SAME_TIME = (
    *(1774346534, 1774346534.0, "1774346534", 1774346534000, "1774346534000", 1774346534000000),
    *(
        "Tue, 24 Mar 2026 10:02:14 GMT",
        " 2026-03-24T10:02:14Z ",
        "20260324T100214Z",
        "2026-03-24T10:02:14+0000",
    ),
)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-24T10:02:14Z", datetime(2026, 3, 24, 10, 2, 14, tzinfo=UTC)),
        ("2026-03-24T12:02:14+02:00", datetime(2026, 3, 24, 10, 2, 14, tzinfo=UTC)),
        ("2026-03-24 10:02:14.25", datetime(2026, 3, 24, 10, 2, 14, 250_000, tzinfo=UTC)),
        ("2026-03-24", datetime(2026, 3, 24, tzinfo=UTC)),
        ("0001-01-01T00:00:00+23:00", None),
        ("yesterday", None),
        *((form, datetime(2026, 3, 24, 10, 2, 14, tzinfo=UTC)) for form in SAME_TIME),
        (12, None),
        (True, None),
        (1e300, None),
        (None, None),
    ],
)
def test_times_are_utc_or_unknown(text: object, moment: datetime | None) -> None:
    assert parse(completedAt=text).completed_at == moment


def test_an_answer_without_an_id_is_that_of_the_id_that_was_asked_for() -> None:
    assert parse_transcription(b'{"status": "processing"}', requested_id="txn_9").transcription_id == "txn_9"


def test_the_answer_to_a_submit_needs_an_id() -> None:
    with pytest.raises(PlaudResponseError, match="no usable transcriptionId"):
        parse_submission(b'{"status": "processing"}')


def test_repr_shows_no_transcript() -> None:
    shown = repr(parse(text="canary", segments=[{"text": "canary", "start": 1, "speaker": "Speaker 1"}]))

    assert "txn_1" in shown
    assert "canary" not in shown


def test_a_segment_s_repr_shows_no_transcript() -> None:
    assert "canary" not in repr(parse(segments=[{"text": "canary"}]).segments)


def test_an_error_message_does_not_quote_the_answer() -> None:
    with pytest.raises(PlaudResponseError) as caught:
        parse_json(b'{"text": "canary"')

    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
