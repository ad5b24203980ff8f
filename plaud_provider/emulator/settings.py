"""What can be set about an emulator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

APIS = ("openapi", "embedded")
REGIONS = ("us", "eu", "jp")
ERROR_STYLES = ("object", "string")
DAY = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    Settings of one emulator. Seconds are emulated seconds unless said otherwise.

    :param clients: Secret key by client id.
    :param api_keys: API key by client id, for the API ``embedded``. Both APIs are answered: calls with a
        token are of ``openapi``, calls with a key of ``embedded``.
    :param api: The API of the connection line: ``openapi`` or ``embedded``.
    :param region: ``us``, ``eu`` or ``jp``. Informative: it appears in the connection line and in the state.
    :param token_seconds: Life of an access token; what ``expires_in`` says, in whole seconds.
    :param refresh_token_seconds: Life of a refresh token. The contract does not document it.
    :param keep_refresh_tokens: Whether a refresh token still works after it was used once.
    :param token_limit: Token requests per client in any minute; 0 for no limit.
    :param request_limit: Submit and result calls together, per client in any minute; 0 for no limit.
    :param processing_seconds: How long every transcription takes at least.
    :param processing_ratio: How much longer per second of audio.
    :param speed: How much faster than real time the emulator's clock runs; 0 stops it until it is advanced.
    :param transcripts: Folders with recordings and their transcripts (``NAME.wav`` and ``NAME.wav.json``).
    :param store: Folder whose files can be fetched with signed URLs.
    :param store_key: Key of those signatures; by default a new one for each emulator.
    :param fetch_audio: Whether to download and check the audio. If not, every URL is a minute of WAV.
    :param fetch_seconds: Real seconds that one download may take.
    :param fetch_bytes: Bytes that one recording may have.
    :param error_style: Shape of the ``error`` field of a failed transcription, ``object`` or ``string``.
    """

    clients: Mapping[str, str] = field(default_factory=lambda: {"demo-client": "demo-secret-key"}, repr=False)
    api_keys: Mapping[str, str] = field(default_factory=lambda: {"demo-client": "demo-api-key"}, repr=False)
    api: str = "openapi"
    region: str = "us"
    token_seconds: float = DAY
    refresh_token_seconds: float = 30 * DAY
    keep_refresh_tokens: bool = False
    token_limit: int = 10
    request_limit: int = 60
    processing_seconds: float = 3.0
    processing_ratio: float = 0.05
    speed: float = 1.0
    transcripts: tuple[Path, ...] = ()
    store: Path | None = None
    store_key: str | None = field(default=None, repr=False)
    fetch_audio: bool = True
    fetch_seconds: float = 30.0
    fetch_bytes: int = 200 * 1024 * 1024
    error_style: str = "object"

    def __post_init__(self) -> None:
        if not self.clients:
            raise ValueError("clients: at least one client id is needed.")
        for client_id, secret_key in self.clients.items():
            if not client_id or ":" in client_id or not secret_key:
                raise ValueError(
                    "clients: a client id is not empty and has no colon; a secret key is not empty."
                )
        for name, choices in (("api", APIS), ("region", REGIONS), ("error_style", ERROR_STYLES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: {getattr(self, name)!r} is none of {', '.join(choices)}.")
        for name in ("token_seconds", "refresh_token_seconds", "fetch_seconds", "fetch_bytes"):
            self._require_number(name, above=0)
        for name in ("token_limit", "request_limit", "processing_seconds", "processing_ratio", "speed"):
            self._require_number(name)
        for folder in (*self.transcripts, *([self.store] if self.store else [])):
            if not folder.is_dir():
                raise ValueError(f"{folder} is not a folder.")

    def _require_number(self, name: str, above: float | None = None) -> None:
        number = getattr(self, name)
        if not math.isfinite(number) or number < 0 or number == above:
            raise ValueError(f"{name}: {number} is not a number {'> 0' if above == 0 else '>= 0'}.")

    def public(self) -> dict[str, Any]:
        """Return the settings without secrets, as JSON values."""
        return {
            "client_ids": sorted(self.clients),
            "api": self.api,
            "region": self.region,
            "token_seconds": self.token_seconds,
            "refresh_token_seconds": self.refresh_token_seconds,
            "keep_refresh_tokens": self.keep_refresh_tokens,
            "token_limit": self.token_limit,
            "request_limit": self.request_limit,
            "processing_seconds": self.processing_seconds,
            "processing_ratio": self.processing_ratio,
            "transcripts": [str(folder) for folder in self.transcripts],
            "store": None if self.store is None else str(self.store),
            "fetch_audio": self.fetch_audio,
            "fetch_seconds": self.fetch_seconds,
            "fetch_bytes": self.fetch_bytes,
            "error_style": self.error_style,
        }
