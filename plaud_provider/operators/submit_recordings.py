"""Submit the recordings of a chunk, each once over all runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from plaud_provider.api.arguments import optional_number, validate_boolean
from plaud_provider.lineage.moved import Moved, folders_of, some_ids
from plaud_provider.operators.chunk import (
    COUNTS_KEY,
    PROBLEMS_KEY,
    SHOWN,
    ChunkOperator,
    EndsInOrder,
    come_back,
    owner_of,
    states_to_resubmit,
)
from plaud_provider.operators.terms import TermsOperator, rules_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.submit.chunk import ChunkSubmit
    from plaud_provider.submit.plan import Rules


class SubmitRecordingsOperator(EndsInOrder, TermsOperator, ChunkOperator):
    """
    Submit those recordings of a chunk that nobody has submitted yet.

    **What is billed:** each accepted submit, by audio length. The ledger keeps a recording from being
    submitted twice, whichever run, DAG or retry comes to it; what is at Plaud already, or landed, costs
    nothing. What can be seen to be no recording, from a few reads of its file, is not sent: it becomes a row
    of the ledger with its reason. Nothing that happens to one recording stops the others.

    The submits keep the client's quota together with everything else that talks to Plaud. Where another task
    is about to submit some of these recordings, this one lets go of its worker until that is settled.

    **A retry, or a clear,** takes up what was not sent. What was sent without an answer is ``unknown``, and
    only submitted again if ``resubmit`` says so.

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
    :param language: BCP-47 code such as ``en`` (templated); left out, Plaud detects it.
    :param speaker_diarization: Whether Plaud labels speakers (templated).
    :param model: As for ``SubmitTranscriptionOperator`` (templated).
    :param hotwords: Likewise (templated).
    :param decode_silence: Likewise (templated).
    :param detection_level: Likewise (templated).
    :param webhook_url: https URL to which Plaud posts results (templated).
    :param url_validity: As for ``SubmitTranscriptionOperator`` (templated).
    :param public_urls: Likewise (templated).
    :param identity_params: Likewise (templated); storage references have no query.
    :param resubmit: What to submit again and pay for again: any of ``failed``, ``expired`` and ``unknown``
        (templated). Rows that this same run wrote are not taken again.
    :param max_audio_hours: Audio hours that this run may submit, over all its chunks (templated); ``None``
        for no limit. What would go beyond is not submitted.
    :param max_recording_hours: Longer recordings are refused (templated); not by an estimate. ``None``: 24,
        and 6 if Plaud labels speakers, as it documents.
    :param unreadable: As for ``SubmitTranscriptionOperator`` (templated).
    :param convert: Likewise (templated).
    :param upload: Likewise (templated).
    :param results_path: Likewise (templated).
    :param plan_only: Whether only to say what would be done, and what it would cost (templated).
    :param max_active_tis_per_dag: Chunks submitted at once, over all runs of the DAG. They share one
        quota, so that more of them only hold more workers.
    :return: Counts of recordings: ``total``; ``landed_before``, ``waiting``, ``failed_before``,
        ``unknown_before``, ``expired_before``; ``new`` with their ``audio_hours``, ``refused``,
        ``submitted``; and ``left``, if any are left for another run.
    :raises PlaudInputError: for a wrong argument; nothing was sent.
    :raises PlaudConfigurationError: if a connection, its rights or an extra is missing; nothing was sent.
    :raises PlaudStorageError: if some recordings could not be read; all others were submitted.
    :raises PlaudError: its other classes, if going on would be useless. What was not sent can be retried.
    """

    template_fields: Sequence[str] = (
        *ChunkOperator.template_fields,
        *TermsOperator.template_fields,
        "webhook_url",
        "url_validity",
        "public_urls",
        "identity_params",
        "resubmit",
        "max_audio_hours",
        "max_recording_hours",
        "unreadable",
        "convert",
        "upload",
        "results_path",
        "plan_only",
    )
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        webhook_url: str | None = None,
        url_validity: timedelta | float | str = timedelta(hours=6),
        public_urls: Mapping[str, str] | str | None = None,
        identity_params: Sequence[str] | str | None = None,
        resubmit: Sequence[str] = (),
        max_audio_hours: float | str | None = None,
        max_recording_hours: float | str | None = None,
        unreadable: str = "refuse",
        convert: str | None = None,
        upload: str = "auto",
        results_path: str | None = None,
        plan_only: bool | str = False,
        max_active_tis_per_dag: int | None = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_active_tis_per_dag=max_active_tis_per_dag, **kwargs)
        self.webhook_url = webhook_url
        self.url_validity = url_validity
        self.public_urls = public_urls
        self.identity_params = identity_params
        self.resubmit = resubmit
        self.unreadable = unreadable
        self.convert = convert
        self.upload = upload
        self.results_path = results_path
        self.max_audio_hours = max_audio_hours
        self.max_recording_hours = max_recording_hours
        self.plan_only = plan_only

    def execute(self, context: Context) -> dict[str, Any]:
        """Submit what is open; come back for what another task holds."""
        return self._run(context, before=None)

    def resume(
        self,
        context: Context,
        event: Any = None,
        before: dict[str, Any] | None = None,
        moved: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """
        Go on after a wait for another task: everything is looked at anew.

        :param event: That the time has come.
        :param before: The counts so far.
        :param moved: What lineage is told of so far.
        """
        if moved is not None:
            self._moved = Moved(**moved)
        return self._run(context, before=before)

    def _run(self, context: Context, *, before: dict[str, Any] | None) -> dict[str, Any]:
        from plaud_provider.submit.chunk import ChunkSubmit
        from plaud_provider.submit.stop import Stop

        self._stop = Stop()
        terms = self._terms(self.webhook_url)
        rules, plaud = self._rules(), self._plaud()
        price = self._price(plaud)
        with self._ledger() as ledger:
            chunk = ChunkSubmit(self.manifest, plaud, ledger, owner_of(context), terms, rules, self._stop)
            is_only_plan = validate_boolean("plan_only", self.plan_only)
            counts = chunk.plan(is_only_plan=is_only_plan, price=price)
            context["ti"].xcom_push(key=PROBLEMS_KEY, value=chunk.refusals()[:SHOWN])
            if not is_only_plan:
                try:
                    chunk.submit()
                finally:
                    counts["submitted"] = len(chunk.accepted)
                    if before is not None:
                        counts = _summed(before, counts)
                    self._note_moved(chunk, counts)
                if held := chunk.held():
                    self.log.info("Another task is about to submit %d of these; waiting for it.", held)
                    # Nobody asks a task that is deferred what it has moved.
                    moved = None if self._moved is None else self._moved._asdict()
                    come_back(self, before=counts, moved=moved)
        context["ti"].xcom_push(key=COUNTS_KEY, value=counts)
        return counts

    def _note_moved(self, chunk: ChunkSubmit, counts: dict[str, Any]) -> None:
        accepted, before = chunk.accepted, self._moved or Moved((), {})
        self._moved = Moved(
            folders_of([*before.folders, *accepted.values()]),
            counts,
            some_ids({*before.ids, *accepted}),
            audio_seconds=before.audio_seconds + chunk.audio_seconds,
        )

    def _rules(self) -> Rules:
        return rules_of(
            self,
            states_to_resubmit(self.resubmit),
            max_audio_hours=optional_number("max_audio_hours", self.max_audio_hours, minimum=0),
            max_recording_hours=optional_number("max_recording_hours", self.max_recording_hours, minimum=0),
            target=self._target(),
        )


def _summed(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the counts of a task that waited for another one in between."""
    new = {name: before[name] + now[name] for name in ("new", "refused", "submitted", "audio_hours")}
    return {**before, **new, "waiting": before["waiting"] - now["new"] - now["refused"]}
