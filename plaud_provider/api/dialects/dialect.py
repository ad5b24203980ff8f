"""What the dialects have in common: the paths, and how a partner asks for a token."""

from __future__ import annotations

import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote, urlencode

from plaud_provider.api.effects import Operation, Request
from plaud_provider.exceptions import PlaudConfigurationError, PlaudInputError

if TYPE_CHECKING:
    from plaud_provider.api.account import Account
    from plaud_provider.api.regions import Region
    from plaud_provider.api.terms import Terms

TOKEN_PATH = "/oauth/partner/access-token"
REFRESH_PATH = "/oauth/partner/access-token/refresh"
TRANSCRIPTIONS_PATH = "/open/partner/ai/transcriptions/"


class Dialect(ABC):
    """One of Plaud's APIs, as requests are built for it."""

    #: The word for it in the connection.
    name: ClassVar[str]
    #: Its public base URLs.
    base_urls: ClassVar[Mapping[Region, str]]
    #: Base URLs of it that Plaud has announced, and does not serve: nothing is sent there.
    announced_urls: ClassVar[Mapping[Region, str]] = {}
    #: Whether transcription calls carry a token. If not, they carry the client's API key.
    sends_token: ClassVar[bool]
    #: The words for what transcription calls carry.
    credentials: ClassVar[str]
    #: Whether recordings can be uploaded to Plaud's own storage.
    takes_uploads: ClassVar[bool] = False
    #: Options (:class:`~plaud_provider.api.terms.Terms`) that it does not have.
    lacks: ClassVar[frozenset[str]]
    #: Values that an option of it may have, where they are few.
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    #: What to add where a submit is answered with 500, if this dialect is known for a cause.
    on_server_error: ClassVar[str] = ""

    def base_url(self, region: Region) -> str:
        """
        Return the public base URL of a region.

        :raises PlaudConfigurationError: if it is not offered there.
        """
        if region in self.base_urls:
            return self.base_urls[region]
        offered = " and ".join(f"'{one.value}'" for one in self.base_urls)
        raise PlaudConfigurationError(
            f"region: Plaud does not offer the API {self.name!r} in region '{region.value}', only in "
            f"{offered}; its data must not leave its region. Use a connection with api = 'openapi' for this "
            "region. Nothing was sent."
        )

    def check(self, terms: Terms) -> None:
        """
        Check that it has all options that are asked for.

        :raises PlaudInputError: if it has not; nothing was sent.
        """
        for name in sorted(self.lacks):
            if getattr(terms, name):
                raise PlaudInputError(
                    f"{name}: the connection's API is {self.name!r}, which has no such option. Leave it out, "
                    "or use a client and connection of the other API (the connection's field api). Nothing "
                    "was sent, nothing is paid for."
                )
        for name, allowed in self.choices.items():
            value = getattr(terms, name)
            if value is not None and value not in allowed:
                raise PlaudInputError(
                    f"{name}: {value!r} is none of {', '.join(allowed)}. Nothing was sent, nothing is paid "
                    "for."
                )

    @abstractmethod
    def headers(self, account: Account, access_token: str) -> dict[str, str]:
        """
        Return the headers that let a client's transcription call in.

        :param access_token: A token, if :attr:`sends_token`.
        """

    @abstractmethod
    def submit_body(self, audio_url: str, terms: Terms) -> dict[str, object]:
        """Return what a submit says; its terms are checked."""

    def submit_request(self, account: Account, access_token: str, audio_url: str, terms: Terms) -> Request:
        """Submit a recording. Each accepted submit is billed by audio length; there is no idempotency key."""
        return Request(
            operation=Operation.SUBMIT,
            method="POST",
            url=account.base_url + TRANSCRIPTIONS_PATH,
            headers={**self.headers(account, access_token), "Content-Type": "application/json"},
            body=json.dumps(self.submit_body(audio_url, terms)).encode(),
            repeatable=False,
        )

    def get_request(self, account: Account, access_token: str, transcription_id: str) -> Request:
        """
        Ask for a transcription.

        :param transcription_id: A checked id: quoted, it is one segment of the path, whatever is in it.
        """
        return Request(
            operation=Operation.GET,
            method="GET",
            url=account.base_url + TRANSCRIPTIONS_PATH + quote(transcription_id, safe=""),
            headers=self.headers(account, access_token),
        )

    def exchange_request(self, account: Account) -> Request:
        """Ask for a partner token with the client's credentials."""
        return self._token_request(account, Operation.EXCHANGE, TOKEN_PATH, b"")

    def refresh_request(self, account: Account, refresh_token: str) -> Request:
        """Ask for a new partner token in exchange for a refresh token."""
        body = urlencode({"refresh_token": refresh_token}).encode()
        return self._token_request(account, Operation.REFRESH, REFRESH_PATH, body)

    def _token_request(self, account: Account, operation: Operation, path: str, body: bytes) -> Request:
        credentials = base64.b64encode(f"{account.client_id}:{account.secret_key}".encode()).decode("ascii")
        return Request(
            operation=operation,
            method="POST",
            url=account.base_url + path,
            headers={
                "Authorization": f"Basic {credentials}",
                "Content-Type": "application/x-www-form-urlencoded",
                "Accept": "application/json",
            },
            body=body,
        )
