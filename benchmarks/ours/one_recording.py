"""Ours for one recording: README's three tasks, in each mode of the sensor."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param

from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.sensors.transcription import TranscriptionSensor
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator

RESULTS = "{{ params.results_path }}"
MODES: dict[str, dict[str, Any]] = {
    "one_deferred": {},
    "one_deferred_kept": {"results_path": RESULTS},
    "one_poke": {"deferrable": False, "mode": "poke", "results_path": RESULTS},
    "one_reschedule": {"deferrable": False, "mode": "reschedule", "results_path": RESULTS},
}

for dag_id, mode in MODES.items():
    with DAG(
        dag_id,
        schedule=None,
        params={
            name: Param(type="string")
            for name in ("archive", "public_url", "plaud_conn_id", "http_conn_id", "results_path")
        },
    ):
        submit = SubmitTranscriptionOperator(
            task_id="submit",
            audio_url="{{ params.archive }}/call-00000.wav",
            public_urls="{{ {params.archive: params.public_url} | tojson }}",
            plaud_conn_id="{{ params.plaud_conn_id }}",
            speaker_diarization=True,
            ledger_conn_id="warehouse",
        )
        wait = TranscriptionSensor(
            task_id="wait",
            transcription_id=submit.output,
            plaud_conn_id="{{ params.plaud_conn_id }}",
            **mode,
        )
        load = TranscriptionToSqlOperator(
            task_id="load",
            transcription_id=submit.output,
            plaud_conn_id="{{ params.plaud_conn_id }}",
            sql_conn_id="warehouse",
            ledger_conn_id="warehouse",
            results_path=mode.get("results_path"),
            on_failed="fail",
        )
        wait >> load
