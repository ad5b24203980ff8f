"""A small client of Airflow's REST API (v2), as much as driving a run needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

PAGE_SIZE = 100
TERMINAL_RUN_STATES = frozenset({"success", "failed"})


class AirflowApiError(RuntimeError):
    """Airflow refused a request."""

    def __init__(self, message: str, *, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


@dataclass(frozen=True)
class TaskInstance:
    """A task instance as the API shows it."""

    id: str
    task_id: str
    map_index: int
    state: str | None
    try_number: int
    rendered_map_index: str | None
    rendered_fields: dict[str, Any]
    pid: int | None

    @property
    def label(self) -> str:
        """The task's name as people see it: ``submit``, or ``submit [meeting.wav]`` for one of several."""
        if self.map_index < 0:
            return self.task_id
        return f"{self.task_id} [{self.rendered_map_index or self.map_index}]"


class AirflowApi:
    """Airflow's REST API as one user."""

    def __init__(self, base_url: str, *, username: str, password: str) -> None:
        self._username = username
        self._password = password
        # trust_env off: requests to our own server must not pass through a proxy.
        self._client = httpx.Client(base_url=base_url, timeout=30.0, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def health(self) -> dict[str, str | None]:
        """Return each component's status (``healthy``, ``unhealthy`` or None); empty if nobody answers."""
        try:
            # The API that tasks talk to builds itself at its first request. That takes 3 s of CPU, and a task
            # gives up after 5 s: better that we wait for it than the first task.
            tasks = self._client.get("/execution/health/ping")
            response = self._client.get("/api/v2/monitor/health")
        except httpx.TransportError:
            return {}
        if tasks.is_error or response.is_error:
            return {}
        components = {name: part["status"] for name, part in response.json().items() if part is not None}
        return {"api server": "healthy", **components}

    def living_jobs(self, job_type: str) -> set[int]:
        """Return ids of the component jobs of this type (``TriggererJob`` …) whose heartbeat is recent."""
        jobs = self.get("/jobs", job_type=job_type, job_state="running", is_alive=True, order_by="-id")[
            "jobs"
        ]
        return {job["id"] for job in jobs}

    def has_dag(self, dag_id: str) -> bool:
        """
        Tell whether the DAG has been parsed and stored.

        :raises RuntimeError: if a DAG file could not be imported, with its traceback
        """
        try:
            self.get(f"/dags/{dag_id}")
        except AirflowApiError as error:
            if error.status_code != httpx.codes.NOT_FOUND:
                raise
        else:
            return True
        errors = self.get("/importErrors")["import_errors"]
        if errors:
            raise RuntimeError("\n".join(f"{e['filename']}: {e['stack_trace']}" for e in errors))
        return False

    def create_connection(self, conn_id: str, connection: Mapping[str, Any]) -> None:
        """Store a connection in the metadata database; its fields as in the JSON of ``AIRFLOW_CONN_…``."""
        extra = connection.get("extra")
        self.request(
            "POST",
            "/connections",
            json={**connection, "connection_id": conn_id, "extra": json.dumps(extra) if extra else None},
        )

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None, *, run_id: str | None = None) -> str:
        """Start a run of a DAG, paused or not, and return its id."""
        self.request("PATCH", f"/dags/{dag_id}", json={"is_paused": False})
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf or {}}
        return str(self.request("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        return str(self.get(f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def clear(self, dag_id: str, run_id: str, task_ids: list[str], *, only_failed: bool = False) -> None:
        """Clear task instances of a run, so that they run again."""
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": task_ids, "only_failed": only_failed}
        self.request("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """Return all task instances of a run, rendered template fields included."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        return [
            TaskInstance(**{name: item[name] for name in TaskInstance.__dataclass_fields__})
            for item in self._pages(path, "task_instances")
        ]

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, key: str = "return_value"
    ) -> Any:
        """Return an XCom value in its native form."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.get(path, map_index=map_index)["value"]

    def task_log(
        self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, try_number: int = 1
    ) -> list[dict[str, Any]]:
        """Return the structured lines of a task's log, its trigger's included."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        content = self.get(path, map_index=map_index, full_content=True)["content"]
        return [line if isinstance(line, dict) else {"event": line} for line in content]

    def get(self, path: str, **query: Any) -> Any:
        return self.request("GET", path, params=query)

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        """
        Send a request below ``/api/v2`` and return its parsed body.

        :raises AirflowApiError: for any status of 400 and above
        """
        if "Authorization" not in self._client.headers:
            self._log_in()
        response = self._client.request(method, f"/api/v2{path}", **arguments)
        _raise_for_status(response)
        return response.json() if response.content else None

    def _log_in(self) -> None:
        response = self._client.post(
            "/auth/token", json={"username": self._username, "password": self._password}
        )
        _raise_for_status(response)
        self._client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"

    def _pages(self, path: str, key: str) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            page = self.get(path, limit=PAGE_SIZE, offset=offset)
            yield from page[key]
            offset += PAGE_SIZE
            if offset >= page["total_entries"]:
                return


def _raise_for_status(response: httpx.Response) -> None:
    if response.is_error:
        asked = f"{response.request.method} {response.request.url.path}"
        raise AirflowApiError(
            f"{asked}: {response.status_code} {response.text[:500]}", status_code=response.status_code
        )
