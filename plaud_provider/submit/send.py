"""Submitting many recordings, several at once; what happens to one does not keep the others from it."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, NamedTuple

from plaud_provider.exceptions import (
    PlaudAccessError,
    PlaudError,
    PlaudRequestError,
    PlaudSubmitOutcomeUnknownError,
    PlaudWarehouseError,
)
from plaud_provider.submit import course
from plaud_provider.submit.memory import RENEW_SECONDS, LedgerMemory

if TYPE_CHECKING:
    from plaud_provider.hooks.connection import PlaudConnection
    from plaud_provider.hooks.plaud_async import PlaudAsyncHook
    from plaud_provider.ledger.entry import Owner, Recording
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.submit.course import Order, Outcome
    from plaud_provider.submit.stop import Stop

log = logging.getLogger(__name__)

#: Submits under way at once at most, so that one slow answer does not hold up the others.
CONCURRENCY = 8
#: Seconds that a submit takes, generously: more of them at once than the quota asks for would only be more
#: of unknown outcome if the worker is killed.
SUBMIT_SECONDS = 2.0
#: For how long an answer that is paid for is offered to a ledger that is away.
LEDGER_SECONDS = 600.0
#: So many different recordings that Plaud refuses in a row and for the same reason are not refused for what
#: they are: the API has changed, or what is sent to it. A folder may well have a few bad files side by side.
REFUSED_ALIKE = 20


class Claimed(NamedTuple):
    """
    A recording that is claimed, to be sent.

    :param recording: Its row in the ledger.
    :param order: What to submit.
    """

    recording: Recording
    order: Order


class _HoldingMemory(LedgerMemory):
    """A recording's row in the ledger, where a refusal of Plaud's is noted only once it is settled."""

    #: The refusal.
    held: PlaudError | None = None

    def refused(self, error: PlaudError) -> None:
        """Note that it failed, unless it was Plaud that has refused it."""
        if isinstance(error, PlaudRequestError):
            self.held = error
        else:
            super().refused(error)

    def settle(self) -> None:
        """Note that it was refused for what it is."""
        if self.held is not None:
            super().refused(self.held)


class Sender:
    """
    Submits recordings that one task has claimed in the ledger, and keeps the claims alive meanwhile.

    :param ledger: Where they are claimed.
    :param owner: By whom.
    :param stop: Says that the task is to end.
    """

    def __init__(self, ledger: Ledger, owner: Owner, stop: Stop) -> None:
        self._ledger = ledger
        self._owner = owner
        self._stop = stop
        self._workers: dict[asyncio.Task[None], course.Sending] = {}
        # Threads of one task need not wait for each other in there.
        self._turn: AbstractContextManager[object] = (
            threading.Lock() if ledger.database.dialect.takes_one_writer else nullcontext()
        )
        self._broken: Exception | None = None
        # Whether Plaud has answered the last submit. Else one is sent at a time: while Plaud is in trouble,
        # more at once would only be more of unknown outcome; after it, one is enough to find out.
        self._is_answered = False
        self._alone = asyncio.Lock()
        # What Plaud has refused, until it accepts one that was sent later.
        self._held: list[_HoldingMemory] = []
        self._refused_in_a_row = 0
        #: What has become of each, by its key; of those that were not sent there is nothing.
        self.outcomes: dict[str, Outcome] = {}

    def send(self, claimed: Sequence[Claimed], plaud: PlaudConnection) -> None:
        """
        Submit what is claimed, from a task: :meth:`send_all` with an event loop of its own.

        :param claimed: The recordings.
        :param plaud: Connection of the client that pays.
        """
        from plaud_provider.hooks.plaud_async import PlaudAsyncHook

        async def run() -> None:
            async with PlaudAsyncHook(plaud.plaud_conn_id, settings=plaud.settings) as hook:
                await self.send_all(claimed, hook)

        self._stop.run(lambda: asyncio.run(run()))

    async def send_all(self, claimed: Sequence[Claimed], hook: PlaudAsyncHook) -> None:
        """
        Submit what is claimed.

        :param claimed: The recordings.
        :param hook: An open hook.
        :raises PlaudError: if going on would be useless (credentials refused, Plaud or the ledger away), or
            the task is to end. What was not begun stays claimed; the caller releases it.
        """
        renewal = asyncio.create_task(self._renew_leases())
        if self._owner.try_number > 1:
            # Bad files lie side by side, and must not keep back the others at each try.
            claimed = random.sample(claimed, len(claimed))
        queue = iter(claimed)
        at_once = math.ceil(hook.settings.requests_per_minute / 60 * SUBMIT_SECONDS)
        for _ in range(min(CONCURRENCY, at_once)):
            sending = course.Sending(self._stop)
            self._workers[asyncio.create_task(self._work(queue, hook, sending))] = sending
        loop = asyncio.get_running_loop()
        try:
            with self._stop.telling(lambda: loop.call_soon_threadsafe(self._end_waits)):
                await asyncio.gather(*self._workers, return_exceptions=True)
            if self._broken is None and not self._stop.is_set:
                await self._settle(self._held)
        finally:
            renewal.cancel()
            with suppress(asyncio.CancelledError):
                await renewal
        if self._broken is not None:
            raise self._broken
        self._stop.check()

    def _end_waits(self) -> None:
        """End what waits to be sent; what is being sent is left to end, since its answer is paid for."""
        for worker, sending in self._workers.items():
            if not sending.is_under_way:
                worker.cancel()

    async def _work(self, queue: Iterator[Claimed], hook: PlaudAsyncHook, sending: course.Sending) -> None:
        for claimed in queue:
            sending.is_under_way = False
            async with nullcontext() if self._is_answered else self._alone:
                # What others are sending is left to end.
                if self._broken is not None or self._stop.is_set:
                    return
                try:
                    await self._submit(claimed, hook, sending)
                except Exception as error:
                    self._broken = self._broken or error
                    return

    async def _submit(self, claimed: Claimed, hook: PlaudAsyncHook, sending: course.Sending) -> None:
        recording, order = claimed
        refused_before = tuple(self._held)
        memory = _HoldingMemory(
            self._ledger, recording, self._owner, turn=self._turn, patience=LEDGER_SECONDS
        )
        outcome = await hook.drive(
            course.submit(hook.settings.account, hook.retry_policy, order, memory, sending)
        )
        self._is_answered = not isinstance(outcome.error, PlaudSubmitOutcomeUnknownError)
        self.outcomes[recording.recording_key] = outcome
        if outcome.error is not None:
            log.warning("%s: %s", order.uri, outcome.error)
        if memory.held is not None:
            self._held.append(memory)
            self._refused_in_a_row += 1
            self._refuse_to_go_on()
        elif outcome.transcription is not None:
            self._refused_in_a_row = 0
            await self._settle(refused_before)

    async def _settle(self, refused: Sequence[_HoldingMemory]) -> None:
        """Note as failed what Plaud has refused while it accepts others: it is about the recordings."""
        settled = [memory for memory in self._held if memory in refused]
        self._held = [memory for memory in self._held if memory not in refused]
        for memory in settled:
            await asyncio.to_thread(memory.settle)

    def _refuse_to_go_on(self) -> None:
        """
        Stop where everything is refused alike: nobody wants each recording of an archive marked as failed.

        :raises PlaudAccessError: if it is. All of them are claimed still; the caller releases them.
        """
        last = [memory.held for memory in self._held[-REFUSED_ALIKE:]]
        if self._refused_in_a_row < REFUSED_ALIKE or len(set(map(str, last))) > 1:
            return
        raise PlaudAccessError(
            f"{REFUSED_ALIKE} recordings in a row were refused alike, and none accepted in between: "
            f"{last[-1]} So it is hardly for what they are: the API may have changed, or be in trouble. None "
            "of them is marked as failed. A retry takes the rest in another order.",
            status_code=last[-1].status_code if last[-1] is not None else None,
        )

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await asyncio.to_thread(self._renew)
            except PlaudWarehouseError as away:
                log.warning("The leases could not be renewed; trying again in half a minute. %s", away)

    def _renew(self) -> None:
        with self._turn:
            self._ledger.renew(self._owner)
