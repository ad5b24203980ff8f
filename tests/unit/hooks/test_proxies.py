"""Proxies that the environment names, and what else it might slip into a request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from plaud_provider.api.effects import SubmitPhase
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import (
    PlaudConnectionError,
    PlaudError,
    PlaudSubmitOutcomeUnknownError,
)
from tests.unit.hooks.conftest import Client, Connect, Inject, outcomes
from tests.unit.hooks.servers import (
    Authority,
    Proxy,
    tls_front,
)

SENDING, NOT_ACCEPTED = SubmitPhase.SENDING, SubmitPhase.NOT_ACCEPTED


@pytest.fixture
def behind_proxy(
    plaud: EmulatorServer, authority: Authority, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Proxy]:
    """A gateway that only a proxy reaches; no name server knows it."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
    connect("https://gateway.invalid", extra={"allowed_hosts": "gateway.invalid"})
    with (
        tls_front(plaud.port, authority.server_context("gateway.invalid")) as front,
        Proxy(front.port) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        yield proxy


def test_the_environment_s_proxy_is_used_and_sees_no_credentials(
    behind_proxy: Proxy, plaud: EmulatorServer, client: Client
) -> None:
    client.get(client.submit().transcription_id)

    assert outcomes(plaud) == [("exchange", 200), ("submit", 200), ("get", 200)]
    assert behind_proxy.heads
    for head in behind_proxy.heads:
        assert head.startswith("CONNECT gateway.invalid:443 ")
        assert "\nauthorization" not in head.lower()


@pytest.mark.parametrize("variable", ["https_proxy", "ALL_PROXY"])
def test_a_proxy_may_be_named_without_a_scheme(
    behind_proxy: Proxy, client: Client, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setenv(variable, f"127.0.0.1:{behind_proxy.port}")

    assert client.submit().transcription_id


def test_a_proxy_s_credentials_go_to_the_proxy_alone(
    behind_proxy: Proxy, plaud: EmulatorServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:p%40ss@127.0.0.1:{behind_proxy.port}")

    client.submit()

    assert "proxy-authorization: basic dXNlcjpwQHNz".lower() in behind_proxy.heads[0].lower()
    assert not any("proxy-authorization" in entry["header_names"] for entry in plaud.ledger())


def test_no_proxy_is_honoured(behind_proxy: Proxy, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "gateway.invalid")

    with pytest.raises(PlaudConnectionError, match="cannot be resolved"):
        client.submit()
    assert behind_proxy.connections == 0


def test_a_proxy_that_refuses_has_not_sent_the_recording(
    behind_proxy: Proxy, plaud: EmulatorServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.submit()
    with Proxy(0) as refusing:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:canary@127.0.0.1:{refusing.port}")
        phases: list[SubmitPhase] = []

        with pytest.raises(PlaudConnectionError) as caught:
            client.submit(on_phase=phases.append)

    assert "canary" not in str(caught.value)
    assert phases == [SENDING, NOT_ACCEPTED] * 6
    assert plaud.summary()["submits_accepted"] == 1


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:1", "socks5h://user:canary@127.0.0.1:1", "ftp://127.0.0.1:1"]
)
def test_a_proxy_of_another_kind_is_an_error_before_anything_is_sent(
    connect: Connect, client: Client, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    connect("https://gateway.invalid", extra={"allowed_hosts": "gateway.invalid"})
    monkeypatch.setenv("ALL_PROXY", proxy)

    with pytest.raises(PlaudError) as caught:
        client.submit()

    assert not isinstance(caught.value, PlaudSubmitOutcomeUnknownError)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"])
def test_loopback_is_never_reached_through_a_proxy(
    client: Client, txn: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    with Proxy(0) as proxy:
        monkeypatch.setenv(variable, proxy.url)

        assert client.get(txn).transcription_id == txn

        assert proxy.connections == 0


def test_a_netrc_file_is_not_used(
    plaud: EmulatorServer, client: Client, txn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\ndefault login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))

    client.get(txn)

    assert outcomes(plaud) == [("get", 200)]


def test_cookies_are_not_kept(
    plaud: EmulatorServer, inject: Inject, connect: Connect, client: Client, txn: str
) -> None:
    inject("get", "status", status=503, headers={"Set-Cookie": "session=1; Path=/"})
    # Not every cookie jar takes cookies from an address.
    connect(f"http://localhost:{plaud.port}")

    client.get(txn)

    assert [("cookie" in entry["header_names"]) for entry in plaud.ledger(kind="get")] == [False, False]
