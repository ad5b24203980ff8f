"""
What the upload of a large WAV takes of a worker's memory, as MP3 that is made on the way.

``.venv/bin/python -m benchmarks.upload`` starts a real Airflow (LocalExecutor) and an emulator of the API
``embedded``, each in processes of their own, and has ``SubmitTranscriptionOperator`` upload a recording of
noise, which compresses worst. What counts is the peak of the task's process, beside a worker that does
nothing. It is a copy of the scheduler's process and shares most of its memory with it: RSS counts that whole
for each, PSS a part of it, and what is its own is private.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import wave
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.archive import progress
from benchmarks.runs import every
from benchmarks.tables import machine, table
from demo.emulator import Emulator
from demo.processes import Supervisor
from demo.stack import AirflowStack

HERE = Path(__file__).resolve().parent
MEGABYTE = 2**20
HEADER = ("process", "RSS MB", "PSS MB", "private MB")


def write_noise(file: Path, megabytes: int) -> None:
    """Write a WAV of so many megabytes."""
    rng = random.Random(megabytes)
    with wave.open(str(file), "wb") as recording:
        recording.setnchannels(2)
        recording.setsampwidth(2)
        recording.setframerate(44_100)
        for _ in range(megabytes):
            recording.writeframes(rng.randbytes(MEGABYTE))


class Peaks:
    """The most that each worker process of an Airflow has had, in bytes, by process id."""

    def __init__(self, airflow: AirflowStack) -> None:
        self._scheduler = airflow.component("scheduler")
        self.by_pid: dict[int, tuple[int, int, int]] = {}

    def look(self) -> None:
        """Look at them now."""
        for process in self._scheduler.members():
            with suppress(psutil.Error):
                self._note(process)

    def _note(self, process: psutil.Process) -> None:
        if "airflow worker" in " ".join(process.cmdline()):
            memory = process.memory_full_info()
            now, before = (memory.rss, memory.pss, memory.uss), self.by_pid.get(process.pid, (0, 0, 0))
            self.by_pid[process.pid] = tuple(map(max, now, before))  # type: ignore[assignment]


def row(name: str, peak: Sequence[int]) -> list[str]:
    return [name, *(f"{one / MEGABYTE:.0f}" for one in peak)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.upload", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300, help="size of the WAV")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    os.environ["API"] = "embedded"
    print(machine("apache-airflow", "apache-airflow-providers-http", "requests", "av"))
    with tempfile.TemporaryDirectory(prefix="plaud-benchmark-") as folder, Supervisor() as supervisor:
        root = Path(folder)
        for name in ("store", "work"):
            (root / name).mkdir()
        recording = root / "noise.wav"
        write_noise(recording, options.megabytes)
        emulator = Emulator(supervisor, root / "store", root / "work", "--quiet")
        ledger = {"conn_type": "sqlite", "host": str(root / "ledger.sqlite")}
        env = {
            "AIRFLOW_CONN_PLAUD_DEFAULT": json.dumps(emulator.connection()),
            "AIRFLOW_CONN_LEDGER": json.dumps(ledger),
            "PYTHONPATH": str(HERE.parent),
        }
        with AirflowStack(root / "airflow", [HERE / "ours"], env=env, on_progress=progress) as airflow:
            peaks = Peaks(airflow)
            with every(0.1, peaks.look):
                run_id = airflow.trigger("ours_upload", {"recording": str(recording)})
                state = airflow.wait_for_run("ours_upload", run_id, timeout=900)
        accepted = emulator.summary()["submits_accepted"]
    if (state, accepted) != ("success", 1):
        raise RuntimeError(f"The upload ended as {state!r}, with {accepted} submits.")
    idle, *_, busy = sorted(peaks.by_pid.values(), key=lambda peak: peak[2])
    title = f"A WAV of {options.megabytes} MB, uploaded as MP3"
    print(table(title, HEADER, [row("a worker that does nothing", idle), row("the task", busy)]))


if __name__ == "__main__":
    main()
