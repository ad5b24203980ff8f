"""An archive, and waits that never end, while Plaud has trouble."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param
from airflow.sdk.exceptions import AirflowRescheduleException, TaskDeferred

from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.sensors.transcription import TranscriptionSensor
from plaud_provider.task_groups.archive import transcribe_archive

RESULTS = "{{ var.value.plaud_results_path }}"
PUBLIC_URLS = "{{ var.value.plaud_public_urls }}"


class TimedSensor(TranscriptionSensor):
    """
    A sensor that writes down when it began and when it ended, by the clock on the wall.

    :param times_path: File for it.
    """

    template_fields: Sequence[str] = (*TranscriptionSensor.template_fields, "times_path")

    def __init__(self, *, times_path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.times_path = times_path

    def execute(self, context: Any) -> Any:
        path = Path(self.times_path)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"began": time.time(), "timeout": self.timeout}))
        return self._timed(super().execute, context)

    def execute_complete(self, context: Any, event: Any = None, deadline: float = 0.0) -> Any:
        return self._timed(super().execute_complete, context, event, deadline)

    def _timed(self, work: Any, *arguments: Any) -> Any:
        try:
            return work(*arguments)
        except (TaskDeferred, AirflowRescheduleException):
            raise
        except BaseException as error:
            path = Path(self.times_path)
            times = json.loads(path.read_text())
            path.write_text(json.dumps({**times, "ended": time.time(), "error": type(error).__name__}))
            raise


with DAG(
    "trouble_archive",
    schedule=None,
    params={"archive": Param(type="string"), "chunk_size": Param(50, type="integer")},
    # While nobody may submit, a task that would fails soon. The delay is that of the DAGs that are shipped.
    default_args={"retries": 500, "retry_delay": timedelta(minutes=1)},
):
    transcribe_archive(
        "{{ params.archive }}",
        results_path=RESULTS,
        public_urls=PUBLIC_URLS,
        speaker_diarization=True,
        chunk_size="{{ params.chunk_size }}",
        max_failed=None,
        poke_interval=10,
        partial_seconds=20,
    )

MODES: dict[str, dict[str, Any]] = {
    "deferrable": {"deferrable": True},
    "poke": {"deferrable": False, "mode": "poke"},
    "reschedule": {"deferrable": False, "mode": "reschedule"},
}

with DAG("trouble_waits", schedule=None, params={"transcription_id": Param(type="string")}):
    for mode, arguments in MODES.items():
        for seconds in (5, 30):
            TimedSensor(
                task_id=f"{mode}_{seconds}",
                transcription_id="{{ params.transcription_id }}",
                plaud_conn_id="plaud_waits",
                times_path="{{ var.value.plaud_times_path }}/{{ run_id }}/{{ task.task_id }}",
                timeout=seconds,
                poke_interval=2,
                **arguments,
            )

with DAG("trouble_submit", schedule=None, params={"recording": Param(type="string")}):
    SubmitTranscriptionOperator(
        task_id="submit",
        audio_url="{{ params.recording }}",
        public_urls=PUBLIC_URLS,
        plaud_conn_id="plaud_waits",
        execution_timeout=timedelta(seconds=20),
    )
