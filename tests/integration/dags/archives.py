"""A second DAG over the same archive as ``plaud_transcribe_archive``, by the factory in one line."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from plaud_provider.task_groups.archive import transcribe_archive

with DAG(
    "archive_of_another_team",
    schedule=None,
    params={
        "archive": Param(type="string"),
        "chunk_size": Param(50, type="integer"),
        "results_path": Param(None, type=["null", "string"]),
    },
    default_args={"retries": 3, "retry_delay": timedelta(seconds=2)},
):
    transcribe_archive(
        "{{ params.archive }}",
        results_path="{{ params.results_path or var.value.plaud_results_path }}",
        public_urls="{{ var.value.plaud_public_urls }}",
        speaker_diarization=True,
        chunk_size="{{ params.chunk_size }}",
        max_failed=None,
        poke_interval=2,
    )
