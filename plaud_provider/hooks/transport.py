"""
How requests leave: one policy for both ways, :mod:`.transport_requests` and :mod:`.transport_aiohttp`.

No redirects, no credentials from ``.netrc``, no cookies, certificates always verified (against
``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE`` or certifi's list), proxies as the environment says but never for
loopback, answers capped in size, and a deadline for the whole exchange: a server that sends a byte a second
does not hold a task.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

from plaud_provider.api.effects import Operation, Request, TransportFailure
from plaud_provider.api.loopback import is_loopback
from plaud_provider.exceptions import PlaudConfigurationError

CHUNK_BYTES = 64 * 1024
ENCODINGS = "gzip, deflate"
#: How gzip begins, and how often it is taken off: a proxy may compress what is compressed already.
_GZIP = b"\x1f\x8b"
_MOST_LAYERS = 2
#: Of a header's line, in bytes.
MAX_HEADER_BYTES = 64 * 1024


class Limits(NamedTuple):
    """
    Bounds of one exchange.

    :param connect_seconds: Until a connection stands.
    :param read_seconds: Between two pieces of an answer.
    :param total_seconds: For the whole exchange.
    :param submit_seconds: For the whole exchange of a submit, however long its answer lets wait for itself:
        it is paid for. Less than the lease of a submit in the ledger.
    :param part_seconds: For the whole exchange of a part of an upload: 5 MB.
    :param response_bytes: Of an answer, after decompression.
    """

    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    total_seconds: float = 60.0
    submit_seconds: float = 150.0
    part_seconds: float = 300.0
    response_bytes: int = 128 * 1024 * 1024

    def of(self, request: Request, within: float | None = None) -> Limits:
        """
        Return the bounds of the exchange of one request.

        :param request: A submit, which is not repeatable, has bounds of its own.
        :param within: Seconds after which another one has to be over, if that is sooner.
        """
        if not request.repeatable:
            return self._replace(read_seconds=self.submit_seconds, total_seconds=self.submit_seconds)
        if request.operation is Operation.PART:
            return self._replace(total_seconds=self.part_seconds)
        return self if within is None else self._replace(total_seconds=min(self.total_seconds, within))


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


def decoded(body: bytes, headers: Mapping[str, str], limits: Limits) -> bytes:
    """
    Decompress a body, as far as an answer may be large.

    Its first bytes say whether it is gzip, not its headers: it may be paid for, and proxies get them wrong.

    :raises TransportFailure: if it becomes too large.
    :raises zlib.error: if it is not what its headers say.
    """
    for _ in range(_MOST_LAYERS):
        if not body.startswith(_GZIP):
            break
        body = _unpacked(body, 32 + zlib.MAX_WBITS, limits)
    if "deflate" in headers.get("content-encoding", "").lower() and body[:1] not in (b"{", b"["):
        # Without a header, which some servers send, or with one.
        is_bare = body[:1] and body[0] & 0x0F != 8
        body = _unpacked(body, -zlib.MAX_WBITS if is_bare else zlib.MAX_WBITS, limits)
    return body


def is_packed(body: bytes | bytearray, headers: Mapping[str, str]) -> bool:
    """Whether :func:`decoded` has something to do."""
    return "content-encoding" in headers or body.startswith(_GZIP)


def _unpacked(body: bytes, window: int, limits: Limits) -> bytes:
    unpacked = bytearray()
    is_gzip = body.startswith(_GZIP)
    while body:
        unpack = zlib.decompressobj(window)
        unpacked += unpack.decompress(body, limits.response_bytes + 1 - len(unpacked))
        if len(unpacked) > limits.response_bytes:
            raise too_large(limits)
        if not unpack.eof:
            raise zlib.error("cut short")
        # A gzip file may have several members, and something behind them.
        body = unpack.unused_data if is_gzip and unpack.unused_data.startswith(_GZIP) else b""
    return bytes(unpacked)


def readable(received: bytes) -> bytes:
    """
    Return what has come of a body that was cut off or spoilt, decompressed as far as it goes.

    As far as the answer to a submit may be large: of any other one it is of no use.
    """
    unpack = zlib.decompressobj(32 + zlib.MAX_WBITS)
    unpacked = bytearray()
    with suppress(zlib.error):
        # One byte at a time: what is wrong further on takes nothing away.
        for byte in received[:CHUNK_BYTES]:
            unpacked += unpack.decompress(bytes([byte]), CHUNK_BYTES)
            if len(unpacked) > CHUNK_BYTES:
                break
    return bytes(unpacked) or received


def class_of(failure: Exception) -> str:
    """Name a failure by its class: its text may hold the URL or what was received."""
    return f"the connection failed ({type(failure).__name__})"


def bad_certificate(failure: Exception) -> TransportFailure:
    """Return the failure of an exchange with a server whose certificate cannot be verified."""
    # OpenSSL's own words, such as "certificate has expired" or "Hostname mismatch, ...".
    why = getattr(failure, "verify_message", "") or "no reason given"
    return TransportFailure(
        f"its certificate cannot be verified ({why.rstrip('.')}). Verification cannot be switched off; set "
        "REQUESTS_CA_BUNDLE for a private authority, and check this host's clock",
        sent=False,
        passing=False,
    )


def too_slow(limits: Limits, *, sent: bool) -> TransportFailure:
    """Return the failure of an exchange that has taken too long."""
    return TransportFailure(f"no complete answer within {limits.total_seconds:g} seconds", sent=sent)


def too_large(limits: Limits) -> TransportFailure:
    """Return the failure of an exchange whose answer is larger than the limits allow."""
    return TransportFailure(
        f"it is larger than {limits.response_bytes / 1024**2:g} MiB", sent=True, passing=False, answered=True
    )
