"""
The course of an upload to Plaud's own storage, without I/O. Nothing of it is billed.

A token for uploads is asked for, then a URL for each part. The parts are sent a few at a time, and once all
are there Plaud names the URL that is to be submitted. What fails is sent again by itself, not what has
arrived, also not by another process that goes on after this one was killed. An upload that is lost as such,
since its URLs have expired or its parts are not taken together, is begun anew once.

Calls to Plaud take their turns in the quota; parts, which go to the storage behind it, do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from plaud_provider.api.account import Account
from plaud_provider.api.answers import meant_status
from plaud_provider.api.calls import Call
from plaud_provider.api.dialects.embedded_uploads import (
    BegunUpload,
    complete_request,
    parse_download_url,
    parse_part_urls,
    part_request,
    part_urls_request,
    user_token_request,
)
from plaud_provider.api.effects import (
    SUCCESS,
    Do,
    LockToken,
    Operation,
    Part,
    ReadToken,
    Request,
    Response,
    ReturnSlot,
    Send,
    SendAll,
    Sleep,
    TakeSlot,
    Token,
    TokenState,
    TransportFailure,
    UnlockToken,
    is_of_client,
)
from plaud_provider.api.failures import error_code
from plaud_provider.api.retry import RetryPolicy
from plaud_provider.api.tokens import access_token, is_fresh, parse_token, redirected, unreachable
from plaud_provider.exceptions import (
    PlaudAccessError,
    PlaudCertificateError,
    PlaudConnectionError,
    PlaudError,
    PlaudRateLimitError,
    PlaudRequestError,
    PlaudResponseError,
    PlaudServerError,
    PlaudTokenRejectedError,
)

T = TypeVar("T")

#: Parts that are sent at once.
PARTS_AT_ONCE = 3
#: How often an upload is begun in all.
ROUNDS = 2

_NOTHING_SENT = "Nothing was submitted, nothing is paid for."


class Content(Protocol):
    """
    What is uploaded.

    :param filetype: ``mp3``, ``m4a`` or ``opus``.
    :param size: Its bytes.
    """

    filetype: str
    size: int

    def begun(self) -> BegunUpload | None:
        """Return the upload of it that another process has begun, and that may still be gone on with."""

    def keep(self, begun: BegunUpload) -> None:
        """Keep how far its upload is, for the process that may have to go on with it."""

    def part(self, start: int, end: int) -> Part:
        """
        Return what is from one offset up to another. Several parts are read at once.

        Reading one raises :class:`PlaudReplacedError` if the file has become shorter.
        """


class FileTypeRefusedError(PlaudRequestError):
    """Plaud takes no files of a type."""


class _LostError(Exception):
    """
    An upload as such is lost: none of its parts is of use any more.

    :param error: What to raise if it is not begun anew.
    """

    def __init__(self, error: PlaudError) -> None:
        super().__init__()
        self.error = error


def upload(
    account: Account,
    policy: RetryPolicy,
    content: Content,
    *,
    check: Callable[[], None],
    confirm: Callable[[], None],
) -> Call[str]:
    """
    Upload a file; return the URL to submit, which is a secret, for 24 hours.

    :param account: Who uploads, and where.
    :param policy: Bounds of retries.
    :param content: The file.
    :param check: Called before each few parts; it raises if the upload is to end.
    :param confirm: Called once all parts are there; it raises if the file is not what it was any more.
    :raises FileTypeRefusedError: if Plaud takes no files of its type.
    :raises PlaudReplacedError: if it became shorter meanwhile.
    :raises PlaudRequestError: if Plaud refuses it otherwise.
    :raises PlaudError: its other classes, if it could not be uploaded now.
    """
    begun: BegunUpload | None = yield Do(content.begun)
    for is_last in (*[False] * (ROUNDS - 1), True):
        try:
            return (yield from _uploaded(account, policy, content, begun, check, confirm))
        except _LostError as lost:
            begun = None
            if is_last:
                raise lost.error from None
    raise AssertionError("unreachable")


def _uploaded(
    account: Account,
    policy: RetryPolicy,
    content: Content,
    begun: BegunUpload | None,
    check: Callable[[], None],
    confirm: Callable[[], None],
) -> Call[str]:
    target: BegunUpload = begun or (
        yield from _asked(
            account,
            policy,
            lambda token: part_urls_request(
                account, token.access_token, size=content.size, filetype=content.filetype
            ),
            partial(parse_part_urls, account, size=content.size),
            what=f"an upload of {content.size} bytes ({content.filetype})",
        )
    )
    while (arrived := len(target.etags)) < len(target.urls):
        yield Do(check)
        some = range(arrived, min(arrived + PARTS_AT_ONCE, len(target.urls)))
        target.etags += yield from _sent(policy, [_part(content, target, number) for number in some])
        yield Do(partial(content.keep, target))
    yield Do(confirm)
    try:
        url: str = yield from _asked(
            account,
            policy,
            lambda token: complete_request(account, token.access_token, target, filetype=content.filetype),
            partial(parse_download_url, account),
            what="an upload whose parts are all there",
        )
    except FileTypeRefusedError:
        raise
    except (PlaudRequestError, PlaudAccessError) as refused:
        # A part is not what it was said to be, or an answer was lost to a request that has taken effect.
        raise _LostError(refused) from None
    return url


def _part(content: Content, target: BegunUpload, number: int) -> Request:
    start = number * target.part_bytes
    end = min(start + target.part_bytes, content.size)
    return part_request(target.urls[number], content.part(start, end))


def _sent(policy: RetryPolicy, requests: Sequence[Request]) -> Call[list[str]]:
    """Send parts until all have arrived; return their ETags."""
    etags: dict[int, str] = {}
    attempt = 0
    while True:
        attempt += 1
        left = [number for number in range(len(requests)) if number not in etags]
        answers = yield SendAll([requests[number] for number in left])
        failure, pause = PlaudError(), 0.0
        for number, answer in zip(left, answers, strict=True):
            if isinstance(answer, Response) and answer.status in SUCCESS and answer.headers.get("etag"):
                etags[number] = answer.headers["etag"]
                continue
            failure = _part_failure(requests[number], answer)
            headers = answer.headers if isinstance(answer, Response) else {}
            pause = max(pause, policy.retry_after(headers, attempt))
        if len(etags) == len(requests):
            return [etags[number] for number in range(len(requests))]
        if attempt >= policy.attempts:
            raise failure
        yield Sleep(pause, f"{len(requests) - len(etags)} parts of an upload have not arrived")


def _part_failure(request: Request, answer: Response | TransportFailure) -> PlaudError:
    """
    Return what to raise for a part that keeps failing.

    :raises _LostError: if there is no use in sending it again to the same URL.
    :raises PlaudCertificateError: if the storage is not trusted.
    """
    # Of the URL the host only: the rest is a secret.
    host = f"Plaud's storage at {urlsplit(request.url).hostname}"
    if isinstance(answer, TransportFailure):
        if not answer.passing and not answer.answered:
            raise PlaudCertificateError(f"{host} is not trusted: {answer.reason}. {_NOTHING_SENT}")
        return PlaudConnectionError(
            f"{host} could not be reached for an upload: {answer.reason}. {_NOTHING_SENT} Check the network "
            "and the proxy: uploads go to that host."
        )
    status = answer.status
    failure = PlaudServerError(
        f"{host} did not take a part of an upload ({status}"
        f"{' without an ETag' * (status in SUCCESS)}). {_NOTHING_SENT} A retry uploads it again.",
        status_code=status,
    )
    if 300 <= status < 500 and status not in (408, 409, 425, 429):
        raise _LostError(failure)
    return failure


def _asked(
    account: Account,
    policy: RetryPolicy,
    request: Callable[[Token], Request],
    read: Callable[[bytes], T],
    *,
    what: str,
) -> Call[T]:
    """
    Ask Plaud something with the token for uploads; return what its answer says.

    :param request: Makes the request.
    :param read: Reads the answer; a :class:`PlaudResponseError` of it is asked for again.
    :param what: What is asked, for messages.
    """
    return (
        yield from _answered(account, policy, partial(_user_token, account, policy), request, read, what=what)
    )


def _user_token(account: Account, policy: RetryPolicy, *, rejected: Token | None = None) -> Call[Token]:
    """
    Return the token for uploads: the one that the processes of this host share, else a new one.

    :param rejected: The token that Plaud has just answered with 401.
    """
    state: TokenState = yield ReadToken()
    if (token := _usable(state, rejected, policy)) is not None:
        return token
    # Another process may have stored one.
    state = yield from _shared(lambda stored: stored)
    if (token := _usable(state, rejected, policy)) is not None:
        return token
    token = yield from _answered(
        account,
        policy,
        partial(access_token, account, policy),
        lambda partner: user_token_request(account, partner.access_token),
        lambda body: parse_token(body, now=policy.now()),
        what="a token for uploads",
    )
    yield from _shared(lambda stored: stored._replace(user_token=token))
    return token


def _usable(state: TokenState, rejected: Token | None, policy: RetryPolicy) -> Token | None:
    token = state.user_token
    if token is None or not is_fresh(token, now=policy.now()):
        return None
    return None if rejected is not None and token.access_token == rejected.access_token else token


def _shared(change: Callable[[TokenState], TokenState]) -> Call[TokenState]:
    """Change what the processes of this host share about tokens, and return it."""
    while True:
        state, is_locked = yield LockToken()
        if is_locked:
            state = change(state)
            yield UnlockToken(state)
            return state


class _Tokens(Protocol):
    """Returns a token to ask with; another one than the one that was rejected."""

    def __call__(self, *, rejected: Token | None) -> Call[Token]: ...


def _answered(
    account: Account,
    policy: RetryPolicy,
    tokens: _Tokens,
    request: Callable[[Token], Request],
    read: Callable[[bytes], T],
    *,
    what: str,
) -> Call[T]:
    """Ask Plaud something that is free, as often as the policy allows, and return what its answer says."""
    rejected: Token | None = None
    attempt = 0
    while True:
        attempt += 1
        token = yield from tokens(rejected=rejected)
        yield TakeSlot(Operation.UPLOAD)
        failure: PlaudError
        try:
            answer: Response = yield Send(request(token))
            answer.status = meant_status(answer.status, answer.body)
        except TransportFailure as broken:
            yield ReturnSlot(sent=broken.sent)
            failure, pause = unreachable(account, broken), policy.backoff(attempt)
            if not broken.passing:
                raise failure from None
        else:
            pause = policy.retry_after(answer.headers, attempt)
            yield ReturnSlot(refused_for=pause if answer.status == 429 else None)
            if answer.status in SUCCESS:
                try:
                    return read(answer.body)
                except PlaudResponseError as malformed:
                    if error_code(answer.body):
                        raise _refusal(account, answer, what) from None
                    failure = malformed
            else:
                failure = _failure(account, answer, what)
            rejected = token if answer.status == 401 else None
        if attempt >= policy.attempts:
            raise failure
        yield Sleep(pause, type(failure).__name__)


def _failure(account: Account, answer: Response, what: str) -> PlaudError:
    """
    Return what to raise if an answer stays what it is.

    :raises PlaudError: if asking again would be of no use.
    """
    status = answer.status
    if status == 401:
        return PlaudTokenRejectedError(
            f"{account.base_url} kept rejecting {what} with 401{error_code(answer.body)}, although "
            f"the token of client {account.client_id} is new. {_NOTHING_SENT} Has the client the right to "
            "upload?",
            status_code=status,
        )
    if status == 429:
        return PlaudRateLimitError(
            f"Plaud kept refusing {what} with 429: client {account.client_id} is over its requests per "
            f"minute. {_NOTHING_SENT}",
            status_code=status,
        )
    if 300 <= status < 400:
        raise redirected(account, status)
    if status >= 500 or status in (408, 425):
        return PlaudServerError(
            f"{account.base_url} kept answering {what} with {status}. {_NOTHING_SENT}", status_code=status
        )
    raise _refusal(account, answer, what)


def _refusal(account: Account, answer: Response, what: str) -> PlaudError:
    status, code = answer.status, error_code(answer.body)
    if "FILE_TYPE_INVALID" in code.upper():
        return FileTypeRefusedError(
            f"Plaud does not take {what}: it takes no files of this type (FILE_TYPE_INVALID). "
            f"{_NOTHING_SENT} Convert the recording to MP3.",
            status_code=status,
        )
    if is_of_client(status):
        return PlaudAccessError(
            f"{account.base_url} refused {what} with {status}{code}: client "
            f"{account.client_id}, its account or its rights, not the recording. {_NOTHING_SENT}",
            status_code=status,
        )
    return PlaudRequestError(
        f"{account.base_url} refused {what} with {status}{code}. {_NOTHING_SENT}",
        status_code=status,
    )
