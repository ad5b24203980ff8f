"""
What a call asks its shell to do, and what it is told in return.

A call (:mod:`plaud_provider.api.calls`) is a generator: it yields one of these effects, the shell performs it
and sends the answer back, or throws what went wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import BinaryIO, NamedTuple, Protocol

#: Statuses of success: which of them means what is not documented.
SUCCESS = range(200, 300)
#: Refusals (4xx) of what is asked for: the next recording may pass.
OF_WHAT_IS_ASKED = frozenset({400, 409, 410, 413, 414, 415, 422})


def is_of_client(status: int | None) -> bool:
    """
    Whether a status refuses whoever asks: the client's account, rights or path, or a gateway in between.

    The next recording would be refused as well.
    """
    return status is not None and status >= 400 and status not in OF_WHAT_IS_ASKED


class Operation(StrEnum):
    """The API's calls, and the parts of an upload, which go to the storage behind it."""

    EXCHANGE = "exchange"
    REFRESH = "refresh"
    SUBMIT = "submit"
    GET = "get"
    USER_TOKEN = "user token"
    UPLOAD = "upload"
    PART = "part"


class Part(Protocol):
    """A body that is read while it is sent: a stretch of a recording."""

    def __len__(self) -> int:
        """Return its bytes."""

    def open(self) -> BinaryIO:
        """Open it, to be read once; each time anew, and in any thread."""


# What has a secret or a transcript in it is no tuple: Airflow's log masker takes tuples apart, and would show
# what repr() leaves out. The rest are tuples, as each process makes all classes anew, and a dataclass takes
# five times as long; a frozen one ten times.
@dataclass(slots=True)
class Request:
    """
    One HTTP request, complete.

    :param repeatable: Whether sending it twice does no harm. What is not repeatable goes out on a connection
        of its own, so that a server closing an idle connection cannot make its outcome unknown.
    """

    operation: Operation
    method: str
    # That of a part is pre-signed.
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | Part | None = field(default=None, repr=False)
    repeatable: bool = True


@dataclass(slots=True)
class Response:
    """
    One HTTP response.

    :param headers: Header names in lower case.
    :param body: The decoded body, whole.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def is_page(self) -> bool:
        """Whether it is a page for people: a gateway's, which says nothing about what was asked for."""
        return "html" in self.headers.get("content-type", "") or self.body.lstrip().startswith(b"<")


class TransportFailure(Exception):
    """
    No usable response.

    :param reason: What happened, in words that may be logged.
    :param sent: Whether the server may have seen the request.
    :param passing: Whether the same request may succeed a moment later.
    :param answered: Whether there was an answer, of a kind that cannot be taken.
    :param received: What has come of the body of the answer.
    """

    def __init__(
        self,
        reason: str,
        *,
        sent: bool,
        passing: bool = True,
        answered: bool = False,
        received: bytes = b"",
    ) -> None:
        super().__init__(reason)
        self.received = received
        self.reason = reason
        self.sent = sent
        self.passing = passing
        self.answered = answered


class TrialDue(Exception):
    """
    The last submits were not answered, and this one is to find out whether Plaud answers again.

    Raised once where its slot is asked for: Plaud is to be asked for something free before.
    """


@dataclass(slots=True)
class Token:
    """
    An access token.

    :param expires_at: Epoch seconds.
    :param lifetime: Seconds it was given for.
    :param replaces_rejected: Whether it was asked for because Plaud rejected the one before.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_at: float
    lifetime: float
    replaces_rejected: bool = False

    @property
    def issued_at(self) -> float:
        """Epoch seconds."""
        return self.expires_at - self.lifetime


class TokenState(NamedTuple):
    """
    What the processes of a host share about one client's tokens. Moments are epoch seconds.

    :param token: The newest token, if any.
    :param calls: When tokens were asked for in the last minute, also with other secret keys of the client.
    :param failures: How many token requests in a row have failed.
    :param not_before: Before that no token is asked for, because the last request failed.
    :param refused_until: Until then a refusal is taken for the answer to every further token request, so that
        many tasks with a wrong secret key do not ask one after the other.
    :param status: What Plaud answered to the last request that failed; 0 if there was no answer.
    :param reason: What was wrong where the status does not say it, in words that may be logged.
    :param user_token: The newest token for uploads, if any.
    """

    token: Token | None = None
    calls: tuple[float, ...] = ()
    failures: int = 0
    not_before: float = 0.0
    refused_until: float = 0.0
    status: int = 0
    reason: str = ""
    user_token: Token | None = None


class SubmitPhase(StrEnum):
    """How far a submit has come."""

    SENDING = "sending"
    NOT_ACCEPTED = "not accepted"


class Send(NamedTuple):
    """
    Send a request; the answer is a :class:`Response`, the failure a :class:`TransportFailure`.

    :param within: Seconds in which the whole answer has to be there, if less than the hook allows.
    """

    request: Request
    within: float | None = None


class SendAll(NamedTuple):
    """
    Send requests at once, which need no turn in the quota.

    The answer is a list: for each its :class:`Response`, or the :class:`TransportFailure` in its place.
    """

    requests: Sequence[Request]


class Sleep(NamedTuple):
    """Wait for so many seconds."""

    seconds: float
    reason: str


class ReadToken:
    """Return the :class:`TokenState` that this process knows, or else the stored one."""


class NoteKeyAccepted:
    """Remember on this host that Plaud has let this client's API key in."""


class WasKeyAccepted:
    """Return whether Plaud has let this client's API key in before, as far as this host knows."""


class LockToken:
    """
    Wait until no other call of this host renews this client's token.

    The answer is the stored :class:`TokenState`, and whether the lock is held now. If not, another call of
    this process has held it meanwhile, and the state is the one that it left.
    """


class StoreToken(NamedTuple):
    """Store a :class:`TokenState` for the processes of this host; the lock is held."""

    state: TokenState


class UnlockToken(NamedTuple):
    """
    Store a :class:`TokenState` if it has changed, and let the next call renew, if the lock is held.

    The shell also unlocks when a call ends early.
    """

    state: TokenState


class Note(NamedTuple):
    """Tell the caller how far a submit has come, before the next step is taken."""

    phase: SubmitPhase


class Do(NamedTuple):
    """
    Do blocking work of the caller's, such as a step of the ledger; the answer is what it returns.

    :param work: The work. What it raises is raised in the call.
    """

    work: Callable[[], object]


class TakeSlot(NamedTuple):
    """
    Wait until the client's quota of requests has room for one more; may raise :class:`TrialDue`.

    :param operation: What is to be sent: ``SUBMIT``, ``GET``, ``USER_TOKEN`` or ``UPLOAD``.
    """

    operation: Operation


class ReturnSlot(NamedTuple):
    """
    Say that the request has been answered or has failed. The shell also does so when a call ends early.

    :param sent: Whether Plaud may have seen the request.
    :param refused_for: Seconds for which nobody is to send, because Plaud answered 429; ``None`` if it did
        not.
    :param is_answered: Whether a submit that was sent was answered in a way that says what became of it;
        ``None``: it was not sent, or is none.
    """

    sent: bool = True
    refused_for: float | None = None
    is_answered: bool | None = None


Effect = (
    Send
    | SendAll
    | Sleep
    | ReadToken
    | NoteKeyAccepted
    | WasKeyAccepted
    | StoreToken
    | LockToken
    | UnlockToken
    | Note
    | Do
    | TakeSlot
    | ReturnSlot
)
