"""
Transcribe an archive.

Give a folder of recordings (M4A, MP3 or WAV): `s3://aws_default@calls/2024/`, `gs://…`, `abfs://…`, or a
local folder. Transcripts become rows of `plaud_transcripts` and `plaud_segments` as they finish.

- **list** writes the recordings in chunks.
- **submit** sends what nobody has sent yet, inside the API's quota. This is what Plaud bills, by audio
  length. The ledger, table `plaud_submissions`, keeps a recording from being paid for twice, whichever run or
  DAG comes to it: run the same folder again and only what is new is paid for.
- **land** waits in the triggerer, without holding a worker, and lands transcripts as they finish.
- **report** sums up, judges and clears up. A recording that is bad is a row of the
  ledger with its reason and stops nothing.

To know beforehand how many recordings are new, and how many audio hours they have, trigger the DAG
`plaud_plan_archive`: it has no task that pays.

**What a run may pay for** is the archive that its own parameters name. A run that names none, as a scheduled
one does, pays for the folder in the Airflow variable `plaud_pay_for_archive`. Setting it is how you agree to
that, once; as long as it is not set, such a run fails and pays nothing. With it, and switched on, the DAG
runs every day, and pays for what is new in that folder.

**In a backfill**, *changed in the run's interval* takes only recordings that were last changed in that run's
data interval; otherwise each run lists the whole folder.

Two more Airflow variables are read if they are there: `plaud_results_path`, a folder that workers and
triggerers share (default: `plaud_results` in the Airflow home, which only one machine has), and
`plaud_public_urls`, from where Plaud can fetch local files, as in
`{"/data/calls/": "https://files.example/calls/"}`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Asset, CronDataIntervalTimetable, Param

from plaud_provider.task_groups.archive import transcribe_archive
from plaud_provider.task_groups.consent import folder_to_pay_for
from plaud_provider.task_groups.form import (
    LAKE,
    TERMS,
    UPLOAD,
    chunk_size_param,
    lake_params,
    option_params,
    results_folder,
)

# Empty in a run that has no interval, and where the whole folder is asked for.
IN_INTERVAL = (
    "{{ dag_run.data_interval_%s or '' if params.in_interval and dag_run.run_type != 'manual' else '' }}"
)

with DAG(
    dag_id="plaud_transcribe_archive",
    description="An archive of recordings in, transcripts in the warehouse",
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
        "archive": Param(
            None,
            type=["null", "string"],
            title="Archive",
            description="Folder of recordings: s3://connection@bucket/folder/, gs://, abfs:// or a "
            "local one; empty: what the Airflow variable plaud_pay_for_archive names",
        ),
        "pattern": Param(
            None,
            type=["null", "string"],
            title="Only paths like",
            description="Below the archive, as in **/sales-*.mp3; empty: all M4A, MP3 and WAV files",
        ),
        "in_interval": Param(
            False,
            type="boolean",
            title="Changed in the run's interval",
            description="For backfills: only recordings last changed in the run's data interval",
        ),
        "max_audio_hours": Param(
            None,
            type=["null", "number"],
            minimum=0,
            maximum=1_000_000,
            title="Audio hours at most",
            description="What goes beyond is not submitted; empty: no limit",
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
        "max_changed": Param(
            20,
            type=["null", "number"],
            minimum=0,
            maximum=1_000_000,
            title="Changed recordings allowed",
            description="Paid for before, and their files have another version now: a number, or below 1 a "
            "share; 0: never; empty: any number",
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
        "{{ folder_to_pay_for(params.archive, 'plaud_pay_for_archive') }}",
        results_path=results_folder(),
        pattern="{{ params.pattern }}",
        modified_after=IN_INTERVAL % "start",
        modified_before=IN_INTERVAL % "end",
        # Not in the form, as a backfill's form would drop it: plaud_plan_archive plans. Who passes it all the
        # same does not mean to pay.
        dry_run="{{ params.get('dry_run', False) }}",
        max_audio_hours="{{ params.max_audio_hours }}",
        resubmit="{{ params.resubmit }}",
        max_failed="{{ params.max_failed }}",
        max_changed="{{ params.max_changed }}",
        language="{{ params.language }}",
        speaker_diarization="{{ params.speaker_diarization }}",
        **TERMS,
        upload=UPLOAD,
        chunk_size="{{ params.chunk_size }}",
        sql_conn_id="{{ params.sql_conn_id }}",
        **LAKE,
        ledger_conn_id="{{ params.ledger_conn_id or params.sql_conn_id }}",
        plaud_conn_id="{{ params.plaud_conn_id }}",
        public_urls="{{ var.value.get('plaud_public_urls', '') }}",
        outlets=[Asset("plaud_transcripts"), Asset("plaud_segments")],
    )
