"""
Transcribe one recording, from a form.

Give a recording (M4A, MP3 or WAV): a pre-signed `https://` URL, or a storage reference such as
`s3://calls/2024/0001.mp3`, which is signed right before Plaud is asked. Its transcript becomes a row of
`plaud_transcripts`, and its segments rows of `plaud_segments`, in the warehouse of your choice.

- **check** opens warehouse and ledger, looks at their tables and reads the Plaud connection, before anything
  is paid.
- **submit** checks the recording and the language, then sends the recording to Plaud, once. This is what
  Plaud bills, by audio length. The ledger keeps it from being paid for twice: the same recording triggered
  again, or found in an archive, costs nothing.
- **wait** waits in the triggerer, without holding a worker.
- **load** replaces this transcription's rows: running it again changes nothing. If Plaud could not transcribe
  the recording, its row says why, and the run is red.

Airflow variables that are read if they are there: `plaud_results_path`, a folder that workers and triggerers
share (default: `plaud_results` in the Airflow home); `plaud_url_validity`, for how many seconds storage
references are signed (default 21600), and `plaud_public_urls`, from where Plaud can fetch local files, as in
`{"/data/calls/": "https://files.example/calls/"}`.

What you enter stays in the run's configuration as long as Airflow keeps the run: prefer a storage reference
over a pre-signed URL.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.sensors.transcription import TranscriptionSensor
from plaud_provider.task_groups.form import TERMS, UPLOAD, option_params, results_folder
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator

#: Where the look that finds a transcription finished keeps it for the task that loads.
RESULTS = results_folder()
LEDGER = "{{ params.ledger_conn_id or params.sql_conn_id }}"
# ISO 639-1 codes for the form; the operator takes any BCP-47 tag.
LANGUAGES = {
    "ar": "Arabic",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "hi": "Hindi",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "nl": "Dutch",
    "pt": "Portuguese",
    "ru": "Russian",
    "zh": "Chinese",
}

with DAG(
    dag_id="plaud_transcribe_recording",
    description="One recording in, its transcript in the warehouse",
    doc_md=__doc__,
    schedule=None,
    tags=["plaud", "transcription"],
    render_template_as_native_obj=True,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
    params={
        "recording": Param(
            type="string",
            minLength=1,
            title="Recording",
            description="M4A, MP3 or WAV: a pre-signed https:// URL, or a reference (s3://, gs://, abfs://)",
        ),
        "language": Param(
            # Not "": the form takes an empty text for a missing one and does not trigger.
            None,
            type=["null", "string"],
            enum=[None, *LANGUAGES],
            values_display={"null": "detect it", **LANGUAGES},
            title="Language",
            description="What is spoken",
        ),
        "speaker_diarization": Param(
            True, type="boolean", title="Speakers", description="Tell speakers apart and label them"
        ),
        "sql_conn_id": Param(
            "warehouse_default",
            type="string",
            title="Warehouse",
            description="Id of a connection to a SQL database",
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
            items={"type": "string", "enum": ["failed", "expired"]},
            title="Pay again for",
            description="What ended so before",
            examples=["failed", "expired"],
        ),
        "plaud_conn_id": Param(
            "plaud_default",
            type="string",
            title="Plaud connection",
            description="Id of a connection of type Plaud",
        ),
        **option_params(),
    },
):

    @task(retries=0)
    def check(params: dict[str, Any]) -> None:
        """Open the warehouse and read the Plaud connection before anything is paid for."""
        from plaud_provider.hooks.plaud import PlaudHook
        from plaud_provider.ledger.ledger import open_ledger
        from plaud_provider.warehouse.writer import open_warehouse

        open_warehouse(params["sql_conn_id"])
        open_ledger(params["ledger_conn_id"] or params["sql_conn_id"])
        region = PlaudHook(params["plaud_conn_id"]).region
        print(f"The recording goes to Plaud region {region!r}.")

    submit = SubmitTranscriptionOperator(
        task_id="submit",
        audio_url="{{ params.recording }}",
        language="{{ params.language }}",
        speaker_diarization="{{ params.speaker_diarization }}",
        **TERMS,
        upload=UPLOAD,
        ledger_conn_id=LEDGER,
        resubmit="{{ params.resubmit }}",
        plaud_conn_id="{{ params.plaud_conn_id }}",
        url_validity="{{ var.value.get('plaud_url_validity', 6 * 3600) }}",
        public_urls="{{ var.value.get('plaud_public_urls', '') }}",
    )
    wait = TranscriptionSensor(
        task_id="wait",
        transcription_id=submit.output,
        plaud_conn_id="{{ params.plaud_conn_id }}",
        on_failed="continue",
        results_path=RESULTS,
        poke_interval=10,
    )
    load = TranscriptionToSqlOperator(
        task_id="load",
        transcription_id=submit.output,
        audio_uri="{{ params.recording }}",
        sql_conn_id="{{ params.sql_conn_id }}",
        ledger_conn_id=LEDGER,
        results_path=RESULTS,
        on_failed="fail",
        plaud_conn_id="{{ params.plaud_conn_id }}",
    )
    check() >> submit >> wait >> load
