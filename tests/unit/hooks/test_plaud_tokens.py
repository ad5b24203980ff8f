"""Tokens through the hooks: renewals, refusals, and many calls at once, in one process and in many."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest

from plaud_provider.api.retry import RetryPolicy
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import PlaudAuthenticationError, PlaudRateLimitError, PlaudTokenRejectedError
from plaud_provider.hooks.plaud import PlaudAsyncHook, PlaudHook
from tests.unit.hooks.conftest import FAST, LIMITS, Client, Inject, outcomes, reached
from tests.unit.hooks.herd import stampede


def token_calls(plaud: EmulatorServer) -> list[tuple[str, object]]:
    return [(kind, status) for kind, status in outcomes(plaud) if kind in ("exchange", "refresh")]


def test_a_token_that_expires_mid_wait_is_refreshed_and_the_wait_goes_on(
    plaud: EmulatorServer, client: Client, txn: str
) -> None:
    plaud.expire_tokens()

    assert client.get(txn).transcription_id == txn
    assert outcomes(plaud) == [("get", 401), ("refresh", 200), ("get", 200)]


def test_a_submit_with_an_expired_token_is_accepted_once(
    plaud: EmulatorServer, client: Client, txn: str
) -> None:
    plaud.expire_tokens()

    client.submit()

    assert outcomes(plaud) == [("submit", 401), ("refresh", 200), ("submit", 200)]
    assert plaud.summary()["submits_accepted"] == 1


def test_a_refused_refresh_is_followed_by_one_exchange(
    plaud: EmulatorServer, client: Client, txn: str
) -> None:
    plaud.expire_tokens(refresh_tokens=True)

    assert client.get(txn).transcription_id == txn
    assert token_calls(plaud) == [("refresh", 401), ("exchange", 200)]


def test_a_lost_answer_to_a_refresh_is_followed_by_one_exchange(
    plaud: EmulatorServer, inject: Inject, client: Client, txn: str
) -> None:
    """The refresh token has rotated and the new one is lost."""
    plaud.expire_tokens()
    inject("refresh", "drop_after")

    assert client.get(txn).transcription_id == txn
    assert token_calls(plaud) == [("refresh", "dropped"), ("exchange", 200)]


def test_rotation_keeps_the_newest_refresh_token(
    plaud: EmulatorServer, open_client: Callable[..., Client], txn: str
) -> None:
    # Tokens that are rejected one after the other are replaced once a minute.
    client = open_client(minute=0.001)
    for _ in range(3):
        plaud.expire_tokens()
        client.get(txn)

    assert token_calls(plaud) == [("refresh", 200)] * 3


def test_a_token_that_is_rejected_for_some_time_after_its_refresh_is_tried_again(
    plaud: EmulatorServer, inject: Inject, client: Client, txn: str
) -> None:
    inject("get", "reject_token", times=4)

    assert client.get(txn).transcription_id == txn
    assert outcomes(plaud) == [("get", 401), ("refresh", 200), *[("get", 401)] * 3, ("get", 200)]


def test_tokens_that_are_rejected_whatever_is_done_cost_one_token_request(
    plaud: EmulatorServer, open_client: Callable[..., Client], txn: str
) -> None:
    plaud.inject({"match": {"kind": "get"}, "action": "reject_token", "times": None})

    for _ in range(5):
        with pytest.raises(PlaudTokenRejectedError, match="a quarter of a minute after"):
            open_client().get(txn)
    assert token_calls(plaud) == [("refresh", 200)]


def test_a_wrong_secret_costs_one_token_call_and_says_what_to_check(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch, open_client: Callable[..., Client]
) -> None:
    connection = {**json.loads(plaud.airflow_connection), "password": "wrong-secret-canary"}
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))

    for _ in range(3):
        with pytest.raises(PlaudAuthenticationError, match="credentials belong to one region") as caught:
            open_client().submit()
        assert "wrong-secret-canary" not in str(caught.value)

    assert outcomes(plaud) == [("exchange", 401)]


def test_a_wrong_secret_does_no_harm_to_tasks_with_the_right_one(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch, client: Client, txn: str
) -> None:
    connection = {**json.loads(plaud.airflow_connection), "password": "wrong-secret"}
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_WRONG", json.dumps(connection))
    for _ in range(3):
        with pytest.raises(PlaudAuthenticationError):
            PlaudHook("plaud_wrong").get_transcription(txn)
        client.get(txn)

    assert token_calls(plaud) == [("exchange", 401)]


def test_a_corrected_secret_works_at_once(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    right = plaud.airflow_connection
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps({**json.loads(right), "password": "wrong"}))
    with pytest.raises(PlaudAuthenticationError):
        client.submit()

    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", right)

    assert client.submit().transcription_id


def test_429_on_the_token_call_is_waited_out(plaud: EmulatorServer, inject: Inject, client: Client) -> None:
    inject("exchange", "status", status=429, headers={"Retry-After": "1"}, times=2)

    client.submit()

    assert token_calls(plaud) == [("exchange", 429), ("exchange", 429), ("exchange", 200)]


def test_429_on_the_token_call_to_the_end_says_what_the_limit_is(
    plaud: EmulatorServer, inject: Inject, client: Client
) -> None:
    inject("exchange", "status", status=429, times=6)

    with pytest.raises(PlaudRateLimitError, match="10 a minute"):
        client.submit()

    assert plaud.ledger(kind="submit") == []


@pytest.mark.parametrize("expires_in", [None, 0, -5, "soon", "2", 1e308, [1], True])
def test_whatever_expires_in_says_the_token_is_used(
    plaud: EmulatorServer, inject: Inject, client: Client, expires_in: object
) -> None:
    inject("exchange", "patch", patch={"expires_in": expires_in})

    client.get(client.submit().transcription_id)

    assert token_calls(plaud) == [("exchange", 200)]


def test_a_missing_expires_in_does_not_matter(plaud: EmulatorServer, inject: Inject, client: Client) -> None:
    inject("exchange", "patch", remove=["expires_in", "refresh_token", "token_type"])

    client.get(client.submit().transcription_id)

    assert token_calls(plaud) == [("exchange", 200)]


def test_an_html_page_in_place_of_a_token_is_asked_for_again(
    plaud: EmulatorServer, inject: Inject, client: Client
) -> None:
    inject("exchange", "html", times=2)

    assert client.submit().transcription_id


def test_fifty_threads_whose_token_expired_make_one_token_call(plaud: EmulatorServer, txn: str) -> None:
    together = Barrier(50)
    with PlaudHook(limits=LIMITS, retry_policy=FAST) as hook, ThreadPoolExecutor(50) as pool:
        hook.get_transcription(txn)
        plaud.expire_tokens()

        def get(_: int) -> str:
            together.wait()
            return hook.get_transcription(txn).transcription_id

        assert set(pool.map(get, range(50))) == {txn}

    assert token_calls(plaud) == [("refresh", 200)]
    assert Counter(outcomes(plaud))["get", 200] == 51


async def test_fifty_tasks_that_are_rejected_at_once_make_one_token_call(
    plaud: EmulatorServer, txn: str
) -> None:
    fault = plaud.inject({"match": {"kind": "get"}, "action": "reject_token", "times": 50})
    # Nobody is answered before all have asked.
    plaud.inject({"match": {"kind": "get"}, "action": "delay", "seconds": 0.3, "times": 50})

    async with PlaudAsyncHook(limits=LIMITS, retry_policy=FAST) as hook:
        got = await asyncio.gather(*(hook.get_transcription(txn) for _ in range(50)))

    assert {transcription.transcription_id for transcription in got} == {txn}
    assert fault.consumed == 50
    assert token_calls(plaud) == [("refresh", 200)]
    assert Counter(outcomes(plaud))["get", 200] == 50


async def test_one_rejected_call_of_fifty_costs_one_token_call(plaud: EmulatorServer, txn: str) -> None:
    fault = plaud.inject({"match": {"kind": "get"}, "action": "reject_token", "skip": 25})

    async with PlaudAsyncHook(limits=LIMITS, retry_policy=FAST) as hook:
        await asyncio.gather(*(hook.get_transcription(txn) for _ in range(50)))

    assert fault.consumed == 1
    assert token_calls(plaud) == [("refresh", 200)]


async def test_fifty_tasks_of_a_client_that_has_lost_its_access_do_not_ask_fifty_times(
    plaud: EmulatorServer, txn: str
) -> None:
    plaud.inject({"match": {"kind": "get"}, "action": "reject_token", "times": None})

    async with PlaudAsyncHook(limits=LIMITS, retry_policy=FAST) as hook:
        ended = await asyncio.gather(
            *(hook.get_transcription(txn) for _ in range(50)), return_exceptions=True
        )

    assert {type(error) for error in ended} == {PlaudTokenRejectedError}
    assert token_calls(plaud) == [("refresh", 200)]


async def test_a_hook_that_outlived_two_renewals_of_others_goes_on(plaud: EmulatorServer, txn: str) -> None:
    """Both the token it remembers and the one it finds have been revoked."""
    async with PlaudAsyncHook(limits=LIMITS, retry_policy=FAST, minute=0.001) as hook:
        await hook.get_transcription(txn)
        plaud.expire_tokens()
        await asyncio.to_thread(PlaudHook().get_transcription, txn)
        plaud.expire_tokens()

        assert (await hook.get_transcription(txn)).transcription_id == txn


def test_thirty_two_processes_with_an_empty_cache_make_one_exchange(plaud: EmulatorServer) -> None:
    got = stampede(32, call="submit")

    assert all(outcome.startswith("txn_") for outcome in got)
    assert len(got) == 32
    assert token_calls(plaud) == [("exchange", 200)]


def test_sixteen_processes_with_a_wrong_secret_make_one_token_call(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {**json.loads(plaud.airflow_connection), "password": "wrong"}
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))

    assert stampede(16, call="submit") == ["PlaudAuthenticationError"] * 16
    assert outcomes(plaud) == [("exchange", 401)]


def test_sixteen_processes_that_are_told_to_wait_do_not_stampede(
    plaud: EmulatorServer, inject: Inject
) -> None:
    inject("exchange", "status", status=429, headers={"Retry-After": "1"})

    got = stampede(16, call="submit")

    assert all(outcome.startswith("txn_") for outcome in got)
    assert token_calls(plaud) == [("exchange", 429), ("exchange", 200)]


def test_six_processes_ask_a_token_service_that_fails_ten_times_a_minute(plaud: EmulatorServer) -> None:
    plaud.inject({"match": {"kind": "exchange"}, "action": "status", "status": 503, "times": None})
    minute = 2.0

    assert stampede(6, call="submit", again=3, minute=minute) == ["PlaudServerError"] * 18

    moments = [entry["emulated_seconds"] for entry in plaud.ledger(kind="exchange")]
    worst = max(sum(0 <= other - moment < minute for other in moments) for moment in moments)
    assert len(moments) > 10
    assert worst <= 10


def test_two_hosts_that_take_each_other_s_token_stop_asking(plaud: EmulatorServer, tmp_path: Path) -> None:
    """Each new token ends the life of the one before, as with a client that may have one."""
    for kind in ("exchange", "refresh"):
        plaud.inject({"match": {"kind": kind}, "action": "expire_tokens", "times": None})
    homes = [tmp_path / "one", tmp_path / "another"]

    with ThreadPoolExecutor(2) as pool:
        host = partial(stampede, 3, call="submit", again=5)
        got = [outcome for outcomes in pool.map(lambda home: host(home=home), homes) for outcome in outcomes]

    failed = {outcome for outcome in got if not outcome.startswith("txn_")}
    assert failed <= {"PlaudTokenRejectedError"}
    assert len(failed) < len(got)
    # Each host exchanges once, and replaces a rejected token once.
    assert 2 <= len(token_calls(plaud)) <= 4


async def test_the_hooks_of_a_process_share_what_one_of_them_has_renewed(
    plaud: EmulatorServer, txn: str
) -> None:
    """25 triggers have a hook each; a token that one has renewed is not first rejected to all others."""
    async with AsyncExitStack() as hooks:
        opened = [
            await hooks.enter_async_context(PlaudAsyncHook(limits=LIMITS, retry_policy=FAST))
            for _ in range(25)
        ]
        await opened[0].get_transcription(txn)
        plaud.expire_tokens()
        await opened[0].get_transcription(txn)
        await asyncio.gather(*(hook.get_transcription(txn) for hook in opened))

    assert token_calls(plaud) == [("refresh", 200)]
    assert outcomes(plaud).count(("get", 401)) == 1


def test_processes_that_share_a_rotating_refresh_token_are_never_locked_out(
    emulator: Callable[..., EmulatorServer],
) -> None:
    """Tokens live for half a second of real time, and a refresh token works once."""
    plaud = emulator(token_seconds=2, speed=4.0, token_limit=0, request_limit=0, processing_seconds=10_000)
    with PlaudHook() as hook:
        transcription_id = hook.submit_transcription("https://bucket.example/a.wav").transcription_id

    got = stampede(4, call=transcription_id, again=25, minute=0.1)

    assert got == [transcription_id] * 100
    assert ("refresh", 401) not in token_calls(plaud)
    assert token_calls(plaud).count(("exchange", 200)) == 1


def test_a_token_of_two_seconds_lasts_through_ten(
    emulator: Callable[..., EmulatorServer], open_client: Callable[..., Client]
) -> None:
    plaud = emulator(token_seconds=2, speed=0.0, processing_seconds=10_000, token_limit=10, request_limit=60)
    client = open_client(policy=RetryPolicy(now=plaud.state.clock.now))
    transcription_id = client.submit().transcription_id

    for _ in range(20):
        plaud.advance(0.5)
        assert client.get(transcription_id).transcription_id == transcription_id

    summary = plaud.summary()
    assert summary["unauthorized_401"] == 0
    assert (summary["exchanges"], summary["refreshes"]) == (1, 5)


def test_a_clock_that_is_slower_than_plaud_s_is_no_trouble(
    emulator: Callable[..., EmulatorServer], open_client: Callable[..., Client]
) -> None:
    """For this host the token is fresh; Plaud has let it expire."""
    plaud = emulator(token_seconds=2, speed=0.0, processing_seconds=10_000)
    policy = RetryPolicy(now=lambda: 1_800_000_000.0 + plaud.state.clock.now() / 2)
    client = open_client(policy=policy, minute=0.5)
    transcription_id = client.submit().transcription_id

    for _ in range(5):
        plaud.advance(2.0)
        client.get(transcription_id)

    assert plaud.summary()["refreshes"] == 5


async def test_a_call_that_is_cancelled_while_it_renews_lets_the_next_one_in(
    plaud: EmulatorServer, txn: str
) -> None:
    plaud.expire_tokens()
    slow = plaud.inject({"match": {"kind": "refresh"}, "action": "delay", "seconds": 60})

    async with PlaudAsyncHook(limits=LIMITS, retry_policy=FAST) as hook:
        first = asyncio.create_task(hook.get_transcription(txn))
        await reached(lambda: slow.consumed == 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

        async with asyncio.timeout(15):
            assert (await hook.get_transcription(txn)).transcription_id == txn
            # And so does the lock of the host.
            plaud.expire_tokens()
            another = PlaudHook(retry_policy=FAST, minute=0.001)
            await asyncio.to_thread(another.get_transcription, txn)


async def test_a_waiting_call_that_is_cancelled_leaves_the_renewal_alone(
    plaud: EmulatorServer, txn: str
) -> None:
    plaud.expire_tokens()
    slow = plaud.inject({"match": {"kind": "refresh"}, "action": "delay", "seconds": 0.5})

    async with PlaudAsyncHook(limits=LIMITS, retry_policy=FAST) as hook:
        renewing = asyncio.create_task(hook.get_transcription(txn))
        await reached(lambda: slow.consumed == 1)
        waiting = [asyncio.create_task(hook.get_transcription(txn)) for _ in range(4)]
        await reached(lambda: outcomes(plaud).count(("get", 401)) == 5)
        for call in waiting:
            call.cancel()
        ended = await asyncio.gather(*waiting, return_exceptions=True)

        assert {type(outcome) for outcome in ended} == {asyncio.CancelledError}
        assert (await renewing).transcription_id == txn
    assert token_calls(plaud) == [("refresh", 200)]


def test_where_tokens_cannot_be_kept_a_hook_still_asks_once(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    monkeypatch.setenv("AIRFLOW_HOME", str(nowhere))
    monkeypatch.setattr("tempfile.tempdir", str(nowhere))

    # A process that cannot know of the others sends one request a minute.
    with PlaudHook(retry_policy=FAST, minute=0.2) as hook:
        transcription_id = hook.submit_transcription("https://bucket.example/a.wav").transcription_id
        for _ in range(3):
            hook.get_transcription(transcription_id)

    assert token_calls(plaud) == [("exchange", 200)]


async def test_where_tokens_cannot_be_kept_an_asynchronous_hook_still_asks_once(
    plaud: EmulatorServer, txn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    monkeypatch.setenv("AIRFLOW_HOME", str(nowhere))
    monkeypatch.setattr("tempfile.tempdir", str(nowhere))

    async with PlaudAsyncHook(limits=LIMITS, retry_policy=FAST, minute=0.05) as hook:
        await asyncio.gather(*(hook.get_transcription(txn) for _ in range(20)))
        plaud.expire_tokens()
        await asyncio.gather(*(hook.get_transcription(txn) for _ in range(20)))

    assert token_calls(plaud) == [("exchange", 200), ("refresh", 200)]
