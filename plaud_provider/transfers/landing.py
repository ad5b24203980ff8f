"""Landing final transcriptions, a slab at a time."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from plaud_provider.api.models import Status, Transcription
from plaud_provider.api.waiting import NOT_FOUND_REASON, is_fresh
from plaud_provider.exceptions import PlaudNotFoundError, PlaudStillProcessingError

if TYPE_CHECKING:
    from plaud_provider.archive.results import ResultStore
    from plaud_provider.hooks.plaud import PlaudHook
    from plaud_provider.warehouse.ledger import Ledger
    from plaud_provider.warehouse.writer import WarehouseWriter

log = logging.getLogger(__name__)

#: Transcriptions fetched and landed at once: a bound on memory and on what a rolled back transaction costs.
SLAB = 50
SHOWN_IDS = 5


@dataclass(slots=True)
class Tally:
    """
    What was landed, and what could not be.

    :param transcripts: Rows of transcriptions.
    :param segments: Rows of segments.
    :param failed: Transcriptions that Plaud reports as failed; they are rows too.
    :param processing: Ids that Plaud has not finished.
    :param missing: Ids that Plaud does not know (any more).
    """

    transcripts: int = 0
    segments: int = 0
    failed: int = 0
    processing: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """What was landed, in numbers."""
        return {"transcripts": self.transcripts, "segments": self.segments, "failed": self.failed}

    def refuse_unfinished(self, total: int) -> None:
        """
        Raise if some could not be landed; what a retry can still mend goes first.

        :param total: How many there were.
        """
        rest = f"The other {self.transcripts} of {total} are landed"
        if self.processing:
            raise PlaudStillProcessingError(
                f"Plaud has not finished {_shown(self.processing)}. {rest}. Wait for all with "
                "TranscriptionSensor before loading, or let this task retry."
            )
        if self.missing:
            raise PlaudNotFoundError(
                f"Plaud does not know {_shown(self.missing)}. {rest}. Plaud keeps results for a few days, "
                "and knows an id only in the region and for the client that submitted it: check "
                "plaud_conn_id, or take these ids out.",
                status_code=404,
            )


class Lander:
    """
    Lands transcriptions in one warehouse, from files that a wait has kept or from Plaud.

    :param writer: The warehouse.
    :param hook: Asked for what is not kept.
    :param results: Where a wait has kept final answers, if it has.
    :param ledger: Ledger of submissions, if there is one; what is landed is marked there.
    :param keep_raw: Whether kept answers stay after they are landed.
    :param dag_id: Dag that lands.
    :param run_id: Run that lands.
    """

    def __init__(
        self,
        writer: WarehouseWriter,
        hook: PlaudHook,
        *,
        results: ResultStore | None = None,
        ledger: Ledger | None = None,
        keep_raw: bool = False,
        dag_id: str,
        run_id: str,
    ) -> None:
        self._writer = writer
        self._hook = hook
        self._results = results
        self._ledger = ledger
        self._keep_raw = keep_raw
        self._dag_id = dag_id
        self._run_id = run_id

    def land(self, recordings: Mapping[str, str | None]) -> Tally:
        """
        Land what is final; what is not does not keep the rest from it.

        :param recordings: Reference to the recording of each transcription id, where it is known.
        :raises PlaudWarehouseError: if a slab was rolled back; the slabs before it are landed.
        :raises PlaudStorageError: if a kept answer could not be read.
        :raises PlaudError: its other classes, if Plaud cannot be asked.
        """
        tally = Tally()
        ids = list(recordings)
        for start in range(0, len(ids), SLAB):
            slab = {known: recordings[known] for known in ids[start : start + SLAB]}
            self._land_slab(slab, tally)
            log.info(
                "Landed %d of %d transcription(s) so far, %d of them failed, with %d segments.",
                tally.transcripts,
                len(ids),
                tally.failed,
                tally.segments,
            )
        self._note_expired(tally.missing)
        return tally

    def _note_expired(self, missing: Collection[str]) -> None:
        """Tell the ledger what Plaud does not know any more; what is new it may not know yet."""
        if self._ledger is None or not missing:
            return
        from plaud_provider.warehouse.rows import Landing

        now, region = datetime.now(tz=UTC), self._hook.region
        asked_for = [
            Landing(Transcription(known, Status.PROCESSING, "processing"), region=region, landed_at=now)
            for known in missing
        ]
        submitted = {
            known: origin.submitted_at for (_, known), origin in self._ledger.origins(asked_for).items()
        }
        gone = [
            known
            for known in missing
            if not is_fresh(at.timestamp() if (at := submitted.get(known)) else None, now=now.timestamp())
        ]
        self._ledger.expired(dict.fromkeys(gone, NOT_FOUND_REASON), region=region)

    def _land_slab(self, recordings: Mapping[str, str | None], tally: Tally) -> None:
        from plaud_provider.warehouse.rows import Landing

        landed_at = datetime.now(tz=UTC)
        landings = [
            Landing(
                transcription,
                region=self._hook.region,
                landed_at=landed_at,
                audio_uri=recordings[transcription.transcription_id],
                dag_id=self._dag_id,
                run_id=self._run_id,
            )
            for transcription in self._final(recordings, tally)
        ]
        landed = self._writer.replace(landings, ledger=self._ledger)
        tally.transcripts += landed.transcripts
        tally.segments += landed.segments
        tally.failed += sum(landing.transcription.status is Status.FAILED for landing in landings)
        if self._results is not None and not self._keep_raw:
            self._results.remove(self._hook.region, [landing.transcription_id for landing in landings])

    def _final(self, ids: Mapping[str, str | None], tally: Tally) -> Iterator[Transcription]:
        for transcription_id in ids:
            try:
                transcription = self._kept(transcription_id) or self._hook.get_transcription(transcription_id)
            except PlaudNotFoundError:
                log.warning("Plaud does not know transcription %s (any more).", transcription_id)
                tally.missing.append(transcription_id)
                continue
            if transcription.is_final:
                yield transcription
            else:
                log.warning("Transcription %s is still %r.", transcription_id, transcription.reported_status)
                tally.processing.append(transcription_id)

    def _kept(self, transcription_id: str) -> Transcription | None:
        return self._results.load(self._hook.region, transcription_id) if self._results is not None else None


def _shown(ids: list[str]) -> str:
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return f"{len(ids)} transcription{'s' * (len(ids) != 1)}: {', '.join(ids[:SHOWN_IDS])}{more}"
