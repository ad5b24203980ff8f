"""Slow, silent, broken and oversized answers."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import socket
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import unquote

import pytest

from plaud_provider.api import calls
from plaud_provider.api.account import Account
from plaud_provider.api.effects import Operation, Request, Response, TransportFailure
from plaud_provider.api.regions import Region
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import (
    PlaudConnectionError,
    PlaudResponseError,
    PlaudServerError,
    PlaudSubmitOutcomeUnknownError,
)
from plaud_provider.hooks import transport_aiohttp
from plaud_provider.hooks.plaud import PlaudAsyncHook, PlaudHook
from plaud_provider.hooks.transport import Limits
from plaud_provider.hooks.transport_aiohttp import open_aiohttp_session, send_with_aiohttp
from plaud_provider.hooks.transport_requests import open_requests_session, send_with_requests
from plaud_provider.ledger.ledger import Ledger
from tests.unit.hooks.conftest import FAST, LIMITS, ONCE, Client, Connect, Inject
from tests.unit.hooks.servers import (
    TcpServer,
    forward,
    read_message,
)

OpenClient = Callable[..., Client]
HASTY = Limits(
    connect_seconds=1.0, read_seconds=5.0, total_seconds=0.5, submit_seconds=0.5, response_bytes=1024 * 1024
)


def drip_headers(connection: socket.socket) -> None:
    """Answer at ten bytes a second: each byte in time, the whole never."""
    read_message(connection)
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 100:
        connection.sendall(bytes([byte]))
        # The client hangs up at its deadline; until then there is nothing to read.
        connection.settimeout(0.1)
        try:
            if not connection.recv(1):
                return
        except TimeoutError:
            pass


def say_nothing(connection: socket.socket) -> None:
    read_message(connection)
    connection.recv(1)


def drip_body(connection: socket.socket) -> None:
    read_message(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    drip(connection)


def drip_body_to_its_end(connection: socket.socket) -> None:
    read_message(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    drip(connection)


def continue_for_ever(connection: socket.socket) -> None:
    read_message(connection)
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def trail_for_ever(connection: socket.socket) -> None:
    read_message(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    while True:
        connection.sendall(b"X-More: 1\r\n" * 1000)


def drip(connection: socket.socket) -> None:
    connection.settimeout(0.05)
    while True:
        connection.sendall(b" ")
        try:
            if not connection.recv(1):
                return
        except TimeoutError:
            pass


def drip_handshake(connection: socket.socket) -> None:
    # The beginning of a TLS record of 16 kB.
    connection.sendall(b"\x16\x03\x03\x40\x00")
    drip(connection)


@pytest.mark.parametrize(
    ("scheme", "serve"),
    [
        ("http", drip_headers),
        ("http", drip_body),
        ("http", drip_body_to_its_end),
        ("http", continue_for_ever),
        ("http", trail_for_ever),
        ("https", drip_handshake),
    ],
)
def test_what_is_given_up_leaves_no_thread_and_no_socket(
    connect: Connect, scheme: str, serve: Callable[[socket.socket], None]
) -> None:
    hung_up = threading.Event()

    def noting(connection: socket.socket) -> None:
        try:
            serve(connection)
        finally:
            hung_up.set()

    with TcpServer(noting) as server:
        connect(f"{scheme}://127.0.0.1:{server.port}")
        hook = PlaudHook(limits=HASTY._replace(connect_seconds=60.0, read_seconds=60.0), retry_policy=ONCE)
        with pytest.raises(PlaudConnectionError, match=r"within 0\.5 seconds"):
            hook.get_transcription("txn_1")

        assert hung_up.wait(5)
        names = {f"plaud-{operation.value}" for operation in Operation}
        left = [thread for thread in threading.enumerate() if thread.name in names]
        for thread in left:
            thread.join(5)
        assert not any(thread.is_alive() for thread in left)


@pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")
def test_a_session_that_nobody_closes_leaves_no_socket(plaud: EmulatorServer, txn: str) -> None:
    with warnings.catch_warnings(action="ignore"):
        # What tests before have left, such as databases, which Python tells of from 3.13.
        gc.collect()
    hook = PlaudHook(retry_policy=ONCE)
    hook.get_transcription(txn)
    del hook
    gc.collect()


@pytest.mark.parametrize("serve", [drip_headers, say_nothing])
def test_a_server_that_takes_for_ever_over_its_headers_is_given_up_at_the_deadline(
    connect: Connect, open_client: OpenClient, serve: Callable[[socket.socket], None]
) -> None:
    with TcpServer(serve) as server:
        connect(f"http://127.0.0.1:{server.port}")

        with pytest.raises(PlaudConnectionError, match=r"no complete answer within 0\.5 seconds"):
            open_client(limits=HASTY, policy=ONCE).get("txn_1")


def test_a_server_that_sends_a_byte_at_a_time_is_given_up_at_the_deadline(
    inject: Inject, open_client: OpenClient, txn: str
) -> None:
    inject("get", "drip", bytes_per_second=10)

    with pytest.raises(PlaudConnectionError, match=r"no complete answer within 0\.5 seconds"):
        open_client(limits=HASTY, policy=ONCE).get(txn)


def test_a_server_that_falls_silent_is_given_up(inject: Inject, open_client: OpenClient, txn: str) -> None:
    inject("get", "delay", seconds=60)
    limits = Limits(connect_seconds=5, read_seconds=0.3, total_seconds=20)

    with pytest.raises(PlaudConnectionError):
        open_client(limits=limits, policy=ONCE).get(txn)


def test_a_submit_that_is_given_up_at_the_deadline_is_unknown(
    inject: Inject, open_client: OpenClient, txn: str
) -> None:
    inject("submit", "drip", bytes_per_second=10)

    with pytest.raises(PlaudSubmitOutcomeUnknownError, match=r"within 0\.5 seconds"):
        open_client(limits=HASTY, policy=FAST).submit()


def test_the_answer_to_a_submit_is_waited_for_longer_as_it_is_paid_for(
    plaud: EmulatorServer, inject: Inject, open_client: OpenClient, txn: str
) -> None:
    inject("submit", "delay", seconds=1.0)
    limits = Limits(read_seconds=0.3, total_seconds=0.5)

    assert open_client(limits=limits, policy=ONCE).submit().transcription_id


def test_it_is_waited_for_no_longer_than_the_ledger_keeps_the_recording() -> None:
    assert Limits().submit_seconds + Limits().connect_seconds < Ledger.LEASE_OF_SUBMIT.total_seconds()


@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "bomb"])
def test_an_answer_that_is_too_large_is_given_up(
    plaud: EmulatorServer, inject: Inject, client: Client, txn: str, gzip: bool
) -> None:
    inject("get", "inflate", text_bytes=64 * 1024 * 1024, gzip=gzip)

    with pytest.raises(PlaudResponseError, match="larger than 1 MiB"):
        client.get(txn)

    assert len(plaud.ledger(kind="get")) == 1


def test_an_answer_of_just_the_size_that_is_allowed_is_taken(
    plaud: EmulatorServer, open_client: OpenClient, txn: str
) -> None:
    plaud.force(txn, status="completed", text="x" * 500_000, segments=[])

    assert len(open_client(limits=Limits(response_bytes=600_000)).get(txn).text or "") == 500_000


def test_a_submit_whose_answer_is_too_large_is_unknown(inject: Inject, client: Client, txn: str) -> None:
    inject("submit", "body", body="x" * 2 * 1024 * 1024)

    with pytest.raises(PlaudSubmitOutcomeUnknownError):
        client.submit()


@pytest.mark.parametrize("status", ["200 OK", "307 Temporary Redirect", "500 Internal Server Error"])
def test_an_answer_without_end_is_given_up(connect: Connect, open_client: OpenClient, status: str) -> None:
    def pour(connection: socket.socket) -> None:
        read_message(connection)
        connection.sendall(f"HTTP/1.1 {status}\r\nLocation: /x\r\nConnection: close\r\n\r\n".encode())
        while True:
            connection.sendall(b"x" * 65536)

    with TcpServer(pour) as server:
        connect(f"http://127.0.0.1:{server.port}")

        with pytest.raises(PlaudServerError, match="larger than 1 MiB"):
            open_client(policy=ONCE).get("txn_1")


def test_a_host_that_cannot_be_resolved_is_tried_again_and_then_named(
    connect: Connect, client: Client
) -> None:
    connect("gateway.invalid", extra={"allowed_hosts": "gateway.invalid"})

    with pytest.raises(PlaudConnectionError, match=r"https://gateway\.invalid: .*cannot be resolved.*Check"):
        client.get("txn_1")


def test_a_name_that_hangs_keeps_nobody_longer_than_the_deadline(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("https://gateway.invalid", extra={"region": "us", "allowed_hosts": "gateway.invalid"})
    is_over = threading.Event()
    look_up = socket.getaddrinfo
    waited_for: list[str] = []

    def hang(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "gateway.invalid" and not is_over.wait(60):
            waited_for.append(host)
        return look_up(host, *args, **kwargs)

    async def ask() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(1), PlaudAsyncHook(retry_policy=ONCE) as hook:
                await hook.get_transcription("txn_1")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        # As a sensor does in a task: it waits for the threads of its event loop.
        asyncio.run(ask())
    finally:
        is_over.set()
    assert not waited_for


def test_an_error_without_an_answer_has_no_status(connect: Connect, open_client: OpenClient) -> None:
    connect("gateway.invalid", extra={"allowed_hosts": "gateway.invalid"})

    with pytest.raises(PlaudConnectionError) as caught:
        open_client(policy=ONCE).get("txn_1")

    assert caught.value.status_code is None


def compressed(content: bytes, encoding: str) -> bytes:
    bits = {"gzip": 31, "x-gzip": 31, "deflate": 15, "bare deflate": -15}[encoding]
    pack = zlib.compressobj(wbits=bits)
    return pack.compress(content) + pack.flush()


async def send_both_ways(
    answer: bytes, path: str = "/", *, heard: Callable[[bytes], object] = len
) -> list[Response]:
    def serve(connection: socket.socket) -> None:
        heard(connection.recv(65536))
        connection.sendall(answer)

    with TcpServer(serve) as server:
        request = Request(Operation.GET, "GET", f"http://127.0.0.1:{server.port}{path}", {})
        async with open_aiohttp_session(None) as session:
            one = await send_with_aiohttp(session, request, LIMITS, proxy=None)
        with open_requests_session(request.url) as other:
            return [one, await asyncio.to_thread(send_with_requests, other, request, LIMITS)]


@pytest.mark.parametrize(
    "transcription_id", ["a%b", "a%2Fb", "a#b", "a;b&c", "two words", "a/b?c", "録音", "a..b~"]
)
async def test_an_id_of_any_form_is_one_quoted_segment_of_the_path(transcription_id: str) -> None:
    heard: list[bytes] = []
    account = Account(Region.US, "", "client", "secret")
    path = account.dialect.get_request(account, "token", transcription_id).url

    await send_both_ways(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", path, heard=heard.append)

    targets = [one.split()[1].decode() for one in heard]
    assert targets == [path, path]
    assert unquote(targets[0].rpartition("/")[2]) == transcription_id


async def test_headers_that_come_twice_are_read_alike() -> None:
    head = b"HTTP/1.1 429 Too Many\r\nRetry-After: 1\r\nretry-after: 7\r\nContent-Length: 0\r\n\r\n"

    assert [one.headers["retry-after"] for one in await send_both_ways(head)] == ["1, 7", "1, 7"]


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "bare deflate"])
async def test_a_compressed_answer_is_read_alike(encoding: str) -> None:
    body = compressed(b"{}" * 1000, encoding)
    head = f"Content-Encoding: {encoding.split()[-1]}\r\nContent-Length: {len(body)}\r\n\r\n"
    answers = await send_both_ways(b"HTTP/1.1 200 OK\r\n" + head.encode() + body)

    assert [one.body for one in answers] == [b"{}" * 1000] * 2


async def test_a_large_answer_is_unpacked_and_parsed_beside_the_loop(
    plaud: EmulatorServer, txn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def noting(run: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any, **named: Any) -> Any:
            threads.append(threading.current_thread())
            return run(*given, **named)

        return noted

    monkeypatch.setattr(transport_aiohttp, "decoded", noting(transport_aiohttp.decoded))
    monkeypatch.setattr(calls, "parse_transcription", noting(calls.parse_transcription))
    plaud.inject({"match": {"kind": "get"}, "action": "inflate", "text_bytes": 300_000, "gzip": True})

    async with PlaudAsyncHook(limits=LIMITS, retry_policy=ONCE) as hook:
        assert len((await hook.get_transcription(txn)).text or "") >= 300_000

    assert len(threads) == 2
    assert threading.current_thread() not in threads


def test_what_is_no_http_is_an_error(connect: Connect, open_client: OpenClient) -> None:
    def babble(connection: socket.socket) -> None:
        read_message(connection)
        connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

    with TcpServer(babble) as server:
        connect(f"http://127.0.0.1:{server.port}")

        with pytest.raises(PlaudConnectionError):
            open_client(policy=ONCE).get("txn_1")


ACCEPTED = b'{"transcriptionId": "txn_1", "status": "processing"}'
GZIP = gzip.compress(ACCEPTED)


def head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", "Connection: close", *headers, "", "")).encode()


#: Answers as they come over the line, each with the same id.
ANSWERS = {
    "gzip that is none": head("Content-Encoding: gzip") + ACCEPTED,
    "an encoding that there is not": head("Content-Encoding: utf-8") + ACCEPTED,
    "an encoding without a name": head("Content-Encoding: ") + ACCEPTED,
    "deflate that is none": head("Content-Encoding: deflate") + ACCEPTED,
    "gzip that nothing says": head() + GZIP,
    "gzip twice": head("Content-Encoding: gzip, gzip") + gzip.compress(GZIP),
    "gzip twice, said once": head("Content-Encoding: gzip") + gzip.compress(GZIP),
    "gzip and identity": head("Content-Encoding: gzip, identity") + GZIP,
    "gzip with something behind it": head("Content-Encoding: gzip") + GZIP + b"\0\0\0\0",
    "deflate": head("Content-Encoding: deflate") + zlib.compress(ACCEPTED),
    "an interim answer": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + head() + ACCEPTED,
    "several": b"HTTP/1.1 102 Processing\r\n\r\n" * 3 + head() + ACCEPTED,
    "a long header": head("Content-Security-Policy: " + "x" * 20_000) + ACCEPTED,
    "cut off by its length": head("Content-Length: 4000") + ACCEPTED,
    "cut off between chunks": head("Transfer-Encoding: chunked")
    + f"{len(ACCEPTED):x}\r\n".encode()
    + ACCEPTED
    + b"\r\n",
    "cut off in a chunk": head("Transfer-Encoding: chunked") + b"fff\r\n" + ACCEPTED,
    "gzip, cut off": head("Content-Encoding: gzip", "Content-Length: 4000") + GZIP[:-9],
    "gzip, cut off by itself": head("Content-Encoding: gzip") + GZIP[:-9],
    "gzip in chunks, cut off": head("Transfer-Encoding: chunked") + b"fff\r\n" + GZIP[:-4],
    "gzip with another checksum": head("Content-Encoding: gzip") + GZIP[:-8] + bytes(8),
    "a header names it": head("Location: /open/partner/ai/transcriptions/txn_1", status="201 Created"),
    "elsewhere": head("Location: https://x.example/v1/transcriptions/txn_1?a=b", status="303 See Other"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_id_that_is_paid_for_is_kept_however_its_answer_comes(
    connect: Connect, open_client: OpenClient, name: str
) -> None:
    token = json.dumps({"access_token": "token", "expires_in": 3600}).encode()

    def serve(connection: socket.socket) -> None:
        is_token = b"/oauth/" in read_message(connection).split(b"\r\n")[0]
        connection.sendall(head() + token if is_token else ANSWERS[name])

    with TcpServer(serve) as server:
        connect(f"http://127.0.0.1:{server.port}")

        assert open_client(policy=ONCE).submit().transcription_id == "txn_1"


def test_a_result_that_is_cut_off_is_not_taken(connect: Connect, open_client: OpenClient) -> None:
    def serve(connection: socket.socket) -> None:
        is_token = b"/oauth/" in read_message(connection).split(b"\r\n")[0]
        token = json.dumps({"access_token": "token", "expires_in": 3600}).encode()
        result = b'{"transcriptionId": "txn_1", "status": "completed", "text": "Hello."}'
        connection.sendall(head() + token if is_token else head("Content-Length: 4000") + result)

    with TcpServer(serve) as server:
        connect(f"http://127.0.0.1:{server.port}")

        with pytest.raises(PlaudConnectionError):
            open_client(policy=ONCE).get("txn_1")


@contextmanager
def heard_by(plaud: EmulatorServer, connect: Connect) -> Iterator[list[list[bytes]]]:
    """Put a server before Plaud; yield what it hears on each connection, in order of being opened."""
    heard: list[list[bytes]] = []

    def serve(connection: socket.socket) -> None:
        heard.append([])
        forward(connection, plaud.port, heard[-1])

    with TcpServer(serve) as server:
        connection = json.loads(plaud.airflow_connection)
        connect(f"http://127.0.0.1:{server.port}", login=connection["login"], password=connection["password"])
        yield heard


def methods(heard: list[list[bytes]]) -> list[list[bytes]]:
    return [
        [line.split()[0] for line in b"".join(parts).split(b"\r\n") if b" HTTP/1.1" in line]
        for parts in heard
    ]


def test_a_submit_never_goes_out_on_a_connection_that_was_idle(
    plaud: EmulatorServer, connect: Connect, txn: str
) -> None:
    """A server that closes an idle connection at that moment would leave the outcome unknown."""
    with heard_by(plaud, connect) as heard, PlaudHook(retry_policy=FAST) as hook:
        hook.get_transcription(txn)
        hook.submit_transcription("https://bucket.example/a.wav")
        hook.get_transcription(txn)

    assert methods(heard) == [[b"POST", b"GET", b"GET"], [b"POST"]]


async def test_neither_does_one_of_many_of_the_asynchronous_hook(
    plaud: EmulatorServer, connect: Connect, txn: str
) -> None:
    with heard_by(plaud, connect) as heard:
        async with PlaudAsyncHook(retry_policy=FAST) as hook:
            await hook.get_transcription(txn)
            await hook.submit_transcription("https://bucket.example/a.wav")
            await hook.submit_transcription("https://bucket.example/b.wav")
            await hook.get_transcription(txn)

    assert methods(heard) == [[b"POST", b"GET", b"GET"], [b"POST"], [b"POST"]]


@pytest.mark.filterwarnings("error::ResourceWarning")
async def test_the_asynchronous_hook_leaves_no_session_open(
    plaud: EmulatorServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with PlaudAsyncHook(retry_policy=FAST) as hook:
        await hook.submit_transcription("https://bucket.example/a.wav")
    gc.collect()

    assert "Unclosed" not in caplog.text


async def test_a_connection_that_breaks_when_it_is_used_again_costs_one_request_for_one_slot() -> None:
    requests: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        for answer in (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b""):
            requests.append(connection.recv(65536))
            connection.sendall(answer)

    with TcpServer(serve) as server:
        request = Request(Operation.GET, "GET", f"http://127.0.0.1:{server.port}/", {})
        async with open_aiohttp_session(None) as session:
            await send_with_aiohttp(session, request, Limits(), proxy=None)
            with pytest.raises(TransportFailure):
                await send_with_aiohttp(session, request, Limits(), proxy=None)

    assert len(requests) == 2
