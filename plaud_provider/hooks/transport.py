"""
How requests leave: one policy for the synchronous and the asynchronous way.

No redirects, no credentials from ``.netrc``, no cookies, certificates always verified (against
``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE`` or certifi's list), proxies as the environment says but never for
loopback, answers capped in size, and a deadline for the whole exchange: a server that sends a byte a second
does not hold a task.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from plaud_provider.api.effects import Request, Response, TransportFailure
from plaud_provider.api.regions import is_loopback

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from requests import Session

CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """
    Bounds of one exchange.

    :param connect_seconds: Until a connection stands.
    :param read_seconds: Between two pieces of an answer.
    :param total_seconds: For the whole exchange.
    :param response_bytes: Of an answer, after decompression.
    """

    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    total_seconds: float = 60.0
    response_bytes: int = 128 * 1024 * 1024


def proxies_for(url: str) -> dict[str, str]:
    """Return the environment's proxies for a URL; none for loopback."""
    from requests.utils import get_environ_proxies

    if is_loopback(urlsplit(url).hostname or ""):
        return {}
    return dict(get_environ_proxies(url))


def ca_bundle() -> str:
    """Return the file of certificate authorities to verify against."""
    import certifi

    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or certifi.where()


def prepare_session(session: Session, base_url: str) -> Session:
    """Give a requests session this module's policy."""
    session.trust_env = False
    session.proxies = proxies_for(base_url)
    session.verify = ca_bundle()
    session.max_redirects = 0
    session.stream = True
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session


def send_with_requests(open_session: Callable[[], Session], request: Request, limits: Limits) -> Response:
    """
    Send a request with ``requests``.

    ``requests`` bounds the time between two bytes, not the whole; so the exchange runs in a thread of its own
    and is given up at the deadline. The thread ends when its connection does.

    :param open_session: Gives the session to send with.
    :raises TransportFailure: if there is no usable answer.
    """
    outcome: list[Response | BaseException] = []

    def exchange() -> None:
        try:
            outcome.append(_exchange(open_session(), request, limits))
        except BaseException as failure:
            outcome.append(failure)

    thread = threading.Thread(target=exchange, name=f"plaud-{request.operation.value}", daemon=True)
    thread.start()
    thread.join(limits.total_seconds)
    if not outcome:
        raise _too_slow(limits)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _exchange(session: Session, request: Request, limits: Limits) -> Response:
    import requests

    try:
        with session.request(
            request.method,
            request.url,
            data=request.body,
            headers=dict(request.headers),
            timeout=(limits.connect_seconds, limits.read_seconds),
            allow_redirects=False,
        ) as answer:
            body = bytearray()
            for chunk in answer.iter_content(CHUNK_BYTES):
                body += chunk
                if len(body) > limits.response_bytes:
                    raise _too_large(limits)
            return Response(
                answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, bytes(body)
            )
    except requests.exceptions.SSLError as failure:
        raise _bad_certificate(str(failure)) from None
    except (requests.exceptions.ConnectTimeout, requests.exceptions.ProxyError) as failure:
        raise TransportFailure(_kind(failure), sent=False) from None
    except requests.exceptions.ConnectionError as failure:
        raise _connection_failure(failure) from None
    except (requests.exceptions.RequestException, OSError) as failure:
        raise TransportFailure(_kind(failure), sent=True) from None


def _connection_failure(failure: Exception) -> TransportFailure:
    from urllib3.exceptions import NameResolutionError, NewConnectionError

    reason = getattr(failure.args[0], "reason", None) if failure.args else None
    if isinstance(reason, NameResolutionError):
        return TransportFailure("the host name cannot be resolved", sent=False)
    if isinstance(reason, NewConnectionError):
        return TransportFailure("the connection was refused", sent=False)
    return TransportFailure("the connection broke", sent=True)


async def send_with_aiohttp(session: ClientSession, request: Request, limits: Limits) -> Response:
    """
    Send a request with aiohttp.

    :raises TransportFailure: if there is no usable answer.
    """
    import aiohttp

    try:
        async with session.request(
            request.method,
            request.url,
            data=request.body,
            headers=request.headers,
            allow_redirects=False,
            proxy=_proxy(request.url),
        ) as answer:
            body = bytearray()
            async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                body += chunk
                if len(body) > limits.response_bytes:
                    raise _too_large(limits)
            return Response(answer.status, {k.lower(): v for k, v in answer.headers.items()}, bytes(body))
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as failure:
        raise _bad_certificate(str(failure)) from None
    except aiohttp.ClientConnectorDNSError:
        raise TransportFailure("the host name cannot be resolved", sent=False) from None
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as failure:
        raise TransportFailure(_kind(failure), sent=False) from None
    except TimeoutError:
        raise _too_slow(limits) from None
    except (aiohttp.ClientError, OSError) as failure:
        raise TransportFailure(_kind(failure), sent=True) from None


def open_aiohttp_session(limits: Limits, *, reuse_connections: bool = True) -> ClientSession:
    """Return an aiohttp session with this module's policy; to be called inside the event loop."""
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            ssl=ssl.create_default_context(cafile=ca_bundle()), force_close=not reuse_connections
        ),
        timeout=aiohttp.ClientTimeout(
            total=limits.total_seconds, sock_connect=limits.connect_seconds, sock_read=limits.read_seconds
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


def _proxy(url: str) -> str | None:
    from requests.utils import select_proxy

    proxy: str | None = select_proxy(url, proxies_for(url))
    return proxy


def _kind(failure: Exception) -> str:
    """Name a failure by its class: its text may hold the URL or what was received."""
    return f"the connection failed ({type(failure).__name__})"


def _bad_certificate(text: str) -> TransportFailure:
    detail = "certificate has expired" if "expired" in text else "certificate cannot be verified"
    return TransportFailure(
        f"its {detail}. Verification cannot be switched off; set REQUESTS_CA_BUNDLE for a private authority, "
        "and check this host's clock",
        sent=False,
        passing=False,
    )


def _too_slow(limits: Limits) -> TransportFailure:
    return TransportFailure(f"no complete answer within {limits.total_seconds:g} seconds", sent=True)


def _too_large(limits: Limits) -> TransportFailure:
    return TransportFailure(
        f"the answer is larger than {limits.response_bytes // (1024 * 1024)} MiB", sent=True, passing=False
    )
