"""Two DAGs that start when something new is in a folder, over one ledger; and one of single recordings."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Asset, AssetWatcher, task

from plaud_provider.hooks.plaud import PlaudHook
from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.sensors.transcription import TranscriptionSensor
from plaud_provider.task_groups.archive import transcribe_archive
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator
from plaud_provider.triggers.new_recordings import NewRecordingsTrigger

FOLDER = "s3://aws_default@calls/arrivals/"
arrived = NewRecordingsTrigger(path=FOLDER, poll_interval=5)
calls = Asset("arrived_calls", watchers=[AssetWatcher(name="arrived_calls", trigger=arrived)])

for dag_id in ("arrivals_one", "arrivals_two"):
    with DAG(
        dag_id,
        schedule=[calls],
        catchup=False,
        max_active_runs=1,
        default_args={"retries": 10, "retry_delay": timedelta(seconds=1)},
    ):
        transcribe_archive(
            FOLDER,
            results_path="{{ var.value.plaud_results_path }}",
            chunk_size=100,
            max_failed=None,
            poke_interval=5,
            partial_seconds=5,
        )

with DAG("single_calls", schedule=None):
    submit = SubmitTranscriptionOperator(
        task_id="submit",
        audio_url="s3://aws_default@calls/singles/single-0.wav",
        ledger_conn_id="warehouse_default",
    )
    wait = TranscriptionSensor(task_id="wait", transcription_id=submit.output, poke_interval=2)
    load = TranscriptionToSqlOperator(
        task_id="load",
        transcription_id=submit.output,
        audio_uri="s3://aws_default@calls/singles/single-0.wav",
        ledger_conn_id="warehouse_default",
    )
    wait >> load

    @task
    def by_hook() -> str:
        with PlaudHook() as hook:
            known = hook.transcribe("s3://aws_default@calls/singles/single-1.wav", poke_interval=2)
            return known.transcription_id

    by_hook()
