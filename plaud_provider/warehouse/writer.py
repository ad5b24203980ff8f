"""Writing transcriptions to the warehouse: which rows replace which, in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from plaud_provider.api.models import Status
from plaud_provider.database.database import open_database
from plaud_provider.database.fit import keys
from plaud_provider.database.rows import batches, columns_of
from plaud_provider.warehouse.rows import segment_columns
from plaud_provider.warehouse.tables import DEFAULT_SEGMENTS_TABLE, DEFAULT_TRANSCRIPTS_TABLE, plaud_tables

if TYPE_CHECKING:
    from plaud_provider.database.database import Database
    from plaud_provider.database.rows import Row
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.warehouse.rows import Landing
    from plaud_provider.warehouse.tables import PlaudTables

log = logging.getLogger(__name__)

#: Transcriptions whose rows are made at once: rows take half as much memory again as what they are made of.
_PART = 100
#: Characters of answers likewise: PostgreSQL takes no value of 1 GB, and an array of texts is one.
_PART_CHARACTERS = 32 * 1024 * 1024
#: Ids per query: SQLite before 3.32 takes 999 variables.
_LOOKED_UP = 900
_KEY = frozenset({"transcription_id"})


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
        # Not known before the table has been looked at.
        self._has_key: bool | None = None

    def ensure_tables(self, *, is_checked: bool = False) -> None:
        """
        Create the tables if they are not there; safe when several tasks do it at once.

        :param is_checked: Whether a task before has done so.
        :raises PlaudTableMismatchError: if an existing table cannot hold the rows.
        :raises PlaudWarehouseError: if the warehouse cannot be reached, or does not let us.
        :raises PlaudConfigurationError: if no table of this database would do.
        :raises PlaudInputError: if a name is too long for this kind of database.
        """
        self._database.ensure(self._tables, is_checked=is_checked)

    @property
    def target(self) -> str:
        """What the ledger calls this place."""
        return self._tables.target(self._database.conn_id)

    def landed(self, transcription_ids: Collection[str]) -> set[str]:
        """
        Return those of transcriptions that are completed and whose rows are here.

        :param transcription_ids: Ids that Plaud gave.
        :raises PlaudWarehouseError: if the warehouse cannot be reached.
        """
        table = self._tables.transcripts
        is_completed = table.c.status == Status.COMPLETED.value

        def find(connection: sa.Connection) -> set[str]:
            return {
                known
                for ids in batches(sorted(set(transcription_ids)), _LOOKED_UP)
                for known in connection.scalars(
                    sa.select(table.c.transcription_id).where(table.c.transcription_id.in_(ids), is_completed)
                )
            }

        if not transcription_ids:
            return set()
        return self._database.run(find, failed=f"{self._tables.names} could not be read", is_patient=True)

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
        landed = self._replace(list(latest.values()), ledger)
        if landed.nuls_replaced:
            log.warning(
                "%d NUL characters, which %s cannot store, were replaced by U+FFFD",
                landed.nuls_replaced,
                self._database.kind,
            )
        return landed

    def _replace(self, landings: list[Landing], ledger: Ledger | None) -> Landed:
        many = f"{len(landings)} transcription{'s' * (len(landings) != 1)}"
        run = partial(
            self._database.run,
            failed=(
                f"{self._tables.names} did not take {many} (what the database itself said is not shown, as "
                "it may quote a transcript)"
            ),
        )
        if ledger is None:
            return run(lambda connection: self._land(connection, landings))
        if ledger.conn_id == self._database.conn_id:
            return run(lambda connection: self._land_and_settle(connection, landings, ledger))
        completed = _with_origins(landings, ledger, None)
        landed = run(lambda connection: self._land(connection, completed))
        _settle(completed, ledger, self.target)
        return landed

    def _land_and_settle(self, connection: sa.Connection, landings: list[Landing], ledger: Ledger) -> Landed:
        landed = self._land(connection, _with_origins(landings, ledger, connection))
        _settle(landings, ledger, self.target, connection)
        return landed

    def _land(self, connection: sa.Connection, landings: list[Landing]) -> Landed:
        dialect = self._database.dialect
        if self._has_key is None:
            found = keys(sa.inspect(connection), dialect, self._tables.transcripts)
            self._has_key = dialect.enforces_keys and _KEY in found
        if self._has_key:
            return self._upsert(connection, landings)
        return self._delete_and_insert(connection, landings)

    def _upsert(self, connection: sa.Connection, landings: list[Landing]) -> Landed:
        """
        Land where ``transcription_id`` is a key: rows of other tables that reference a transcript stay.

        The row of each id is locked until the end, in the order of the ids: of two that land an id at once
        the later one finds all segments of the other.
        """
        dialect = self._database.dialect
        nuls = self._write_transcripts(connection, landings, partial(dialect.upsert, connection))
        dialect.delete(connection, self._tables.segments.c.transcription_id, _ids(landings))
        return self._insert_segments(connection, landings, nuls)

    def _delete_and_insert(self, connection: sa.Connection, landings: list[Landing]) -> Landed:
        """Land in a user's table without a key."""
        dialect, tables, ids = self._database.dialect, self._tables, _ids(landings)
        # Two that land an id for the first time find nothing to delete.
        dialect.lock(connection, [f"{tables.transcripts.name}\0{known}" for known in ids])
        for table in (tables.segments, tables.transcripts):
            dialect.delete(connection, table.c.transcription_id, ids)

        def insert(table: sa.Table, rows: Sequence[Row]) -> None:
            dialect.insert(connection, table, columns_of(rows))

        nuls = self._write_transcripts(connection, landings, insert)
        return self._insert_segments(connection, landings, nuls)

    def _write_transcripts(
        self,
        connection: sa.Connection,
        landings: list[Landing],
        write: Callable[[sa.Table, Sequence[Row]], None],
    ) -> int:
        nuls = 0
        for part in _parts(landings):
            rows = [landing.transcript_row() for landing in part]
            nuls += self._database.dialect.clean(rows, json=("raw",))
            write(self._tables.transcripts, rows)
        return nuls

    def _insert_segments(self, connection: sa.Connection, landings: list[Landing], nuls: int) -> Landed:
        count = 0
        for part in _parts(landings):
            columns = segment_columns(part)
            nuls += self._database.dialect.clean(columns.values())
            self._database.dialect.insert(connection, self._tables.segments, columns)
            count += len(columns["text"])
        return Landed(len(landings), count, nuls)


def _ids(landings: list[Landing]) -> list[str]:
    return [landing.transcription_id for landing in landings]


def _parts(landings: list[Landing]) -> Iterator[list[Landing]]:
    """Yield landings, so many at once that their rows take a bounded amount of memory."""
    part: list[Landing] = []
    characters = 0
    for landing in landings:
        part.append(landing)
        characters += len(landing.transcription.raw)
        if len(part) == _PART or characters >= _PART_CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part


def _with_origins(landings: list[Landing], ledger: Ledger, connection: sa.Connection | None) -> list[Landing]:
    """Return landings with what the ledger knows of their recordings and they do not."""
    origins = {
        (region, known): entry
        for region, ids in _by_region(landings).items()
        for known, entry in ledger.origins(ids, region=region, connection=connection).items()
    }
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


def _settle(
    landings: list[Landing], ledger: Ledger, target: str, connection: sa.Connection | None = None
) -> None:
    """Tell the ledger what is landed."""
    for region, ids in _by_region(landings).items():
        here = [landing.transcription for landing in landings if landing.region == region]
        failed = {one.transcription_id: one.error for one in here if one.status is Status.FAILED}
        ledger.settle(set(ids) - set(failed), failed, region=region, target=target, connection=connection)


def _by_region(landings: list[Landing]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for landing in landings:
        found.setdefault(landing.region, []).append(landing.transcription_id)
    return found


def open_warehouse(
    sql_conn_id: str,
    schema: str | None = None,
    transcripts_table: str = DEFAULT_TRANSCRIPTS_TABLE,
    segments_table: str = DEFAULT_SEGMENTS_TABLE,
    *,
    ledger: Ledger | None = None,
    is_checked: bool = False,
) -> WarehouseWriter:
    """
    Return the writer of a warehouse whose tables are there and fit; they are created if they are not there.

    :param sql_conn_id: Airflow connection of a database with a ``common-sql`` hook.
    :param schema: Schema of both tables; ``None`` for the connection's own. It has to exist.
    :param transcripts_table: Table for transcriptions, taken literally.
    :param segments_table: Table for segments, likewise.
    :param ledger: A ledger that is open; if it is behind the same connection, what it has open is used.
    :param is_checked: Whether a task before has opened it, and so has checked its tables.
    :raises PlaudConfigurationError: if the connection is missing or is none of a database.
    :raises PlaudInputError: if a name cannot be one.
    :raises PlaudTableMismatchError: if an existing table cannot hold the rows.
    :raises PlaudWarehouseError: if the warehouse is away, locked or refuses.
    """
    tables = plaud_tables(schema, transcripts_table, segments_table)
    if ledger is not None and ledger.conn_id == sql_conn_id:
        database = ledger.database.as_warehouse()
    else:
        database = open_database(sql_conn_id)
    writer = WarehouseWriter(database, tables)
    writer.ensure_tables(is_checked=is_checked)
    return writer
