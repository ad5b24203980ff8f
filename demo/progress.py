"""What the demo prints while a run goes on: a line when something has changed."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from demo.airflow_api import TaskInstance

# States that pass in a moment are not worth a line.
SHOWN_STATES = {
    "running": "running",
    "deferred": "deferred: the triggerer waits, no worker is held",
    "up_for_retry": "failed, to be tried again",
    "success": "success",
    "failed": "failed",
    "skipped": "skipped",
    "upstream_failed": "not run, a task before it failed",
}
WAIT_PROGRESS = re.compile(r"\d+/\d+ completed.*")


class Progress:
    """Prints lines with the seconds since the start."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._shown: dict[tuple[str, str], str] = {}

    def __call__(self, line: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {line}", flush=True)

    def tasks(self, instances: Iterable[TaskInstance]) -> None:
        """Print what has changed about the tasks of a run."""
        tasks: dict[str, list[TaskInstance]] = {}
        for instance in instances:
            tasks.setdefault(instance.task_id, []).append(instance)
        for task_id, members in tasks.items():
            self._print_changed(task_id, "state", _summary(members))

    def log_lines(self, task_id: str, files: Iterable[Path]) -> None:
        """Print the newest progress line of a waiting task's log."""
        lines = [found.group() for line in read_events(files) if (found := WAIT_PROGRESS.search(line))]
        if lines:
            self._print_changed(task_id, "progress", lines[-1])

    def _print_changed(self, task_id: str, what: str, line: str) -> None:
        if line and self._shown.get((task_id, what)) != line:
            self._shown[task_id, what] = line
            self(f"{task_id}: {line}")


def _summary(members: list[TaskInstance]) -> str:
    """Return the state of a task, or how many of a mapped task's instances are in which."""
    if len(members) == 1:
        return SHOWN_STATES.get(members[0].state or "", "")
    counts = Counter(member.state for member in members)
    parts = [f"{counts['success']}/{len(members)}"]
    parts += [f"{counts[state]} {state}" for state in ("up_for_retry", "failed", "skipped") if counts[state]]
    return ", ".join(parts)


def read_events(files: Iterable[Path]) -> Iterator[str]:
    """Yield the lines of task logs, which are JSON objects, as a person would read them."""
    for file in files:
        for line in file.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                yield line
                continue
            event = str(entry.get("event", line))
            # Markers by which Airflow's UI folds the log.
            if not event.startswith(("::group::", "::endgroup::")):
                yield event
            for error in entry.get("error_detail") or []:
                yield f"  {error.get('exc_type')}: {error.get('exc_value')}"
