"""Rows in one transaction: every database that takes both tables in one, and keeps no copy of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from plaud_provider.api.models import Status
from plaud_provider.api.regions import Region
from plaud_provider.database.fit import keys
from plaud_provider.database.rows import batches, columns_of
from plaud_provider.exceptions import PlaudTableMismatchError
from plaud_provider.warehouse.loaders.loader import Landed, Loader, Removed, Stored
from plaud_provider.warehouse.loaders.trial import compare, earlier, trial_landings, try_out
from plaud_provider.warehouse.rows import segment_parts
from plaud_provider.warehouse.settling import settle, with_origins

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
#: Rows that are read at once, where all are.
_PAGE = 5000
_KEY = frozenset({"transcription_id"})


class RowsLoader(Loader):
    """
    Lands in a database by statements that insert rows.

    :param database: The warehouse.
    :param tables: Tables to write.
    """

    def __init__(self, database: Database, tables: PlaudTables) -> None:
        self.database = database
        self._tables = tables
        # Not known before the table has been looked at.
        self._has_key: bool | None = None

    @property
    def conn_id(self) -> str:
        """Airflow connection of the database."""
        return self.database.conn_id

    @property
    def kind(self) -> str:
        """Kind of database."""
        return self.database.kind

    def ensure(self, *, is_checked: bool = False) -> None:
        """Create or check the tables; see the base class."""
        if self.database.ensure(self._tables, is_checked=is_checked):
            self._try_out()

    def _try_out(self) -> None:
        """
        Land two made-up transcriptions, and take them back.

        Where ids that differ in upper and lower case are one, as in MySQL's usual collations, a warning says
        so: no two of Plaud's are known to differ so.

        :raises PlaudTableMismatchError: if the tables refuse such ones, or change them.
        :raises PlaudWarehouseError: if this role may not write.
        """
        try:
            self._try_ids("Aa")
        except PlaudTableMismatchError as refused:
            self._try_ids("ab")
            log.warning(
                "Transcriptions whose ids differ in upper and lower case only would replace each other, or "
                "be refused, in %s: %s",
                self._tables.names,
                refused,
            )

    def _try_ids(self, endings: str) -> None:
        """Land two whose ids end so."""

        def attempt(region: Region, is_plain: bool) -> PlaudTableMismatchError | None:
            work = partial(self._land_trial, endings, region, is_plain)
            return self.database.try_out(work, self._tables)

        try_out(attempt)

    def _land_trial(self, endings: str, region: Region, is_plain: bool, connection: sa.Connection) -> None:
        landings = trial_landings(self._tables, region.value, endings, is_plain=is_plain)
        self.load_in(connection, [earlier(landings[0]), landings[1]])
        # It has to replace what is there. Of two ids that are one to a table, it would remove the other.
        self.load_in(connection, landings[:1])
        compare(connection, self._tables, landings, self.database.title)

    def landed(self, ids: Sequence[str]) -> set[str]:
        """Return those that are completed and here; see the base class."""
        table = self._tables.transcripts
        is_completed = table.c.status == Status.COMPLETED.value

        def find(connection: sa.Connection) -> set[str]:
            return {
                known
                for some in batches(ids, _LOOKED_UP)
                for known in connection.scalars(
                    sa.select(table.c.transcription_id).where(
                        table.c.transcription_id.in_(some), is_completed
                    )
                )
            }

        return self.database.run(find, failed=f"{self._tables.names} could not be read", is_patient=True)

    def read(
        self, columns: Sequence[str], where: Mapping[str, Sequence[str]], most: int | None = None
    ) -> list[Sequence[Any]]:
        """Return columns of the transcripts; see the base class."""
        table = self._tables.transcripts
        query = (
            sa.select(*(table.c[name] for name in columns))
            .where(*(table.c[name].in_(values) for name, values in where.items()))
            .order_by(table.c.landed_at, table.c.transcription_id)
            .limit(most)
        )
        return self.database.run(
            lambda connection: list(connection.execute(query)),
            failed=f"{table.fullname} could not be read",
            only_reads=True,
        )

    def stored(self, is_wanted: Callable[[Stored], bool]) -> list[Stored]:
        """Return what is here and wanted; see the base class."""
        c = self._tables.transcripts.c
        query = sa.select(*(c[name] for name in Stored._fields))

        def choose(connection: sa.Connection) -> list[Stored]:
            rows = connection.execution_options(yield_per=_PAGE).execute(query)
            return [one for row in rows if is_wanted(one := Stored(*row))]

        return self.database.run(choose, failed=f"{self._tables.names} could not be read", is_patient=True)

    def remove(self, ids: Sequence[str]) -> Removed:
        """Remove all rows of these transcriptions in one transaction; see the base class."""
        dialect, tables = self.database.dialect, self._tables

        def remove(connection: sa.Connection) -> Removed:
            dialect.overwrite_deleted(connection)
            counts = []
            for table in (tables.segments, tables.transcripts):
                known = table.c.transcription_id
                of_ids = (
                    sa.select(sa.func.count()).where(known.in_(some)) for some in batches(ids, _LOOKED_UP)
                )
                counts.append(sum(connection.scalars(query).one() for query in of_ids))
                dialect.delete(connection, known, ids)
            return Removed(transcripts=counts[1], segments=counts[0])

        return self.database.run(remove, failed=f"Rows of {tables.names} were not removed", is_patient=True)

    def load(self, landings: Sequence[Landing], ledger: Ledger | None = None) -> Landed:
        """Replace all rows of these transcriptions in one transaction; see the base class."""
        many = f"{len(landings)} transcription{'s' * (len(landings) != 1)}"
        return self.database.run(
            lambda connection: self.load_in(connection, landings, ledger),
            failed=(
                f"{self._tables.names} did not take {many} (what the database itself said is not shown, as "
                "it may quote a transcript)"
            ),
        )

    def load_in(
        self, connection: sa.Connection, landings: Sequence[Landing], ledger: Ledger | None = None
    ) -> Landed:
        """
        Do it in the transaction of a connection.

        :param connection: The connection.
        :param landings: See :meth:`load`.
        :param ledger: Likewise.
        """
        if ledger is not None:
            landings = with_origins(landings, ledger, connection)
            if not landings:
                return Landed(0, 0)
        dialect = self.database.dialect
        if self._has_key is None:
            found = keys(sa.inspect(connection), dialect, self._tables.transcripts)
            self._has_key = _KEY in found
        replace = self._upsert if self._has_key else self._delete_and_insert
        landed = replace(connection, landings)
        if ledger is not None:
            settle(landings, ledger, self.target, connection)
        return landed

    def _upsert(self, connection: sa.Connection, landings: Sequence[Landing]) -> Landed:
        """
        Land where ``transcription_id`` is a key: rows of other tables that reference a transcript stay.

        The row of each id is locked until the end, in the order of the ids: of two that land an id at once
        the later one finds all segments of the other.
        """
        dialect = self.database.dialect
        nuls = self._write_transcripts(connection, landings, partial(dialect.upsert, connection))
        dialect.delete(connection, self._tables.segments.c.transcription_id, _ids(landings))
        return self._insert_segments(connection, landings, nuls)

    def _delete_and_insert(self, connection: sa.Connection, landings: Sequence[Landing]) -> Landed:
        """Land in a user's table without a key."""
        dialect, tables, ids = self.database.dialect, self._tables, _ids(landings)
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
        landings: Sequence[Landing],
        write: Callable[[sa.Table, Sequence[Row]], None],
    ) -> int:
        nuls = 0
        for part in parts(landings):
            rows = [landing.transcript_row() for landing in part]
            nuls += self.database.dialect.clean(rows, json=("raw", "metadata"))
            write(self._tables.transcripts, rows)
        return nuls

    def _insert_segments(self, connection: sa.Connection, landings: Sequence[Landing], nuls: int) -> Landed:
        count = 0
        for columns in chain.from_iterable(segment_parts(part) for part in parts(landings)):
            nuls += self.database.dialect.clean(columns.values())
            self.database.dialect.insert(connection, self._tables.segments, columns)
            count += len(columns["text"])
        return Landed(len(landings), count, nuls)


def _ids(landings: Sequence[Landing]) -> list[str]:
    return [landing.transcription_id for landing in landings]


def parts(landings: Sequence[Landing]) -> Iterator[list[Landing]]:
    """
    Yield landings, so many at once that their rows take a bounded amount of memory.

    :param landings: Landings.
    """
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
