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
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

from plaud_provider.api.effects import Operation, Request, TransportFailure
from plaud_provider.api.loopback import is_loopback
from plaud_provider.exceptions import PlaudConfigurationError

CHUNK_BYTES = 64 * 1024
ENCODINGS = "gzip, deflate"


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
    unpacked = bytearray()
    while body:
        unpack = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else 32 + zlib.MAX_WBITS)
        unpacked += unpack.decompress(body, limits.response_bytes + 1 - len(unpacked))
        if len(unpacked) > limits.response_bytes:
            raise too_large(limits)
        if not unpack.eof:
            raise zlib.error("cut short")
        # A gzip file may have several members.
        body = unpack.unused_data
    return bytes(unpacked)


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
