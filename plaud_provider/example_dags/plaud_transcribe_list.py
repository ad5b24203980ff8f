"""
Transcribe a list of recordings.

Give the URLs of recordings (M4A, MP3 or WAV; pre-signed `https://` URLs): their transcripts become rows of
`plaud_transcripts` and `plaud_segments`.

- **list** leaves out what has landed before, and writes the rest in chunks.
- **submit** sends each recording of a chunk to Plaud, once. This is what Plaud bills, by audio length. The
  ledger keeps a recording from being paid for twice, in this run, in another one or in an archive.
- **land** waits for all of them in the triggerer, without holding a worker, and lands each as it finishes.
- **report** sums up. If a recording failed, the run is red, with the reason; all others have landed.

What Plaud cannot transcribe becomes a row too, with `status = 'failed'` and its `error`. What cannot be sent,
as its link has expired, stops nothing either: sign it again and trigger the DAG again.

It needs a connection of type `plaud` and a SQL connection for the warehouse. What you enter as *recordings*
stays in the run's configuration, signatures included, as long as Airflow keeps the run: let the URLs expire
soon. References into storage, such as `s3://connection@bucket/call.mp3`, are signed when they are submitted.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from plaud_provider.task_groups.archive import transcribe_recordings
from plaud_provider.task_groups.form import LAKE, TERMS, UPLOAD, lake_params, option_params, results_folder

with DAG(
    dag_id="plaud_transcribe_list",
    description="Recordings in, transcripts in the warehouse",
    doc_md=__doc__,
    schedule=None,
    tags=["plaud", "transcription"],
    # A list stays a list and None stays None in what templates give.
    render_template_as_native_obj=True,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
    params={
        "recordings": Param(
            type="array",
            items={"type": "string", "minLength": 1},
            minItems=1,
            title="Recordings",
            description="M4A, MP3 or WAV files, one a line: URLs, s3://, gs:// or abfs:// references, paths",
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
        "ledger_conn_id": Param(
            None,
            type=["null", "string"],
            title="Ledger",
            description="Keeps a recording from being paid for twice: PostgreSQL, MySQL, SQLite or DuckDB; "
            "empty: the warehouse",
        ),
        "resubmit": Param(
            [],
            type="array",
            items={"type": "string", "enum": ["failed", "expired", "unknown"]},
            title="Pay again for",
            description="What ended so before",
            examples=["failed", "expired", "unknown"],
        ),
        "plaud_conn_id": Param("plaud_default", type="string", title="Plaud connection"),
        "sql_conn_id": Param("warehouse_default", type=["null", "string"], title="Warehouse connection"),
        **lake_params(),
        **option_params(),
    },
):
    transcribe_recordings(
        "{{ params.recordings }}",
        # Where what has finished is kept until it is landed.
        results_path=results_folder(),
        resubmit="{{ params.resubmit }}",
        # One that Plaud cannot transcribe makes the run red; it does not keep the others from landing.
        max_failed=0,
        language="{{ params.language }}",
        speaker_diarization="{{ params.speaker_diarization }}",
        **TERMS,
        upload=UPLOAD,
        sql_conn_id="{{ params.sql_conn_id }}",
        **LAKE,
        ledger_conn_id="{{ params.ledger_conn_id or params.sql_conn_id }}",
        plaud_conn_id="{{ params.plaud_conn_id }}",
        public_urls="{{ var.value.get('plaud_public_urls', '') }}",
        # Lists are short, and somebody waits for them: what has finished is landed after ten seconds.
        poke_interval=10,
        partial_seconds=10,
    )
