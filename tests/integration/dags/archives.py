"""A second DAG over the same archive as ``plaud_transcribe_archive``: one line, and a notifier."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.providers.common.compat.notifier import BaseNotifier
from airflow.sdk import DAG, Param

from plaud_provider.task_groups.archive import transcribe_archive

if TYPE_CHECKING:
    from airflow.sdk import Context


class TellFile(BaseNotifier):
    """A notifier as those of Airflow's providers are: its text is a template."""

    template_fields: Sequence[str] = ("file", "text")

    def __init__(self, file: str, text: str) -> None:
        super().__init__()
        self.file = file
        self.text = text

    def notify(self, context: Context) -> None:
        Path(self.file).write_text(self.text)


tell = TellFile(
    file="{{ var.value.plaud_told }}/{{ run_id }}",
    text="{{ ti.xcom_pull(task_ids='transcribe.report', key='summary')['text'] }}",
)

with DAG(
    "archive_of_another_team",
    schedule=None,
    params={
        "archive": Param(type="string"),
        "chunk_size": Param(50, type="integer"),
        "results_path": Param(None, type=["null", "string"]),
    },
    default_args={"retries": 3, "retry_delay": timedelta(seconds=2)},
    on_success_callback=tell,
    on_failure_callback=tell,
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
