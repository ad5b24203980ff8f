"""
Say what transcribing an archive would cost. Nothing is paid for.

Give a folder of recordings as for `plaud_transcribe_archive`, and trigger it: no task of this DAG can submit
anything, whatever it is told, so neither switching it on nor a lost parameter costs anything.

- **list** asks ledger and warehouse what is known already, and writes the rest in chunks.
- **plan** reads the headers of what is new. Plaud is not asked.
- **report** sums up: how many recordings are new, and how many audio hours they have.

Language, speakers and the Plaud connection are part of what a recording is: give what you will transcribe
with. Then trigger `plaud_transcribe_archive` with the same folder.

Two Airflow variables are read if they are there: `plaud_results_path` and `plaud_public_urls`; see
`plaud_transcribe_archive`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from plaud_provider.operators.list_recordings import ListRecordingsOperator
from plaud_provider.operators.plan_recordings import PlanRecordingsOperator
from plaud_provider.operators.report_recordings import ReportRecordingsOperator
from plaud_provider.task_groups.form import (
    LAKE,
    TERMS,
    UPLOAD,
    chunk_size_param,
    lake_params,
    option_params,
    results_folder,
)

with DAG(
    dag_id="plaud_plan_archive",
    description="An archive of recordings in, what it would cost out",
    doc_md=__doc__,
    schedule=None,
    tags=["plaud", "transcription"],
    render_template_as_native_obj=True,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
    params={
        "archive": Param(
            type="string",
            minLength=1,
            title="Archive",
            description="Folder of recordings: s3://connection@bucket/folder/, gs://, abfs:// or a local one",
        ),
        "pattern": Param(
            None,
            type=["null", "string"],
            title="Only paths like",
            description="Below the archive, as in **/sales-*.mp3; empty: all M4A, MP3 and WAV files",
        ),
        "resubmit": Param(
            [],
            type="array",
            items={"type": "string", "enum": ["failed", "expired", "unknown"]},
            title="Count as new",
            description="Recordings of earlier runs that ended as failed, expired or unknown",
            examples=["failed", "expired", "unknown"],
        ),
        "language": Param(
            None,
            type=["null", "string"],
            title="Language",
            description="BCP-47 code such as en, ja or pt-BR; empty: Plaud detects it",
        ),
        "speaker_diarization": Param(
            True, type="boolean", title="Speakers", description="Tell speakers apart and label them"
        ),
        "chunk_size": chunk_size_param(),
        "ledger_conn_id": Param(
            "warehouse_default",
            type="string",
            title="Ledger connection",
            description="PostgreSQL, MySQL, SQLite or DuckDB; the warehouse, unless the ledger is elsewhere",
        ),
        "sql_conn_id": Param(
            "warehouse_default",
            type=["null", "string"],
            title="Warehouse connection",
            description="Where transcripts are to land: what is there already costs nothing",
        ),
        **lake_params(
            "Folder where they are to land beside the warehouse or, with no "
            "warehouse connection, instead of it; empty: none"
        ),
        "plaud_conn_id": Param("plaud_default", type="string", title="Plaud connection"),
        **option_params(),
    },
):
    # What a recording is, and what is known of it: the same for all tasks.
    known = {
        "resubmit": "{{ params.resubmit }}",
        "language": "{{ params.language }}",
        "speaker_diarization": "{{ params.speaker_diarization }}",
        **TERMS,
        "ledger_conn_id": "{{ params.ledger_conn_id }}",
        "sql_conn_id": "{{ params.sql_conn_id }}",
        **LAKE,
        "plaud_conn_id": "{{ params.plaud_conn_id }}",
        "public_urls": "{{ var.value.get('plaud_public_urls', '') }}",
    }
    results_path = results_folder()
    listing = ListRecordingsOperator(
        task_id="list",
        path="{{ params.archive }}",
        results_path=results_path,
        pattern="{{ params.pattern }}",
        chunk_size="{{ params.chunk_size }}",
        upload=UPLOAD,
        **known,
    )
    plan = PlanRecordingsOperator.partial(task_id="plan", **known).expand(manifest=listing.output)
    report = ReportRecordingsOperator(
        task_id="report",
        manifests=listing.output,
        results_path=results_path,
        ledger_conn_id="{{ params.ledger_conn_id }}",
        sql_conn_id="{{ params.sql_conn_id }}",
        **LAKE,
        list_task_id="list",
        submit_task_id="plan",
        land_task_id="plan",
        plan_only=True,
    )
    plan >> report
