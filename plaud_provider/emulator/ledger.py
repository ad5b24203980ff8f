"""Every request, in order: the record that tests and people check a client against."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from plaud_provider.emulator.limits import busiest_minute
from plaud_provider.emulator.wire import (
    Request,
    fingerprint,
    with_query_fingerprints,
    without_queries_within,
)

DROPPED = "dropped"
QUOTAS = {
    "exchange": "token_requests",
    "refresh": "token_requests",
    "submit": "api_requests",
    "get": "api_requests",
    "user_token": "api_requests",
    "upload_urls": "api_requests",
    "upload_complete": "api_requests",
}
COUNTS = (
    "requests", "exchanges", "refreshes", "submits_accepted", "gets", "refused_429", "unauthorized_401",
    "other_4xx", "answers_5xx", "dropped", "in_flight", "faulted",
)  # fmt: skip
_URL_FIELDS = ("audioUrl", "webhookUrl", "file_url")


@dataclass(slots=True)
class Entry:
    """
    One request and what became of it. Secrets are kept as fingerprints only.

    :param emulated_at: Moment of the emulator's clock.
    :param client_id: Who asked, as far as the credentials tell; they may be wrong.
    :param token: Fingerprint of the bearer token.
    :param faults: Ids of the injected faults that it met.
    :param status: What was answered; ``dropped`` if the connection was closed instead, ``None`` until then.
    :param transcription_id: What a submit created, also if its answer was lost, or what was asked for.
    :param accepted: Whether a submit took effect: it would be billed.
    """

    sequence: int
    kind: str
    method: str
    path: str
    emulated_at: float
    real_at: datetime
    client_id: str | None
    token: str | None
    host: str | None
    header_names: tuple[str, ...]
    query_names: tuple[str, ...]
    body: Any
    faults: list[int] = field(default_factory=list)
    status: int | str | None = None
    transcription_id: str | None = None
    accepted: bool = False
    retry_after: str | None = None

    @property
    def audio_url(self) -> str | None:
        """What was submitted, if it was accepted, with the values of its query as fingerprints."""
        return str(self.body.get("audioUrl") or self.body["file_url"]) if self.accepted else None

    def view(self, emulated_time: str) -> dict[str, Any]:
        """Return the entry as JSON values."""
        return {
            "sequence": self.sequence,
            "kind": self.kind,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "client_id": self.client_id,
            "transcription_id": self.transcription_id,
            "accepted": self.accepted,
            "audio_url": self.audio_url,
            "retry_after": self.retry_after,
            "faults": list(self.faults),
            "real_time": self.real_at.isoformat(),
            "emulated_time": emulated_time,
            "emulated_seconds": round(self.emulated_at, 6),
            "host": self.host,
            "token": self.token,
            "header_names": list(self.header_names),
            "query_names": list(self.query_names),
            "body": self.body,
        }


class Ledger:
    """The requests since the start or the last reset."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._header_names: dict[tuple[str, ...], tuple[str, ...]] = {}

    def open(self, request: Request, emulated_at: float, client_id: str | None, token: str | None) -> Entry:
        """Note a request as it arrives."""
        names = tuple(sorted(request.headers))
        entry = Entry(
            sequence=len(self._entries) + 1,
            kind=request.kind,
            method=request.method,
            path=request.path,
            emulated_at=emulated_at,
            real_at=datetime.now(UTC),
            client_id=client_id,
            token=None if token is None else fingerprint(token),
            host=request.headers.get("host"),
            # A client sends the same names again and again: a hundred thousand requests share them.
            header_names=self._header_names.setdefault(names, names),
            query_names=tuple(sorted({name for name, _ in parse_qsl(request.query, keep_blank_values=True)})),
            body=_body(request),
        )
        self._entries.append(entry)
        return entry

    def entries(self, *, kind: str | None = None, after: int = 0, limit: int | None = None) -> list[Entry]:
        """Return entries in order: of one kind, beyond a sequence number, and no more than ``limit``."""
        chosen = [entry for entry in self._entries[after:] if kind in (None, entry.kind)]
        return chosen if limit is None else chosen[:limit]


def summarise(entries: Iterable[Entry]) -> dict[str, Any]:
    """Return counts: what was granted, what was refused, what was lost, and the busiest minute per client."""
    counts: Counter[str] = Counter()
    audio: Counter[str] = Counter()
    moments: dict[str, dict[str, list[float]]] = {}
    for entry in entries:
        counts["requests"] += 1
        counts[_outcome(entry)] += 1
        counts["faulted"] += bool(entry.faults)
        if entry.audio_url is not None:
            counts["submits_accepted"] += 1
            audio[entry.audio_url.partition("?")[0]] += 1
        quota = QUOTAS.get(entry.kind)
        if entry.client_id is not None and quota is not None:
            per_quota = moments.setdefault(
                entry.client_id, {name: [] for name in sorted(set(QUOTAS.values()))}
            )
            per_quota[quota].append(entry.emulated_at)
    return {
        **{name: counts[name] for name in COUNTS},
        "audio_submitted_again": sum(times - 1 for times in audio.values()),
        "busiest_minute": {
            client_id: {quota: busiest_minute(times) for quota, times in per_quota.items()}
            for client_id, per_quota in moments.items()
        },
    }


def _outcome(entry: Entry) -> str:
    match entry.status:
        case None:
            return "in_flight"
        case str():
            return entry.status
        case 200:
            # Submits are counted by their effect, whatever was answered.
            return {"exchange": "exchanges", "refresh": "refreshes", "get": "gets"}.get(entry.kind, "ok")
        case 401:
            return "unauthorized_401"
        case 429:
            return "refused_429"
        case status:
            return {4: "other_4xx", 5: "answers_5xx"}.get(status // 100, "other")


def _body(request: Request) -> Any:
    """Return the body with its secrets as fingerprints; of one that cannot be read, only the length."""
    if not request.body:
        return None
    body = _parsed(request)
    if not isinstance(body, Mapping):
        return {"unreadable_bytes": len(request.body)}
    if request.kind == "submit":
        return {
            name: with_query_fingerprints(value)
            if name in _URL_FIELDS and isinstance(value, str)
            else without_queries_within(value)
            for name, value in body.items()
        }
    # Elsewhere the contract knows of no field that is not a secret.
    return {name: fingerprint(str(value)) for name, value in body.items()}


def _parsed(request: Request) -> Any:
    if request.media_type == "application/x-www-form-urlencoded":
        return dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
    try:
        return json.loads(request.body)
    except (ValueError, RecursionError):
        return None
