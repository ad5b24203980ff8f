"""Whose requests are sent, and where."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from plaud_provider.api.dialects import OPENAPI, Dialect
from plaud_provider.api.regions import Region


@dataclass(frozen=True, slots=True)
class Account:
    """
    Who asks, and where.

    :param region: The region that the credentials belong to.
    :param base_url: Checked base URL without a trailing slash.
    :param client_id: Plaud client id.
    :param secret_key: Plaud secret key.
    :param dialect: Which of Plaud's APIs is spoken there.
    :param api_key: The key of transcription calls, in a dialect that has one.
    """

    region: Region
    base_url: str
    client_id: str
    secret_key: str = field(repr=False)
    dialect: Dialect = OPENAPI
    api_key: str = field(default="", repr=False)

    @property
    def client_name(self) -> str:
        """What tells this client at this URL from all others, as a name that any file can have."""
        return hashlib.sha256(f"{self.base_url}\0{self.client_id}".encode()).hexdigest()[:32]
