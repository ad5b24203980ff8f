"""Files of Iceberg tables by the file system that Airflow opens for a connection."""

from __future__ import annotations

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
