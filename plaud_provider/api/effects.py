"""
What a call asks its shell to do, and what it is told in return.

A call (:mod:`plaud_provider.api.calls`) is a generator: it yields one of these effects, the shell performs it
and sends the answer back, or throws what went wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Operation(StrEnum):
    """The API's four calls."""

    EXCHANGE = "exchange"
    REFRESH = "refresh"
    SUBMIT = "submit"
    GET = "get"


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
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
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
    def is_success(self) -> bool:
        """Whether the status is 2xx: which of them means what is not documented."""
        return 200 <= self.status < 300


class TransportFailure(Exception):
    """
    No usable response.

    :param reason: What happened, in words that may be logged.
    :param sent: Whether the server may have seen the request.
    :param passing: Whether the same request may succeed a moment later.
    :param answered: Whether there was an answer, of a kind that cannot be taken.
    """

    def __init__(self, reason: str, *, sent: bool, passing: bool = True, answered: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent
        self.passing = passing
        self.answered = answered


@dataclass(slots=True)
class Token:
    """
    An access token.

    :param expires_at: Epoch seconds.
    :param lifetime: Seconds it was given for.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_at: float
    lifetime: float


class TokenState(NamedTuple):
    """
    What the processes of a host share about one client's tokens.

    :param token: The newest token, if any.
    :param not_before: Epoch seconds before which no token may be asked for (Plaud answered 429).
    :param refused_until: Epoch seconds until which a refusal of the credentials is remembered, so that many
        tasks with a wrong secret do not ask one after the other.
    """

    token: Token | None = None
    not_before: float = 0.0
    refused_until: float = 0.0


class SubmitPhase(StrEnum):
    """How far a submit has come."""

    SENDING = "sending"
    NOT_ACCEPTED = "not accepted"


class Send(NamedTuple):
    """Send a request; the answer is a :class:`Response`, the failure a :class:`TransportFailure`."""

    request: Request


class Sleep(NamedTuple):
    """Wait for so many seconds."""

    seconds: float
    reason: str


class ReadToken(NamedTuple):
    """
    Return the host's :class:`TokenState`.

    :param renewing: Look at what other processes have stored, not at a copy in memory.
    """

    renewing: bool = False


class StoreToken(NamedTuple):
    """Store a :class:`TokenState` for the processes of this host."""

    state: TokenState


class LockToken:
    """Wait until no one else on this host renews this client's token."""


class UnlockToken:
    """Let the next one renew. The shell also unlocks when a call ends early."""


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
    Wait until the client's quota of requests has room for one more.

    :param operation: What is to be sent: ``SUBMIT`` or ``GET``.
    """

    operation: Operation


class ReturnSlot(NamedTuple):
    """
    Say that the request has been answered or has failed. The shell also does so when a call ends early.

    :param sent: Whether Plaud may have seen the request.
    :param refused_for: Seconds for which nobody is to send, because Plaud answered 429; ``None`` if it did
        not.
    :param is_answered: Whether a submit that was sent was answered, and not with 5xx; ``None``: it was not
        sent, or is none.
    """

    sent: bool = True
    refused_for: float | None = None
    is_answered: bool | None = None


Effect = Send | Sleep | ReadToken | StoreToken | LockToken | UnlockToken | Note | Do | TakeSlot | ReturnSlot
