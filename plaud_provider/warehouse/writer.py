"""Writing transcriptions to the warehouse, of whatever kind it is."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from plaud_provider.api.models import Segment, Status, Transcription
from plaud_provider.exceptions import PlaudWarehouseError
from plaud_provider.warehouse.loaders.choice import choose_loader
from plaud_provider.warehouse.loaders.loader import Landed
from plaud_provider.warehouse.rows import Landing
from plaud_provider.warehouse.settling import settle, with_origins
from plaud_provider.warehouse.tables import DEFAULT_SEGMENTS_TABLE, DEFAULT_TRANSCRIPTS_TABLE, plaud_tables

if TYPE_CHECKING:
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.warehouse.lake import Lake
    from plaud_provider.warehouse.loaders.loader import Loader

__all__ = ["Landed", "WarehouseWriter", "open_warehouse"]

log = logging.getLogger(__name__)

#: Of scripts that a wrong encoding has no letters for.
_SCRATCH = "Plaud doctor was here: é, 日本語, \U0001f600"


class WarehouseWriter:
    """
    Writes transcriptions to one warehouse.

    :param loader: How rows get into it.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def ensure_tables(self, *, is_checked: bool = False) -> None:
        """
        Create the tables if they are not there; safe when several tasks do it at once.

        :param is_checked: Whether a task before has done so.
        :raises PlaudTableMismatchError: if an existing table cannot hold the rows.
        :raises PlaudWarehouseError: if the warehouse cannot be reached, or does not let us.
        :raises PlaudConfigurationError: if no table of this warehouse would do.
        :raises PlaudInputError: if a name cannot be one there.
        """
        self.loader.ensure(is_checked=is_checked)

    @property
    def target(self) -> str:
        """What the ledger calls this place."""
        return self.loader.target

    def landed(self, transcription_ids: Collection[str]) -> set[str]:
        """
        Return those of transcriptions that are completed and whose rows are here.

        :param transcription_ids: Ids that Plaud gave.
        :raises PlaudWarehouseError: if the warehouse cannot be reached.
        """
        return self.loader.landed(sorted(set(transcription_ids))) if transcription_ids else set()

    def try_out(self) -> None:
        """
        Write the rows of a transcription that there is not, look for them, and remove them.

        :raises PlaudWarehouseError: if one of these cannot be done.
        """
        known = f"plaud-doctor-{secrets.token_hex(8)}"
        answer = Transcription(
            transcription_id=known,
            status=Status.COMPLETED,
            reported_status=Status.COMPLETED.value,
            text=_SCRATCH,
            segments=(Segment(index=0, start_seconds=0.0, end_seconds=1.0, speaker=None, text=_SCRATCH),),
            raw="{}",
        )
        self.loader.load([Landing(answer, region="us", landed_at=datetime.now(tz=UTC))])
        try:
            if known not in self.landed([known]):
                raise PlaudWarehouseError(
                    f"Warehouse {self.loader.conn_id!r}: what was written is not what is read. Does the "
                    "connection read from a replica?"
                )
        finally:
            self.loader.take_back([known])

    def replace(self, landings: Sequence[Landing], ledger: Ledger | None = None) -> Landed:
        """
        Replace all rows of these transcriptions, all or nothing.

        Whatever goes wrong, a crash included, the rows are either those from before or the new ones. Doing it
        again changes nothing but ``landed_at``, ``dag_id`` and ``run_id``.

        :param landings: Transcriptions to land; of one id the last.
        :param ledger: Ledger that they were submitted with. It says of a recording what the landing does not
            (``audio_uri``, ``submitted_at``), and learns that it has landed or failed: in the same
            transaction where both are one connection, else right after it.
        :raises PlaudWarehouseError: if it was not done; or if it is done and the ledger, in another
            database, could not be told: doing it again mends that.
        """
        # In the same order in every task: two that land the same ids wait for each other, not in a circle.
        in_order = sorted(landings, key=lambda landing: landing.transcription_id)
        latest = list({landing.transcription_id: landing for landing in in_order}.values())
        if not latest:
            return Landed(0, 0)
        if ledger is None:
            landed = self.loader.load(latest)
        elif ledger.conn_id == self.loader.conn_id:
            landed = self.loader.load(latest, ledger)
        else:
            latest = with_origins(latest, ledger)
            if not latest:
                return Landed(0, 0)
            landed = self.loader.load(latest)
            settle(latest, ledger, self.target)
        if landed.nuls_replaced:
            log.warning(
                "%d NUL characters, which %s cannot store, were replaced by U+FFFD",
                landed.nuls_replaced,
                self.loader.kind,
            )
        return landed


def open_warehouse(
    sql_conn_id: str | None,
    schema: str | None = None,
    transcripts_table: str = DEFAULT_TRANSCRIPTS_TABLE,
    segments_table: str = DEFAULT_SEGMENTS_TABLE,
    *,
    metadata_columns: Sequence[str] = (),
    lake: Lake | None = None,
    ledger: Ledger | None = None,
    is_checked: bool = False,
) -> WarehouseWriter:
    """
    Return the writer of a warehouse, a lake, or both.

    Its tables are there and fit; they are created if they are not there.

    :param sql_conn_id: Airflow connection of a type that :data:`.choice.LOADERS` has; ``None`` for a lake
        alone.
    :param schema: Schema of both tables; ``None`` for the connection's own. It has to exist.
    :param transcripts_table: Table for transcriptions, taken literally.
    :param segments_table: Table for segments, likewise.
    :param metadata_columns: Fields of recordings that are columns of their own; each landing has to have
        them.
    :param lake: A lake to land in as well, or alone.
    :param ledger: A ledger that is open; if it is behind the same connection, what it has open is used.
    :param is_checked: Whether a task before has opened it, and so has checked its tables.
    :raises PlaudConfigurationError: if the connection is missing or its type is none of these.
    :raises PlaudInputError: if a name cannot be one.
    :raises PlaudTableMismatchError: if an existing table cannot hold the rows.
    :raises PlaudWarehouseError: if the warehouse is away, locked or refuses.
    """
    tables = plaud_tables(schema, transcripts_table, segments_table, metadata_columns)
    writer = WarehouseWriter(choose_loader(sql_conn_id, tables, lake=lake, ledger=ledger))
    writer.ensure_tables(is_checked=is_checked)
    return writer
