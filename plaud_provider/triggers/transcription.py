"""Wait for transcriptions in the triggerer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from plaud_provider.api.polling import PollSchedule
from plaud_provider.api.waiting import Wait, WaitResult
from plaud_provider.exceptions import (
    PlaudConnectionError,
    PlaudError,
    PlaudNotFoundError,
    PlaudRateLimitError,
    PlaudResponseError,
    PlaudServerError,
)

if TYPE_CHECKING:
    from plaud_provider.hooks.plaud import PlaudAsyncHook

#: What a later look may mend. Everything else ends the wait: waiting on would only hide it.
PASSING_ERRORS = (
    PlaudConnectionError,
    PlaudNotFoundError,
    PlaudRateLimitError,
    PlaudResponseError,
    PlaudServerError,
)
UNKNOWN_STATUS_WARNING = "Plaud reports transcription %s with the unknown status %r; taken for 'processing'."
#: Looks under way at once, so that one slow answer does not hold up the others.
MAX_CONCURRENT_LOOKS = 8
PROGRESS_SECONDS = 60.0
#: A connection that "isn't defined" may be a passing failure of Airflow's execution API.
CONNECTION_ATTEMPTS = 5


class TranscriptionTrigger(BaseTrigger):
    """
    Look at transcriptions until all are final or a deadline passes; yields one event.

    It only reads, so that two copies of it (while a dead triggerer's work is taken over) do no harm, and it
    has nothing to cancel: Plaud's API cannot.

    :param transcription_ids: What is waited for.
    :param plaud_conn_id: Connection of type ``plaud``.
    :param region: Region that the connection is taken to have.
    :param poke_interval: Seconds between two looks at the same transcription.
    :param started_at: Epoch seconds of the first look of this run.
    :param end_time: Epoch seconds at which the wait ends. Absolute, so that it holds across restarts.
    :param first_look_after: Seconds until the first look.
    """

    def __init__(
        self,
        *,
        transcription_ids: list[str],
        plaud_conn_id: str,
        region: str | None,
        poke_interval: float,
        started_at: float,
        end_time: float,
        first_look_after: float = 0.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.transcription_ids = transcription_ids
        self.plaud_conn_id = plaud_conn_id
        self.region = region
        self.poke_interval = poke_interval
        self.started_at = started_at
        self.end_time = end_time
        self.first_look_after = first_look_after

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments: ids, names and times only."""
        return (
            "plaud_provider.triggers.transcription.TranscriptionTrigger",
            {
                "transcription_ids": self.transcription_ids,
                "plaud_conn_id": self.plaud_conn_id,
                "region": self.region,
                "poke_interval": self.poke_interval,
                "started_at": self.started_at,
                "end_time": self.end_time,
                "first_look_after": self.first_look_after,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then yield one event of :class:`~plaud_provider.api.waiting.WaitResult`."""
        wait = Wait(self.transcription_ids, started_at=self.started_at, deadline=self.end_time)
        try:
            result = await self._wait(wait)
        except PlaudError as error:
            result = wait.broken(error)
        except Exception as error:
            # Out of run() it would become a TaskDeferralError of which nothing but text is left.
            self.log.exception("The wait for transcriptions broke.")
            result = wait.broken(
                PlaudError(f"The wait broke: {type(error).__name__}. The triggerer's log has it all.")
            )
        self.log.info("The wait ended (%s): %s.", result.outcome, wait.progress(now=time.time()))
        yield TriggerEvent(result.to_event())

    async def _wait(self, wait: Wait) -> WaitResult:
        # In a thread: its imports take a second or more, in which no other trigger would run.
        hooks = await asyncio.to_thread(import_module, "plaud_provider.hooks.plaud")
        for attempt in range(1, CONNECTION_ATTEMPTS + 1):
            try:
                async with hooks.PlaudAsyncHook(self.plaud_conn_id, self.region) as hook:
                    return await self._look_until_final(wait, hook)
            except AirflowNotFoundException as missing:
                if attempt == CONNECTION_ATTEMPTS:
                    return wait.broken(PlaudError(str(missing)))
                await asyncio.sleep(min(2.0**attempt, max(0.0, self.end_time - time.time())))
        raise AssertionError("unreachable")

    async def _look_until_final(self, wait: Wait, hook: PlaudAsyncHook) -> WaitResult:
        schedule = PollSchedule(
            wait.pending,
            interval=self.poke_interval,
            requests_per_minute=hook.settings.requests_per_minute,
            now=time.time(),
            first_look_after=self.first_look_after,
            rng=random.Random(),
        )
        looks: set[asyncio.Task[None]] = set()
        progress = _ProgressLog(self, wait)
        try:
            while (result := wait.result(now=time.time())) is None:
                progress.report()
                while (
                    len(looks) < MAX_CONCURRENT_LOOKS and (due := schedule.take(now=time.time())) is not None
                ):
                    looks.add(asyncio.create_task(self._look(due, wait, hook, schedule)))
                looks = await self._pause(looks, schedule)
            return result
        finally:
            for look in looks:
                look.cancel()
            await asyncio.gather(*looks, return_exceptions=True)

    async def _pause(self, looks: set[asyncio.Task[None]], schedule: PollSchedule) -> set[asyncio.Task[None]]:
        """Wait until a look has come back, one is due, a progress line is, or the deadline has come."""
        now = time.time()
        until = min(self.end_time, now + PROGRESS_SECONDS)
        next_at = schedule.next_at()
        if next_at is not None and len(looks) < MAX_CONCURRENT_LOOKS:
            until = min(until, next_at)
        pause = max(0.0, until - now)
        if not looks:
            await asyncio.sleep(pause)
            return looks
        finished, looks = await asyncio.wait(looks, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        for look in finished:
            look.result()
        return looks

    async def _look(
        self, transcription_id: str, wait: Wait, hook: PlaudAsyncHook, schedule: PollSchedule
    ) -> None:
        try:
            transcription = await hook.get_transcription(transcription_id)
        except PASSING_ERRORS as error:
            self.log.warning("A look at transcription %s failed: %s", transcription_id, error)
            is_final = wait.on_error(transcription_id, error, now=time.time())
        else:
            is_final = wait.on_transcription(transcription)
            if wait.is_new_word(transcription):
                self.log.warning(UNKNOWN_STATUS_WARNING, transcription_id, transcription.reported_status)
        if not is_final:
            schedule.again(transcription_id, now=time.time())


class _ProgressLog:
    """Writes a line when something changed, at most every few seconds, and once a minute in any case."""

    def __init__(self, trigger: TranscriptionTrigger, wait: Wait) -> None:
        self._trigger = trigger
        self._wait = wait
        self._reported: tuple[int, int] | None = None
        self._reported_at = 0.0

    def report(self) -> None:
        now = time.time()
        counts = (len(self._wait.completed), len(self._wait.failed))
        quiet = now - self._reported_at
        if quiet >= PROGRESS_SECONDS or (counts != self._reported and quiet >= self._trigger.poke_interval):
            self._trigger.log.info("%s.", self._wait.progress(now=now))
            self._reported, self._reported_at = counts, now
