from __future__ import annotations

from contextlib import suppress
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.api.calls import get_transcription
from plaud_provider.api.effects import Operation, Response, TokenState, TransportFailure
from plaud_provider.api.models import Transcription
from plaud_provider.exceptions import (
    PlaudCertificateError,
    PlaudConnectionError,
    PlaudError,
    PlaudInputError,
    PlaudNotFoundError,
    PlaudRateLimitError,
    PlaudRedirectError,
    PlaudRequestError,
    PlaudResponseError,
    PlaudServerError,
    PlaudTokenRejectedError,
)
from tests.unit.api.driver import ACCOUNT, LOST, NOT_SENT, NOW, Answer, World, answer, token, token_answer

PROCESSING = answer(200, {"transcriptionId": "txn_1", "status": "processing"})


def get(world: World, transcription_id: str = "txn_1") -> Transcription:
    return world.run(get_transcription(ACCOUNT, transcription_id, world.policy))


def world_with_token(*answers: Answer, **policy: object) -> World:
    return World(answers, stored=token("stored"), **policy)  # type: ignore[arg-type]


def test_the_request_is_that_of_the_contract() -> None:
    world = world_with_token(answer(200, {"transcriptionId": "txn_Aa0-_.~9", "status": "processing"}))

    get(world, "txn_Aa0-_.~9")

    [request] = world.sent
    assert request.method == "GET"
    assert request.url == "https://openapi.plaud.ai/open/partner/ai/transcriptions/txn_Aa0-_.~9"
    assert request.headers["Authorization"] == "Bearer stored"
    assert request.body is None


def test_a_token_that_plaud_rejects_is_replaced_and_the_request_sent_again() -> None:
    world = world_with_token(answer(401), token_answer("second"), PROCESSING)

    assert get(world).transcription_id == "txn_1"
    assert world.operations == ["get", "refresh", "get"]
    assert world.bearers(Operation.GET) == ["stored", "second"]
    assert world.slept == []


def test_new_tokens_that_plaud_rejects_cost_one_token_request_however_often_it_is_tried() -> None:
    answers = [answer(401), token_answer("second")]
    world = World(answers, then=answer(401), stored=token("stored"), base_delay=0.1, max_delay=0.1)

    for _ in range(5):
        with pytest.raises(PlaudTokenRejectedError, match="Plaud accepts only the newest") as caught:
            get(world)
        assert caught.value.status_code == 401
    assert world.operations.count("refresh") == 1


def test_a_401_that_passes_is_waited_out_with_the_same_token() -> None:
    """Plaud may know a token a little later than it has issued it."""
    world = world_with_token(answer(401), token_answer("second"), *[answer(401)] * 4, PROCESSING)

    assert get(world).transcription_id == "txn_1"
    assert world.bearers(Operation.GET) == ["stored", *["second"] * 5]
    assert len(world.slept) == 4


def test_a_401_for_a_token_that_another_process_stored_long_ago_is_no_failure() -> None:
    """All tokens of a client can be revoked at once, also one that this process has not tried yet."""
    world = world_with_token(answer(401), answer(401), token_answer("third"), PROCESSING)

    def another_has_renewed(world: World) -> None:
        if world.bearers(Operation.GET) == ["stored"]:
            world.state = TokenState(token("of another"))

    world.while_waiting = another_has_renewed

    assert get(world).transcription_id == "txn_1"
    assert world.bearers(Operation.GET) == ["stored", "of another", "third"]


def test_tokens_of_others_that_are_rejected_in_a_row_end_the_call() -> None:
    world = World(then=answer(401), stored=token("stored"))

    def another_renews_each_time(world: World) -> None:
        world.state = TokenState(token(f"of another {len(world.sent)}"))

    world.while_waiting = another_renews_each_time

    with pytest.raises(PlaudTokenRejectedError):
        get(world)
    assert world.operations == ["get"] * 7


def test_a_token_that_expires_while_the_call_sleeps_is_renewed_before_the_next_attempt() -> None:
    world = World(
        [answer(503, retry_after="60"), token_answer("second"), PROCESSING],
        stored=token("first", left=30, lifetime=60),
    )

    get(world)

    assert world.bearers(Operation.GET) == ["first", "second"]


def test_each_attempt_may_have_its_token_replaced() -> None:
    """With tokens of two seconds a call that has to wait outlives more than one of them."""
    world = world_with_token(
        answer(401), token_answer("b"), answer(500), answer(401), token_answer("c"), answer(500), PROCESSING
    )

    assert get(world).transcription_id == "txn_1"


@pytest.mark.parametrize("status", [201, 202, 203])
def test_which_2xx_is_answered_does_not_matter(status: int) -> None:
    """The contract names no status codes."""
    world = World([Response(status, {}, token_answer("t").body), Response(status, {}, PROCESSING.body)])

    assert get(world).transcription_id == "txn_1"


@pytest.mark.parametrize("status", [404, 410])
def test_404_is_not_found_at_once(status: int) -> None:
    world = world_with_token(answer(status, {"error": "not_found"}))

    with pytest.raises(PlaudNotFoundError, match="txn_1") as caught:
        get(world)

    assert caught.value.status_code == status
    assert len(world.sent) == 1


@pytest.mark.parametrize("body", [b"", b"<html>no route</html>", b"[]", b"null", b"not found"])
@pytest.mark.parametrize("status", [400, 403, 404, 410, 451])
def test_a_page_that_is_not_plauds_says_nothing_about_a_transcription(status: int, body: bytes) -> None:
    world = world_with_token(answer(status, body))

    with pytest.raises(PlaudServerError, match="proxy") as caught:
        get(world)

    assert caught.value.status_code == status
    assert "no route" not in str(caught.value)


def test_429_waits_the_seconds_that_it_asks_for() -> None:
    world = world_with_token(answer(429, retry_after="17"), PROCESSING)

    get(world)

    assert 17 <= world.slept[0] <= 17 * 1.1


def test_429_waits_for_the_moment_that_it_asks_for() -> None:
    world = world_with_token(answer(429, retry_after=formatdate(NOW + 40, usegmt=True)), PROCESSING)

    get(world)

    assert 40 <= world.slept[0] <= 44


@pytest.mark.parametrize("asked", ["86400", formatdate(NOW + 86400, usegmt=True)])
def test_a_retry_after_of_a_day_is_cut_to_two_minutes(asked: str) -> None:
    world = world_with_token(answer(429, retry_after=asked), PROCESSING)

    get(world)

    assert 120 <= world.slept[0] <= 132


@given(
    st.text() | st.integers().map(str) | st.floats().map(str) | st.datetimes().map(lambda d: d.strftime("%c"))
)
def test_whatever_retry_after_says_the_call_waits_a_bounded_time_and_goes_on(asked: str) -> None:
    world = world_with_token(answer(429, retry_after=asked), PROCESSING)

    get(world)

    assert 0 <= world.slept[0] <= 132


@pytest.mark.parametrize("asked", ["0", formatdate(NOW - 500, usegmt=True)])
def test_at_once_is_no_reason_to_use_up_all_attempts_in_a_moment(asked: str) -> None:
    world = world_with_token(*[answer(429, retry_after=asked)] * 6, base_delay=4.0)

    with pytest.raises(PlaudRateLimitError):
        get(world)

    assert sum(world.slept) > 10


def test_429_to_the_end_says_so() -> None:
    world = world_with_token(*[answer(429, retry_after="1")] * 6)

    with pytest.raises(PlaudRateLimitError, match="requests per minute") as caught:
        get(world)

    assert caught.value.status_code == 429
    assert len(world.sent) == 6


@pytest.mark.parametrize("status", [103, 408, 425, 500, 502, 503, 504, 599])
def test_what_may_pass_is_tried_six_times_with_growing_jittered_pauses(status: int) -> None:
    world = world_with_token(*[answer(status)] * 6)

    with pytest.raises(PlaudServerError, match=str(status)) as caught:
        get(world)

    assert caught.value.status_code == status
    assert len(world.sent) == 6
    assert all(0 <= pause <= 2**index for index, pause in enumerate(world.slept))
    assert len(set(world.slept)) == 5


def test_a_backoff_is_never_longer_than_its_bound() -> None:
    world = world_with_token(*[answer(500)] * 12, attempts=12, max_delay=3.0)

    with pytest.raises(PlaudServerError):
        get(world)

    assert max(world.slept) <= 3.0


@pytest.mark.parametrize("broken", [NOT_SENT, LOST])
def test_a_broken_connection_is_tried_again(broken: TransportFailure) -> None:
    world = world_with_token(broken, broken, PROCESSING)

    assert get(world).transcription_id == "txn_1"
    assert len(world.slept) == 2


def test_a_broken_connection_to_the_end_says_why() -> None:
    world = world_with_token(*[NOT_SENT] * 6)

    with pytest.raises(PlaudConnectionError, match="the connection was refused"):
        get(world)


def test_what_cannot_pass_is_not_tried_again() -> None:
    world = world_with_token(TransportFailure("its certificate has expired", sent=False, passing=False))

    with pytest.raises(PlaudCertificateError, match="certificate has expired"):
        get(world)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"transcriptionId": "txn_1", "status": "comple',
        b"[]",
        b'"canary"',
        b"\xff\xfe\x00canary",
        b'{"transcriptionId": "txn_1"}',
        b'{"transcriptionId": "txn_1", "status": ""}',
        b'{"transcriptionId": "txn_1", "status": 7}',
        b'{"transcriptionId": "a/../b", "status": "processing"}',
        b'{"transcriptionId": "txn_1", "status": "completed", "segments": "canary"}',
    ],
)
def test_an_answer_that_breaks_the_contract_is_asked_for_three_times_and_not_quoted(body: bytes) -> None:
    world = world_with_token(*[answer(200, body)] * 3)

    with pytest.raises(PlaudResponseError) as caught:
        get(world)

    assert len(world.sent) == 3
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "page",
    [
        answer(200, b""),
        answer(204, b" "),
        answer(200, b"\n<html>canary</html>"),
        answer(200, b"Come back later, canary", content_type="text/html; charset=utf-8"),
    ],
)
def test_a_page_with_a_200_is_a_gateway_s_and_says_nothing_about_a_transcription(page: Response) -> None:
    """A wait never gives a transcription up for it."""
    world = world_with_token(page, page, page)

    with pytest.raises(PlaudServerError, match="a page that is not Plaud's") as caught:
        get(world)

    assert len(world.sent) == 3
    assert "canary" not in str(caught.value)


def test_a_page_with_a_200_may_pass() -> None:
    world = world_with_token(answer(200, b"<html>"), PROCESSING)

    assert get(world).transcription_id == "txn_1"


def test_a_transcription_whose_type_is_said_to_be_html_is_read() -> None:
    world = world_with_token(Response(200, {"content-type": "text/html"}, PROCESSING.body))

    assert get(world).transcription_id == "txn_1"


def test_a_broken_answer_may_pass() -> None:
    world = world_with_token(answer(200, b"{"), PROCESSING)

    assert get(world).transcription_id == "txn_1"


def test_the_answer_for_another_transcription_is_refused() -> None:
    other = answer(200, {"transcriptionId": "txn_2", "status": "completed", "text": "canary"})
    world = world_with_token(other, other, other)

    with pytest.raises(PlaudResponseError, match="txn_2 where txn_1"):
        get(world)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_refused_at_once(status: int) -> None:
    world = world_with_token(answer(status, location="https://evil.example/"))

    with pytest.raises(PlaudRedirectError) as caught:
        get(world)

    assert len(world.sent) == 1
    assert "evil" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 403, 405, 409, 422])
def test_a_refusal_is_final(status: int) -> None:
    world = world_with_token(answer(status, {"error": {"code": "no_way", "message": "canary"}}))

    with pytest.raises(PlaudRequestError, match=rf"{status} \(no_way\)") as caught:
        get(world)

    assert caught.value.status_code == status
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        ({"error": "quota_exceeded"}, " (quota_exceeded)"),
        ({"code": "E1001"}, " (E1001)"),
        ({"error": {"code": "x.y-z"}}, " (x.y-z)"),
        ({"error": "a sentence"}, ""),
        ({"error": "a" * 65}, ""),
        ({"error": ["list"]}, ""),
    ],
)
def test_only_a_bare_code_is_quoted_from_a_refusal(payload: object, shown: str) -> None:
    world = world_with_token(answer(422, payload))

    with pytest.raises(PlaudRequestError) as caught:
        get(world)

    assert f"with 422{shown}. Nothing" in str(caught.value)


@pytest.mark.parametrize(
    "transcription_id",
    [
        "",
        ".",
        "..",
        "../a",
        "a/../b",
        "a%2f..%2fb",
        "a\r\nX: y",
        "a\x00",
        "a" * 256,
        None,
    ],
)
def test_an_id_that_could_change_the_path_is_refused_before_any_request(transcription_id: str) -> None:
    world = World()

    with pytest.raises(PlaudInputError, match="Nothing was sent"):
        get(world, transcription_id)

    assert world.sent == []


responses = st.builds(
    Response,
    st.sampled_from([200, 204, 301, 400, 401, 403, 404, 408, 418, 429, 500, 503, 600]),
    st.dictionaries(st.sampled_from(["retry-after", "location"]), st.text(max_size=20)),
    st.sampled_from([PROCESSING.body, token_answer("t").body, b"", b"{", b"<html>", b'{"access_token": 1}']),
)
failures = st.builds(TransportFailure, st.just("broken"), sent=st.booleans(), passing=st.booleans())


@given(st.lists(responses | failures, max_size=40), st.sampled_from([None, "stored"]))
def test_whatever_plaud_answers_a_call_ends_with_a_transcription_or_a_plaud_error(
    answers: list[Answer], stored: str | None
) -> None:
    world = World(answers, then=answer(503), stored=token(stored) if stored else None)

    with suppress(PlaudError):
        assert get(world).transcription_id == "txn_1"
    assert sum(operation == "get" for operation in world.operations) <= 18
