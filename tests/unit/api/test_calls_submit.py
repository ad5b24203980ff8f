from __future__ import annotations

import json
from contextlib import suppress
from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.api.calls import submit_transcription
from plaud_provider.api.effects import Operation, Response, SubmitPhase, TransportFailure
from plaud_provider.api.models import Status, Transcription
from plaud_provider.api.terms import Terms
from plaud_provider.exceptions import (
    PlaudAccessError,
    PlaudAuthenticationError,
    PlaudCertificateError,
    PlaudConnectionError,
    PlaudError,
    PlaudRateLimitError,
    PlaudRedirectError,
    PlaudRequestError,
    PlaudServerError,
    PlaudSubmitOutcomeUnknownError,
    PlaudTokenRejectedError,
)
from tests.unit.api.driver import ACCOUNT, LOST, NOT_SENT, Answer, World, answer, token, token_answer

ACCEPTED = answer(
    200, {"transcriptionId": "txn_1", "status": "processing", "createdAt": "2026-03-24T10:00:00Z"}
)
SENDING, NOT_ACCEPTED, POST = SubmitPhase.SENDING, SubmitPhase.NOT_ACCEPTED, Operation.SUBMIT


def world_with_token(*answers: Answer) -> World:
    return World(answers, stored=token("stored"))


def submit(world: World, **arguments: object) -> Transcription:
    call = submit_transcription(
        ACCOUNT,
        world.policy,
        audio_url="https://bucket.example/a.wav?X-Amz-Signature=signature-canary",
        terms=Terms(**arguments),  # type: ignore[arg-type]
    )
    return world.run(call)


def test_the_request_is_that_of_the_contract() -> None:
    world = world_with_token(ACCEPTED)

    transcription = submit(world)

    [request] = world.sent
    assert (request.method, request.url) == (
        "POST",
        "https://openapi.plaud.ai/open/partner/ai/transcriptions/",
    )
    assert request.headers["Authorization"] == "Bearer stored"
    assert request.headers["Content-Type"] == "application/json"
    assert (transcription.transcription_id, transcription.status) == ("txn_1", Status.PROCESSING)
    assert transcription.created_at is not None


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ({}, {}),
        ({"language": None, "webhook_url": None, "speaker_diarization": False}, {}),
        ({"language": "ja"}, {"language": "ja"}),
        ({"webhook_url": "https://hook.example/ä"}, {"webhookUrl": "https://hook.example/ä"}),
        ({"speaker_diarization": True}, {"speakerDiarization": True}),
    ],
)
def test_the_body_holds_what_is_not_left_at_its_default(
    arguments: dict[str, object], fields: dict[str, object]
) -> None:
    world = world_with_token(ACCEPTED)

    submit(world, **arguments)

    audio_url = "https://bucket.example/a.wav?X-Amz-Signature=signature-canary"
    assert json.loads(world.sent[0].body or b"") == {"audioUrl": audio_url, **fields}


def test_what_is_not_repeatable_is_marked_so() -> None:
    world = World([token_answer("t"), ACCEPTED])

    submit(world)

    assert [request.repeatable for request in world.sent] == [True, False]


UNKNOWN = [
    *[answer(status) for status in (101, 103, 303, 408, 500, 502, 503, 504, 520, 599)],
    answer(200, b""),
    answer(200, b"{"),
    answer(200, b"<html>signed in</html>"),
    answer(200, {}),
    answer(200, {"transcriptionId": None, "status": "processing"}),
    answer(200, {"transcriptionId": "a\nb", "status": "processing"}),
    answer(200, ["txn_1", "txn_2"]),
    answer(201, b""),
    answer(202, {"status": "processing"}),
    answer(204, b""),
    LOST,
    TransportFailure("the answer is larger than 1 MiB", sent=True, passing=False),
]


@pytest.mark.parametrize("doubtful", UNKNOWN, ids=str)
def test_after_a_doubtful_answer_nothing_is_sent_again(doubtful: Answer) -> None:
    world = world_with_token(doubtful, ACCEPTED)

    with pytest.raises(PlaudSubmitOutcomeUnknownError, match="may have accepted and billed it") as caught:
        submit(world)

    assert world.operations == ["submit"]
    assert world.notes == [SENDING, POST]
    assert "signature-canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        *[(answer(status), PlaudRequestError) for status in (400, 409, 413, 415, 422)],
        *[(answer(status), PlaudAccessError) for status in (402, 403, 404, 405, 407, 421, 426, 451)],
        (answer(425), PlaudServerError),
        *[(answer(status, b"<html>"), PlaudServerError) for status in (400, 403, 404, 413, 422)],
        *[(answer(status), PlaudRedirectError) for status in (301, 302, 307, 308)],
        (TransportFailure("bad certificate", sent=False, passing=False), PlaudCertificateError),
    ],
    ids=str,
)
def test_after_a_refusal_it_is_certain_that_nothing_is_paid(refusal: Answer, error: type[PlaudError]) -> None:
    world = world_with_token(refusal, ACCEPTED)

    with pytest.raises(error) as caught:
        submit(world)

    assert not isinstance(caught.value, PlaudSubmitOutcomeUnknownError)
    assert world.notes == [SENDING, POST, NOT_ACCEPTED]


@pytest.mark.parametrize(
    "certainly_not_accepted", [answer(429, retry_after="3"), answer(429), NOT_SENT], ids=str
)
def test_what_was_certainly_not_accepted_is_sent_again(certainly_not_accepted: Answer) -> None:
    world = world_with_token(certainly_not_accepted, ACCEPTED)

    assert submit(world).transcription_id == "txn_1"
    assert world.notes == [SENDING, POST, NOT_ACCEPTED, SENDING, POST]
    assert len(world.slept) == 1


@pytest.mark.parametrize(
    ("refusal", "error"), [(answer(429), PlaudRateLimitError), (NOT_SENT, PlaudConnectionError)], ids=str
)
def test_what_is_never_accepted_ends_after_six_attempts(refusal: Answer, error: type[PlaudError]) -> None:
    world = world_with_token(*[refusal] * 6)

    with pytest.raises(error):
        submit(world)

    assert world.operations == ["submit"] * 6
    assert world.notes[-1] is NOT_ACCEPTED


def test_a_429_is_obeyed() -> None:
    world = world_with_token(answer(429, retry_after="25"), ACCEPTED)

    submit(world)

    assert 25 <= world.slept[0] <= 27.5


def test_a_rejected_token_is_replaced_and_the_recording_sent_again() -> None:
    world = world_with_token(answer(401), token_answer("second"), ACCEPTED)

    submit(world)

    assert world.bearers(POST) == ["stored", "second"]
    assert world.notes == [SENDING, POST, NOT_ACCEPTED, Operation.REFRESH, SENDING, POST]


def test_a_submit_whose_new_token_is_rejected_to_the_end_was_not_accepted() -> None:
    world = world_with_token(answer(401), token_answer("second"), *[answer(401)] * 6)

    with pytest.raises(PlaudTokenRejectedError, match="Nothing was accepted"):
        submit(world)

    assert world.operations == ["submit", "refresh", *["submit"] * 6]
    assert world.notes[-1] is NOT_ACCEPTED


def test_without_a_token_nothing_is_noted_or_sent() -> None:
    world = World([answer(401)])

    with pytest.raises(PlaudAuthenticationError):
        submit(world)

    assert world.notes == [Operation.EXCHANGE]


def test_a_note_that_cannot_be_taken_keeps_the_recording_from_being_sent() -> None:
    world = world_with_token(ACCEPTED)
    call = submit_transcription(ACCOUNT, world.policy, audio_url="https://bucket.example/a.wav")
    next(call)
    call.send(world.state)

    with pytest.raises(OSError, match="the store is down"):
        call.throw(OSError("the store is down"))

    assert world.sent == []


@pytest.mark.parametrize(
    "payload",
    [
        {"transcriptionId": "txn_1"},
        {"transcriptionId": "txn_1", "status": None},
        {"transcriptionId": "txn_1", "status": "processing", "segments": "none yet"},
    ],
)
def test_an_id_is_kept_whatever_else_is_wrong_with_the_answer(payload: object) -> None:
    """An accepted recording is paid for, and an id that is thrown away cannot be looked up."""
    transcription = submit(world_with_token(answer(200, payload)))

    assert (transcription.transcription_id, transcription.is_final) == ("txn_1", False)


def test_an_unknown_status_word_counts_as_processing() -> None:
    transcription = submit(world_with_token(answer(200, {"transcriptionId": "txn_1", "status": "queued"})))

    assert (transcription.status, transcription.reported_status) == (Status.PROCESSING, "queued")


def may_have_been_accepted(given: Answer) -> bool:
    """Whether a server that gave this answer to a POST may have kept the recording."""
    if isinstance(given, TransportFailure):
        return given.sent
    return 200 <= given.status < 300 or given.status >= 500 or given.status in (303, 408)


answers = st.one_of(
    st.builds(
        Response,
        st.integers(200, 599) | st.sampled_from([200, 201, 401, 429, 500]),
        st.dictionaries(st.just("retry-after"), st.sampled_from(["0", "1", "x"])),
        st.sampled_from([ACCEPTED.body, token_answer("t").body, b"", b"{"]),
    ),
    st.builds(TransportFailure, st.just("broken"), sent=st.booleans(), passing=st.booleans()),
)


@given(st.lists(answers, max_size=40))
def test_never_are_there_two_posts_that_may_both_have_been_accepted(given: list[Answer]) -> None:
    world = World(given, then=answer(429))

    with suppress(PlaudError):
        submit(world)

    answered = zip_longest(world.operations, given[: len(world.sent)], fillvalue=answer(429))
    outcomes = [may_have_been_accepted(got) for operation, got in answered if operation == "submit"]
    assert sum(outcomes) <= 1
    assert not any(outcomes[:-1])


@given(st.lists(answers, max_size=40))
def test_each_post_is_noted_before_and_each_refusal_after(given: list[Answer]) -> None:
    world = World(given, then=answer(429))

    try:
        submit(world)
        ended = "accepted"
    except PlaudSubmitOutcomeUnknownError:
        ended = "unknown"
    except PlaudError:
        ended = "not accepted"

    notes = [note for note in world.notes if note in (SENDING, NOT_ACCEPTED, POST)]
    rounds = [SENDING, POST, NOT_ACCEPTED] * (len(notes) // 3 + 1)
    assert notes == rounds[: len(notes)]
    assert (notes[-1:] == [POST]) == (ended in ("accepted", "unknown"))
