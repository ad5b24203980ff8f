"""What an answer that is no transcription means: whose fault it is, whether it may pass, what to do."""

from __future__ import annotations

import json
import re
from typing import Any

from plaud_provider.api.account import Account
from plaud_provider.api.answers import LARGE_BYTES, places_in, refusal
from plaud_provider.api.effects import OF_WHAT_IS_ASKED, SUCCESS, Response, is_of_client
from plaud_provider.api.tokens import redirected
from plaud_provider.exceptions import (
    PlaudAccessError,
    PlaudAuthenticationError,
    PlaudError,
    PlaudNotFoundError,
    PlaudRateLimitError,
    PlaudRequestError,
    PlaudServerError,
    PlaudSubmitOutcomeUnknownError,
    PlaudTokenRejectedError,
)

_ERROR_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", re.ASCII)
#: Codes of a refusal, whatever its status, that say that Plaud does not know the client.
_NO_CLIENT = re.compile(r"client.?not.?found|(unknown|invalid|no.?such).?client", re.IGNORECASE)
#: Words of a refusal without a status that name who asks.
_WHO_ASKS = re.compile(
    r"client|api.?key|credential|unauthori[sz]ed|forbidden|permission|token", re.IGNORECASE
)
#: Words that name an account's limits.
_ACCOUNT = re.compile(r"balance|credit|quota|billing|payment|limit|account|subscription", re.IGNORECASE)
_NOT_FOUND = re.compile(r"not.?(found|exist)|no.?such|unknown", re.IGNORECASE)


def failure(account: Account, answer: Response, what: str, *, is_submit: bool = False) -> PlaudError:
    """
    Return what an answer other than a transcription means.

    Bodies are not quoted, save for a bare error code: prose may quote what was sent.

    :param what: The request, in words.
    :param is_submit: Whether it was a submit.
    """
    status = answer.status
    code = error_code(answer.body)
    if status == 401 and account.dialect.sends_token:
        return PlaudTokenRejectedError(
            f"{account.base_url} kept rejecting {what} with 401, although the token of client "
            f"{account.client_id} is new. Either the client has lost its access, or another host or program "
            "with the same client id keeps asking for tokens and Plaud accepts only the newest one: let all "
            "hosts of a client share AIRFLOW_HOME/plaud_tokens, or give each host a client of its own. "
            "Nothing was accepted. A retry may pass; this host asks for another token a quarter of a "
            "minute after this one.",
            status_code=status,
        )
    if status == 401 or names_client(answer):
        return _client_refused(account, what, status, code)
    if status == 429:
        return PlaudRateLimitError(
            f"Plaud kept refusing {what} with 429: client {account.client_id} is over its requests per "
            "minute. Nothing was accepted.",
            status_code=status,
        )
    if 300 <= status < 400:
        return redirected(account, status)
    # Below 200: a library has taken an interim answer (103 Early Hints) for the last one.
    if status >= 500 or status < 200 or status in (408, 425):
        return PlaudServerError(
            f"{account.base_url} kept answering {what} with {status}.", status_code=status
        )
    if is_submit and (is_of_client(status) or (status < 300 and _ACCOUNT.search(code))):
        return PlaudAccessError(
            f"{account.base_url} refused {what} with {status}{code}: client {account.client_id}, its account "
            "or its rights, not the recording. Nothing was accepted; a retry submits it again.",
            status_code=status,
        )
    return PlaudRequestError(
        f"{account.base_url} refused {what} with {status}{code}. Nothing was accepted."
        f"{' Correct the arguments.' * (is_submit and status in OF_WHAT_IS_ASKED)}",
        status_code=status,
    )


def unknown_outcome(
    account: Account, reason: str, *, status_code: int | None = None
) -> PlaudSubmitOutcomeUnknownError:
    """Say that a recording may have been accepted and billed."""
    known_cause = account.dialect.on_server_error if status_code == 500 else ""
    return PlaudSubmitOutcomeUnknownError(
        f"The recording was sent to {account.base_url} and the answer was lost ({reason.rstrip('.')}). Plaud "
        f"may have accepted and billed it, and its API has no way to look it up.{' ' * bool(known_cause)}"
        f"{known_cause}",
        status_code=status_code,
    )


def not_found(account: Account, transcription_id: str, status: int) -> PlaudNotFoundError:
    """Say that Plaud does not know an id."""
    return PlaudNotFoundError(
        f"{account.base_url} does not know transcription {transcription_id}. Plaud keeps results for a few "
        f"days only, and ids belong to one client and region ('{account.region.value}').",
        status_code=status,
    )


def foreign_page(account: Account, status: int) -> PlaudServerError:
    """Say that something in between has answered."""
    return PlaudServerError(
        f"{account.base_url} answered {status} with a page that is not Plaud's: a proxy, a firewall or a "
        "gateway in between. If it stays, look at what is on the way to this host.",
        status_code=status,
    )


def names_client(answer: Response) -> bool:
    """Whether a refusal says that it is the client that is not known, whatever its status."""
    code = error_code(answer.body)
    if 200 <= answer.status < 300:
        return _WHO_ASKS.search(code) is not None
    return answer.status < 500 and _NO_CLIENT.search(code) is not None


def refuses_client(answer: Response) -> bool:
    """Whether an answer refuses who asks, and not what is asked for."""
    if answer.status in SUCCESS and not refusal(answer.body):
        return False
    return answer.status == 401 or names_client(answer)


def is_missing(answer: Response) -> bool:
    """Whether a refusal says that there is no such transcription."""
    is_said = 200 <= answer.status < 300 and _NOT_FOUND.search(error_code(answer.body)) is not None
    return (answer.status in (404, 410) or is_said) and not names_client(answer)


def is_json(body: bytes) -> bool:
    """Whether a body is a JSON object."""
    return _json_object(body) is not None


def error_code(body: bytes) -> str:
    """Return the error code of a refusal's body, in brackets, if it is a bare word or a number."""
    for place in places_in(_json_object(body) or {}):
        for name in ("error", "code", "detail", "message"):
            error = place.get(name)
            if isinstance(error, dict):
                error = error.get("code")
            if is_code := isinstance(error, int) and 999 < error < 10**9:
                error = str(error)
            if isinstance(error, str) and (is_code or _ERROR_CODE.fullmatch(error)):
                return f" ({error})"
    return ""


def _client_refused(account: Account, what: str, status: int, code: str) -> PlaudAuthenticationError:
    return PlaudAuthenticationError(
        f"{account.base_url} refused {what} with {status}{code}: client {account.client_id} and its "
        f"{account.dialect.credentials} are not accepted in region '{account.region.value}' by the API "
        f"'{account.dialect.name}'. Check login, password, api_key, region and api of the connection. "
        "Nothing was accepted.",
        status_code=status,
    )


def key_rejected(account: Account, answer: Response) -> PlaudTokenRejectedError:
    """Say that an API key is refused that was accepted before."""
    return PlaudTokenRejectedError(
        f"{account.base_url} kept refusing client {account.client_id} and its {account.dialect.credentials} "
        f"with {answer.status}{error_code(answer.body)}, although it has accepted them before on this host: "
        "a gateway may be in trouble, or the client has lost its access or its key. Nothing was accepted. A "
        "retry may pass.",
        status_code=answer.status,
    )


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        payload = json.loads(body) if len(body) <= LARGE_BYTES else None
    except (ValueError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None
