"""
What the effects of a call are: one table, for both hooks.

A call (:mod:`plaud_provider.api.calls`) decides and yields effects, a shell performs them. The table, and the
loop around it, are coroutines. On an event loop they wait; a :class:`BlockingShell` does each thing at once
and never waits, so that :func:`run_blocking` runs the same coroutines without an event loop.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from plaud_provider import metrics
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
    TokenState,
    TransportFailure,
    UnlockToken,
    WasKeyAccepted,
)
from plaud_provider.quota.turns import NOTE_SECONDS, AsyncTurn, Turn
from plaud_provider.recordings.reference import AudioReference

if TYPE_CHECKING:
    from plaud_provider.api.calls import Call
    from plaud_provider.auth.token_store import TokenStore

T = TypeVar("T")
AnyTurn = TypeVar("AnyTurn", Turn, AsyncTurn)


class Shell(ABC, Generic[AnyTurn]):
    """
    Performs the effects of one call.

    :param store: The tokens of this host.
    :param turn: Takes the call's turns in the quota; ``None`` for a call that needs none.
    :param log: The hook's log.
    """

    def __init__(self, store: TokenStore, turn: AnyTurn | None, log: Any) -> None:
        self._store = store
        self._turn: AnyTurn | None = turn
        # When the slot was taken that it has now; tokens are asked for without one.
        self._taken_at: float | None = None
        self._log = log
        self._locks = AsyncExitStack()

    async def drive(self, call: Call[T]) -> T:
        """Perform all effects of a call, and return its result."""
        answer: object = None
        with ExitStack() as ends:
            ends.callback(call.close)
            if self._turn is not None:
                ends.callback(self._turn.close)
            async with self._locks:
                try:
                    effect = next(call)
                    while True:
                        try:
                            answer = await self._perform(effect)
                        except Exception as failure:
                            effect = call.throw(failure)
                        else:
                            effect = call.send(answer)
                except StopIteration as done:
                    result: T = done.value
                    return result
        raise AssertionError("unreachable")

    async def _perform(self, effect: Effect) -> object:
        match effect:
            case TakeSlot(operation) if self._turn is not None:
                await self._take(self._turn, operation)
                self._taken_at = time.monotonic()
            case Send(request, within):
                if self._turn is not None:
                    if self._taken_at is not None and time.monotonic() - self._taken_at > NOTE_SECONDS:
                        # Stopped, or held up by the ledger: the slot may be someone else's by now. Ahead of
                        # submits, and past the breaker: it had its turn, and is noted as being sent.
                        await self._give_back(self._turn, ReturnSlot(sent=False))
                        await self._take(self._turn, Operation.GET)
                    self._turn.has_sent = True
                metrics.sent(request.operation.value)
                response = await self._send(request, within)
                metrics.answered(request.operation.value, response.status)
                return response
            case SendAll(requests):
                return await self._send_all(requests)
            case ReturnSlot() if self._turn is not None:
                self._taken_at = None
                await self._give_back(self._turn, effect)
            case Sleep(seconds, reason):
                self._log.info("Waiting %.1f s: %s", seconds, reason)
                await self._sleep(seconds)
            case ReadToken():
                return self._store.known() or await self._do(self._store.read)
            case NoteKeyAccepted():
                if not self._store.is_key_known:
                    await self._do(self._store.note_key_accepted)
            case WasKeyAccepted():
                return self._store.is_key_known or await self._do(self._store.was_key_accepted)
            case LockToken():
                return await self._lock_token()
            case StoreToken(state):
                await self._do(partial(self._store.write, state))
            case UnlockToken(state):
                await self._do(partial(self._store.write, state))
                await self._locks.aclose()
            case Note(phase):
                await self._note(phase)
            case Do(work):
                return await self._do(work)
        return None

    @abstractmethod
    async def _take(self, turn: AnyTurn, operation: Operation) -> None: ...

    @abstractmethod
    async def _give_back(self, turn: AnyTurn, returned: ReturnSlot) -> None: ...

    @abstractmethod
    async def _send(self, request: Request, within: float | None) -> Response: ...

    @abstractmethod
    async def _send_all(self, requests: Sequence[Request]) -> list[Response | TransportFailure]: ...

    @abstractmethod
    async def _sleep(self, seconds: float) -> None: ...

    @abstractmethod
    async def _lock_token(self) -> tuple[TokenState, bool]: ...

    @abstractmethod
    async def _note(self, phase: SubmitPhase) -> None: ...

    @abstractmethod
    async def _do(self, work: Callable[[], T]) -> T:
        """Do blocking work."""


class BlockingShell(Shell[Turn]):
    """
    Performs effects without an event loop; nothing in it waits for one.

    :param send: Sends a request; the whole answer has to be there within so many seconds.
    :param on_phase: Told how far a submit has come.
    """

    def __init__(
        self,
        store: TokenStore,
        turn: Turn | None,
        log: Any,
        *,
        send: Callable[[Request, float | None], Response],
        on_phase: Callable[[SubmitPhase], None] | None,
    ) -> None:
        super().__init__(store, turn, log)
        self._sender = send
        self._on_phase = on_phase

    async def _take(self, turn: Turn, operation: Operation) -> None:
        turn.take(operation)

    async def _give_back(self, turn: Turn, returned: ReturnSlot) -> None:
        turn.give_back(returned)

    async def _send(self, request: Request, within: float | None) -> Response:
        return self._sender(request, within)

    async def _send_all(self, requests: Sequence[Request]) -> list[Response | TransportFailure]:
        def send(request: Request) -> Response | TransportFailure:
            try:
                return self._sender(request, None)
            except TransportFailure as failure:
                return failure

        with ThreadPoolExecutor(len(requests), "plaud-parts") as senders:
            return list(senders.map(send, requests))

    async def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251

    async def _lock_token(self) -> tuple[TokenState, bool]:
        return self._locks.enter_context(self._store.lock())

    async def _note(self, phase: SubmitPhase) -> None:
        if self._on_phase is not None:
            self._on_phase(phase)

    async def _do(self, work: Callable[[], T]) -> T:
        return work()


class AsyncShell(Shell[AsyncTurn]):
    """
    Performs effects on an event loop, which is never blocked.

    :param send: As for :class:`BlockingShell`.
    :param on_phase: Likewise.
    """

    def __init__(
        self,
        store: TokenStore,
        turn: AsyncTurn,
        log: Any,
        *,
        send: Callable[[Request, float | None], Awaitable[Response]],
        on_phase: Callable[[SubmitPhase], Awaitable[None]] | None,
    ) -> None:
        super().__init__(store, turn, log)
        self._sender = send
        self._on_phase = on_phase

    async def _take(self, turn: AsyncTurn, operation: Operation) -> None:
        await turn.take(operation)

    async def _give_back(self, turn: AsyncTurn, returned: ReturnSlot) -> None:
        await turn.give_back(returned)

    async def _send(self, request: Request, within: float | None) -> Response:
        return await self._sender(request, within)

    async def _send_all(self, requests: Sequence[Request]) -> list[Response | TransportFailure]:
        async def send(request: Request) -> Response | TransportFailure:
            try:
                return await self._sender(request, None)
            except TransportFailure as failure:
                return failure

        return await asyncio.gather(*map(send, requests))

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _lock_token(self) -> tuple[TokenState, bool]:
        return await self._locks.enter_async_context(self._store.async_lock())

    async def _note(self, phase: SubmitPhase) -> None:
        if self._on_phase is not None:
            await self._on_phase(phase)

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work)


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits for an event loop, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        coroutine.close()
    raise AssertionError("a blocking shell has waited for an event loop")


def tell_of_submit(hook: Any, audio_url: str | os.PathLike[str]) -> None:
    """
    Count a submit that a task's own code has made, and tell Airflow's hook lineage collector of its input.

    :param hook: The hook.
    :param audio_url: The recording; told without its signature and the Airflow connection in it.
    """
    from airflow.sdk import plugins_manager

    metrics.count(metrics.SUBMITTED)
    if not plugins_manager.get_hook_lineage_readers_plugins():
        # Even Airflow's collector that collects nothing imports the clients of all clouds that are installed.
        return
    from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

    uri = AudioReference(audio_url).uri
    uri = f"file://{uri}" if uri.startswith("/") else re.sub(r"(?<=://)[^/@]*@", "", uri)
    try:
        get_hook_lineage_collector().add_input_asset(context=hook, uri=uri)
    except Exception as error:
        # It is paid for: a name that Airflow takes for no asset must not lose its transcript.
        hook.log.debug("Lineage could not be told of it: %s", type(error).__name__)
