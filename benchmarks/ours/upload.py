"""Ours: a local recording that Plaud cannot fetch, converted and uploaded."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from plaud_provider.operators.transcription import SubmitTranscriptionOperator

with DAG("ours_upload", schedule=None, params={"recording": Param(type="string")}):
    SubmitTranscriptionOperator(
        task_id="submit", audio_url="{{ params.recording }}", upload="always", ledger_conn_id="ledger"
    )
