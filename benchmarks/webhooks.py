"""
How many calls of the webhook a second the receiver takes on one core, and how many forged ones it refuses.

``.venv/bin/python -m benchmarks.webhooks`` serves the application of the pages with uvicorn, as Airflow's API
server does, in a process that is bound to one core, and calls it from another one. What counts is the CPU
time of the server's process: this machine may be busy. Airflow's own middleware, which every request to it
passes, is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.tables import machine, table

HEADER = ("calls", "number", "answers", "seconds", "CPU seconds", "a second of CPU")
SECRET = "whsec_benchmark"
CONNECTION = {"conn_type": "plaud", "login": "client", "password": "secret"}
SERVER = """
import uvicorn
from fastapi import FastAPI
from plaud_provider.views.app import create_app
app = FastAPI()
app.mount("/plaud", create_app())
uvicorn.run(app, host="127.0.0.1", port={port}, log_level="warning", access_log=False)
"""


@contextmanager
def receiver(folder: Path) -> Iterator[tuple[psutil.Process, int]]:
    """Serve the receiver on one core; yield its process and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    extra = {
        "region": "us",
        "webhook_base_url": "https://airflow.example",
        "webhook_secret": SECRET,
        "webhook_path": str(folder / "marks"),
    }
    env = {
        **os.environ,
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW_CONN_PLAUD_DEFAULT": json.dumps({**CONNECTION, "extra": extra}),
        "_AIRFLOW_PROCESS_CONTEXT": "server",
    }
    with subprocess.Popen(
        [sys.executable, "-c", SERVER.format(port=port)], env=env, stdout=subprocess.DEVNULL
    ) as process:
        server = psutil.Process(process.pid)
        server.cpu_affinity([0])
        try:
            while process.poll() is None:
                with socket.socket() as there:
                    if there.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield server, port
        finally:
            process.terminate()


def request(number: int, *, secret: str, age: float = 0.0) -> bytes:
    """Return a call as Plaud sends it, about a transcription of its own."""
    event = {"event": "transcription.completed", "data": {"transcriptionId": f"txn_{number}"}}
    body = json.dumps(event).encode()
    timestamp = f"{time.time() - age:.0f}"
    signature = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    head = (
        "POST /plaud/webhooks/plaud_default HTTP/1.1",
        f"host: airflow\r\ncontent-type: application/json\r\ncontent-length: {len(body)}",
        f"plaud-timestamp: {timestamp}\r\nplaud-signature: sha256={signature}\r\n\r\n",
    )
    return "\r\n".join(head).encode() + body


async def call(port: int, requests: Sequence[bytes], at_once: int) -> set[str]:
    """Send requests over a few connections; return the statuses."""
    left, seen = iter(requests), set()

    async def caller() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for one in left:
            writer.write(one)
            answer = await reader.readuntil(b"\r\n\r\n")
            seen.add(answer.split(b" ", 2)[1].decode())
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return seen


def measure(number: int) -> Iterator[tuple[str, ...]]:
    """Yield a row for each kind of call."""
    with tempfile.TemporaryDirectory() as folder, receiver(Path(folder)) as (server, port):
        asyncio.run(call(port, [request(0, secret=SECRET)], 1))
        kinds = {"signed": (SECRET, 0.0), "forged": ("guessed", 0.0), "signed, an hour old": (SECRET, 3600.0)}
        for kind, (secret, age) in kinds.items():
            requests = [request(one, secret=secret, age=age) for one in range(number)]
            before, began = server.cpu_times(), time.monotonic()
            statuses = asyncio.run(call(port, requests, 8))
            seconds, after = time.monotonic() - began, server.cpu_times()
            cpu = after.user + after.system - before.user - before.system
            yield (
                kind,
                str(number),
                " ".join(sorted(statuses)),
                f"{seconds:.1f}",
                f"{cpu:.1f}",
                f"{number / cpu:.0f}",
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=5000)
    arguments = parser.parse_args()
    print(machine("uvicorn", "fastapi"))
    print(table("Calls of the webhook", HEADER, [*measure(arguments.calls)]))


if __name__ == "__main__":
    main()
