"""Sending with ``aiohttp``. The policy is that of :mod:`.transport`."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from plaud_provider.api.effects import Operation, Part, Request, Response, TransportFailure
from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.hooks.transport import (
    CHUNK_BYTES,
    ENCODINGS,
    MAX_HEADER_BYTES,
    Limits,
    bad_certificate,
    ca_bundle,
    class_of,
    decoded,
    is_packed,
    proxies_for,
    readable,
    too_large,
    too_slow,
)

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from aiohttp.abc import AbstractResolver

T = TypeVar("T")


class AiohttpTransport:
    """
    The connections of one hook.

    Making one reads files and imports aiohttp: it does not belong on an event loop.

    :param base_url: Where all requests go.
    :param limits: Bounds of one exchange.
    :raises PlaudConfigurationError: for a proxy or certificate authorities that cannot be used.
    """

    def __init__(self, base_url: str, limits: Limits) -> None:
        import aiohttp  # noqa: F401

        self._limits = limits
        self._proxy = aiohttp_proxy(base_url)
        self._tls = tls_context(base_url)
        # By whether their requests are repeatable. Each submit, which is not, has a connection of its own: on
        # one that Plaud has just closed it may be lost.
        self._sessions: dict[bool, ClientSession] = {}

    async def send(self, request: Request, within: float | None = None) -> Response:
        """
        Send a request.

        :param within: Seconds in which the whole answer has to be there, if less than the limits allow.
        :raises TransportFailure: if there is no usable answer.
        """
        if request.operation is Operation.PART:
            return await self._send_part(request)
        is_reused = request.repeatable
        if is_reused not in self._sessions:
            self._sessions[is_reused] = open_aiohttp_session(self._tls, reuse_connections=is_reused)
        limits = self._limits.of(request, within)
        return await send_with_aiohttp(self._sessions[is_reused], request, limits, proxy=self._proxy)

    async def _send_part(self, request: Request) -> Response:
        """Send a part of an upload, to the host of its URL."""
        tls = await asyncio.to_thread(tls_context, request.url)
        proxy = await asyncio.to_thread(aiohttp_proxy, request.url)
        async with open_aiohttp_session(tls, reuse_connections=False) as session:
            return await send_with_aiohttp(session, request, self._limits.of(request), proxy=proxy)

    async def close(self) -> None:
        """Close all connections."""
        for session in list(self._sessions.values()):
            await session.close()


async def send_with_aiohttp(
    session: ClientSession, request: Request, limits: Limits, *, proxy: str | None
) -> Response:
    """
    Send a request with aiohttp.

    :raises TransportFailure: if there is no usable answer.
    """
    import aiohttp
    from yarl import URL

    body = request.body
    if body is not None and not isinstance(body, bytes):
        body = await asyncio.to_thread(_whole, body)
    received = bytearray()
    try:
        async with session.request(
            request.method,
            # Already quoted; it would unquote "%3B".
            URL(request.url, encoded=True),
            # It complains of a large body that is no file.
            data=io.BytesIO(body) if body is not None and len(body) > CHUNK_BYTES else body,
            headers={**request.headers, "Accept-Encoding": ENCODINGS},
            # The signature of a part's URL may be for none.
            skip_auto_headers=("Content-Type",),
            allow_redirects=False,
            proxy=proxy,
            timeout=aiohttp.ClientTimeout(
                total=limits.total_seconds, sock_connect=limits.connect_seconds, sock_read=limits.read_seconds
            ),
        ) as answer:
            async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                received += chunk
                if len(received) > limits.response_bytes:
                    raise too_large(limits)
            headers = _joined(answer.headers)
            if is_packed(received, headers):
                # Not on the loop: a few kilobytes may become many megabytes.
                return Response(
                    answer.status,
                    headers,
                    await asyncio.to_thread(decoded, bytes(received), headers, limits),
                )
            return Response(answer.status, headers, bytes(received))
    except aiohttp.ClientConnectorCertificateError as failure:
        raise bad_certificate(failure.certificate_error) from None
    except aiohttp.ClientConnectorDNSError:
        raise TransportFailure("the host name cannot be resolved", sent=False) from None
    except (
        aiohttp.ClientConnectorError,
        aiohttp.ConnectionTimeoutError,
        # A proxy that refuses to connect.
        aiohttp.ClientHttpProxyError,
    ) as failure:
        raise TransportFailure(class_of(failure), sent=False) from None
    except TimeoutError:
        raise too_slow(limits, sent=True) from None
    except (aiohttp.ClientError, OSError, zlib.error) as failure:
        raise TransportFailure(class_of(failure), sent=True, received=readable(bytes(received))) from None


def _whole(part: Part) -> bytes:
    with part.open() as file:
        return file.read()


def _joined(received: Mapping[str, str]) -> dict[str, str]:
    """Return headers by their names in lower case; those that came more than once as one, with commas."""
    headers: dict[str, str] = {}
    for name, value in received.items():
        headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
    return headers


def tls_context(base_url: str) -> ssl.SSLContext | None:
    """
    Return what certificates are verified with; ``None`` where there is no TLS.

    Reads files, so it is not to be called inside the event loop.

    :raises PlaudConfigurationError: as :func:`ca_bundle`.
    """
    path = ca_bundle(base_url)
    return _tls_context(path, os.stat(path).st_mtime_ns) if path else None


# Each takes 20 ms of CPU, and a triggerer runs a thousand triggers.
@lru_cache(maxsize=4)
def _tls_context(path: str, _changed_at: int) -> ssl.SSLContext:
    if os.path.isdir(path):
        return ssl.create_default_context(capath=path)
    return ssl.create_default_context(cafile=path)


def open_aiohttp_session(tls: ssl.SSLContext | None, *, reuse_connections: bool = True) -> ClientSession:
    """Return an aiohttp session with this module's policy; to be called inside the event loop."""
    import aiohttp

    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            ssl=tls or True, force_close=not reuse_connections, resolver=_resolver()
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        # It would decompress on the loop.
        auto_decompress=False,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )
    # It would send a GET again by itself where a connection that it used again has broken: two requests for
    # one slot of the quota. There is no public way to say so; its own test client says it like this.
    session._retry_connection = False
    return session


def _resolver() -> AbstractResolver:
    from aiohttp.abc import AbstractResolver, ResolveResult

    class Resolver(AbstractResolver):
        """
        Looks names up in threads that nobody waits for.

        Where names hang, aiohttp's own would use up the threads of the event loop, of all triggers, and the
        end of a task would wait for it.
        """

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            found = await _in_thread_of_its_own(
                lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            )
            return [
                ResolveResult(
                    hostname=host,
                    host=str(address[0]),
                    port=int(address[1]),
                    family=kind,
                    proto=proto,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
                for kind, _, proto, _, address in found
            ]

        async def close(self) -> None:
            """There is nothing to close."""

    return Resolver()


async def _in_thread_of_its_own(work: Callable[[], T]) -> T:
    answer: Future[T] = Future()
    # From now on, whoever waits for it cannot cancel it, only leave.
    answer.set_running_or_notify_cancel()

    def run() -> None:
        try:
            answer.set_result(work())
        except Exception as failure:
            answer.set_exception(failure)

    threading.Thread(target=run, name="plaud-name", daemon=True).start()
    return await asyncio.wrap_future(answer)


def aiohttp_proxy(url: str) -> str | None:
    """
    Return the environment's proxy for a URL.

    :raises PlaudConfigurationError: if it is of a kind that aiohttp does not know.
    """
    proxies = proxies_for(url)
    if not proxies:
        return None
    from requests.utils import select_proxy

    proxy: str | None = select_proxy(url, proxies)
    if proxy is None:
        return None
    # As requests reads it: "proxy:3128" is the name of a proxy, not of a scheme.
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    scheme = urlsplit(proxy).scheme
    if scheme not in ("http", "https"):
        raise PlaudConfigurationError(
            f"HTTPS_PROXY or ALL_PROXY: the triggerer takes http:// and https:// proxies, not {scheme}://. "
            "Name one, or exempt the host with NO_PROXY. Nothing was sent."
        )
    return proxy
