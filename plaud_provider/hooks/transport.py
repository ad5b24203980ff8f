"""
How requests leave: one policy for the synchronous and the asynchronous way.

No redirects, no credentials from ``.netrc``, no cookies, certificates always verified (against
``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE`` or certifi's list), proxies as the environment says but never for
loopback, answers capped in size, and a deadline for the whole exchange: a server that sends a byte a second
does not hold a task.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import ssl
import threading
import weakref
import zlib
from collections.abc import Mapping
from functools import lru_cache
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

from plaud_provider.api.effects import Request, Response, TransportFailure
from plaud_provider.api.regions import is_loopback
from plaud_provider.exceptions import PlaudConfigurationError

if TYPE_CHECKING:
    from aiohttp import ClientSession, ClientTimeout
    from requests import Session
    from requests.adapters import HTTPAdapter
    from urllib3 import HTTPConnectionPool, PoolManager
    from urllib3.connection import HTTPConnection

CHUNK_BYTES = 64 * 1024
_ENCODINGS = "gzip, deflate"


class Limits(NamedTuple):
    """
    Bounds of one exchange.

    :param connect_seconds: Until a connection stands.
    :param read_seconds: Between two pieces of an answer.
    :param total_seconds: For the whole exchange.
    :param submit_seconds: For the whole exchange of a submit, however long its answer lets wait for itself:
        it is paid for. Less than the lease of a submit in the ledger.
    :param response_bytes: Of an answer, after decompression.
    """

    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    total_seconds: float = 60.0
    submit_seconds: float = 150.0
    response_bytes: int = 128 * 1024 * 1024

    @property
    def of_submits(self) -> Limits:
        """The bounds of a submit."""
        return self._replace(read_seconds=self.submit_seconds, total_seconds=self.submit_seconds)

    def within(self, seconds: float | None) -> Limits:
        """Return the bounds of an exchange that has to be over sooner; ``None`` for these."""
        if seconds is None:
            return self
        return self._replace(total_seconds=min(self.total_seconds, seconds))


def proxies_for(url: str) -> dict[str, str]:
    """Return the environment's proxies for a URL; none for loopback."""
    # Most often there is none, and what decides between several takes long to import.
    if is_loopback(urlsplit(url).hostname or "") or not getproxies():
        return {}
    from requests.utils import get_environ_proxies

    return dict(get_environ_proxies(url))


def ca_bundle(base_url: str) -> str | None:
    """
    Return the file or folder of certificate authorities to verify against; ``None`` where there is no TLS.

    :raises PlaudConfigurationError: if the environment names one that does not exist.
    """
    import certifi

    if urlsplit(base_url).scheme != "https":
        return None

    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        path = os.environ.get(variable)
        if path and not os.path.exists(path):
            raise PlaudConfigurationError(
                f"{variable}: there is no file or folder {path!r} of certificate authorities. Correct the "
                "variable or unset it. Nothing was sent."
            )
        if path:
            return path
    return certifi.where()


def open_requests_session(base_url: str) -> Session:
    """Return a requests session with this module's policy."""
    from requests import Session

    class NoRedirects(Session):
        """A session for which a redirect is an answer like any other, not even read for where it leads."""

        def get_redirect_target(self, resp: object) -> None:
            return None

    session = NoRedirects()
    sockets = _Sockets()
    adapter = _watching_adapter(sockets)
    # For a hook that nobody closes.
    weakref.finalize(session, sockets.close)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    session.trust_env = False
    session.proxies = proxies_for(base_url)
    session.verify = ca_bundle(base_url) or True
    session.stream = True
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session


class _Sockets:
    """
    The sockets of a session, so that another thread can shut them.

    Each is a duplicate: TLS takes the first one's descriptor away, and an answer that ends with its
    connection outlives it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[tuple[HTTPConnection, socket.socket]] = []
        self.is_shut = False

    def add(self, connection: HTTPConnection, opened: socket.socket) -> None:
        """
        Note a new connection.

        :raises OSError: if the exchange that it was for has been given up.
        """
        with self._lock:
            if self.is_shut:
                opened.close()
                raise OSError("given up")
            self._open.append((connection, opened.dup()))

    def forget_closed(self) -> None:
        """Let go of what is closed, after an exchange."""
        with self._lock:
            closed = [pair for pair in self._open if pair[0].sock is None]
            self._open = [pair for pair in self._open if pair[0].sock is not None]
            for _, duplicate in closed:
                duplicate.close()

    def close(self) -> None:
        """Let go of all."""
        with self._lock:
            for _, duplicate in self._open:
                duplicate.close()
            self._open.clear()

    def shut(self) -> None:
        """End all connections, whoever waits for them, and open no more."""
        with self._lock:
            self.is_shut = True
            for _, duplicate in self._open:
                with contextlib.suppress(OSError):
                    duplicate.shutdown(socket.SHUT_RDWR)
        self.close()


def _watching_adapter(sockets: _Sockets) -> HTTPAdapter:
    from requests.adapters import HTTPAdapter

    def watch(manager: PoolManager) -> PoolManager:
        manager.pool_classes_by_scheme = {
            scheme: _watched(pool, sockets) for scheme, pool in manager.pool_classes_by_scheme.items()
        }
        return manager

    class WatchingAdapter(HTTPAdapter):
        """An adapter that notes its sockets."""

        def __init__(self) -> None:
            self.sockets = sockets
            super().__init__()

        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            watch(self.poolmanager)

        def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
            is_new = proxy not in self.proxy_manager
            manager = super().proxy_manager_for(proxy, **kwargs)
            return watch(manager) if is_new else manager

        def close(self) -> None:
            super().close()
            sockets.close()

    return WatchingAdapter()


def _watched(pool: type[HTTPConnectionPool], sockets: _Sockets) -> type[HTTPConnectionPool]:
    """Return a class of connection pools that note their sockets; also of those to a SOCKS proxy."""
    from http.client import HTTPResponse

    class Reading(io.RawIOBase):
        """What arrives; a server that floods would have it go on although the socket is shut."""

        def __init__(self, raw: io.RawIOBase) -> None:
            self._raw = raw

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int | None:
            if sockets.is_shut:
                raise OSError("given up")
            return self._raw.readinto(buffer)

        def close(self) -> None:
            self._raw.close()
            super().close()

    class Answer(HTTPResponse):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.fp = io.BufferedReader(Reading(self.fp.detach()))

    class Connection(pool.ConnectionCls):  # type: ignore[name-defined,misc]
        response_class = Answer

        def _new_conn(self) -> socket.socket:
            opened: socket.socket = super()._new_conn()
            sockets.add(self, opened)
            return opened

    return type(pool.__name__, (pool,), {"ConnectionCls": Connection})


class _Body(io.BytesIO):
    """
    A request body that knows whether it has begun to leave, and can be kept back.

    It is read once the connection stands, after the headers: until then no server can have accepted the
    request, whatever went wrong and in whichever of the layers below.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._lock = threading.Lock()
        self._kept_back = False
        self.has_left = False

    def read(self, size: int | None = -1, /) -> bytes:
        with self._lock:
            if self._kept_back:
                raise OSError("given up")
            self.has_left = True
        return super().read(size)

    def keep_back(self) -> None:
        with self._lock:
            self._kept_back = True


def send_with_requests(session: Session, request: Request, limits: Limits) -> Response:
    """
    Send a request with ``requests``.

    ``requests`` bounds the time between two bytes, not the whole; so the exchange runs in a thread of its own
    and is given up at the deadline: its connection is shut, which ends the thread. No request goes out on the
    session after that.

    :raises TransportFailure: if there is no usable answer.
    """
    outcome: list[Response | BaseException] = []
    body = _Body(request.body) if request.body else None

    def exchange() -> None:
        try:
            outcome.append(_exchange(session, request, body, limits))
        except BaseException as failure:
            outcome.append(failure)

    thread = threading.Thread(target=exchange, name=f"plaud-{request.operation.value}", daemon=True)
    thread.start()
    sockets: _Sockets = session.get_adapter(request.url).sockets  # type: ignore[attr-defined]
    try:
        thread.join(limits.total_seconds)
        # Before the connection is shut, which fails an exchange as well.
        in_time = tuple(outcome)
    finally:
        # Also where whoever waits here is stopped.
        if body is not None:
            body.keep_back()
        if thread.is_alive():
            sockets.shut()
    sockets.forget_closed()
    if not in_time:
        raise _too_slow(limits, sent=body is None or body.has_left)
    if isinstance(in_time[0], BaseException):
        raise in_time[0]
    return in_time[0]


def _exchange(session: Session, request: Request, body: _Body | None, limits: Limits) -> Response:
    import requests
    import urllib3

    try:
        with session.request(
            request.method,
            request.url,
            data=body,
            headers={**request.headers, "Accept-Encoding": _ENCODINGS},
            timeout=(limits.connect_seconds, limits.read_seconds),
            allow_redirects=False,
        ) as answer:
            received = bytearray()
            for chunk in answer.raw.stream(CHUNK_BYTES, decode_content=False):
                received += chunk
                if len(received) > limits.response_bytes:
                    raise _too_large(limits)
            headers = _headers(answer.headers)
            return Response(answer.status_code, headers, _decoded(bytes(received), headers, limits))
    except (
        requests.exceptions.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
        zlib.error,
    ) as failure:
        raise _failure(failure, sent=body is None or body.has_left) from None


def _headers(received: Mapping[str, str]) -> dict[str, str]:
    """Return headers by their names in lower case; those that came more than once as one, with commas."""
    headers: dict[str, str] = {}
    for name, value in received.items():
        headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
    return headers


def _failure(failure: Exception, *, sent: bool) -> TransportFailure:
    from urllib3.exceptions import NameResolutionError, NewConnectionError

    # What requests raises wraps what urllib3 raises, which says why.
    reason = getattr(failure.args[0], "reason", None) if failure.args else None
    certificate = getattr(reason, "args", (None,))[0]
    if isinstance(certificate, ssl.SSLCertVerificationError):
        return _bad_certificate(certificate)
    if isinstance(reason, NameResolutionError):
        return TransportFailure("the host name cannot be resolved", sent=sent)
    if isinstance(reason, NewConnectionError):
        return TransportFailure("the connection was refused", sent=sent)
    return TransportFailure(_kind(failure), sent=sent)


async def send_with_aiohttp(
    session: ClientSession, request: Request, limits: Limits, *, proxy: str | None
) -> Response:
    """
    Send a request with aiohttp.

    :raises TransportFailure: if there is no usable answer.
    """
    import asyncio

    import aiohttp
    from yarl import URL

    try:
        async with session.request(
            request.method,
            # Already quoted; it would unquote "%3B".
            URL(request.url, encoded=True),
            data=request.body,
            headers={**request.headers, "Accept-Encoding": _ENCODINGS},
            allow_redirects=False,
            proxy=proxy,
            timeout=_aiohttp_timeout(limits),
        ) as answer:
            body = bytearray()
            async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                body += chunk
                if len(body) > limits.response_bytes:
                    raise _too_large(limits)
            headers = _headers(answer.headers)
            if "content-encoding" in headers:
                # Not on the loop: a few kilobytes may become many megabytes.
                return Response(
                    answer.status, headers, await asyncio.to_thread(_decoded, bytes(body), headers, limits)
                )
            return Response(answer.status, headers, bytes(body))
    except aiohttp.ClientConnectorCertificateError as failure:
        raise _bad_certificate(failure.certificate_error) from None
    except aiohttp.ClientConnectorDNSError:
        raise TransportFailure("the host name cannot be resolved", sent=False) from None
    except (
        aiohttp.ClientConnectorError,
        aiohttp.ConnectionTimeoutError,
        # A proxy that refuses to connect.
        aiohttp.ClientHttpProxyError,
    ) as failure:
        raise TransportFailure(_kind(failure), sent=False) from None
    except TimeoutError:
        raise _too_slow(limits, sent=True) from None
    except (aiohttp.ClientError, OSError, zlib.error) as failure:
        raise TransportFailure(_kind(failure), sent=True) from None


def _decoded(body: bytes, headers: Mapping[str, str], limits: Limits) -> bytes:
    """
    Decompress a body, as far as an answer may be large.

    :raises TransportFailure: if it becomes too large.
    :raises zlib.error: if it is not what its headers say.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise zlib.error("an encoding that was not asked for")
    # 32: gzip or zlib, whichever it is; negative: deflate without a header, which some servers send.
    is_bare = encoding == "deflate" and body[:1] and body[0] & 0x0F != 8
    decoded = bytearray()
    while body:
        unpack = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else 32 + zlib.MAX_WBITS)
        decoded += unpack.decompress(body, limits.response_bytes + 1 - len(decoded))
        if len(decoded) > limits.response_bytes:
            raise _too_large(limits)
        if not unpack.eof:
            raise zlib.error("cut short")
        # A gzip file may have several members.
        body = unpack.unused_data
    return bytes(decoded)


def _aiohttp_timeout(limits: Limits) -> ClientTimeout:
    import aiohttp

    return aiohttp.ClientTimeout(
        total=limits.total_seconds, sock_connect=limits.connect_seconds, sock_read=limits.read_seconds
    )


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
        connector=aiohttp.TCPConnector(ssl=tls or True, force_close=not reuse_connections),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        # It would decompress on the loop.
        auto_decompress=False,
    )
    # It would send a GET again by itself where a connection that it used again has broken: two requests for
    # one slot of the quota. There is no public way to say so; its own test client says it like this.
    session._retry_connection = False
    return session


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


def _kind(failure: Exception) -> str:
    """Name a failure by its class: its text may hold the URL or what was received."""
    return f"the connection failed ({type(failure).__name__})"


def _bad_certificate(failure: Exception) -> TransportFailure:
    # OpenSSL's own words, such as "certificate has expired" or "Hostname mismatch, ...".
    why = getattr(failure, "verify_message", "") or "no reason given"
    return TransportFailure(
        f"its certificate cannot be verified ({why.rstrip('.')}). Verification cannot be switched off; set "
        "REQUESTS_CA_BUNDLE for a private authority, and check this host's clock",
        sent=False,
        passing=False,
    )


def _too_slow(limits: Limits, *, sent: bool) -> TransportFailure:
    return TransportFailure(f"no complete answer within {limits.total_seconds:g} seconds", sent=sent)


def _too_large(limits: Limits) -> TransportFailure:
    return TransportFailure(
        f"it is larger than {limits.response_bytes / 1024**2:g} MiB", sent=True, passing=False, answered=True
    )
