"""
What each process of an archive's run takes, beside those of rival (c).

``.venv/bin/python -m benchmarks.processes`` runs the tasks of an archive and those of rival (c) one after the
other, each in a process that is forked from one with what a worker of Airflow's LocalExecutor has imported,
and asks the system what it took. So nothing is estimated: no Airflow that idles is subtracted, as
``benchmarks.archive`` has to. Airflow's own part (scheduler, supervisor, API server) is left out of both.
PostgreSQL is ledger and warehouse, the emulator has no limits and takes 20 s for each recording.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import pickle
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.journey import PUBLIC_URL, context, event_of
from benchmarks.recordings import write_recordings
from benchmarks.start import WORKER
from benchmarks.tables import machine, table
from demo.emulator import Emulator
from demo.postgres import Postgres
from demo.processes import Supervisor

#: A budget that never holds anybody up.
NO_LIMIT = 1_000_000
PROCESSING_SECONDS = 20
OURS, RIVAL = "ours", "(c)"


class Run:
    """
    One run of a DAG, its tasks one after the other.

    :param make: Makes the DAG, as the process of a task does from its file.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._pushed: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
        #: CPU seconds of its processes, in their order.
        self.took: list[tuple[str, float]] = []

    def task(self, task_id: str, **attributes: Any) -> Any:
        """Run a task, each part of it in a process of its own, and return its result."""
        name = task_id.rpartition(".")[2]
        work: tuple[str, Any] = ("execute", {})
        while True:
            (end, *told), pushed = self._in_process(name, partial(self._part, task_id, attributes, *work))
            for key, value in pushed:
                self._pushed[task_id, key].append(value)
            if end == "done":
                return told[0]
            trigger, arguments, method, kwargs = told
            event = self._in_process("its trigger", partial(_event, trigger, arguments))
            work, name = (method, {**kwargs, "event": event}), f"{name.removesuffix(' goes on')} goes on"

    def _part(self, task_id: str, attributes: dict[str, Any], method: str, kwargs: dict[str, Any]) -> Any:
        from airflow.sdk.exceptions import TaskDeferred

        task = self._make().get_task(task_id)
        for name, value in attributes.items():
            setattr(task, name, value)
        told = context(task_id)
        pushed: list[tuple[str, Any]] = []
        told["run_id"] = "run"
        told["ti"].xcom_push = lambda key, value: pushed.append((key, value))
        told["ti"].xcom_pull = lambda task_ids, key: self._pushed[task_ids[0], key]
        told["ti"].get_ti_count = lambda **_: 1
        try:
            if method == "execute":
                ended: tuple[Any, ...] = ("done", task.execute(told))
            else:
                ended = ("done", task.resume_execution(method, kwargs, told))
        except TaskDeferred as deferred:
            trigger, arguments = deferred.trigger.serialize()
            ended = ("deferred", trigger, arguments, deferred.method_name, dict(deferred.kwargs or {}))
        return ended, pushed

    def _in_process(self, name: str, work: Callable[[], Any]) -> Any:
        with tempfile.NamedTemporaryFile() as file:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    Path(file.name).write_bytes(pickle.dumps(work()))
                    status = 0
                finally:
                    os._exit(status)
            _, status, used = os.wait4(child, 0)
            if status:
                raise RuntimeError(f"{name} has ended with {os.waitstatus_to_exitcode(status)}")
            answer = pickle.loads(Path(file.name).read_bytes())
        self.took.append((name, used.ru_utime + used.ru_stime))
        return answer


def _event(trigger: str, arguments: dict[str, Any]) -> Any:
    module, _, name = trigger.rpartition(".")
    return asyncio.run(event_of(getattr(importlib.import_module(module), name)(**arguments)))


def archive_dag(folder: Path, results: Path) -> Any:
    """Return ours, with its defaults."""
    from airflow.sdk import DAG

    from plaud_provider.task_groups.archive import transcribe_archive

    with DAG("ours", schedule=None) as dag:
        transcribe_archive(
            str(folder),
            results_path=str(results),
            sql_conn_id="warehouse",
            public_urls={str(folder): PUBLIC_URL},
            speaker_diarization=True,
        )
    return dag


def rival_dag(folder: Path) -> Any:
    """Return rival (c)."""
    from airflow.sdk import DAG

    from benchmarks.rivals import one_wait

    params = {"archive": str(folder), "public_url": PUBLIC_URL, "plaud_conn_id": "plaud_default"}
    with DAG("rival", schedule=None) as dag:
        submit = one_wait.submit.override(task_id="submit")(params)
        one_wait.WaitAndLoadOperator(task_id="wait", ids=submit, plaud_conn_id="plaud_default")
    return dag


def ours(folder: Path, results: Path) -> Run:
    """Run ours over a folder."""
    run = Run(partial(archive_dag, folder, results))
    [manifest] = run.task("transcribe.list")
    run.task("transcribe.chunk.submit", manifest=manifest)
    landed = run.task("transcribe.chunk.land", manifest=manifest)
    run.task("transcribe.report", manifests=[manifest])
    if landed["landed"] != landed["total"]:
        raise RuntimeError(f"Not all have landed: {landed}")
    return run


def rival(folder: Path) -> Run:
    """Run rival (c) over a folder."""
    run = Run(partial(rival_dag, folder))
    run.task("wait", ids=run.task("submit"))
    return run


def measured(count: int, root: Path, number: int) -> dict[str, list[tuple[str, float]]]:
    """Run both over so many new recordings; return what their processes took."""
    folder = root / f"calls_{count}_{number}"
    write_recordings(folder, count)
    took = {}
    for name, run in {OURS: partial(ours, results=root / f"{folder.name}_results"), RIVAL: rival}.items():
        with Supervisor() as supervisor:
            work = root / f"{folder.name}_{name.strip('()')}"
            work.mkdir()
            limits = ("--request-limit", "0", "--token-limit", "0")
            seconds = ("--processing-seconds", str(PROCESSING_SECONDS), "--processing-ratio", "0")
            emulator = Emulator(supervisor, folder, work, "--quiet", "--no-fetch", *limits, *seconds)
            plaud = emulator.connection()
            plaud["extra"]["requests_per_minute"] = NO_LIMIT
            os.environ["AIRFLOW_CONN_PLAUD_DEFAULT"] = json.dumps(plaud)
            took[name] = run(folder).took
    return took


def rows(counts: Sequence[int], repeat: int, root: Path) -> list[list[str]]:
    """Return a row for each process, the median of the repetitions, and what they are together."""
    found: dict[tuple[str, int], list[list[tuple[str, float]]]] = defaultdict(list)
    for count in counts:
        for number in range(repeat):
            for name, took in measured(count, root, number).items():
                found[name, count].append(took)
    lines = []
    totals: dict[tuple[str, int], float] = {}
    for name in (OURS, RIVAL):
        # Where it waits again, there are more of them.
        parts = list(dict.fromkeys(part for took in found[name, counts[0]] for part, _ in took))
        for part in parts:
            cells = [f"{name}: {part}"]
            for count in counts:
                each = [sum(s for other, s in took if other == part) for took in found[name, count]]
                cells.append(f"{statistics.median(each):.2f}")
            lines.append(cells)
        for count in counts:
            totals[name, count] = statistics.median(sum(s for _, s in took) for took in found[name, count])
        lines.append([f"{name}, together", *(f"{totals[name, count]:.2f}" for count in counts)])
    ratios = [f"{totals[OURS, count] / totals[RIVAL, count]:.1f}" for count in counts]
    return [*lines, ["ours against (c), times", *ratios]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.processes", description=__doc__)
    parser.add_argument("--recordings", type=int, nargs="*", default=[8, 200, 1000])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="plaud-benchmark-") as folder, ExitStack() as stack:
        # Airflow reads them when it is first imported.
        os.environ["AIRFLOW_HOME"] = folder
        os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "ERROR"
        root = Path(folder)
        server = Postgres(root / "postgres")
        stack.callback(server.stop)
        os.environ["AIRFLOW_CONN_WAREHOUSE"] = json.dumps(server.connection())
        print(machine("apache-airflow", "aiohttp", "requests", "sqlalchemy"), flush=True)
        for name in WORKER:
            importlib.import_module(name)
        # One run goes before, so that nobody pays for byte code and new tables.
        measured(1, root, 0)
        header = ("CPU seconds", *(f"{count:,} recordings" for count in options.recordings))
        title = f"The processes of one run; the median of {options.repeat}"
        print(table(title, header, rows(options.recordings, options.repeat, root)))


if __name__ == "__main__":
    main()
