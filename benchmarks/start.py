"""
What a start costs: every task is a new process, and imports its DAG file and all that it needs again.

``.venv/bin/python -m benchmarks.start`` measures imports in fresh processes: what our tasks import beyond
Airflow's HTTP hook, what a DAG file of ours costs beyond Airflow itself, and the same of what one would write
today. CPU, not wall time; the median.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from benchmarks.tables import machine, table
from demo.processes import child_environment

REPOSITORY = Path(__file__).resolve().parent.parent

#: What any process of a worker has imported before it comes to the DAG file of its task.
WORKER = (
    "airflow.executors.local_executor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.dag_processing.dagbag",
)
#: What a triggerer has imported before it comes to a trigger.
TRIGGERER = ("airflow.jobs.triggerer_job_runner",)
#: What whoever parses DAG files has imported.
PARSER = (
    *WORKER,
    "airflow.dag_processing.processor",
    "airflow.sdk.definitions.decorators",
    "airflow.sdk.bases.sensor",
)
HTTP_HOOK = ("airflow.providers.http.hooks.http",)
POSTGRES_HOOK = ("airflow.providers.postgres.hooks.postgres",)
# What a task imports while it runs is not seen by its import alone. So it is listed too, as it was found in
# `sys.modules` at the end of real tasks of the DAG files below, on PostgreSQL.
#: What opens the file of tokens.
CIPHER = "cryptography.fernet"
DATABASE = (
    "plaud_provider.database.connections",
    "plaud_provider.database.database",
    "plaud_provider.database.postgresql",
)
LEDGER = ("plaud_provider.ledger.ledger", "plaud_provider.ledger.table", *DATABASE)
WAREHOUSE = ("plaud_provider.warehouse.writer", "plaud_provider.warehouse.loaders.rows")
TASKS: dict[str, tuple[str, ...]] = {
    "SubmitTranscriptionOperator": (
        "plaud_provider.operators.transcription",
        "plaud_provider.submit.single",
        "plaud_provider.submit.stop",
        "plaud_provider.hooks.plaud",
        CIPHER,
    ),
    "TranscriptionSensor": ("plaud_provider.sensors.transcription", "plaud_provider.hooks.plaud", CIPHER),
    "TranscriptionToSqlOperator": (
        "plaud_provider.transfers.transcription_to_sql",
        "plaud_provider.transfers.landing",
        "plaud_provider.handover.kept_results",
        *WAREHOUSE,
        *LEDGER,
        "plaud_provider.hooks.plaud",
        CIPHER,
    ),
    "archive: list": (
        "plaud_provider.operators.list_recordings",
        "plaud_provider.recordings.listing",
        "plaud_provider.handover.manifest",
        "plaud_provider.hooks.connection",
        "plaud_provider.submit.settled",
        "plaud_provider.submit.plan",
        *WAREHOUSE,
        *LEDGER,
    ),
    "archive: submit": (
        "plaud_provider.operators.submit_recordings",
        "plaud_provider.submit.chunk",
        *LEDGER,
        "plaud_provider.hooks.plaud_async",
        CIPHER,
    ),
    "archive: land": (
        "plaud_provider.operators.land_recordings",
        "plaud_provider.handover.manifest",
        "plaud_provider.handover.kept_results",
        "plaud_provider.hooks.connection",
        "plaud_provider.transfers.landing",
        *WAREHOUSE,
        *LEDGER,
    ),
    "archive: report": (
        "plaud_provider.operators.report_recordings",
        "plaud_provider.handover.manifest",
        "plaud_provider.handover.sweep",
        "plaud_provider.hooks.connection",
        *LEDGER,
    ),
}
TRIGGER = ("plaud_provider.triggers.transcription", "plaud_provider.hooks.plaud_async", CIPHER)
RIVAL_TASKS = {
    "rival (a): HttpOperator": ("airflow.providers.http.operators.http",),
    "rival (a): HttpSensor": ("airflow.providers.http.sensors.http",),
    "rival (a): load": ("pandas", *POSTGRES_HOOK),
}
DAG_FILES = {
    "plaud_transcribe_recording": REPOSITORY / "dags" / "plaud_transcribe_recording.py",
    "plaud_transcribe_archive": REPOSITORY / "dags" / "plaud_transcribe_archive.py",
    "rival (a)": REPOSITORY / "benchmarks" / "rivals" / "http_sensor.py",
    "rival (b)": REPOSITORY / "benchmarks" / "rivals" / "requests_threads.py",
}
OURS = "plaud_provider"
#: What the import system calls for a module that is not there yet.
LOAD = "_find_and_load"


def measure(before: Sequence[str], modules: Sequence[str], dag_file: str | None) -> dict[str, Any]:
    """Import and say what it took; runs in a process of its own."""
    import _frozen_importlib

    for name in before:
        importlib.import_module(name)
    own: defaultdict[str, float] = defaultdict(float)
    open_imports: list[float] = []
    find_and_load = getattr(_frozen_importlib, LOAD)

    def metered(name: str, import_: Any) -> Any:
        began = time.process_time()
        open_imports.append(0.0)
        try:
            return find_and_load(name, import_)
        finally:
            took = time.process_time() - began
            own[_group(name)] += took - open_imports.pop()
            if open_imports:
                open_imports[-1] += took

    known = set(sys.modules)
    setattr(_frozen_importlib, LOAD, metered)
    began = time.process_time()
    for name in modules:
        importlib.import_module(name)
    if dag_file is not None:
        SourceFileLoader("dag_file", dag_file).load_module()
    took = time.process_time() - began
    new = [name for name in sys.modules if name not in known]
    return {
        "ms": took * 1000,
        "ours_ms": own[OURS] * 1000,
        "modules": len(new),
        "ours": sum(_group(name) == OURS for name in new),
        "others": {name: seconds * 1000 for name, seconds in own.items() if name != OURS},
    }


def _group(module: str) -> str:
    top, *rest = module.split(".")
    return ".".join([top, *rest[:2]]) if module.startswith("airflow.providers.") else top


def median(
    before: Sequence[str], modules: Sequence[str], *, repeat: int, home: Path, dag_file: Path | None = None
) -> list[str]:
    argument = json.dumps([before, modules, None if dag_file is None else str(dag_file)])
    env = child_environment({"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"})
    measured = []
    # Once more than counted: the first may have to write byte code.
    for _ in range(repeat + 1):
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.start", "--child", argument],
            stdout=subprocess.PIPE,
            text=True,
            env=env,
            cwd=REPOSITORY,
            check=True,
        )
        measured.append(json.loads(child.stdout.splitlines()[-1]))
    del measured[0]
    others = {
        name: statistics.median(one["others"].get(name, 0.0) for one in measured)
        for name in measured[0]["others"]
    }
    largest = sorted(others.items(), key=lambda item: -item[1])[:3]
    return [
        f"{statistics.median(one['ms'] for one in measured):.0f}",
        f"{statistics.median(one['ours_ms'] for one in measured):.0f}",
        f"{measured[0]['modules']}",
        f"{measured[0]['ours']}",
        ", ".join(f"{name} {ms:.0f}" for name, ms in largest if ms >= 1),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.start", description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="fresh processes per figure")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        print(json.dumps(measure(*json.loads(options.child))))
        return
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    print(machine("apache-airflow", "apache-airflow-providers-http", "sqlalchemy"))
    print(f"CPU milliseconds, the median of {options.repeat} fresh processes")
    header = ("imports", "CPU ms", "of which ours", "modules", "of which ours", "most of the rest, ms")
    with tempfile.TemporaryDirectory(prefix="plaud-benchmark-") as folder:
        home = Path(folder)
        known = (*WORKER, *HTTP_HOOK)
        with_sql = (*known, *POSTGRES_HOOK)

        def row(
            name: str, before: Sequence[str], modules: Sequence[str], file: Path | None = None
        ) -> list[str]:
            print(f"  {name}", file=sys.stderr, flush=True)
            return [name, *median(before, modules, repeat=options.repeat, home=home, dag_file=file)]

        base = [
            row("Airflow's HTTP hook, in a worker", WORKER, HTTP_HOOK),
            row("then Airflow's PostgreSQL hook", known, POSTGRES_HOOK),
        ]
        tasks = [row(name, with_sql, modules) for name, modules in TASKS.items()]
        tasks.append(row("trigger, in a triggerer", (*TRIGGERER, *HTTP_HOOK), TRIGGER))
        rivals = [row(name, WORKER, modules) for name, modules in RIVAL_TASKS.items()]
        files = [row(name, PARSER, (), file) for name, file in DAG_FILES.items()]
    print(table("What Airflow's own hooks cost", header, base))
    print(table("Tasks, beyond a worker with both hooks", header, tasks))
    print(table("The rival's tasks, beyond a worker without any", header, rivals))
    print(table("DAG files, beyond what a DAG processor has imported", header, files))


if __name__ == "__main__":
    main()
