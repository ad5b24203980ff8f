"""Where an open lake is: files in object storage or a folder, in a format that many engines read."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from plaud_provider.exceptions import PlaudInputError
from plaud_provider.storage.folder import parse_folder

FORMATS = ("iceberg", "delta", "parquet")
DEFAULT_FORMAT = "iceberg"


class Lake(NamedTuple):
    """
    A place for both tables.

    :param path: Folder above those of the tables: ``s3://conn@bucket/folder``, ``gs://…``, ``abfs://…`` or an
        absolute path.
    :param format: One of :data:`FORMATS`.
    :param catalog_conn_id: Connection of Iceberg's catalog; ``None`` for a SQLite file in a local ``path``.
    """

    path: str
    format: str
    catalog_conn_id: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this host."""
        return "://" not in self.path or self.path.startswith("file://")

    @property
    def conn_id(self) -> str | None:
        """Airflow connection of the object storage, if the path names one."""
        authority = self.path.partition("://")[2].partition("/")[0]
        return authority.rpartition("@")[0] or None

    @property
    def location(self) -> str:
        """The folder as other programs name it: without an Airflow connection."""
        if self.is_local:
            return "file://" + self.path.removeprefix("file://")
        scheme, _, rest = self.path.partition("://")
        authority, slash, key = rest.partition("/")
        return f"{scheme}://{authority.rpartition('@')[2]}{slash}{key}"


def checked_lake(path: object, lake_format: object, catalog_conn_id: str | None) -> Lake | None:
    """
    Return the lake that arguments name, as templates may have rendered them; ``None`` if there is none.

    :param path: ``lake_path``.
    :param lake_format: ``lake_format``; empty is ``iceberg``.
    :param catalog_conn_id: ``lake_catalog_conn_id``.
    :raises PlaudInputError: if they name none that can be.
    """
    given = str(path or "").strip().rstrip("/")
    catalog_conn_id = catalog_conn_id or None
    if not given:
        if catalog_conn_id:
            raise PlaudInputError(
                "lake_catalog_conn_id: there is no lake_path, so no table for a catalog. Name the folder in "
                "lake_path, or leave lake_catalog_conn_id out. Nothing was sent."
            )
        return None
    kind = str(lake_format or DEFAULT_FORMAT).strip().lower()
    if kind not in FORMATS:
        raise PlaudInputError(
            f"lake_format: {lake_format!r} is none of {', '.join(map(repr, FORMATS))}. Nothing was sent."
        )
    parse_folder(given, argument="lake_path", state="Nothing was sent.")
    lake = Lake(given, kind, catalog_conn_id)
    if catalog_conn_id and kind != "iceberg":
        raise PlaudInputError(
            f"lake_catalog_conn_id: tables in the format {kind!r} have no catalog; leave it out, or pass "
            "lake_format='iceberg'. Nothing was sent."
        )
    if kind == "iceberg" and not catalog_conn_id and not lake.is_local:
        raise PlaudInputError(
            "lake_catalog_conn_id: Iceberg tables in object storage need a catalog that all writers and "
            "readers share. Pass a connection of type 'iceberg' (REST), 'aws' (Glue), 'postgres', 'mysql' or "
            "'sqlite' (SQL), or lake_format='delta', which needs none. Nothing was sent."
        )
    return lake


def folder_name(table: str) -> str:
    """
    Return the name of a table's folder, of its own for each table.

    :param table: Name of the table, which may have characters that object storages or URLs read in ways of
        their own.
    """
    name = re.sub(r"[^A-Za-z0-9_-]", "_", table)
    return name if name == table else f"{name[:200]}-{hashlib.sha256(table.encode()).hexdigest()[:8]}"
