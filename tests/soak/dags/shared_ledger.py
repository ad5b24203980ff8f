"""Two archives over one folder and single submits of some of it, with the same options, over one ledger."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.sensors.transcription import TranscriptionSensor
from plaud_provider.task_groups.archive import transcribe_archive
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator

RESULTS = "{{ var.value.plaud_results_path }}"
PUBLIC_URLS = "{{ var.value.plaud_public_urls }}"
# Tasks are killed now and then.
DEFAULTS = {"retries": 30, "retry_delay": timedelta(seconds=1)}

for dag_id in ("shared_ledger_one", "shared_ledger_two"):
    with DAG(
        dag_id,
        schedule=None,
        params={
            "archive": Param(type="string"),
            "chunk_size": Param(50, type="integer"),
            "resubmit": Param("", type="string"),
        },
        default_args=DEFAULTS,
    ):
        transcribe_archive(
            "{{ params.archive }}",
            results_path=RESULTS,
            public_urls=PUBLIC_URLS,
            speaker_diarization=True,
            chunk_size="{{ params.chunk_size }}",
            resubmit="{{ params.resubmit }}",
            max_failed=None,
            poke_interval=2,
            partial_seconds=5,
        )

with DAG(
    "shared_ledger_single",
    schedule=None,
    params={"recordings": Param([], type="array")},
    default_args=DEFAULTS,
):

    @task
    def choose(params: Any = None) -> list[str]:
        return list(params["recordings"])

    recordings = choose()
    submit = SubmitTranscriptionOperator.partial(
        task_id="submit",
        public_urls=PUBLIC_URLS,
        speaker_diarization=True,
        ledger_conn_id="warehouse_default",
        max_active_tis_per_dag=4,
    ).expand(audio_url=recordings)
    wait = TranscriptionSensor(
        task_id="wait", transcription_id=submit.output, results_path=RESULTS, poke_interval=2
    )
    load = TranscriptionToSqlOperator(
        task_id="load",
        transcription_id=submit.output,
        audio_uri=recordings,
        results_path=RESULTS,
        ledger_conn_id="warehouse_default",
    )
    wait >> load
