"""Say what the recordings of a chunk would cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from plaud_provider.operators.submit_recordings import SubmitRecordingsOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class PlanRecordingsOperator(SubmitRecordingsOperator):
    """
    Say what ``SubmitRecordingsOperator`` would submit of a chunk, and how long that is.

    **Pays nothing, whatever it is told:** no argument, template or default makes it submit. It asks the
    ledger and reads the headers of what is new; Plaud is asked for nothing.

    Takes the arguments of ``SubmitRecordingsOperator`` except ``plan_only``, and returns the same counts
    except ``submitted``. What is new depends on them as it does there: another ``language`` or
    ``speaker_diarization`` is another recording.
    """

    template_fields: Sequence[str] = tuple(
        name for name in SubmitRecordingsOperator.template_fields if name != "plan_only"
    )
    ui_color = "#f1f3f4"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(plan_only=True, **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        """Say what is new."""
        # Also if somebody has set it after the task was made.
        self.plan_only = True
        return super().execute(context)
