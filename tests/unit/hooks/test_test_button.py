"""What the Test button of Airflow's connection form says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.hooks.plaud import PlaudHook
from tests.unit.hooks.conftest import FAST, Client, Connect, Inject, outcomes
from tests.unit.hooks.servers import Authority, TcpServer, tls_front


def test_the_test_button_says_who_was_accepted_where(plaud: EmulatorServer) -> None:
    ok, message = PlaudHook(retry_policy=FAST).test_connection()

    assert ok
    assert message == (
        f"Plaud accepted client client at {plaud.url} (region 'us'); the token is valid for 24.0 hours."
    )
    assert outcomes(plaud) == [("exchange", 200)]


def test_the_test_button_looks_past_the_cache(plaud: EmulatorServer, txn: str) -> None:
    hook = PlaudHook(retry_policy=FAST)
    assert hook.test_connection()[0]
    assert hook.test_connection()[0]

    assert outcomes(plaud) == [("exchange", 200)] * 2


def test_the_test_button_does_not_disturb_the_cache(plaud: EmulatorServer, txn: str, client: Client) -> None:
    PlaudHook(retry_policy=FAST).test_connection()
    client.get(txn)

    assert outcomes(plaud) == [("exchange", 200), ("get", 200)]


def test_the_test_button_asks_again_after_a_refusal(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {**json.loads(plaud.airflow_connection), "password": "wrong-canary"}
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))

    for _ in range(2):
        ok, message = PlaudHook(retry_policy=FAST).test_connection()
        assert not ok
        assert "Check client id (login), secret key (password) and region" in message
        assert "canary" not in message

    assert outcomes(plaud) == [("exchange", 401)] * 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"extra": {"region": "eu"}, "host": "openapi.plaud.ai"}, "belongs to region 'us'"),
        ({"login": ""}, "login"),
        ({"host": "gateway.invalid", "extra": {"allowed_hosts": "gateway.invalid"}}, "cannot be resolved"),
    ],
)
def test_the_test_button_says_what_is_wrong(connect: Connect, fields: dict[str, Any], message: str) -> None:
    connect(**fields)

    ok, said = PlaudHook(retry_policy=FAST).test_connection()

    assert not ok
    assert message in said


def test_the_test_button_says_that_there_is_no_network(connect: Connect) -> None:
    with TcpServer(lambda _: None) as gone:
        port = gone.port
    connect(f"http://127.0.0.1:{port}")

    ok, said = PlaudHook(retry_policy=FAST).test_connection()

    assert not ok
    assert "the connection was refused" in said


def test_the_test_button_says_what_is_wrong_with_a_certificate(
    plaud: EmulatorServer, authority: Authority, connect: Connect
) -> None:
    with tls_front(plaud.port, authority.server_context("localhost")) as front:
        connect(f"https://localhost:{front.port}")

        ok, said = PlaudHook(retry_policy=FAST).test_connection()

    assert not ok
    assert "certificate cannot be verified" in said


def test_the_test_button_tries_a_limit_twice(plaud: EmulatorServer, inject: Inject) -> None:
    inject("exchange", "status", status=429, times=2)

    ok, said = PlaudHook(retry_policy=FAST).test_connection()

    assert not ok
    assert "429" in said


def test_airflow_s_own_way_to_test_a_connection_leads_there(plaud: EmulatorServer) -> None:
    # What the API server does when the button is pressed, on Airflow 3.2 as on 3.3.
    from airflow.models.connection import Connection

    connection = json.loads(plaud.airflow_connection)
    connection["extra"] = json.dumps(connection["extra"])

    assert Connection(conn_id="plaud_default", **connection).test_connection()[0]
