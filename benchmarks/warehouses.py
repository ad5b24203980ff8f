"""
How fast 200,000 segments land in stand-ins for cloud warehouses: ours against their own bulk load.

``PLAUD_TEST_WAREHOUSES=snowflake .venv-snowflake/bin/python -m benchmarks.files`` (or bigquery) lands 2,000
transcriptions in two slabs, then the same again, through Airflow's hook. The bulk load is that of the same
files, written before, into tables of the same columns: connect, load, no replacing. Stand-ins tell what our
side costs, not how fast a warehouse is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from benchmarks.landing import landings
from plaud_provider.database.rows import batches
from plaud_provider.warehouse.loaders.files import FilesLoader
from plaud_provider.warehouse.slab import Slab, written
from plaud_provider.warehouse.writer import open_warehouse
from tests.warehouses.bigquery_server import BigQueryServer
from tests.warehouses.lakes import CONN_ID, BigQueryLake, SnowflakeLake
from tests.warehouses.snowflake_server import SnowflakeServer

TRANSCRIPTIONS, SEGMENTS, SLAB = 2_000, 100, 1_000


def bulk_snowflake(loader: Any, slab: Slab) -> None:
    for table, path in slab.files.items():
        loader._rows(f"put 'file://{path}' @bulk auto_compress = false overwrite = true")
        loader._rows(loader._copy(table, f"bulk_{path.stem}", f"@bulk/{path.name}"))


def bulk_bigquery(loader: Any, slab: Slab) -> None:
    for table, path in slab.files.items():
        loader._stage(slab, table, f"{loader._path}.bulk_{path.stem}", f"bulk_{time.monotonic_ns()}")


@contextmanager
def prepared(loader: FilesLoader, kind: str) -> Iterator[Callable[[Any, Slab], None]]:
    if kind == "bigquery":
        yield bulk_bigquery
        return
    with loader._connected():
        loader._rows("create stage bulk")
        for table, stem in zip(loader._tables.parameters, ("transcripts", "segments"), strict=True):
            loader._rows(f"create table bulk_{stem} ({loader._staging_columns(table)})")
    yield bulk_snowflake


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    kind = os.environ["PLAUD_TEST_WAREHOUSES"]
    server: Any = SnowflakeServer() if kind == "snowflake" else BigQueryServer()
    slabs = batches(landings(TRANSCRIPTIONS, SEGMENTS), SLAB)
    with pytest.MonkeyPatch.context() as patch:
        lake = (SnowflakeLake if kind == "snowflake" else BigQueryLake)(server, patch)
        writer = open_warehouse(CONN_ID)
        loader: Any = writer.loader

        def ours() -> None:
            for slab in slabs:
                writer.replace(slab)

        print(f"{kind}: ours, first {seconds(ours):.1f} s")
        with prepared(loader, kind) as bulk:
            for number, some in enumerate(slabs):
                with written(some, loader._tables) as slab:

                    def load(slab: Slab = slab) -> None:
                        with loader._connected():
                            bulk(loader, slab)

                    print(f"{kind}: bulk load, slab {number} {seconds(load):.1f} s")
        print(f"{kind}: ours, again {seconds(ours):.1f} s; {len(lake.segments()):,} segments")
        lake.close()
    server.close()


if __name__ == "__main__":
    main()
