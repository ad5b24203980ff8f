"""
Links on tasks: to their transcripts, and to the docs of their operator.

They belong to the plugin, not to the operators: the API server makes them when somebody looks at a task, also
while it waits, and no task has to store them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlencode

from airflow.sdk import BaseOperator, BaseOperatorLink

from plaud_provider.operators.approve_recordings import ApproveRecordingsOperator
from plaud_provider.operators.export_transcription import ExportTranscriptionOperator
from plaud_provider.operators.land_recordings import LandRecordingsOperator
from plaud_provider.operators.list_recordings import ListRecordingsOperator
from plaud_provider.operators.plan_recordings import PlanRecordingsOperator
from plaud_provider.operators.purge_transcriptions import PurgeTranscriptionsOperator
from plaud_provider.operators.report_recordings import ReportRecordingsOperator
from plaud_provider.operators.submit_recordings import SubmitRecordingsOperator
from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.sensors.transcription import TranscriptionSensor
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator
from plaud_provider.views.address import pages_path

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey

_DOCS: dict[type[BaseOperator], str] = {
    SubmitTranscriptionOperator: "submit",
    TranscriptionSensor: "wait",
    TranscriptionToSqlOperator: "load",
    ExportTranscriptionOperator: "load#files",
    ListRecordingsOperator: "archive",
    PlanRecordingsOperator: "archive",
    SubmitRecordingsOperator: "archive",
    LandRecordingsOperator: "archive",
    ReportRecordingsOperator: "archive",
    ApproveRecordingsOperator: "archive",
    PurgeTranscriptionsOperator: "privacy",
}


class TranscriptsLink(BaseOperatorLink):
    """Leads to the transcripts of a task instance."""

    name = "Plaud transcripts"
    operators: ClassVar[list[type[BaseOperator]]] = [
        SubmitTranscriptionOperator,
        SubmitRecordingsOperator,
        TranscriptionSensor,
        LandRecordingsOperator,
        TranscriptionToSqlOperator,
        ExportTranscriptionOperator,
    ]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address of the page, below Airflow's own."""
        key = {"dag_id": ti_key.dag_id, "run_id": ti_key.run_id, "task_id": ti_key.task_id}
        return f"{pages_path()}/transcripts?{urlencode({**key, 'map_index': ti_key.map_index})}"


class DocsLink(BaseOperatorLink):
    """Leads to the docs of an operator, as they come with the package that is installed."""

    name = "Plaud docs"
    operators: ClassVar[list[type[BaseOperator]]] = [*_DOCS]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address of the page, below Airflow's own."""
        pages = {one.__name__: page for one, page in _DOCS.items()}
        return f"{pages_path()}/docs/{pages[operator.task_type]}"
