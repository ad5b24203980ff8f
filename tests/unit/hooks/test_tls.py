"""Certificates, and TLS that breaks before and after a recording was sent."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plaud_provider.api.effects import SubmitPhase
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import (
    PlaudCertificateError,
    PlaudConfigurationError,
    PlaudError,
    PlaudSubmitOutcomeUnknownError,
)
from plaud_provider.hooks.transport import Limits
from tests.unit.hooks.conftest import ONCE, Client, Connect, outcomes
from tests.unit.hooks.servers import (
    SECONDS,
    Authority,
    TcpServer,
    ask,
    forward,
    read_message,
    reset,
    tls_front,
)

OpenClient = Callable[..., Client]
SENDING, NOT_ACCEPTED = SubmitPhase.SENDING, SubmitPhase.NOT_ACCEPTED


@pytest.fixture
def secured(
    plaud: EmulatorServer, authority: Authority, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EmulatorServer]:
    """The emulator behind TLS, with a certificate that this environment trusts."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
    with tls_front(plaud.port, authority.server_context("localhost")) as front:
        connect(f"https://localhost:{front.port}")
        yield plaud


def test_a_private_authority_is_trusted_where_the_environment_names_it(
    secured: EmulatorServer, client: Client
) -> None:
    assert client.get(client.submit().transcription_id).transcription_id
    assert outcomes(secured) == [("exchange", 200), ("submit", 200), ("get", 200)]


def test_a_private_authority_may_be_named_by_curl_s_variable(
    secured: EmulatorServer, authority: Authority, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setenv("CURL_CA_BUNDLE", str(authority.bundle))

    assert client.submit().transcription_id


def test_authorities_may_be_a_folder(
    secured: EmulatorServer,
    authority: Authority,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "authorities"
    folder.mkdir()
    pem = authority.bundle.read_text()
    (folder / f"{_openssl_hash(authority.bundle)}.0").write_text(pem)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(folder))

    assert client.submit().transcription_id


def _openssl_hash(bundle: Path) -> str:
    command = ["openssl", "x509", "-subject_hash", "-noout", "-in", str(bundle)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_bundle_that_does_not_exist_is_named_before_anything_is_sent(
    secured: EmulatorServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.submit()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file.pem")
    phases: list[SubmitPhase] = []

    with pytest.raises(PlaudConfigurationError, match=r"REQUESTS_CA_BUNDLE: .*/no/such/file\.pem"):
        client.submit(on_phase=phases.append)
    assert phases == []
    assert secured.summary()["submits_accepted"] == 1


def test_without_tls_a_bundle_does_not_matter(
    client: Client, txn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file.pem")

    assert client.get(txn).transcription_id == txn


@pytest.mark.parametrize(
    ("names", "days", "trusted", "why"),
    [
        (["localhost"], 30, False, "unable to get local issuer certificate|self-signed"),
        (["localhost"], -1, True, "certificate has expired"),
        (["other.example"], 30, True, "[Hh]ostname mismatch"),
    ],
    ids=["unknown authority", "expired", "another host"],
)
def test_a_bad_certificate_fails_at_once_and_says_what_to_do(
    plaud: EmulatorServer,
    authority: Authority,
    connect: Connect,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    days: int,
    trusted: bool,
    why: str,
) -> None:
    if trusted:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
    with tls_front(plaud.port, authority.server_context(*names, days=days)) as front:
        connect(f"https://localhost:{front.port}")

        with pytest.raises(PlaudCertificateError, match=rf"certificate cannot be verified \({why}") as caught:
            client.submit()

        assert "cannot be switched off; set REQUESTS_CA_BUNDLE" in str(caught.value)
        assert front.connections == 1
    assert plaud.ledger() == []


def test_a_switch_in_the_extra_does_not_turn_verification_off(
    plaud: EmulatorServer, authority: Authority, connect: Connect, client: Client
) -> None:
    with tls_front(plaud.port, authority.server_context("localhost")) as front:
        connect(
            f"https://localhost:{front.port}",
            extra={"verify": False, "verify_ssl": "false", "check_hostname": 0},
        )

        with pytest.raises(PlaudCertificateError, match="certificate cannot be verified"):
            client.submit()


def after_the_handshake(
    context: ssl.SSLContext, port: int, spoil: Callable[[socket.socket, ssl.SSLSocket], None]
) -> Callable[[socket.socket], None]:
    """Pass token requests on; on a submit, spoil the connection once the recording has been received."""

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection.dup(), server_side=True) as secured:
            secured.settimeout(SECONDS)
            request = read_message(secured)
            if b"audioUrl" in request:
                spoil(connection, secured)
            else:
                secured.sendall(ask(port, request))

    return serve


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw, secured: raw.sendall(b"garbage, not a TLS record"),
        lambda raw, secured: raw.sendall(b"\x15\x03\x03\x00\x02\x02\x28"),
        lambda raw, secured: reset(raw),
        lambda raw, secured: raw.shutdown(socket.SHUT_RDWR),
        lambda raw, secured: secured.unwrap(),
    ],
    ids=["garbage", "alert", "reset", "end without close_notify", "close_notify"],
)
def test_tls_that_breaks_after_a_recording_was_sent_leaves_the_outcome_unknown(
    plaud: EmulatorServer,
    authority: Authority,
    connect: Connect,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[socket.socket, ssl.SSLSocket], None],
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
    serve = after_the_handshake(authority.server_context("localhost"), plaud.port, spoil)
    with TcpServer(serve) as server:
        connect(f"https://localhost:{server.port}")
        phases: list[SubmitPhase] = []

        with pytest.raises(PlaudSubmitOutcomeUnknownError):
            client.submit(on_phase=phases.append)

    assert phases == [SENDING]


@pytest.mark.parametrize("spoil", [reset, lambda raw: raw.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")])
def test_tls_that_breaks_before_a_recording_was_sent_lets_it_be_sent_again(
    secured: EmulatorServer,
    authority: Authority,
    connect: Connect,
    client: Client,
    spoil: Callable[[socket.socket], None],
) -> None:
    context = authority.server_context("localhost")
    connections = iter(range(100))

    def serve(connection: socket.socket) -> None:
        # The first carries the token request.
        if next(connections) in (1, 2):
            spoil(connection)
            return
        with context.wrap_socket(connection, server_side=True) as tls:
            forward(tls, secured.port)

    with TcpServer(serve) as server:
        connect(f"https://localhost:{server.port}")
        phases: list[SubmitPhase] = []

        client.submit(on_phase=phases.append)

    assert phases == [SENDING, NOT_ACCEPTED, SENDING, NOT_ACCEPTED, SENDING]
    assert secured.summary()["submits_accepted"] == 1


def test_a_recording_that_could_not_be_sent_by_the_deadline_is_not_sent_later(
    secured: EmulatorServer, authority: Authority, connect: Connect, open_client: OpenClient
) -> None:
    """The handshake is held up until the call has been given up."""
    context = authority.server_context("localhost")
    connections = iter(range(100))
    given_up = threading.Event()
    late = threading.Event()

    def serve(connection: socket.socket) -> None:
        hold_up = next(connections) == 1
        if hold_up:
            given_up.wait(SECONDS)
        try:
            with context.wrap_socket(connection, server_side=True) as tls:
                forward(tls, secured.port)
        finally:
            if hold_up:
                late.set()

    with TcpServer(serve) as server:
        connect(f"https://localhost:{server.port}")
        limits = Limits(connect_seconds=5, read_seconds=5, total_seconds=1.0)

        with pytest.raises(PlaudError):
            open_client(limits=limits, policy=ONCE).submit()
        given_up.set()
        late.wait(SECONDS)

    assert secured.ledger(kind="submit") == []
