"""
What the largest transcript takes of a worker's memory: the loader lands one answer, in a process of its own.

``.venv/bin/python -m benchmarks.memory`` keeps an answer of so many bytes at ``results_path``, as a wait
does, and lands it from there. Its peak is measured beyond what the process had with all imports done and a
small transcript landed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.journey import DATABASES, connection
from benchmarks.recordings import transcript
from benchmarks.tables import machine, table
from demo.processes import child_environment

if TYPE_CHECKING:
    from plaud_provider.api.models import Transcription

HEADER = ("warehouse", "answer MB", "segments", "peak MB beyond imports", "times the answer", "CPU s")
MEGABYTE = 2**20


def keep(results_path: Path, transcription_id: str, size: int) -> Transcription:
    """Keep a completed answer of about so many bytes, and return it."""
    from plaud_provider.api.answers import parse_transcription
    from plaud_provider.handover.kept_results import ResultStore

    rng = random.Random(size)
    of_hundred = len(json.dumps(transcript(rng, 100)))
    segments = max(1, size * 100 // of_hundred)
    known = {"transcriptionId": transcription_id, "status": "completed", "duration": segments * 5.0}
    kept = parse_transcription(json.dumps({**known, **transcript(rng, segments)}).encode())
    ResultStore(str(results_path)).save(kept, "us")
    return kept


def land(results_path: str) -> dict[str, float]:
    """Land what is kept there; runs in a process of its own."""
    from plaud_provider.handover.kept_results import ResultStore
    from plaud_provider.hooks.connection import PlaudConnection
    from plaud_provider.transfers.landing import Lander
    from plaud_provider.warehouse.writer import open_warehouse

    lander = Lander(
        open_warehouse("warehouse"),
        PlaudConnection("plaud_default"),
        results=ResultStore(results_path),
        dag_id="memory",
        run_id="memory",
    )
    lander.land({"small": None})
    before, busy = resident("VmRSS"), time.process_time()
    lander.land({"large": None})
    return {"peak": resident("VmHWM") - before, "cpu": time.process_time() - busy}


def resident(which: str) -> int:
    """Return resident memory in bytes; unlike ``ru_maxrss``, its peak begins anew with the program."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which)]
    return int(line.split()[1]) * 1024


def measured(database: str, megabytes: int) -> list[str]:
    """Land an answer in a new database; return a row of the table."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="plaud-benchmark-")))
        results = root / "results"
        keep(results, "small", 1000)
        kept = keep(results, "large", megabytes * MEGABYTE)
        plaud = {"conn_type": "plaud", "login": "client", "password": "secret", "extra": {"region": "us"}}
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", "--child", str(results)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env=child_environment(
                {
                    "AIRFLOW_HOME": str(root),
                    "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
                    "AIRFLOW_CONN_PLAUD_DEFAULT": json.dumps(plaud),
                    "AIRFLOW_CONN_WAREHOUSE": json.dumps(connection(database, root, stack)),
                }
            ),
        )
    taken = json.loads(child.stdout.splitlines()[-1])
    return [
        database,
        f"{len(kept.raw) / MEGABYTE:.0f}",
        f"{len(kept.segments):,}",
        f"{taken['peak'] / MEGABYTE:.0f}",
        f"{taken['peak'] / len(kept.raw):.1f}",
        f"{taken['cpu']:.1f}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.memory", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100, help="size of the answer")
    parser.add_argument("--database", choices=DATABASES, help="only this one")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        print(json.dumps(land(options.child)))
        return
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    print(machine("apache-airflow", "duckdb", "psycopg2-binary", "sqlalchemy"))
    databases = [options.database] if options.database else DATABASES
    rows = [measured(database, options.megabytes) for database in databases]
    print(table("Landing one long transcript", HEADER, rows))


if __name__ == "__main__":
    main()
