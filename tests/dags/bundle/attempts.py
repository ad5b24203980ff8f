"""Submits and waits with several attempts, to see what each knows of the one before."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task

from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.sensors.transcription import TranscriptionSensor

AT_ONCE = {"retries": 1, "retry_delay": timedelta(0)}


class MortalOperator(SubmitTranscriptionOperator):
    """Dies in its first attempt, before or after it has submitted."""

    def __init__(self, *, dies: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dies = dies

    def execute(self, context: Any) -> str:
        is_first = context["ti"].try_number == 1
        if is_first and self.dies == "before":
            raise RuntimeError("the first attempt dies")
        transcription_id = super().execute(context)
        if is_first and self.dies == "after":
            raise RuntimeError("the first attempt dies")
        return transcription_id


for dies in (None, "before", "after"):
    with DAG(
        f"submit_dies_{dies}" if dies else "submit",
        schedule=None,
        default_args=AT_ONCE,
        params={"on_unknown_submit": Param("fail", type="string")},
    ):

        @task
        def has_state_store() -> bool:
            return "task_state_store" in get_current_context()

        submit = MortalOperator(
            task_id="submit",
            audio_url="https://calls.example/1.mp3",
            on_unknown_submit="{{ params.on_unknown_submit }}",
            dies=dies,
        )
        has_state_store() >> submit


class FrankSensor(TranscriptionSensor):
    """Says when its wait will end, and dies in its first attempt if asked to."""

    def __init__(self, *, dies: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dies = dies

    def poke(self, context: Any) -> Any:
        self.log.info("The wait ends at %.3f.", self._wait.deadline)
        if self.dies and context["ti"].try_number == 1:
            raise RuntimeError("the first attempt dies")
        return super().poke(context)


for name, arguments in {
    "deferrable": {},
    "poke": {"deferrable": False},
    "reschedule": {"deferrable": False, "mode": "reschedule"},
    "retried": {"deferrable": False, "dies": True, **AT_ONCE},
}.items():
    with DAG(f"wait_{name}", schedule=None, params={"transcription_id": Param("", type="string")}):
        FrankSensor(
            task_id="wait",
            transcription_id="{{ params.transcription_id }}",
            poke_interval=1,
            timeout=3,
            **arguments,  # type: ignore[arg-type]
        )
