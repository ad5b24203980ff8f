"""
Transcribe a list of recordings.

Give the URLs of recordings (M4A, MP3 or WAV; pre-signed `https://` URLs): their transcripts become rows of
`plaud_transcripts` and `plaud_segments`.

- **submit** sends each recording to Plaud, once. This is what Plaud bills, by audio length. The ledger keeps
  a recording from being paid for twice, in this run, in another one or in an archive.
- **wait** waits for all of them in the triggerer, without holding a worker.
- **load** replaces the rows of these transcriptions: running it again changes nothing.

What Plaud cannot transcribe becomes a row too, with `status = 'failed'` and its `error`, and the run is red
once all others have landed. If a recording cannot be submitted, nothing is lost: correct the cause, clear
that task, and the run goes on.

It needs a connection of type `plaud` and a SQL connection for the warehouse. What you enter as *recordings*
stays in the run's configuration, signatures included, as long as Airflow keeps the run: let the URLs expire
soon.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.sensors.transcription import TranscriptionSensor
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator

RESULTS_PATH = os.path.join(os.environ.get("AIRFLOW_HOME", os.path.expanduser("~/airflow")), "plaud_results")
#: Where the look that finds a transcription finished keeps it for the task that loads.
RESULTS = f"{{{{ var.value.get('plaud_results_path', '{RESULTS_PATH}') }}}}"
LEDGER = "{{ params.ledger_conn_id or params.sql_conn_id }}"

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
            # Airflow's limit for one mapped task.
            maxItems=1000,
            title="Recordings",
            description="URLs of M4A, MP3 or WAV files, one a line",
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
            items={"type": "string", "enum": ["failed", "expired"]},
            title="Pay again for",
            description="What ended so before",
            examples=["failed", "expired"],
        ),
        "plaud_conn_id": Param("plaud_default", type="string", title="Plaud connection"),
        "sql_conn_id": Param("warehouse_default", type="string", title="Warehouse connection"),
    },
):

    @task
    def options(params: dict[str, Any]) -> list[dict[str, Any]]:
        """
        Return what to ask for, once per recording.

        The URLs themselves stay in the run's configuration: what tasks return is stored in plain text, which
        is no place for the signature of a pre-signed URL.
        """
        chosen = {"language": params["language"], "speaker_diarization": params["speaker_diarization"]}
        return [chosen] * len(params["recordings"])

    submit = SubmitTranscriptionOperator.partial(
        task_id="submit",
        audio_url="{{ params.recordings[ti.map_index] }}",
        ledger_conn_id=LEDGER,
        resubmit="{{ params.resubmit }}",
        plaud_conn_id="{{ params.plaud_conn_id }}",
        # The file's name, without the query that a signature would be in.
        map_index_template="{{ params.recordings[ti.map_index].split('?')[0].split('/')[-1] }}",
    ).expand_kwargs(options())

    wait = TranscriptionSensor(
        task_id="wait",
        transcription_id=submit.output,
        plaud_conn_id="{{ params.plaud_conn_id }}",
        # One recording that Plaud cannot transcribe does not keep the others out of the warehouse.
        on_failed="continue",
        # Short recordings are ready soon. The connection's budget keeps long lists from asking too often.
        results_path=RESULTS,
        poke_interval=10,
    )

    load = TranscriptionToSqlOperator(
        task_id="load",
        transcription_id=submit.output,
        audio_uri="{{ params.recordings }}",
        sql_conn_id="{{ params.sql_conn_id }}",
        ledger_conn_id=LEDGER,
        results_path=RESULTS,
        on_failed="fail",
        plaud_conn_id="{{ params.plaud_conn_id }}",
    )

    wait >> load
