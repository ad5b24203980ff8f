"""
How far a reader has to go who follows one recording through the archive tasks.

``.venv/bin/python -m benchmarks.journey`` lists a folder with one recording, submits it, waits for it, and
lands it, all in one process, against the package's emulator. It counts the files of the package that are
passed, the functions that are called, and the changes of file: steps into another file than the step before
in the same thread and asyncio task. A step is a call, or a generator or coroutine that goes on. What Airflow,
SQLAlchemy and other libraries do does not count, nor do imports and the emulator.

A rule that stands in the file that one reads costs nothing to look up. At each change of file a reader has to
find the place, and to keep in mind where they came from.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import pkgutil
import platform
import tempfile
import wave
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from benchmarks.tables import table
from benchmarks.tracer import Tracer, Walk

if TYPE_CHECKING:
    from airflow.sdk import DAG

CONN_ID = "journey_warehouse"
DATABASES = ("sqlite", "duckdb", "postgres")
#: By what the table calls them, their ids below that of their group.
TASKS = {"list": "list", "submit": "chunk.submit", "wait and land": "chunk.land"}
HEADER = ("task", "files", "functions called", "changes of file")
PAIRS_HEADER = ("busiest pairs of files", "changes between them")
PUBLIC_URL = "https://files.example"


class TaskState:
    """Airflow's task state store, in memory."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self._values[key]) if key in self._values else default

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        self._values[key] = json.dumps(value)


class SlowLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock hardly moves: which of its timers come before an answer is by chance."""

    def time(self) -> float:
        return super().time() / 10


class SlowLoops(asyncio.DefaultEventLoopPolicy):
    """Has ``asyncio.run`` take such loops."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return SlowLoop()


def context(task_id: str) -> Any:
    """Return what Airflow gives a task, as far as ours use it."""
    ti = SimpleNamespace(
        dag_id="journey",
        run_id="run",
        task_id=task_id,
        map_index=0,
        try_number=1,
        max_tries=0,
        get_first_reschedule_date=lambda context: None,
        xcom_push=lambda key, value: json.dumps(value),
    )
    return {
        "ti": ti,
        "task_instance": ti,
        "dag_run": SimpleNamespace(run_type="manual"),
        "task_state_store": TaskState(),
    }


def archive_dag(folder: Path, results: Path) -> DAG:
    """Return the tasks of an archive, as a user has them."""
    from airflow.sdk import DAG

    from plaud_provider.task_groups.archive import transcribe_archive

    with DAG("journey", schedule=None) as dag:
        transcribe_archive(
            str(folder),
            results_path=str(results),
            sql_conn_id=CONN_ID,
            public_urls={str(folder): PUBLIC_URL},
            # The first look is made at once, and there is no other.
            poke_interval=0.001,
        )
    return dag


def run(task: Any, settle: Callable[[], object]) -> Any:
    """
    Run a task as Airflow does: where it defers, its trigger, then the rest of it.

    :param settle: Waits until Plaud has done what it was asked to do.
    """
    from airflow.sdk.exceptions import TaskDeferred

    told = context(task.task_id)
    work: Callable[[], Any] = partial(task.execute, told)
    while True:
        try:
            return work()
        except TaskDeferred as deferred:
            settle()
            arguments = {**(deferred.kwargs or {}), "event": asyncio.run(event_of(deferred.trigger))}
            work = partial(task.resume_execution, deferred.method_name, arguments, told)


async def event_of(trigger: Any) -> Any:
    """Run a trigger to its end, as a triggerer does, and return the payload of its one event."""
    _, arguments = trigger.serialize()
    again = type(trigger)(**json.loads(json.dumps(arguments)))
    [payload] = [event.payload async for event in again.run()]
    return json.loads(json.dumps(payload))


def walks(database: str, root: Path, stack: ExitStack) -> dict[str, Walk]:
    """Send one recording through all tasks, and return what was walked in each."""
    import plaud_provider
    from plaud_provider.emulator.server import EmulatorServer
    from plaud_provider.emulator.settings import Settings
    from plaud_provider.triggers import transcription as trigger_module

    load_everything()
    settings = Settings(
        fetch_audio=False, request_limit=0, token_limit=0, processing_seconds=0, processing_ratio=0
    )
    server = stack.enter_context(EmulatorServer(settings))
    os.environ["AIRFLOW_CONN_PLAUD_DEFAULT"] = server.airflow_connection
    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = json.dumps(connection(database, root, stack))
    write_recording(root / "calls" / "call.wav")
    dag = archive_dag(root / "calls", root / "results")
    asyncio.set_event_loop_policy(SlowLoops())
    # No worker has to end before the trigger's event.
    trigger_module.WORKER_SECONDS = 0.0
    tracer = Tracer(Path(plaud_provider.__file__).parent, leave_out=("emulator",))
    walked: dict[str, Walk] = {}
    manifests: list[str] = []
    returned: Any = None
    for name, task_id in TASKS.items():
        task: Any = dag.get_task(f"transcribe.{task_id}")
        if manifests:
            [task.manifest] = manifests
        with tracer.following() as walk:
            returned = run(task, server.settle)
        walked[name] = walk
        manifests = manifests or returned
    if (returned["total"], returned["landed"]) != (1, 1):
        raise RuntimeError(f"The recording has not landed: {returned}")
    return walked


def connection(database: str, root: Path, stack: ExitStack) -> dict[str, Any]:
    """Return the Airflow connection to a new database, which is warehouse and ledger."""
    if database != "postgres":
        return {"conn_type": database, "host": str(root / f"warehouse.{database}")}
    from demo.postgres import Postgres

    server = Postgres(root / "postgres")
    stack.callback(server.stop)
    return server.connection()


def write_recording(path: Path) -> None:
    """Write a second of silence."""
    path.parent.mkdir()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(b"\x80" * 8000)


def load_everything() -> None:
    """Import all modules of the package: when a module is first imported is no part of the way."""
    import plaud_provider

    for module in pkgutil.walk_packages(plaud_provider.__path__, f"{plaud_provider.__name__}."):
        # What needs an extra that is not installed is not passed either.
        if not module.name.endswith("__main__"):
            with suppress(ImportError):
                importlib.import_module(module.name)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.journey", description=__doc__)
    parser.add_argument("--database", choices=DATABASES, default=DATABASES[0], help="warehouse and ledger")
    parser.add_argument("--task", choices=TASKS, help="show only this one; all run")
    parser.add_argument("--pairs", type=int, default=10, help="pairs of files to show, the busiest first")
    parser.add_argument("--calls", action="store_true", help="show all steps too, in the order of reading")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="plaud-benchmark-")))
        # Airflow reads them when it is first imported.
        os.environ["AIRFLOW_HOME"] = str(root / "airflow")
        os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "CRITICAL"
        walked = walks(options.database, root, stack)
    shown = {options.task: walked[options.task]} if options.task else walked
    if options.calls:
        for name, walk in shown.items():
            print(f"\n{name}", *walk.steps, sep="\n  ")
    total = sum(shown.values(), Walk())
    rows = [
        [name, f"{len(walk.files)}", f"{walk.functions:,}", f"{walk.changes.total():,}"]
        for name, walk in {**shown, **({} if options.task else {"in all": total})}.items()
    ]
    conditions = f"on {options.database}, Python {platform.python_version()}"
    print(table(f"One recording through the archive tasks, {conditions}", HEADER, rows))
    pairs = total.changes.most_common(options.pairs)
    if pairs:
        print(table("Pairs", PAIRS_HEADER, [[" and ".join(pair), f"{count:,}"] for pair, count in pairs]))


if __name__ == "__main__":
    main()
