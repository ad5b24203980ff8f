"""
How fast 200,000 segments land in a warehouse, against its own bulk load of the same Parquet files.

``PLAUD_TEST_WAREHOUSES="iceberg delta clickhouse mysql"`` names the warehouses for
``.venv-warehouses/bin/python -m benchmarks.warehouses`` (snowflake and bigquery are in the environments of
their own). 2,000 transcriptions land in two slabs, then the same again. The rival loads the files of these
slabs, written before, into empty tables of the same columns, without replacing anything; MariaDB takes
``LOAD DATA`` from CSV files. Snowflake and BigQuery are stand-ins: they tell what our side costs, not how
fast a warehouse is. Each runs in a process of its own, whose peak of memory is told beyond what it had with
imports done and the transcriptions made.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.landing import landings
from benchmarks.memory import MEGABYTE, resident
from benchmarks.tables import machine, table
from plaud_provider.database.rows import batches
from plaud_provider.transfers.landing import SLAB_TRANSCRIPTIONS
from plaud_provider.warehouse.loaders.loader import Loader
from plaud_provider.warehouse.slab import Slab, written
from plaud_provider.warehouse.tables import plaud_tables
from tests.warehouses.lakes import KINDS

TRANSCRIPTIONS, SEGMENTS = 2_000, 100
REPEAT = int(os.environ.get("REPEAT", "3"))
HEADER = ("warehouse", "first s", "again s", "bulk load s", "bulk / first", "bulk / again", "peak MB")


class Rival(ABC):
    """
    The warehouse's own bulk load.

    :param loader: Our loader, for its connection only.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._runs = 0

    @abstractmethod
    def empty(self) -> None:
        """Make new tables."""

    @abstractmethod
    def load(self, slab: Slab) -> None:
        """Load the files of a slab."""


class OnSnowflake(Rival):
    def empty(self) -> None:
        with self._loader._connected():
            self._loader._rows("create or replace stage bulk")
            for one, stem in zip(self._loader._tables.parameters, ("transcripts", "segments"), strict=True):
                columns = self._loader._staging_columns(one)
                self._loader._rows(f"create or replace table bulk_{stem} ({columns})")

    def load(self, slab: Slab) -> None:
        with self._loader._connected():
            for one, path in slab.files.items():
                self._loader._rows(f"put 'file://{path}' @bulk auto_compress = false overwrite = true")
                self._loader._rows(self._loader._copy(one, f"bulk_{path.stem}", f"@bulk/{path.name}"))


class OnBigQuery(Rival):
    def empty(self) -> None:
        self._runs += 1

    def load(self, slab: Slab) -> None:
        with self._loader._connected():
            for one, path in slab.files.items():
                name = f"{self._loader._path}.bulk_{path.stem}_{self._runs}_{time.monotonic_ns()}"
                self._loader._stage(slab, one, name, f"bulk_{time.monotonic_ns()}")


class OnClickHouse(Rival):
    def empty(self) -> None:
        with self._loader._connected():
            for name in ("plaud_transcripts", "plaud_segments"):
                self._loader._client.command(f"create or replace table bulk_{name} as {name}")

    def load(self, slab: Slab) -> None:
        import pyarrow.parquet as pq

        with self._loader._connected():
            for one, path in slab.files.items():
                self._loader._client.insert_arrow(f"bulk_{one.name}", pq.read_table(path))


class OnIceberg(Rival):
    def empty(self) -> None:
        self._runs += 1
        for one in self._loader._tables.parameters:
            columns = {column.name: column for column in one.columns} | {
                "landed_at": self._loader._tables.transcripts.c.landed_at
            }
            other = plaud_tables(None, f"bulk_t{self._runs}", f"bulk_s{self._runs}")
            into = other.transcripts if one is self._loader._tables.transcripts else other.segments
            self._loader._create(into, columns)

    def load(self, slab: Slab) -> None:
        import pyarrow.parquet as pq

        for kind, path in zip("ts", slab.files.values(), strict=True):
            self._append(f"bulk_{kind}{self._runs}", _with_landed_at(pq.read_table(path)))

    def _append(self, name: str, rows: Any) -> None:
        into = self._loader._catalog.load_table(("plaud", name))
        into.append(rows.cast(into.schema().as_arrow()))


class OnDelta(OnIceberg):
    def _append(self, name: str, rows: Any) -> None:
        from deltalake import write_deltalake

        write_deltalake(f"{self._loader._lake.location}/{name}", rows, mode="append")


class OnMariaDb(Rival):
    def empty(self) -> None:
        with self._connected() as cursor:
            for name in ("plaud_transcripts", "plaud_segments"):
                cursor.execute(f"drop table if exists bulk_{name}")
                cursor.execute(f"create table bulk_{name} like {name}")

    def load(self, slab: Slab) -> None:
        with self._connected() as cursor:
            for one, path in slab.files.items():
                cursor.execute(
                    f"load data local infile '{_as_csv(path)}' into table bulk_{one.name} "
                    "character set utf8mb4 fields terminated by ',' enclosed by '\"' escaped by ''"
                )

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        import MySQLdb

        url = self._loader.database.engine.url
        connection = MySQLdb.connect(
            host=url.host, port=url.port, user=url.username, database=url.database, local_infile=True
        )
        with closing(connection):
            yield connection.cursor()
            connection.commit()


RIVALS: dict[str, type[Rival]] = {
    "snowflake": OnSnowflake,
    "bigquery": OnBigQuery,
    "clickhouse": OnClickHouse,
    "iceberg": OnIceberg,
    "delta": OnDelta,
    "mysql": OnMariaDb,
}


def _with_landed_at(rows: Any) -> Any:
    import pyarrow as pa

    if "landed_at" in rows.schema.names:
        return rows
    stamps = pa.array([time.time_ns() // 1000] * rows.num_rows).cast(pa.timestamp("us", tz="UTC"))
    return rows.append_column(pa.field("landed_at", stamps.type, nullable=False), stamps)


def _as_csv(path: Path) -> Path:
    """Write a file as CSV too, unless that is done."""
    import pyarrow.parquet as pq
    from pyarrow import csv

    if not (made := path.with_suffix(".csv")).exists():
        rows = pq.read_table(path)
        for number, field in enumerate(rows.schema):
            if str(field.type).startswith("timestamp"):
                rows = rows.set_column(
                    number, field.name, rows[field.name].cast("timestamp[us]").cast("string")
                )
        csv.write_csv(rows, made, csv.WriteOptions(include_header=False))
    return made


class Request:
    """What the tests' makers of warehouses ask pytest for: fixtures, by name."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        self._made: dict[str, Any] = {"tmp_path": folder, "monkeypatch": patch}

    def getfixturevalue(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Any:
        server: Any
        if name == "snowflake_server":
            from tests.warehouses.snowflake_server import SnowflakeServer

            server = SnowflakeServer()
        elif name == "bigquery_server":
            from tests.warehouses.bigquery_server import BigQueryServer

            server = BigQueryServer()
        else:
            from tests.warehouses.mariadb_server import MariaDbServer

            server = MariaDbServer()
        self._stack.callback(server.close)
        return server if name != "mariadb_database" else self._stack.enter_context(server.new_database())


@contextmanager
def _timed(times: list[float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    times.append(time.perf_counter() - began)


def measured(kind: str) -> dict[str, float]:
    """Return medians of seconds, and the peak of memory of our landings; runs in a process of its own."""
    slabs = batches(landings(TRANSCRIPTIONS, SEGMENTS), SLAB_TRANSCRIPTIONS)
    first: list[float] = []
    again: list[float] = []
    bulk: list[float] = []
    peak = 0
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="plaud-benchmark-")))
        files = [stack.enter_context(written(slab, plaud_tables())) for slab in slabs]
        for number in range(REPEAT):
            with ExitStack() as run:
                folder = root / str(number)
                folder.mkdir()
                lake = KINDS[kind](Request(run, folder))  # type: ignore[arg-type]
                run.callback(lake.close)
                writer = lake.writer()
                loader: Loader = writer.loader
                rival = RIVALS[kind](loader)
                # Both sides import what they need before anything is timed.
                rival.empty()
                for slab in files:
                    rival.load(slab)
                writer.replace(landings(1, 1))
                rival.empty()
                with _timed(bulk):
                    for slab in files:
                        rival.load(slab)
                before = resident("VmRSS")
                with suppress(OSError):
                    # The peak begins anew.
                    Path("/proc/self/clear_refs").write_text("5")
                for times in (first, again):
                    with _timed(times):
                        for some in slabs:
                            writer.replace(some)
                peak = max(peak, resident("VmHWM") - before)
                if (count := len(lake.segments())) != TRANSCRIPTIONS * SEGMENTS:
                    raise SystemExit(f"{kind}: {count} segments")
    seconds = {
        name: statistics.median(one) for name, one in (("first", first), ("again", again), ("bulk", bulk))
    }
    return seconds | {"peak": peak}


def _row(kind: str) -> Sequence[str]:
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.warehouses", "--child", kind],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    told = json.loads(child.stdout.splitlines()[-1])
    return [
        kind,
        *(f"{told[name]:.2f}" for name in ("first", "again", "bulk")),
        *(f"{told['bulk'] / told[name]:.0%}" for name in ("first", "again")),
        f"{told['peak'] / MEGABYTE:.0f}",
    ]


def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["--child"]:
        print(json.dumps(measured(arguments[1])))
        return
    chosen = os.environ.get("PLAUD_TEST_WAREHOUSES", "iceberg delta").split()
    print(machine("apache-airflow", "pyarrow", "sqlalchemy"))
    print(
        f"{TRANSCRIPTIONS:,} transcriptions of {SEGMENTS} segments, {SLAB_TRANSCRIPTIONS:,} a landing; the "
        f"rival has its files ready, ours makes them; the median of {REPEAT}"
    )
    print(table("Landing 200,000 segments", HEADER, [_row(kind) for kind in chosen]))


if __name__ == "__main__":
    main(sys.argv[1:])
