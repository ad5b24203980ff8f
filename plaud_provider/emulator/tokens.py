"""Access and refresh tokens."""

from __future__ import annotations

import secrets
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What an exchange or a refresh returns."""

    access_token: str
    refresh_token: str


@dataclass(slots=True)
class _Grant:
    client_id: str
    valid_until: float


class TokenBook:
    """
    The tokens that were issued. Moments are those of the emulator's clock.

    A new token does not end the life of earlier access tokens: several hosts of one client may hold one each.

    :param access_seconds: Life of an access token.
    :param refresh_seconds: Life of a refresh token.
    :param keep_used: Whether a refresh token still works after it was used.
    """

    def __init__(self, *, access_seconds: float, refresh_seconds: float, keep_used: bool) -> None:
        self._access_seconds = access_seconds
        self._refresh_seconds = refresh_seconds
        self._keep_used = keep_used
        self._access: dict[str, _Grant] = {}
        self._refresh: dict[str, _Grant] = {}

    @property
    def issued(self) -> int:
        """How many access tokens there have been."""
        return len(self._access)

    def issue(self, client_id: str, now: float) -> TokenPair:
        """Issue a new pair."""
        pair = TokenPair(f"pat_{secrets.token_urlsafe(32)}", f"prt_{secrets.token_urlsafe(32)}")
        self._access[pair.access_token] = _Grant(client_id, now + self._access_seconds)
        self._refresh[pair.refresh_token] = _Grant(client_id, now + self._refresh_seconds)
        return pair

    def refresh(self, refresh_token: str, client_id: str, now: float) -> TokenPair | None:
        """Issue a new pair for a refresh token; ``None`` if unknown, used, expired or another client's."""
        grant = self._refresh.get(refresh_token)
        if grant is None or grant.client_id != client_id or grant.valid_until <= now:
            return None
        if not self._keep_used:
            grant.valid_until = now
        return self.issue(client_id, now)

    def owner(self, access_token: str) -> str | None:
        """Return whose token it is or was, expired or not."""
        grant = self._access.get(access_token)
        return None if grant is None else grant.client_id

    def is_valid(self, access_token: str, now: float) -> bool:
        """Return whether the token was issued here and has not expired."""
        grant = self._access.get(access_token)
        return grant is not None and now < grant.valid_until

    def expire_all(self, now: float, *, refresh_tokens: bool = False) -> int:
        """End the life of all access tokens, and on request of all refresh tokens; return how many ended."""
        books = [self._access, self._refresh] if refresh_tokens else [self._access]
        living = [grant for book in books for grant in book.values() if now < grant.valid_until]
        for grant in living:
            grant.valid_until = now
        return len(living)
