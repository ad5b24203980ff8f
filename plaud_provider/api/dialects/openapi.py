"""
The dialect ``openapi``: a token for each call, a flat body, webhooks.

Source: Plaud's transcription API page of spring 2026. Fields that are left at their default are not sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plaud_provider.api.dialects.dialect import Dialect
from plaud_provider.api.regions import Region

if TYPE_CHECKING:
    from plaud_provider.api.account import Account
    from plaud_provider.api.terms import Terms


class OpenApi(Dialect):
    """Plaud's API at ``openapi.plaud.…``."""

    name = "openapi"
    base_urls = {
        Region.US: "https://openapi.plaud.ai",
        Region.EU: "https://openapi.plaud.eu",
        Region.JP: "https://openapi.plaud.jp",
    }
    sends_token = True
    credentials = "client id and secret key"
    lacks = frozenset({"model", "hotwords", "decode_silence", "detection_level"})

    def headers(self, account: Account, access_token: str) -> dict[str, str]:
        """Return a token as the bearer's."""
        return {"Authorization": f"Bearer {access_token}", "Accept": "application/json"}

    def submit_body(self, audio_url: str, terms: Terms) -> dict[str, object]:
        """Return the flat body of this dialect."""
        body: dict[str, object] = {"audioUrl": audio_url}
        if terms.language is not None:
            body["language"] = terms.language
        if terms.webhook_url is not None:
            body["webhookUrl"] = terms.webhook_url
        if terms.speaker_diarization:
            body["speakerDiarization"] = True
        return body
