"""
What waiting costs the triggerer: the memory of 10,000 recordings that are waited for, above idle.

``.venv/bin/python -m benchmarks.waiting`` runs triggers as the triggerer does, in the event loop of one
process that has imported what a triggerer has, against an emulator in another process where nothing ever
finishes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from benchmarks.recordings import write_recordings
from benchmarks.tables import machine, table
from demo.emulator import Emulator
from demo.processes import Supervisor, child_environment

HEADER = (
    "in one triggerer",
    "triggers",
    "recordings",
    "MB above idle",
    "at its peak",
    "looks",
    "CPU s",
    "wall s",
)
TRANSCRIPTIONS = "/open/partner/ai/transcriptions/"


def wait(ids: list[list[str]], seconds: float) -> dict[str, float]:
    """Wait for these, each list by a trigger of its own; runs in a process of its own."""
    # What a triggerer has imported before its first trigger.
    import airflow.jobs.triggerer_job_runner  # noqa: F401
    import psutil

    own = psutil.Process()
    gc.collect()
    idle = own.memory_info().rss
    cpu = time.process_time()
    peak = 0

    async def run() -> int:
        from plaud_provider.triggers.transcription import TranscriptionTrigger

        nonlocal peak
        now = time.time()
        triggers = [
            TranscriptionTrigger(
                transcription_ids=chunk,
                plaud_conn_id="plaud_default",
                region=None,
                poke_interval=30.0,
                started_at=now,
                end_time=now + 86400,
                results_path=os.environ["RESULTS_PATH"],
                partial_count=200,
                partial_seconds=300,
                submitted_at=[now] * len(chunk),
                accepted_at=[now] * len(chunk),
                audio_seconds=[60.0] * len(chunk),
            )
            for chunk in ids
        ]

        async def first_event(trigger: TranscriptionTrigger) -> Any:
            return await anext(trigger.run())

        waits = [asyncio.create_task(first_event(trigger)) for trigger in triggers]
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            peak = max(peak, own.memory_info().rss)
            await asyncio.sleep(0.25)
        ended = [task.result().payload for task in waits if task.done()]
        if ended:
            raise RuntimeError(f"A wait ended: {ended[0]}")
        gc.collect()
        now_taken = own.memory_info().rss
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        return now_taken

    taken = asyncio.run(run())
    return {"idle": idle, "taken": taken - idle, "peak": peak - idle, "cpu": time.process_time() - cpu}


def submitted(emulator: Emulator, count: int) -> list[str]:
    """Submit recordings as another client would have, in no time."""
    plaud = emulator.connection()
    with httpx.Client(base_url=emulator.url, timeout=60, trust_env=False) as client:
        token = client.post(
            "/oauth/partner/access-token",
            auth=(plaud["login"], plaud["password"]),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        ).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"

        def submit(number: int) -> str:
            body = {"audioUrl": f"https://calls.example/{number}.wav"}
            return str(client.post(TRANSCRIPTIONS, json=body).raise_for_status().json()["transcriptionId"])

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(submit, range(count)))


def measure(
    name: str, ids: list[str], per_trigger: int, seconds: float, work: Path, emulator: Emulator
) -> list[str]:
    chunks = [ids[start : start + per_trigger] for start in range(0, len(ids), per_trigger)]
    plaud = emulator.connection()
    plaud["extra"]["requests_per_minute"] = 60
    home = Path(tempfile.mkdtemp(dir=work))
    env = child_environment(
        {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW_CONN_PLAUD_DEFAULT": json.dumps(plaud),
            "RESULTS_PATH": str(home / "results"),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        }
    )
    before = emulator.summary()["gets"]
    began = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.waiting", "--child", f"{seconds}"],
        input=json.dumps(chunks),
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        check=True,
    )
    measured = json.loads(child.stdout.splitlines()[-1])
    return [
        name,
        f"{len(chunks):,}",
        f"{len(ids):,}",
        f"{measured['taken'] / 2**20:.1f}",
        f"{measured['peak'] / 2**20:.1f}",
        f"{emulator.summary()['gets'] - before:,}",
        f"{measured['cpu']:.1f}",
        f"{time.monotonic() - began:.0f}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.waiting", description=__doc__)
    parser.add_argument("--recordings", type=int, default=10_000)
    parser.add_argument("--chunk", type=int, default=200, help="recordings that one trigger waits for")
    parser.add_argument(
        "--single", type=int, default=1_000, help="recordings with a trigger each, to compare"
    )
    parser.add_argument("--seconds", type=float, default=25.0, help="how long is waited")
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        print(json.dumps(wait(json.load(sys.stdin), options.child)))
        return
    print(machine("apache-airflow", "aiohttp"))
    with tempfile.TemporaryDirectory(prefix="plaud-benchmark-") as folder, Supervisor() as supervisor:
        work = Path(folder)
        write_recordings(work / "recordings", 1)
        limits = ("--request-limit", "0", "--token-limit", "0", "--processing-seconds", "86400")
        emulator = Emulator(supervisor, work / "recordings", work, "--quiet", "--no-fetch", *limits)
        ids = submitted(emulator, options.recordings)
        rows = [
            measure("the imports, one recording", ids[:1], 1, options.seconds / 4, work, emulator),
            measure("chunks", ids, options.chunk, options.seconds, work, emulator),
            measure("a trigger each", ids[: options.single], 1, options.seconds, work, emulator),
        ]
    print(f"60 requests a minute, waited for {options.seconds:.0f} s; memory is resident memory (RSS)")
    print(table("Waiting", HEADER, rows))


if __name__ == "__main__":
    main()
