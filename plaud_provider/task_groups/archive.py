"""The tasks that transcribe an archive, or a list of recordings."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import Asset, BaseOperator, TaskGroup, task_group
from airflow.sdk.definitions.taskgroup import MappedTaskGroup
from airflow.sdk.exceptions import DuplicateTaskIdFound

from plaud_provider.exceptions import PlaudInputError
from plaud_provider.operators.land_recordings import LandRecordingsOperator
from plaud_provider.operators.list_recordings import ListRecordingsOperator
from plaud_provider.operators.plan_recordings import PlanRecordingsOperator
from plaud_provider.operators.report_recordings import ReportRecordingsOperator
from plaud_provider.operators.submit_recordings import SubmitRecordingsOperator
from plaud_provider.task_groups.approval import ask_before


class _LeftOut:
    """What an argument is that a caller has not given: only what was given is passed to tasks."""

    def __repr__(self) -> str:
        return "…"


_LEFT_OUT: Any = _LeftOut()
#: Arguments that have another name with the tasks, where it means something else in a DAG's ``default_args``.
_RENAMED = {"dry_run": "plan_only", "chunks_at_once": "max_active_tis_per_dag"}
#: Arguments that say what of a folder is listed.
_OF_FOLDERS = {"path", "pattern", "suffixes", "modified_after", "modified_before"}
#: What Airflow shows of each task, unless somebody gives them a ``doc_md``.
_TASK_DOCS: Mapping[type[BaseOperator], str] = {
    PlanRecordingsOperator: "Says what its chunk would cost, for whoever approves of it. **Pays nothing.** "
    "Clear it to look at the recordings anew.",
    ListRecordingsOperator: "Lists the recordings, counts what the ledger has settled, and writes the rest "
    "in chunks. **Pays nothing.** Clear it to list anew.",
    SubmitRecordingsOperator: "Submits what nobody has submitted yet. **Plaud bills its audio length.** "
    "Clear it to go on with what it left; nothing is paid twice.",
    LandRecordingsOperator: "Waits in the triggerer, lands transcripts as they finish, and counts. "
    "**Pays nothing.** It fails if something is neither landed nor known to be bad. Clear it to wait again.",
    ReportRecordingsOperator: "Sums the run up, judges it by `max_failed`, and clears up. **Pays nothing.**",
}
#: Arguments of the tasks that this group sets.
_OWN = (
    "task_id",
    "task_group",
    "dag",
    "manifest",
    "manifests",
    *(f"{n}_task_id" for n in ("list", "submit", "land")),
)


def transcribe_archive(
    path: str | os.PathLike[str] = _LEFT_OUT,
    *,
    results_path: str | os.PathLike[str] = _LEFT_OUT,
    sql_conn_id: str | None = _LEFT_OUT,
    ledger_conn_id: str | None = _LEFT_OUT,
    plaud_conn_id: str = _LEFT_OUT,
    region: str | None = _LEFT_OUT,
    pattern: str | None = _LEFT_OUT,
    suffixes: Sequence[str] | str = _LEFT_OUT,
    modified_after: datetime | str | None = _LEFT_OUT,
    modified_before: datetime | str | None = _LEFT_OUT,
    language: str | None = _LEFT_OUT,
    speaker_diarization: bool | str = _LEFT_OUT,
    model: str | None = _LEFT_OUT,
    hotwords: Sequence[str] | str = _LEFT_OUT,
    decode_silence: bool | str = _LEFT_OUT,
    detection_level: str | None = _LEFT_OUT,
    webhook_url: str | None = _LEFT_OUT,
    schema: str | None = _LEFT_OUT,
    transcripts_table: str = _LEFT_OUT,
    segments_table: str = _LEFT_OUT,
    metadata: Mapping[str, Any] | str | None = _LEFT_OUT,
    metadata_pattern: str | None = _LEFT_OUT,
    metadata_path: str | os.PathLike[str] | None = _LEFT_OUT,
    metadata_columns: Sequence[str] | str | None = _LEFT_OUT,
    metadata_timezone: str | None = _LEFT_OUT,
    lake_path: str | os.PathLike[str] | None = _LEFT_OUT,
    lake_format: str = _LEFT_OUT,
    lake_catalog_conn_id: str | None = _LEFT_OUT,
    chunk_size: int | str | None = _LEFT_OUT,
    chunks_at_once: int = _LEFT_OUT,
    max_failed: float | str | None = _LEFT_OUT,
    max_changed: float | str | None = _LEFT_OUT,
    price_per_hour: float | str | None = _LEFT_OUT,
    max_audio_hours: float | str | None = _LEFT_OUT,
    approve_above_hours: float | str | None = _LEFT_OUT,
    max_recording_hours: float | str | None = _LEFT_OUT,
    unreadable: str = _LEFT_OUT,
    convert: str | None = _LEFT_OUT,
    upload: str = _LEFT_OUT,
    resubmit: Sequence[str] | str = _LEFT_OUT,
    dry_run: bool | str = _LEFT_OUT,
    timeout: timedelta | float = _LEFT_OUT,
    poke_interval: timedelta | float = _LEFT_OUT,
    partial_count: int = _LEFT_OUT,
    partial_seconds: float = _LEFT_OUT,
    url_validity: timedelta | float | str = _LEFT_OUT,
    identity_params: Sequence[str] | str | None = _LEFT_OUT,
    public_urls: Mapping[str, str] | str | None = _LEFT_OUT,
    keep_raw: bool | str = _LEFT_OUT,
    outlets: Sequence[Asset] = _LEFT_OUT,
    chunk_outlets: Sequence[Asset] = _LEFT_OUT,
    group_id: str = "transcribe",
    **task_arguments: Any,
) -> TaskGroup:
    """
    Return the tasks that transcribe the recordings under a folder, each paid for once over all runs.

    ``list`` writes what is left to do in chunks. For each chunk, ``submit`` sends what nobody has sent yet,
    and ``land`` waits in the triggerer, lands transcripts as they finish and counts them: two task instances,
    two API calls a recording. ``report`` sums up, judges and clears up.

    What the ledger knows costs nothing again, so the same folder may be listed by many runs, backfills and
    DAGs, also at the same time. One recording that is bad is a row with a reason and stops nothing.

    Every text may be a template, and every number, switch or list text that a template has rendered. What is
    left out is as ``default_args`` of the DAG and of groups around this one have it, else as the tasks have
    it by themselves.

    :param path: The archive: ``s3://conn@bucket/2024/``, ``gs://…``, ``abfs://…`` or a local folder; see
        ``ListRecordingsOperator``.
    :param results_path: Folder that workers and triggerers share, for chunks and for finished transcripts
        until they are landed; private, since it holds transcripts.
    :param sql_conn_id: Connection of the warehouse; by default ``warehouse_default``, or none if there is a
        ``lake_path``.
    :param ledger_conn_id: Connection of the ledger: PostgreSQL, MySQL, SQLite or DuckDB; by default the
        warehouse.
    :param plaud_conn_id: Connection of type ``plaud``; by default ``plaud_default``.
    :param region: What you take that connection's region to be.
    :param pattern: Only recordings whose path below ``path`` matches.
    :param suffixes: Only names that end so; by default those of M4A, MP3 and WAV.
    :param modified_after: Only recordings last changed then or later.
    :param modified_before: Only recordings last changed before.
    :param language: BCP-47 code; left out, Plaud detects it.
    :param speaker_diarization: Whether Plaud labels speakers; by default not.
    :param model: Speech model; see ``SubmitTranscriptionOperator``. This and the next three are options of
        the API ``embedded``.
    :param hotwords: Words that are likely to be said, such as names.
    :param decode_silence: Whether what is taken for silence is transcribed as well; by default not.
    :param detection_level: For what the language is detected: ``segment`` or ``chapter``.
    :param webhook_url: https URL to which Plaud posts results.
    :param schema: Schema of both tables of the warehouse.
    :param transcripts_table: Table for transcriptions; by default ``plaud_transcripts``.
    :param segments_table: Table for segments; by default ``plaud_segments``.
    :param metadata: Fields of all recordings; see ``TranscriptionToSqlOperator``.
    :param metadata_pattern: Fields that references have in them, such as
        ``{agent}/{date:%Y-%m-%d}/{call_id}.mp3``; see there.
    :param metadata_path: A list of fields, as CSV or JSON lines; see there.
    :param metadata_columns: Fields that are columns of their own as well.
    :param metadata_timezone: Time zone of times that tell none; by default UTC.
    :param lake_path: Folder of an open lake that transcripts land in as well, or alone if no ``sql_conn_id``
        is given, such as ``s3://conn@bucket/lake``. Alone, it needs a ``ledger_conn_id``.
    :param lake_format: ``iceberg``, by default, ``delta`` or ``parquet``.
    :param lake_catalog_conn_id: Connection of Iceberg's catalog: REST, Glue or SQL; needed unless
        ``lake_path`` is local.
    :param chunk_size: Recordings per chunk; by default what the quota lets submit in some three minutes, from
        200 to 1,000.
    :param chunks_at_once: Chunks submitted at once, over all runs of the DAG, by default 2: they share one
        quota, and more of them only hold more workers.
    :param max_failed: How many recordings of a run may be bad before its ``report`` fails: a number, or below
        1 a share, by default 0.1; ``None`` for any number.
    :param max_changed: How many recordings that were paid for before may be paid for again as their files
        have another version: a number, by default 20, or below 1 a share; ``None`` for any number, ``0`` for
        none without failing.
    :param price_per_hour: What an hour of audio costs, as in ``0.28 USD``, for plans and reports; by default
        as the connection has it.
    :param max_audio_hours: Audio hours that one run may submit; ``None`` for no limit.
    :param approve_above_hours: A run that would submit more hours of new audio stops after its plan, until a
        person approves of it in Airflow's *Required Actions*, or rejects it; left out, nobody is asked. It
        adds the tasks ``plan`` and ``approve``, which read the headers of what is new once more.
    :param max_recording_hours: Longer recordings are refused; by default 24, and 6 with
        ``speaker_diarization``.
    :param unreadable: What to do with recordings that cannot be measured: ``refuse``, by default, or
        ``send``.
    :param convert: ``mp3``: what is no MP3 or M4A is converted, and kept at ``results_path`` until it is
        landed; see ``SubmitTranscriptionOperator``.
    :param upload: When recordings are uploaded to Plaud's own storage: ``auto``, by default, ``always`` or
        ``never``; see ``SubmitTranscriptionOperator``.
    :param resubmit: What to pay for again: any of ``failed``, ``expired`` and ``unknown``.
    :param dry_run: Whether only to say what a run would do and cost.
    :param timeout: Seconds or timedelta from a chunk's first look to its deadline; by default 24
        hours.
    :param poke_interval: Seconds or timedelta between two looks at the same transcription; by
        default 30 seconds.
    :param partial_count: How many finished transcriptions are landed without waiting for more; by
        default 1,000.
    :param partial_seconds: After how many seconds what has finished is landed; by default 300. Where
        Plaud calls Airflow's webhook it is landed at once, unless this is 60 or more, or it is for a lake.
    :param url_validity: How long Plaud has to fetch what is signed here; by default six hours.
    :param identity_params: As for ``SubmitTranscriptionOperator``; storage references have no query.
    :param public_urls: From where Plaud can fetch local files; see ``SubmitTranscriptionOperator``.
    :param keep_raw: Whether finished transcripts stay at ``results_path`` after they are landed; by
        default not.
    :param outlets: Assets that a run updates; each gets the counts as ``extra`` of its event.
    :param chunk_outlets: Assets that each chunk updates when it is landed, likewise: what follows need not
        wait for the whole run.
    :param group_id: Id of the group.
    :param task_arguments: Arguments for all tasks, such as ``retries``, ``queue`` or ``pool``. A
        ``trigger_rule`` is that of ``list``: it says when the group starts.
    :raises PlaudInputError: if the group cannot be made here: its id is taken, or it is within a mapped task
        group.
    """
    given = {name: value for name, value in locals().items() if value is not _LEFT_OUT}
    for name in ("group_id", "task_arguments"):
        del given[name]
    return _tasks("transcribe_archive", given, group_id, task_arguments)


def transcribe_recordings(recordings: Any, *, group_id: str = "transcribe", **arguments: Any) -> TaskGroup:
    """
    Return the tasks that transcribe a list of recordings, each paid for once over all runs.

    The same tasks as of :func:`transcribe_archive`, at the same cost, for what a form, a Variable, a query or
    another task names one by one.

    :param recordings: The recordings: ``https://`` URLs, storage references or local files, as for
        ``SubmitTranscriptionOperator``; as a list, as text in JSON or with one a line, as rows of a query
        with one column, or the output of a task. URLs are shown and stored without their signatures, but for
        the chunks at ``results_path``, which have them encrypted. The length of what only a URL is given of
        is not known beforehand: ``max_audio_hours`` does not count it.
    :param group_id: Id of the group.
    :param arguments: Those of :func:`transcribe_archive`, other than what says what of a folder is listed:
        ``path``, ``pattern``, ``suffixes``, ``modified_after``, ``modified_before``; and arguments for all
        tasks.
    :raises PlaudInputError: as there.
    """
    names = inspect.signature(transcribe_archive).parameters.keys() - {"group_id", "task_arguments"}
    for name in _OF_FOLDERS & arguments.keys():
        raise PlaudInputError(f"{name}: transcribe_recordings() takes a list, and no folder. Leave it out.")
    given = {name: arguments.pop(name) for name in names & arguments.keys()}
    # A path in default_args is that of an archive.
    given = {"path": None, "recordings": recordings, **given}
    return _tasks("transcribe_recordings", given, group_id, arguments)


def _tasks(function: str, given: dict[str, Any], group_id: str, task_arguments: dict[str, Any]) -> TaskGroup:
    for name in _OWN:
        if name in task_arguments:
            raise PlaudInputError(f"{name}: {function}() sets it by itself. Leave it out.")
    starts = {"trigger_rule": task_arguments.pop("trigger_rule")} if "trigger_rule" in task_arguments else {}

    with _group(group_id) as group:
        defaults = {**group.dag.default_args, **group.default_args}
        for name, of_tasks in _RENAMED.items():
            if name in given or name in defaults:
                given[of_tasks] = given.pop(name, defaults.get(name))
        of_chunks = dict(task_arguments)
        if "map_index_template" not in {**defaults, **task_arguments}:
            # In Airflow's screens, instead of a number.
            of_chunks["map_index_template"] = "{{ task.manifest.rpartition('/')[2].partition('.')[0] }}"

        def arguments(operator: type[BaseOperator], **others: Any) -> dict[str, Any]:
            if "doc_md" not in defaults:
                others = {"doc_md": _TASK_DOCS[operator], **others}
            return others | {name: given[name] for name in _names(operator) & given.keys()}

        listing = ListRecordingsOperator(
            task_id="list", **arguments(ListRecordingsOperator, **task_arguments, **starts)
        )

        @task_group(group_id="chunk")
        def transcribe_chunk(manifest: str) -> None:
            submit = SubmitRecordingsOperator(
                task_id="submit",
                manifest=manifest,
                trigger_rule="all_success",
                **arguments(SubmitRecordingsOperator, **of_chunks),
            )
            land = LandRecordingsOperator(
                task_id="land",
                manifest=manifest,
                # What one attempt has submitted is waited for, whatever became of the rest.
                trigger_rule="all_done",
                **arguments(LandRecordingsOperator, **of_chunks),
                **({"outlets": given["chunk_outlets"]} if "chunk_outlets" in given else {}),
            )
            submit >> land

        manifests = listing.output
        if given.setdefault("approve_above_hours", defaults.get("approve_above_hours")) is not None:
            manifests = ask_before(listing, given, arguments, task_arguments)
        chunks = transcribe_chunk.expand(manifest=manifests)
        report = ReportRecordingsOperator(
            task_id="report",
            manifests=manifests,
            # With the ids of groups around this one.
            list_task_id=listing.task_id,
            submit_task_id=f"{group.group_id}.chunk.submit",
            land_task_id=f"{group.group_id}.chunk.land",
            trigger_rule="all_done",
            **arguments(ReportRecordingsOperator, **task_arguments),
        )
        chunks >> report
    return group


def _group(group_id: str) -> TaskGroup:
    """
    Return the group, if it can be where it is made.

    :raises PlaudInputError: if it cannot.
    """
    try:
        group = TaskGroup(group_id)
    except DuplicateTaskIdFound:
        raise PlaudInputError(
            f"group_id: {group_id!r} is taken in this DAG. Give each archive of a DAG a group_id of its own, "
            f"as in transcribe_archive(..., group_id='{group_id}_memos')."
        ) from None
    around = group.parent_group
    while around is not None:
        if isinstance(around, MappedTaskGroup):
            raise PlaudInputError(
                f"group_id: {group_id!r} is within the mapped task group {around.group_id!r}, and is itself "
                "mapped over the archive's chunks; Airflow maps no group within a mapped one. Make one "
                "archive of all folders (with pattern=...), an archive for each (in a Python loop, each with "
                "its own group_id), or a DAG run for each (TriggerDagRunOperator)."
            )
        around = around.parent_group
    return group


def _names(operator: type[BaseOperator]) -> set[str]:
    """Return which of the group's arguments an operator takes."""
    ours = operator.__mro__[: operator.__mro__.index(BaseOperator)]
    found = {name for one in ours for name in inspect.signature(one).parameters}
    return found | {"outlets"} if operator is ReportRecordingsOperator else found
