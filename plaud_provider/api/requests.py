"""
The requests of the API, built per account.

Source: Plaud's transcription API page. Fields that are left at their default are not sent.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from plaud_provider.api.effects import Operation, Request
from plaud_provider.api.regions import Region

TOKEN_PATH = "/oauth/partner/access-token"
REFRESH_PATH = "/oauth/partner/access-token/refresh"
TRANSCRIPTIONS_PATH = "/open/partner/ai/transcriptions/"


@dataclass(frozen=True, slots=True)
class Account:
    """
    Who asks, and where.

    :param region: The region that the credentials belong to.
    :param base_url: Checked base URL without a trailing slash.
    :param client_id: Plaud client id.
    :param secret_key: Plaud secret key.
    """

    region: Region
    base_url: str
    client_id: str
    secret_key: str = field(repr=False)

    @property
    def client_name(self) -> str:
        """What tells this client at this URL from all others, as a name that any file can have."""
        return hashlib.sha256(f"{self.base_url}\0{self.client_id}".encode()).hexdigest()[:32]


def exchange_request(account: Account) -> Request:
    """Ask for a token with the client's credentials."""
    return _token_request(account, Operation.EXCHANGE, TOKEN_PATH, None)


def refresh_request(account: Account, refresh_token: str) -> Request:
    """Ask for a new token in exchange for a refresh token."""
    body = urlencode({"refresh_token": refresh_token}).encode()
    return _token_request(account, Operation.REFRESH, REFRESH_PATH, body)


def submit_request(
    account: Account,
    access_token: str,
    *,
    audio_url: str,
    language: str | None = None,
    webhook_url: str | None = None,
    speaker_diarization: bool = False,
) -> Request:
    """Submit a recording. Each accepted submit is billed by audio length; there is no idempotency key."""
    body: dict[str, object] = {"audioUrl": audio_url}
    if language is not None:
        body["language"] = language
    if webhook_url is not None:
        body["webhookUrl"] = webhook_url
    if speaker_diarization:
        body["speakerDiarization"] = True
    return Request(
        operation=Operation.SUBMIT,
        method="POST",
        url=account.base_url + TRANSCRIPTIONS_PATH,
        headers={**_bearer(access_token), "Content-Type": "application/json"},
        body=json.dumps(body).encode(),
        repeatable=False,
    )


def get_request(account: Account, access_token: str, transcription_id: str) -> Request:
    """
    Ask for a transcription.

    :param transcription_id: A checked id: quoted, it is one segment of the path, whatever is in it.
    """
    path = TRANSCRIPTIONS_PATH + quote(transcription_id, safe="")
    return Request(
        operation=Operation.GET, method="GET", url=account.base_url + path, headers=_bearer(access_token)
    )


def _token_request(account: Account, operation: Operation, path: str, body: bytes | None) -> Request:
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
        body=body or b"",
    )


def _bearer(access_token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {access_token}", "Accept": "application/json"}
