"""A task in a process of its own, as Airflow runs it: ``python -m tests.unit.operators.fresh_process``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[3]
#: How the names of the classes begin.
OPERATORS = "plaud_provider.operators."


def loaded_by(
    operator: str, arguments: dict[str, Any], *, method: str = "execute", **told: Any
) -> tuple[set[str], Any]:
    """
    Run a task in a new process, and return the modules that it has loaded, and what it returned.

    :param operator: Module and class of its operator.
    :param arguments: Arguments of the operator.
    :param method: What is called.
    :param told: What that is told besides the context.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps([operator, arguments, method, told])],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    modules, returned = json.loads(done.stdout.splitlines()[-1])
    return set(modules), returned


def main() -> None:
    from airflow.sdk._shared.module_loading import import_string
    from airflow.sdk.exceptions import TaskDeferred

    from tests.unit.tasks import TaskStateStore, bring_never_expire, task_context

    bring_never_expire()
    operator, arguments, method, told = json.loads(sys.argv[1])
    task = import_string(OPERATORS + operator)(task_id="task", **arguments)
    context = task_context(TaskStateStore(), map_index=0)
    returned: Any
    try:
        returned = getattr(task, method)(context, **told)
    except TaskDeferred as deferred:
        returned = deferred.trigger.serialize()
    print()
    print(json.dumps([sorted(sys.modules), returned]))


if __name__ == "__main__":
    main()
