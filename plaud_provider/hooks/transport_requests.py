"""
Sending with ``requests``, which has no deadline: an exchange that is given up has its socket shut.

The policy is that of :mod:`.transport`.
"""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import struct
import threading
import weakref
import zlib
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

from plaud_provider.api.effects import Part, Request, Response, TransportFailure
from plaud_provider.hooks.transport import (
    CHUNK_BYTES,
    ENCODINGS,
    MAX_HEADER_BYTES,
    Limits,
    bad_certificate,
    ca_bundle,
    class_of,
    decoded,
    proxies_for,
    readable,
    too_large,
    too_slow,
)

if TYPE_CHECKING:
    from requests import Session
    from requests.adapters import HTTPAdapter
    from urllib3 import HTTPConnectionPool, PoolManager
    from urllib3.connection import HTTPConnection


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
                    # With a reset: Linux may leave a server that floods waiting to send the rest.
                    duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
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

        def _read_status(self) -> tuple[str, int, str]:
            # Python takes any interim answer but 100 for the last one.
            while True:
                read: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
                if not 101 < read[1] < 200:
                    return read
                while self.fp.readline(MAX_HEADER_BYTES).strip():
                    pass

    class Connection(pool.ConnectionCls):  # type: ignore[name-defined,misc]
        response_class = Answer

        def _new_conn(self) -> socket.socket:
            opened: socket.socket = super()._new_conn()
            sockets.add(self, opened)
            return opened

    return type(pool.__name__, (pool,), {"ConnectionCls": Connection})


class _Body(io.RawIOBase):
    """
    A request body that knows whether it has begun to leave, and can be kept back.

    It is read once the connection stands, after the headers: until then no server can have accepted the
    request, whatever went wrong and in whichever of the layers below.
    """

    def __init__(self, content: bytes | Part) -> None:
        super().__init__()
        self._content = io.BytesIO(content) if isinstance(content, bytes) else content.open()
        self._size = len(content)
        self._lock = threading.Lock()
        self._kept_back = False
        self.has_left = False

    def read(self, size: int | None = -1, /) -> bytes:
        with self._lock:
            if self._kept_back:
                raise OSError("given up")
            self.has_left = True
        return self._content.read(-1 if size is None else size)

    def __len__(self) -> int:
        return self._size

    def tell(self) -> int:
        """Return where it begins: requests asks before it is read, for how much is left."""
        return 0

    def close(self) -> None:
        self._content.close()
        super().close()

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
        raise too_slow(limits, sent=body is None or body.has_left)
    if isinstance(in_time[0], BaseException):
        raise in_time[0]
    return in_time[0]


def _exchange(session: Session, request: Request, body: _Body | None, limits: Limits) -> Response:
    import requests
    import urllib3

    received = bytearray()
    try:
        with session.request(
            request.method,
            request.url,
            data=body,
            headers={**request.headers, "Accept-Encoding": ENCODINGS},
            timeout=(limits.connect_seconds, limits.read_seconds),
            allow_redirects=False,
        ) as answer:
            for chunk in answer.raw.stream(CHUNK_BYTES, decode_content=False):
                received += chunk
                if len(received) > limits.response_bytes:
                    raise too_large(limits)
            # Those that came more than once are one here, with commas.
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Response(answer.status_code, headers, decoded(bytes(received), headers, limits))
    except (
        requests.exceptions.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
        zlib.error,
    ) as failure:
        sent = body is None or body.has_left
        # Of a chunk that was cut off.
        partial = getattr(failure.args[-1], "partial", b"") if failure.args else b""
        received += partial if isinstance(partial, bytes) else b""
        raise _failure(failure, sent=sent, received=readable(bytes(received))) from None


def _failure(failure: Exception, *, sent: bool, received: bytes) -> TransportFailure:
    from urllib3.exceptions import NameResolutionError, NewConnectionError

    # What requests raises wraps what urllib3 raises, which says why.
    reason = getattr(failure.args[0], "reason", None) if failure.args else None
    certificate = getattr(reason, "args", (None,))[0]
    if isinstance(certificate, ssl.SSLCertVerificationError):
        return bad_certificate(certificate)
    if isinstance(reason, NameResolutionError):
        return TransportFailure("the host name cannot be resolved", sent=sent)
    if isinstance(reason, NewConnectionError):
        return TransportFailure("the connection was refused", sent=sent)
    return TransportFailure(class_of(failure), sent=sent, received=received)
