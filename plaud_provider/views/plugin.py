"""
What Airflow's UI and API server get from this package: pages, and an application below ``/plaud``.

Every Airflow process imports this module, tasks too. So it imports nothing that they do not have anyway:
FastAPI and the pages come with the application, which only the API server asks for.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.providers.common.compat.sdk import AirflowPlugin

from plaud_provider.views.address import PREFIX, pages_path


class PlaudPlugin(AirflowPlugin):
    """
    Plaud in Airflow's UI.

    Airflow finds it by the entry point ``airflow.plugins``. It is not in :func:`.get_provider_info` as well:
    Airflow would load it twice, and report the second one as an error.
    """

    name = "plaud"

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The application of the pages and of the receiver."""
        from plaud_provider.views.app import create_app

        return [{"app": create_app(), "url_prefix": PREFIX, "name": "Plaud"}]

    @cached_property
    def operator_extra_links(self) -> list[Any]:  # type: ignore[override]
        """Links on the tasks of our operators, for who looks at one."""
        from plaud_provider.views.links import DocsLink, TranscriptsLink

        return [TranscriptsLink(), DocsLink()]

    @cached_property
    def external_views(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Where Airflow shows the pages: in its navigation, and as tabs of runs and task instances."""
        pages = pages_path()
        run = "dag_id={DAG_ID}&run_id={RUN_ID}"
        return [
            {
                "name": "Plaud",
                "href": f"{pages}/ledger",
                "destination": "nav",
                "category": "browse",
                "url_route": "plaud",
            },
            {
                "name": "Plaud recordings",
                "href": f"{pages}/ledger?{run}",
                "destination": "dag_run",
                "url_route": "plaud-recordings",
            },
            {
                "name": "Plaud transcripts",
                "href": f"{pages}/transcripts?{run}",
                "destination": "dag_run",
                "url_route": "plaud-transcripts",
            },
            {
                "name": "Plaud transcripts",
                "href": f"{pages}/transcripts?{run}&task_id={{TASK_ID}}&map_index={{MAP_INDEX}}",
                "destination": "task_instance",
                "url_route": "plaud-task-transcripts",
            },
        ]
