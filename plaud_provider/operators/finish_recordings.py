"""Say what has become of the recordings of a chunk, and of the whole archive."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from plaud_provider.api.arguments import optional_number, validate_boolean
from plaud_provider.exceptions import PlaudArchiveError, PlaudError
from plaud_provider.operators.chunk import COUNTS_KEY, shown
from plaud_provider.operators.land_recordings import LandingOperator, waiting_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.ledger.entry import Entry

SHOWN = 5
_COUNTS = ("total", "landed", "failed", "unknown", "expired", "processing", "not_submitted")
_PLANNED = ("landed_before", "waiting", "new", "refused", "submitted", "audio_hours")
_REMEDIES = {
    "failed": "Failed ones are rows of the ledger with their reasons; resubmit=['failed'] submits them again "
    "and pays again.",
    "unknown": "Those of unknown outcome may have been accepted and billed: look at Plaud's console or bill, "
    "then submit them again with resubmit=['unknown'].",
    "expired": "Plaud does not know the expired ones any more: resubmit=['expired'] pays for them again.",
    "processing": "Those that Plaud had not finished by the deadline are waited for by the next run, or when "
    "this group is cleared; nothing is paid twice.",
    "not_submitted": "What was not submitted is submitted by the next run, or when this group is cleared.",
}


class FinishRecordingsOperator(LandingOperator):
    """
    Land what is left of a chunk, and say what has become of its recordings.

    Runs whatever happened before it (``trigger_rule="all_done"``). A recording that failed is data: a row
    with its reason. The task fails if there are more of them than ``max_failed``, or if recordings are
    neither landed nor known to be bad.

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
    :param max_failed: How many recordings of the chunk may be failed, expired or of unknown outcome: a
        number, or below 1 a share of them (templated); ``None`` for any number.
    :param plan_only: Whether nothing was to be submitted (templated).
    :return: Counts of recordings: ``total``, ``landed``, ``failed``, ``unknown``, ``expired``,
        ``processing``, ``not_submitted``.
    :raises PlaudArchiveError: if too many failed, or some are left over.
    """

    template_fields: Sequence[str] = (*LandingOperator.template_fields, "max_failed", "plan_only")

    def __init__(
        self,
        *,
        max_failed: float | str | None = 0.1,
        plan_only: bool | str = False,
        trigger_rule: str = "all_done",
        **kwargs: Any,
    ) -> None:
        super().__init__(trigger_rule=trigger_rule, **kwargs)
        self.max_failed = max_failed
        self.plan_only = plan_only

    def execute(self, context: Context) -> dict[str, int]:
        """Land what is left, count, and judge."""
        if validate_boolean("plan_only", self.plan_only):
            return {}
        from plaud_provider.handover.manifest import read_manifest

        max_failed = optional_number("max_failed", self.max_failed, minimum=0)
        recordings = [shown(found.uri) for found in read_manifest(self.manifest)]
        # What another listing had in this chunk does not count, should its keys still lie there.
        listed = set(recordings)
        keys = {key: uri for key, uri in self._keys().items() if uri in listed}
        plaud = self._plaud()
        with self._ledger() as ledger:
            waiting = waiting_of(ledger.entries(list(keys)), plaud)
            self._land(self._kept(waiting), context, plaud, ledger)
            entries = ledger.entries(list(keys))
        self._remove_converted(entries)
        counts = _counts(len(recordings), entries)
        context["ti"].xcom_push(key=COUNTS_KEY, value=counts)
        self.log.info("%s.", _text(counts))
        complaints = _complaints(counts, max_failed)
        if complaints:
            remedies = " ".join(remedy for name, remedy in _REMEDIES.items() if counts[name])
            raise PlaudArchiveError(
                f"{'; '.join(complaints)} ({_text(counts)}). {remedies}{_examples(entries)}"
            )
        return counts

    def _remove_converted(self, entries: Mapping[str, Entry]) -> None:
        from plaud_provider.ledger.entry import State
        from plaud_provider.recordings.converted import remove_converted

        ended = (State.LANDED, State.FAILED, State.EXPIRED)
        keys = [key for key, entry in entries.items() if entry.state in ended]
        try:
            remove_converted(self.results_path, keys)
        except PlaudError as error:
            # A later run removes them by their age.
            self.log.warning("Converted recordings could not be removed: %s", error)


class ReportRecordingsOperator(BaseOperator):
    """
    Sum up an archive run, and let its tables be known to have changed.

    Runs whatever happened before it (``trigger_rule="all_done"``), and fails if the listing or a chunk has.
    Each Asset in ``outlets`` gets the counts as ``extra`` of its event.

    :param manifests: What the listing returned (templated).
    :param list_task_id: The task that listed; if it was skipped, so is this one.
    :param submit_task_id: The tasks that submitted.
    :param finish_task_id: The tasks that finished the chunks.
    :return: The chunks' counts, summed up.
    :raises PlaudArchiveError: if the listing has failed, or a chunk has.
    """

    template_fields: Sequence[str] = ("manifests",)

    def __init__(
        self,
        *,
        manifests: Any,
        list_task_id: str,
        submit_task_id: str,
        finish_task_id: str,
        trigger_rule: str = "all_done",
        **kwargs: Any,
    ) -> None:
        super().__init__(trigger_rule=trigger_rule, **kwargs)
        self.manifests = manifests
        self.list_task_id = list_task_id
        self.submit_task_id = submit_task_id
        self.finish_task_id = finish_task_id

    def execute(self, context: Context) -> dict[str, float]:
        """Sum up."""
        if self.manifests is None:
            if self._count(context, self.list_task_id, "skipped"):
                raise AirflowSkipException("Nothing was listed.")
            raise PlaudArchiveError("The recordings could not be listed; see that task. Nothing was sent.")
        chunks = len(list(self.manifests))
        planned = self._pull(context, self.submit_task_id)
        finished = self._pull(context, self.finish_task_id)
        counts = {name: _sum(planned, name) for name in _PLANNED} | {
            name: _sum(finished, name) for name in _COUNTS
        }
        plan = _sum(planned, "total")
        self.log.info(
            "%d recordings in %d chunks: %d landed before, %d waiting, %d new, about %.1f audio hours.",
            plan,
            chunks,
            counts["landed_before"],
            counts["waiting"],
            counts["new"],
            counts["audio_hours"],
        )
        if finished:
            self.log.info("%s.", _text(counts))
        if broken := self._broken(context, chunks):
            raise PlaudArchiveError(
                f"{broken} of {chunks} chunks did not come to a good end ({_text(counts)}). Tasks "
                f"{self.finish_task_id!r} say why; clearing them takes up what is left."
            )
        for outlet in self.outlets:
            if isinstance(outlet, Asset):
                context["outlet_events"][outlet].extra.update(counts)
        return counts

    def _pull(self, context: Context, task_id: str) -> list[Mapping[str, float]]:
        found = context["ti"].xcom_pull(task_ids=[task_id], key=COUNTS_KEY)
        return [counts for counts in found if counts]

    def _broken(self, context: Context, chunks: int) -> int:
        """Return how many chunks did not finish well."""
        return max(0, chunks - self._count(context, self.finish_task_id, "success"))

    def _count(self, context: Context, task_id: str, state: str) -> int:
        ti = context["ti"]
        count: int = ti.get_ti_count(
            dag_id=ti.dag_id, task_ids=[task_id], run_ids=[ti.run_id], states=[state]
        )
        return count


def _counts(total: int, entries: Mapping[str, Entry]) -> dict[str, int]:
    from plaud_provider.ledger.entry import State

    states = Counter(entry.state for entry in entries.values())
    finished = {
        "landed": states[State.LANDED],
        "failed": states[State.FAILED],
        "unknown": states[State.UNKNOWN],
        "expired": states[State.EXPIRED],
        "processing": states[State.PROCESSING],
    }
    return {"total": total, **finished, "not_submitted": total - sum(finished.values())}


def _complaints(counts: Mapping[str, int], max_failed: float | None) -> list[str]:
    complaints = []
    bad = counts["failed"] + counts["unknown"] + counts["expired"]
    if max_failed is not None:
        share = max_failed * counts["total"] if max_failed < 1 else max_failed
        # 0.29 of 100 is a little less than 29 to a computer.
        allowed = math.floor(share + 1e-9)
        if bad > allowed:
            complaints.append(f"{bad} recordings failed, max_failed={max_failed:g} allows {allowed}")
    if left := counts["processing"] + counts["not_submitted"]:
        complaints.append(f"{left} recordings are neither landed nor known to be bad")
    return complaints


def _text(counts: Mapping[str, float]) -> str:
    rest = [f"{counts[name]:g} {name.replace('_', ' ')}" for name in _COUNTS[2:] if counts[name]]
    return ", ".join([f"{counts['total']:g} recordings: {counts['landed']:g} landed", *rest])


def _examples(entries: Mapping[str, Entry]) -> str:
    reasons = sorted(f"{entry.audio_uri}: {entry.error}" for entry in entries.values() if entry.error)
    if not reasons:
        return ""
    more = f"; and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    return f" Such as: {'; '.join(reasons[:SHOWN])}{more}"


def _sum(counts: Iterable[Mapping[str, float]], name: str) -> float:
    return sum(one.get(name, 0) for one in counts)
