"""Submits and results through both hooks, against the emulator and its faults."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from plaud_provider.api.effects import SubmitPhase
from plaud_provider.api.models import Status
from plaud_provider.api.retry import RetryPolicy
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import (
    PlaudConnectionError,
    PlaudError,
    PlaudInputError,
    PlaudNotFoundError,
    PlaudRateLimitError,
    PlaudRedirectError,
    PlaudRequestError,
    PlaudResponseError,
    PlaudServerError,
    PlaudSubmitOutcomeUnknownError,
)
from plaud_provider.hooks.plaud import PlaudHook
from tests.unit.hooks.conftest import AUDIO_URL, FAST, Client, Inject, outcomes
from tests.unit.hooks.servers import TcpServer

SENDING, NOT_ACCEPTED = SubmitPhase.SENDING, SubmitPhase.NOT_ACCEPTED


def accepted(plaud: EmulatorServer) -> int:
    return int(plaud.summary()["submits_accepted"])


def test_a_submit_is_one_token_call_and_one_post(plaud: EmulatorServer, client: Client) -> None:
    transcription = client.submit()

    assert transcription.status is Status.PROCESSING
    assert transcription.created_at is not None
    assert outcomes(plaud) == [("exchange", 200), ("submit", 200)]
    [entry] = plaud.ledger(kind="submit")
    assert entry["path"] == "/open/partner/ai/transcriptions/"
    assert entry["transcription_id"] == transcription.transcription_id
    assert list(entry["body"]) == ["audioUrl"]


def test_every_argument_of_a_submit_arrives(plaud: EmulatorServer, client: Client) -> None:
    client.submit(
        "https://bucket.example/é 👋.wav",
        language="pt-BR",
        webhook_url="https://hook.example/plaud",
        speaker_diarization=True,
    )

    [entry] = plaud.ledger(kind="submit")
    assert entry["body"] == {
        "audioUrl": "https://bucket.example/é 👋.wav",
        "language": "pt-BR",
        "webhookUrl": "https://hook.example/plaud",
        "speakerDiarization": True,
    }


def test_a_result_comes_whole_and_byte_for_byte(plaud: EmulatorServer, client: Client, txn: str) -> None:
    text = "שלום 👩‍👩‍👧‍👦 e\u0301 \u2028 日本"
    plaud.force(
        txn,
        status="completed",
        text=text,
        segments=[{"start": 0, "end": 1.5, "text": text, "speaker": "Speaker 1"}],
    )

    transcription = client.get(txn)

    assert transcription.status is Status.COMPLETED
    assert transcription.text == text
    assert transcription.segments[0].text == text
    assert transcription.completed_at is not None


def test_both_hooks_share_one_token(plaud: EmulatorServer, client: Client, txn: str) -> None:
    client.get(txn)
    with PlaudHook() as hook:
        hook.get_transcription(txn)

    assert outcomes(plaud) == [("get", 200), ("get", 200)]


@pytest.mark.parametrize("transcription_id", ["../x", "a/../b", "a\r\nHost: evil", "", "a\x00"])
def test_an_id_that_could_change_the_path_is_refused_before_any_request(
    plaud: EmulatorServer, client: Client, transcription_id: str
) -> None:
    with pytest.raises(PlaudInputError):
        client.get(transcription_id)

    assert plaud.ledger() == []


@pytest.mark.parametrize("arguments", [{"language": "english"}, {"webhook_url": "http://hook.example"}])
def test_a_wrong_argument_is_found_before_anything_is_sent(
    plaud: EmulatorServer, client: Client, arguments: dict[str, Any]
) -> None:
    with pytest.raises(PlaudInputError):
        client.submit(**arguments)

    assert plaud.ledger() == []


def test_an_id_that_plaud_does_not_know_is_not_found(plaud: EmulatorServer, client: Client) -> None:
    with pytest.raises(PlaudNotFoundError, match="txn_nowhere"):
        client.get("txn_nowhere")

    assert outcomes(plaud) == [("exchange", 200), ("get", 404)]


def test_429_on_a_result_is_waited_out(
    plaud: EmulatorServer, inject: Inject, client: Client, txn: str, caplog: pytest.LogCaptureFixture
) -> None:
    inject("get", "status", status=429, headers={"Retry-After": "1"}, times=2)

    assert client.get(txn).transcription_id == txn
    assert outcomes(plaud) == [("get", 429), ("get", 429), ("get", 200)]


def test_what_the_emulator_s_limit_asks_for_is_enough(
    emulator: Callable[..., EmulatorServer], open_client: Callable[..., Client]
) -> None:
    """A minute of the emulator's takes a second here; whoever waits as long as told gets through."""
    plaud = emulator(request_limit=1, speed=60.0)
    client = open_client(policy=RetryPolicy())

    client.get(client.submit().transcription_id)

    assert outcomes(plaud) == [("exchange", 200), ("submit", 200), ("get", 429), ("get", 200)]


def test_5xx_on_a_result_is_tried_again_a_bounded_number_of_times(
    plaud: EmulatorServer, inject: Inject, client: Client, txn: str
) -> None:
    inject("get", "status", status=503, times=6)

    with pytest.raises(PlaudServerError) as caught:
        client.get(txn)

    assert caught.value.status_code == 503
    assert outcomes(plaud) == [("get", 503)] * 6


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("action", ["drop_before", "drop_after"])
def test_a_lost_result_is_asked_for_again(
    inject: Inject, client: Client, txn: str, action: str, reset: bool
) -> None:
    inject("get", action, reset=reset, times=3)

    assert client.get(txn).transcription_id == txn


@pytest.mark.parametrize(
    ("action", "how"),
    [
        ("truncate", {}),
        ("truncate", {"keep": 0}),
        ("truncate", {"reset": True}),
        ("malformed", {}),
        ("html", {"run_handler": True}),
        ("patch", {"patch": {"transcriptionId": "txn_other"}}),
        ("patch", {"remove": ["status"]}),
        ("body", {"body": ""}),
    ],
)
def test_a_broken_result_is_never_taken_for_one(
    plaud: EmulatorServer, inject: Inject, client: Client, txn: str, action: str, how: dict[str, Any]
) -> None:
    plaud.force(txn, status="completed", text="a transcript of some length, so that half of it is a lot")
    broken = inject("get", action, times=1, **how)

    transcription = client.get(txn)

    assert broken.consumed == 1
    assert transcription.text == "a transcript of some length, so that half of it is a lot"


@pytest.mark.parametrize(("action", "error"), [("malformed", PlaudResponseError), ("html", PlaudServerError)])
def test_a_result_that_stays_broken_is_an_error_that_does_not_quote_it(
    plaud: EmulatorServer,
    inject: Inject,
    client: Client,
    txn: str,
    action: str,
    error: type[PlaudError],
    caplog: pytest.LogCaptureFixture,
) -> None:
    plaud.force(txn, status="completed", text="transcript-canary")
    inject("get", action, times=3, **({"run_handler": True} if action == "html" else {}))

    with caplog.at_level(logging.DEBUG), pytest.raises(error) as caught:
        client.get(txn)

    assert "transcript-canary" not in str(caught.value) + caplog.text
    assert "Sign in" not in str(caught.value) + caplog.text


def test_a_redirect_is_refused_and_nothing_goes_where_it_leads(
    inject: Inject, client: Client, txn: str
) -> None:
    with TcpServer(lambda _: None) as elsewhere:
        inject("get", "redirect", location=f"http://127.0.0.1:{elsewhere.port}/", status=307)

        with pytest.raises(PlaudRedirectError) as caught:
            client.get(txn)

        assert elsewhere.connections == 0
    assert caught.value.status_code == 307


def test_a_redirect_to_nowhere_is_refused_all_the_same(inject: Inject, client: Client, txn: str) -> None:
    inject("get", "redirect", location="http://[not-an-address/", status=302)

    with pytest.raises(PlaudRedirectError):
        client.get(txn)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_submit_that_is_redirected_was_not_accepted(
    plaud: EmulatorServer, inject: Inject, client: Client, txn: str, status: int
) -> None:
    with TcpServer(lambda _: None) as elsewhere:
        inject("submit", "redirect", location=f"http://127.0.0.1:{elsewhere.port}/", status=status)

        with pytest.raises(PlaudRedirectError):
            client.submit()

        assert elsewhere.connections == 0
    assert outcomes(plaud) == [("submit", status)]


@pytest.mark.parametrize(
    ("action", "how"),
    [
        ("drop_after", {}),
        ("drop_after", {"reset": True}),
        ("drop_before", {}),
        ("drop_before", {"reset": True}),
        ("truncate", {"keep": 25}),
        ("truncate", {"keep": 0, "reset": True}),
        ("html", {"run_handler": True}),
        ("status", {"status": 500, "run_handler": True}),
        ("status", {"status": 503, "headers": {"Retry-After": "1"}}),
        ("status", {"status": 408}),
        ("redirect", {"status": 303, "location": "/elsewhere", "run_handler": True}),
        ("patch", {"remove": ["transcriptionId"]}),
        ("patch", {"patch": {"transcriptionId": "a\nb"}}),
        ("body", {"body": "[]"}),
    ],
)
def test_a_submit_whose_answer_is_lost_is_unknown_and_not_repeated(
    plaud: EmulatorServer, inject: Inject, client: Client, txn: str, action: str, how: dict[str, Any]
) -> None:
    inject("submit", action, **how)
    phases: list[SubmitPhase] = []

    with pytest.raises(PlaudSubmitOutcomeUnknownError, match="no way to look it up"):
        client.submit(on_phase=phases.append)

    assert len(plaud.ledger(kind="submit")) == 1
    assert phases == [SENDING]


@pytest.mark.parametrize("action", ["truncate", "malformed"])
def test_an_id_in_a_broken_answer_is_the_one_that_is_paid_for(
    plaud: EmulatorServer, inject: Inject, client: Client, txn: str, action: str
) -> None:
    inject("submit", action)

    named = client.submit().transcription_id

    assert client.get(named).transcription_id == named
    assert len(plaud.ledger(kind="submit")) == 1


def test_a_submit_that_is_over_the_limit_is_repeated_and_accepted_once(
    plaud: EmulatorServer, inject: Inject, client: Client, txn: str
) -> None:
    inject("submit", "status", status=429, headers={"Retry-After": "0"}, times=3)
    phases: list[SubmitPhase] = []
    before = accepted(plaud)

    client.submit(on_phase=phases.append)

    assert accepted(plaud) == before + 1
    assert phases == [SENDING, NOT_ACCEPTED] * 3 + [SENDING]


def test_a_submit_that_stays_over_the_limit_was_not_accepted(
    plaud: EmulatorServer, inject: Inject, client: Client, txn: str
) -> None:
    inject("submit", "status", status=429, times=6)

    with pytest.raises(PlaudRateLimitError):
        client.submit()

    assert accepted(plaud) == 0


def test_a_refused_submit_says_why_by_its_code_alone(inject: Inject, client: Client, txn: str) -> None:
    error = {"error": {"code": "unsupported_format", "message": f"cannot use {AUDIO_URL}"}}
    inject("submit", "status", status=422, body=error)

    with pytest.raises(PlaudRequestError, match=r"422 \(unsupported_format\)") as caught:
        client.submit()

    assert "canary" not in str(caught.value)


def test_a_submit_whose_connection_is_refused_was_not_accepted_and_may_be_repeated(
    connect: Callable[..., None], client: Client
) -> None:
    with TcpServer(lambda _: None) as gone:
        port = gone.port
    connect(f"http://127.0.0.1:{port}")

    with pytest.raises(PlaudConnectionError, match=r"127\.0\.0\.1") as caught:
        client.submit()

    assert not isinstance(caught.value, PlaudSubmitOutcomeUnknownError)


def test_a_note_that_cannot_be_taken_keeps_the_recording_from_being_sent(
    plaud: EmulatorServer, client: Client, txn: str
) -> None:
    def fail(_: SubmitPhase) -> None:
        raise OSError("the state store is down")

    with pytest.raises(OSError, match="the state store is down"):
        client.submit(on_phase=fail)

    assert plaud.ledger() == []


def test_the_hook_refuses_requests_that_are_not_its_own() -> None:
    with pytest.raises(NotImplementedError, match="submit_transcription"):
        PlaudHook().run("/anything")


def test_a_closed_hook_opens_new_connections_when_used_again(txn: str) -> None:
    hook = PlaudHook(retry_policy=FAST)
    hook.get_transcription(txn)
    hook.close()
    hook.close()

    assert hook.get_transcription(txn).transcription_id == txn


def test_neither_extra_nor_credentials_of_the_connection_are_sent_as_headers(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch, client: Client, txn: str
) -> None:
    """HttpHook makes every extra a header, and puts Basic over Bearer where there is a login."""
    connection = json.loads(plaud.airflow_connection)
    connection["extra"]["X-Leak"] = "canary"
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))

    client.get(txn)

    [entry] = plaud.ledger()
    assert entry["status"] == 200
    expected = {"accept", "accept-encoding", "authorization", "connection", "host", "user-agent"}
    assert set(entry["header_names"]) <= expected


def test_every_error_is_a_plaud_error_that_names_the_host(inject: Inject, client: Client, txn: str) -> None:
    inject("get", "status", status=500, times=6)

    with pytest.raises(PlaudError, match=r"http://127\.0\.0\.1:\d+"):
        client.get(txn)
