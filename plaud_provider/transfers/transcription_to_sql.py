"""Land finished transcriptions in a warehouse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, BaseOperator

from plaud_provider.api.arguments import optional, validate_transcription_ids
from plaud_provider.api.models import Status
from plaud_provider.archive.reference import AudioReference
from plaud_provider.exceptions import PlaudInputError, PlaudNotFoundError, PlaudStillProcessingError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.api.models import Transcription
    from plaud_provider.hooks.plaud import PlaudHook
    from plaud_provider.warehouse.writers.base import WarehouseWriter

#: Transcriptions fetched and landed at once: a bound on memory and on what a rolled back transaction costs.
SLAB = 50
SHOWN_IDS = 5


class TranscriptionToSqlOperator(BaseOperator):
    """
    Fetch finished transcriptions from Plaud and land them as rows of two tables.

    ``transcripts_table`` gets one row per transcription, ``segments_table`` one per stretch of speech. Both
    are created on first use. A transcription that Plaud reports as failed is a row too, with its error and
    without segments.

    **What is billed:** nothing; each id costs one API call of the quota. The warehouse is opened and its
    tables are checked first, so a wrong warehouse connection costs no call.

    **A retry, or a clear,** fetches everything again and replaces the rows, those of one slab of 50
    transcriptions in one transaction: whatever goes wrong, each transcription has either the rows from before
    or the new ones. Apart from ``landed_at``, ``dag_id`` and ``run_id`` nothing changes. Plaud keeps results
    for a few days only: after that a clear fails and leaves the rows as they are.

    SQLite and DuckDB take one writer at a time. Mapped tasks wait for each other: a minute for SQLite, two
    for DuckDB. ``max_active_tis_per_dag`` keeps the queue short.

    Each Asset in ``outlets`` gets the counts as ``extra`` of its event.

    .. seealso:: https://docs.plaud.ai (transcription API)

    :param transcription_id: An id or a list of ids (templated), such as ``submit.output`` of a mapped task.
        An id that is there twice is landed once; an empty list is nothing to do.
    :param sql_conn_id: Connection of the warehouse (templated): DuckDB (a file), SQLite, or another database
        whose provider has a ``common-sql`` hook with a SQLAlchemy engine.
    :param schema: Schema of both tables (templated); ``None`` for the connection's own. It has to exist.
    :param transcripts_table: Table for transcriptions (templated); taken literally, always quoted.
    :param segments_table: Table for segments (templated); likewise.
    :param audio_uri: Reference to the recording, or a list of as many as there are ids (templated), stored
        with the transcription. Shown and stored without its signature.
    :param plaud_conn_id: Connection of type ``plaud`` (templated).
    :param region: What you take that connection's region to be: ``us``, ``eu`` or ``jp`` (templated). If it
        differs, the task fails before any request.
    :return: ``{"version": 1, "transcripts": n, "segments": n, "failed": n}``: the rows landed, and how many
        transcriptions had failed.
    :raises PlaudInputError: for ids, names or references that cannot be; nothing was sent.
    :raises PlaudConfigurationError: if a connection is missing or is none of a database; nothing was sent.
    :raises PlaudTableMismatchError: if an existing table cannot hold the rows; nothing was sent.
    :raises PlaudWarehouseError: if the warehouse is away, locked or refuses; the slab was rolled back.
    :raises PlaudStillProcessingError: if Plaud has not finished some; all others are landed.
    :raises PlaudNotFoundError: if Plaud does not know some (any more); all others are landed.
    :raises PlaudError: its other classes, if Plaud cannot be asked.
    """

    template_fields: Sequence[str] = (
        "transcription_id",
        "sql_conn_id",
        "schema",
        "transcripts_table",
        "segments_table",
        "audio_uri",
        "plaud_conn_id",
        "region",
    )
    ui_color = "#fef7e0"

    def __init__(
        self,
        *,
        transcription_id: str | Sequence[str],
        sql_conn_id: str = "warehouse_default",
        schema: str | None = None,
        transcripts_table: str = "plaud_transcripts",
        segments_table: str = "plaud_segments",
        audio_uri: str | Sequence[str | None] | None = None,
        plaud_conn_id: str = "plaud_default",
        region: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.transcription_id = transcription_id
        self.sql_conn_id = sql_conn_id
        self.schema = schema
        self.transcripts_table = transcripts_table
        self.segments_table = segments_table
        self.audio_uri = audio_uri
        self.plaud_conn_id = plaud_conn_id
        self.region = region

    def _convert_audio_uri(self, value: Any) -> Any:
        """Wrap references when assigned, so that rendered fields show them unsigned; Airflow calls this."""
        if isinstance(value, (list, tuple)):
            return [self._convert_audio_uri(item) for item in value]
        is_template = isinstance(value, str) and ("{{" in value or "{%" in value)
        return AudioReference(value) if isinstance(value, str) and not is_template else value

    def execute(self, context: Context) -> dict[str, int]:
        """Fetch and land, slab by slab."""
        from plaud_provider.warehouse.connection import open_warehouse

        recordings = self._recordings()
        tally = _Tally()
        if recordings:
            writer = open_warehouse(
                self.sql_conn_id, optional(self.schema), self.transcripts_table, self.segments_table
            )
            self._load(recordings, writer, tally, context)
        else:
            self.log.info("There is nothing to land: transcription_id is an empty list.")
        tally.refuse_unfinished(len(recordings))
        for outlet in self.outlets:
            if isinstance(outlet, Asset):
                context["outlet_events"][outlet].extra.update(tally.counts)
        return {"version": 1, **tally.counts}

    def _recordings(self) -> dict[str, str | None]:
        """Return the reference to each id's recording, in the order of the ids."""
        ids: Any = self.transcription_id
        if isinstance(ids, Iterable) and not isinstance(ids, (str, bytes, Mapping)):
            # XComs of mapped tasks come as a lazy sequence, which asks for each item: once is enough.
            ids = list(ids)
        distinct = validate_transcription_ids(ids)
        if self.audio_uri is None:
            return dict.fromkeys(distinct)
        references = _references(self.audio_uri)
        given = ids if isinstance(ids, list) else [ids]
        if len(references) != len(given):
            raise PlaudInputError(
                f"audio_uri: {len(references)} references for {len(given)} ids. Give one for each, in their "
                "order (None where there is none), or leave it out. Nothing was sent."
            )
        recordings: dict[str, str | None] = {}
        for transcription_id, reference in zip(given, references, strict=True):
            recordings[transcription_id] = recordings.get(transcription_id) or reference
        return recordings

    def _load(
        self, recordings: dict[str, str | None], writer: WarehouseWriter, tally: _Tally, context: Context
    ) -> None:
        from plaud_provider.hooks.plaud import PlaudHook
        from plaud_provider.warehouse.rows import Landing

        ids = list(recordings)
        ti = context["ti"]
        with PlaudHook(self.plaud_conn_id, optional(self.region)) as hook:
            self.log.info(
                "Landing %d transcription(s) of Plaud region '%s' in %r and %r of warehouse %r.",
                len(ids),
                hook.region,
                self.transcripts_table,
                self.segments_table,
                self.sql_conn_id,
            )
            for start in range(0, len(ids), SLAB):
                transcriptions = self._fetch(hook, ids[start : start + SLAB], tally)
                landed_at = datetime.now(tz=UTC)
                landings = [
                    Landing(
                        transcription,
                        region=hook.region,
                        landed_at=landed_at,
                        audio_uri=recordings[transcription.transcription_id],
                        dag_id=ti.dag_id,
                        run_id=ti.run_id,
                    )
                    for transcription in transcriptions
                ]
                landed = writer.replace(landings)
                tally.transcripts += landed.transcripts
                tally.segments += landed.segments
                tally.failed += sum(t.status is Status.FAILED for t in transcriptions)
                self.log.info(
                    "Landed %d of %d transcription(s) so far, %d of them failed, with %d segments.",
                    tally.transcripts,
                    len(ids),
                    tally.failed,
                    tally.segments,
                )

    def _fetch(self, hook: PlaudHook, ids: list[str], tally: _Tally) -> list[Transcription]:
        """Return those that are final; the others are noted, and do not keep these from landing."""
        final = []
        for transcription_id in ids:
            try:
                transcription = hook.get_transcription(transcription_id)
            except PlaudNotFoundError:
                self.log.warning("Plaud does not know transcription %s (any more).", transcription_id)
                tally.unknown.append(transcription_id)
                continue
            if transcription.is_final:
                final.append(transcription)
            else:
                self.log.warning(
                    "Transcription %s is still %r.", transcription_id, transcription.reported_status
                )
                tally.processing.append(transcription_id)
        return final


@dataclass(slots=True)
class _Tally:
    transcripts: int = 0
    segments: int = 0
    failed: int = 0
    processing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        return {"transcripts": self.transcripts, "segments": self.segments, "failed": self.failed}

    def refuse_unfinished(self, total: int) -> None:
        """Raise if some could not be landed; what a retry can still mend goes first."""
        rest = f"The other {self.transcripts} of {total} are landed"
        if self.processing:
            raise PlaudStillProcessingError(
                f"Plaud has not finished {_shown(self.processing)}. {rest}. Wait for all with "
                "TranscriptionSensor before loading, or let this task retry."
            )
        if self.unknown:
            raise PlaudNotFoundError(
                f"Plaud does not know {_shown(self.unknown)}. {rest}. Plaud keeps results for a few days, "
                "and knows an id only in the region and for the client that submitted it: check "
                "plaud_conn_id, or take these ids out.",
                status_code=404,
            )


def _references(value: object) -> list[str | None]:
    if isinstance(value, (str, AudioReference)):
        items: list[object] = [value]
    elif isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)):
        items = list(value)
    else:
        items = [value]
    references: list[str | None] = []
    for item in items:
        if item is not None and not isinstance(item, (str, AudioReference)):
            raise PlaudInputError(
                f"audio_uri: takes a reference or a list of them, not a {type(item).__name__}. Nothing was "
                "sent."
            )
        reference = AudioReference(item) if isinstance(item, str) else item
        if reference is not None and reference.uri.startswith("["):
            raise PlaudInputError(
                "audio_uri: got a list that a template has turned into text. Pass the task's output itself "
                "(audio_uri=listing.output), or set render_template_as_native_obj=True on the DAG. Nothing "
                "was sent."
            )
        references.append(reference.uri if reference is not None else None)
    return references


def _shown(ids: list[str]) -> str:
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return f"{len(ids)} transcription{'s' * (len(ids) != 1)}: {', '.join(ids[:SHOWN_IDS])}{more}"
