"""
How fast transcriptions land: ours against the plainest way to fill the same keyed tables.

``.venv/bin/python -m benchmarks.landing`` lands 1,000 transcriptions of 200 segments each in PostgreSQL,
DuckDB and SQLite, first into empty tables, then once more over what is there. Plain is COPY, a DuckDB insert
from a pandas frame, and executemany; it only ever fills empty tables. Ours replaces in one transaction: its
first load too looks for what there may be to replace.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.recordings import transcript
from benchmarks.tables import machine, table
from demo.postgres import Postgres
from plaud_provider.api.answers import parse_transcription
from plaud_provider.database.rows import rows_of
from plaud_provider.transfers.landing import SLAB_ASKED, SLAB_SEGMENTS
from plaud_provider.warehouse.rows import Landing, segment_columns
from plaud_provider.warehouse.writer import open_warehouse

Rows = list[dict[str, Any]]
TABLES = ("plaud_transcripts", "plaud_segments")
HEADER = ("segments a second", "ours, first load", "plain", "ours / plain", "ours, replacing", "ours / plain")


def landings(transcriptions: int, segments: int) -> list[Landing]:
    rng = random.Random(1)
    now = datetime.now(tz=UTC)
    made = []
    for number in range(transcriptions):
        answer = {
            "transcriptionId": f"txn_{rng.randbytes(12).hex()}",
            "status": "completed",
            "duration": segments * 5.0,
            "completedAt": "2026-03-24T10:02:14Z",
            **transcript(rng, segments),
        }
        transcription = parse_transcription(json.dumps(answer).encode())
        uri = f"s3://calls/2026/03/24/call-{number:05}.wav"
        made.append(Landing(transcription, region="us", landed_at=now, audio_uri=uri, dag_id="d", run_id="r"))
    return made


class Target(ABC):
    """A database that both sides fill."""

    name: str
    conn_id: str
    plain_name: str

    @abstractmethod
    def connection(self) -> dict[str, Any]:
        """Return the Airflow connection to it."""

    @abstractmethod
    def empty(self) -> None:
        """Delete all rows of both tables."""

    @abstractmethod
    def fill(self, name: str, rows: Rows) -> None:
        """Fill an empty table in the plainest quick way: connect, write, commit."""


class OnPostgres(Target):
    name = "PostgreSQL"
    plain_name = "COPY"
    conn_id = "bench_postgres"

    def __init__(self, server: Postgres) -> None:
        self._server = server

    def connection(self) -> dict[str, Any]:
        return self._server.connection()

    def empty(self) -> None:
        with closing(self._connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"truncate {', '.join(TABLES)}")
            connection.commit()

    def fill(self, name: str, rows: Rows) -> None:
        buffer = io.StringIO()
        csv.writer(buffer).writerows(row.values() for row in rows)
        buffer.seek(0)
        with closing(self._connect()) as connection, connection.cursor() as cursor:
            cursor.copy_expert(f"copy {name} ({', '.join(rows[0])}) from stdin with (format csv)", buffer)
            connection.commit()

    def _connect(self) -> Any:
        import psycopg2  # type: ignore[import-untyped]

        return psycopg2.connect(self._server.url.set(drivername="postgresql").render_as_string(False))


class OnDuckDb(Target):
    name = "DuckDB"
    plain_name = "insert from a frame"
    conn_id = "bench_duckdb"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "warehouse.duckdb"

    def connection(self) -> dict[str, Any]:
        return {"conn_type": "duckdb", "host": str(self._path)}

    def empty(self) -> None:
        # After a delete DuckDB's index keeps what was in it for a while: a new file is empty.
        self._path.unlink(missing_ok=True)
        open_warehouse(self.conn_id)

    def fill(self, name: str, rows: Rows) -> None:
        import duckdb
        import pandas as pd

        frame = pd.DataFrame(rows)
        with duckdb.connect(str(self._path)) as connection:
            connection.register("frame", frame)
            connection.execute(f"insert into {name} ({', '.join(rows[0])}) select * from frame")


class OnSqlite(Target):
    name = "SQLite"
    plain_name = "executemany"
    conn_id = "bench_sqlite"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "warehouse.sqlite"

    def connection(self) -> dict[str, Any]:
        return {"conn_type": "sqlite", "host": str(self._path)}

    def empty(self) -> None:
        with closing(sqlite3.connect(self._path)) as connection, connection:
            for name in TABLES:
                connection.execute(f"delete from {name}")

    def fill(self, name: str, rows: Rows) -> None:
        # sqlite3 takes no times with time zone any more.
        values = [[v.isoformat() if isinstance(v, datetime) else v for v in row.values()] for row in rows]
        marks = ", ".join("?" for _ in rows[0])
        with closing(sqlite3.connect(self._path)) as connection, connection:
            connection.executemany(f"insert into {name} ({', '.join(rows[0])}) values ({marks})", values)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(target: Target, every: Sequence[Landing], *, slab: int, repeat: int) -> list[str]:
    os.environ[f"AIRFLOW_CONN_{target.conn_id.upper()}"] = json.dumps(target.connection())
    writer = open_warehouse(target.conn_id)
    transcripts = [landing.transcript_row() for landing in every]
    segments = rows_of(segment_columns(every))

    def ours() -> None:
        for start in range(0, len(every), slab):
            writer.replace(every[start : start + slab])

    def plain() -> None:
        target.fill("plaud_transcripts", transcripts)
        target.fill("plaud_segments", segments)

    # Both sides import what they need before anything is timed.
    target.empty()
    writer.replace(every[:1])
    target.empty()
    target.fill("plaud_transcripts", transcripts[:1])
    first, again, plainly = [], [], []
    for _ in range(repeat):
        target.empty()
        plainly.append(seconds(plain))
        target.empty()
        first.append(seconds(ours))
        again.append(seconds(ours))
    rate, rate_again, plain_rate = (
        len(segments) / statistics.median(times) for times in (first, again, plainly)
    )
    return [
        f"{target.name}, against {target.plain_name}, {slab:,} transcriptions a transaction",
        f"{rate:,.0f}",
        f"{plain_rate:,.0f}",
        f"{rate / plain_rate:.0%}",
        f"{rate_again:,.0f}",
        f"{rate_again / plain_rate:.0%}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.landing", description=__doc__)
    parser.add_argument("--transcriptions", type=int, default=1000)
    parser.add_argument("--segments", type=int, default=200, help="of each transcription")
    parser.add_argument(
        "--slabs",
        type=int,
        nargs="*",
        help="transcriptions per transaction; default: as kept ones land, and those that are asked for",
    )
    parser.add_argument("--repeat", type=int, default=3, help="times; the median counts")
    parser.add_argument("--only", nargs="*", default=["PostgreSQL", "DuckDB", "SQLite"])
    options = parser.parse_args(arguments)
    every = landings(options.transcriptions, options.segments)
    slabs = options.slabs or [SLAB_SEGMENTS // (1 + options.segments), SLAB_ASKED]
    print(machine("apache-airflow", "duckdb", "pandas", "psycopg2-binary", "sqlalchemy"))
    print(
        f"{options.transcriptions:,} transcriptions of {options.segments:,} segments; both tables with their "
        f"primary keys; plain has its rows ready, ours makes them; the median of {options.repeat}"
    )
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="plaud-benchmark-")))
        os.environ["AIRFLOW_HOME"] = str(root / "airflow")
        server = Postgres(root / "postgres")
        stack.callback(server.stop)
        targets = [OnPostgres(server), OnDuckDb(root), OnSqlite(root)]
        rows = []
        for target in targets:
            for slab in slabs if target.name in options.only else []:
                print(f"  {target.name}, {slab}", file=sys.stderr, flush=True)
                rows.append(compare(target, every, slab=slab, repeat=options.repeat))
    print(table("Landing", HEADER, rows))


if __name__ == "__main__":
    main()
