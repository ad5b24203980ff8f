"""
The course of one call, without I/O: what is sent, what its answer means, and whether it may be sent again.

Each call is a generator that yields an :data:`~plaud_provider.api.effects.Effect` and is sent its answer. The
synchronous hook and its async twin drive the same generators, so a decision is taken in one place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from plaud_provider.api import failures
from plaud_provider.api.account import Account
from plaud_provider.api.answers import (
    LARGE_BYTES,
    meant_status,
    parse_submission,
    parse_transcription,
    refusal,
)
from plaud_provider.api.arguments import as_transcription_id, validate_transcription_id
from plaud_provider.api.effects import (
    SUCCESS,
    Do,
    Effect,
    Note,
    NoteKeyAccepted,
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
    WasKeyAccepted,
)
from plaud_provider.api.members import as_time
from plaud_provider.api.models import Status, Transcription
from plaud_provider.api.retry import RetryPolicy
from plaud_provider.api.terms import Terms
from plaud_provider.api.tokens import (
    KEPT_MINUTES,
    access_token,
    exchanged_token,
    is_fresh,
    unreachable,
)
from plaud_provider.exceptions import (
    PlaudError,
    PlaudRateLimitError,
    PlaudResponseError,
    PlaudServerError,
)

T = TypeVar("T")
Call = Generator[Effect, Any, T]

NO_OPTIONS = Terms()
#: An id that nobody has.
NO_TRANSCRIPTION = "txn_none"
_LOCATION = re.compile(r"/transcriptions/([^/?#]+)/?(?:[?#]|$)")


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

    def request(access_token: str) -> Call[Request]:
        # A generator, as that of a submit is, which has to ask for something.
        yield from ()
        return account.dialect.get_request(account, access_token, transcription_id)

    attempt = 0
    while True:
        attempt += 1
        attempts = policy.attempts
        failure: PlaudError
        try:
            answer, _ = yield from _authorized(account, policy, Operation.GET, request, attempt)
        except TransportFailure as broken:
            failure = unreachable(account, broken)
            if not broken.passing:
                raise failure from None
            pause = policy.backoff(attempt)
        else:
            if answer.status in SUCCESS and not refusal(answer.body):
                try:
                    parse = partial(parse_transcription, requested_id=transcription_id)
                    transcription = yield from _parsed(answer, parse)
                    if not account.dialect.sends_token:
                        yield NoteKeyAccepted()
                    return transcription
                except PlaudResponseError as malformed:
                    failure, attempts = malformed, policy.malformed_attempts
                    if answer.is_page or not answer.body.strip():
                        failure = failures.foreign_page(account, answer.status)
                pause = policy.backoff(attempt)
            elif (
                400 <= answer.status < 500
                and answer.status not in (401, 408, 425, 429)
                and not failures.is_json(answer.body)
            ):
                raise failures.foreign_page(account, answer.status)
            elif failures.is_missing(answer):
                raise failures.not_found(account, transcription_id, answer.status)
            else:
                failure = failures.failure(
                    account, answer, f"the request for transcription {transcription_id}"
                )
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
    terms: Terms = NO_OPTIONS,
) -> Call[Transcription]:
    """
    Submit a recording: at most one accepted POST.

    A POST is repeated only where it certainly was not accepted: it never left this host, or Plaud answered
    401 or 429. Every other doubt ends the call. The API has no idempotency key and no list, so nobody can
    look it up.

    :param audio_url: Pre-signed URL; or what returns one, which is asked right before each POST, when there
        is nothing to wait for any more. What that raises ends the call.
    :param terms: How it is to be transcribed.
    :raises PlaudInputError: if the account's API lacks an option; nothing was sent.
    :raises PlaudSubmitOutcomeUnknownError: if the recording may have been accepted.
    :raises PlaudError: any other class: it certainly was not accepted.
    """
    account.dialect.check(terms)

    def request(access_token: str) -> Call[Request]:
        url: str = audio_url if isinstance(audio_url, str) else (yield Do(audio_url))
        return account.dialect.submit_request(account, access_token, url, terms)

    attempt = 0
    while True:
        attempt += 1
        failure: PlaudError
        try:
            answer, outcome = yield from _authorized(account, policy, Operation.SUBMIT, request, attempt)
        except TransportFailure as broken:
            if broken.sent:
                try:
                    # What has come of an answer that was cut off may name it.
                    return parse_submission(broken.received)
                except PlaudResponseError:
                    raise failures.unknown_outcome(account, broken.reason) from None
            failure, pause = unreachable(account, broken), policy.backoff(attempt)
            yield Note(SubmitPhase.NOT_ACCEPTED)
            if not broken.passing:
                raise failure from None
        else:
            if outcome.transcription is not None:
                if not account.dialect.sends_token:
                    yield NoteKeyAccepted()
                return _with_time(outcome.transcription, answer)
            if not outcome.is_said:
                raise failures.unknown_outcome(
                    account, f"Plaud answered {answer.status}{outcome.but}", status_code=answer.status
                )
            yield Note(SubmitPhase.NOT_ACCEPTED)
            if 400 <= answer.status < 500 and answer.status not in (401, 429) and answer.is_page:
                raise failures.foreign_page(account, answer.status)
            failure = failures.failure(account, answer, "the submit", is_submit=True)
            if not isinstance(failure, PlaudRateLimitError):
                raise failure
            pause = policy.retry_after(answer.headers, attempt)
        if attempt >= policy.attempts:
            raise failure
        yield Sleep(pause, type(failure).__name__)


def verify_credentials(account: Account, policy: RetryPolicy) -> Call[Token]:
    """Exchange the credentials for a token, past every cache."""
    return (yield from exchanged_token(account, policy))


def verify_api_key(account: Account, policy: RetryPolicy) -> Call[None]:
    """
    Ask for a transcription that there is not, which is free, with the client's API key.

    That a key is refused can be seen; whether it may submit is only known to who submits.

    :raises PlaudError: if it is refused, Plaud is away, or something else answers in its place.
    """
    answer = yield from _free_look(account, policy, None)
    if not failures.is_json(answer.body) and answer.status < 500:
        raise failures.foreign_page(account, answer.status)
    if answer.status not in SUCCESS and not failures.is_missing(answer):
        raise failures.failure(account, answer, "a look with the API key")
    if failures.names_client(answer):
        raise failures.failure(account, answer, "a look with the API key")


def _authorized(
    account: Account,
    policy: RetryPolicy,
    operation: Operation,
    request: Callable[[str], Call[Request]],
    attempt: int,
) -> Call[tuple[Response, _Outcome]]:
    """
    Send a request with what lets it in; where Plaud rejects a token, send it again with another one.

    The answer comes with what it says of a submit.

    Where there cannot be another one yet (:mod:`plaud_provider.api.tokens` decides), the same is tried again
    after a pause: what Plaud has just issued it may accept a little later. The answer is 401 if that did not
    help. An API key cannot be renewed; one that Plaud has accepted before is tried again in the same way.

    :raises PlaudTokenRejectedError: if such a key is still refused.
    """
    token = (yield from access_token(account, policy)) if account.dialect.sends_token else None
    rejections = 0
    while True:
        # Before the note: a process that is killed while it waits has sent nothing.
        yield from _slot(account, policy, operation, token)
        # The slot may have been long in coming, and the token renewed meanwhile.
        newest = None if token is None else (yield ReadToken()).token
        if newest is not None and is_fresh(newest, now=policy.now()):
            token = newest
        try:
            outgoing = yield from request(token.access_token if token is not None else "")
            if not outgoing.repeatable:
                yield Note(SubmitPhase.SENDING)
        except Exception:
            # It could not be signed, or not be noted.
            yield ReturnSlot(sent=False)
            raise
        try:
            answer: Response = yield Send(outgoing)
            answer.status = meant_status(answer.status, answer.body)
        except TransportFailure as broken:
            is_lost = broken.sent and not outgoing.repeatable
            yield ReturnSlot(sent=broken.sent, is_answered=False if is_lost else None)
            raise
        outcome = _Outcome() if outgoing.repeatable else (yield from _outcome(answer))
        refused = answer.status == 429
        yield ReturnSlot(
            refused_for=policy.retry_after(answer.headers, attempt) if refused else None,
            is_answered=None if outgoing.repeatable else outcome.is_said,
        )
        if token is not None:
            if answer.status != 401 or rejections >= policy.attempts:
                return answer, outcome
        elif (
            not failures.refuses_client(answer)
            or not (outgoing.repeatable or outcome.is_refusal)
            or not (yield WasKeyAccepted())
        ):
            return answer, outcome
        if not outgoing.repeatable:
            yield Note(SubmitPhase.NOT_ACCEPTED)
        rejections += 1
        if token is not None:
            rejected = token
            token = yield from access_token(account, policy, rejected=rejected)
            if token.access_token != rejected.access_token:
                continue
        elif rejections >= policy.attempts:
            raise failures.key_rejected(account, answer)
        # Together long enough for another token to be asked for.
        shortest = min(policy.max_delay, KEPT_MINUTES * policy.minute / RetryPolicy().attempts)
        what = "an API key that it has taken before" if token is None else "a token that it has just issued"
        yield Sleep(max(policy.backoff(rejections), shortest), f"Plaud rejects {what}")


def _slot(account: Account, policy: RetryPolicy, operation: Operation, token: Token | None) -> Call[None]:
    while True:
        try:
            yield TakeSlot(operation)
            return
        except TrialDue:
            yield from _see_that_plaud_answers(account, policy, token)


def _see_that_plaud_answers(account: Account, policy: RetryPolicy, token: Token | None) -> Call[None]:
    """
    Ask for a transcription that there is not, which is free.

    A refusal of any kind will do: a submit that is refused is paid for by nobody. What would leave a submit's
    outcome open will not.

    :raises PlaudError: if Plaud is away, or a gateway answers in its place.
    """
    answer = yield from _free_look(account, policy, token)
    if answer.status not in SUCCESS:
        if not 400 <= answer.status < 500 or answer.status == 408:
            raise failures.failure(account, answer, "a look that is to tell whether it answers")
    elif not refusal(answer.body):
        try:
            is_known = not parse_transcription(answer.body, requested_id=NO_TRANSCRIPTION).has_unknown_status
        except PlaudResponseError:
            is_known = False
        if not is_known:
            raise failures.foreign_page(account, answer.status)


def _free_look(account: Account, policy: RetryPolicy, token: Token | None) -> Call[Response]:
    """Ask for a transcription that there is not."""
    yield TakeSlot(Operation.GET)
    access_token = token.access_token if token is not None else ""
    try:
        answer: Response = yield Send(account.dialect.get_request(account, access_token, NO_TRANSCRIPTION))
        answer.status = meant_status(answer.status, answer.body)
    except TransportFailure as broken:
        yield ReturnSlot(sent=broken.sent)
        raise unreachable(account, broken) from None
    yield ReturnSlot(refused_for=policy.retry_after(answer.headers, 1) if answer.status == 429 else None)
    return answer


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


class _Outcome(NamedTuple):
    """
    What an answer to a submit says.

    :param transcription: What was made of the recording. A refusal may name one, too: it may be paid for.
    :param is_said: Whether the answer says what became of the recording; a page with a 200 does not.
    :param but: What is wrong with an answer that should have named a transcription.
    """

    transcription: Transcription | None = None
    is_said: bool = False
    but: str = ""

    @property
    def is_refusal(self) -> bool:
        """Whether it says that nothing was made of it."""
        return self.is_said and self.transcription is None


def _outcome(answer: Response) -> Call[_Outcome]:
    status, but = answer.status, ""
    is_success = status in SUCCESS
    if is_success or (status not in (401, 429) and len(answer.body) <= LARGE_BYTES):
        # Of an error, only what is called a transcription's id is one.
        parse = partial(parse_submission, must_be_named=not is_success)
        try:
            return _Outcome((yield from _parsed(answer, parse)), is_said=True)
        except PlaudResponseError as malformed:
            if (located := _located(answer)) is not None:
                return _Outcome(located, is_said=True)
            but = f", but {malformed}" * is_success
    is_refused = (
        bool(refusal(answer.body)) if is_success else 300 <= status < 500 and status not in (303, 408)
    )
    return _Outcome(is_said=is_refused, but=but)


def _located(answer: Response) -> Transcription | None:
    """Return the transcription that a header says was made, as REST has it."""
    found = _LOCATION.search(answer.headers.get("location", "")) if answer.status in (*SUCCESS, 303) else None
    transcription_id = as_transcription_id(unquote(found[1])) if found else None
    if transcription_id is None:
        return None
    return Transcription(transcription_id, Status.PROCESSING, Status.PROCESSING.value)


def _with_time(transcription: Transcription, answer: Response) -> Transcription:
    """Return a transcription with the time of its submit: where the API does not tell it, its clock does."""
    if transcription.created_at is not None:
        return transcription
    return replace(transcription, created_at=as_time(answer.headers.get("date")))
