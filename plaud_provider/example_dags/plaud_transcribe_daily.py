"""
Transcribe each day's folder of recordings.

For archives with a folder per day, such as `s3://aws_default@calls/2024-05-01/`. Each day has a run for its
folder, after it is over. Put the root, `s3://aws_default@calls/`, into the Airflow variable
`plaud_pay_for_daily`, then switch the DAG on. For days before, use `airflow backfill create`, or catch-up.

**What a run may pay for** is below the root that its own parameters name, else below that variable's. Setting
it is how you agree that runs which nobody starts pay for what is new there; as long as it is not set, they
fail and pay nothing.

- A run that is started by hand takes the folder of the day that you give, else that of its logical date.
- A day that is run again pays only for recordings that came since: the ledger, table `plaud_submissions`,
  knows all others.
- A day without a folder is a run without recordings.
- Days share the API's quota: more than a few at once are not faster.

Days are in UTC. Two more Airflow variables are read if they are there: `plaud_results_path` and
`plaud_public_urls`; see `plaud_transcribe_archive`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Asset, CronDataIntervalTimetable, Param

from plaud_provider.task_groups.archive import transcribe_archive
from plaud_provider.task_groups.consent import folder_to_pay_for
from plaud_provider.task_groups.form import LAKE, TERMS, UPLOAD, lake_params, option_params, results_folder

# A run's logical date is the day that it is for. One that is started by hand may have none.
DAY = (
    "(macros.datetime.strptime(params.day, '%Y-%m-%d') if params.day"
    " else dag_run.logical_date or dag_run.run_after)"
)

with DAG(
    dag_id="plaud_transcribe_daily",
    description="A folder of recordings per day in, transcripts in the warehouse",
    doc_md=__doc__,
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=datetime(2020, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=3,
    # It pays: somebody switches it on, and says for what.
    is_paused_upon_creation=True,
    user_defined_macros={"folder_to_pay_for": folder_to_pay_for},
    tags=["plaud", "transcription"],
    render_template_as_native_obj=True,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
    params={
        "root": Param(
            None,
            type=["null", "string"],
            title="Root",
            description="Folder of the days' folders; empty: what the variable plaud_pay_for_daily names",
        ),
        "day": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Day",
            description="Whose folder to take; empty: that of the run's logical date",
        ),
        "folder": Param(
            "%Y-%m-%d",
            type="string",
            minLength=1,
            title="Folder's name",
            description="With the codes of strftime, as in %Y/%m/%d",
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
        "resubmit": Param(
            [],
            type="array",
            items={"type": "string", "enum": ["failed", "expired", "unknown"]},
            title="Pay again for",
            description="Recordings of earlier runs that ended as failed, expired or unknown",
            examples=["failed", "expired", "unknown"],
        ),
        "max_failed": Param(
            0.1,
            type=["null", "number"],
            minimum=0,
            maximum=1_000_000,
            title="Bad recordings allowed",
            description="Of a run: a number, or below 1 a share; empty: any number",
        ),
        "sql_conn_id": Param("warehouse_default", type=["null", "string"], title="Warehouse connection"),
        **lake_params(),
        "ledger_conn_id": Param(
            None,
            type=["null", "string"],
            title="Ledger connection",
            description="PostgreSQL, MySQL, SQLite or DuckDB; empty: the warehouse",
        ),
        "plaud_conn_id": Param("plaud_default", type="string", title="Plaud connection"),
        **option_params(),
    },
):
    transcribe_archive(
        "{{ folder_to_pay_for(params.root, 'plaud_pay_for_daily') }}",
        # Not a part of the path: a day without a folder is nothing to do, a wrong root is an error.
        pattern=f"{{{{ {DAY}.strftime(params.folder).strip('/') }}}}/**",
        results_path=results_folder(),
        resubmit="{{ params.resubmit }}",
        max_failed="{{ params.max_failed }}",
        language="{{ params.language }}",
        speaker_diarization="{{ params.speaker_diarization }}",
        **TERMS,
        upload=UPLOAD,
        sql_conn_id="{{ params.sql_conn_id }}",
        **LAKE,
        ledger_conn_id="{{ params.ledger_conn_id or params.sql_conn_id }}",
        plaud_conn_id="{{ params.plaud_conn_id }}",
        public_urls="{{ var.value.get('plaud_public_urls', '') }}",
        outlets=[Asset("plaud_transcripts"), Asset("plaud_segments")],
    )
