"""
The course of one call, without I/O: what is sent, what its answer means, and whether it may be sent again.

Each call is a generator that yields an :data:`~plaud_provider.api.effects.Effect` and is sent its answer. The
synchronous hook and its async twin drive the same generators, so a decision is taken in one place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, TypeVar

from plaud_provider.api.answers import LARGE_BYTES, parse_submission, parse_transcription
from plaud_provider.api.arguments import validate_transcription_id
from plaud_provider.api.effects import (
    SUCCESS,
    Do,
    Effect,
    Note,
    Operation,
    ReadToken,
    Request,
    Response,
    ReturnSlot,
    Send,
    Sleep,
    SubmitPhase,
    TakeSlot,
    Token,
    TransportFailure,
    TrialDue,
)
from plaud_provider.api.models import Transcription
from plaud_provider.api.requests import Account, get_request, submit_request
from plaud_provider.api.retry import RetryPolicy
from plaud_provider.api.tokens import (
    KEPT_MINUTES,
    access_token,
    exchanged_token,
    is_fresh,
    redirected,
    unreachable,
)
from plaud_provider.exceptions import (
    PlaudAccessError,
    PlaudError,
    PlaudNotFoundError,
    PlaudRateLimitError,
    PlaudRequestError,
    PlaudResponseError,
    PlaudServerError,
    PlaudSubmitOutcomeUnknownError,
    PlaudTokenRejectedError,
)

T = TypeVar("T")
Call = Generator[Effect, Any, T]

#: An id that nobody has.
NO_TRANSCRIPTION = "txn_none"

_ERROR_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", re.ASCII)


def get_transcription(account: Account, transcription_id: str, policy: RetryPolicy) -> Call[Transcription]:
    """
    Ask for a transcription. Reading is free and safe to repeat, so whatever may pass is tried again.

    :raises PlaudNotFoundError: if Plaud does not know the id.
    :raises PlaudAuthenticationError: if the credentials are refused.
    :raises PlaudTokenRejectedError: if new tokens are.
    :raises PlaudConnectionError, PlaudServerError, PlaudRateLimitError, PlaudResponseError: if it did not
        pass.
    """
    validate_transcription_id(transcription_id)

    def request(token: Token) -> Call[Request]:
        # A generator, as that of a submit is, which has to ask for something.
        yield from ()
        return get_request(account, token.access_token, transcription_id)

    attempt = 0
    while True:
        attempt += 1
        attempts = policy.attempts
        failure: PlaudError
        try:
            answer = yield from _authorized(account, policy, Operation.GET, request, attempt)
        except TransportFailure as broken:
            failure = unreachable(account, broken)
            if not broken.passing:
                raise failure from None
            pause = policy.backoff(attempt)
        else:
            if answer.status in SUCCESS:
                try:
                    return (
                        yield from _parsed(
                            answer, partial(parse_transcription, requested_id=transcription_id)
                        )
                    )
                except PlaudResponseError as malformed:
                    failure, attempts = malformed, policy.malformed_attempts
                pause = policy.backoff(attempt)
            elif 400 <= answer.status < 500 and answer.status not in (401, 429) and not _is_json(answer.body):
                raise _foreign_page(account, answer.status)
            elif answer.status in (404, 410):
                raise _not_found(account, transcription_id, answer.status)
            else:
                failure = _failure(account, answer, f"the request for transcription {transcription_id}")
                if not isinstance(failure, (PlaudServerError, PlaudRateLimitError)):
                    raise failure
                pause = policy.retry_after(answer.headers, attempt)
        if attempt >= attempts:
            raise failure
        yield Sleep(pause, type(failure).__name__)


def submit_transcription(
    account: Account,
    policy: RetryPolicy,
    *,
    audio_url: str | Callable[[], str],
    language: str | None = None,
    webhook_url: str | None = None,
    speaker_diarization: bool = False,
) -> Call[Transcription]:
    """
    Submit a recording: at most one accepted POST.

    A POST is repeated only where it certainly was not accepted: it never left this host, or Plaud answered
    401 or 429. Every other doubt ends the call. The API has no idempotency key and no list, so nobody can
    look it up.

    :param audio_url: Pre-signed URL; or what returns one, which is asked right before each POST, when there
        is nothing to wait for any more. What that raises ends the call.
    :raises PlaudSubmitOutcomeUnknownError: if the recording may have been accepted.
    :raises PlaudError: any other class: it certainly was not accepted.
    """

    def request(token: Token) -> Call[Request]:
        url: str = audio_url if isinstance(audio_url, str) else (yield Do(audio_url))
        return submit_request(
            account,
            token.access_token,
            audio_url=url,
            language=language,
            webhook_url=webhook_url,
            speaker_diarization=speaker_diarization,
        )

    attempt = 0
    while True:
        attempt += 1
        failure: PlaudError
        try:
            answer = yield from _authorized(account, policy, Operation.SUBMIT, request, attempt)
        except TransportFailure as broken:
            if broken.sent:
                raise _unknown(account, broken.reason) from None
            failure, pause = unreachable(account, broken), policy.backoff(attempt)
            yield Note(SubmitPhase.NOT_ACCEPTED)
            if not broken.passing:
                raise failure from None
        else:
            if answer.status in SUCCESS:
                return (yield from _accepted(account, answer))
            if not _says_outcome(answer):
                raise _unknown(account, f"Plaud answered {answer.status}", status_code=answer.status)
            yield Note(SubmitPhase.NOT_ACCEPTED)
            if 400 <= answer.status < 500 and answer.status not in (401, 429) and _is_page(answer):
                raise _foreign_page(account, answer.status)
            failure = _failure(account, answer, "the submit", is_submit=True)
            if not isinstance(failure, PlaudRateLimitError):
                raise failure
            pause = policy.retry_after(answer.headers, attempt)
        if attempt >= policy.attempts:
            raise failure
        yield Sleep(pause, type(failure).__name__)


#: Refusals (HTTP) of what was asked for, not of who asks.
_OF_ARGUMENTS = frozenset({400, 413, 415, 422})
#: Refusals of a submit that are the client's trouble, never a recording's: its account, its rights, the path
#: or a proxy. The next recording would be refused as well, and this one is good once the trouble is over.
_OF_THE_CLIENT = frozenset({402, 403, 404, 405, 407, 426})


def verify_credentials(account: Account, policy: RetryPolicy) -> Call[Token]:
    """Exchange the credentials for a token, past every cache."""
    return (yield from exchanged_token(account, policy))


def _authorized(
    account: Account,
    policy: RetryPolicy,
    operation: Operation,
    request: Callable[[Token], Call[Request]],
    attempt: int,
) -> Call[Response]:
    """
    Send a request with a token; where Plaud rejects the token, send it again with another one.

    Where there cannot be another one yet (:mod:`plaud_provider.api.tokens` decides), the same is tried again
    after a pause: what Plaud has just issued it may accept a little later. The answer is 401 if that did not
    help.
    """
    token = yield from access_token(account, policy)
    rejections = 0
    while True:
        # Before the note: a process that is killed while it waits has sent nothing.
        yield from _slot(account, policy, operation, token)
        # The slot may have been long in coming, and the token renewed meanwhile.
        newest = (yield ReadToken()).token
        if newest is not None and is_fresh(newest, now=policy.now()):
            token = newest
        try:
            outgoing = yield from request(token)
            if not outgoing.repeatable:
                yield Note(SubmitPhase.SENDING)
        except Exception:
            # It could not be signed, or not be noted.
            yield ReturnSlot(sent=False)
            raise
        try:
            answer: Response = yield Send(outgoing)
        except TransportFailure as broken:
            is_lost = broken.sent and not outgoing.repeatable
            yield ReturnSlot(sent=broken.sent, is_answered=False if is_lost else None)
            raise
        refused = answer.status == 429
        yield ReturnSlot(
            refused_for=policy.retry_after(answer.headers, attempt) if refused else None,
            is_answered=None if outgoing.repeatable else _says_outcome(answer),
        )
        if answer.status != 401 or rejections >= policy.attempts:
            return answer
        if not outgoing.repeatable:
            yield Note(SubmitPhase.NOT_ACCEPTED)
        rejections += 1
        rejected = token
        token = yield from access_token(account, policy, rejected=rejected)
        if token.access_token == rejected.access_token:
            # Together long enough for another one to be asked for.
            shortest = min(policy.max_delay, KEPT_MINUTES * policy.minute / RetryPolicy().attempts)
            yield Sleep(
                max(policy.backoff(rejections), shortest), "Plaud rejects a token that it has just issued"
            )


def _slot(account: Account, policy: RetryPolicy, operation: Operation, token: Token) -> Call[None]:
    while True:
        try:
            yield TakeSlot(operation)
            return
        except TrialDue:
            yield from _see_that_plaud_answers(account, policy, token)


def _see_that_plaud_answers(account: Account, policy: RetryPolicy, token: Token) -> Call[None]:
    """
    Ask for a transcription that there is not, which is free.

    A refusal of any kind will do: a submit that is refused is paid for by nobody.

    :raises PlaudError: if Plaud is away, or a gateway answers in its place.
    """
    yield TakeSlot(Operation.GET)
    try:
        answer: Response = yield Send(get_request(account, token.access_token, NO_TRANSCRIPTION))
    except TransportFailure as broken:
        yield ReturnSlot(sent=broken.sent)
        raise unreachable(account, broken) from None
    yield ReturnSlot(refused_for=policy.retry_after(answer.headers, 1) if answer.status == 429 else None)
    if answer.status in SUCCESS and not _is_json(answer.body):
        raise _foreign_page(account, answer.status)
    if not (answer.status in SUCCESS or 400 <= answer.status < 500):
        raise _failure(account, answer, "a look that is to tell whether it answers")


def _parsed(answer: Response, parse: Callable[[bytes], Transcription]) -> Call[Transcription]:
    """
    Parse an answer; a large one as blocking work, so that the triggerer's loop goes on.

    Of 23 MB, which take a second of CPU, the loop is held for 0.13 s at a time at most: that is Python's
    garbage collector, which stops all threads.
    """
    if len(answer.body) <= LARGE_BYTES:
        return parse(answer.body)
    parsed: Transcription = yield Do(lambda: parse(answer.body))
    return parsed


def _says_outcome(answer: Response) -> bool:
    """Whether an answer to a submit says what became of it; a page with a 200 does not."""
    if answer.status not in SUCCESS:
        return answer.status < 500 and answer.status not in (303, 408)
    try:
        return len(answer.body) <= LARGE_BYTES and bool(parse_submission(answer.body))
    except PlaudResponseError:
        return False


def _accepted(account: Account, answer: Response) -> Call[Transcription]:
    try:
        return (yield from _parsed(answer, parse_submission))
    except PlaudResponseError as malformed:
        raise _unknown(
            account, f"Plaud answered {answer.status}, but {malformed}", status_code=answer.status
        ) from None


def _unknown(
    account: Account, reason: str, *, status_code: int | None = None
) -> PlaudSubmitOutcomeUnknownError:
    return PlaudSubmitOutcomeUnknownError(
        f"The recording was sent to {account.base_url} and the answer was lost ({reason.rstrip('.')}). Plaud "
        "may have accepted and billed it, and its API has no way to look it up.",
        status_code=status_code,
    )


def _failure(account: Account, answer: Response, what: str, *, is_submit: bool = False) -> PlaudError:
    """Return what an answer other than success means. Bodies are not quoted, save for a bare error code."""
    status = answer.status
    if status == 401:
        return PlaudTokenRejectedError(
            f"{account.base_url} kept rejecting {what} with 401, although the token of client "
            f"{account.client_id} is new. Either the client has lost its access, or another host or program "
            "with the same client id keeps asking for tokens and Plaud accepts only the newest one: let all "
            "hosts of a client share AIRFLOW_HOME/plaud_tokens, or give each host a client of its own. "
            "Nothing was accepted. A retry may pass; this host asks for another token a quarter of a "
            "minute after this one.",
            status_code=status,
        )
    if status == 429:
        return PlaudRateLimitError(
            f"Plaud kept refusing {what} with 429: client {account.client_id} is over its requests per "
            "minute. Nothing was accepted.",
            status_code=status,
        )
    if 300 <= status < 400:
        return redirected(account, status)
    if status >= 500:
        return PlaudServerError(
            f"{account.base_url} kept answering {what} with {status}.", status_code=status
        )
    if is_submit and status in _OF_THE_CLIENT:
        return PlaudAccessError(
            f"{account.base_url} refused {what} with {status}{_error_code(answer.body)}: client "
            f"{account.client_id}, its account or its rights, not the recording. Nothing was accepted; a "
            "retry submits it again.",
            status_code=status,
        )
    return PlaudRequestError(
        f"{account.base_url} refused {what} with {status}{_error_code(answer.body)}. Nothing was accepted."
        f"{' Correct the arguments.' * (is_submit and status in _OF_ARGUMENTS)}",
        status_code=status,
    )


def _not_found(account: Account, transcription_id: str, status: int) -> PlaudNotFoundError:
    return PlaudNotFoundError(
        f"{account.base_url} does not know transcription {transcription_id}. Plaud keeps results for a few "
        f"days only, and ids belong to one client and region ('{account.region.value}').",
        status_code=status,
    )


def _foreign_page(account: Account, status: int) -> PlaudServerError:
    return PlaudServerError(
        f"{account.base_url} answered {status} with a page that is not Plaud's: a proxy, a firewall or a "
        "gateway in between. If it stays, look at what is on the way to this host.",
        status_code=status,
    )


def _is_json(body: bytes) -> bool:
    return _json_object(body) is not None


def _is_page(answer: Response) -> bool:
    """Whether an answer is a page for people: a gateway's, which says nothing about what was asked for."""
    return "html" in answer.headers.get("content-type", "") or answer.body.lstrip().startswith(b"<")


def _error_code(body: bytes) -> str:
    """Return an error code from a refusal's body if it is a bare word: prose may quote what was sent."""
    payload = _json_object(body) or {}
    error = payload.get("error", payload.get("code"))
    if isinstance(error, dict):
        error = error.get("code")
    return f" ({error})" if isinstance(error, str) and _ERROR_CODE.fullmatch(error) else ""


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        payload = json.loads(body) if len(body) <= LARGE_BYTES else None
    except (ValueError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None
