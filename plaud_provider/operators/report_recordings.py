"""Say what has become of the recordings of an archive run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from plaud_provider.api.arguments import optional_number, validate_boolean
from plaud_provider.exceptions import PlaudArchiveError, PlaudError
from plaud_provider.lineage.moved import Moved, tell_outlets
from plaud_provider.operators.chunk import (
    ENDS,
    PROBLEMS_KEY,
    SHOWN,
    ArchiveOperator,
    examples,
    in_words,
    pulled,
    remedies,
)
from plaud_provider.operators.list_recordings import MAX_CHANGED, changed_in_words, manifest_folder

if TYPE_CHECKING:
    from airflow.sdk import Context

_SETTLED = {
    "landed": "landed_before",
    "failed": "failed_before",
    "unknown": "unknown_before",
    "expired": "expired_before",
}
#: XCom with the report as text and as data, for callbacks and notifiers; also if the task fails.
SUMMARY_KEY = "summary"
#: What a plan says, beside ``total``.
_SAID = (
    *("total", "new", "audio_hours", "waiting", "refused", "changed", "changed_left", "left"),
    *_SETTLED.values(),
)
_PLANNED = ("landed_before", "waiting", "new", "refused", "submitted", "audio_hours")


class ReportRecordingsOperator(ArchiveOperator):
    """
    Sum up an archive run, judge it, clear up after it, and let its tables be known to have changed.

    Runs whatever happened before it (``trigger_rule="all_done"``). It fails if the listing or a chunk has,
    or if more recordings are bad than ``max_failed`` allows. What the run has left at ``results_path`` is
    removed: its chunks unless something is left to do, and what has landed or is too old to be of use.

    Each Asset in ``outlets`` gets the counts as ``extra`` of its event. The XCom ``summary`` has the report
    for callbacks and notifiers, whether the task succeeds or fails: ``text``, ``is_good``, ``counts``, and in
    ``problems`` some of the recordings that did not land, with their reasons.

    :param ledger_conn_id: As for all tasks of an archive.
    :param plaud_conn_id: Likewise.
    :param region: Likewise.
    :param sql_conn_id: Likewise.
    :param schema: Likewise.
    :param transcripts_table: Likewise.
    :param segments_table: Likewise.
    :param lake_path: Likewise.
    :param lake_format: Likewise.
    :param lake_catalog_conn_id: Likewise.
    :param manifests: What the listing returned (templated).
    :param results_path: Folder that the tasks share (templated).
    :param list_task_id: The task that listed; if it was skipped, so is this one.
    :param submit_task_id: The tasks that submitted, or planned to.
    :param land_task_id: The tasks that landed; in a plan, those that planned.
    :param max_failed: How many recordings of the run, listed before or now, may be failed, expired or of
        unknown outcome: a number, or below 1 a share of them (templated); ``None`` for any number.
    :param max_changed: As for ``ListRecordingsOperator`` (templated).
    :param keep_raw: Whether kept answers stay after they are landed (templated).
    :param plan_only: Whether nothing was to be submitted (templated).
    :return: The counts of the whole run.
    :raises PlaudArchiveError: if the listing has failed, or a chunk has, or too many recordings have.
    """

    template_fields: Sequence[str] = (
        *ArchiveOperator.template_fields,
        "manifests",
        "results_path",
        "max_failed",
        "max_changed",
        "keep_raw",
        "plan_only",
    )

    def __init__(
        self,
        *,
        manifests: Any,
        results_path: str,
        list_task_id: str,
        submit_task_id: str,
        land_task_id: str,
        max_failed: float | str | None = 0.1,
        max_changed: float | str | None = MAX_CHANGED,
        keep_raw: bool | str = False,
        plan_only: bool | str = False,
        trigger_rule: str = "all_done",
        **kwargs: Any,
    ) -> None:
        super().__init__(trigger_rule=trigger_rule, **kwargs)
        self.manifests = manifests
        self.results_path = results_path
        self.list_task_id = list_task_id
        self.submit_task_id = submit_task_id
        self.land_task_id = land_task_id
        self.max_failed = max_failed
        self.max_changed = max_changed
        self.keep_raw = keep_raw
        self.plan_only = plan_only

    def execute(self, context: Context) -> dict[str, float]:
        """Sum up, clear up, judge."""
        if self.manifests is None:
            if self._count(context, self.list_task_id, "skipped"):
                raise AirflowSkipException("Nothing was listed.")
            raise PlaudArchiveError(
                "The recordings could not be listed, or not planned; see those tasks. Nothing was sent."
            )
        max_failed = optional_number("max_failed", self.max_failed, minimum=0)
        max_changed = optional_number("max_changed", self.max_changed, minimum=0)
        is_only_plan = validate_boolean("plan_only", self.plan_only)
        counts = self._counts(context, is_only_plan=is_only_plan)
        said = self._summary(context, counts, is_only_plan=is_only_plan)
        self.log.info("%s", said)
        self._moved = Moved((), counts)
        broken = self._broken(context)
        self._clear_up(context, is_done=not broken)
        if not is_only_plan:
            self._warn_of_late()
        complaints = []
        if broken:
            complaints.append(
                f"{broken} of {len(self.manifests)} chunks did not come to a good end. Tasks "
                f"{self.land_task_id!r} say why; clearing them and their submits takes up what is left."
            )
        if not is_only_plan and (too_many := _too_many(counts, max_failed)) is not None:
            complaints.append(too_many)
        if not is_only_plan and counts.get("changed_left") and max_changed != 0:
            complaints.append(changed_in_words(counts["changed_left"], self.max_changed))
        problems = sorted(
            problem
            for task_id in (self.list_task_id, self.land_task_id)
            for some in pulled(context, task_id, PROBLEMS_KEY)
            for problem in some
        )
        told = {
            "version": 1,
            "text": " ".join([said, *complaints]),
            "is_good": not complaints,
            "counts": counts,
            "problems": problems[:SHOWN],
        }
        context["ti"].xcom_push(key=SUMMARY_KEY, value=told)
        if complaints:
            raise PlaudArchiveError(
                f"{' '.join(complaints)} ({in_words(counts)}). {remedies(counts)}{examples(problems)}"
            )
        if not is_only_plan:
            tell_outlets(self.outlets, context, counts)
        return counts

    def _summary(self, context: Context, counts: Mapping[str, float], *, is_only_plan: bool) -> str:
        """Return the run in one line, and the files that were refused."""
        from plaud_provider.submit.summary import plan_in_words

        settled = pulled(context, self.list_task_id)
        planned = [*pulled(context, self.submit_task_id), *settled]
        plan = {name: _sum(planned, name) for name in _SAID}
        plan["total"] += sum(_sum(settled, name) for name in (*_SETTLED.values(), "changed_left"))
        words = plan_in_words(plan, self._price(self._plaud()))
        if not is_only_plan:
            words += f" Now {in_words(counts)}."
        refused = sorted(
            problem for some in pulled(context, self.submit_task_id, PROBLEMS_KEY) for problem in some
        )
        return f"{words} Refused:{examples(refused).removeprefix(' Such as:')}" if refused else words

    def _counts(self, context: Context, *, is_only_plan: bool) -> dict[str, float]:
        settled = pulled(context, self.list_task_id)
        planned = pulled(context, self.submit_task_id)
        landed = [] if is_only_plan else pulled(context, self.land_task_id)
        counts = {end: _sum(landed, end) + _sum(settled, _SETTLED.get(end, "")) for end in ENDS}
        chunks = planned if is_only_plan else landed
        return {
            "total": _sum(chunks, "total")
            + sum(_sum(settled, name) for name in (*_SETTLED.values(), "changed_left")),
            **counts,
            **{name: _sum(settled, name) for name in ("changed", "changed_left") if _sum(settled, name)},
            **{name: _sum(planned, name) + _sum(settled, name) for name in _PLANNED},
        }

    def _broken(self, context: Context) -> int:
        """Return how many chunks did not come to a good end."""
        return max(0, len(list(self.manifests)) - self._count(context, self.land_task_id, "success"))

    def _count(self, context: Context, task_id: str, state: str) -> int:
        ti = context["ti"]
        count: int = ti.get_ti_count(
            dag_id=ti.dag_id, task_ids=[task_id], run_ids=[ti.run_id], states=[state]
        )
        return count

    def _clear_up(self, context: Context, *, is_done: bool) -> None:
        """Remove what is left over; that this fails is no reason for the run to."""
        from plaud_provider.handover.manifest import remove_manifest
        from plaud_provider.handover.sweep import sweep

        try:
            if is_done:
                remove_manifest(manifest_folder(self.results_path, context, self.list_task_id))
            if not validate_boolean("keep_raw", self.keep_raw):
                with self._ledger() as ledger:
                    sweep(self.results_path, ledger.ended_since)
        except PlaudError as problem:
            self.log.warning("What is left over at results_path stays for the next run: %s", problem)

    def _warn_of_late(self) -> None:
        """Warn of what is soon lost at Plaud; that this fails is no reason for the run to."""
        from plaud_provider.ledger.summary import soon_lost

        try:
            plaud = self._plaud()
            with self._ledger() as ledger:
                late = ledger.late(region=plaud.region, client_id=plaud.client_id)
        except PlaudError as problem:
            self.log.warning("Whether recordings are late at Plaud is not known: %s", problem)
            return
        if late:
            self.log.warning("%s", soon_lost(f"{late} recording{'s' * (late != 1)} of this client"))


def _too_many(counts: Mapping[str, float], max_failed: float | None) -> str | None:
    bad = counts["failed"] + counts["unknown"] + counts["expired"]
    if max_failed is None:
        return None
    from plaud_provider.submit.settled import allowed

    most = allowed(max_failed, counts["total"])
    return f"{bad:g} recordings failed, max_failed={max_failed:g} allows {most}." if bad > most else None


def _sum(counts: Iterable[Mapping[str, float]], name: str) -> float:
    return sum(one.get(name, 0) for one in counts)
