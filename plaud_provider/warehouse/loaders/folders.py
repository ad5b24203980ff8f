"""Tables that are folders, without a catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plaud_provider.exceptions import PlaudInputError
from plaud_provider.warehouse.loaders.lake import LakeLoader

if TYPE_CHECKING:
    from plaud_provider.warehouse.lake import Lake
    from plaud_provider.warehouse.tables import PlaudTables


class FolderLoader(LakeLoader):
    """Lands in two folders below ``lake_path``."""

    def __init__(self, lake: Lake, tables: PlaudTables) -> None:
        super().__init__(lake, tables)
        if tables.schema is not None:
            raise PlaudInputError(
                f"schema: tables in the format {lake.format!r} have no catalog, so there is no schema "
                f"{str(tables.schema)!r}. Name the folder in lake_path, and leave schema out. Nothing was "
                "sent."
            )
