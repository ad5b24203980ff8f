"""
The dialect ``embedded``: an API key instead of tokens, nested parameters, models and hotwords, no webhooks.

Source: Plaud's pages on the transcription API of *Plaud Embedded*, read in stored copies and in public
clients. It was never called from here, as there is no account for development.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plaud_provider.api.dialects.dialect import Dialect
from plaud_provider.api.regions import Region

if TYPE_CHECKING:
    from plaud_provider.api.account import Account
    from plaud_provider.api.terms import Terms


class Embedded(Dialect):
    """Plaud's API at ``platform-….plaud.ai/developer/api``."""

    name = "embedded"
    base_urls = {
        Region.US: "https://platform-us.plaud.ai/developer/api",
        Region.JP: "https://platform-jp.plaud.ai/developer/api",
    }
    announced_urls = {Region.EU: "https://platform-eu.plaud.ai/developer/api"}
    sends_token = False
    takes_uploads = True
    credentials = "client id and API key"
    lacks = frozenset({"webhook_url"})
    choices = {
        "model": ("plaud-fast-whisper", "plaud-omni-3", "azure-fast-transcribe"),
        "detection_level": ("segment", "chapter"),
    }
    on_server_error = (
        "This API is said to answer so where the recording is not in Plaud's own storage: upload='always' "
        "uploads recordings there before they are submitted, and avoids it."
    )

    def headers(self, account: Account, access_token: str) -> dict[str, str]:
        """Return the client's id and API key; this API takes no token here."""
        return {
            "X-Client-Id": account.client_id,
            "X-Client-Api-Key": account.api_key,
            "Accept": "application/json",
        }

    def submit_body(self, audio_url: str, terms: Terms) -> dict[str, object]:
        """Return the nested body of this dialect; language and switches are always sent."""
        transcribe: dict[str, object] = {"language": terms.language or "auto"}
        if terms.model is not None:
            transcribe["model"] = terms.model
        if terms.detection_level is not None:
            transcribe["detection_level"] = terms.detection_level
        params: dict[str, object] = {
            "transcribe": transcribe,
            "vad": {"decode_silence": terms.decode_silence},
            "diarization": {"enabled": terms.speaker_diarization, "return_embedding": False},
        }
        if terms.hotwords:
            params["hotwords"] = ",".join(terms.hotwords)
        return {"file_url": audio_url, "params": params}
