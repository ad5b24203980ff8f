"""One recording through all three tasks, and waits without a chance to end."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.sensors.transcription import TranscriptionSensor
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator

with DAG(
    "recording",
    schedule=None,
    params={
        # The name of a variable: those are encrypted at rest, a run's configuration is not.
        "variable": Param("recording", type="string"),
        "plaud_conn_id": Param("plaud_default", type="string"),
        "sql_conn_id": Param("warehouse_default", type="string"),
        "on_unknown_submit": Param("fail", type="string"),
    },
    default_args={"retries": 1, "retry_delay": timedelta(seconds=1)},
):
    submit = SubmitTranscriptionOperator(
        task_id="submit",
        audio_url="{{ var.value.get(params.variable) }}",
        speaker_diarization=True,
        plaud_conn_id="{{ params.plaud_conn_id }}",
        on_unknown_submit="{{ params.on_unknown_submit }}",
    )
    wait = TranscriptionSensor(
        task_id="wait",
        transcription_id=submit.output,
        plaud_conn_id="{{ params.plaud_conn_id }}",
        poke_interval=1,
        timeout=120,
    )
    load = TranscriptionToSqlOperator(
        task_id="load",
        transcription_id=submit.output,
        audio_uri="{{ var.value.get(params.variable) }}",
        plaud_conn_id="{{ params.plaud_conn_id }}",
        sql_conn_id="{{ params.sql_conn_id }}",
    )
    wait >> load

with DAG("waits_in_vain", schedule=None, params={"transcription_id": Param("", type="string")}):
    for mode in ("deferrable", "poke", "reschedule"):
        TranscriptionSensor(
            task_id=mode,
            transcription_id="{{ params.transcription_id }}",
            deferrable=mode == "deferrable",
            mode="poke" if mode == "deferrable" else mode,
            poke_interval=2,
            timeout=6,
        )
