"""Files of Iceberg tables: how they are opened, and which of them are of earlier versions only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from airflow.sdk import ObjectStoragePath
from pyiceberg.io.fsspec import FsspecFileIO


class AirflowFileIO(FsspecFileIO):  # type: ignore[misc]
    """
    Reads and writes with the credentials of the Airflow connection in ``lake_path``.

    pyiceberg makes it by its name, with the properties of the catalog; ``plaud.lake-path`` is the path.
    """

    def _get_fs(self, scheme: str, hostname: str | None = None) -> Any:
        return ObjectStoragePath(self.properties["plaud.lake-path"]).fs


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
