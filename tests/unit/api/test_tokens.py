from __future__ import annotations

import json
import math
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.api.calls import get_transcription
from plaud_provider.api.effects import Response, TokenState
from plaud_provider.api.tokens import (
    DEFAULT_LIFETIME,
    MAX_LIFETIME,
    access_token,
    exchanged_token,
    is_fresh,
    parse_token,
)
from plaud_provider.exceptions import (
    PlaudAccessError,
    PlaudAuthenticationError,
    PlaudConnectionError,
    PlaudError,
    PlaudRateLimitError,
    PlaudRedirectError,
    PlaudResponseError,
    PlaudServerError,
    PlaudTokenRejectedError,
)
from tests.unit.api.driver import ACCOUNT, LOST, NOT_SENT, NOW, World, answer, token, token_answer

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def current(world: World) -> str:
    return world.run(access_token(ACCOUNT, world.policy)).access_token


def test_a_missing_token_is_exchanged_for_the_credentials_and_stored() -> None:
    world = World([token_answer("first")])

    assert current(world) == "first"
    [request] = world.sent
    assert (request.method, request.url) == ("POST", "https://openapi.plaud.ai/oauth/partner/access-token")
    basic = b64encode(b"client:secret-key-canary").decode()
    assert request.headers["Authorization"] == f"Basic {basic}"
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert world.state == TokenState(token("first", left=86400), calls=(NOW,))


def test_a_fresh_token_costs_no_request_and_no_lock() -> None:
    world = World(stored=token("stored"), while_waiting=lambda _: pytest.fail("it waited for the lock"))

    assert current(world) == "stored"
    assert world.sent == []


@pytest.mark.parametrize(
    ("lifetime", "left", "fresh"),
    [
        (86_400, 301, True),
        (86_400, 300, False),
        (600, 61, True),
        (600, 60, False),
        (2, 0.3, True),
        (2, 0.2, False),
        (2, -5, False),
    ],
)
def test_a_token_is_renewed_a_margin_before_it_expires(lifetime: float, left: float, fresh: bool) -> None:
    assert is_fresh(token("any", left=left, lifetime=lifetime), now=NOW) is fresh


def test_a_token_about_to_expire_is_refreshed_with_its_refresh_token() -> None:
    world = World([token_answer("second")], stored=token("first", left=10, refresh="r 1+&="))

    assert current(world) == "second"
    [request] = world.sent
    assert request.url == "https://openapi.plaud.ai/oauth/partner/access-token/refresh"
    assert request.headers["Authorization"].startswith("Basic ")
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.body == b"refresh_token=r+1%2B%26%3D"


def test_rotation_keeps_the_newest_refresh_token() -> None:
    world = World([token_answer("second", refresh="newer")], stored=token("first", left=10))

    current(world)

    assert world.state.token is not None
    assert world.state.token.refresh_token == "newer"


def test_a_refresh_without_a_new_refresh_token_keeps_the_old_one() -> None:
    world = World([token_answer("second", refresh=None)], stored=token("first", left=10, refresh="kept"))

    current(world)

    assert world.state.token is not None
    assert world.state.token.refresh_token == "kept"


def test_a_token_without_a_refresh_token_is_replaced_by_an_exchange() -> None:
    world = World([token_answer("second")], stored=token("first", left=10, refresh=None))

    assert current(world) == "second"
    assert world.operations == ["exchange"]


@pytest.mark.parametrize(
    "refused",
    [
        answer(400),
        answer(401),
        answer(403),
        answer(404),
        answer(500),
        answer(200, b"<html>"),
        answer(200, {}),
        LOST,
    ],
    ids=["400", "401", "403", "404", "500", "html", "no token", "answer lost"],
)
def test_a_refresh_that_goes_wrong_is_followed_by_one_exchange(refused: object) -> None:
    world = World([refused, token_answer("fresh")], stored=token("old", left=10))  # type: ignore[list-item]

    assert current(world) == "fresh"
    assert world.operations == ["refresh", "exchange"]
    assert world.slept == []


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_wrong_secret_costs_one_token_call(status: int) -> None:
    world = World([answer(status, {"error": "invalid_client"})])

    with pytest.raises(PlaudAuthenticationError, match=r"credentials belong to one region") as caught:
        current(world)

    assert world.operations == ["exchange"]
    assert caught.value.status_code == status
    assert "secret-key-canary" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_of_what_has_been_accepted_before_may_pass(status: int) -> None:
    """A gateway that restarts refuses everybody for a moment; a task may try again."""
    world = World([answer(status)] * 2, then=token_answer("later"), stored=token("first"))

    for _ in range(2):
        with pytest.raises(PlaudTokenRejectedError, match="accepted them before"):
            renewed(world, "first")
    assert world.operations == ["refresh", "exchange"]

    world.clock += 61
    assert current(world) == "later"


def test_a_refusal_is_remembered_for_whoever_comes_next_and_forgotten_after_a_minute() -> None:
    world = World([answer(401), token_answer("late")])
    with pytest.raises(PlaudAuthenticationError):
        current(world)

    world.clock += 59
    with pytest.raises(PlaudAuthenticationError, match="Check client id"):
        current(world)
    assert len(world.sent) == 1

    world.clock += 2
    assert current(world) == "late"


def test_a_clock_that_was_put_back_does_not_prolong_a_refusal() -> None:
    world = World([token_answer("asked")], stored=TokenState(refused_until=NOW + 86_400))

    assert current(world) == "asked"


def test_a_429_is_obeyed_and_stored_before_the_wait() -> None:
    world = World([answer(429, retry_after="30"), token_answer("second")], stored=token("first", left=10))

    assert current(world) == "second"
    assert world.operations == ["refresh", "refresh"]
    [pause] = world.slept
    [stored] = world.stored_while_asleep
    assert 30 <= pause <= 33
    assert stored.not_before == NOW + pause


def test_others_see_a_429_and_wait_before_they_ask() -> None:
    stored = TokenState(token("first", left=10), not_before=NOW + 42)
    world = World([token_answer("second")], stored=stored)

    assert current(world) == "second"
    assert world.slept == [42]


def test_the_state_that_is_stored_on_429_keeps_the_token() -> None:
    world = World([answer(429, retry_after="5")] * 6, stored=token("first", left=10))

    with pytest.raises(PlaudRateLimitError, match="10 a minute") as caught:
        current(world)

    assert caught.value.status_code == 429
    assert world.operations == ["refresh"] * 6
    assert world.state.token == token("first", left=10)
    assert world.state.not_before > world.clock


@pytest.mark.parametrize(
    "ahead", [TokenState(not_before=NOW + 86_400), TokenState(calls=(NOW + 86_400,) * 10)]
)
def test_a_clock_that_was_put_back_does_not_prolong_a_pause(ahead: TokenState) -> None:
    world = World([token_answer("asked")], stored=ahead)

    assert current(world) == "asked"
    assert world.slept == []


def test_whoever_waited_for_the_lock_takes_what_another_has_stored() -> None:
    def another_renews(world: World) -> None:
        world.state = TokenState(token("of another"))

    world = World(while_waiting=another_renews, stored=token("old", left=10))

    assert current(world) == "of another"
    assert world.sent == []


def renewed(world: World, rejected: str) -> str:
    call = access_token(ACCOUNT, world.policy, rejected=token(rejected))
    return world.run(call).access_token


@pytest.mark.parametrize("age", [0, 1, 3600])
def test_a_rejected_token_is_replaced_although_its_time_is_not_up(age: float) -> None:
    world = World([token_answer("second")], stored=token("first", left=86_400 - age))

    assert renewed(world, "first") == "second"


@pytest.mark.parametrize("failure", [answer(503), answer(429), LOST, answer(200, b"<html>")], ids=str)
def test_a_rejected_token_is_not_sent_again_while_there_is_no_other(failure: Response) -> None:
    """Each look would take a request of the quota, only to be rejected again."""
    world = World(then=failure, stored=token("first"), attempts=1)
    with pytest.raises(PlaudError):
        renewed(world, "first")

    world.clock += 1
    with pytest.raises(PlaudError):
        world.run(get_transcription(ACCOUNT, "txn_1", world.policy))

    assert "get" not in world.operations


def test_a_rejected_token_that_another_has_replaced_costs_no_request() -> None:
    world = World(stored=token("second"))

    assert renewed(world, "first") == "second"
    assert world.sent == []


def test_a_rejected_token_that_replaced_a_rejected_one_is_kept_for_a_while() -> None:
    """Two hosts of a client that may have one token take it from each other, but not without end."""
    world = World([token_answer("second"), token_answer("third")], stored=token("first"))
    renewed(world, "first")

    for _ in range(14):
        world.clock += 1
        assert renewed(world, "second") == "second"
    assert world.slept == []
    assert len(world.sent) == 1

    world.clock += 1
    assert renewed(world, "second") == "third"
    assert renewed(world, "third") == "third"


def test_a_token_that_replaced_an_old_one_is_not_held_to_have_replaced_a_rejected_one() -> None:
    world = World([token_answer("second"), token_answer("third")], stored=token("first", left=10))
    current(world)

    assert renewed(world, "second") == "third"


def test_a_clock_that_was_put_back_does_not_keep_a_rejected_token() -> None:
    world = World([token_answer("second"), token_answer("third")], stored=token("first"))
    renewed(world, "first")
    world.clock -= 86_400

    assert renewed(world, "second") == "third"


def requests_in_worst_minute(moments: list[float]) -> int:
    return max(sum(1 for other in moments if 0 <= other - moment < 60) for moment in moments)


class Host:
    """Calls that share a state and a clock, each in its turn; each token request takes some seconds."""

    def __init__(self, *, answer_seconds: float = 0.0) -> None:
        self.world = World()
        self.answer_seconds = answer_seconds
        self.asked: list[float] = []

    def call(self, given: Response, rejected: str | None = None, **policy: object) -> str:
        """Let one call come by a token, with one answer for all that it asks."""
        world = self.world
        world.policy = world.policy._replace(**policy)  # type: ignore[arg-type]
        world.then = given
        world.while_sending = self._note
        return renewed(world, rejected or "none")

    def _note(self, world: World) -> None:
        self.asked.append(world.clock)
        world.clock += self.answer_seconds


@pytest.mark.parametrize("status", [429, 500, 502, 503])
@pytest.mark.parametrize("answer_seconds", [0.0, 0.4, 5.0])
def test_a_token_service_that_fails_is_asked_ten_times_a_minute_whoever_asks(
    status: int, answer_seconds: float
) -> None:
    host = Host(answer_seconds=answer_seconds)
    for _ in range(60):
        with pytest.raises((PlaudServerError, PlaudRateLimitError)):
            host.call(answer(status), base_delay=0.01, max_delay=0.02, max_retry_after=0.02)
        host.world.clock += 0.5

    assert len(host.asked) > 10
    assert requests_in_worst_minute(host.asked) <= 10


def test_a_minute_of_the_limit_ends_a_minute_after_the_answer() -> None:
    """A request counts at Plaud from some moment before its answer on."""
    host = Host(answer_seconds=7.0)
    for _ in range(12):
        host.world.state = host.world.state._replace(token=None)
        host.call(token_answer("t"))

    assert host.asked[10] - host.asked[0] >= 60 + 7


def test_tokens_that_never_live_long_are_asked_for_ten_times_a_minute() -> None:
    host = Host()
    for _ in range(50):
        host.call(token_answer("t", expires_in=0.001))
        host.world.clock += 0.01

    assert requests_in_worst_minute(host.asked) == 10


def test_a_request_whose_process_is_killed_meanwhile_counts() -> None:
    class Killed(BaseException):
        pass

    def kill(world: World) -> None:
        raise Killed

    world = World(while_sending=kill)
    with pytest.raises(Killed):
        current(world)

    assert world.state.calls == (NOW,)


def test_others_do_not_ask_while_a_failure_is_remembered() -> None:
    world = World([answer(503, retry_after="20")])
    once = world.policy._replace(attempts=1)
    for _ in range(5):
        with pytest.raises(PlaudServerError, match="503") as caught:
            world.run(access_token(ACCOUNT, once))
        assert caught.value.status_code == 503

    assert len(world.sent) == 1


def test_others_wait_until_a_failure_is_over_and_take_the_token_of_whoever_asked() -> None:
    world = World(stored=TokenState(failures=4, not_before=NOW + 25, status=502))

    def another_asks(world: World) -> None:
        if world.slept:
            world.state = TokenState(token("of another"))

    world.while_waiting = another_asks

    assert current(world) == "of another"
    assert world.slept == [25]


def test_each_failure_in_a_row_is_followed_by_a_longer_pause_whoever_asked() -> None:
    world = World(then=answer(503), attempts=1)
    longest = 0.0
    for _ in range(200):
        with pytest.raises(PlaudServerError):
            current(world)
        longest = max(longest, world.state.not_before - world.clock)
        world.clock = max(world.state.not_before, world.clock + 7)

    assert longest > 20


def test_a_token_ends_the_memory_of_failures() -> None:
    world = World([token_answer("t")], stored=TokenState(failures=9, not_before=NOW - 1, status=503))

    current(world)

    assert world.state == TokenState(token("t", left=86_400), calls=(NOW,))


def test_the_lock_is_never_held_while_a_call_pauses() -> None:
    """Others would wait for as long; the driver looks at each pause."""
    world = World([answer(503, retry_after="120")] * 3 + [answer(429, retry_after="120")] * 3)

    with pytest.raises(PlaudRateLimitError):
        current(world)

    assert len(world.slept) == 5


def test_a_call_that_waits_for_another_of_its_process_takes_what_that_one_left() -> None:
    world = World()
    world.other_of_process = True

    def the_other_renews(world: World) -> None:
        world.state = TokenState(token("of the other"))

    world.while_waiting = the_other_renews

    assert current(world) == "of the other"
    assert world.sent == []


def test_a_call_whose_other_was_cancelled_renews_itself() -> None:
    world = World([token_answer("own")])
    world.other_of_process = True

    def another_is_cancelled(world: World) -> None:
        world.while_waiting = lambda world: setattr(world, "other_of_process", False)

    world.while_waiting = another_is_cancelled

    assert current(world) == "own"


def test_a_host_that_has_used_up_its_requests_says_so() -> None:
    world = World(stored=TokenState(calls=(NOW,) * 10), attempts=1)

    with pytest.raises(PlaudRateLimitError, match="10 token requests for client client within a minute"):
        current(world)


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([answer(500)] * 6, PlaudServerError),
        ([answer(503)] * 6, PlaudServerError),
        ([NOT_SENT] * 6, PlaudConnectionError),
        ([LOST] * 6, PlaudConnectionError),
        # Never what a wait may take for an answer about a transcription.
        ([answer(200, b"<html>")] * 6, PlaudConnectionError),
        ([answer(401, b"<html>")] * 6, PlaudConnectionError),
        ([answer(403, b"Blocked", content_type="text/html")] * 6, PlaudConnectionError),
        ([answer(404, b"<html>")] * 6, PlaudConnectionError),
        ([answer(200, {"access_token": "two words"})] * 6, PlaudServerError),
        ([answer(200, b"{")] * 6, PlaudServerError),
    ],
)
def test_what_may_pass_is_asked_for_six_times(answers: list[object], error: type[Exception]) -> None:
    world = World(answers)  # type: ignore[arg-type]

    with pytest.raises(error):
        current(world)

    assert len(world.sent) == 6
    assert len(world.slept) == 5


@pytest.mark.parametrize(("status", "error"), [(302, PlaudRedirectError), (404, PlaudAccessError)])
def test_what_does_not_pass_is_asked_for_once(status: int, error: type[Exception]) -> None:
    world = World([answer(status)])

    with pytest.raises(error):
        current(world)

    assert len(world.sent) == 1

    # Nor by whoever comes next.
    with pytest.raises(error):
        current(world)
    assert len(world.sent) == 1


def test_a_503_says_when_to_ask_again() -> None:
    world = World([answer(503, retry_after="20"), token_answer("t")])

    current(world)

    assert 20 <= world.slept[0] <= 22


def test_the_test_button_asks_whatever_is_stored() -> None:
    world = World([token_answer("new")], stored=token("stored"))

    assert world.run(exchanged_token(ACCOUNT, world.policy)).access_token == "new"
    assert world.operations == ["exchange"]


def test_the_test_button_asks_again_after_a_refusal_and_a_failure() -> None:
    stored = TokenState(failures=3, not_before=NOW + 20, refused_until=NOW + 50, status=401)
    world = World([token_answer("new")], stored=stored)

    assert world.run(exchanged_token(ACCOUNT, world.policy)).access_token == "new"


def test_the_token_of_the_test_button_is_stored_as_others_may_have_lost_theirs_by_it() -> None:
    world = World([token_answer("new")], stored=token("stored"))
    world.run(exchanged_token(ACCOUNT, world.policy))

    assert current(world) == "new"


def test_the_test_button_leaves_the_stored_token_alone_where_it_gets_none() -> None:
    world = World(then=answer(503), stored=token("stored"))
    with pytest.raises(PlaudServerError):
        world.run(exchanged_token(ACCOUNT, world.policy))

    assert current(world) == "stored"
    assert world.operations == ["exchange", "exchange"]


def test_the_test_button_takes_part_in_the_limit() -> None:
    world = World(then=token_answer("t"))
    for _ in range(10):
        world.run(exchanged_token(ACCOUNT, world.policy))

    with pytest.raises(PlaudRateLimitError, match="within a minute"):
        world.run(exchanged_token(ACCOUNT, world.policy))
    assert world.slept == []


def test_the_test_button_does_not_wait_for_minutes() -> None:
    world = World([answer(429, retry_after="600")] * 2)

    with pytest.raises(PlaudRateLimitError):
        world.run(exchanged_token(ACCOUNT, world.policy))

    assert sum(world.slept) < 10


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [
        (86400, 86400),
        (2, 2),
        ("7200", 7200),
        (1.5, 1.5),
        (0, DEFAULT_LIFETIME),
        (-1, DEFAULT_LIFETIME),
        (None, DEFAULT_LIFETIME),
        (True, DEFAULT_LIFETIME),
        ("soon", DEFAULT_LIFETIME),
        ("nan", DEFAULT_LIFETIME),
        ("inf", DEFAULT_LIFETIME),
        ([60], DEFAULT_LIFETIME),
        (10**400, DEFAULT_LIFETIME),
        (1e300, MAX_LIFETIME),
    ],
)
def test_a_lifetime_that_makes_no_sense_becomes_an_hour(expires_in: object, lifetime: float) -> None:
    assert parse_token(token_answer("t", expires_in=expires_in).body, now=NOW).lifetime == lifetime


@pytest.mark.parametrize(
    "told",
    [
        {"accessToken": "t", "refreshToken": "r", "expiresIn": "60"},
        {"code": 0, "data": {"access_token": "t", "refresh_token": "r", "expires_in": 60}},
        [{"access_token": "t", "refresh_token": "r", "expires_in": 60.0}],
    ],
)
def test_a_token_is_read_in_other_words_too(told: object) -> None:
    found = parse_token(json.dumps(told).encode(), now=NOW)

    assert (found.access_token, found.refresh_token, found.lifetime) == ("t", "r", 60.0)


def test_a_missing_lifetime_becomes_an_hour() -> None:
    assert parse_token(b'{"access_token": "t"}', now=NOW).expires_at == NOW + DEFAULT_LIFETIME


@given(json_values)
def test_whatever_expires_in_says_the_token_ends_within_a_month(expires_in: object) -> None:
    parsed = parse_token(token_answer("t", expires_in=expires_in).body, now=NOW)

    assert 0 < parsed.lifetime <= MAX_LIFETIME
    assert math.isclose(parsed.expires_at, NOW + parsed.lifetime)


@given(json_values)
def test_a_token_that_cannot_go_into_a_header_is_refused(value: object) -> None:
    try:
        parsed = parse_token(answer(200, {"access_token": value}).body, now=NOW)
    except PlaudResponseError:
        pass
    else:
        assert parsed.access_token == value
        assert all("!" <= character <= "~" for character in parsed.access_token)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a b", "", "töken", "a" * 9000, "a\x00", None, 5, ["a"]])
def test_these_are_no_tokens(value: object) -> None:
    with pytest.raises(PlaudResponseError, match="no usable access_token"):
        parse_token(answer(200, {"access_token": value}).body, now=NOW)


def test_neither_tokens_nor_secret_are_shown_by_repr() -> None:
    world = World([token_answer("access-canary")], stored=token("old", left=1, refresh="refresh-canary"))
    current(world)

    shown = repr((world.state, world.sent, ACCOUNT, token_answer("access-canary")))

    assert "canary" not in shown.replace("client", "")
