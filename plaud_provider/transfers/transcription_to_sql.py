"""Land finished transcriptions in a warehouse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseOperator

from plaud_provider.api.arguments import (
    TextArguments,
    split_words,
    validate_boolean,
    validate_transcription_ids,
    warehouse_of,
)
from plaud_provider.exceptions import PlaudInputError, PlaudTranscriptionFailedError
from plaud_provider.lineage.moved import Moved, Target, TellsLineage, folders_of, some_ids, tell_outlets
from plaud_provider.recordings.mapping import HarmlessLabel, UnsignedPartial
from plaud_provider.recordings.reference import AudioReference, wrapped
from plaud_provider.transfers.landing import Lander, Tally, failures
from plaud_provider.transfers.metadata import describer_of, refuse_wrong_metadata

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.handover.kept_results import ResultStore
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.recordings.describer import Describer
    from plaud_provider.warehouse.writer import WarehouseWriter


class TranscriptionToSqlOperator(TellsLineage, TextArguments, HarmlessLabel, BaseOperator):
    """
    Fetch finished transcriptions from Plaud and land them as rows of two tables.

    ``transcripts_table`` gets one row per transcription, ``segments_table`` one per stretch of speech. Both
    are created on first use. A transcription that Plaud reports as failed is a row too, with its error and
    without segments.

    **What is billed:** nothing; each id costs one API call of the quota. The warehouse is opened and its
    tables are checked first, so a wrong warehouse connection costs no call.

    **A retry, or a clear,** fetches everything again and replaces the rows, those of 50 transcriptions in one
    transaction (of more, where ``results_path`` had them): whatever goes wrong, each has either the rows from
    before or the new ones. Apart from ``landed_at``, ``dag_id`` and ``run_id`` nothing changes. Plaud keeps
    results for a few days only: after that a clear fails and leaves the rows as they are.

    SQLite and DuckDB take one writer at a time. Mapped tasks wait for each other: a minute for SQLite, two
    for DuckDB. ``max_active_tis_per_dag`` keeps the queue short.

    Each Asset in ``outlets`` gets the counts as ``extra`` of its event.

    .. seealso:: https://docs.plaud.ai (transcription API)

    :param transcription_id: An id or a list of ids (templated), such as ``submit.output`` of a mapped task.
        An id that is there twice is landed once; an empty list is nothing to do.
    :param sql_conn_id: Connection of the warehouse (templated): PostgreSQL, MySQL, MariaDB, DuckDB (a file),
        SQLite or ClickHouse. Any other is refused by name. By default ``warehouse_default``, or none if there
        is a ``lake_path``.
    :param schema: Schema of both tables (templated); ``None`` for the connection's own. It has to exist.
    :param transcripts_table: Table for transcriptions (templated); taken literally, always quoted.
    :param segments_table: Table for segments (templated); likewise.
    :param lake_path: Folder of an open lake that transcripts land in as well, or alone if no ``sql_conn_id``
        is given (templated): ``s3://conn@bucket/folder``, ``gs://…``, ``abfs://…`` or an absolute path.
    :param lake_format: Format of its tables (templated): ``iceberg``, ``delta`` or ``parquet``.
    :param lake_catalog_conn_id: Connection of Iceberg's catalog (templated): ``iceberg`` (REST), ``aws``
        (Glue), ``postgres``, ``mysql`` or ``sqlite`` (SQL). It may be left out for a local ``lake_path``.
    :param audio_uri: Reference to the recording, or a list of as many as there are ids (templated), stored
        with the transcription. Shown and stored without its query.
    :param plaud_conn_id: Connection of type ``plaud`` (templated).
    :param region: What you take that connection's region to be: ``us``, ``eu`` or ``jp`` (templated). If it
        differs, the task fails before any request.
    :param results_path: Folder in which a sensor with the same ``results_path`` has kept final answers
        (templated), as an ``ObjectStoragePath``. What is there is not asked for again; what is not, is.
    :param keep_raw: Whether the kept answers stay after they are landed (templated).
    :param ledger_conn_id: Connection of the ledger that the recordings were submitted with (templated): what
        is landed is marked there, in the same transaction if it is the warehouse's connection.
    :param on_failed: What becomes of the task when it has landed transcriptions that Plaud reports as failed:
        ``continue``, or ``fail``, without retries and with Plaud's reasons.
    :param metadata: Fields of the recording, or of all that the task lands: a mapping of names to values,
        or its JSON text (templated). They are the JSON object of the column ``metadata``.
    :param metadata_pattern: Fields that references have in them (templated): text such as
        ``{agent}/{date:%Y-%m-%d}/{call_id}.mp3``, matched with the end of the path; what comes after a colon
        is a format of ``strptime``, and all formats together are the columns ``recording_date`` and
        ``recording_started_at``. Or a regular expression with named groups, searched for in the reference.
        See :class:`~plaud_provider.recordings.field_pattern.FieldPattern`.
    :param metadata_path: A list of fields (templated): ``.csv``, ``.tsv`` or ``.jsonl`` with a column
        ``reference``, on a disk or in object storage, of any length. See
        :class:`~plaud_provider.recordings.field_list.FieldList`. It outranks the pattern, and ``metadata``
        outranks both; in each, the fields ``recording_started_at`` or ``started_at`` and ``recording_date``
        or ``date``, in ISO 8601, are those columns. What is not found is NULL, and one warning says how many.
    :param metadata_columns: Fields that are text columns of their own as well (templated), added where the
        table lacks them. Names as in SQL: letters of ASCII, digits and ``_``.
    :param metadata_timezone: IANA name of the time zone of times that tell none (templated); ``UTC`` by
        default.
    :return: ``{"version": 1, "transcripts": n, "segments": n, "failed": n}``: the rows landed, and how many
        transcriptions had failed.
    :raises PlaudInputError: for ids, names or references that cannot be; nothing was sent.
    :raises PlaudConfigurationError: if a connection is missing or of a type that is not served; nothing was
        sent.
    :raises PlaudTableMismatchError: if an existing table cannot hold the rows; nothing was sent.
    :raises PlaudWarehouseError: if the warehouse is away, locked or refuses; the slab was rolled back.
    :raises PlaudTranscriptionFailedError: for failed transcriptions, with ``on_failed="fail"``; all are
        landed.
    :raises PlaudStillProcessingError: if Plaud has not finished some; all others are landed.
    :raises PlaudResponseError: if Plaud's answer about some cannot be used; all others are landed.
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
        "results_path",
        "keep_raw",
        "ledger_conn_id",
        "metadata",
        "metadata_pattern",
        "metadata_path",
        "metadata_columns",
        "metadata_timezone",
        "lake_path",
        "lake_format",
        "lake_catalog_conn_id",
    )
    ui_color = "#fef7e0"

    def __init__(
        self,
        *,
        transcription_id: str | Sequence[str],
        sql_conn_id: str | None = None,
        schema: str | None = None,
        transcripts_table: str = "plaud_transcripts",
        segments_table: str = "plaud_segments",
        audio_uri: str | Sequence[str | None] | None = None,
        plaud_conn_id: str = "plaud_default",
        region: str | None = None,
        results_path: str | None = None,
        keep_raw: bool = False,
        ledger_conn_id: str | None = None,
        on_failed: Literal["continue", "fail"] = "continue",
        metadata: Mapping[str, Any] | str | None = None,
        metadata_pattern: str | None = None,
        metadata_path: str | None = None,
        metadata_columns: Sequence[str] | str | None = None,
        metadata_timezone: str | None = None,
        lake_path: str | None = None,
        lake_format: str = "iceberg",
        lake_catalog_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if on_failed not in ("continue", "fail"):
            raise PlaudInputError(f"on_failed: {on_failed!r} is not 'continue' or 'fail'.")
        self.on_failed = on_failed
        self.transcription_id = transcription_id
        self.sql_conn_id = warehouse_of(sql_conn_id, lake_path)
        self.lake_path = lake_path
        self.lake_format = lake_format
        self.lake_catalog_conn_id = lake_catalog_conn_id
        self.schema = schema
        self.transcripts_table = transcripts_table
        self.segments_table = segments_table
        self.audio_uri = audio_uri
        self.plaud_conn_id = plaud_conn_id
        self.region = region
        self.results_path = results_path
        self.keep_raw = keep_raw
        self.ledger_conn_id = ledger_conn_id
        self.metadata = metadata
        self.metadata_pattern = metadata_pattern
        self.metadata_path = metadata_path
        self.metadata_columns = metadata_columns
        self.metadata_timezone = metadata_timezone
        refuse_wrong_metadata(self)

    def _convert_audio_uri(self, value: Any) -> Any:
        """Wrap references when assigned, so that rendered fields show them unsigned; Airflow calls this."""
        return wrapped(value)

    @classmethod
    def partial(cls, **kwargs: Any) -> UnsignedPartial:
        """Return what is mapped with ``expand()``, whose signatures are not stored either."""
        return UnsignedPartial(super().partial(**kwargs), "audio_uri")

    def execute(self, context: Context) -> dict[str, int]:
        """Fetch and land, slab by slab."""
        from plaud_provider.warehouse.lake import checked_lake
        from plaud_provider.warehouse.writer import open_warehouse

        recordings = self._recordings()
        if (describer := describer_of(self)) is not None:
            describer.check()
        tally = Tally()
        if recordings:
            writer = open_warehouse(
                self.sql_conn_id,
                self.schema,
                self.transcripts_table,
                self.segments_table,
                metadata_columns=split_words(self.metadata_columns),
                lake=checked_lake(self.lake_path, self.lake_format, self.lake_catalog_conn_id),
            )
            tally = self._load(recordings, writer, describer, context)
        else:
            self.log.info("There is nothing to land: transcription_id is an empty list.")
        self._moved = Moved(
            folders_of(recordings.values()),
            tally.counts,
            some_ids(recordings),
            tally.audio_seconds,
            # Lineage has no name for the tables of a lake yet.
            None
            if self.sql_conn_id is None
            else Target(self.sql_conn_id, self.schema, self.transcripts_table, self.segments_table),
            tally.transcripts,
            tally.segments,
        )
        tally.refuse_unfinished(len(recordings))
        if tally.reasons and self.on_failed == "fail":
            raise PlaudTranscriptionFailedError(failures(tally.reasons))
        tell_outlets(self.outlets, context, tally.counts)
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
        self,
        recordings: dict[str, str | None],
        writer: WarehouseWriter,
        describer: Describer | None,
        context: Context,
    ) -> Tally:
        from plaud_provider.hooks.connection import PlaudConnection

        ti = context["ti"]
        plaud = PlaudConnection(self.plaud_conn_id, self.region)
        self.log.info(
            "Landing %d transcription(s) of Plaud region '%s' in %r and %r of %s.",
            len(recordings),
            plaud.region,
            self.transcripts_table,
            self.segments_table,
            " and ".join(
                f"{kind} {place!r}"
                for kind, place in (("warehouse", self.sql_conn_id), ("lake", self.lake_path))
                if place
            ),
        )
        lander = Lander(
            writer,
            plaud,
            results=self._results(),
            ledger=self._ledger(),
            describer=describer,
            keep_raw=validate_boolean("keep_raw", self.keep_raw),
            dag_id=ti.dag_id,
            run_id=ti.run_id,
        )
        return lander.land(recordings)

    def _results(self) -> ResultStore | None:
        if self.results_path is None:
            return None
        from plaud_provider.handover.kept_results import ResultStore

        return ResultStore(self.results_path)

    def _ledger(self) -> Ledger | None:
        if self.ledger_conn_id is None:
            return None
        from plaud_provider.ledger.ledger import open_ledger

        return open_ledger(self.ledger_conn_id)


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
