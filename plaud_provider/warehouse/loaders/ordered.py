"""
Two atomic writes in order, for warehouses where two tables share no transaction.

Segments carry the ``landed_at`` of their transcript. New segments come first; the row of the transcript then
makes them what readers find, and what is older is removed afterwards. Whoever stops in between leaves rows
that no reader of the views finds; the next landing removes them.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from plaud_provider.database.types import utc
from plaud_provider.warehouse.loaders.loader import Landed, Loader
from plaud_provider.warehouse.rows import segment_columns

if TYPE_CHECKING:
    import sqlalchemy as sa

    from plaud_provider.database.rows import Columns
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.warehouse.rows import Landing
    from plaud_provider.warehouse.tables import PlaudTables

log = logging.getLogger(__name__)

_TICK = timedelta(microseconds=1)


class OrderedLoader(Loader):
    """
    Lands by two atomic writes in order.

    :param tables: Tables to write.
    """

    def __init__(self, tables: PlaudTables) -> None:
        self._tables = tables

    def load(self, landings: Sequence[Landing], ledger: Ledger | None = None) -> Landed:
        """Replace all rows of these transcriptions; see the base class. No ledger is in such a warehouse."""
        ids = [landing.transcription_id for landing in landings]
        last = self._last_landed(ids)
        stamp = stamp_of(landings, last)
        segments = segment_columns(landings)
        count = len(segments["text"])
        if count:
            self._append_segments(segments, stamp)
        self._publish_transcripts([landing._replace(landed_at=stamp) for landing in landings])
        if last is not None:
            self._remove_older(ids, stamp)
        return Landed(len(landings), count)

    def _columns(self, table: sa.Table) -> dict[str, sa.Column[Any]]:
        """Return our columns; segments carry the ``landed_at`` of their transcript."""
        columns = {column.name: column for column in table.columns}
        return columns | {"landed_at": self._tables.transcripts.c.landed_at}

    @abstractmethod
    def _last_landed(self, ids: Sequence[str]) -> datetime | None:
        """Return the latest ``landed_at`` of these ids in either table; ``None`` if there is none."""

    @abstractmethod
    def _append_segments(self, columns: Columns, stamp: datetime) -> None:
        """Add segments, all with this ``landed_at``, which no transcript has yet."""

    @abstractmethod
    def _publish_transcripts(self, landings: Sequence[Landing]) -> None:
        """Add the rows of transcripts, each with its segments at once."""

    @abstractmethod
    def _remove_older(self, ids: Sequence[str], stamp: datetime) -> None:
        """Remove rows of these ids in both tables whose ``landed_at`` is before ``stamp``."""


def stamp_of(landings: Sequence[Landing], last: datetime | None) -> datetime:
    """
    Return the ``landed_at`` of all of them.

    :param landings: What is landed.
    :param last: The latest ``landed_at`` of their ids so far. The clocks of two hosts may differ, and what
        comes later has to win.
    """
    stamp = max(utc(landing.landed_at) or landing.landed_at for landing in landings)
    return stamp if last is None else max(stamp, last + _TICK)
