"""Answers of both dialects and of mixtures: read as they should be, or refused with the id kept."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from plaud_provider.api.answers import meant_status
from plaud_provider.api.calls import (
    get_transcription,
    submit_transcription,
    verify_api_key,
    verify_credentials,
)
from plaud_provider.api.dialects import EMBEDDED
from plaud_provider.api.effects import Operation, Response, SubmitPhase
from plaud_provider.api.models import Transcription
from plaud_provider.api.terms import Terms
from plaud_provider.exceptions import (
    PlaudAccessError,
    PlaudAuthenticationError,
    PlaudError,
    PlaudInputError,
    PlaudNotFoundError,
    PlaudRequestError,
    PlaudResponseError,
    PlaudServerError,
    PlaudSubmitOutcomeUnknownError,
)
from tests.unit.api.driver import ACCOUNT, World, answer, token, token_answer

KEYED = replace(
    ACCOUNT,
    base_url="https://platform-us.plaud.ai/developer/api",
    dialect=EMBEDDED,
    api_key="api-key-canary",
)
BOTH = pytest.mark.parametrize("account", [ACCOUNT, KEYED], ids=["openapi", "embedded"])
AUDIO = "https://bucket.example/a.wav?X-Amz-Signature=signature-canary"


def world(*answers: Response) -> World:
    return World(answers, then=answers[-1], stored=token("stored"))


def submit(account: Any, *answers: Response, terms: Terms = Terms()) -> Transcription:  # noqa: B008
    here = world(*answers)
    return here.run(submit_transcription(account, here.policy, audio_url=AUDIO, terms=terms))


def look(account: Any, payload: object, *, status: int = 200, asked: str = "t1") -> Transcription:
    here = world(answer(status, payload))
    return here.run(get_transcription(account, asked, here.policy))


# What a submit may be answered with, and the id that is in it.
ACCEPTED: list[tuple[object, str]] = [
    ({"transcriptionId": "txn_1", "status": "processing", "createdAt": "2026-03-24T10:00:00Z"}, "txn_1"),
    ({"transcription_id": "task_exec_1", "status": "PENDING", "data": {}}, "task_exec_1"),
    ({"transcription_id": "t", "status": "pending", "data": None}, "t"),
    ({"transcription_id": "t", "status": None}, "t"),
    ({"transcription_id": "t"}, "t"),
    ({"transcription_id": 17, "status": "PENDING"}, "17"),
    ({"task_id": "t", "status": "RECEIVED"}, "t"),
    ({"taskId": "t"}, "t"),
    ({"id": "t", "state": "queued"}, "t"),
    ({"data": {"task_id": "t"}}, "t"),
    ({"data": {"task_id": "t", "task_status": "PENDING"}}, "t"),
    ({"data": {"transcription_id": "t"}, "status": "SUCCESS"}, "t"),
    ({"data": {"transcriptionId": "t"}}, "t"),
    ({"data": {"id": "t"}}, "t"),
    ({"data": [{"task_id": "t"}]}, "t"),
    ({"data": {"data": {"task_id": "t"}}}, "t"),
    ({"data": {"task": {"id": "t"}}}, "t"),
    ({"result": {"transcription_id": "t"}}, "t"),
    ({"code": 0, "message": "success", "data": {"task_id": "t"}}, "t"),
    ({"code": 200, "msg": "ok", "data": {"transcription_id": "t"}, "request_id": "r"}, "t"),
    ({"id": "req-1", "data": {"transcription_id": "t"}}, "t"),
    ({"transcription_id": "", "data": {"task_id": "t"}}, "t"),
    ({"transcriptionId": None, "transcription_id": "t"}, "t"),
    ({"transcription_id": {}, "task_id": "t"}, "t"),
    ({"transcription_id": "t", "detail": "queued behind others"}, "t"),
    ({"transcription_id": "t", "error": "language is not known", "status": "PENDING"}, "t"),
    ({"transcription_id": "t", "status": "FAILURE", "message": "no"}, "t"),
    ({"transcription_id": "t", "data": {"results": "soon"}, "status": "PENDING"}, "t"),
    # As it calls what belongs to an upload: FileId, UploadId.
    ({"TranscriptionId": "t", "Status": "PENDING"}, "t"),
    ({"TRANSCRIPTION_ID": "t"}, "t"),
    ({"Data": {"TaskId": "t"}}, "t"),
    ({"job_id": "t", "status": "PENDING"}, "t"),
    ([{"transcription_id": "t"}], "t"),
    (["task_exec_1"], "task_exec_1"),
    ("txn_1", "txn_1"),
    ({"data": '{"transcription_id": "t"}'}, "t"),
    ({"transcription_id": {"id": "t"}}, "t"),
    ({"transcription_id": ["t"]}, "t"),
    ({"response": {"transcription_id": "t"}}, "t"),
    ({"transcription_id": "", "TranscriptionId": "t"}, "t"),
]


@BOTH
@pytest.mark.parametrize(("payload", "its_id"), ACCEPTED, ids=map(str, range(len(ACCEPTED))))
def test_an_id_that_was_paid_for_is_kept_however_it_is_spelled(
    account: Any, payload: object, its_id: str
) -> None:
    assert submit(account, answer(200, payload)).transcription_id == its_id
    assert submit(account, answer(202, payload)).transcription_id == its_id


# What is no acceptance. Where it is certain that nothing was accepted, the error says so.
REFUSED: list[tuple[int, object, type[PlaudError]]] = [
    (200, {"detail": "CLIENT_NOT_FOUND"}, PlaudAuthenticationError),
    (200, {"detail": "CLIENT_NOT_FOUND", "data": {}}, PlaudAuthenticationError),
    (200, {"detail": {"code": "CLIENT_NOT_FOUND"}}, PlaudAuthenticationError),
    (200, {"detail": "INVALID_API_KEY", "data": None}, PlaudAuthenticationError),
    (200, {"code": "CLIENT_NOT_FOUND", "message": "…"}, PlaudAuthenticationError),
    (200, {"Detail": "CLIENT_NOT_FOUND"}, PlaudAuthenticationError),
    (200, {"data": {"detail": "CLIENT_NOT_FOUND"}}, PlaudAuthenticationError),
    # A number there is the status of HTTP.
    (200, {"detail": "CLIENT_NOT_FOUND", "status": 401}, PlaudAuthenticationError),
    (200, {"errors": ["the file is too large"]}, PlaudRequestError),
    (200, {"detail": "INSUFFICIENT_BALANCE"}, PlaudAccessError),
    (200, {"detail": "FILE_TYPE_INVALID"}, PlaudRequestError),
    (200, {"error": "FILE_TYPE_INVALID", "status": None}, PlaudRequestError),
    (200, {"detail": [{"loc": ["body", "file_url"], "msg": "field required"}]}, PlaudRequestError),
    (200, {"code": 40001, "message": "the file is too large"}, PlaudRequestError),
    (403, {"detail": "CLIENT_NOT_FOUND"}, PlaudAuthenticationError),
    (404, {"detail": "CLIENT_NOT_FOUND"}, PlaudAuthenticationError),
    (422, {"detail": [{"loc": ["body", "file_url"], "msg": "field required"}]}, PlaudRequestError),
    (400, {"detail": "FILE_TYPE_INVALID"}, PlaudRequestError),
    (402, {"message": "pay"}, PlaudAccessError),
    # It may have been accepted.
    (200, {}, PlaudSubmitOutcomeUnknownError),
    (200, {"message": "accepted"}, PlaudSubmitOutcomeUnknownError),
    (200, {"code": 0, "message": "success"}, PlaudSubmitOutcomeUnknownError),
    (200, {"status": "PENDING", "data": {}}, PlaudSubmitOutcomeUnknownError),
    (200, {"status": "PENDING", "detail": "queued"}, PlaudSubmitOutcomeUnknownError),
    (200, {"detail": None}, PlaudSubmitOutcomeUnknownError),
    (500, {"detail": "Internal Server Error"}, PlaudSubmitOutcomeUnknownError),
    (500, {"id": "req-1", "message": "boom"}, PlaudSubmitOutcomeUnknownError),
]


@BOTH
@pytest.mark.parametrize(("status", "payload", "error"), REFUSED, ids=map(str, range(len(REFUSED))))
def test_a_submit_that_has_no_id_is_a_refusal_or_of_unknown_outcome(
    account: Any, status: int, payload: object, error: type[PlaudError]
) -> None:
    here = world(answer(status, payload))

    with pytest.raises(PlaudError) as raised:
        here.run(submit_transcription(account, here.policy, audio_url=AUDIO))

    assert type(raised.value) is error
    assert here.operations == ["submit"]
    is_certain = error is not PlaudSubmitOutcomeUnknownError
    assert (SubmitPhase.NOT_ACCEPTED in here.notes) is is_certain
    assert ("Nothing was accepted" in str(raised.value)) is is_certain


@BOTH
@pytest.mark.parametrize("status", [400, 409, 422, 500, 503])
def test_an_error_that_names_a_transcription_has_made_it(account: Any, status: int) -> None:
    payload = {"transcription_id": "task_exec_1", "status": "FAILURE", "detail": "bad audio"}

    assert submit(account, answer(status, payload)).transcription_id == "task_exec_1"


def test_a_500_at_the_submit_says_that_uploading_avoids_it_where_that_is_so() -> None:
    for account, is_said in ((KEYED, True), (ACCOUNT, False)):
        with pytest.raises(PlaudSubmitOutcomeUnknownError) as raised:
            submit(account, answer(500, {"detail": "Internal Server Error"}))
        assert ("upload='always'" in str(raised.value)) is is_said


def test_the_embedded_dialect_asks_for_no_token() -> None:
    here = World([answer(200, ACCEPTED[1][0])])

    here.run(submit_transcription(KEYED, here.policy, audio_url=AUDIO))

    [request] = here.sent
    assert request.url == "https://platform-us.plaud.ai/developer/api/open/partner/ai/transcriptions/"
    assert request.headers["X-Client-Api-Key"] == "api-key-canary"
    assert "Authorization" not in request.headers
    assert json.loads(request.body or b"")["file_url"] == AUDIO


@pytest.mark.parametrize("status", [401, 200])
def test_a_client_that_plaud_does_not_know_is_refused_once_and_without_its_key(status: int) -> None:
    here = World([answer(status, {"detail": "CLIENT_NOT_FOUND"})])

    with pytest.raises(PlaudAuthenticationError, match=r"CLIENT_NOT_FOUND.*api_key") as raised:
        here.run(get_transcription(KEYED, "t1", here.policy))

    assert here.operations == ["get"]
    assert "canary" not in str(raised.value)


def test_an_option_that_the_dialect_lacks_is_refused_before_anything_is_sent() -> None:
    for account, terms in (
        (ACCOUNT, Terms(model="plaud-omni-3")),
        (KEYED, Terms(webhook_url="https://hook.example/")),
    ):
        here = world(answer(200, {"id": "t"}))
        with pytest.raises(PlaudInputError, match="Nothing was sent"):
            here.run(submit_transcription(account, here.policy, audio_url=AUDIO, terms=terms))
        assert here.sent == []


SAID = [{"start": 0.5, "end": 2, "text": "Hello.", "speaker": "Speaker 1", "language": "en"}]
SEEN = [{"start": 0.5, "end": 2.0, "text": "Hello.", "speaker_id": "SPEAKER_00", "language_probabilitiy": 1}]


def read(transcription: Transcription) -> tuple[object, ...]:
    """Status, text, speakers and languages of the segments, error."""
    return (
        transcription.status.value,
        transcription.text,
        [segment.speaker for segment in transcription.segments],
        [segment.language for segment in transcription.segments],
        transcription.error,
    )


def done(*speakers: str | None, text: str | None = "Hello.", language: str | None = None) -> tuple[Any, ...]:
    return ("completed", text, list(speakers), [language] * len(speakers), None)


def failed(error: str) -> tuple[Any, ...]:
    return ("failed", None, [], [], error)


WAITING = ("processing", None, [], [], None)
# What a look may be answered with, and what it says.
RESULTS: list[tuple[object, tuple[Any, ...]]] = [
    (
        {"transcriptionId": "t1", "status": "completed", "text": "Hello.", "segments": SAID},
        done("Speaker 1", language="en"),
    ),
    (
        {"transcription_id": "t1", "status": "COMPLETED", "text": "Hello.", "segments": SEEN},
        done("SPEAKER_00"),
    ),
    (
        {"transcription_id": "t1", "status": "SUCCESS", "data": {"text": "Hello.", "results": SEEN}},
        done("SPEAKER_00"),
    ),
    (
        {"status": "success", "data": {"task_id": "t1", "text": "Hello.", "segments": SAID}},
        done("Speaker 1", language="en"),
    ),
    ({"status": "SUCCESS", "text": "Hello.", "results": SEEN}, done("SPEAKER_00")),
    ({"data": {"task_status": "SUCCESS", "text": "Hello.", "results": SEEN}}, done("SPEAKER_00")),
    (
        {"status": "SUCCESS", "segments": [], "data": {"text": "Hello.", "results": SEEN}},
        done("SPEAKER_00"),
    ),
    (
        {
            "status": "SUCCESS",
            "text": "",
            "data": {"text": "Hello.", "results": SEEN, "embeddings": {"a": [1.0]}},
        },
        done("SPEAKER_00"),
    ),
    ({"status": "SUCCESS", "text": "Hello.", "data": SEEN}, done("SPEAKER_00")),
    ({"status": "SUCCESS", "text": "Hello.", "data": SEEN * 2}, done(*["SPEAKER_00"] * 2)),
    ({"status": "SUCCESS", "text": "Hello.", "data": {"results": {"segments": SEEN}}}, done("SPEAKER_00")),
    ({"status": "SUCCESS", "data": json.dumps({"text": "Hello.", "results": SEEN})}, done("SPEAKER_00")),
    ([{"status": "SUCCESS", "data": {"text": "Hello.", "results": SEEN}}], done("SPEAKER_00")),
    ({"state": "SUCCESS", "data": {"text": "Hello.", "results": SEEN}}, done("SPEAKER_00")),
    (
        {
            "TranscriptionId": "t1",
            "Status": "SUCCESS",
            "Data": {"Text": "Hello.", "Results": [{"Start": 0.5, "Text": "Hello.", "SpeakerId": "S"}]},
        },
        done("S"),
    ),
    (
        {"status": "SUCCESS", "data": {"text": "Hello.", "results": [{"speaker": {"label": "S", "id": 0}}]}},
        done("S"),
    ),
    ({"status": "SUCCESS", "data": {"text": "Hello.", "results": None}}, done()),
    ({"status": "SUCCESS", "data": {}}, done(text=None)),
    ({"status": "SUCCESS", "data": None, "text": ""}, done(text="")),
    ({"status": "SUCCESS", "data": {"text": "Hello.", "results": [{"text": "Hello."}]}}, done(None)),
    (
        {"status": "SUCCESS", "data": {"text": "Hello.", "results": [{"speaker": "", "speaker_id": "S2"}]}},
        done("S2"),
    ),
    (
        {
            "status": "SUCCESS",
            "data": {"text": "Hello.", "results": [{"speaker": None, "speakerId": 0}, None]},
        },
        done("0"),
    ),
    ({"status": "SUCCESS", "future": {"a": 1}, "data": {"text": "Hello.", "more": [1]}}, done()),
    ({"code": 0, "message": "ok", "data": {"status": "SUCCESS", "text": "Hello."}}, done()),
    ({"status": 200, "data": {"task_status": "SUCCESS", "text": "Hello."}}, done()),
    *(
        (({"transcription_id": "t1", "status": word, "data": {}}), WAITING)
        for word in (
            "PENDING",
            "RECEIVED",
            "STARTED",
            "PROGRESS",
            "processing",
            "Progress",
            " pending ",
            "QUEUED",
        )
    ),
    # Of the answer itself, not of the transcription.
    ({"status": "success", "data": {"task_id": "t1", "task_status": "PROGRESS"}}, WAITING),
    ({"status": "ok", "data": {"status": "STARTED"}}, WAITING),
    ({"transcription_id": "t1", "status": "FAILURE", "message": "bad audio"}, failed("bad audio")),
    ({"status": "FAILURE", "data": {}, "error": None, "detail": "bad audio"}, failed("bad audio")),
    ({"status": "FAILURE", "data": {"error": "bad audio"}}, failed("bad audio")),
    ({"status": "FAILURE", "data": {"message": "bad audio", "code": "E1"}}, failed("E1: bad audio")),
    ({"status": "failed", "error": {"code": "E1", "message": "bad audio"}}, failed("E1: bad audio")),
    ({"status": "failed", "error": "", "message": "bad audio"}, failed("bad audio")),
    ({"status": "failed", "code": "E1"}, failed("E1")),
    ({"status": "failed", "code": 0, "detail": [{"msg": "bad"}, {"msg": "audio"}]}, failed("bad; audio")),
    ({"status": "failed", "error": ["bad", "audio"]}, failed("bad; audio")),
    ({"status": "failed", "error": True, "message": "bad audio"}, failed("bad audio")),
    ({"status": "failed", "error": {"error": {"message": "bad audio"}}}, failed("bad audio")),
    ({"status": "failed", "error": {"code": 9, "detail": [{"msg": "bad"}]}}, failed("9: bad")),
    ({"status": "failed", "errors": ["bad audio"]}, failed("bad audio")),
    ({"status": "failed", "errorMessage": "bad audio"}, failed("bad audio")),
    ({"status": "FAILURE", "fail_reason": "bad audio"}, failed("bad audio")),
    ({"code": 0, "msg": "success", "data": {"task_status": "FAILURE", "msg": "bad"}}, failed("bad")),
    ({"status": "REVOKED", "data": None}, failed("no reason given")),
    ({"data": {"task_status": "revoked"}}, failed("no reason given")),
]


@BOTH
@pytest.mark.parametrize(("payload", "said"), RESULTS, ids=map(str, range(len(RESULTS))))
def test_a_result_is_read_in_the_words_of_either_dialect(
    account: Any, payload: object, said: tuple[Any, ...]
) -> None:
    transcription = look(account, payload)

    assert transcription.transcription_id == "t1"
    assert read(transcription) == said
    assert all(segment.start_seconds in (None, 0.5) for segment in transcription.segments)


def test_embeddings_stay_in_the_raw_answer() -> None:
    payload = {"status": "SUCCESS", "data": {"text": "Hello.", "embeddings": {"Speaker 1": [0.25]}}}

    transcription = look(KEYED, payload)

    assert json.loads(transcription.raw)["data"]["embeddings"] == {"Speaker 1": [0.25]}


# What is refused says which transcription it was.
UNUSABLE: list[tuple[int, object, type[PlaudError]]] = [
    (200, {"transcription_id": "t1"}, PlaudResponseError),
    (200, {"transcription_id": "t1", "status": {}}, PlaudResponseError),
    (200, {"transcription_id": "t1", "status": "SUCCESS", "data": {"results": "x"}}, PlaudResponseError),
    (200, {"transcription_id": "another", "status": "SUCCESS"}, PlaudResponseError),
    (200, {"detail": "TASK_NOT_FOUND"}, PlaudNotFoundError),
    (404, {"detail": "Not Found"}, PlaudNotFoundError),
    (200, {"detail": "FORBIDDEN_RESULT"}, PlaudAuthenticationError),
    (404, {"detail": "CLIENT_NOT_FOUND"}, PlaudAuthenticationError),
    (404, b"<html>no such page</html>", PlaudServerError),
    (500, {"detail": "Internal Server Error"}, PlaudServerError),
]


@BOTH
@pytest.mark.parametrize(("status", "payload", "error"), UNUSABLE, ids=map(str, range(len(UNUSABLE))))
def test_a_result_that_cannot_be_used_is_refused(
    account: Any, status: int, payload: object, error: type[PlaudError]
) -> None:
    with pytest.raises(error) as raised:
        look(account, payload, status=status)

    if error in (PlaudResponseError, PlaudNotFoundError):
        assert "t1" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "kind"), [("code", int), ("code", str), ("errorCode", int), ("status", int)]
)
def test_what_passes_is_no_refusal_although_it_comes_with_a_200(name: str, kind: type) -> None:
    def said(status: int) -> Response:
        return answer(200, {"error": "busy", name: kind(status)})

    done = answer(200, {"transcriptionId": "t1", "status": "completed", "text": "Hello."})
    for status in (429, 500, 503):
        here = World([said(status), done], stored=token("stored"))
        assert here.run(get_transcription(ACCOUNT, "t1", here.policy)).text == "Hello."
        assert (here.returned[0].refused_for is not None) is (status == 429)
        # The token service, too.
        here = World([said(status), token_answer("t"), done])
        assert here.run(get_transcription(ACCOUNT, "t1", here.policy)).text == "Hello."
    # What was sent to a service that broke may have been accepted; what it was too busy for, was not.
    for status in (408, 500, 503):
        with pytest.raises(PlaudSubmitOutcomeUnknownError):
            submit(ACCOUNT, said(status))
    assert submit(ACCOUNT, said(429), answer(200, {"transcriptionId": "t1"})).transcription_id == "t1"


@pytest.mark.parametrize(
    "body", [{"code": 0, "status": 500}, {"transcriptionId": "t1", "code": 500}, {"code": 500_01}]
)
def test_a_number_in_what_is_no_refusal_or_of_the_api_s_own_is_no_status(body: dict[str, Any]) -> None:
    assert meant_status(200, json.dumps(body).encode()) == 200


def test_a_key_is_tried_without_a_submit() -> None:
    for given in (answer(404, {"detail": "TASK_NOT_FOUND"}), answer(200, {"detail": "TASK_NOT_FOUND"})):
        here = World([given])
        here.run(verify_api_key(KEYED, here.policy))
        assert [request.operation for request in here.sent] == [Operation.GET]
    for given in (answer(401, {"detail": "CLIENT_NOT_FOUND"}), answer(200, {"detail": "CLIENT_NOT_FOUND"})):
        with pytest.raises(PlaudAuthenticationError):
            World([given]).run(verify_api_key(KEYED, World().policy))
    with pytest.raises(PlaudServerError):
        World([answer(404, b"<html>")]).run(verify_api_key(KEYED, World().policy))


@pytest.mark.parametrize(
    ("payload", "headers", "created"),
    [
        (
            {"id": "t", "status": "PENDING", "createdAt": "2026-03-24T10:00:00Z"},
            {"date": "Tue, 24 Mar 2026 10:00:07 GMT"},
            "2026-03-24T10:00:00",
        ),
        ({"id": "t", "status": "PENDING"}, {"date": "Tue, 24 Mar 2026 10:00:07 GMT"}, "2026-03-24T10:00:07"),
        ({"id": "t", "status": "PENDING"}, {"date": "yesterday"}, None),
        ({"id": "t", "status": "PENDING"}, {}, None),
        # What some programs say for "not yet", and what no database need be able to tell in each time zone.
        ({"id": "t", "status": "PENDING", "createdAt": "0001-01-01T00:00:00Z"}, {}, None),
        ({"id": "t", "status": "PENDING", "createdAt": "9999-12-31T23:59:59Z"}, {}, None),
        ({"id": "t", "status": "PENDING", "createdAt": "1970-01-01T00:00:00Z"}, {}, None),
        ({"id": "t", "status": "PENDING"}, {"date": "1" * 5000}, None),
    ],
)
def test_when_it_was_accepted_is_told_by_the_answer_or_by_its_date(
    payload: object, headers: dict[str, str], created: str | None
) -> None:
    told = submit(KEYED, answer(200, payload, **headers)).created_at

    assert (told.isoformat() if told else None) == (f"{created}+00:00" if created else None)


@pytest.mark.parametrize("payload", [{"detail": "CLIENT_NOT_FOUND"}, {"error": "invalid_client"}])
def test_a_token_request_that_is_answered_with_a_refusal_is_not_repeated(payload: object) -> None:
    here = World([answer(200, payload)])

    with pytest.raises(PlaudAuthenticationError, match="HTTP 200 and a refusal in its body"):
        here.run(verify_credentials(KEYED, here.policy))
    assert here.operations == ["exchange"]
