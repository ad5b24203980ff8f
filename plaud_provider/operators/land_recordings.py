"""Wait for the recordings of a chunk, land them as they finish, and say what has become of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowTaskTimeout

from plaud_provider import metrics
from plaud_provider.api.arguments import validate_boolean, validate_number
from plaud_provider.api.waiting import BACKSTOP, NOT_FOUND_REASON, WaitResult
from plaud_provider.exceptions import PlaudArchiveError, error_class
from plaud_provider.handover.wait_record import WaitRecord
from plaud_provider.lineage.moved import Moved, folders_of, some_ids, tell_outlets
from plaud_provider.operators.chunk import (
    COUNTS_KEY,
    ENDS,
    PROBLEMS_KEY,
    SHOWN,
    ChunkOperator,
    examples,
    in_words,
    remedies,
    shown,
)
from plaud_provider.transfers.metadata import describer_of
from plaud_provider.triggers.transcription import WORKER_SECONDS, TranscriptionTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.handover.kept_results import ResultStore
    from plaud_provider.hooks.connection import PlaudConnection
    from plaud_provider.ledger.entry import Entry
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.transfers.landing import Tally
    from plaud_provider.warehouse.writer import WarehouseWriter

#: Task state with how many rows a wait has written, stretch by stretch.
ROWS_KEY = "plaud_rows"
#: For how long what other runs have left at Plaud is waited for at most: the next run comes back to it.
LEFT_OVER_SECONDS = 3600.0
#: After how many seconds what has finished is landed: each time, a task is started for it.
PARTIAL_SECONDS = 300.0
#: Who asks for so many does not want it at once where Plaud calls.
LATE_SECONDS = 60.0


class LandRecordingsOperator(ChunkOperator):
    """
    Wait for the transcriptions of a chunk in the triggerer, and land them as they finish.

    It asks the ledger what there is to wait for, whoever submitted it, and the target's tables what is there
    already: a transcript that has landed elsewhere lands here as well, as long as Plaud keeps it. The call
    that sees a transcription finished already carries it: the trigger keeps that answer at ``results_path``,
    and this task comes back for a moment to land what is there, then waits on. Each recording costs one
    result call and no worker.

    It runs whatever became of the submit (``trigger_rule="all_done"``). A recording that failed is data: a
    row of the ledger with its reason, and counted. The task fails if recordings are neither landed nor known
    to be bad. What other runs have left at Plaud is waited for an hour at most, and fails nothing.

    **A retry** goes on with the same deadline and lands first what was kept; **a clear** begins a new one.
    What is not final at the deadline stays ``processing`` in the ledger: the next run takes it up.

    Each Asset in ``outlets`` gets the chunk's counts as ``extra`` of its event.

    :param manifest: As for all tasks of a chunk.
    :param ledger_conn_id: Likewise.
    :param plaud_conn_id: Likewise.
    :param region: Likewise.
    :param sql_conn_id: Likewise.
    :param schema: Likewise.
    :param transcripts_table: Likewise.
    :param segments_table: Likewise.
    :param lake_path: Likewise.
    :param lake_format: Likewise.
    :param lake_catalog_conn_id: Likewise.
    :param results_path: Folder in which the trigger keeps final answers until they are landed (templated), as
        an ``ObjectStoragePath`` that workers and triggerers share: ``s3://conn@bucket/folder`` or a path.
        They are whole transcripts: keep the folder private.
    :param keep_raw: Whether kept answers stay after they are landed (templated).
    :param timeout: Seconds or timedelta from the first look of this run to the deadline; default 24 hours.
        ``execution_timeout`` also ends the wait, and the task is retried.
    :param poke_interval: Seconds or timedelta between two looks at the same transcription; default 30
        seconds.
    :param partial_count: How many finished transcriptions are landed without waiting for more.
    :param partial_seconds: After how many seconds what has finished is landed, however little it is; by
        default 300. Where Plaud calls Airflow's webhook it is landed at once, unless this is 60 or more, or
        it is for a lake.
    :param plan_only: Whether nothing was to be submitted, and so nothing is waited for (templated).
    :return: Counts of recordings: ``total``, ``landed``, ``failed``, ``unknown``, ``expired``,
        ``processing``, ``not_submitted``; empty if nothing was to be submitted.
    :raises PlaudArchiveError: if recordings are neither landed nor known to be bad.
    :raises PlaudWarehouseError: if the warehouse or the ledger is away or refuses; a retry lands what was
        kept.
    :raises PlaudError: its other classes, if waiting on is useless.
    """

    template_fields: Sequence[str] = (*ChunkOperator.template_fields, "results_path", "keep_raw", "plan_only")
    ui_color = "#fef7e0"
    #: What this process has written, where Airflow keeps no notes for the next one.
    _written: Mapping[str, Any] = {}

    def __init__(
        self,
        *,
        results_path: str,
        keep_raw: bool | str = False,
        timeout: timedelta | float = timedelta(hours=24),
        poke_interval: timedelta | float = 30.0,
        partial_count: int = 1_000,
        partial_seconds: float | None = None,
        plan_only: bool | str = False,
        trigger_rule: str = "all_done",
        **kwargs: Any,
    ) -> None:
        super().__init__(trigger_rule=trigger_rule, **kwargs)
        self.results_path = results_path
        self.keep_raw = keep_raw
        self.plan_only = plan_only
        self.timeout = _seconds("timeout", timeout)
        self.poke_interval = _seconds("poke_interval", poke_interval)
        self.partial_count = partial_count
        self.partial_seconds = partial_seconds

    def execute(self, context: Context) -> dict[str, int]:
        """Land what an earlier attempt left, and wait for the rest."""
        if validate_boolean("plan_only", self.plan_only):
            return {}
        wait = WaitRecord(context, [self.manifest], timeout=self.timeout).open(now=time.time())
        plaud = self._plaud()
        with self._ledger() as ledger:
            chunk = self._chunk(ledger, plaud)
            if context["ti"].try_number > 1:
                self._land_kept(chunk, context)
            end_time = wait.started_at + self._timeout(chunk)
            if self.execution_timeout is not None:
                # Airflow does not apply it to deferred tasks.
                end_time = min(end_time, time.time() + self.execution_timeout.total_seconds())
            ledger.waiting(
                list(chunk.waiting),
                datetime.fromtimestamp(end_time, tz=UTC) + BACKSTOP,
                region=plaud.region,
            )
            return self._go_on(chunk, context, wait.started_at, end_time)

    def resume(
        self,
        context: Context,
        event: Any = None,
        started_at: float = 0.0,
        end_time: float | None = None,
    ) -> dict[str, int]:
        """
        Take the trigger's event: land what has finished, and go on.

        :param event: What :class:`~plaud_provider.triggers.transcription.TranscriptionTrigger` yielded.
        :param started_at: Epoch seconds of the first look of this run.
        :param end_time: Epoch seconds at which the wait ends.
        """
        result = WaitResult.from_event(event)
        plaud = self._plaud()
        with self._ledger() as ledger:
            chunk = self._chunk(ledger, plaud)
            self._note_given_up(result, chunk)
            not_final = set(result.pending)
            self._land(chunk, [known for known in chunk.waiting if known not in not_final], context)
            if result.outcome == "error":
                raise error_class(result.error)(result.message)
            end_time = started_at + self._timeout(chunk) if end_time is None else end_time
            if result.outcome == "partial":
                self._land_called(chunk, context, end_time)
            return self._go_on(chunk, context, started_at, end_time)

    @staticmethod
    def _note_given_up(result: WaitResult, chunk: _Chunk) -> None:
        """Tell the ledger what cannot be had; not of what another run has landed here meanwhile."""
        waiting, region = chunk.waiting, chunk.plaud.region
        expired, failed = {}, {}
        for known, why in {**result.given_up, **dict.fromkeys(result.missing, NOT_FOUND_REASON)}.items():
            entry = waiting.get(known)
            if entry is None:
                continue
            if entry.state == "landed":
                place = entry.target or "other tables"
                expired[known] = f"{why.rstrip('.')}. It landed in {place}, and is not in these."
            elif known in result.missing:
                expired[known] = why
            else:
                # It keeps its id: what lands later is noted as landed.
                failed[known] = why
        if expired or failed:
            chunk.ledger.expired(expired, region=region)
            chunk.ledger.failed(failed, region=region)
            chunk.look()

    def _chunk(self, ledger: Ledger, plaud: PlaudConnection) -> _Chunk:
        from plaud_provider.handover.manifest import read_manifest

        listed = {shown(found.uri) for found in read_manifest(self.manifest)}
        keys = self._keys()
        if listed:
            # What another listing had in this chunk does not count, should its keys still lie there.
            keyed = {key: uri for key, uri in keys.items() if uri in listed}
            # One that has no key yet, as its submit failed, is there under its reference.
            keys = {**keyed, **{uri: uri for uri in listed - set(keyed.values())}}
        return _Chunk(keys, ledger, self._writer(ledger), plaud, is_left_over=not listed)

    def _timeout(self, chunk: _Chunk) -> float:
        return min(self.timeout, LEFT_OVER_SECONDS) if chunk.is_left_over else self.timeout

    def _land(self, chunk: _Chunk, transcription_ids: Collection[str], context: Context) -> None:
        from plaud_provider.transfers.landing import Lander

        if not transcription_ids:
            return
        ti = context["ti"]
        lander = Lander(
            chunk.writer,
            chunk.plaud,
            results=self._results(),
            ledger=chunk.ledger,
            describer=describer_of(self),
            keep_raw=validate_boolean("keep_raw", self.keep_raw),
            dag_id=ti.dag_id,
            run_id=ti.run_id,
        )
        waiting = chunk.waiting
        tally = lander.land({known: waiting[known].audio_uri for known in transcription_ids})
        self._note_rows(context, tally)
        chunk.look()

    @staticmethod
    def _cycle(context: Context) -> int:
        """Return what is another one after each clear: Airflow raises it by the task's retries."""
        return int(getattr(context["ti"], "max_tries", 0) or 0)

    def _rows(self, context: Context) -> dict[str, int]:
        """Return how many rows the task has written since it was cleared last."""
        store: Any = context.get("task_state_store")
        noted = self._written if store is None else store.get(ROWS_KEY) or {}
        is_ours = noted.get("cycle") == self._cycle(context)
        return {name: noted[name] if is_ours else 0 for name in ("transcripts", "segments")}

    def _note_rows(self, context: Context, tally: Tally) -> None:
        rows = self._rows(context)
        self._written = {
            "cycle": self._cycle(context),
            "transcripts": rows["transcripts"] + tally.transcripts,
            "segments": rows["segments"] + tally.segments,
        }
        if (store := context.get("task_state_store")) is not None:
            store.set(ROWS_KEY, dict(self._written), retention=timedelta(seconds=self.timeout + 7 * 86400))

    def _land_kept(self, chunk: _Chunk, context: Context) -> None:
        """Land what is kept, by an earlier attempt or by another run."""
        self._land(chunk, self._results().kept(chunk.plaud.region, chunk.waiting), context)

    def _land_called(self, chunk: _Chunk, context: Context, end_time: float) -> None:
        """Land what Plaud calls about meanwhile: to end and to begin again takes seconds."""
        if (path := self._calls_path(chunk)) is None:
            return
        from plaud_provider.transfers.called import called_meanwhile

        for final in called_meanwhile(
            chunk.plaud, path, self._results(), lambda: chunk.waiting, until=end_time
        ):
            self._land(chunk, final, context)

    def _calls_path(self, chunk: _Chunk) -> str | None:
        """Return where Plaud's calls leave their marks, if what it calls about is to be landed at once."""
        webhooks = chunk.plaud.settings.webhooks
        is_late_enough = self.partial_seconds is not None and self.partial_seconds >= LATE_SECONDS
        # In a lake each landing is a version of it.
        is_at_once = not is_late_enough and not self.lake_path
        return webhooks.path if webhooks is not None and is_at_once else None

    def _results(self) -> ResultStore:
        from plaud_provider.handover.kept_results import ResultStore

        return ResultStore(self.results_path)

    def _go_on(self, chunk: _Chunk, context: Context, started_at: float, end_time: float) -> dict[str, int]:
        at_plaud, oldest = chunk.ledger.queue()
        metrics.level(metrics.WAITING, at_plaud)
        metrics.level(metrics.OLDEST, oldest)
        if chunk.waiting and time.time() < end_time:
            self._defer(chunk, started_at, end_time)
        if chunk.waiting:
            self._land_kept(chunk, context)
        if chunk.waiting and end_time < started_at + self._timeout(chunk):
            raise AirflowTaskTimeout(
                f"execution_timeout has passed, and {len(chunk.waiting)} transcription(s) are not final. "
                "They go on at Plaud; a retry waits for them again, nothing is paid twice."
            )
        return self._concluded(chunk, context)

    def _concluded(self, chunk: _Chunk, context: Context) -> dict[str, int]:
        if chunk.purged:
            # A trigger may have kept what was purged while it waited.
            ids = [entry.transcription_id for entry in chunk.purged if entry.transcription_id]
            self._results().remove_landed(chunk.plaud.region, ids, keep_raw=False)
        counts = chunk.counts()
        context["ti"].xcom_push(key=COUNTS_KEY, value=counts)
        rows = self._rows(context)
        self._moved = chunk.moved(counts)._replace(
            target=self._tables(), transcripts=rows["transcripts"], segments=rows["segments"]
        )
        tell_outlets(self.outlets, context, counts)
        problems = chunk.problems()
        context["ti"].xcom_push(key=PROBLEMS_KEY, value=problems[:SHOWN])
        self.log.info("%s.", in_words(counts))
        left = counts["processing"] + counts["not_submitted"]
        if left and not chunk.is_left_over:
            raise PlaudArchiveError(
                f"{left} recordings are neither landed nor known to be bad ({in_words(counts)}). "
                f"{remedies(counts)}{examples(problems)}"
            )
        return counts

    def _defer(self, chunk: _Chunk, started_at: float, end_time: float) -> NoReturn:
        partial_seconds = PARTIAL_SECONDS if self.partial_seconds is None else self.partial_seconds
        if self._calls_path(chunk):
            # No event can come sooner.
            partial_seconds = WORKER_SECONDS
        in_order = sorted(chunk.waiting.items(), key=lambda item: _epoch(item[1].submitted_at) or started_at)
        entries = [entry for _, entry in in_order]
        self.log.info("Handing the wait for %d transcription(s) to the triggerer.", len(in_order))
        self.defer(
            trigger=TranscriptionTrigger(
                transcription_ids=[transcription_id for transcription_id, _ in in_order],
                plaud_conn_id=self.plaud_conn_id,
                region=self.region,
                poke_interval=self.poke_interval,
                started_at=started_at,
                end_time=end_time,
                results_path=self.results_path,
                partial_count=self.partial_count,
                partial_seconds=partial_seconds,
                submitted_at=[_epoch(entry.submitted_at) for entry in entries],
                accepted_at=[_epoch(entry.accepted_at) for entry in entries],
                audio_seconds=[entry.duration_seconds for entry in entries],
            ),
            method_name="resume",
            kwargs={"started_at": started_at, "end_time": end_time},
            timeout=timedelta(seconds=max(0.0, end_time - time.time())) + BACKSTOP,
        )


class _Chunk:
    """
    What has become of the recordings of a chunk.

    :param recordings: Their keys.
    :param ledger: The ledger.
    :param writer: Where they are to be landed.
    :param plaud: Connection of their client.
    :param is_left_over: Whether it is of what other runs have left at Plaud.
    """

    def __init__(
        self,
        recordings: Collection[str],
        ledger: Ledger,
        writer: WarehouseWriter,
        plaud: PlaudConnection,
        *,
        is_left_over: bool,
    ) -> None:
        self.is_left_over = is_left_over
        self.ledger = ledger
        self.writer = writer
        self.plaud = plaud
        self._recordings = recordings
        self.look()

    def look(self) -> None:
        """Ask ledger and target anew."""
        entries = self.ledger.entries(self._recordings)
        #: What is purged is no part of any run.
        self.purged = [entry for entry in entries.values() if entry.purged_at is not None]
        self._entries = {key: entry for key, entry in entries.items() if entry.purged_at is None}
        ids = [entry.transcription_id for entry in self._entries.values() if entry.transcription_id]
        self._landed = self.writer.landed(ids)

    @property
    def waiting(self) -> dict[str, Entry]:
        """Rows of what is at Plaud and not landed here yet, by transcription id."""
        from plaud_provider.ledger.entry import State

        return {
            entry.transcription_id: entry
            for entry in self._entries.values()
            if entry.state in (State.PROCESSING, State.LANDED)
            and entry.transcription_id
            and entry.transcription_id not in self._landed
            and entry.region == self.plaud.region
        }

    def counts(self) -> dict[str, int]:
        """Return how many came to which end."""
        from plaud_provider.ledger.entry import State

        ends = Counter(
            State.LANDED
            if entry.transcription_id in self._landed
            # Elsewhere.
            else State.PROCESSING
            if entry.state is State.LANDED
            else entry.state
            for entry in self._entries.values()
        )
        counts = {end: ends[State(end)] for end in ENDS if end != "not_submitted"}
        total = len(self._recordings) - len(self.purged)
        return {"total": total, **counts, "not_submitted": total - sum(counts.values())}

    def moved(self, counts: Mapping[str, float]) -> Moved:
        """Return where what is landed came from."""
        landed = [entry for entry in self._entries.values() if entry.transcription_id in self._landed]
        return Moved(
            folders_of(entry.audio_uri for entry in landed),
            counts,
            some_ids([str(entry.transcription_id) for entry in landed]),
            sum(entry.duration_seconds or 0.0 for entry in landed),
        )

    def problems(self) -> list[str]:
        """Return why recordings did not land."""
        return sorted(
            entry.problem
            for entry in self._entries.values()
            if entry.error and entry.transcription_id not in self._landed
        )


def _epoch(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment else None


def _seconds(name: str, value: timedelta | float) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return validate_number(name, value, minimum=0)
