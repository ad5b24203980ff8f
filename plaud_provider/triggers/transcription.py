"""Wait for transcriptions in the triggerer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from plaud_provider.api.retry import ONE_LOOK
from plaud_provider.api.schedule import Job, ProcessingTimes, Schedule
from plaud_provider.api.waiting import PROGRESS_SECONDS, Troubles, Wait, WaitResult, after_look
from plaud_provider.exceptions import PlaudAuthenticationError, PlaudError, PlaudTokenRejectedError

if TYPE_CHECKING:
    from plaud_provider.api.models import Transcription
    from plaud_provider.handover.kept_results import ResultStore
    from plaud_provider.hooks.plaud import PlaudAsyncHook

#: Looks under way at once, so that one slow answer does not hold up the others.
MAX_CONCURRENT_LOOKS = 8
#: For how long those under way may go on when there is something to land.
LAST_LOOKS_SECONDS = 10.0
#: For how long what the quota has to spare is taken to be the same.
SPARE_SECONDS = 2.0
#: So often the connection is read again while credentials are refused.
SECRETS_SECONDS = 60.0
#: After so many seconds the worker that has deferred has ended, and the scheduler knows. An event before that
#: meets the worker's end: Airflow takes the task, which runs again, for one that was killed, and fails it.
WORKER_SECONDS = 3.0
#: A connection that "isn't defined" may be a passing failure of Airflow's execution API.
CONNECTION_ATTEMPTS = 5


class TranscriptionTrigger(BaseTrigger):
    """
    Look at transcriptions until all are final or a deadline passes; yields one event.

    It only reads, so that two copies of it (while a dead triggerer's work is taken over) do no harm, and it
    has nothing to cancel: Plaud's API cannot. With ``results_path`` it keeps each final answer there, under a
    name that only the transcription decides: two copies write the same file.

    :param transcription_ids: What is waited for, in the order of submission.
    :param plaud_conn_id: Connection of type ``plaud``.
    :param region: Region that the connection is taken to have.
    :param poke_interval: Seconds between two looks at the same transcription, see
        :class:`~plaud_provider.api.schedule.Schedule`.
    :param started_at: Epoch seconds of the first look of this run.
    :param end_time: Epoch seconds at which the wait ends. Absolute, so that it holds across restarts.
    :param looked_at: Epoch seconds of a look that has found all processing; ``None``: there was none.
    :param results_path: Folder for final answers, as an ``ObjectStoragePath``; ``None`` keeps none.
    :param partial_count: How many final transcriptions make a ``partial`` event; ``None``: no number does.
    :param partial_seconds: After how many seconds what is final makes one, however little it is; ``None``:
        never.
    :param submitted_at: Epoch seconds at which each was submitted, where that is known.
    :param accepted_at: The same by Plaud's clock: epoch seconds at which Plaud says that it accepted each.
    :param audio_seconds: Length of each recording, where that is known.
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
        looked_at: float | None = None,
        results_path: str | None = None,
        partial_count: int | None = None,
        partial_seconds: float | None = None,
        submitted_at: Sequence[float | None] | None = None,
        accepted_at: Sequence[float | None] | None = None,
        audio_seconds: Sequence[float | None] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.transcription_ids = transcription_ids
        self.plaud_conn_id = plaud_conn_id
        self.region = region
        self.poke_interval = poke_interval
        self.started_at = started_at
        self.end_time = end_time
        self.looked_at = looked_at
        self.results_path = results_path
        self.partial_count = partial_count
        self.partial_seconds = partial_seconds
        self.submitted_at = submitted_at
        self.accepted_at = accepted_at
        self.audio_seconds = audio_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments: ids, names and numbers only."""
        return (
            "plaud_provider.triggers.transcription.TranscriptionTrigger",
            {
                "transcription_ids": self.transcription_ids,
                "plaud_conn_id": self.plaud_conn_id,
                "region": self.region,
                "poke_interval": self.poke_interval,
                "started_at": self.started_at,
                "end_time": self.end_time,
                "looked_at": self.looked_at,
                "results_path": self.results_path,
                "partial_count": self.partial_count,
                "partial_seconds": self.partial_seconds,
                "submitted_at": self.submitted_at,
                "accepted_at": self.accepted_at,
                "audio_seconds": self.audio_seconds,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then yield one event of :class:`~plaud_provider.api.waiting.WaitResult`."""
        wait = Wait(
            self.transcription_ids,
            started_at=self.started_at,
            deadline=self.end_time,
            partial_count=self.partial_count,
            partial_at=None if self.partial_seconds is None else time.time() + self.partial_seconds,
        )
        deferred_at = time.monotonic()
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
        await asyncio.sleep(deferred_at + WORKER_SECONDS - time.monotonic())
        self.log.info("The wait ended (%s): %s.", result.outcome, wait.progress(now=time.time()))
        yield TriggerEvent(result.to_event())

    async def _wait(self, wait: Wait) -> WaitResult:
        # In a thread: no other trigger would run meanwhile.
        hooks = await asyncio.to_thread(import_module, "plaud_provider.hooks.plaud_async")
        for name in ("known_times", "marks"):
            await asyncio.to_thread(import_module, f"plaud_provider.handover.{name}")
        for attempt in range(1, CONNECTION_ATTEMPTS + 1):
            try:
                results = await self._open_results()
                async with hooks.PlaudAsyncHook(
                    self.plaud_conn_id, self.region, retry_policy=ONE_LOOK
                ) as hook:
                    return await _Looks(self, wait, hook, results).until_final()
            except AirflowNotFoundException as missing:
                if attempt == CONNECTION_ATTEMPTS:
                    return wait.broken(PlaudError(str(missing)))
                await asyncio.sleep(min(2.0**attempt, max(0.0, self.end_time - time.time())))
        raise AssertionError("unreachable")

    async def _open_results(self) -> ResultStore | None:
        if self.results_path is None:
            return None
        module = await asyncio.to_thread(import_module, "plaud_provider.handover.kept_results")
        results: ResultStore = module.ResultStore(self.results_path)
        await results.aopen()
        return results

    def jobs(self) -> list[Job]:
        """Return what is waited for with what is known of each."""
        unknown = [None] * len(self.transcription_ids)
        return [
            Job(transcription_id, submitted_at, audio_seconds, accepted_at, self.looked_at)
            for transcription_id, submitted_at, audio_seconds, accepted_at in zip(
                self.transcription_ids,
                self.submitted_at or unknown,
                self.audio_seconds or unknown,
                self.accepted_at or unknown,
                strict=True,
            )
        ]


@dataclass(slots=True)
class _Known:
    """
    What the triggers of a process know of one client's transcriptions.

    :param times: How long Plaud takes.
    :param looked_at: When those that a trigger had to leave were last looked at, in epoch seconds.
    :param troubles: What was wrong with the looks at them.
    """

    times: ProcessingTimes = field(default_factory=ProcessingTimes)
    looked_at: dict[str, float] = field(default_factory=dict)
    troubles: Troubles = field(default_factory=Troubles)


#: By base URL and client id.
_KNOWN: dict[tuple[str, str], _Known] = {}


class _Looks:
    """The looks of one trigger, some of them at once."""

    def __init__(
        self, trigger: TranscriptionTrigger, wait: Wait, hook: PlaudAsyncHook, results: ResultStore | None
    ) -> None:
        self._trigger = trigger
        self._wait = wait
        self._hook = hook
        self._results = results
        # Epoch seconds by a clock that nobody sets.
        self._clock_offset = time.time() - time.monotonic()
        jobs = trigger.jobs()
        self._submitted_at = {job.transcription_id: job.submitted_at for job in jobs}
        account = hook.settings.account
        self._known = _KNOWN.setdefault((account.base_url, account.client_id), _Known())
        looked_at, wait.troubles = self._known.looked_at, self._known.troubles
        from plaud_provider.handover.known_times import KnownTimes
        from plaud_provider.handover.marks import LOOK_SECONDS, mark_name, watch_marks

        self._known_times = KnownTimes(account)
        webhooks = hook.settings.webhooks
        self._look_seconds = LOOK_SECONDS
        self._watch = None if webhooks is None else watch_marks(webhooks.path)
        region = account.region.value
        self._marked = {} if webhooks is None else {mark_name(region, one): one for one in wait.pending}
        self._schedule = Schedule(
            [job._replace(looked_at=looked_at.pop(job.transcription_id, job.looked_at)) for job in jobs],
            interval=trigger.poke_interval,
            now=self._now(),
            times=self._known.times,
            is_called=webhooks is not None,
        )
        self._spare = 0.0
        self._spare_until = 0.0
        self._same_secrets_until = 0.0
        self._under_way: set[asyncio.Task[None]] = set()

    async def until_final(self) -> WaitResult:
        """Look until the wait has a result, or something to land."""
        if not self._known.times:
            self._known.times.learn(await asyncio.to_thread(self._known_times.load))
        try:
            while (result := self._wait.result(now=time.time())) is None:
                if news := self._wait.news(now=time.time(), interval=self._trigger.poke_interval):
                    self._trigger.log.info("%s.", news)
                await self._take_calls()
                ends_at = self._wait.next_result_at()
                await self._pause(ends_at=ends_at, next_look_at=await self._start_due_looks())
            if result.outcome == "partial":
                # A look that is cut short would have to be made again.
                if self._under_way:
                    await self._let_looks_end(LAST_LOOKS_SECONDS)
                result = self._wait.result(now=time.time()) or result
                # For the trigger that goes on when what is final has landed.
                self._known.looked_at |= {
                    job.transcription_id: job.looked_at
                    for job in self._schedule.waiting()
                    if job.looked_at is not None
                }
            else:
                for transcription_id in result.pending:
                    self._wait.troubles.by_id.pop(transcription_id, None)
            return result
        finally:
            for under_way in self._under_way:
                under_way.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)
            # Not at each look: of a thousand that is a thousand files.
            if times := self._known.times.news():
                await asyncio.to_thread(self._known_times.add, times)

    def _now(self) -> float:
        return time.monotonic() + self._clock_offset

    async def _take_calls(self) -> None:
        """Have what Plaud has called about looked at."""
        if self._watch is None:
            return
        await self._watch.look(now=time.time())
        for mark in self._marked.keys() & self._watch.seen:
            self._schedule.call(self._marked.pop(mark), now=self._now())

    async def _start_due_looks(self) -> float | None:
        """Return when the next look is due; ``None`` if one of those under way has to come back first."""
        while len(self._under_way) < MAX_CONCURRENT_LOOKS:
            now = self._now()
            next_at = self._schedule.next_at()
            if next_at is None or next_at > now:
                return next_at
            if now >= self._spare_until and self._schedule.needs_spare:
                self._spare, self._spare_until = await self._hook.spare_requests(), now + SPARE_SECONDS
            due = self._schedule.take(now=now, spare=self._spare)
            if due is None:
                return self._schedule.next_at()
            self._under_way.add(asyncio.create_task(self._look(due)))
        return None

    async def _pause(self, *, ends_at: float, next_look_at: float | None) -> None:
        """Wait until a look has come back, one is due, a line of progress is, or an end has come."""
        pause = max(0.0, min(ends_at - time.time(), PROGRESS_SECONDS))
        if self._watch is not None:
            pause = min(pause, self._look_seconds)
        if next_look_at is not None:
            pause = min(pause, max(0.0, next_look_at - self._now()))
        if not self._under_way:
            await asyncio.sleep(pause)
            return
        await self._let_looks_end(pause, asyncio.FIRST_COMPLETED)

    async def _let_looks_end(self, seconds: float, which: str = asyncio.ALL_COMPLETED) -> None:
        finished, self._under_way = await asyncio.wait(self._under_way, timeout=seconds, return_when=which)
        # Of several that failed all are asked for: asyncio complains of an error that nobody has seen.
        for error in [one.exception() for one in finished]:
            if error is not None:
                raise error

    async def _look(self, transcription_id: str) -> None:
        seen: Transcription | PlaudError
        try:
            seen = await self._ask(transcription_id)
        except PlaudError as error:
            seen = error
            if isinstance(error, (PlaudAuthenticationError, PlaudTokenRejectedError)):
                await self._take_new_secrets()
        after_look(
            transcription_id,
            seen,
            self._wait,
            self._schedule,
            now=self._now(),
            submitted_at=self._submitted_at.get(transcription_id),
            log=self._trigger.log,
        )

    async def _take_new_secrets(self) -> None:
        """Read the connection again, which may have new secrets: poke and reschedule mode do so each time."""
        if (now := self._now()) >= self._same_secrets_until:
            self._same_secrets_until = now + SECRETS_SECONDS
            await self._hook.take_new_secrets()

    async def _ask(self, transcription_id: str) -> Transcription:
        """Return what is kept, else ask Plaud and keep a final answer, before it counts as final."""
        if self._results is None:
            return await self._hook.get_transcription(transcription_id)
        region = self._hook.settings.account.region.value
        # Another run may wait for the same transcription, or a triggerer that died may have seen it.
        kept = await asyncio.to_thread(self._results.load, region, transcription_id)
        if kept is not None:
            return kept
        transcription = await self._hook.get_transcription(transcription_id)
        if transcription.is_final:
            await asyncio.to_thread(self._results.save, transcription, region)
        return transcription
