"""What Airflow gives a running task, as far as our tasks use it. The real thing runs in tests/integration."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any


class TaskStateStore:
    """Keeps JSON text like Airflow's store, so that nothing but JSON survives a "process"."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.rows[key]) if key in self.rows else default

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        if value is None:
            raise ValueError("Cannot set value as None")
        self.rows[key] = json.dumps(value)

    @property
    def text(self) -> str:
        return json.dumps(self.rows)


def task_context(
    store: TaskStateStore | None,
    *,
    try_number: int = 1,
    max_tries: int = 0,
    first_reschedule: datetime | None = None,
) -> Any:
    ti = SimpleNamespace(
        dag_id="dag",
        run_id="run",
        try_number=try_number,
        max_tries=max_tries,
        get_first_reschedule_date=lambda context: first_reschedule,
    )
    context: dict[str, Any] = {"ti": ti, "task_instance": ti}
    if store is not None:
        context["task_state_store"] = store
    return context
