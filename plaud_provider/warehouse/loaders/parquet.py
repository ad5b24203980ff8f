"""Plain Parquet files: one for each table and landing, which nobody changes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from plaud_provider.database.arrow import arrow_schema
from plaud_provider.warehouse.lake import folder_name
from plaud_provider.warehouse.loaders.folders import FolderLoader
from plaud_provider.warehouse.loaders.lake import storage_path

if TYPE_CHECKING:
    import sqlalchemy as sa


class _Folder(NamedTuple):
    """
    The files of a table.

    :param path: Their folder.
    :param schema: Columns of the newest of them.
    """

    path: Any
    schema: Any


class ParquetLoader(FolderLoader):
    """
    Lands in new files.

    Nothing replaces rows in Parquet: readers take the latest row of a transcript, and the segments with its
    ``landed_at``. Older rows stay in their files until they are purged, which writes those files again.
    """

    def _open(self, table: sa.Table) -> Any:
        path = storage_path(self._lake) / folder_name(str(table.name))
        if not (files := self._files(path)):
            return None
        import pyarrow.parquet as pq

        newest = max(files, key=lambda name: name.rpartition("/")[2])
        with path.fs.open(newest, "rb") as file:
            return _Folder(path, pq.read_schema(file))

    def _schema(self, opened: Any) -> Any:
        return opened.schema

    def _create(self, table: sa.Table, columns: Mapping[str, sa.Column[Any]]) -> None:
        path = storage_path(self._lake) / folder_name(str(table.name))
        schema = arrow_schema(columns.items())
        # Readers of an empty lake find its columns.
        self._append(_Folder(path, schema), schema.empty_table())

    def _add_column(self, opened: Any, column: sa.Column[Any]) -> None:
        [field] = arrow_schema([(column.name, column)])
        schema = opened.schema.append(field)
        self._append(_Folder(opened.path, schema), schema.empty_table())

    def _read(self, opened: Any, columns: Sequence[str], ids: Sequence[str] | None) -> Any:
        import pyarrow.dataset as ds

        files = sorted(self._files(opened.path))
        data = ds.dataset(files, schema=opened.schema, format="parquet", filesystem=opened.path.fs)
        found = None if ids is None else ds.field("transcription_id").isin(list(ids))
        return data.to_table(columns=list(columns), filter=found)

    def _append(self, opened: Any, rows: Any) -> None:
        import pyarrow.compute as pc

        stamps = rows["landed_at"]
        stamp = pc.max(stamps).as_py() or datetime.now(tz=UTC)
        # In the order of the landings.
        name = f"{stamp:%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex}.parquet"
        opened.path.fs.makedirs(opened.path.path, exist_ok=True)
        self._write(opened.path, name, rows)

    def _write(self, path: Any, name: str, rows: Any) -> None:
        """Write a file at once, in place of one of this name: readers find the one or the other, whole."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        file_system, folder = path.fs, path.path
        if not self._lake.is_local:
            # An open object that an error closes would be there, cut short.
            whole = pa.BufferOutputStream()
            pq.write_table(rows, whole, compression="zstd")
            file_system.pipe_file(f"{folder}/{name}", whole.getvalue().to_pybytes())
            return
        unfinished = f"{folder}/.{name}.unfinished"
        try:
            with file_system.open(unfinished, "wb") as file:
                pq.write_table(rows, file, compression="zstd")
            file_system.mv(unfinished, f"{folder}/{name}")
        except BaseException:
            if file_system.exists(unfinished):
                file_system.rm(unfinished)
            raise

    def _replace(self, opened: Any, rows: Any, ids: Sequence[str]) -> None:
        self._append(opened, rows)

    def _delete(self, opened: Any, ids: Sequence[str], before: datetime) -> None:
        """Leave old rows where they are; see the class."""

    def take_back(self, ids: Sequence[str]) -> None:
        """Remove what was landed to try it out, as all is removed here; see the base class."""
        self.remove(ids)

    def _forget(self, table: sa.Table, ids: Sequence[str]) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        path, theirs = self._open(table).path, pa.array(ids)
        for whole_name in self._files(path):
            with path.fs.open(whole_name, "rb") as file:
                content = pq.ParquetFile(file)
                is_theirs = pc.is_in(content.read(["transcription_id"])["transcription_id"], theirs)
                rest = content.read().filter(pc.invert(is_theirs)) if pc.any(is_theirs).as_py() else None
            if rest is not None:
                # A file without rows stays: the newest one tells the columns.
                self._write(path, whole_name.rpartition("/")[2], rest)

    @staticmethod
    def _files(path: Any) -> list[str]:
        file_system = path.fs
        # s3fs remembers listings, and other tasks write.
        file_system.invalidate_cache()
        return [str(name) for name in file_system.glob(f"{path.path}/*.parquet")]

    @property
    def _conflicts(self) -> tuple[type[Exception], ...]:
        return ()
