"""The tasks that transcribe an archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import Asset, TaskGroup, task_group

from plaud_provider.operators.finish_recordings import FinishRecordingsOperator, ReportRecordingsOperator
from plaud_provider.operators.land_recordings import LandRecordingsOperator
from plaud_provider.operators.list_recordings import ListRecordingsOperator
from plaud_provider.operators.submit_recordings import SubmitRecordingsOperator
from plaud_provider.recordings.reference import AUDIO_EXTENSIONS


def transcribe_archive(
    path: str,
    *,
    results_path: str,
    sql_conn_id: str = "warehouse_default",
    ledger_conn_id: str | None = None,
    plaud_conn_id: str = "plaud_default",
    region: str | None = None,
    pattern: str | None = None,
    suffixes: Sequence[str] = AUDIO_EXTENSIONS,
    modified_after: datetime | str | None = None,
    modified_before: datetime | str | None = None,
    language: str | None = None,
    speaker_diarization: bool | str = False,
    webhook_url: str | None = None,
    schema: str | None = None,
    transcripts_table: str = "plaud_transcripts",
    segments_table: str = "plaud_segments",
    chunk_size: int | str = 200,
    chunks_at_once: int = 2,
    max_failed: float | str | None = 0.1,
    max_audio_hours: float | str | None = None,
    max_recording_hours: float | str = 24.0,
    resubmit: Sequence[str] | str = (),
    dry_run: bool | str = False,
    timeout: timedelta | float = timedelta(hours=24),
    poke_interval: timedelta | float = 30.0,
    partial_count: int = 200,
    partial_seconds: float = 300.0,
    url_validity: timedelta | float | str = timedelta(hours=6),
    public_urls: Mapping[str, str] | str | None = None,
    keep_raw: bool | str = False,
    outlets: Sequence[Asset] = (),
    group_id: str = "transcribe",
    **task_arguments: Any,
) -> TaskGroup:
    """
    Return the tasks that transcribe the recordings under a folder, each paid for once over all runs.

    ``list`` writes the recordings in chunks. For each chunk, ``submit`` sends what nobody has sent yet,
    ``land`` waits in the triggerer and lands transcripts as they finish, and ``finish`` says what has become
    of them: three task instances, two API calls a recording. ``report`` sums up.

    What the ledger knows costs nothing again, so the same folder may be listed by many runs, backfills and
    DAGs, also at the same time. One recording that is bad is a row with a reason and stops nothing.

    Every text may be a template, and every number, switch or list text that a template has rendered.

    :param path: The archive: ``s3://conn@bucket/2024/``, ``gs://…``, ``abfs://…`` or a local folder; see
        ``ListRecordingsOperator``.
    :param results_path: Folder that workers and triggerers share, for chunks and for finished transcripts
        until they are landed; private, since it holds transcripts.
    :param sql_conn_id: Connection of the warehouse.
    :param ledger_conn_id: Connection of the ledger: PostgreSQL, SQLite or DuckDB; by default the warehouse.
    :param plaud_conn_id: Connection of type ``plaud``.
    :param region: What you take that connection's region to be.
    :param pattern: Only recordings whose path below ``path`` matches.
    :param suffixes: Only names that end so.
    :param modified_after: Only recordings last changed then or later.
    :param modified_before: Only recordings last changed before.
    :param language: BCP-47 code; left out, Plaud detects it.
    :param speaker_diarization: Whether Plaud labels speakers.
    :param webhook_url: https URL to which Plaud posts results.
    :param schema: Schema of both tables of the warehouse.
    :param transcripts_table: Table for transcriptions.
    :param segments_table: Table for segments.
    :param chunk_size: Recordings per chunk.
    :param chunks_at_once: Chunks submitted at once, over all runs of the DAG: they share one quota, and more
        of them only hold more workers.
    :param max_failed: How many recordings of a chunk may fail before its ``finish`` does: a number, or below
        1 a share; ``None`` for any number.
    :param max_audio_hours: Audio hours that one run may submit; ``None`` for no limit.
    :param max_recording_hours: Longer recordings are refused.
    :param resubmit: What to pay for again: any of ``failed``, ``expired`` and ``unknown``.
    :param dry_run: Whether only to say what a run would do and cost.
    :param timeout: Seconds or timedelta from a chunk's first look to its deadline.
    :param poke_interval: Seconds or timedelta between two looks at the same transcription.
    :param partial_count: How many finished transcriptions are landed without waiting for more.
    :param partial_seconds: After how many seconds what has finished is landed.
    :param url_validity: How long Plaud has to fetch what is signed here.
    :param public_urls: From where Plaud can fetch local files; see ``SubmitTranscriptionOperator``.
    :param keep_raw: Whether finished transcripts stay at ``results_path`` after they are landed.
    :param outlets: Assets that a run updates; each gets the counts as ``extra`` of its event.
    :param group_id: Id of the group.
    :param task_arguments: Arguments for all tasks, such as ``retries``, ``queue`` or ``pool``.
    """
    plaud: dict[str, Any] = {"plaud_conn_id": plaud_conn_id, "region": region}
    chunk: dict[str, Any] = {
        # In Airflow's screens, instead of a number.
        "map_index_template": "{{ task.manifest.rpartition('/')[2].partition('.')[0] }}",
        "ledger_conn_id": ledger_conn_id if ledger_conn_id is not None else sql_conn_id,
        **plaud,
        **task_arguments,
    }
    landing: dict[str, Any] = {
        **chunk,
        "results_path": results_path,
        "sql_conn_id": sql_conn_id,
        "schema": schema,
        "transcripts_table": transcripts_table,
        "segments_table": segments_table,
        "keep_raw": keep_raw,
    }
    with TaskGroup(group_id) as group:
        listing = ListRecordingsOperator(
            task_id="list",
            path=path,
            results_path=results_path,
            pattern=pattern,
            suffixes=suffixes,
            modified_after=modified_after,
            modified_before=modified_before,
            chunk_size=chunk_size,
            sql_conn_id=sql_conn_id,
            **task_arguments,
        )

        @task_group(group_id="chunk")
        def transcribe_chunk(manifest: str) -> None:
            submit = SubmitRecordingsOperator(
                task_id="submit",
                manifest=manifest,
                language=language,
                speaker_diarization=speaker_diarization,
                webhook_url=webhook_url,
                url_validity=url_validity,
                public_urls=public_urls,
                resubmit=resubmit,
                max_audio_hours=max_audio_hours,
                max_recording_hours=max_recording_hours,
                plan_only=dry_run,
                max_active_tis_per_dag=chunks_at_once,
                **chunk,
            )
            land = LandRecordingsOperator(
                task_id="land",
                manifest=manifest,
                timeout=timeout,
                poke_interval=poke_interval,
                partial_count=partial_count,
                partial_seconds=partial_seconds,
                plan_only=dry_run,
                # What one attempt has submitted is waited for, whatever became of the rest.
                trigger_rule="all_done",
                **landing,
            )
            finish = FinishRecordingsOperator(
                task_id="finish", manifest=manifest, max_failed=max_failed, plan_only=dry_run, **landing
            )
            submit >> land >> finish

        chunks = transcribe_chunk.expand(manifest=listing.output)
        report = ReportRecordingsOperator(
            task_id="report",
            manifests=listing.output,
            # With the ids of groups around this one.
            list_task_id=f"{group.group_id}.list",
            submit_task_id=f"{group.group_id}.chunk.submit",
            finish_task_id=f"{group.group_id}.chunk.finish",
            outlets=list(outlets),
            **task_arguments,
        )
        chunks >> report
    return group
