"""
When a token is renewed, and how: by a refresh, or by an exchange of the credentials.

:func:`access_token` decides it for every call. All calls of a host share one :class:`TokenState`. Whoever has
its lock makes at most one token request, stores what came of it, and lets the next one look: fifty calls
that are rejected at once cost one request, and a token service that fails is asked as if by a single caller.

- A token is renewed if there is none, if it is about to expire, or if Plaud has rejected it.
- A rejected token that itself replaced a rejected one is kept for a quarter of a minute. To ask sooner would
  not help a client that has lost its access; and where Plaud accepts only the newest token of a client, two
  hosts would take it from each other without end.
- A host makes at most ten token requests in any minute. After one that failed it pauses, longer each time.
  A refusal counts for a minute.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

from plaud_provider.api.account import Account
from plaud_provider.api.answers import LARGE_BYTES, meant_status, parse_json, places_in, refusal
from plaud_provider.api.effects import (
    SUCCESS,
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
from plaud_provider.api.limits import TOKEN_CALLS_A_MINUTE
from plaud_provider.api.members import as_seconds, first
from plaud_provider.api.retry import RetryPolicy
from plaud_provider.exceptions import (
    PlaudAccessError,
    PlaudAuthenticationError,
    PlaudCertificateError,
    PlaudConnectionError,
    PlaudError,
    PlaudRateLimitError,
    PlaudRedirectError,
    PlaudResponseError,
    PlaudServerError,
    PlaudTokenRejectedError,
)

#: Minutes for which a token is kept that replaced a rejected one: two hosts that take each other's token away
#: ask eight times a minute together.
KEPT_MINUTES = 0.25
#: Within so many seconds a token request is answered or given up; who renews has the lock for little longer.
REQUEST_SECONDS = 30.0
#: For so many seconds others wait for the lock: whoever has it for longer than this has been stopped.
LOCK_SECONDS = 5 * REQUEST_SECONDS

#: Used where ``expires_in`` is missing or makes no sense: short enough to be safe, long enough to stay far
#: from the limit.
DEFAULT_LIFETIME = 3600.0
MAX_LIFETIME = 30 * 86400.0
MAX_RENEWAL_MARGIN = 300.0
#: What a refusal counts as that has a status of success.
REFUSED = 401


def access_token(
    account: Account, policy: RetryPolicy, *, rejected: Token | None = None
) -> Generator[Effect, Any, Token]:
    """
    Return the token to send a request with.

    :param rejected: The token that Plaud has just answered with 401. It is returned again if it must not be
        renewed yet.
    :raises PlaudAuthenticationError: if Plaud refuses the credentials, or did so less than a minute ago.
    :raises PlaudError: its other classes, if no token could be had: by this call, or by others meanwhile.
    """
    state: TokenState = yield ReadToken()
    token = state.token
    if token is not None and is_fresh(token, now=policy.now()) and not _same(token, rejected):
        return token
    waits = 0
    waited_for = 0.0
    while True:
        state, is_locked = yield LockToken()
        token = _usable_token(state, rejected, policy)
        if is_locked:
            if token is None and _earliest_request(state, policy) <= policy.now():
                state, token = yield from _renew(account, policy, state, rejected)
            yield UnlockToken(state)
        if token is not None:
            return token
        if _is_refused(state, policy):
            raise _failure(account, state)
        earliest = _earliest_request(state, policy)
        if earliest != waited_for:
            waits, waited_for = waits + 1, earliest
            if waits >= policy.attempts:
                raise _failure(account, state)
        # If nothing is to be waited for, a refresh went wrong, or the other call of this process ended early.
        if earliest > policy.now():
            yield Sleep(earliest - policy.now(), "no Plaud token may be asked for yet")


def exchanged_token(account: Account, policy: RetryPolicy) -> Generator[Effect, Any, Token]:
    """
    Exchange the credentials for a token, whatever is stored: what the Test button asks for.

    The token is stored like any other: where Plaud accepts only the newest one, tasks would lose theirs.

    :raises PlaudError: its classes as :func:`access_token` does, but only for what Plaud answers now.
    """
    # Someone waits in front of a form: two attempts, and no long pause between them.
    hasty = policy._replace(max_retry_after=min(policy.max_retry_after, 5.0))
    attempts = 0
    while True:
        state, is_locked = yield LockToken()
        if not is_locked:
            continue
        if len(_recent_calls(state, policy)) >= TOKEN_CALLS_A_MINUTE:
            yield UnlockToken(state)
            raise _failure(account, TokenState())
        state, token = yield from _renew(account, hasty, state, refresh=False)
        yield UnlockToken(state)
        if token is not None:
            return token
        attempts += 1
        if attempts == 2 or _is_refused(state, policy):
            raise _failure(account, state)
        yield Sleep(max(0.0, state.not_before - policy.now()), "the token request failed")


def is_fresh(token: Token | None, *, now: float) -> bool:
    """Whether a token can be used, leaving a margin for the request itself (10 %, at most 5 minutes)."""
    return token is not None and now < token.expires_at - min(MAX_RENEWAL_MARGIN, token.lifetime * 0.1)


def parse_token(body: bytes, *, now: float, previous: Token | None = None) -> Token:
    """
    Parse the answer to an exchange or a refresh.

    :param previous: The token that was refreshed; its refresh token is kept where no newer one came.
    :raises PlaudResponseError: if there is no usable access token in it.
    """
    if len(body) > LARGE_BYTES:
        raise PlaudResponseError(f"Plaud's answer to the token request is too large ({len(body)} bytes).")
    places = places_in(parse_json(body))
    access_token = _usable(first(places, ("accesstoken",)))
    if access_token is None:
        raise PlaudResponseError("Plaud's answer to the token request has no usable access_token.")
    newest = _usable(first(places, ("refreshtoken",)))
    refresh_token = newest or (previous.refresh_token if previous else None)
    lifetime = _lifetime(first(places, ("expiresin",)))
    return Token(access_token, refresh_token, expires_at=now + lifetime, lifetime=lifetime)


def _usable_token(state: TokenState, rejected: Token | None, policy: RetryPolicy) -> Token | None:
    """Return the token of a state unless it has to be renewed."""
    token = state.token
    if token is None or not is_fresh(token, now=policy.now()):
        return None
    if _same(token, rejected):
        # A clock that was put back makes it older, not younger.
        age = abs(policy.now() - token.issued_at)
        if not token.replaces_rejected or age >= KEPT_MINUTES * policy.minute:
            return None
    return token


def _earliest_request(state: TokenState, policy: RetryPolicy) -> float:
    """Return the moment before which no token may be asked for; it may have passed."""
    moments = [0.0]
    # Further ahead than it can be means that the clock was put back: not a reason to wait for hours.
    longest = max(policy.max_delay, policy.max_retry_after) * 1.1 + 1.0
    if state.not_before - policy.now() <= longest:
        moments.append(state.not_before)
    if _is_refused(state, policy):
        moments.append(state.refused_until)
    calls = _recent_calls(state, policy)
    if len(calls) >= TOKEN_CALLS_A_MINUTE:
        moments.append(calls[-TOKEN_CALLS_A_MINUTE] + policy.minute)
    return max(moments)


def _is_refused(state: TokenState, policy: RetryPolicy) -> bool:
    return 0 < state.refused_until - policy.now() <= policy.remember_refusal


def _recent_calls(state: TokenState, policy: RetryPolicy) -> tuple[float, ...]:
    return tuple(moment for moment in state.calls if abs(policy.now() - moment) < policy.minute)


def _renew(
    account: Account,
    policy: RetryPolicy,
    state: TokenState,
    rejected: Token | None = None,
    *,
    refresh: bool = True,
) -> Generator[Effect, Any, tuple[TokenState, Token | None]]:
    """Make one token request. Return the state that it leads to, and the token if there is a new one."""
    old = state.token if refresh and state.token is not None and state.token.refresh_token else None
    earlier = _recent_calls(state, policy)
    # Stored before it is sent: if this process is killed meanwhile, the request counts all the same.
    yield StoreToken(state._replace(calls=(*earlier, policy.now())))
    status, reason = 0, ""
    headers: Mapping[str, str] = {}
    token = None
    try:
        answer: Response = yield Send(_request(account, old), within=REQUEST_SECONDS)
        answer.status = meant_status(answer.status, answer.body)
        status, headers = answer.status, answer.headers
        if answer.is_page and status != 429 and (status in SUCCESS or 400 <= status < 500):
            # A proxy's or a firewall's: as little Plaud's word about the credentials as no answer is.
            status = 0
            reason = (
                f"No usable answer from {account.base_url}: a page that is not Plaud's, with HTTP "
                f"{answer.status}. Look at what is on the way to this host."
            )
        elif answer.status in SUCCESS and refusal(answer.body):
            # As {"detail": "CLIENT_NOT_FOUND"}, which would be repeated in vain.
            status, reason = REFUSED, f"HTTP {answer.status} and a refusal in its body"
        elif answer.status in SUCCESS:
            token = parse_token(answer.body, now=policy.now(), previous=old)
    except TransportFailure as broken:
        failure = unreachable(account, broken)
        if isinstance(failure, PlaudCertificateError):
            # Nothing was sent, and nothing is to be remembered.
            yield UnlockToken(state)
            raise failure from None
        status, reason = 200 if broken.answered else 0, str(failure)
    except PlaudResponseError as malformed:
        reason = str(malformed)
    # Plaud may have counted it only just before it answered.
    now = policy.now()
    calls = (*earlier, now)
    if token is not None:
        token.replaces_rejected = rejected is not None
        return TokenState(token, calls, user_token=state.user_token), token
    if old is not None and status != 429:
        # Its refresh token may be spent by now: whoever is next, most often this call, makes an exchange.
        return state._replace(token=replace(old, refresh_token=None), calls=calls, not_before=0.0), None
    failures = state.failures + 1
    if 300 <= status < 500 and status != 429:
        refused_until = now + policy.remember_refusal
        spent = _spent(state.token, now=now)
        return TokenState(
            spent, calls, failures, refused_until=refused_until, status=status, reason=reason
        ), None
    not_before = now + policy.retry_after(headers, failures)
    # A rejected token is not kept: every call would send it once more, at the cost of the quota.
    is_rejected = state.token is not None and _same(state.token, rejected)
    kept = _spent(state.token, now=now) if is_rejected else state.token
    return TokenState(kept, calls, failures, not_before, status=status, reason=reason), None


def _spent(token: Token | None, *, now: float) -> Token | None:
    """Return a token that is not used any more, as the proof that the credentials were good once."""
    return None if token is None else replace(token, expires_at=now - 1, lifetime=0.0, refresh_token=None)


def _request(account: Account, refreshing: Token | None) -> Request:
    if refreshing is not None and refreshing.refresh_token:
        return account.dialect.refresh_request(account, refreshing.refresh_token)
    return account.dialect.exchange_request(account)


def _failure(account: Account, state: TokenState) -> PlaudError:
    """Say why there is no token, whichever call of this host has asked for it."""
    client, where, status = account.client_id, account.base_url, state.status
    if not state.failures:
        return PlaudRateLimitError(
            f"This host has made {TOKEN_CALLS_A_MINUTE} token requests for client {client} within a minute, "
            "which is all that Plaud allows. Nothing was submitted; try again in a minute."
        )
    answered = f"{status} {state.failures} times in a row" if state.failures > 1 else f"{status}"
    if status == 429:
        return PlaudRateLimitError(
            f"Plaud limits the token requests of client {client} ({TOKEN_CALLS_A_MINUTE} a minute is "
            f"documented) and has answered {answered}. Do other hosts or programs use this client? Nothing "
            "was submitted; try again in a few minutes.",
            status_code=status,
        )
    how = state.reason or f"HTTP {status}"
    if status in (400, 401, 403) and state.token is not None:
        return PlaudTokenRejectedError(
            f"Plaud refused client id {client!r} and its secret key with {how}, region "
            f"'{account.region.value}' at {where}, although it has accepted them before on this host: a "
            "gateway may be in trouble, or the client has lost its access or its secret key. Nothing was "
            "submitted. A retry may pass; the tasks of this host ask again after a minute.",
            status_code=status,
        )
    if status in (400, 401, 403):
        return PlaudAuthenticationError(
            f"Plaud refused client id {client!r} and its secret key with {how}, region "
            f"'{account.region.value}' at {where}. Check client id (login), secret key (password) and region "
            "of the connection: credentials belong to one region. Nothing was submitted. The tasks of this "
            "host ask again after a minute.",
            status_code=status,
        )
    if 300 <= status < 400:
        return redirected(account, status)
    if 400 <= status < 500:
        return PlaudAccessError(
            f"Plaud answered the token request at {where} with {status}. Is the connection's host right?",
            status_code=status,
        )
    if status >= 500:
        return PlaudServerError(
            f"Plaud's token service at {where} has answered {answered}. Nothing was submitted; try again in "
            "a few minutes.",
            status_code=status,
        )
    if status:
        return PlaudServerError(
            f"{state.reason} The token service at {where} has answered {answered}.", status_code=status
        )
    return PlaudConnectionError(state.reason)


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
    seconds = as_seconds(value)
    return min(seconds, MAX_LIFETIME) if seconds else DEFAULT_LIFETIME
