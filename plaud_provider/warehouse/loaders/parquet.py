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
    ``landed_at``. Older rows stay in their files.
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

    def _read(self, opened: Any, columns: Sequence[str], ids: Sequence[str]) -> Any:
        import pyarrow.dataset as ds

        files = sorted(self._files(opened.path))
        data = ds.dataset(files, schema=opened.schema, format="parquet", filesystem=opened.path.fs)
        return data.to_table(columns=list(columns), filter=ds.field("transcription_id").isin(list(ids)))

    def _append(self, opened: Any, rows: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        stamps = rows["landed_at"]
        stamp = max(stamps.to_pylist()) if len(stamps) else datetime.now(tz=UTC)
        # In the order of the landings; unreadable to globs for *.parquet until it is whole.
        name = f"{stamp:%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex}.parquet"
        file_system, folder = opened.path.fs, opened.path.path
        file_system.makedirs(folder, exist_ok=True)
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

    @staticmethod
    def _files(path: Any) -> list[str]:
        file_system = path.fs
        # s3fs remembers listings, and other tasks write.
        file_system.invalidate_cache()
        return [str(name) for name in file_system.glob(f"{path.path}/*.parquet")]

    @property
    def _conflicts(self) -> tuple[type[Exception], ...]:
        return ()
