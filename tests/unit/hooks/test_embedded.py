"""The hooks with the API ``embedded``: what goes over the wire, and what the Test button says."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from plaud_provider.api.models import Status
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import (
    PlaudAuthenticationError,
    PlaudConfigurationError,
    PlaudInputError,
    PlaudSubmitOutcomeUnknownError,
)
from plaud_provider.hooks.plaud import PlaudHook
from tests.unit.hooks.conftest import FAST, Client, Connect, outcomes

Start = Callable[..., EmulatorServer]
API_KEY = "api-key-canary"


@pytest.fixture
def embedded(emulator: Start) -> EmulatorServer:
    return emulator(api="embedded", api_keys={"client": API_KEY}, token_seconds=3600)


def test_a_recording_is_transcribed_without_any_token(embedded: EmulatorServer, client: Client) -> None:
    submitted = client.submit(
        language="ja",
        speaker_diarization=True,
        model="plaud-omni-3",
        hotwords=["Plaud Note", "Tōkyō"],
        decode_silence=True,
        detection_level="chapter",
    )
    embedded.advance(3600)
    done = client.get(submitted.transcription_id)

    assert submitted.transcription_id.startswith("task_exec_")
    assert (submitted.status, submitted.reported_status) == (Status.PROCESSING, "PENDING")
    assert (done.status, done.reported_status, done.language) == (Status.COMPLETED, "SUCCESS", "ja")
    assert {segment.language for segment in done.segments} == {"ja"}
    # Told by the date of the answer, as nothing else tells it.
    assert submitted.created_at is not None
    assert abs((submitted.created_at - datetime.now(tz=UTC)).total_seconds()) < 60
    assert (done.created_at, done.completed_at) == (None, None)
    submit, get = embedded.ledger()
    assert submit["body"]["params"] == {
        "transcribe": {"language": "ja", "model": "plaud-omni-3", "detection_level": "chapter"},
        "vad": {"decode_silence": True},
        "diarization": {"enabled": True, "return_embedding": False},
        "hotwords": "Plaud Note,Tōkyō",
    }
    for request in (submit, get):
        assert {"x-client-id", "x-client-api-key"} <= set(request["header_names"])
        assert "authorization" not in request["header_names"]


def test_a_wrong_key_is_refused_and_not_shown(
    embedded: EmulatorServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = json.loads(embedded.airflow_connection)
    connection["extra"]["api_key"] = "wrong-canary"
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))

    for call in (client.submit, lambda: client.get("task_exec_1")):
        with pytest.raises(PlaudAuthenticationError, match="CLIENT_NOT_FOUND") as refused:
            call()
        assert "canary" not in str(refused.value)
    assert outcomes(embedded) == [("submit", 401), ("get", 401)]


@pytest.mark.parametrize(
    ("api", "option"),
    [
        ("embedded", {"webhook_url": "https://hook.example/"}),
        ("embedded", {"model": "whisper"}),
        ("openapi", {"model": "plaud-omni-3"}),
        ("openapi", {"hotwords": ["a"]}),
        ("openapi", {"decode_silence": True}),
        ("openapi", {"detection_level": "segment"}),
    ],
)
def test_an_option_that_the_api_lacks_is_refused_before_anything_is_sent(
    emulator: Start, client: Client, api: str, option: dict[str, Any]
) -> None:
    server = emulator(api=api, api_keys={"client": API_KEY})

    with pytest.raises(PlaudInputError, match=f"^{next(iter(option))}: .*Nothing was sent"):
        client.submit(**option)
    assert server.ledger() == []


def test_a_500_at_the_submit_is_unknown_and_says_how_to_avoid_it(
    embedded: EmulatorServer, client: Client
) -> None:
    embedded.inject({"match": {"external_url": True}, "action": "status", "status": 500})

    with pytest.raises(PlaudSubmitOutcomeUnknownError, match="upload='always'"):
        client.submit()
    assert outcomes(embedded) == [("submit", 500)]


def test_the_test_button_says_what_it_can_and_cannot_prove(embedded: EmulatorServer) -> None:
    ok, words = PlaudHook(retry_policy=FAST).test_connection()

    assert ok
    assert f"Plaud accepted client client at {embedded.url}" in words
    assert "valid for 1.0 hours" in words
    assert "The API key was not refused" in words
    assert "only seen at the first submit" in words
    assert outcomes(embedded) == [("get", 404), ("exchange", 200)]


@pytest.mark.parametrize(
    ("change", "message", "asked"),
    [
        ({"extra": {"api": "embedded", "api_key": "wrong-canary"}}, "CLIENT_NOT_FOUND", ["get"]),
        ({"password": "wrong-canary"}, "secret key", ["get", "exchange"]),
    ],
)
def test_the_test_button_says_which_secret_is_refused(
    embedded: EmulatorServer,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    message: str,
    asked: list[str],
) -> None:
    connection = {**json.loads(embedded.airflow_connection), **change}
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))

    ok, words = PlaudHook(retry_policy=FAST).test_connection()

    assert not ok
    assert message in words
    assert "canary" not in words
    assert [request["kind"] for request in embedded.ledger()] == asked


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"extra": {"api": "embedded"}}, "field api_key"),
        ({"extra": {"api": "embedded", "api_key": "  "}}, "field api_key"),
        ({"extra": {"api": "embedded", "api_key": "two canary"}}, "characters that no header can have"),
        ({"extra": {"api": "embedded", "api_key": "kéy-canary"}}, "characters that no header can have"),
        ({"extra": {"api": "rest", "api_key": "key-canary"}}, "takes one of openapi, embedded"),
        (
            {"extra": {"api": "embedded", "api_key": "key-canary", "region": "eu"}},
            "does not offer the API 'embedded' in region 'eu', only in 'us' and 'jp'",
        ),
        (
            {"extra": {"api": "embedded", "api_key": "key-canary"}, "host": "openapi.plaud.ai"},
            "is that of the API 'openapi' while the connection says 'embedded'",
        ),
        (
            {"extra": {"region": "us"}, "host": "platform-us.plaud.ai"},
            "is that of the API 'embedded' while the connection says 'openapi'",
        ),
        ({"extra": {"API_key": "key-canary"}}, "Is it to be 'api_key'"),
    ],
)
def test_a_connection_that_is_not_whole_is_refused_before_anything_is_sent(
    connect: Connect, fields: dict[str, Any], message: str
) -> None:
    connect(**fields)

    with pytest.raises(PlaudConfigurationError, match="Nothing was sent") as refused:
        _ = PlaudHook().settings
    assert message in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(("region", "where"), [("us", "us"), ("jp", "jp"), (None, "us")])
def test_without_a_host_requests_go_to_the_region_s_platform(
    connect: Connect, region: str | None, where: str
) -> None:
    connect(extra={"api": "embedded", "api_key": API_KEY} | ({"region": region} if region else {}))

    hook = PlaudHook()
    assert hook.settings.account.base_url == f"https://platform-{where}.plaud.ai/developer/api"
    assert API_KEY not in repr(hook.settings)


def test_a_key_that_plaud_has_accepted_on_this_host_outlasts_an_outage_of_its_gateway(
    embedded: EmulatorServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = client.submit()
    # Another process of the host.
    monkeypatch.setattr("plaud_provider.auth.token_store._ACCEPTED", set())
    embedded.inject({"match": {"kind": "submit"}, "action": "status", "status": 401, "times": 3})
    second = client.submit()
    monkeypatch.setattr("plaud_provider.auth.token_store._ACCEPTED", set())
    embedded.inject({"match": {"kind": "get"}, "action": "status", "status": 401, "times": 3})

    assert client.get(first.transcription_id).status is Status.PROCESSING
    assert client.get(second.transcription_id).status is Status.PROCESSING
    assert outcomes(embedded) == [
        ("submit", 200),
        *[("submit", 401)] * 3,
        ("submit", 200),
        *[("get", 401)] * 3,
        *[("get", 200)] * 2,
    ]


def test_another_key_of_the_same_client_was_not_accepted(
    embedded: EmulatorServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.submit()
    connection = json.loads(embedded.airflow_connection)
    connection["extra"]["api_key"] = "wrong-canary"
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))

    with pytest.raises(PlaudAuthenticationError):
        client.submit()
    assert outcomes(embedded) == [("submit", 200), ("submit", 401)]
