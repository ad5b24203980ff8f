"""Drives a call's generator with scripted answers, a clock of its own and no I/O."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from plaud_provider.api.account import Account
from plaud_provider.api.effects import (
    Do,
    Effect,
    LockToken,
    Note,
    NoteKeyAccepted,
    Operation,
    ReadToken,
    Request,
    Response,
    ReturnSlot,
    Send,
    SendAll,
    Sleep,
    StoreToken,
    SubmitPhase,
    TakeSlot,
    Token,
    TokenState,
    TransportFailure,
    TrialDue,
    UnlockToken,
    WasKeyAccepted,
)
from plaud_provider.api.regions import Region
from plaud_provider.api.retry import RetryPolicy

T = TypeVar("T")
Answer = Response | TransportFailure

NOW = 1_800_000_000.0
ACCOUNT = Account(Region.US, "https://openapi.plaud.ai", "client", "secret-key-canary")
NOT_SENT = TransportFailure("the connection was refused", sent=False)
LOST = TransportFailure("the connection broke", sent=True)


def answer(status: int = 200, payload: object = None, **headers: str) -> Response:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def token_answer(name: str, *, expires_in: object = 86400, refresh: str | None = "") -> Response:
    """A token whose refresh token is named after it, unless another or none is asked for."""
    payload = {"access_token": name, "token_type": "bearer", "expires_in": expires_in}
    if refresh is not None:
        payload["refresh_token"] = refresh or f"refresh-of-{name}"
    return answer(200, payload)


def token(
    name: str, *, left: float = 80_000.0, lifetime: float = 86_400.0, refresh: str | None = ""
) -> Token:
    refresh_token = None if refresh is None else refresh or f"refresh-of-{name}"
    return Token(name, refresh_token, expires_at=NOW + left, lifetime=lifetime)


class World:
    """
    One host: its clock, what it stores, and what Plaud will answer.

    :param answers: What each request gets, in order.
    :param then: What all further requests get; without it there may be none.
    :param while_waiting: What others do while the call waits for the lock.
    :param while_sending: What happens while a token request is under way.
    :param while_queuing: What others do while the call waits for its turn.
    :param is_trial: Whether the first submit is to find out whether Plaud answers again.
    :param was_key_accepted: Whether Plaud has let the client's API key in before.
    """

    def __init__(
        self,
        answers: Iterable[Answer] = (),
        *,
        then: Answer | None = None,
        stored: Token | TokenState | None = None,
        while_waiting: Callable[[World], None] = lambda world: None,
        while_sending: Callable[[World], None] = lambda world: None,
        while_queuing: Callable[[World], None] = lambda world: None,
        is_trial: bool = False,
        was_key_accepted: bool = False,
        **policy: Any,
    ) -> None:
        self.answers = deque(answers)
        self.then = then
        self.state = stored if isinstance(stored, TokenState) else TokenState(stored)
        self.while_waiting = while_waiting
        self.while_sending = while_sending
        self.while_queuing = while_queuing
        self.is_trial = is_trial
        self.was_key_accepted = was_key_accepted
        self.clock = NOW
        self.policy = RetryPolicy(now=lambda: self.clock, rng=random.Random(7), **policy)
        self.sent: list[Request] = []
        self.slept: list[float] = []
        self.stored_while_asleep: list[TokenState] = []
        self.notes: list[SubmitPhase | Operation] = []
        self.locked = False
        #: Whether another call of this process has the lock, for which the call waits.
        self.other_of_process = False
        self.holds_slot = False
        self.returned: list[ReturnSlot] = []

    @property
    def operations(self) -> list[str]:
        return [request.operation.value for request in self.sent]

    def bearers(self, operation: Operation) -> list[str]:
        """The tokens with which an operation was tried, in order."""
        return [
            request.headers["Authorization"].removeprefix("Bearer ")
            for request in self.sent
            if request.operation is operation
        ]

    def run(self, call: Generator[Effect, Any, T]) -> T:
        try:
            effect = next(call)
            while True:
                try:
                    result = self._perform(effect)
                except Exception as failure:
                    effect = call.throw(failure)
                else:
                    effect = call.send(result)
        except StopIteration as done:
            assert not self.locked, "the call ended and left the lock held"
            assert not self.holds_slot, "the call ended and kept its slot"
            value: T = done.value
            return value
        finally:
            self.locked = self.holds_slot = False
            call.close()

    def _next(self) -> Answer:
        return self.then if self.then is not None and not self.answers else self.answers.popleft()

    def _perform(self, effect: Effect) -> object:
        match effect:
            case Send(request, within):
                assert (within is not None) == self.locked, "whoever has the lock sends for a bounded time"
                needs_slot = request.operation not in (Operation.EXCHANGE, Operation.REFRESH)
                assert self.holds_slot == needs_slot, "a request and its slot do not belong together"
                self.sent.append(request)
                self.notes.append(request.operation)
                if self.locked:
                    self.while_sending(self)
                given = self._next()
                if isinstance(given, TransportFailure):
                    raise TransportFailure(given.reason, sent=given.sent, passing=given.passing)
                return given
            case SendAll(requests):
                assert not self.holds_slot, "a slot is held while parts are sent"
                assert not self.locked, "the lock is held while parts are sent"
                self.sent += requests
                return [self._next() for _ in requests]
            case Sleep(seconds):
                assert seconds >= 0
                assert not self.holds_slot, "a slot is held while nothing is sent"
                assert not self.locked, "the lock is held while nothing is sent"
                self.slept.append(seconds)
                self.stored_while_asleep.append(self.state)
                self.clock += seconds
            case ReadToken():
                return self.state
            case NoteKeyAccepted():
                self.was_key_accepted = True
            case WasKeyAccepted():
                return self.was_key_accepted
            case StoreToken(state):
                assert self.locked, "the state is stored without the lock"
                self.state = state
            case LockToken():
                assert not self.locked, "the lock is taken twice"
                assert not self.holds_slot, "a slot is held while a token is renewed"
                self.while_waiting(self)
                self.locked = not self.other_of_process
                return self.state, self.locked
            case UnlockToken(state):
                assert self.locked
                self.locked = False
                self.state = state
            case Note(phase):
                self.notes.append(phase)
            case Do(work):
                return work()
            case TakeSlot(operation):
                assert not self.holds_slot, "a slot is taken twice"
                if self.is_trial and operation is Operation.SUBMIT:
                    self.is_trial = False
                    raise TrialDue
                self.holds_slot = True
                self.while_queuing(self)
            case ReturnSlot():
                assert self.holds_slot, "a slot is returned twice"
                self.holds_slot = False
                self.returned.append(effect)
        return None
