"""What lands transcriptions: which rows replace which, in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from plaud_provider.database.base import batches, told
from plaud_provider.exceptions import PlaudWarehouseError
from plaud_provider.warehouse.rows import clean_text, columns_of, segment_columns

if TYPE_CHECKING:
    from plaud_provider.database.base import Database, Transaction
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.warehouse.rows import Landing
    from plaud_provider.warehouse.tables import PlaudTables

log = logging.getLogger(__name__)

#: Transcriptions whose rows are made at once: rows take half as much memory again as what they are made of.
_BATCH = 100


class Landed(NamedTuple):
    """
    How many rows were written.

    :param transcripts: Rows of transcriptions.
    :param segments: Rows of segments.
    :param nuls_replaced: NUL characters that the database cannot store and that became U+FFFD.
    """

    transcripts: int
    segments: int
    nuls_replaced: int = 0


class WarehouseWriter:
    """
    Writes transcriptions to one warehouse.

    :param database: The warehouse.
    :param tables: Tables to write.
    """

    def __init__(self, database: Database, tables: PlaudTables) -> None:
        self._database = database
        self._tables = tables

    def ensure_tables(self) -> None:
        """
        Create the tables if they are not there; safe when several tasks do it at once.

        :raises PlaudTableMismatchError: if an existing table cannot hold the rows.
        :raises PlaudWarehouseError: if the warehouse cannot be reached, or does not let us.
        :raises PlaudConfigurationError: if the connection names a database that would vanish with the task.
        :raises PlaudInputError: if a name is too long for this kind of database.
        """
        self._database.ensure(self._tables)

    def replace(self, landings: Sequence[Landing], ledger: Ledger | None = None) -> Landed:
        """
        Replace all rows of these transcriptions, in one transaction.

        Whatever goes wrong, a crash included, the rows are either those from before or the new ones. Doing it
        again changes nothing but ``landed_at``, ``dag_id`` and ``run_id``.

        :param landings: Transcriptions to land; of one id the last.
        :param ledger: Ledger that they were submitted with. It says of a recording what the landing does not
            (``audio_uri``, ``submitted_at``), and learns that it has landed or failed: in the same
            transaction where both are one connection, else right after it.
        :raises PlaudWarehouseError: if it was rolled back; or if it is done and the ledger, in another
            database, could not be told: doing it again mends that.
        """
        # In the same order in every task: two that land the same ids wait for each other, not in a circle.
        in_order = sorted(landings, key=lambda landing: landing.transcription_id)
        latest = {landing.transcription_id: landing for landing in in_order}
        if not latest:
            return Landed(0, 0)
        return told(
            lambda: self._replace(list(latest.values()), ledger),
            lambda error: self._landing_refused(error, len(latest)),
        )

    def _replace(self, landings: list[Landing], ledger: Ledger | None) -> Landed:
        if ledger is None:
            landed = self._database.transaction(lambda transaction: self._land(transaction, landings))
        elif ledger.conn_id == self._database.conn_id:
            landed = self._database.transaction(
                lambda transaction: self._land_and_settle(transaction, landings, ledger)
            )
        else:
            completed = _with_origins(landings, ledger, None)
            landed = self._database.transaction(lambda transaction: self._land(transaction, completed))
            ledger.settle(completed)
        if landed.nuls_replaced:
            log.warning(
                "%d NUL characters, which %s cannot store, were replaced by U+FFFD",
                landed.nuls_replaced,
                self._database.kind,
            )
        return landed

    def _land_and_settle(self, transaction: Transaction, landings: list[Landing], ledger: Ledger) -> Landed:
        landed = self._land(transaction, _with_origins(landings, ledger, transaction))
        ledger.settle(landings, transaction)
        return landed

    def _land(self, transaction: Transaction, landings: list[Landing]) -> Landed:
        ids = [landing.transcription_id for landing in landings]
        # Two that land an id for the first time find nothing to delete, and a user's table may have no key.
        transaction.lock(ids)
        for table in (self._tables.transcripts, self._tables.segments):
            transaction.delete(table.c.transcription_id, ids)
        segment_count = replaced = 0
        for batch in batches(landings, _BATCH):
            transcripts = columns_of([landing.transcript_row() for landing in batch])
            segments = segment_columns(batch)
            replaced += clean_text([*transcripts.values(), *segments.values()], transaction.kind)
            transaction.insert(self._tables.transcripts, transcripts)
            transaction.insert(self._tables.segments, segments)
            segment_count += len(segments["text"])
        return Landed(len(landings), segment_count, replaced)

    def _landing_refused(self, error: Exception, count: int) -> PlaudWarehouseError:
        reason, advice = self._database.reason(error)
        names = f"{self._tables.transcripts.fullname} and {self._tables.segments.fullname}"
        return PlaudWarehouseError(
            f"{self._database.title_at_start} did not take {count} transcription{'s' * (count != 1)} into "
            f"{names}: {reason}. {self._database.outcome(error)}. {advice} What the database itself said is "
            "not shown, as it may quote a transcript."
        )


def _with_origins(landings: list[Landing], ledger: Ledger, transaction: Transaction | None) -> list[Landing]:
    """Return landings with what the ledger knows of their recordings and they do not."""
    origins = ledger.origins(landings, transaction)
    completed = []
    for landing in landings:
        origin = origins.get((landing.region, landing.transcription_id))
        if origin is None:
            completed.append(landing)
            continue
        completed.append(
            landing._replace(
                audio_uri=landing.audio_uri or origin.audio_uri,
                submitted_at=landing.submitted_at or origin.submitted_at,
            )
        )
    return completed
