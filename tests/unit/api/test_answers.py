"""Answers in the words of all of Plaud's pages, and answers with one flaw."""

from __future__ import annotations

import gc
import json
import logging
import threading
import tracemalloc
from typing import Any

import pytest

from plaud_provider.api import answers
from plaud_provider.api.answers import parse_submission, parse_transcription
from plaud_provider.api.models import Status
from plaud_provider.api.redaction import without_secrets
from plaud_provider.exceptions import PlaudResponseError

EMBEDDED: dict[str, Any] = {
    "transcription_id": "task_exec_1",
    "status": "SUCCESS",
    "data": {
        "text": "Good morning.",
        "language": "en",
        "duration": 5.5,
        "results": [
            {"start": 0, "end": 4.2, "text": "Good", "speaker_id": "Speaker 1", "language": "en"},
            {"start": 4.2, "end": 5.5, "text": "morning.", "speaker_id": "Speaker 2"},
        ],
        "embeddings": {"Speaker 1": [0.1]},
    },
}
NESTED: dict[str, Any] = {
    "data": {
        "task_id": "txn_1",
        "task_status": "SUCCESS",
        "text": "Good morning.",
        "segments": [
            {"start": 0, "end": 4.2, "text": "Good", "speaker": "SPEAKER_00"},
            {"start": 4.2, "end": 5.5, "text": "morning.", "speaker": "SPEAKER_01"},
        ],
    }
}
DOCUMENTED: dict[str, Any] = {
    "transcriptionId": "txn_1",
    "status": "completed",
    "text": "Good morning.",
    "segments": [
        {"start": 0, "end": 4.2, "text": "Good", "speaker": "Speaker 1"},
        {"start": 4.2, "end": 5.5, "text": "morning.", "speaker": "Speaker 2"},
    ],
}


def encoded(payload: object) -> bytes:
    return json.dumps(payload).encode()


@pytest.fixture(autouse=True)
def nothing_was_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_warned", set())


@pytest.mark.parametrize("payload", [DOCUMENTED, EMBEDDED, NESTED], ids=["openapi", "embedded", "nested"])
def test_a_result_is_read_in_any_wording(payload: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    read = parse_transcription(encoded(payload))

    assert read.status is Status.COMPLETED
    assert not read.has_unknown_status
    assert read.text == "Good morning."
    assert [(one.start_seconds, one.end_seconds, one.text) for one in read.segments] == [
        (0.0, 4.2, "Good"),
        (4.2, 5.5, "morning."),
    ]
    assert read.speaker_count == 2
    assert caplog.records == []


LINES = [{"start": 0, "end": 4.2, "text": "Good", "speaker": "A"}]


@pytest.mark.parametrize(
    ("text", "payload"),
    [
        (None, {"task_result": {"segments": LINES}}),
        (None, {"utterances": LINES}),
        (None, {"data": {"payload": [{"x": {"utterances": LINES}}, {}]}}),
        (None, {"data": {"content": json.dumps({"lines": LINES})}}),
        ("Good", {"data": {"payload": {"text": "Good", "lines": LINES}}}),
        (None, {"transcript": LINES}),
        (None, {"text": LINES}),
        ("Good", {"text": "Good", "transcript": LINES}),
        (None, {"result": {"transcript": LINES}}),
        ("Good", {"transcript": {"text": "Good", "segments": LINES}}),
        (None, {"text": [], "transcript": [{"segments": LINES}]}),
    ],
)
def test_a_transcript_is_read_below_names_that_nobody_has_told_of_and_in_place_of_its_text(
    text: str | None, payload: dict[str, Any]
) -> None:
    read = parse_transcription(encoded({"transcriptionId": "txn_1", "status": "completed", **payload}))

    assert read.text == text
    assert [(one.end_seconds, one.text, one.speaker) for one in read.segments] == [(4.2, "Good", "A")]


def test_what_else_has_times_is_no_transcript_beside_one() -> None:
    chapters = [{"start": 0, "end": 60, "title": "Greeting"}]
    read = parse_transcription(
        encoded({"transcriptionId": "txn_1", "status": "completed", "text": "Good", "chapters": chapters})
    )

    assert (read.text, read.segments) == ("Good", ())


@pytest.mark.parametrize(
    ("word", "status"),
    [
        *((word, Status.PROCESSING) for word in ("PENDING", "RECEIVED", "STARTED", "PROGRESS", "Processing")),
        *((word, Status.COMPLETED) for word in ("SUCCESS", "COMPLETED", " completed ")),
        *((word, Status.FAILED) for word in ("FAILURE", "REVOKED", "FAILED")),
    ],
)
def test_status_words_count_in_any_letter_case(word: str, status: Status) -> None:
    assert parse_transcription(encoded({"transcriptionId": "txn_1", "status": word})).status is status


FLAWS = {
    "an empty segment": lambda body: body.replace(b'"segments": [', b'"segments": [null, 7, '),
    "a null id": lambda body: body.replace(b'"txn_1"', b"null"),
    "no id": lambda body: body.replace(b'"transcriptionId": "txn_1", ', b""),
    "not UTF-8": lambda body: body.replace(b"}", b', "note": "caf\xe9"}', 1),
    "a number of 5,000 digits": lambda body: body.replace(
        b'"text"', b'"size": ' + b"9" * 5000 + b', "text"', 1
    ),
    "segments as text": lambda body: encoded(
        {**json.loads(body), "segments": json.dumps(json.loads(body)["segments"])}
    ),
    "capitals": lambda body: body.replace(b"completed", b"COMPLETED"),
    "other names of speakers": lambda body: body.replace(b'"speaker"', b'"speaker_id"'),
    "a time that is none": lambda body: body.replace(b'"text"', b'"completedAt": {}, "text"', 1),
    "a duration that is none": lambda body: body.replace(b'"text"', b'"duration": [], "text"', 1),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_completed_result_with_one_flaw_is_read_with_its_text_and_speakers(flaw: str) -> None:
    read = parse_transcription(FLAWS[flaw](encoded(DOCUMENTED)), requested_id="txn_1")

    assert (read.transcription_id, read.status, read.text) == ("txn_1", Status.COMPLETED, "Good morning.")
    assert [(one.index, one.speaker) for one in read.segments] == [(0, "Speaker 1"), (1, "Speaker 2")]
    assert json.loads(read.raw)["text"] == "Good morning."


@pytest.mark.parametrize(
    "answer",
    [
        {"transcriptionId": "txn_1"},
        {"transcription_id": "txn_1", "status": "PENDING", "data": {}},
        {"transcriptionId": None, "data": {"transcription_id": "txn_1"}},
        {"data": {"transcriptionId": "txn_1", "status": "processing"}},
        {"status": "processing", "data": {"task_id": "txn_1"}},
        {"id": "txn_1"},
        {"taskId": "txn_1", "status": 7, "segments": "none"},
        {"payload": {"items": [{"transcription-id": "txn_1"}]}},
        {"id": "a\nb", "body": json.dumps({"transcriptionId": "txn_1"})},
        {"code": 0, "msg": "success", "data": "txn_1_of_none"},
        [{"request_id": "r"}, {"transcription_id": "txn_1"}],
        ["accepted", {"task_id": "txn_1"}],
        {"transcriptionId": " txn_1\n"},
    ],
)
def test_an_id_that_is_paid_for_is_kept_wherever_it_stands(answer: Any) -> None:
    kept = parse_submission(encoded(answer)).transcription_id

    assert kept.removesuffix("_of_none") == "txn_1"


ACCEPTED = b'{"transcriptionId": "txn_1", "status": "processing"}'


@pytest.mark.parametrize(
    "broken",
    [
        b'{"transcriptionId": "txn_1", "status": "proc',
        b"{'transcription_id': 'txn_1'}",
        b'{"transcriptionId": "txn_1",}',
        b'/* {"v": 1} */ ' + ACCEPTED,
        b'{"transcriptionId": "txn_1", "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b")]}',\n" + ACCEPTED,
        b"callback(" + ACCEPTED + b");",
        ACCEPTED + b"\0\0",
        ACCEPTED + b" OK",
        b'{"event": "accepted"}\n' + ACCEPTED + b"\n",
        b"event: accepted\ndata: " + ACCEPTED + b"\n\n",
    ],
)
def test_an_id_that_is_paid_for_is_kept_whatever_is_wrong_around_it(broken: bytes) -> None:
    assert parse_submission(broken).transcription_id == "txn_1"


@pytest.mark.parametrize(
    "answer",
    [
        *(b'"txn_1"', b'["txn_1"]', b"txn_1\n", b"accepted: txn_1\n"),
        *(b'{"data": "txn_1"}', b'{"uuid": "txn_1"}', b'{"transcriptionIds": ["txn_1"]}'),
        *(b'{"txn_1": {"status": "PENDING"}}', b"transcriptionId=txn_1&status=processing"),
        *(
            b'{"transcriptionId": "txn_1?region=us"}',
            b'{"transcriptionId": "/transcriptions/txn_1?sig=canary"}',
        ),
        *(
            b'"https://h.example/open/partner/ai/transcriptions/txn_1"',
            b'{"url": "/txn_1/", "self": "txn_1"}',
        ),
    ],
)
def test_an_id_of_a_documented_form_is_kept_wherever_it_stands(answer: bytes) -> None:
    assert parse_submission(answer).transcription_id == "txn_1"
    assert parse_submission(answer.replace(b"txn_1", b"task_exec_a-1")).transcription_id == "task_exec_a-1"
    with pytest.raises(PlaudResponseError):
        # That of an error may be another's.
        parse_submission(answer, must_be_named=True)


@pytest.mark.parametrize(
    "answer",
    [
        *(b'"txn_1', b"txn_1", b'"txn_1."', b'"txn_MTIz=="', b'"xtxn_1"', b'"accepted"', b"12345"),
        *(b'["txn_1", "txn_2"]', b'{"detail": "txn_failed"}', b"<a href=/transcriptions/txn_1>"),
    ],
)
def test_what_may_be_part_of_an_id_or_a_word_or_one_of_several_is_none(answer: bytes) -> None:
    with pytest.raises(PlaudResponseError):
        parse_submission(answer)


@pytest.mark.parametrize(
    "cut",
    [
        b'{"transcriptionId": "txn_1',
        b'{"transcriptionId": 123',
        b'{"transcriptionId": "',
        b'{"transcriptionId": "txn_1"} {"transcriptionId": "txn_2',
        b'<html><pre>{"transcriptionId": "txn_1"}</pre></html>',
        b'{"transcriptionId": "txn_1", {"transcriptionId": "txn_2"',
        b'{"data": "queued"}',
        b'{"code": 0, "data": 200}',
    ],
)
def test_half_an_id_an_example_and_one_of_several_are_none(cut: bytes) -> None:
    if cut.startswith(b'{"transcriptionId": "txn_1"} '):
        # The first one is whole.
        assert parse_submission(cut).transcription_id == "txn_1"
        return
    with pytest.raises(PlaudResponseError):
        parse_submission(cut)


RESULT = b'{"transcriptionId": "txn_1", "status": "completed", "text": "Hello.", "segments": []}'


@pytest.mark.parametrize(
    "answer",
    [
        RESULT + b"\0",
        b")]}'\n" + RESULT,
        b'{"transcriptionId": "txn_1", "status": "processing"}\n' + RESULT,
        RESULT + b'\n{"took": 3}',
        b'["v1", ' + RESULT + b"]",
    ],
)
def test_a_result_is_read_whatever_stands_around_it(answer: bytes) -> None:
    told = parse_transcription(answer, requested_id="txn_1")

    assert (told.status, told.text) == (Status.COMPLETED, "Hello.")


@pytest.mark.parametrize(
    "answer", [RESULT[:-1], b'{"data": ' + RESULT, b"<html>" + RESULT, b'{"a": {"b": ' + RESULT + b"}"]
)
def test_a_result_that_is_cut_off_is_none(answer: bytes) -> None:
    with pytest.raises(PlaudResponseError):
        parse_transcription(answer, requested_id="txn_1")


AT = "2026-03-24T10:02:14Z"


@pytest.mark.parametrize(
    ("members", "status"),
    [
        ({"text": "Hello."}, Status.COMPLETED),
        ({"success": True, "data": {"segments": [{"start": 0, "text": "Hello."}]}}, Status.COMPLETED),
        ({"status": 2, "text": "Hello."}, Status.COMPLETED),
        ({"status": "已完成", "text": "Hello.", "completedAt": AT}, Status.COMPLETED),
        ({"status": "all done!", "text": "Hello.", "completedAt": AT}, Status.COMPLETED),
        # What has begun may have a part of its text.
        ({"status": "处理中", "text": "Hello."}, Status.PROCESSING),
        ({"status": "处理中", "completedAt": AT}, Status.PROCESSING),
        ({"status": "reticulating", "text": "Hello."}, Status.PROCESSING),
        # Of a gateway in trouble.
        ({"status": "error"}, Status.PROCESSING),
        ({"status": "processing", "text": "Hello.", "completedAt": AT}, Status.PROCESSING),
        ({"status": "ready", "text": "Hello.", "completedAt": AT}, Status.COMPLETED),
        *(({"status": word}, Status.COMPLETED) for word in ("DONE", "finished", "complete")),
        *(({"status": word}, Status.FAILED) for word in ("canceled", "CANCELLED", "aborted")),
    ],
)
def test_a_final_word_is_seen_also_where_there_is_none(members: dict[str, Any], status: Status) -> None:
    assert parse_transcription(encoded(members), requested_id="txn_1").status is status


@pytest.mark.parametrize("segments", ["none", 7, {"count": 0}, True])
def test_a_transcript_is_not_lost_for_its_segments(segments: object) -> None:
    answer = {"status": "completed", "text": "Hello.", "segments": segments}

    told = parse_transcription(encoded(answer), requested_id="txn_1")

    assert (told.text, told.segments) == ("Hello.", ())


def test_segments_may_stand_in_an_object() -> None:
    answer = {
        "status": "completed",
        "segments": {"0": {"start": 0, "text": "a"}, "1": {"start": 1, "text": "b"}},
    }

    told = parse_transcription(encoded(answer), requested_id="txn_1")

    assert [segment.text for segment in told.segments] == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (12345, "12345"),
        *((given, given) for given in ("txn:1/2", "MTIzNDU2Nzg5MA==", "-x", "a%b", "a#b", "a;b", "a&b")),
        *((given, given) for given in ("two words", "é", "録音", "..", "a/../b", "?", "x" * 255)),
    ],
)
def test_an_id_of_any_form_is_kept(given: object, kept: str) -> None:
    assert parse_submission(encoded({"transcriptionId": given})).transcription_id == kept


@pytest.mark.parametrize("given", ["a\nb", "a\x85", "x" * 300])
def test_an_id_that_cannot_be_used_is_in_the_message(given: str) -> None:
    with pytest.raises(PlaudResponseError) as caught:
        parse_submission(encoded({"transcriptionId": given}))

    assert repr(given[:200])[1:-1] in str(caught.value)


@pytest.mark.parametrize(
    "answer", [{}, {"detail": "CLIENT_NOT_FOUND"}, {"data": []}, {"transcriptionId": []}]
)
def test_an_answer_without_any_id_is_told(answer: dict[str, Any]) -> None:
    with pytest.raises(PlaudResponseError, match="no usable transcriptionId"):
        parse_submission(encoded(answer))


def test_the_result_of_another_one_is_refused() -> None:
    with pytest.raises(PlaudResponseError, match="txn_1 where txn_2"):
        parse_transcription(encoded(DOCUMENTED), requested_id="txn_2")


def test_unknown_keys_are_warned_of_once_by_name_and_never_by_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    strange = {**DOCUMENTED, "mood": "canary", "said: canary": 1}
    strange["segments"] = [{**segment, "loudness": "canary"} for segment in strange["segments"]]

    parse_transcription(encoded(strange))
    parse_transcription(encoded(strange))

    assert caplog.text.count("mood") == caplog.text.count("loudness") == 1
    assert "canary" not in caplog.text


@pytest.mark.parametrize("error", ["error", "detail", "message", "reason"])
@pytest.mark.parametrize("is_nested", [False, True])
def test_why_it_failed_is_read_wherever_it_stands(error: str, is_nested: bool) -> None:
    reason = {error: "no speech"}
    answer = {"transcription_id": "t", "status": "FAILURE", **({"data": reason} if is_nested else reason)}

    assert parse_transcription(encoded(answer)).error == "no speech"


LEAKS = [
    "HTTPSConnectionPool(host='b'): Max retries exceeded with url: /a.wav?X-Amz-Signature=canary",
    "cannot fetch https://b.example/a.wav?sig=canary&se=1 (403)",
    "cannot fetch b.example/a.wav?X-Amz-Signature=canary",
    "cannot fetch https%3A%2F%2Fb.example%2Fa.wav%3Fsig%3Dcanary",
    "cannot fetch s3://b/a.wav?X-Amz-Signature=canary",
    "cannot fetch https://b.example/a.wav\\u003fsig\\u003dcanary",
    "cannot fetch https://user:canary@b.example/a.wav",
    "cannot fetch https%253A%252F%252Fb.example%252Fa.wav%253Fsig%253Dcanary",
    "cannot fetch https://b.example/a.wav\\x3fsig\\x3dcanary",
    "<Url>https://b.example/a.wav&#63;sig=canary</Url>",
    "cannot fetch https://b.example/a.wav?canary",
    "cannot fetch https://b.example/a.wav?name='y'&key=canary",
    "cannot fetch https://canary@b.example/a.wav",
    "cannot fetch user:canary@b.example/a.wav",
    "cannot fetch https%3A%2F%2Fuser%3Acanary%40b.example%2Fa.wav",
    "SignatureDoesNotMatch: Signature=canary",
    "Signature='canary'",
    "{'X-Amz-Signature': ['canary']}",
    "[('X-Amz-Signature', 'canary')]",
    "a.wav has X-Amz-Signature=\ncanary",
    "X-Amz-Signature: canary",
    "X-Amz-Signature&#61;canary",
    "x_amz_Signature=canary",
    "<SignatureProvided>canary</SignatureProvided>",
    "Signature refused: Authorization: Bearer canary",
    "Signature refused: 'authorization': 'Basic canary'",
    "Signature refused: bearer canary-0123456789-0123456789",
    "Signature refused: hdnts=exp=1~hmac=canary",
    "Signature refused: X-Api-Key: canary",
]


@pytest.mark.parametrize("leak", LEAKS)
def test_no_signature_and_no_password_is_in_the_error_or_in_raw(leak: str) -> None:
    payload = {
        "transcriptionId": "txn_1",
        "status": "failed",
        "error": {"message": leak, "text": leak, "details": [leak, {leak: leak}, {"sig": "canary"}]},
        "audioUrl": leak,
        "text": "she said: a=b? no: b=c",
    }
    read = parse_transcription(encoded(payload))

    assert "canary" not in f"{read.error}{read.raw}"
    assert "a.wav" in read.raw or "Signature" in read.raw
    assert json.loads(read.raw)["text"] == payload["text"], "what was said stays as it is"
    assert json.loads(read.raw).keys() == payload.keys()


@pytest.mark.parametrize(
    "harmless",
    [
        "Signature: does not match",
        "<Code>SignatureDoesNotMatch</Code>",
        "The bearer token is invalid; see Authorization",
        "Is it speech?no: 10:30 @ 2",
        "s3://connection@bucket/a.wav",
        "https://b.example:8080/a@2x.wav",
        "https://b.example/a.wav?<query removed>",
    ],
)
def test_what_is_no_secret_stays(harmless: str) -> None:
    answer = {"transcriptionId": "t", "status": "failed", "error": harmless}

    assert parse_transcription(encoded(answer)).error == harmless


@pytest.mark.parametrize(
    "secret",
    [
        "https://objectstorage.example/p/canary-1_2/n/ns/b/calls/o/1.mp3",
        "https:%2F%2Fobjectstorage.example%2Fp%2Fcanary%2Fn%2Fns%2Fb%2Fcalls",
        "https://files.example/eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE5fQ.canary/1.mp3",
        "The token eyJhbGciOiJIUzI1NiJ9.canary.canary is not valid",
        # Of Telegram, Box and Dropbox.
        "404 of https://api.telegram.org/file/bot123456789:AAcanarycanarycanarycanary/voice/file_1.oga",
        "404 of https://dl.boxcloud.com/d/1/b1!Y5CcanaryMqqt3mOhS4jjvC2AeQmhxM9OhK5Tv3Yal0X/download.",
        r"404 of https:\/\/x.example\/cd\/0\/get\/DHT6V0canaryBG0KJq55UaFGJiCAEnsJA5kzj\/file",
        "404 of https%3A%2F%2Fx.example%2Fcd%2F0%2Fget%2FDHT6V0canaryBG0KJq55UaFGJiCAEnsJA5kzj%2Ffile",
    ],
)
def test_a_secret_in_a_path_is_not_kept_either(secret: str) -> None:
    answer = {"transcriptionId": "t", "status": "failed", "error": secret}
    read = parse_transcription(encoded(answer))

    assert "canary" not in f"{read.error}{read.raw}"
    assert "<removed>" in str(read.error)


@pytest.mark.parametrize(
    "path",
    [
        "2024-05-01/Interview-with-Anna-Schmidt-final-v2.m4a",
        "calls/n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg.m4a",
        "5a4d9c2e-77aa-4a3c-9d3b-1b2c3d4e5f60/9e107d9d372bb6826bd81d3542a419d6",
        "customer_support-call-2024-05-01-14-30-agent42",
    ],
)
def test_what_names_a_recording_in_a_path_is_kept(path: str) -> None:
    said = f"https://files.example/{path}: 404"
    read = parse_transcription(encoded({"transcriptionId": "t", "status": "failed", "error": said}))

    assert read.error == said


def test_keys_that_differ_in_their_queries_only_are_all_kept() -> None:
    answer = {"transcriptionId": "t", "status": "failed", "b/a.wav?sig=1": 1, "b/a.wav?sig=2": 2}

    assert list(json.loads(parse_transcription(encoded(answer)).raw).values())[2:] == [1, 2]


@pytest.mark.parametrize(
    "piece", ["\\", "a?", "%3A%2F%2Fa", "a:", "x-amz-", "%25", "&#", "?='", "eyJa", "/p/a", "/aB1"]
)
def test_the_time_to_find_secrets_grows_with_the_length_only(piece: str) -> None:
    """If it grew with the square, pytest's timeout would be over long before."""
    assert len(without_secrets(piece * 200_000 + " =@")) > 200_000


@pytest.mark.parametrize("given", ["https://b.example/a.wav?sig=canary", "user:canary@b.example/ 1"])
def test_an_id_that_cannot_be_used_is_shown_without_secrets(given: str) -> None:
    with pytest.raises(PlaudResponseError, match="it has") as caught:
        parse_submission(encoded({"transcriptionId": given}))

    assert "canary" not in str(caught.value)


def test_a_number_that_cannot_be_an_id_is_in_the_message() -> None:
    with pytest.raises(PlaudResponseError, match=r"it has '12345\.5'"):
        parse_submission(b'{"transcriptionId": 12345.5}')


def test_a_large_answer_is_not_encoded_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """What encodes at once keeps all other threads from running, the event loop's too."""
    segment = {"start": 0.0, "end": 1.5, "text": "word " * 40, "speaker": "Speaker 1"}
    large = {"status": "SUCCESS", "data": {"text": "", "results": [segment] * 5_000}}
    body, pieces = encoded(large), []

    def noting(*given: Any, **named: Any) -> str:
        pieces.append(encode(*given, **named))
        return pieces[-1]

    encode = json.dumps
    monkeypatch.setattr(json, "dumps", noting)
    read = parse_transcription(body, requested_id="t")

    assert max(map(len, pieces)) < len(body) / 4
    assert json.loads(read.raw) == large


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"data": {}},
        {"data": [], "segments": []},
        {"data": {"results": [{"start": 1.5}] * 2_001, "x": {"y": [[]]}}},
        {"\u00e9\n": "\u00e9\n", "segments": [None, "a", 1], "b": {"c": None}},
    ],
)
def test_what_is_kept_of_an_answer_is_the_answer(members: dict[str, Any]) -> None:
    answer = {**members, "status": "processing"}

    kept = parse_transcription(encoded(answer), requested_id="t").raw

    assert kept == json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


def test_long_answer_that_was_kept_takes_no_more_than_four_times_its_size() -> None:
    segments = [
        {"start": index * 5.0, "end": index * 5.0 + 4.5, "speaker": "Speaker 1", "text": f"{index} word" * 12}
        for index in range(5_000)
    ]
    text = " ".join(str(segment["text"]) for segment in segments)
    given = encoded({"transcriptionId": "t", "status": "completed", "text": text, "segments": segments})
    kept = parse_transcription(given).raw.encode()
    tracemalloc.start()
    try:
        read = parse_transcription(kept)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert read == parse_transcription(given)
    # The bytes themselves were there before.
    assert peak < 4 * len(kept)


def test_segments_are_read_while_another_thread_asks_for_all_objects() -> None:
    segments = [{"start": n, "end": n + 1, "text": str(n)} for n in range(20_000)]
    given = encoded({"transcriptionId": "t", "status": "completed", "text": "", "segments": segments})
    is_read = threading.Event()

    def look_for_leaks() -> None:
        while not is_read.is_set():
            gc.get_objects()

    looking = threading.Thread(target=look_for_leaks)
    looking.start()
    try:
        read = parse_transcription(given)
    finally:
        is_read.set()
        looking.join()

    assert len(read.segments) == len(segments)


def test_a_status_that_is_no_word_is_not_shown() -> None:
    read = parse_transcription(encoded({"transcriptionId": "t", "status": "she said: canary"}))

    assert read.has_unknown_status
    assert "canary" not in read.reported_status


COMPLETED = {"status": "completed", "text": "Hello."}


@pytest.mark.parametrize(
    "given", ["txn_1", " txn_1\n", "", None, [], {}, ["txn_1"], {"id": "txn_1"}, {"transcriptionId": "txn_1"}]
)
def test_an_id_in_another_form_does_not_keep_its_result_from_being_read(given: object) -> None:
    read = parse_transcription(encoded({"transcriptionId": given, **COMPLETED}), requested_id="txn_1")

    assert (read.transcription_id, read.status, read.text) == ("txn_1", Status.COMPLETED, "Hello.")


@pytest.mark.parametrize(
    "answer",
    [
        {"transcriptionId": "txn_1", "data": {"transcriptionId": "txn_2", **COMPLETED}},
        {"transcriptionId": "txn_2", "data": {"transcriptionId": "txn_1", **COMPLETED}},
        {"transcriptionId": {"id": "txn_2"}, **COMPLETED},
        {"transcriptionId": 1, **COMPLETED},
    ],
)
def test_a_result_that_any_part_says_is_another_s_is_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(PlaudResponseError, match="where txn_1 was asked for"):
        parse_transcription(encoded(answer), requested_id="txn_1")
