"""Whether a call is Plaud's, and what it is about."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from plaud_provider.api.webhooks import WINDOW, Signature, final_transcription

NOW = 1_800_000_000.0
BODY = json.dumps({"event": "transcription.completed", "data": {"transcriptionId": "txn_1"}}).encode()


def signed(body: bytes = BODY, *, secret: str = "whsec", timestamp: str = f"{NOW:.0f}") -> dict[str, str]:
    """Return the headers of a call, as Plaud's page describes them."""
    signature = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"plaud-signature": f"sha256={signature}", "plaud-timestamp": timestamp}


def is_right(headers: dict[str, str], body: bytes = BODY, *secrets: str) -> bool:
    signature = Signature(headers, secrets or ("whsec",), now=NOW)
    for at in range(0, len(body), 7):
        signature.feed(body[at : at + 7])
    return signature.is_right()


def test_a_call_of_plaud_is_right() -> None:
    assert is_right(signed())


@pytest.mark.parametrize("bit", [0, 40, len(BODY) * 8 - 1])
def test_one_bit_of_the_body_makes_it_wrong(bit: int) -> None:
    forged = bytearray(BODY)
    forged[bit // 8] ^= 1 << bit % 8

    assert not is_right(signed(), bytes(forged))


def test_raw_bytes_are_signed_not_what_they_mean() -> None:
    assert not is_right(signed(), json.dumps(json.loads(BODY), indent=1).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"plaud-signature": ""},
        {"plaud-signature": "sha256="},
        {"plaud-signature": "sha256=" + "0" * 64},
        {"plaud-signature": "sha1=" + "0" * 40},
        {"plaud-signature": "sha256=é"},
        {"plaud-timestamp": ""},
        {"plaud-timestamp": "now"},
        {"plaud-timestamp": "nan"},
        {"plaud-timestamp": "inf"},
        {"plaud-timestamp": f"{NOW + 1:.0f}"},
    ],
)
def test_what_is_not_signed_so_is_wrong(change: dict[str, str]) -> None:
    assert not is_right({**signed(), **change})


@pytest.mark.parametrize(("off", "right"), [(0, True), (WINDOW, True), (WINDOW + 1, False)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_call_is_neither_old_nor_from_the_future(off: float, right: bool, sign: int) -> None:
    assert is_right(signed(timestamp=f"{NOW + sign * off:.0f}")) is right


@pytest.mark.parametrize(
    "timestamp",
    [
        f"{NOW:.3f}",
        f"{NOW * 1000:.0f}",
        datetime.fromtimestamp(NOW, tz=UTC).isoformat(),
        "2027-01-15T08:00:00",
    ],
)
def test_a_timestamp_may_be_written_otherwise(timestamp: str) -> None:
    assert is_right(signed(timestamp=timestamp))


def test_while_a_secret_is_changed_both_are_taken() -> None:
    for secret in ("old", "new"):
        assert is_right(signed(secret=secret), BODY, "old", "new")
    assert not is_right(signed(secret="third"), BODY, "old", "new")


@pytest.mark.parametrize(
    ("event", "about"),
    [
        ({"event": "transcription.completed", "data": {"transcriptionId": "txn_1"}}, "txn_1"),
        ({"event": "transcription.failed", "data": {"transcription_id": 5}}, "5"),
        ({"event": "transcription.failed", "id": "evt_1", "data": {"id": "txn_1"}}, "txn_1"),
        ({"event": "transcription.completed", "data": {"task_id": "t", "text": "a" * 100}}, "t"),
        ({"event": "transcription.completed", "transcriptionId": "txn_1"}, "txn_1"),
        ({"event": "transcription.started", "data": {"transcriptionId": "txn_1"}}, None),
        ({"event": "transcription.completed", "data": {"transcriptionId": "a\nb"}}, None),
        ({"event": "transcription.completed", "data": []}, None),
        ({"event": "transcription.completed"}, None),
        ({"event": ["transcription.completed"]}, None),
        ({}, None),
        ([], None),
    ],
)
def test_what_a_call_is_about(event: Any, about: str | None) -> None:
    assert final_transcription(json.dumps(event).encode()) == about


@pytest.mark.parametrize("body", [b"", b"\xff\x00", b"[" * 100_000])
def test_a_body_that_is_no_event_is_about_nothing(body: bytes) -> None:
    assert final_transcription(body) is None
