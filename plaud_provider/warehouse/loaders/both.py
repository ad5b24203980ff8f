"""Landing in a warehouse and in a lake."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plaud_provider.warehouse.loaders.loader import Landed, Loader, Removed, Stored
from plaud_provider.warehouse.settling import with_origins

if TYPE_CHECKING:
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.warehouse.rows import Landing


class BothLoader(Loader):
    """
    Lands in the lake first, then in the warehouse, where the ledger may be.

    So what the ledger calls landed is in both; what is in one only counts as not landed, and is landed again
    in both.

    :param warehouse: Loader of the warehouse; to the ledger, the target is this one.
    :param lake: Loader of the lake.
    """

    def __init__(self, warehouse: Loader, lake: Loader) -> None:
        self._warehouse = warehouse
        self._lake = lake

    @property
    def conn_id(self) -> str:
        """Connection of the warehouse."""
        return self._warehouse.conn_id

    @property
    def kind(self) -> str:
        """Kind of the warehouse."""
        return self._warehouse.kind

    @property
    def target(self) -> str:
        """What the ledger calls the warehouse."""
        return self._warehouse.target

    def ensure(self, *, is_checked: bool = False) -> None:
        """Create or check the tables of both; see the base class."""
        self._warehouse.ensure(is_checked=is_checked)
        self._lake.ensure(is_checked=is_checked)

    def landed(self, ids: Sequence[str]) -> set[str]:
        """Return those that are completed and in both; see the base class."""
        there = self._warehouse.landed(ids)
        return self._lake.landed(sorted(there)) if there else set()

    def read(
        self, columns: Sequence[str], where: Mapping[str, Sequence[str]], most: int | None = None
    ) -> list[Sequence[Any]]:
        """Return columns of the warehouse's transcripts; see the base class."""
        return self._warehouse.read(columns, where, most)

    def load(self, landings: Sequence[Landing], ledger: Ledger | None = None) -> Landed:
        """Replace all rows in both; see the base class."""
        if ledger is not None:
            landings = with_origins(landings, ledger)
        self._lake.load(landings)
        return self._warehouse.load(landings, ledger)

    def stored(self, is_wanted: Callable[[Stored], bool]) -> list[Stored]:
        """Return what is wanted and in one of them or both; see the base class."""
        found = {one.transcription_id: one for one in self._lake.stored(is_wanted)}
        found |= {one.transcription_id: one for one in self._warehouse.stored(is_wanted)}
        return list(found.values())

    def remove(self, ids: Sequence[str]) -> Removed:
        """Remove all rows from both; see the base class. Returned is what the one had that had more."""
        counts = self._lake.remove(ids), self._warehouse.remove(ids)
        return Removed(*map(max, *counts))

    def take_back(self, ids: Sequence[str]) -> None:
        """Remove what was landed in both; see the base class."""
        self._lake.take_back(ids)
        self._warehouse.take_back(ids)
