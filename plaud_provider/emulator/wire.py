"""Requests and answers as the emulator sees them, and how secrets in them are shown."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

# Plain, percent-encoded, or as an escape of JSON. An encoded mark without a parameter is part of a name.
_QUERY = re.compile(r"(?:\?|(?:%(?:25){0,4}3F|\\u003F)(?=\S*(?:=|%(?:25){0,4}3D|\\u003D)))\S*", re.IGNORECASE)
_USER = re.compile(
    r"[^\s/]{0,300}(?::|%(?:25){0,4}3A|\\u003A)[^\s/]{0,300}(?:@|%(?:25){0,4}40|\\u0040)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Request:
    """
    One request, read to its end.

    :param kind: One of :data:`plaud_provider.emulator.faults.Kind`.
    :param path: The path as it was sent, still percent-encoded, without the query.
    :param headers: By lower-case name.
    """

    kind: str
    method: str
    path: str
    query: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def media_type(self) -> str:
        """The content type without its parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Answer:
    """
    One answer, not sent yet.

    :param transcription_id: The transcription that it is about.
    """

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    transcription_id: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """
    How an answer is sent: whole, cut after ``keep`` bytes, dripping, or not at all.

    :param dropped: Close the connection without a byte.
    :param cut: Close it within the body, although the Content-Length is that of the whole.
    :param reset: Close it with a reset (RST) where it otherwise ends in order (FIN).
    """

    dropped: bool = False
    cut: bool = False
    keep: int | None = None
    reset: bool = False
    bytes_per_second: float | None = None


WHOLE = Delivery()


def json_answer(
    status: int,
    payload: Any,
    *,
    headers: Mapping[str, str] | None = None,
    transcription_id: str | None = None,
) -> Answer:
    """Return an answer in JSON."""
    return Answer(
        status,
        # Lone surrogates, which a test may force on purpose, survive only as escapes.
        json.dumps(payload, ensure_ascii=True, separators=(",", ":")).encode(),
        {"content-type": "application/json", **(headers or {})},
        transcription_id,
    )


def error_answer(status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an error; the contract leaves its shape open."""
    return json_answer(status, {"error": {"code": code, "message": message}}, headers=headers)


def fingerprint(secret: str) -> str:
    """Return what stands for a secret wherever it is shown."""
    return f"sha256:{hashlib.sha256(secret.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def with_query_fingerprints(url: str) -> str:
    """Return a URL with each value of its query as a fingerprint: still comparable, no longer usable."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return fingerprint(url)
    query = [
        (name, fingerprint(value)) if value else (fingerprint(name), "")
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    netloc = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, netloc, without_queries(parts.path), urlencode(query, safe=":"), ""))


def without_queries(text: str) -> str:
    """Return a text with the query, the user and the password of every URL in it cut off."""
    return _USER.sub("", _QUERY.sub("", text))


def without_queries_within(value: Any) -> Any:
    """Return a JSON value with :func:`without_queries` done to each of its texts."""
    match value:
        case str():
            return without_queries(value)
        case list():
            return [without_queries_within(item) for item in value]
        case dict():
            return {without_queries(name): without_queries_within(item) for name, item in value.items()}
    return value
