"""
How many submits a second a ledger takes that is a network away.

``.venv/bin/python -m benchmarks.far_ledger`` runs the task that submits a chunk, in one process, against the
emulator without limits. Its PostgreSQL is behind a proxy that holds back what passes, half of the round trip
each way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.journey import PUBLIC_URL, context
from benchmarks.recordings import write_recordings
from benchmarks.tables import machine, table
from demo.postgres import Postgres

HEADER = ("round trip ms", "submits", "seconds", "submits a second", "CPU ms each")


class DelayingProxy:
    """
    A TCP port that leads to a PostgreSQL server's socket.

    :param socket_path: The server's socket.
    :param round_trip: Seconds that a question and its answer take longer.
    """

    def __init__(self, socket_path: str, round_trip: float) -> None:
        self._socket_path = socket_path
        self._delay = round_trip / 2
        self._is_ready = threading.Event()
        self.port = 0
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        self._is_ready.wait()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._is_ready.set()
        await server.serve_forever()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_unix_connection(self._socket_path)
        await asyncio.gather(self._pass(reader, here), self._pass(there, writer), return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes, each piece so much later, the next ones meanwhile on their way."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def write() -> None:
            while True:
                at, piece = await pieces.get()
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                if not piece:
                    writer.close()
                    return
                writer.write(piece)
                await writer.drain()

        writing = asyncio.create_task(write())
        piece = b"-"
        while piece:
            piece = await reader.read(65536)
            pieces.put_nowait((time.monotonic() + self._delay, piece))
        await writing


def measured(count: int, round_trip_ms: float, server: Postgres, root: Path) -> list[str]:
    """Submit so many recordings with a new ledger; return a row of the table."""
    from plaud_provider.emulator.server import EmulatorServer
    from plaud_provider.emulator.settings import Settings
    from plaud_provider.handover.manifest import write_manifest
    from plaud_provider.operators.submit_recordings import SubmitRecordingsOperator
    from plaud_provider.recordings.listing import list_recordings
    from plaud_provider.submit.send import Sender

    name = f"ledger_{round_trip_ms:g}".replace(".", "_")
    known = server.connection()
    proxy = DelayingProxy(f"{known['host']}/.s.PGSQL.{known['port'] or 5432}", round_trip_ms / 1000)
    server.create_database(name)
    far = {**known, "host": "127.0.0.1", "port": proxy.port, "schema": name}
    os.environ["AIRFLOW_CONN_FAR_LEDGER"] = json.dumps(far)
    archive = root / name
    write_recordings(archive, count)
    send, took = Sender.send, []

    def timed(self: Sender, *arguments: Any) -> None:
        began, busy = time.monotonic(), time.process_time()
        send(self, *arguments)
        took[:] = [time.monotonic() - began, time.process_time() - busy]

    with ExitStack() as stack:
        emulator = EmulatorServer(Settings(fetch_audio=False, request_limit=0, token_limit=0)).start()
        stack.callback(emulator.stop)
        plaud = json.loads(emulator.airflow_connection)
        plaud["extra"]["requests_per_minute"] = 1_000_000
        os.environ["AIRFLOW_CONN_PLAUD_DEFAULT"] = json.dumps(plaud)
        stack.enter_context(mock.patch.object(Sender, "send", timed))
        [manifest] = write_manifest(
            list_recordings(str(archive)), str(root / f"{name}_work"), chunk_size=count
        )
        task: Any = SubmitRecordingsOperator(
            task_id="submit",
            manifest=manifest,
            ledger_conn_id="far_ledger",
            sql_conn_id="far_ledger",
            public_urls={str(archive): PUBLIC_URL},
        )
        submitted = task.execute(context("submit"))["submitted"]
    seconds, busy = took
    return [
        f"{round_trip_ms:g}",
        f"{submitted:,}",
        f"{seconds:.1f}",
        f"{submitted / seconds:.0f}",
        f"{busy / submitted * 1000:.0f}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.far_ledger", description=__doc__)
    parser.add_argument("--submits", type=int, default=200)
    parser.add_argument("--milliseconds", type=float, nargs="*", default=[0, 30], help="round trips")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="plaud-benchmark-") as folder:
        # Airflow reads them when it is first imported.
        os.environ["AIRFLOW_HOME"] = folder
        os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "CRITICAL"
        print(machine("apache-airflow", "psycopg2-binary", "sqlalchemy"))
        root = Path(folder)
        server = Postgres(root / "postgres")
        try:
            rows = [measured(options.submits, one, server, root) for one in options.milliseconds]
        finally:
            server.stop()
    print(table("Submits with a PostgreSQL ledger, emulator and client in one process", HEADER, rows))


if __name__ == "__main__":
    main()
