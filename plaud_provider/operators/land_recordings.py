"""Wait for the recordings of a chunk, and land them as they finish."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from plaud_provider.api.arguments import optional, validate_boolean, validate_number
from plaud_provider.api.waiting import BACKSTOP, NOT_FOUND_REASON, WaitResult
from plaud_provider.exceptions import error_class
from plaud_provider.handover.wait_record import WaitRecord
from plaud_provider.operators.chunk import ChunkOperator
from plaud_provider.triggers.transcription import TranscriptionTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.handover.kept_results import ResultStore
    from plaud_provider.hooks.connection import PlaudConnection
    from plaud_provider.ledger.entry import Entry
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.transfers.landing import Tally
    from plaud_provider.warehouse.writer import WarehouseWriter


#: The ledger's clock and this host's may differ by so much.
CLOCKS_APART_SECONDS = 600.0


class LandingOperator(ChunkOperator):
    """
    A task of a chunk that lands transcriptions.

    :param results_path: Folder in which the trigger keeps final answers until they are landed (templated), as
        an ``ObjectStoragePath`` that workers and triggerers share: ``s3://conn@bucket/folder`` or a path.
        They are whole transcripts: keep the folder private.
    :param schema: Schema of both tables (templated); ``None`` for the connection's own.
    :param transcripts_table: Table for transcriptions (templated).
    :param segments_table: Table for segments (templated).
    :param keep_raw: Whether kept answers stay after they are landed (templated).
    """

    template_fields: Sequence[str] = (
        *ChunkOperator.template_fields,
        "results_path",
        "schema",
        "transcripts_table",
        "segments_table",
        "keep_raw",
    )
    ui_color = "#fef7e0"

    def __init__(
        self,
        *,
        results_path: str,
        schema: str | None = None,
        transcripts_table: str = "plaud_transcripts",
        segments_table: str = "plaud_segments",
        keep_raw: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.results_path = results_path
        self.schema = schema
        self.transcripts_table = transcripts_table
        self.segments_table = segments_table
        self.keep_raw = keep_raw

    def _writer(self, ledger: Ledger) -> WarehouseWriter:
        from plaud_provider.warehouse.writer import open_warehouse

        return open_warehouse(
            self.sql_conn_id,
            optional(self.schema),
            self.transcripts_table,
            self.segments_table,
            ledger=ledger,
        )

    def _results(self) -> ResultStore:
        from plaud_provider.handover.kept_results import ResultStore

        return ResultStore(self.results_path)

    def _land(
        self, entries: Mapping[str, Entry], context: Context, plaud: PlaudConnection, ledger: Ledger
    ) -> Tally:
        """
        Land transcriptions that are final.

        :param entries: Their rows of the ledger by transcription id.
        """
        from plaud_provider.transfers.landing import Lander, Tally

        if not entries:
            return Tally()
        ti = context["ti"]
        lander = Lander(
            self._writer(ledger),
            plaud,
            results=self._results(),
            ledger=ledger,
            keep_raw=validate_boolean("keep_raw", self.keep_raw),
            dag_id=ti.dag_id,
            run_id=ti.run_id,
        )
        return lander.land({transcription_id: entry.audio_uri for transcription_id, entry in entries.items()})

    def _kept(self, waiting: Mapping[str, Entry]) -> dict[str, Entry]:
        """Return those whose final answer lies at ``results_path``."""
        results = self._results()
        return {
            transcription_id: entry
            for transcription_id, entry in waiting.items()
            if results.load(entry.region, transcription_id) is not None
        }


class LandRecordingsOperator(LandingOperator):
    """
    Wait for the transcriptions of a chunk in the triggerer, and land them as they finish.

    It asks the ledger what there is to wait for, whoever submitted it. The call that sees a transcription
    finished already carries it: the trigger keeps that answer at ``results_path``, and this task comes back
    for a moment to land what is there, then waits on. Each recording costs one result call and no worker.

    **A retry** goes on with the same deadline and lands first what was kept; **a clear** begins a new one.
    What is not final at the deadline stays ``processing`` in the ledger: a later run waits for it again.

    :param manifest: As for all tasks of a chunk.
    :param ledger_conn_id: Likewise.
    :param plaud_conn_id: Likewise.
    :param region: Likewise.
    :param results_path: As for all tasks that land.
    :param sql_conn_id: Likewise.
    :param schema: Likewise.
    :param transcripts_table: Likewise.
    :param segments_table: Likewise.
    :param keep_raw: Likewise.
    :param timeout: Seconds or timedelta from the first look of this run to the deadline; default 24 hours.
    :param poke_interval: Seconds or timedelta between two looks at the same transcription; default 30
        seconds.
    :param partial_count: How many finished transcriptions are landed without waiting for more.
    :param partial_seconds: After how many seconds what has finished is landed, however little it is.
    :param plan_only: Whether nothing was to be submitted, and so nothing is waited for (templated).
    :return: ``{"version": 1, "pending": n}``: how many were not final at the deadline.
    :raises PlaudWarehouseError: if the warehouse or the ledger is away or refuses; a retry lands what was
        kept.
    :raises PlaudError: its other classes, if waiting on is useless.
    """

    template_fields: Sequence[str] = (*LandingOperator.template_fields, "plan_only")

    def __init__(
        self,
        *,
        timeout: timedelta | float = timedelta(hours=24),
        poke_interval: timedelta | float = 30.0,
        partial_count: int = 200,
        partial_seconds: float = 300.0,
        plan_only: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.plan_only = plan_only
        self.timeout = _seconds("timeout", timeout)
        self.poke_interval = _seconds("poke_interval", poke_interval)
        self.partial_count = partial_count
        self.partial_seconds = partial_seconds

    def execute(self, context: Context) -> dict[str, Any]:
        """Land what an earlier attempt left, and wait for the rest."""
        keys = {} if validate_boolean("plan_only", self.plan_only) else self._keys()
        if not keys:
            return {"version": 1, "pending": 0}
        wait = WaitRecord(context, [self.manifest], timeout=self.timeout).open(now=time.time())
        plaud = self._plaud()
        with self._ledger() as ledger:
            waiting = waiting_of(ledger.entries(list(keys)), plaud)
            if context["ti"].try_number > 1:
                self._land(self._kept(waiting), context, plaud, ledger)
                waiting = waiting_of(ledger.entries(list(keys)), plaud)
            return self._go_on(waiting, wait.started_at)

    def resume(self, context: Context, event: Any = None, started_at: float = 0.0) -> dict[str, Any]:
        """
        Take the trigger's event: land what has finished, and go on.

        :param event: What :class:`~plaud_provider.triggers.transcription.TranscriptionTrigger` yielded.
        :param started_at: Epoch seconds of the first look of this run.
        """
        result = WaitResult.from_event(event)
        keys = self._keys()
        plaud = self._plaud()
        with self._ledger() as ledger:
            if result.missing:
                ledger.expired(dict.fromkeys(result.missing, NOT_FOUND_REASON), region=plaud.region)
            if result.given_up:
                # It keeps its id: what lands later is noted as landed.
                ledger.failed(result.given_up, region=plaud.region)
            not_final = set(result.pending)
            final = {
                transcription_id: entry
                for transcription_id, entry in waiting_of(ledger.entries(list(keys)), plaud).items()
                if transcription_id not in not_final
            }
            self._land(final, context, plaud, ledger)
            entries = ledger.entries(list(keys))
            self._forget_landed(entries, plaud.region, since=started_at, but=final)
            if result.outcome == "error":
                raise error_class(result.error)(result.message)
            return self._go_on(waiting_of(entries, plaud), started_at)

    def _forget_landed(
        self, entries: Mapping[str, Entry], region: str, *, since: float, but: Collection[str]
    ) -> None:
        """
        Remove what the trigger has kept of transcriptions that are landed: another run may have been faster.

        :param entries: Rows of the chunk.
        :param since: Epoch seconds; of what was landed before, nothing was kept after.
        :param but: Ids of those that are forgotten already.
        """
        from plaud_provider.ledger.entry import State

        landed = [
            entry.transcription_id
            for entry in entries.values()
            if entry.transcription_id is not None
            and entry.transcription_id not in but
            and entry.state in (State.LANDED, State.FAILED)
            and entry.finished_at is not None
            and entry.finished_at.timestamp() >= since - CLOCKS_APART_SECONDS
        ]
        self._results().remove_landed(region, landed, keep_raw=validate_boolean("keep_raw", self.keep_raw))

    def _go_on(self, waiting: Mapping[str, Entry], started_at: float) -> dict[str, Any]:
        deadline = started_at + self.timeout
        if waiting and time.time() < deadline:
            self._defer(waiting, started_at, deadline)
        if waiting:
            self.log.error(
                "%d transcription(s) were not final by the deadline. They go on at Plaud; another run waits "
                "for them again, nothing is paid twice.",
                len(waiting),
            )
        return {"version": 1, "pending": len(waiting)}

    def _defer(self, waiting: Mapping[str, Entry], started_at: float, deadline: float) -> NoReturn:
        in_order = sorted(waiting.items(), key=lambda item: _epoch(item[1].submitted_at) or started_at)
        entries = [entry for _, entry in in_order]
        self.log.info("Handing the wait for %d transcription(s) to the triggerer.", len(in_order))
        self.defer(
            trigger=TranscriptionTrigger(
                transcription_ids=[transcription_id for transcription_id, _ in in_order],
                plaud_conn_id=self.plaud_conn_id,
                region=optional(self.region),
                poke_interval=self.poke_interval,
                started_at=started_at,
                end_time=deadline,
                results_path=self.results_path,
                partial_count=self.partial_count,
                partial_seconds=self.partial_seconds,
                submitted_at=[_epoch(entry.submitted_at) for entry in entries],
                accepted_at=[_epoch(entry.accepted_at) for entry in entries],
                audio_seconds=[entry.duration_seconds for entry in entries],
            ),
            method_name="resume",
            kwargs={"started_at": started_at},
            timeout=timedelta(seconds=max(0.0, deadline - time.time())) + BACKSTOP,
        )


def waiting_of(entries: Mapping[str, Entry], plaud: PlaudConnection) -> dict[str, Entry]:
    """Return those rows of a chunk that are at Plaud and not landed yet, by transcription id."""
    from plaud_provider.ledger.entry import State

    return {
        entry.transcription_id: entry
        for entry in entries.values()
        if entry.state is State.PROCESSING and entry.transcription_id and entry.region == plaud.region
    }


def _epoch(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment else None


def _seconds(name: str, value: timedelta | float) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return validate_number(name, value, minimum=0)
