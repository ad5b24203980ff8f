"""Wait until Plaud has finished."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from plaud_provider.api.arguments import TextArguments, validate_transcription_ids
from plaud_provider.api.retry import ONE_LOOK
from plaud_provider.api.schedule import Job, ProcessingTimes, Schedule
from plaud_provider.api.waiting import BACKSTOP, SUBMITTED_AT_KEY, Wait, WaitResult, after_look
from plaud_provider.exceptions import (
    PlaudError,
    PlaudInputError,
    PlaudTranscriptionFailedError,
    PlaudTriggerEventError,
    PlaudWaitTimeoutError,
    error_class,
)
from plaud_provider.handover.wait_record import WaitRecord
from plaud_provider.recordings.mapping import HarmlessLabel
from plaud_provider.triggers.transcription import TranscriptionTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.api.models import Transcription
    from plaud_provider.handover.kept_results import ResultStore
    from plaud_provider.hooks.plaud_async import PlaudAsyncHook

#: What to do when Plaud reports transcriptions as failed.
OnFailed = Literal["fail", "skip", "continue"]

SHOWN_FAILURES = 5
#: For how long Plaud is asked for the reasons of failures, for the message.
REASONS_SECONDS = 15.0
#: Seconds between two reschedules; the rest before a deadline that is nearer is waited out on the worker.
SHORTEST_RESCHEDULE = 5.0
#: A single recording is waited for on the worker for so many seconds after its submit: it is looked at every
#: five seconds, and a reschedule, which is a new process, would take half as long again.
SECONDS_ON_WORKER = 60.0


class TranscriptionSensor(TextArguments, HarmlessLabel, BaseSensorOperator):
    """
    Wait until Plaud has finished one or many transcriptions.

    By default the wait is handed to the triggerer and holds no worker; ``deferrable=False`` polls on a worker
    (``mode="poke"``) or between reschedules (``mode="reschedule"``), with the same results. Nothing is
    billed: each look costs one API call of the quota. For many transcriptions the triggerer is the better
    place: it keeps in mind what is final.

    A look that fails for a reason that may pass (network, 5xx, 429) never ends the wait. A retry goes on with
    the same deadline; a clear begins a new one.

    .. seealso:: https://docs.plaud.ai (transcription API)

    :param transcription_id: An id or a list of ids (templated), such as ``submit.output`` of a mapped task.
    :param plaud_conn_id: Connection of type ``plaud`` (templated).
    :param region: What you take the connection's region to be (templated); checked before any request.
    :param deferrable: Whether the wait is handed to the triggerer.
    :param on_failed: When Plaud reports transcriptions as failed: ``fail`` the task without retries (the
        message has Plaud's reasons), ``skip`` it, or ``continue``, which leaves it to the loader to store the
        failures as rows.
    :param timeout: Seconds or timedelta from the first look of this run until the wait ends with an
        ``AirflowSensorTimeout``, which is never retried; default 24 hours. ``execution_timeout`` also ends a
        deferred wait, and may be retried.
    :param poke_interval: Seconds or timedelta between two looks at the same transcription; default 30
        seconds.
    :param results_path: Folder in which final answers are kept for a loader with the same ``results_path``
        (templated), as an ``ObjectStoragePath`` that workers and triggerers share: ``s3://conn@bucket/folder``
        or a path. The loader then asks Plaud for nothing, and removes them once they are landed. They are
        whole transcripts: keep the folder private.
    :return: ``{"version": 1, "total": n, "completed": n, "failed": n, "failed_ids": [...]}``
    :raises PlaudTranscriptionFailedError: for failed transcriptions, with ``on_failed="fail"``.
    :raises PlaudWaitTimeoutError: at the deadline.
    :raises PlaudError: its other classes, if waiting on is useless (credentials refused, connection wrong).
    """

    template_fields: Sequence[str] = ("transcription_id", "plaud_conn_id", "region", "results_path")
    ui_color = "#e6f4ea"

    _wait: Wait
    _record: WaitRecord
    _schedule: Schedule
    _times: ProcessingTimes
    _submitted_at: Mapping[str, float]

    def __init__(
        self,
        *,
        transcription_id: str | Sequence[str],
        plaud_conn_id: str = "plaud_default",
        region: str | None = None,
        deferrable: bool = True,
        on_failed: OnFailed = "fail",
        timeout: timedelta | float = timedelta(hours=24),
        poke_interval: timedelta | float = 30,
        results_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(timeout=timeout, poke_interval=poke_interval, **kwargs)
        if on_failed not in ("fail", "skip", "continue"):
            raise PlaudInputError(f"on_failed: {on_failed!r} is not 'fail', 'skip' or 'continue'.")
        self.transcription_id = transcription_id
        self.plaud_conn_id = plaud_conn_id
        self.region = region
        self.deferrable = deferrable
        self.on_failed = on_failed
        self.results_path = results_path

    def execute(self, context: Context) -> Any:
        """Look, and wait for what is not final yet."""
        ids = validate_transcription_ids(self.transcription_id)
        if not ids:
            self.log.info("There is nothing to wait for: transcription_id is an empty list.")
            return _summary(WaitResult("done", total=0, completed=0))
        self._record = WaitRecord(context, ids, timeout=self.timeout)
        self._wait = self._record.open(now=time.time())
        self._submitted_at = self._told_by_submits(context)
        self._times = ProcessingTimes()
        self._schedule = Schedule(
            [self._job(transcription_id) for transcription_id in self._wait.pending],
            interval=self.poke_interval,
            now=time.time(),
            times=self._times,
        )
        if not self.deferrable:
            return super().execute(context)
        with self._soft_failures():
            if len(ids) == 1:
                # It may be done already: then there is nothing to hand to the triggerer.
                self._make_due_looks()
            result = self._wait.result(now=time.time())
            if result is not None:
                return self._conclude(result)
        return self._defer(self._wait)

    def poke(self, context: Context) -> PokeReturnValue:
        """Look at what may be done; Airflow calls this in the modes poke and reschedule."""
        self._make_due_looks()
        self.log.info("%s.", self._wait.progress(now=time.time()))
        if self.reschedule:
            self._record.save(
                self._wait,
                {job.transcription_id: job.looked_at for job in self._schedule.waiting() if job.looked_at},
            )
        result = self._wait.result(now=time.time())
        if result is None:
            pause = self._pause_on_worker(now=time.time()) if self.reschedule else None
            if pause is None:
                return PokeReturnValue(is_done=False)
            time.sleep(pause)
            return self.poke(context)
        return PokeReturnValue(is_done=True, xcom_value=self._conclude(result))

    def _pause_on_worker(self, *, now: float) -> float | None:
        """Return how long to wait for what a reschedule would come too late for, if there is any."""
        left = max(0.0, self._wait.deadline - now)
        # Airflow may fail a task that comes back before its last event is read (apache/airflow#71172).
        if left <= SHORTEST_RESCHEDULE:
            return left
        next_at, (first, *others) = self._schedule.next_at(), self._schedule.waiting()
        if others or next_at is None or first.submitted_at is None:
            return None
        is_soon = next_at < first.submitted_at + SECONDS_ON_WORKER
        return max(0.0, min(next_at - now, left)) if is_soon else None

    def execute_complete(self, context: Context, event: Any = None, deadline: float = 0.0) -> dict[str, Any]:
        """
        Take the trigger's event.

        :param event: What :class:`~plaud_provider.triggers.transcription.TranscriptionTrigger` yielded.
        :param deadline: Epoch seconds at which the sensor's ``timeout`` ends the wait.
        """
        with self._soft_failures():
            result = WaitResult.from_event(event)
            if result.outcome == "partial":
                raise PlaudTriggerEventError("The sensor resumed with the event of another kind of wait.")
            if result.outcome == "timeout" and time.time() < deadline:
                raise AirflowTaskTimeout(f"execution_timeout has passed. {result.message}")
            return self._conclude(result)

    def _defer(self, wait: Wait) -> NoReturn:
        now = time.time()
        waiting = self._schedule.waiting()
        end_time = wait.deadline
        if self.execution_timeout is not None:
            # Airflow does not apply it to deferred tasks.
            end_time = min(end_time, now + self.execution_timeout.total_seconds())
        self.log.info("Handing the wait for %d transcription(s) to the triggerer.", len(wait.pending))
        self.defer(
            trigger=TranscriptionTrigger(
                transcription_ids=list(wait.pending),
                plaud_conn_id=self.plaud_conn_id,
                region=self.region,
                results_path=self.results_path,
                poke_interval=self.poke_interval,
                started_at=wait.started_at,
                end_time=end_time,
                submitted_at=[job.submitted_at for job in waiting],
                # Of several none has been looked at.
                looked_at=waiting[0].looked_at,
            ),
            method_name="execute_complete",
            kwargs={"deadline": wait.deadline},
            timeout=timedelta(seconds=max(0.0, end_time - now)) + BACKSTOP,
        )

    def _told_by_submits(self, context: Context) -> dict[str, float]:
        """Return when what is waited for was submitted, as far as the tasks before this one tell."""
        found: dict[str, float] = {}
        upstream = sorted(self.upstream_task_ids)
        for told in context["ti"].xcom_pull(task_ids=upstream, key=SUBMITTED_AT_KEY) if upstream else ():
            found |= told or {}
        return found

    def _job(self, transcription_id: str) -> Job:
        return Job(
            transcription_id,
            submitted_at=self._submitted_at.get(transcription_id),
            looked_at=self._record.looked_at.get(transcription_id),
        )

    def _make_due_looks(self) -> None:
        if self._is_look_due():
            self._ask(self._look_while_due, seconds=self._wait.deadline - time.time())

    async def _look_while_due(self, hook: PlaudAsyncHook) -> None:
        from plaud_provider.handover.known_times import KnownTimes

        # Only now: as long as nothing is known looks are due sooner than ever.
        known_times = KnownTimes(hook.settings.account)
        self._times.learn(known_times.load())
        try:
            await self._look_at_what_is_due(hook)
        finally:
            known_times.add(self._times.news())

    async def _look_at_what_is_due(self, hook: PlaudAsyncHook) -> None:
        while self._is_look_due():
            spare = await hook.spare_requests() if self._schedule.needs_spare else 0.0
            transcription_id = self._schedule.take(now=time.time(), spare=spare)
            if transcription_id is None:
                return
            seen: Transcription | PlaudError
            try:
                seen = await hook.get_transcription(transcription_id)
                if self._results is not None and seen.is_final:
                    self._results.save(seen, hook.settings.account.region.value)
            except PlaudError as error:
                seen = error
            after_look(
                transcription_id,
                seen,
                self._wait,
                self._schedule,
                now=time.time(),
                submitted_at=self._submitted_at.get(transcription_id),
                log=self.log,
            )

    def _ask(self, work: Callable[[PlaudAsyncHook], Awaitable[None]], *, seconds: float) -> None:
        """
        Ask Plaud, for so many seconds at most.

        The asynchronous hook can be stopped wherever it waits: for its turn, for a token, for an answer.
        """
        from plaud_provider.hooks.connection import PlaudConnection
        from plaud_provider.hooks.plaud_async import PlaudAsyncHook

        settings = PlaudConnection(self.plaud_conn_id, self.region).settings

        async def ask() -> None:
            hook = PlaudAsyncHook(self.plaud_conn_id, settings=settings, retry_policy=ONE_LOOK)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds), hook:
                    await work(hook)

        asyncio.run(ask())

    def _is_look_due(self) -> bool:
        now, next_at = time.time(), self._schedule.next_at()
        return next_at is not None and next_at <= now < self._wait.deadline

    def _conclude(self, result: WaitResult) -> dict[str, Any]:
        """Return the task's result, or raise what the end of the wait means."""
        if result.outcome == "timeout":
            raise PlaudWaitTimeoutError(result.message)
        if result.outcome == "error":
            raise error_class(result.error)(result.message)
        self.log.info(
            "Final: %d of %d completed, %d failed.", result.completed, result.total, len(result.failed)
        )
        if result.failed:
            message = self._failure_message(result)
            if self.on_failed == "fail":
                raise PlaudTranscriptionFailedError(message)
            if self.on_failed == "skip":
                raise AirflowSkipException(message)
            self.log.warning("%s", message)
        return _summary(result)

    def _failure_message(self, result: WaitResult) -> str:
        """Say what failed and why; events do not carry Plaud's reasons, so the first few are asked for."""
        shown = dict(list(result.failed.items())[:SHOWN_FAILURES])

        async def ask(hook: PlaudAsyncHook) -> None:
            for transcription_id, reason in shown.items():
                if reason is None:
                    try:
                        shown[transcription_id] = (await hook.get_transcription(transcription_id)).error
                    except PlaudError as error:
                        shown[transcription_id] = f"reason not available: {error}"

        if None in shown.values():
            self._ask(ask, seconds=REASONS_SECONDS)
        reasons = "; ".join(f"{transcription_id}: {reason}" for transcription_id, reason in shown.items())
        more = len(result.failed) - len(shown)
        return (
            f"Plaud reports {len(result.failed)} of {result.total} transcription(s) as failed: {reasons}"
            f"{f'; and {more} more' if more else ''}. Submitting them again is billed again; with "
            "on_failed='continue' the loader stores them as rows with their errors."
        )

    @contextmanager
    def _soft_failures(self) -> Iterator[None]:
        """Do for a deferred wait what Airflow's sensor does around a poke."""
        try:
            yield
        except (AirflowSkipException, TaskDeferred):
            raise
        except (AirflowSensorTimeout, AirflowTaskTimeout, AirflowFailException) as failure:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(
                    f"Skipped, as soft_fail or never_fail says. {failure}"
                ) from failure
            raise
        except Exception as failure:
            if self.never_fail:
                raise AirflowSkipException(f"Skipped, as never_fail says. {failure}") from failure
            raise

    def _get_next_poke_interval(
        self, started_at: datetime | float, run_duration: Callable[[], float], poke_count: int
    ) -> float:
        """Come back for the next look, or for the deadline."""
        next_at = self._schedule.next_at()
        pause = self.poke_interval if next_at is None else next_at - time.time()
        if self.reschedule:
            # Each look is a process: those that are due soon are made together.
            pause = max(pause, min(self.poke_interval, SHORTEST_RESCHEDULE))
        return max(0.0, min(pause, self._wait.deadline - time.time()))

    @cached_property
    def _results(self) -> ResultStore | None:
        if self.results_path is None:
            return None
        from plaud_provider.handover.kept_results import ResultStore

        return ResultStore(self.results_path)


def _summary(result: WaitResult) -> dict[str, Any]:
    return {
        "version": 1,
        "total": result.total,
        "completed": result.completed,
        "failed": len(result.failed),
        "failed_ids": list(result.failed),
    }
