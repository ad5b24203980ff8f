"""What the tasks of an archive have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator

from plaud_provider.api.arguments import TextArguments, split_words, validate_words, warehouse_of
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.lineage.moved import Target, TellsLineage
from plaud_provider.recordings.mapping import HarmlessLabel
from plaud_provider.transfers.metadata import refuse_wrong_metadata

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.hooks.connection import PlaudConnection
    from plaud_provider.ledger.entry import Owner, State
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.submit.stop import Stop
    from plaud_provider.submit.summary import Price
    from plaud_provider.warehouse.lake import Lake
    from plaud_provider.warehouse.writer import WarehouseWriter

COUNTS_KEY = "counts"
#: XCom with some of the recordings of a chunk that were refused or did not land, and why.
PROBLEMS_KEY = "problems"
#: How many of them.
SHOWN = 5
#: Until recordings that another task is about to submit are looked at again.
HELD_SECONDS = 30.0
#: What becomes of recordings, by what it is counted as; and what to do about those that did not land.
ENDS = ("landed", "failed", "unknown", "expired", "processing", "not_submitted")
REMEDIES = {
    "failed": "Failed ones are rows of the ledger with their reasons; resubmit=['failed'] submits them again "
    "and pays again.",
    "unknown": "Those of unknown outcome may have been accepted and billed: look at Plaud's console or bill, "
    "then submit them again with resubmit=['unknown'].",
    "expired": "Plaud does not know the expired ones any more: resubmit=['expired'] pays for them again.",
    "processing": "Those that Plaud had not finished by the deadline are waited for by the next run, or when "
    "this task is cleared; nothing is paid twice.",
    "not_submitted": "What was not submitted (the submit's log says why, such as a file that could not be "
    "read, or max_audio_hours) is submitted by the next run, or when that submit is cleared.",
}


class EndsInOrder:
    """An operator that submits: it sets ``_stop`` when it runs, and says to it when the task is ended."""

    _stop: Stop | None = None

    def on_kill(self) -> None:
        """Send nothing more; what has been sent is waited for, and noted."""
        if self._stop is not None:
            self._stop.set()


class ArchiveOperator(TellsLineage, TextArguments, HarmlessLabel, BaseOperator):
    """
    A task of an archive: it knows the client that pays, the ledger, and the target of the transcripts.

    :param ledger_conn_id: Connection of the ledger (templated): PostgreSQL, MySQL, SQLite or DuckDB; by
        default the warehouse. A lake cannot keep one: with ``lake_path`` alone it has to be given.
    :param plaud_conn_id: Connection of type ``plaud`` (templated).
    :param region: What you take that connection's region to be (templated); checked before any request.
    :param sql_conn_id: Connection of the warehouse (templated); by default ``warehouse_default``, or none if
        there is a ``lake_path``.
    :param schema: Schema of both tables (templated); ``None`` for the connection's own.
    :param transcripts_table: Table for transcriptions (templated).
    :param segments_table: Table for segments (templated).
    :param metadata: As for ``TranscriptionToSqlOperator`` (templated): fields of all recordings.
    :param metadata_pattern: Likewise (templated).
    :param metadata_path: Likewise (templated).
    :param metadata_columns: Likewise (templated).
    :param metadata_timezone: Likewise (templated).
    :param price_per_hour: What Plaud asks for an hour of audio, as in ``0.28 USD`` (templated), for what is
        said of plans and runs; by default as the Plaud connection has it, else no money is spoken of.
    :param lake_path: Folder of an open lake that transcripts land in as well, or alone if no ``sql_conn_id``
        is given (templated): ``s3://conn@bucket/folder``, ``gs://…``, ``abfs://…`` or an absolute path.
    :param lake_format: Format of its tables (templated): ``iceberg``, ``delta`` or ``parquet``.
    :param lake_catalog_conn_id: Connection of Iceberg's catalog (templated): ``iceberg`` (REST), ``aws``
        (Glue), ``postgres``, ``mysql`` or ``sqlite`` (SQL). It may be left out for a local ``lake_path``.
    """

    template_fields: Sequence[str] = (
        "sql_conn_id",
        "ledger_conn_id",
        "plaud_conn_id",
        "region",
        "schema",
        "transcripts_table",
        "segments_table",
        "metadata",
        "metadata_pattern",
        "metadata_path",
        "metadata_columns",
        "metadata_timezone",
        "price_per_hour",
        "lake_path",
        "lake_format",
        "lake_catalog_conn_id",
    )
    #: Whether the listing of its run has opened ledger and warehouse before.
    _comes_after_list = True

    def __init__(
        self,
        *,
        ledger_conn_id: str | None = None,
        plaud_conn_id: str = "plaud_default",
        region: str | None = None,
        sql_conn_id: str | None = None,
        schema: str | None = None,
        transcripts_table: str = "plaud_transcripts",
        segments_table: str = "plaud_segments",
        metadata: Mapping[str, Any] | str | None = None,
        metadata_pattern: str | None = None,
        metadata_path: str | None = None,
        metadata_columns: Sequence[str] | str | None = None,
        metadata_timezone: str | None = None,
        price_per_hour: float | str | None = None,
        lake_path: str | None = None,
        lake_format: str = "iceberg",
        lake_catalog_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sql_conn_id = sql_conn_id = warehouse_of(sql_conn_id, lake_path)
        self.lake_path = lake_path
        self.lake_format = lake_format
        self.lake_catalog_conn_id = lake_catalog_conn_id
        self.ledger_conn_id = sql_conn_id if ledger_conn_id is None else ledger_conn_id
        self.plaud_conn_id = plaud_conn_id
        self.region = region
        self.schema = schema
        self.transcripts_table = transcripts_table
        self.segments_table = segments_table
        self.metadata = metadata
        self.metadata_pattern = metadata_pattern
        self.metadata_path = metadata_path
        self.metadata_columns = metadata_columns
        self.metadata_timezone = metadata_timezone
        self.price_per_hour = price_per_hour
        refuse_wrong_metadata(self)

    def _plaud(self) -> PlaudConnection:
        from plaud_provider.hooks.connection import PlaudConnection

        return PlaudConnection(self.plaud_conn_id, self.region)

    def _price(self, plaud: PlaudConnection) -> Price | None:
        """Return what an hour of audio costs, where the arguments or the connection say so."""
        from plaud_provider.submit.summary import known_price

        return known_price(self.price_per_hour, plaud)

    def _ledger_conn(self) -> str:
        conn_id = self.ledger_conn_id or self.sql_conn_id
        if conn_id is None:
            raise PlaudInputError(
                "ledger_conn_id: it is missing, and a lake cannot keep the ledger, which says what has been "
                "paid for. Pass a connection to PostgreSQL, MySQL, MariaDB, SQLite or DuckDB beside "
                "lake_path. Nothing was sent."
            )
        return conn_id

    def _ledger(self) -> AbstractContextManager[Ledger]:
        from plaud_provider.ledger.ledger import open_ledger

        return closing(
            open_ledger(self._ledger_conn(), keeps_connection=True, is_checked=self._comes_after_list)
        )

    def _writer(self, ledger: Ledger) -> WarehouseWriter:
        from plaud_provider.warehouse.writer import open_warehouse

        return open_warehouse(
            self.sql_conn_id,
            self.schema,
            self.transcripts_table,
            self.segments_table,
            metadata_columns=split_words(self.metadata_columns),
            lake=self._lake(),
            ledger=ledger,
            is_checked=self._comes_after_list,
        )

    def _tables(self) -> Target | None:
        """Return the tables, as lineage names them; ``None`` of a lake alone."""
        if self.sql_conn_id is None:
            return None
        return Target(self.sql_conn_id, self.schema, self.transcripts_table, self.segments_table)

    def _target(self) -> str:
        from plaud_provider.warehouse.tables import plaud_tables

        place = self.sql_conn_id
        if place is None and (lake := self._lake()) is not None:
            place = lake.path
        return plaud_tables(self.schema, self.transcripts_table, self.segments_table).target(place or "")

    def _lake(self) -> Lake | None:
        from plaud_provider.warehouse.lake import checked_lake

        return checked_lake(self.lake_path, self.lake_format, self.lake_catalog_conn_id)


class ChunkOperator(ArchiveOperator):
    """
    A task of one chunk.

    :param manifest: Path of the chunk's file, one of those that ``ListRecordingsOperator`` returned
        (templated).
    """

    template_fields: Sequence[str] = ("manifest", *ArchiveOperator.template_fields)

    def __init__(self, *, manifest: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.manifest = manifest

    def _keys(self) -> dict[str, str]:
        """Return the reference to each recording of the chunk by its key; none if nothing was prepared."""
        from plaud_provider.handover.manifest import read_keys

        try:
            return {keyed.key: keyed.uri for keyed in read_keys(self.manifest)}
        except PlaudInputError as missing:
            self.log.warning("No recording of this chunk was prepared: %s", missing)
            return {}


def in_words(counts: Mapping[str, float]) -> str:
    """Return counts of recordings as messages have them."""
    rest = [f"{counts[end]:g} {end.replace('_', ' ')}" for end in ENDS[1:] if counts[end]]
    return ", ".join([f"{counts['total']:g} recordings: {counts['landed']:g} landed", *rest])


def remedies(counts: Mapping[str, float]) -> str:
    """Return what to do about those that did not land."""
    return " ".join(remedy for end, remedy in REMEDIES.items() if counts[end])


def examples(problems: Sequence[str]) -> str:
    """Return some of the reasons why recordings did not land."""
    if not problems:
        return ""
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return f" Such as: {'; '.join(problems[:SHOWN])}{more}"


def come_back(operator: BaseOperator, **kwargs: Any) -> NoReturn:
    """
    Let go of the worker until another task has submitted what it holds; then go on with ``resume``.

    :param operator: The operator.
    :param kwargs: Arguments of its ``resume``.
    """
    from airflow.providers.standard.triggers.temporal import DateTimeTrigger

    moment = datetime.now(tz=UTC) + timedelta(seconds=HELD_SECONDS)
    operator.defer(trigger=DateTimeTrigger(moment), method_name="resume", kwargs=kwargs)


def pulled(context: Context, task_id: str, key: str = COUNTS_KEY) -> list[Any]:
    """Return what the instances of a task have pushed, without what is empty."""
    found = context["ti"].xcom_pull(task_ids=[task_id], key=key)
    return [one for one in found if one]


def states_to_resubmit(words: object) -> list[State]:
    """Return the states that recordings are submitted again from, as templates may have rendered them."""
    from plaud_provider.ledger.entry import RESUBMITTABLE, State

    return [State(word) for word in validate_words("resubmit", words, RESUBMITTABLE)]


def shown(uri: str) -> str:
    """Return a listed reference as the ledger and the keys of a chunk have it."""
    from plaud_provider.recordings.reference import AudioReference

    return AudioReference(uri.replace("\x00", "\ufffd")).uri


def owner_of(context: Context) -> Owner:
    """Return who a task instance is to the ledger."""
    from plaud_provider.ledger.entry import Owner

    ti = context["ti"]
    return Owner(
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        try_number=ti.try_number,
    )
