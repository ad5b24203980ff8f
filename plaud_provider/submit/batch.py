"""Submitting many recordings, several at once, each of them once."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential

from plaud_provider.api.effects import SubmitPhase
from plaud_provider.exceptions import (
    PlaudError,
    PlaudInputError,
    PlaudRequestError,
    PlaudStorageError,
    PlaudSubmitOutcomeUnknownError,
    PlaudWarehouseError,
)

if TYPE_CHECKING:
    from plaud_provider.hooks.connection import PlaudConnection
    from plaud_provider.hooks.plaud_async import PlaudAsyncHook
    from plaud_provider.ledger.ledger import Ledger, Owner
    from plaud_provider.recordings.signing import AudioSource

log = logging.getLogger(__name__)

#: Submits under way at once at most, so that one slow answer does not hold up the others.
CONCURRENCY = 8
#: Seconds that a submit takes, generously: more of them at once than the quota asks for would only be more
#: of unknown outcome if the worker is killed.
SUBMIT_SECONDS = 2.0
#: Well below the lease of a claim.
RENEW_SECONDS = 30.0
#: Refusals (HTTP) that are none of this recording: the next one would be refused as well.
OF_THE_CLIENT = (402, 403, 404, 405)
#: For how long an answer that is paid for is offered to a ledger that is away.
LEDGER_SECONDS = 600.0


class Order(NamedTuple):
    """
    A recording to be submitted.

    :param key: Its key in the ledger, where it is claimed.
    :param source: Where it is.
    """

    key: str
    source: AudioSource


class Terms(NamedTuple):
    """
    How recordings are to be transcribed.

    :param language: BCP-47 code; ``None``: detected.
    :param speaker_diarization: Whether to label speakers.
    :param webhook_url: Where Plaud posts results.
    """

    language: str | None
    speaker_diarization: bool
    webhook_url: str | None


class _TakenOverError(Exception):
    """Another task has taken over a recording: it is not ours to send."""


class BatchSubmit:
    """
    Submits recordings that one task has claimed in the ledger.

    Before each POST the ledger says ``submitting``, right after it ``processing`` with Plaud's id; what
    happens to one recording does not keep the others from being submitted.

    :param ledger: Where they are claimed.
    :param owner: By whom.
    :param terms: How they are to be transcribed.
    """

    def __init__(self, ledger: Ledger, owner: Owner, terms: Terms) -> None:
        self._ledger = ledger
        self._owner = owner
        self._terms = terms
        # SQLite and DuckDB take one writer at a time: ours need not wait for each other in there.
        self._writing = asyncio.Lock()
        self._broken: Exception | None = None
        self.submitted = 0
        self.unreadable: list[PlaudError] = []

    def run(self, orders: Sequence[Order], plaud: PlaudConnection) -> None:
        """
        Submit what is claimed, from a task: :meth:`submit` with an event loop of its own.

        :param orders: The recordings.
        :param plaud: Connection of the client that pays.
        """
        from plaud_provider.hooks.plaud_async import PlaudAsyncHook

        async def run() -> None:
            async with PlaudAsyncHook(plaud.plaud_conn_id, settings=plaud.settings) as hook:
                await self.submit(orders, hook)

        asyncio.run(run())

    async def submit(self, orders: Sequence[Order], hook: PlaudAsyncHook) -> None:
        """
        Submit what is claimed.

        :param orders: The recordings.
        :param hook: An open hook.
        :raises PlaudError: if going on would be useless (credentials refused, Plaud or the ledger away). What
            was not sent stays claimed.
        """
        renewal = asyncio.create_task(self._renew_leases())
        queue = iter(orders)
        at_once = math.ceil(hook.settings.requests_per_minute / 60 * SUBMIT_SECONDS)
        try:
            await asyncio.gather(*(self._work(queue, hook) for _ in range(min(CONCURRENCY, at_once))))
        finally:
            renewal.cancel()
            with suppress(asyncio.CancelledError):
                await renewal
        if self._broken is not None:
            raise self._broken

    async def _work(self, queue: Iterator[Order], hook: PlaudAsyncHook) -> None:
        for order in queue:
            # What others are sending is left to end: its answer is paid for.
            if self._broken is not None:
                return
            try:
                await self._submit(order, hook)
            except Exception as error:
                self._broken = self._broken or error

    async def _submit(self, order: Order, hook: PlaudAsyncHook) -> None:
        uri = order.source.audio.uri
        try:
            url = await asyncio.to_thread(order.source.url)
        except PlaudInputError as problem:
            await self._write(self._ledger.refused, order.key, self._owner, str(problem))
            return
        except PlaudStorageError as problem:
            log.warning("%s", problem)
            await self._write(self._ledger.release, self._owner, str(problem), keys=[order.key])
            self.unreadable.append(problem)
            return
        try:
            transcription = await hook.submit_transcription(
                url.reveal(),
                language=self._terms.language,
                webhook_url=self._terms.webhook_url,
                speaker_diarization=self._terms.speaker_diarization,
                on_phase=partial(self._on_phase, order),
            )
        except _TakenOverError:
            log.warning("%s has been taken over by another task; it is not sent from here.", uri)
        except PlaudSubmitOutcomeUnknownError as lost:
            log.error("%s: %s", uri, lost)
            await self._write(self._ledger.unknown, order.key, self._owner, str(lost))
        except (PlaudInputError, PlaudRequestError) as refusal:
            if refusal.status_code in OF_THE_CLIENT:
                raise
            log.error("%s: %s", uri, refusal)
            await self._write(self._ledger.refused, order.key, self._owner, str(refusal))
        else:
            # Logged first: should the ledger stay away, a person can still find the id.
            log.info("Plaud accepted %s as transcription %s.", uri, transcription.transcription_id)
            await self._write(
                self._ledger.processing,
                order.key,
                self._owner,
                transcription.transcription_id,
                submitted_at=datetime.now(tz=UTC),
                accepted_at=transcription.created_at,
            )
            self.submitted += 1

    async def _on_phase(self, order: Order, phase: SubmitPhase) -> None:
        if phase is SubmitPhase.NOT_ACCEPTED:
            await self._write(self._ledger.not_accepted, order.key, self._owner)
            return
        try:
            is_mine = await self._in_turn(self._ledger.submitting, order.key, self._owner)
        except PlaudWarehouseError:
            # It may be noted all the same, and nothing was sent.
            await self._write(self._ledger.not_accepted, order.key, self._owner)
            raise
        if not is_mine:
            raise _TakenOverError

    async def _write(self, transition: Callable[..., object], *arguments: Any, **named: Any) -> None:
        """Write what has happened already, until the ledger takes it."""
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(PlaudWarehouseError),
            wait=wait_exponential(multiplier=0.5, max=15),
            stop=stop_after_delay(LEDGER_SECONDS),
            reraise=True,
        )
        await attempts(self._in_turn, transition, *arguments, **named)

    async def _in_turn(self, transition: Callable[..., object], *arguments: Any, **named: Any) -> object:
        async with self._writing:
            return await asyncio.to_thread(transition, *arguments, **named)

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._in_turn(self._ledger.renew, self._owner)
            except PlaudWarehouseError as away:
                log.warning("The leases could not be renewed; trying again in half a minute. %s", away)
