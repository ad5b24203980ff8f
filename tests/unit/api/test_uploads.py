"""An upload as a course of calls: what is sent again, what is begun anew, and what ends it. No I/O."""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, BinaryIO

import pytest

from plaud_provider.api.dialects.embedded_uploads import BegunUpload
from plaud_provider.api.effects import Operation, Request, Response, TokenState, TransportFailure
from plaud_provider.api.limits import TOKEN_CALLS_A_MINUTE
from plaud_provider.api.uploads import PARTS_AT_ONCE, FileTypeRefusedError, upload
from plaud_provider.exceptions import (
    PlaudAccessError,
    PlaudCertificateError,
    PlaudConnectionError,
    PlaudError,
    PlaudRateLimitError,
    PlaudRedirectError,
    PlaudRequestError,
    PlaudResponseError,
    PlaudServerError,
    PlaudStoppedError,
    PlaudTokenRejectedError,
)
from tests.unit.api.driver import ACCOUNT, LOST, NOT_SENT, NOW, Answer, World, answer, token, token_answer

CHUNK = 10
SIZE = 45
PARTS = 5
DOWNLOAD = "https://files.example/f.mp3?X-Amz-Signature=download-canary"
USER_TOKEN = answer(200, {"access_token": "user-1", "token_type": "bearer", "expires_in": 86400})
COMPLETED = answer(200, {"FileId": "f", "FileType": "mp3", "DownloadUrl": DOWNLOAD, "FileMd5": "x"})
SECRETS = ("download-canary", "part-canary", "user-1", "user-2", "secret-key-canary")


class Sound:
    """A file of 45 bytes."""

    filetype = "mp3"
    size = SIZE
    content = bytes(range(SIZE))

    def __init__(self, left: BegunUpload | None = None) -> None:
        self.left = left
        self.kept: list[BegunUpload] = []

    def begun(self) -> BegunUpload | None:
        return self.left

    def keep(self, begun: BegunUpload) -> None:
        self.kept.append(deepcopy(begun))

    def part(self, start: int, end: int) -> Stretch:
        return Stretch(self.content[start:end])


class Stretch:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __len__(self) -> int:
        return len(self._content)

    def open(self) -> BinaryIO:
        return io.BytesIO(self._content)


def body_of(request: Request) -> bytes:
    assert isinstance(request.body, Stretch)
    return request.body.open().read()


def json_of(request: Request) -> Any:
    assert isinstance(request.body, bytes)
    return json.loads(request.body)


def urls(*, round_: int = 1, size: int = SIZE, chunk: int = CHUNK, **changes: Any) -> Response:
    parts = [
        {"PartNumber": number, "PresignedUrl": f"https://s3.example/{round_}/{number}?sig=part-canary"}
        for number in range(1, math.ceil(size / chunk) + 1)
    ]
    payload = {"FileId": "f", "UploadId": f"u{round_}", "ChunkSize": chunk, "Parts": parts}
    return answer(200, {**payload, **changes})


def part(etag: str = '"e"') -> Response:
    return answer(200, b"", etag=etag)


def parts(count: int = PARTS) -> list[Answer]:
    return [part(f'"e{number}"') for number in range(1, count + 1)]


def world(*answers: Answer | Iterable[Answer], user: bool = True, **more: Any) -> World:
    flat: list[Answer] = []
    for one in answers:
        flat += [one] if isinstance(one, (Response, TransportFailure)) else list(one)
    state = TokenState(token("partner"), user_token=token("user-1") if user else None)
    return World(flat, stored=state, **more)


def run(world: World, content: Sound | None = None, **hooks: Any) -> str:
    nothing = {"check": lambda: None, "confirm": lambda: None}
    return world.run(upload(ACCOUNT, world.policy, content or Sound(), **{**nothing, **hooks}))


def stop_at(call: int) -> Callable[[], None]:
    """Return what ends an upload when it is called so often."""
    calls = itertools.count(1)

    def check() -> None:
        if next(calls) == call:
            raise PlaudStoppedError("stop")

    return check


def sent_parts(world: World) -> list[str]:
    return [
        request.url.partition("?")[0].removeprefix("https://s3.example/")
        for request in world.sent
        if request.operation is Operation.PART
    ]


def test_the_calls_are_those_of_the_contract() -> None:
    ours = world(USER_TOKEN, urls(), parts(), COMPLETED, user=False)

    assert run(ours) == DOWNLOAD

    assert ours.operations == ["user token", "upload", *["part"] * PARTS, "upload"]
    user, generate, *_, complete = ours.sent
    base = "https://openapi.plaud.ai/open/partner"
    assert (user.method, user.url) == ("POST", f"{base}/users/access-token")
    assert user.headers["Authorization"] == "Bearer partner"
    assert json_of(user) == {"user_id": "airflow-provider-plaud", "expires_in": 86400}
    assert (generate.method, generate.url) == ("POST", f"{base}/files/upload/generate-presigned-urls")
    assert generate.headers["Authorization"] == "Bearer user-1"
    assert json_of(generate) == {"filesize": SIZE, "filetype": "mp3"}
    assert (complete.method, complete.url) == ("POST", f"{base}/files/upload/complete-upload")
    assert json_of(complete) == {
        "file_id": "f",
        "upload_id": "u1",
        "part_list": [{"PartNumber": number, "ETag": f'"e{number}"'} for number in range(1, PARTS + 1)],
        "filetype": "mp3",
    }


def test_parts_are_the_raw_bytes_without_credentials_in_their_order() -> None:
    ours = world(urls(), parts(), COMPLETED)

    run(ours)

    puts = [request for request in ours.sent if request.operation is Operation.PART]
    assert b"".join(map(body_of, puts)) == Sound.content
    assert [len(request.body or b"") for request in puts] == [10, 10, 10, 10, 5]
    assert {(request.method, *request.headers) for request in puts} == {("PUT",)}


def test_a_token_of_the_host_is_used_and_a_new_one_is_stored_beside_the_partner_s() -> None:
    stored = world(urls(), parts(), COMPLETED)
    run(stored)
    assert "user token" not in stored.operations

    new = world(USER_TOKEN, urls(), parts(), COMPLETED, user=False)
    run(new)
    assert new.state.token is not None
    assert new.state.token.access_token == "partner"
    assert new.state.user_token is not None
    assert new.state.user_token.access_token == "user-1"
    assert new.state.user_token.expires_at == NOW + 86400


def test_a_token_that_another_process_has_stored_meanwhile_is_used() -> None:
    def store(other: World) -> None:
        other.state = other.state._replace(user_token=token("user-of-another"))

    ours = world(urls(), parts(), COMPLETED, user=False, while_waiting=store)

    run(ours)

    assert set(ours.bearers(Operation.UPLOAD)) == {"user-of-another"}
    assert "user token" not in ours.operations


def test_a_token_that_is_rejected_is_replaced() -> None:
    second = answer(200, {"access_token": "user-2", "expires_in": 86400})
    ours = world(answer(401, {"detail": "TOKEN_EXPIRED"}), second, urls(), parts(), COMPLETED)

    assert run(ours) == DOWNLOAD
    assert ours.bearers(Operation.UPLOAD) == ["user-1", "user-2", "user-2"]


def test_a_partner_token_that_is_rejected_is_replaced() -> None:
    ours = world(answer(401), token_answer("partner-2"), USER_TOKEN, urls(), parts(), COMPLETED, user=False)

    assert run(ours) == DOWNLOAD
    assert ours.bearers(Operation.USER_TOKEN) == ["partner", "partner-2"]


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(NOT_SENT, id="refused"),
        pytest.param(LOST, id="cut"),
        pytest.param(answer(500), id="500"),
        pytest.param(answer(503, b"<Error>SlowDown</Error>"), id="503"),
        pytest.param(answer(429), id="429"),
        pytest.param(answer(200, b""), id="no ETag"),
    ],
)
def test_only_the_part_that_failed_is_sent_again(trouble: Answer) -> None:
    first = [part('"e1"'), trouble, part('"e3"'), part('"e2"'), part('"e4"'), part('"e5"')]
    ours = world(urls(), first, COMPLETED)

    assert run(ours) == DOWNLOAD

    assert sent_parts(ours) == ["1/1", "1/2", "1/3", "1/2", "1/4", "1/5"]
    listed = json_of(ours.sent[-1])["part_list"]
    assert [one["ETag"] for one in listed] == [f'"e{number}"' for number in range(1, PARTS + 1)]


def test_no_more_than_a_few_parts_are_sent_at_once() -> None:
    sent: list[int] = []
    ours = world(urls(), parts(), COMPLETED)

    run(ours, check=lambda: sent.append(len(sent_parts(ours))))

    assert sent == [0, PARTS_AT_ONCE]


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param([part(), answer(403, b"<Error>Request has expired</Error>"), part()], id="urls expired"),
        pytest.param([part(), answer(404, b"<Error>NoSuchUpload</Error>"), part()], id="upload is gone"),
        pytest.param([*parts(), answer(400, {"detail": "INVALID_PART"})], id="a wrong ETag"),
        pytest.param([*parts(), LOST, answer(404, {"detail": "NOT_FOUND"})], id="the answer was lost"),
    ],
)
def test_an_upload_that_is_lost_is_begun_anew_once(lost: list[Answer]) -> None:
    ours = world(urls(), lost, urls(round_=2), parts(), COMPLETED)

    assert run(ours) == DOWNLOAD
    assert sent_parts(ours)[-PARTS:] == [f"2/{number}" for number in range(1, PARTS + 1)]
    assert json_of(ours.sent[-1])["upload_id"] == "u2"


def test_what_has_arrived_is_not_sent_again_by_whoever_goes_on() -> None:
    killed = Sound()
    with pytest.raises(PlaudStoppedError):
        run(world(urls(), parts(PARTS_AT_ONCE)), killed, check=stop_at(2))
    [left] = killed.kept

    ours = world(parts()[PARTS_AT_ONCE:], COMPLETED)
    assert run(ours, Sound(left)) == DOWNLOAD

    assert sent_parts(ours) == ["1/4", "1/5"]
    assert json_of(ours.sent[-1])["upload_id"] == "u1"
    assert [one["ETag"] for one in json_of(ours.sent[-1])["part_list"]] == [
        f'"e{number}"' for number in range(1, PARTS + 1)
    ]


@pytest.mark.parametrize(
    "refused",
    [
        # The URLs have expired; another process has completed it.
        [answer(403, b"<Error/>"), part()],
        [*parts(2), answer(400, {"detail": "NoSuchUpload"})],
    ],
)
def test_what_cannot_be_gone_on_with_is_begun_anew(refused: list[Answer]) -> None:
    left = BegunUpload(
        "f", "u0", CHUNK, [f"https://s3.example/0/{number}" for number in range(1, 6)], ["e"] * 3
    )
    ours = world(refused, urls(), parts(), COMPLETED)

    assert run(ours, Sound(left)) == DOWNLOAD

    assert sent_parts(ours) == ["0/4", "0/5", *(f"1/{number}" for number in range(1, 6))]


def test_one_that_is_lost_again_is_given_up() -> None:
    refused = answer(400, {"detail": "INVALID_PART"})
    ours = world(urls(), parts(), refused, urls(round_=2), parts(), refused)

    with pytest.raises(PlaudRequestError, match=r"400 \(INVALID_PART\).*nothing is paid for"):
        run(ours)


@pytest.mark.parametrize("trouble", [LOST, answer(500), answer(429), answer(200, b"<html>"), answer(502)])
@pytest.mark.parametrize("at", [0, 1 + PARTS])
def test_what_passes_is_asked_again(trouble: Answer, at: int) -> None:
    usual: list[Answer] = [urls(), *parts(), COMPLETED]
    ours = world([*usual[:at], trouble, *usual[at:]])

    assert run(ours) == DOWNLOAD
    assert len(ours.slept) == 1
    assert len(ours.returned) == 3


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([NOT_SENT], PlaudConnectionError),
        ([LOST], PlaudConnectionError),
        ([answer(500)], PlaudServerError),
        ([answer(429)], PlaudRateLimitError),
        ([answer(401)], PlaudTokenRejectedError),
        ([answer(200, b"<html>")], PlaudResponseError),
        ([urls(), answer(500)], PlaudServerError),
        ([urls(), NOT_SENT], PlaudConnectionError),
    ],
)
def test_what_does_not_pass_is_given_up_after_as_many_attempts(
    answers: list[Answer], kind: type[PlaudError]
) -> None:
    user_token = answer(200, {"access_token": "user-2", "expires_in": 86400})
    is_rejection = isinstance(answers[-1], Response) and answers[-1].status == 401
    stored = [answers[-1], user_token] * 3 if is_rejection else []
    ours = world(answers[:-1], stored, then=answers[-1], attempts=3)

    with pytest.raises(kind) as caught:
        run(ours)
    assert not any(secret in str(caught.value) for secret in SECRETS)
    assert len(ours.slept) == 2


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (answer(400, {"detail": "FILE_TYPE_INVALID"}), FileTypeRefusedError),
        (answer(200, {"detail": "FILE_TYPE_INVALID"}), FileTypeRefusedError),
        (answer(422, {"detail": [{"loc": ["body", "filesize"]}]}), PlaudRequestError),
        (answer(200, {"detail": "QUOTA_EXCEEDED"}), PlaudRequestError),
        (answer(403, {"detail": "FORBIDDEN"}), PlaudAccessError),
        (answer(307, location="https://elsewhere.example/"), PlaudRedirectError),
        (TransportFailure("no such authority", sent=False, passing=False), PlaudCertificateError),
    ],
)
def test_a_refusal_ends_it_at_once(refusal: Answer, kind: type[PlaudError]) -> None:
    ours = world(refusal)

    with pytest.raises(kind):
        run(ours)
    assert ours.slept == []
    assert sent_parts(ours) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"Parts": []},
        {"Parts": None},
        {"FileId": None},
        {"UploadId": ""},
        {"ChunkSize": 0},
        {"ChunkSize": 10**12},
        {"ChunkSize": 20},
        {"Parts": [{"PartNumber": 1, "PresignedUrl": "https://s3.example/1"}] * PARTS},
        {"Parts": [{"PartNumber": n, "PresignedUrl": f"http://s3.example/{n}"} for n in range(1, PARTS + 1)]},
        {"Parts": [{"PartNumber": n, "PresignedUrl": f"http://127.0.0.1/{n}"} for n in range(1, PARTS + 1)]},
        {"Parts": [{"PartNumber": n, "PresignedUrl": f"https://a:b@s3.example/{n}"} for n in range(1, 6)]},
        {"Parts": [{"PartNumber": n, "PresignedUrl": None} for n in range(1, PARTS + 1)]},
        {"Parts": ["https://s3.example/1"] * PARTS},
    ],
)
def test_where_not_every_byte_would_have_its_place_nothing_is_sent(wrong: dict[str, Any]) -> None:
    ours = world(then=urls(**wrong), attempts=2)

    with pytest.raises(PlaudResponseError):
        run(ours)
    assert sent_parts(ours) == []


def test_other_words_are_understood() -> None:
    named = [
        {"part_number": str(number), "presigned_url": f"https://s3.example/1/{number}"}
        for number in range(PARTS, 0, -1)
    ]
    begun = answer(200, {"data": {"file_id": "f", "upload_id": "u", "chunk_size": "10", "parts": named}})
    ended = answer(201, {"data": {"download_url": DOWNLOAD}})
    ours = world(begun, parts(), ended)

    assert run(ours) == DOWNLOAD
    assert sent_parts(ours) == [f"1/{number}" for number in range(1, PARTS + 1)]


@pytest.mark.parametrize("url", [None, "", "ftp://files.example/f", "http://files.example/f", "/f", 7])
def test_without_a_url_to_submit_it_has_failed(url: object) -> None:
    ours = world(urls(), parts(), then=answer(200, {"FileId": "f", "DownloadUrl": url}), attempts=2)

    with pytest.raises(PlaudResponseError):
        run(ours)


@pytest.mark.parametrize("hook", ["check", "confirm"])
def test_whoever_ends_it_keeps_it_from_being_completed(hook: str) -> None:
    def end() -> None:
        raise PlaudStoppedError("ended")

    ours = world(urls(), parts())

    with pytest.raises(PlaudStoppedError):
        run(ours, **{hook: end})
    assert ours.operations.count("upload") == 1


def test_a_user_token_is_no_token_request_of_the_minute() -> None:
    calls = tuple(NOW - 1 for _ in range(TOKEN_CALLS_A_MINUTE))
    ours = world(USER_TOKEN, urls(), parts(), COMPLETED, user=False)
    ours.state = ours.state._replace(calls=calls)

    assert run(ours) == DOWNLOAD
    assert ours.slept == []
