"""Landing final transcriptions, a slab at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from operator import ge
from typing import TYPE_CHECKING

from plaud_provider import metrics
from plaud_provider.api.effects import is_of_client
from plaud_provider.api.models import Status, Transcription
from plaud_provider.api.waiting import NOT_FOUND_REASON, is_fresh
from plaud_provider.exceptions import (
    PlaudAccessError,
    PlaudError,
    PlaudNotFoundError,
    PlaudRequestError,
    PlaudResponseError,
    PlaudServerError,
    PlaudStillProcessingError,
)

if TYPE_CHECKING:
    from plaud_provider.handover.kept_results import ResultStore
    from plaud_provider.hooks.connection import PlaudConnection
    from plaud_provider.hooks.plaud import PlaudHook
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.recordings.describer import Describer
    from plaud_provider.recordings.description import Description
    from plaud_provider.warehouse.rows import Landing
    from plaud_provider.warehouse.set_aside import SetAside
    from plaud_provider.warehouse.writer import Landed, WarehouseWriter

log = logging.getLogger(__name__)

#: Segments landed in one transaction: a bound on memory, about 75 MB. A smaller one costs time: DuckDB opens
#: and closes its file for each, and writes again the row group that it adds to. This is one of those.
SLAB_SEGMENTS = 122_880
#: Characters of Plaud's answers landed in one transaction, the same bound where transcripts are long: each is
#: in memory about three times, as the answer, the transcript and the rows.
SLAB_CHARACTERS = 32 * 1024 * 1024
#: Transcriptions asked of Plaud for one transaction: so many requests it costs if it is rolled back.
SLAB_ASKED = 50
#: After so many server errors one after the other it is Plaud that is away, not a transcription.
MAX_SERVER_ERRORS = 3
#: Transcriptions in one transaction: a table without a key takes a lock for each, and PostgreSQL has room for
#: some 6,000 by default.
SLAB_TRANSCRIPTIONS = 1000
SHOWN_IDS = 5


@dataclass(slots=True)
class Tally:
    """
    What was landed, and what could not be.

    :param transcripts: Rows of transcriptions.
    :param segments: Rows of segments.
    :param failed: Transcriptions that Plaud reports as failed; they are rows too.
    :param audio_seconds: How long the recordings are together, as far as Plaud says.
    :param processing: Ids that Plaud has not finished.
    :param missing: Ids that Plaud does not know (any more).
    :param reasons: Why, by the ids of those that have failed.
    :param unreadable: What is wrong with Plaud's answer about others.
    """

    transcripts: int = 0
    segments: int = 0
    failed: int = 0
    audio_seconds: float = 0.0
    reasons: dict[str, str] = field(default_factory=dict)
    processing: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, PlaudError] = field(default_factory=dict)

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
        if self.unreadable:
            # What may pass goes first: the task is retried then.
            first = max(self.unreadable.values(), key=_may_pass)
            is_refused = isinstance(first, PlaudRequestError) and is_of_client(first.status_code)
            raise (PlaudAccessError if is_refused else type(first))(
                f"Plaud's answers about {_shown(list(self.unreadable))} cannot be used, such as: {first} "
                f"{rest}.",
                status_code=first.status_code,
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
    :param plaud: Connection of the client that is asked for what is not kept.
    :param results: Where a wait has kept final answers, if it has.
    :param ledger: Ledger of submissions, if there is one; what is landed is marked there.
    :param describer: Says what else is known of recordings; ``None``: nothing.
    :param keep_raw: Whether kept answers stay after they are landed.
    :param dag_id: Dag that lands.
    :param run_id: Run that lands.
    """

    def __init__(
        self,
        writer: WarehouseWriter,
        plaud: PlaudConnection,
        *,
        results: ResultStore | None = None,
        ledger: Ledger | None = None,
        describer: Describer | None = None,
        keep_raw: bool = False,
        dag_id: str,
        run_id: str,
    ) -> None:
        self._writer = writer
        self._plaud = plaud
        self._results = results
        self._ledger = ledger
        self._describer = describer
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
        recordings = self._without_purged(recordings)
        descriptions = self._descriptions(recordings)
        try:
            for slab in self._slabs(recordings, descriptions, tally):
                self._land_slab(slab, tally)
                log.info(
                    "Landed %d of %d transcription(s) so far, %d of them failed, with %d segments.",
                    tally.transcripts,
                    len(recordings),
                    tally.failed,
                    tally.segments,
                )
        finally:
            if "_hook" in self.__dict__:
                self._hook.close()
        self._note_expired(tally.missing)
        return tally

    def _count(self, landings: list[Landing], landed: Landed, failed: int) -> None:
        """Count what the ledger does not, and how long Plaud's results took to be rows."""
        if self._ledger is None:
            metrics.changed("landed", landed.transcripts - failed)
            metrics.changed("failed", failed)
        if landed.transcripts < len(landings):
            # Some are purged.
            return
        for landing in landings:
            if (done := landing.transcription.completed_at) is not None:
                metrics.took(metrics.DONE_TO_LANDED, (landing.landed_at - done).total_seconds())

    def _without_purged(self, recordings: Mapping[str, str | None]) -> Mapping[str, str | None]:
        """Leave out what is purged: Plaud is not asked for it, and what is kept of it goes."""
        purged = (
            self._ledger.purged(recordings, region=self._plaud.region) if self._ledger is not None else ()
        )
        if not purged:
            return recordings
        log.info("%d transcription(s) are purged, and are not landed.", len(purged))
        if self._results is not None:
            self._results.remove_landed(self._plaud.region, sorted(purged), keep_raw=False)
        return {known: audio_uri for known, audio_uri in recordings.items() if known not in purged}

    @cached_property
    def _hook(self) -> PlaudHook:
        # Its libraries take longer to import than landing what was kept.
        from plaud_provider.hooks.plaud import PlaudHook

        return PlaudHook(self._plaud.plaud_conn_id, settings=self._plaud.settings)

    def _note_expired(self, missing: Collection[str]) -> None:
        """Tell the ledger what Plaud does not know any more; what is new it may not know yet."""
        if self._ledger is None or not missing:
            return
        now, region = time.time(), self._plaud.region
        submitted = {
            known: entry.submitted_at.timestamp() if entry.submitted_at else None
            for known, entry in self._ledger.origins(missing, region=region).items()
        }
        # What is landed here is not missed.
        landed = self._writer.landed(missing)
        gone = [
            known for known in missing if known not in landed and not is_fresh(submitted.get(known), now=now)
        ]
        self._ledger.expired(dict.fromkeys(gone, NOT_FOUND_REASON), region=region)

    def _descriptions(self, recordings: Mapping[str, str | None]) -> Mapping[str, Description]:
        """Return what else is known of recordings, by the ids of their transcriptions."""
        if self._describer is None:
            return {}
        uris = dict(recordings)
        if self._ledger is not None and (unnamed := [known for known, uri in uris.items() if uri is None]):
            origins = self._ledger.origins(unnamed, region=self._plaud.region)
            uris |= {known: entry.audio_uri for known, entry in origins.items()}
        described = self._describer.describe(uris.values())
        return {known: described[uri] for known, uri in uris.items()}

    def _slabs(
        self,
        recordings: Mapping[str, str | None],
        descriptions: Mapping[str, Description],
        tally: Tally,
    ) -> Iterator[list[Landing]]:
        """Yield what is final in lists that are landed at once."""
        from plaud_provider.recordings.description import NOTHING
        from plaud_provider.warehouse.rows import Landing

        slab: list[Landing] = []
        segments = characters = asked = 0
        try:
            for (transcription, aside), is_kept in self._final(recordings, tally):
                landing = Landing(
                    transcription,
                    aside=aside,
                    region=self._plaud.region,
                    api=self._plaud.api,
                    landed_at=datetime.now(tz=UTC),
                    audio_uri=recordings[transcription.transcription_id],
                    dag_id=self._dag_id,
                    run_id=self._run_id,
                    description=descriptions.get(transcription.transcription_id, NOTHING),
                )
                if aside is not None:
                    # By itself: a transaction keeps all of its texts in the memory of some databases.
                    if slab:
                        yield slab
                    yield [landing]
                    slab, segments, characters, asked = [], 0, 0, 0
                    continue
                slab.append(landing)
                segments += 1 + transcription.segment_count
                characters += len(transcription.raw)
                asked += not is_kept
                bounds = (SLAB_TRANSCRIPTIONS, SLAB_SEGMENTS, SLAB_CHARACTERS, SLAB_ASKED)
                if any(map(ge, (len(slab), segments, characters, asked), bounds)):
                    yield slab
                    slab, segments, characters, asked = [], 0, 0, 0
        except PlaudError:
            # What has been read is landed, though the next cannot be.
            if slab:
                yield slab
            raise
        if slab:
            yield slab

    def _land_slab(self, landings: list[Landing], tally: Tally) -> None:
        landed = self._writer.replace(landings, ledger=self._ledger)
        tally.transcripts += landed.transcripts
        tally.segments += landed.segments
        failed = [one.transcription for one in landings if one.transcription.status is Status.FAILED]
        tally.failed += len(failed)
        tally.audio_seconds += sum(one.transcription.duration_seconds or 0.0 for one in landings)
        self._count(landings, landed, len(failed))
        tally.reasons |= {one.transcription_id: one.error or "it gave no reason" for one in failed}
        if self._results is not None:
            ids = [landing.transcription_id for landing in landings]
            self._results.remove_landed(self._plaud.region, ids, keep_raw=self._keep_raw)

    def _final(
        self, ids: Iterable[str], tally: Tally
    ) -> Iterator[tuple[tuple[Transcription, SetAside | None], bool]]:
        """Yield what is final, what of it is set aside, and whether it was kept."""
        server_errors = 0
        for transcription_id, kept in self._kept(ids):
            try:
                transcription = kept or self._hook.get_transcription(transcription_id)
            except PlaudNotFoundError:
                log.warning("Plaud does not know transcription %s (any more).", transcription_id)
                tally.missing.append(transcription_id)
                continue
            except (PlaudResponseError, PlaudRequestError, PlaudServerError) as error:
                server_errors = server_errors + 1 if isinstance(error, PlaudServerError) else 0
                if server_errors >= MAX_SERVER_ERRORS:
                    raise
                log.warning("Transcription %s cannot be read: %s", transcription_id, error)
                tally.unreadable[transcription_id] = error
                continue
            server_errors = 0
            if transcription.is_final:
                is_kept = kept is not None
                taken = _without_large(transcription)
                # What is set aside is to be nowhere else.
                del kept, transcription
                yield taken, is_kept
            else:
                log.warning("Transcription %s is still %r.", transcription_id, transcription.reported_status)
                tally.processing.append(transcription_id)

    def _kept(self, ids: Iterable[str]) -> Iterable[tuple[str, Transcription | None]]:
        if self._results is None:
            return ((transcription_id, None) for transcription_id in ids)
        return self._results.load_all(self._plaud.region, ids)


def _without_large(transcription: Transcription) -> tuple[Transcription, SetAside | None]:
    """Return a transcription; its texts and segments are set aside if they are large and there is room."""
    from plaud_provider.database.rows import LARGE_CHARACTERS

    if len(transcription.raw) < LARGE_CHARACTERS:
        return transcription, None
    from plaud_provider.warehouse.set_aside import SetAside, without_texts

    try:
        aside = SetAside(transcription)
    except OSError as error:
        log.warning(
            "Transcription %s is landed from memory, as this worker cannot write temporary files (%s).",
            transcription.transcription_id,
            error.strerror,
        )
        return transcription, None
    return without_texts(transcription), aside


def _may_pass(error: PlaudError) -> bool:
    """Whether an answer may be another one at a retry: a refusal of the client, as 402 or 403, may."""
    return not isinstance(error, PlaudRequestError) or is_of_client(error.status_code)


def failures(reasons: Mapping[str, str]) -> str:
    """Return what to say of transcriptions that have failed."""
    some = "; ".join(f"{known}: {why}" for known, why in list(reasons.items())[:SHOWN_IDS])
    return f"Plaud could not transcribe {_shown(list(reasons))} ({some}). Their rows have the reasons."


def _shown(ids: list[str]) -> str:
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return f"{len(ids)} transcription{'s' * (len(ids) != 1)}: {', '.join(ids[:SHOWN_IDS])}{more}"
