"""Reading transcripts back from the warehouse: for exports and for the pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import sqlalchemy as sa

from plaud_provider.api.answers import parse_transcription
from plaud_provider.api.models import Transcription
from plaud_provider.database.rows import batches
from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.warehouse.loaders.choice import choose_loader
from plaud_provider.warehouse.loaders.rows import RowsLoader
from plaud_provider.warehouse.tables import DEFAULT_SEGMENTS_TABLE, DEFAULT_TRANSCRIPTS_TABLE, plaud_tables

if TYPE_CHECKING:
    from plaud_provider.database.database import Database

Result = TypeVar("Result")

#: Transcripts that are in memory at once.
_AT_ONCE = 20


class Known(NamedTuple):
    """
    What the warehouse knows of a transcription, without what was said.

    :param transcription_id: Plaud's id.
    :param audio_uri: Reference to the recording, without a signature.
    :param region: Region that it was made in.
    :param status: ``completed`` or ``failed``.
    :param language: BCP-47 code.
    :param duration_seconds: Length of the recording.
    :param segment_count: How many segments it has.
    :param speaker_count: How many speakers those name.
    :param error: Why it failed.
    :param submitted_at: When it was submitted.
    :param completed_at: When Plaud completed it.
    :param landed_at: When it landed.
    :param dag_id: Dag that landed it.
    :param run_id: Run that landed it.
    """

    transcription_id: str
    audio_uri: str | None
    region: str
    status: str
    language: str | None
    duration_seconds: float | None
    segment_count: int
    speaker_count: int
    error: str | None
    submitted_at: datetime | None
    completed_at: datetime | None
    landed_at: datetime
    dag_id: str | None
    run_id: str | None


class TranscriptReader:
    """
    Reads the transcripts of one warehouse. It writes nothing and creates nothing.

    All methods raise :class:`~plaud_provider.exceptions.PlaudWarehouseError` if the warehouse is away or
    refuses, as when the table is not there.

    :param sql_conn_id: Airflow connection: PostgreSQL, MySQL, MariaDB, SQLite or DuckDB.
    :param schema: Schema of the table; ``None`` for the connection's own.
    :param transcripts_table: Its name, taken literally.
    :raises PlaudConfigurationError: if there is no such connection, or its warehouse is of another kind.
    :raises PlaudInputError: if a name cannot be one.
    """

    def __init__(
        self,
        sql_conn_id: str,
        schema: str | None = None,
        transcripts_table: str = DEFAULT_TRANSCRIPTS_TABLE,
    ) -> None:
        other = DEFAULT_SEGMENTS_TABLE
        if transcripts_table == other:
            other = DEFAULT_TRANSCRIPTS_TABLE
        tables = plaud_tables(schema, transcripts_table, other)
        loader = choose_loader(sql_conn_id, tables)
        if not isinstance(loader, RowsLoader):
            raise PlaudConfigurationError(
                f"sql_conn_id: connection {sql_conn_id!r} leads to {loader.kind}. Transcripts are read back "
                "from PostgreSQL, MySQL, MariaDB, SQLite and DuckDB only; here they are in the table "
                f"{transcripts_table!r} for tools of yours."
            )
        self.database: Database = loader.database
        self._table = tables.transcripts
        self._known = [self._table.c[name] for name in Known._fields]

    def known(self, transcription_ids: Collection[str]) -> dict[str, Known]:
        """
        Return what is known of transcriptions, by their ids; what is not here is left out.

        :param transcription_ids: Ids that Plaud gave.
        """

        def find(connection: sa.Connection) -> dict[str, Known]:
            found = (
                Known(*row)
                for some in batches(sorted(set(transcription_ids)), 300)
                for row in connection.execute(
                    sa.select(*self._known).where(self._table.c.transcription_id.in_(some))
                )
            )
            return {one.transcription_id: one for one in found}

        return self._run(find)

    def landed_by(self, dag_id: str, run_id: str, most: int | None = None) -> list[str]:
        """
        Return the ids of the completed transcriptions that a run has landed last, the oldest first.

        :param dag_id: Its dag.
        :param run_id: The run.
        :param most: Not more than so many.
        """
        c = self._table.c
        query = (
            sa.select(c.transcription_id)
            .where(c.dag_id == dag_id, c.run_id == run_id, c.status == "completed")
            .order_by(c.landed_at, c.transcription_id)
            .limit(most)
        )
        return self._run(lambda connection: [*connection.scalars(query)])

    def transcriptions(self, transcription_ids: Sequence[str]) -> Iterator[tuple[Known, Transcription]]:
        """
        Yield transcriptions as Plaud answered them, a few in memory at once; what is not here is left out.

        :param transcription_ids: Ids that Plaud gave, each once.
        """
        table = self._table

        def read(some: Sequence[str]) -> Sequence[Any]:
            query = sa.select(*self._known, table.c.raw).where(table.c.transcription_id.in_(some))
            return self._run(lambda connection: connection.execute(query).all())

        for some in batches(transcription_ids, _AT_ONCE):
            for *known, raw in read(some):
                one = Known(*known)
                # PostgreSQL's driver gives JSON back as what it says.
                text = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)
                yield one, parse_transcription(text.encode(), requested_id=one.transcription_id)

    def _run(self, work: Callable[[sa.Connection], Result]) -> Result:
        return self.database.run(work, failed=f"{self._table.fullname} could not be read", only_reads=True)
