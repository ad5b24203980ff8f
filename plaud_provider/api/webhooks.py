"""
Calls of Plaud's webhook: whether one is Plaud's, and which transcription it is about.

Pure. What a call says besides is not used: it only makes somebody look, and the API is asked.

Source: Plaud's webhook page. ``plaud-signature: sha256=<hex>`` is the HMAC-SHA256, keyed with the webhook
secret, over ``<plaud-timestamp>.<raw body>``. The form of the timestamp is not documented: seconds or
milliseconds since the epoch, or ISO 8601, are taken.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping

from plaud_provider.api.answers import parse_json, transcription_id_in
from plaud_provider.api.members import as_time
from plaud_provider.exceptions import PlaudResponseError

SIGNATURE_HEADER = "plaud-signature"
TIMESTAMP_HEADER = "plaud-timestamp"
#: A call may be older than this, or newer, by no more than so many seconds.
WINDOW = 300.0
#: Events after which a transcription is final.
FINAL_EVENTS = frozenset({"transcription.completed", "transcription.failed"})

_SIGNATURE = re.compile(r"sha256=([0-9a-f]{64})")


class Signature:
    """
    What a call claims to be signed with. It is checked before the body is read, as far as it can be.

    :param headers: The call's headers, by names in lower case.
    :param secrets: The webhook secrets: any of them will do, so that they can be changed.
    :param now: Epoch seconds.
    """

    def __init__(self, headers: Mapping[str, str], secrets: Iterable[str], *, now: float) -> None:
        timestamp = headers.get(TIMESTAMP_HEADER, "")
        found = _SIGNATURE.fullmatch(headers.get(SIGNATURE_HEADER, "").strip().lower())
        self._claimed = found[1] if found else None
        sent_at = as_time(timestamp)
        #: Whether it may be right: it has the form of one, and is neither old nor from the future.
        is_recent = sent_at is not None and abs(now - sent_at.timestamp()) <= WINDOW
        self.is_plausible = self._claimed is not None and is_recent
        self._hashes = [
            hmac.new(secret.encode(), f"{timestamp}.".encode(), hashlib.sha256) for secret in secrets
        ]

    def feed(self, part: bytes) -> None:
        """Take a part of the raw body."""
        for one in self._hashes:
            one.update(part)

    def is_right(self) -> bool:
        """Whether the body that was fed is what one of the secrets has signed; takes as long if not."""
        claimed = self._claimed or ""
        matches = [hmac.compare_digest(one.hexdigest(), claimed) for one in self._hashes]
        return self.is_plausible and any(matches)


def final_transcription(body: bytes) -> str | None:
    """
    Return the id of the transcription that a call says is final; ``None`` if it says so of none.

    :param body: The raw body, whose signature is right.
    """
    try:
        event = parse_json(body)
    except PlaudResponseError:
        return None
    kind = event.get("event")
    return transcription_id_in(event) if isinstance(kind, str) and kind in FINAL_EVENTS else None
