"""
How a call comes by an access token: from the host's store, by refresh, or by exchange.

One renewal at a time: whoever waited for the lock looks again before asking, so fifty calls that were
rejected at once cost one token request.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

from plaud_provider.api.answers import parse_json
from plaud_provider.api.effects import (
    Effect,
    LockToken,
    ReadToken,
    Request,
    Response,
    Send,
    Sleep,
    StoreToken,
    Token,
    TokenState,
    TransportFailure,
    UnlockToken,
)
from plaud_provider.api.requests import Account, exchange_request, refresh_request
from plaud_provider.api.retry import RetryPolicy
from plaud_provider.exceptions import (
    PlaudAuthenticationError,
    PlaudCertificateError,
    PlaudConnectionError,
    PlaudError,
    PlaudRateLimitError,
    PlaudRedirectError,
    PlaudRequestError,
    PlaudResponseError,
    PlaudServerError,
)

#: Used where ``expires_in`` is missing or makes no sense: short enough to be safe, long enough to stay far
#: from the limit of 10 token requests a minute.
DEFAULT_LIFETIME = 3600.0
MAX_LIFETIME = 30 * 86400.0
MAX_RENEWAL_MARGIN = 300.0


def is_fresh(token: Token | None, *, now: float) -> bool:
    """Whether a token can be used, leaving a margin for the request itself (10 %, at most 5 minutes)."""
    return token is not None and now < token.expires_at - min(MAX_RENEWAL_MARGIN, token.lifetime * 0.1)


def parse_token(body: bytes, *, now: float, previous: Token | None = None) -> Token:
    """
    Parse the answer to an exchange or a refresh.

    :param previous: The token that was refreshed; its refresh token is kept where no newer one came.
    :raises PlaudResponseError: if there is no usable access token in it.
    """
    payload = parse_json(body)
    access_token = _usable(payload.get("access_token"))
    if access_token is None:
        raise PlaudResponseError("Plaud's answer to the token request has no usable access_token.")
    refresh_token = _usable(payload.get("refresh_token")) or (previous.refresh_token if previous else None)
    lifetime = _lifetime(payload.get("expires_in"))
    return Token(access_token, refresh_token, expires_at=now + lifetime, lifetime=lifetime)


def current_token(account: Account, policy: RetryPolicy) -> Generator[Effect, Any, Token]:
    """Return the token of the host's store, renewed if it is missing or about to expire."""
    state: TokenState = yield ReadToken()
    if state.token is not None and is_fresh(state.token, now=policy.now()):
        return state.token
    return (yield from renewed_token(account, policy))[0]


def renewed_token(
    account: Account, policy: RetryPolicy, *, rejected: Token | None = None
) -> Generator[Effect, Any, tuple[Token, bool]]:
    """
    Return a token that is fresh and not the ``rejected`` one, asking Plaud only if no one else just did.

    :return: The token, and whether it was asked for just now: what others have stored may be spent by now.
    :raises PlaudAuthenticationError: if Plaud refuses the credentials.
    """
    yield LockToken()
    state: TokenState = yield ReadToken(renewing=True)
    token = state.token
    asked = token is None or not is_fresh(token, now=policy.now()) or _same(token, rejected)
    if token is None or asked:
        token = yield from _ask(account, policy, state)
        yield StoreToken(TokenState(token))
    yield UnlockToken()
    return token, asked


def exchanged_token(account: Account, policy: RetryPolicy) -> Generator[Effect, Any, Token]:
    """Exchange the credentials for a token, whatever is stored: what the Test button asks for."""
    # Someone waits in front of a form: two attempts, and no long pause between them.
    hasty = policy._replace(attempts=2, max_retry_after=min(policy.max_retry_after, 5.0))
    return (yield from _ask(account, hasty, TokenState()))


def _ask(account: Account, policy: RetryPolicy, state: TokenState) -> Generator[Effect, Any, Token]:
    # Longer than it can be means that the clock was put back: not a reason to refuse for hours.
    if 0 < state.refused_until - policy.now() <= policy.remember_refusal:
        raise _refused(account, "a moment ago; not asked again yet")
    previous = state.token
    refreshing = previous if previous is not None and previous.refresh_token else None
    failure: PlaudError = PlaudConnectionError("no attempt was made")
    attempt = 0
    while attempt < policy.attempts:
        if state.not_before > policy.now():
            pause = min(state.not_before - policy.now(), policy.max_retry_after * 1.2)
            yield Sleep(pause, "Plaud limits token requests")
        answer: Response | None = None
        try:
            answer = yield Send(_request(account, refreshing))
            if answer is not None and answer.is_success:
                return parse_token(answer.body, now=policy.now(), previous=refreshing)
        except TransportFailure as broken:
            failure = unreachable(account, broken)
            if not broken.passing:
                raise failure from None
        except PlaudResponseError as malformed:
            failure, answer = malformed, None
        if answer is not None and answer.status == 429:
            attempt += 1
            state = state._replace(not_before=policy.now() + policy.retry_after(answer.headers, attempt))
            yield StoreToken(state)
            failure = PlaudRateLimitError(
                f"Plaud limits the token requests of client {account.client_id} (10 a minute is documented) "
                f"and still answered 429 after {attempt} attempts. Nothing was submitted; try again in a few "
                "minutes.",
                status_code=429,
            )
            continue
        if refreshing is not None:
            # A refresh that went wrong in any other way is worth one exchange; its token may be spent by now.
            refreshing = None
            continue
        attempt += 1
        pause = policy.backoff(attempt)
        if answer is not None:
            failure = _token_failure(account, answer)
            if isinstance(failure, PlaudAuthenticationError):
                yield StoreToken(TokenState(refused_until=policy.now() + policy.remember_refusal))
            if not isinstance(failure, PlaudServerError):
                raise failure
            pause = policy.retry_after(answer.headers, attempt)
        if attempt < policy.attempts:
            yield Sleep(pause, "the token request failed")
    raise failure


def _request(account: Account, refreshing: Token | None) -> Request:
    if refreshing is not None and refreshing.refresh_token:
        return refresh_request(account, refreshing.refresh_token)
    return exchange_request(account)


def _token_failure(account: Account, answer: Response) -> PlaudError:
    status = answer.status
    if status in (400, 401, 403):
        return _refused(account, f"with HTTP {status}")
    if 300 <= status < 400:
        return redirected(account, status)
    if status >= 500:
        return PlaudServerError(
            f"Plaud's token service at {account.base_url} answers {status}. Nothing was submitted.",
            status_code=status,
        )
    return PlaudRequestError(
        f"Plaud answered the token request at {account.base_url} with {status}. Is the connection's host "
        "right?",
        status_code=status,
    )


def _refused(account: Account, how: str) -> PlaudAuthenticationError:
    return PlaudAuthenticationError(
        f"Plaud refused client id {account.client_id!r} and its secret key {how}, region "
        f"'{account.region.value}' at {account.base_url}. Check client id (login), secret key (password) and "
        "region of the connection: credentials belong to one region. Nothing was submitted.",
        status_code=401,
    )


def unreachable(account: Account, failure: TransportFailure) -> PlaudError:
    """Say that a host could not be reached or its answer not be taken, and why."""
    if failure.answered:
        return PlaudResponseError(f"The answer of {account.base_url} cannot be used: {failure.reason}.")
    if not failure.passing:
        return PlaudCertificateError(
            f"{account.base_url} is not trusted: {failure.reason}. Nothing was sent."
        )
    return PlaudConnectionError(
        f"No usable answer from {account.base_url}: {failure.reason}. Check the network, proxy and host of "
        "the connection."
    )


def redirected(account: Account, status: int) -> PlaudRedirectError:
    """Say that a redirect was refused."""
    return PlaudRedirectError(
        f"{account.base_url} answered with a redirect ({status}), which is never followed: it could carry "
        "credentials or data to another host. Check the host of the connection.",
        status_code=status,
    )


def _same(token: Token, rejected: Token | None) -> bool:
    return rejected is not None and token.access_token == rejected.access_token


def _usable(token: object) -> str | None:
    """Return a token that can go into a header: printable ASCII without spaces, of a sane length."""
    if not isinstance(token, str) or not 0 < len(token) <= 8192:
        return None
    return token if token.isascii() and token.isprintable() and " " not in token else None


def _lifetime(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return DEFAULT_LIFETIME
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return DEFAULT_LIFETIME
    if not math.isfinite(seconds) or seconds <= 0:
        return DEFAULT_LIFETIME
    return min(seconds, MAX_LIFETIME)
