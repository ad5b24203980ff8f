"""What Airflow gives a running task, as far as our tasks use it. The real thing runs in tests/integration."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from airflow.sdk.execution_time import context as execution_context
from airflow.sdk.execution_time.context import OutletEventAccessors


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


def bring_never_expire(setattr: Callable[[Any, str, Any], None] = setattr) -> None:
    """
    Airflow 3.2 has neither a task state store nor this constant of it: our stand-in brings both.

    What follows from there being none is tested in tests/dags/test_attempts.py.
    """
    if not hasattr(execution_context, "NEVER_EXPIRE"):
        setattr(execution_context, "NEVER_EXPIRE", timedelta.max)


@dataclass
class TaskInstance:
    """
    The part of Airflow's task instance that tasks of ours use.

    :param first_reschedule: When it was first rescheduled.
    :param others: XComs of other tasks of the run, by task id and key: one for each that was pushed.
    :param states: States of other task instances of the run, by task id.
    """

    dag_id: str = "dag"
    run_id: str = "run"
    task_id: str = "task"
    map_index: int | None = -1
    try_number: int = 1
    max_tries: int = 0
    first_reschedule: datetime | None = None
    others: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    states: dict[str, list[str]] = field(default_factory=dict)
    pushed: dict[str, str] = field(default_factory=dict)

    def get_first_reschedule_date(self, context: Any) -> datetime | None:
        return self.first_reschedule

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = json.dumps(value)

    def xcom_pull(self, *, task_ids: list[str], key: str) -> list[Any]:
        return [value for task_id in task_ids for value in self.others.get((task_id, key), [])]

    def get_ti_count(
        self, *, dag_id: str, task_ids: list[str], run_ids: list[str], states: Collection[str]
    ) -> int:
        if (dag_id, run_ids) != (self.dag_id, [self.run_id]):
            return 0
        return sum(state in states for task_id in task_ids for state in self.states.get(task_id, []))

    def xcom(self, key: str) -> Any:
        """Return what the task has pushed."""
        return json.loads(self.pushed[key])


def task_context(store: TaskStateStore | None, *, run_type: str = "manual", **instance: Any) -> Any:
    """
    Return a task's context.

    :param instance: Values of its :class:`TaskInstance`.
    """
    ti = TaskInstance(**instance)
    context: dict[str, Any] = {
        "ti": ti,
        "task_instance": ti,
        "dag_run": SimpleNamespace(run_type=run_type),
        "outlet_events": OutletEventAccessors(),
    }
    if store is not None:
        context["task_state_store"] = store
    return context


def event_of(trigger: Any) -> Any:
    """Run a trigger to its end, as a triggerer does, and return the payload of its one event."""

    async def run() -> Any:
        # As they are stored in between.
        _, arguments = trigger.serialize()
        again = type(trigger)(**json.loads(json.dumps(arguments)))
        [payload] = [event.payload async for event in again.run()]
        return json.loads(json.dumps(payload))

    return asyncio.run(run())
