"""Files of Iceberg tables: how they are opened, which have some rows, which are of earlier versions only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from airflow.sdk import ObjectStoragePath
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.fsspec import FsspecFileIO
from pyiceberg.io.pyarrow import ArrowScan

#: Files that are looked into at once.
_AT_ONCE = 8


class AirflowFileIO(FsspecFileIO):  # type: ignore[misc]
    """
    Reads and writes with the credentials of the Airflow connection in ``lake_path``.

    pyiceberg makes it by its name, with the properties of the catalog; ``plaud.lake-path`` is the path.
    """

    def _get_fs(self, scheme: str, hostname: str | None = None) -> Any:
        return ObjectStoragePath(self.properties["plaud.lake-path"]).fs


def changed_files(
    opened: Any, span: Any, ids: Sequence[str], before: datetime | None
) -> Iterator[tuple[Any, Any]]:
    """
    Yield the files that have rows of these ids, each with its other rows; ``None`` if it has no other.

    Of other files only ids and times are read.

    :param opened: The version of the table.
    :param span: A condition that the rows meet, by bounds that files have.
    :param ids: The ids.
    :param before: Only rows with an earlier ``landed_at``; ``None``: all of them.
    """
    wanted = pa.array(ids, pa.string())
    schema = opened.schema()
    looked_at = schema.select("transcription_id", "landed_at")

    def read(task: Any, columns: Any) -> Any:
        return ArrowScan(opened.metadata, opened.io, columns, AlwaysTrue()).to_table([task])

    def is_meant(rows: Any) -> Any:
        meant = pc.is_in(rows["transcription_id"].cast(pa.string()), wanted)
        if before is not None:
            meant = pc.and_(meant, pc.less(rows["landed_at"], pa.scalar(before)))
        return meant.fill_null(False)

    def count(task: Any) -> tuple[int, int]:
        rows = read(task, looked_at)
        return pc.sum(is_meant(rows), min_count=0).as_py(), rows.num_rows

    tasks = list(opened.scan(row_filter=span).plan_files())
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        counts = list(pool.map(count, tasks))
    for task, (meant, every) in zip(tasks, counts, strict=True):
        if meant == every:
            yield task.file, None
        elif meant:
            rows = read(task, schema)
            yield task.file, rows.filter(pc.invert(is_meant(rows)))


def expire(opened: Any) -> None:
    """
    Remove all earlier versions of a table, and the files that are of no other one.

    Files go before the snapshots that name them, so that a retry finds what is left. What no snapshot names
    stays: another task may be about to commit it.

    :param opened: The newest version of the table.
    """
    kept_ids = {ref.snapshot_id for ref in opened.refs().values()}
    earlier = [one for one in opened.snapshots() if one.snapshot_id not in kept_ids]
    kept = set(_files(opened.io, (one for one in opened.snapshots() if one.snapshot_id in kept_ids)))
    # No file twice, in this order: what names others comes after them.
    for path in dict.fromkeys(_files(opened.io, earlier)):
        if path not in kept:
            with suppress(FileNotFoundError):
                opened.io.delete(path)
    if earlier:
        opened.maintenance.expire_snapshots().by_ids([one.snapshot_id for one in earlier]).commit()


def _files(io: Any, snapshots: Iterable[Any]) -> Iterator[str]:
    """Yield the files of snapshots: data, then the manifests that name it, then the lists of those."""
    manifests: list[str] = []
    lists: list[str] = []
    for snapshot in snapshots:
        lists.append(snapshot.manifest_list)
        # What is removed already was of an earlier attempt.
        with suppress(FileNotFoundError):
            for manifest in snapshot.manifests(io):
                manifests.append(manifest.manifest_path)
                with suppress(FileNotFoundError):
                    for entry in manifest.fetch_manifest_entry(io, discard_deleted=True):
                        yield entry.data_file.file_path
    yield from manifests
    yield from lists
