"""
Files, then one transaction: warehouses that load a file in bulk and take both tables in one transaction.

A slab is written as Parquet and loaded into staging tables that readers do not see. One transaction then
deletes the rows of these transcriptions from both tables and inserts the staged ones. None of these
warehouses enforces a key, so two first landings of one transcription could both find nothing to delete and
both insert. Each transaction therefore begins with what only one at a time can do.
"""

from __future__ import annotations

import logging
import re
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import sqlalchemy as sa

from plaud_provider.api.models import Status
from plaud_provider.database.connections import safe_message
from plaud_provider.database.content import Content, content_of
from plaud_provider.database.rows import batches
from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudError,
    PlaudTableMismatchError,
    PlaudWarehouseError,
    how_to_install,
)
from plaud_provider.warehouse.loaders.loader import Landed, Loader, Removed, Stored
from plaud_provider.warehouse.slab import written
from plaud_provider.warehouse.speakers import speakers, speakers_name, spelled

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.warehouse.rows import Landing
    from plaud_provider.warehouse.slab import Slab
    from plaud_provider.warehouse.tables import PlaudTables

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Ids per query.
_LOOKED_UP = 1000
#: Stands for a value in a statement. No name can have it.
VALUE = "\0"
_LOCK = "_lock"
#: What is said of the table that only one landing at a time can update.
LOCK_COMMENT = "One row, which each landing updates first, so that two wait for each other"
_OTHERWISE = ("it was refused, or the connection broke", "Retry; if it stays, look at the query history.")


class Found(NamedTuple):
    """
    A column that a table has.

    :param kind: Its type, as the warehouse spells it.
    :param is_nullable: Whether it may be empty.
    :param has_default: Whether the warehouse fills it where a row leaves it out.
    """

    kind: str
    is_nullable: bool
    has_default: bool


class FilesLoader(Loader):
    """
    Lands files by a warehouse's bulk load.

    :param connection: Its Airflow connection.
    :param tables: Tables to write.
    :raises PlaudConfigurationError: if pyarrow is not installed.
    """

    #: Extra of this package that installs what it needs.
    extra: ClassVar[str]
    #: Types of columns that are created.
    types: ClassVar[Mapping[Content, str]]
    #: Types that hold every value, as the warehouse spells them.
    holds: ClassVar[Mapping[Content, str]]
    #: What the warehouse makes of JSON as text.
    parse_json: ClassVar[str]
    #: Whether its files are Parquet.
    needs_pyarrow: ClassVar[bool] = True
    #: Bytes that a name may have.
    longest_name: ClassVar[int]
    #: What a statement that creates a view ends with.
    view_ending: ClassVar[str] = ""
    #: What is there after a landing that failed.
    outcome: ClassVar[str] = (
        "The transaction was rolled back, unless it was complete when the connection broke; then doing it "
        "again changes nothing."
    )
    #: What an error's code means and what to do, by the start of the code.
    advice: ClassVar[Mapping[str, tuple[str, str]]]

    def __init__(self, connection: Connection, tables: PlaudTables) -> None:
        if self.needs_pyarrow and find_spec("pyarrow") is None:
            raise PlaudConfigurationError(
                f"sql_conn_id: connection {connection.conn_id!r} leads to {self.kind}, which takes files "
                f"that pyarrow writes, and that is not installed. Install it: {how_to_install(self.extra)}. "
                "Nothing was sent."
            )
        self._connection = connection
        self._tables = tables
        self._nuls_replaced = 0

    @property
    def conn_id(self) -> str:
        """Airflow connection of the warehouse."""
        return str(self._connection.conn_id)

    def ensure(self, *, is_checked: bool = False) -> None:
        """Create or check the tables; see the base class."""
        self._tables.refuse_names_longer_than(self.longest_name - len(_LOCK), self.kind)
        self._tables.refuse_one_name_for_two(tells_cases_apart=False)
        with self._connected():
            if not (is_checked and self._answers()):
                self._run(self._create_or_check, "could not be created or looked at", has_rows=False)

    def landed(self, ids: Sequence[str]) -> set[str]:
        """Return those that are completed and here; see the base class."""
        found: set[str] = set()
        with self._connected():
            for some in batches(ids, _LOOKED_UP):
                found |= self._run(partial(self._find, some), "could not be read", has_rows=False)
        return found

    def read(
        self, columns: Sequence[str], where: Mapping[str, Sequence[str]], most: int | None = None
    ) -> list[Sequence[Any]]:
        """Return columns of the transcripts; see the base class."""
        rest = (
            f"where {' and '.join(self._is_one_of(name, values) for name, values in where.items())} "
            f"order by {self._quoted('landed_at')}, {self._quoted('transcription_id')}"
            f"{'' if most is None else f' limit {most}'}"
        )
        return self._selected(columns, rest, [value for some in where.values() for value in some])

    def stored(self, is_wanted: Callable[[Stored], bool]) -> list[Stored]:
        """Return what is here and wanted; see the base class."""
        return [one for row in self._selected(Stored._fields) if is_wanted(one := Stored(*row))]

    def _selected(self, columns: Sequence[str], rest: str = "", values: Sequence[str] = ()) -> list[Any]:
        names = ", ".join(map(self._quoted, columns))
        with self._connected():
            query = f"select {names} from {self._name(self._tables.transcripts.name)} {rest}"
            return self._run(partial(self._rows, query, values), "could not be read", has_rows=False)

    def remove(self, ids: Sequence[str]) -> Removed:
        """
        Remove all rows of these transcriptions; see the base class.

        Segments go first: what is left after a failure is found by its transcript, and removed when this is
        done again. What the warehouse itself keeps to restore (time travel, snapshots) is its own.
        """
        counts = []
        with self._connected():
            for table in (self._tables.segments, self._tables.transcripts):
                removed = 0
                for some in batches(ids, _LOOKED_UP):
                    work = partial(self._delete, table, some)
                    removed += self._run(work, "still have rows that were to be removed", has_rows=False)
                counts.append(removed)
        return Removed(transcripts=counts[1], segments=counts[0])

    def _is_one_of(self, column: str, values: Sequence[str]) -> str:
        """Return the condition that a column has one of some values, which :meth:`_rows` is given."""
        return f"{self._quoted(column)} in ({', '.join(VALUE for _ in values)})"

    def _delete(self, table: sa.Table, ids: Sequence[str]) -> int:
        rows = f"from {self._name(table.name)} where {self._is_one_of('transcription_id', ids)}"
        [(count,)] = self._rows(f"select count(*) {rows}", list(ids))
        self._rows(f"delete {rows}", list(ids))
        return int(count)

    def load(self, landings: Sequence[Landing], ledger: Ledger | None = None) -> Landed:
        """Replace all rows of these transcriptions; see the base class. No ledger is in such a warehouse."""
        self._nuls_replaced = 0
        with self._written(landings) as slab, self._connected():
            self._run(lambda: self._load(slab), f"did not take {len(slab.ids)} transcriptions", has_rows=True)
        counts = slab.counts
        return Landed(counts[self._tables.transcripts], counts[self._tables.segments], self._nuls_replaced)

    @abstractmethod
    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Be connected."""

    @abstractmethod
    def _rows(self, query: str, values: Sequence[str] = ()) -> list[Any]:
        """Run one statement; each :data:`VALUE` in it stands for one. Return its rows."""

    @abstractmethod
    def _there(self, table: str) -> dict[str, Found] | None:
        """Return a table's columns by their names as :meth:`_stored`; ``None`` if there is no such table."""

    @abstractmethod
    def _create(self, table: sa.Table) -> list[str]:
        """Return the statements that create a table, unless another task has."""

    @abstractmethod
    def _load(self, slab: Slab) -> None:
        """Load the files into staging tables, and swap."""

    @abstractmethod
    def _quoted(self, name: str) -> str:
        """Return a name as it is written in SQL."""

    def _stored(self, name: str) -> str:
        """Return a name as the catalog has it, or, where cases are not told apart, in lower case."""
        return str(name).lower()

    @abstractmethod
    def _code(self, error: BaseException) -> str:
        """Return the code of a warehouse's error; nothing if it has none."""

    def _written(self, landings: Sequence[Landing]) -> AbstractContextManager[Slab]:
        """Write the files."""
        return written(landings, self._tables)

    def _create_more(self) -> None:
        """Create what a landing needs beside the two tables."""

    def _name(self, table: str) -> str:
        """Return a table's name in SQL, with its schema."""
        schema = self._tables.schema
        return self._quoted(table) if schema is None else f"{self._quoted(schema)}.{self._quoted(table)}"

    @property
    def _lock(self) -> str:
        """Name of the table whose row each landing updates first."""
        return f"{self._tables.transcripts.name}{_LOCK}"

    def _type(self, column: sa.Column[Any]) -> str:
        return self.types[content_of(column)]

    def _staging_type(self, column: sa.Column[Any]) -> str:
        """Return the type of a column of a staging table: as of ours, with JSON as text."""
        kind = content_of(column)
        return self.types[Content.TEXT if kind is Content.JSON else kind]

    def _staging_columns(self, table: sa.Table) -> str:
        """Return the columns of a staging table, without constraints."""
        return ", ".join(
            f"{self._quoted(column.name)} {self._staging_type(column)}" for column in table.columns
        )

    def _swap_statements(self, staged: Mapping[sa.Table, str]) -> list[str]:
        """
        Return what the transaction does once no other landing can be in it.

        :param staged: Staging tables.
        """
        ids = f"select {self._quoted('transcription_id')} from {staged[self._tables.transcripts]}"
        inserts = []
        deletes = [
            self._delete_staged(self._name(table.name), ids)
            for table in (self._tables.segments, self._tables.transcripts)
        ]
        for table in (self._tables.transcripts, self._tables.segments):
            names = [self._quoted(column.name) for column in table.columns]
            values = [
                self.parse_json.format(name) if content_of(column) is Content.JSON else name
                for column, name in zip(table.columns, names, strict=True)
            ]
            inserts.append(
                f"insert into {self._name(table.name)} ({', '.join(names)}) "
                f"select {', '.join(values)} from {staged[table]}"
            )
        return [*deletes, *inserts]

    def _delete_staged(self, table: str, ids: str) -> str:
        """Return what deletes from a table the rows that are to be replaced."""
        return f"delete from {table} where {self._quoted('transcription_id')} in ({ids})"

    def _transact(self, begin: str, statements: Sequence[str]) -> None:
        """Run statements in one transaction, which is rolled back if one of them fails."""
        try:
            for statement in (begin, *statements, "commit"):
                self._rows(statement)
        except BaseException:
            with suppress(Exception):
                self._rows("rollback")
            raise

    def _find(self, ids: Sequence[str]) -> set[str]:
        known, status = self._quoted("transcription_id"), self._quoted("status")
        query = (
            f"select distinct {known} from {self._name(self._tables.transcripts.name)} "
            f"where {status} = {VALUE} and {self._is_one_of('transcription_id', ids)}"
        )
        return {found for (found,) in self._rows(query, [Status.COMPLETED.value, *ids])}

    def _answers(self) -> bool:
        """Whether all columns of all tables can be asked for."""
        try:
            for table in self._tables.parameters:
                names = ", ".join(self._quoted(column.name) for column in table.columns)
                self._rows(f"select {names} from {self._name(table.name)} where 1 = 0")
        except Exception:
            return False
        return True

    def _create_or_check(self) -> None:
        missing = []
        for table, parameter in self._tables.parameters.items():
            there = self._there(table.name)
            if there is None:
                for statement in self._create(table):
                    self._rows(statement)
            else:
                problems = list(self._problems(table, there))
                self._refuse(table, parameter, problems)
                missing += [column for column in table.columns if self._stored(column.name) not in there]
        for column in missing:
            self._add(column)
        self._create_more()
        self._create_speakers()

    def _create_speakers(self) -> None:
        """Make the view of speakers if this role may; nothing depends on it, and one that is there stays."""
        segments = self._tables.segments
        name = speakers_name(str(segments.name))
        columns = [sa.column(column.name, column.type) for column in segments.columns]
        # Under an alias, as no warehouse takes the whole name of a table before that of a column.
        rows = sa.table(VALUE, *columns).alias("segments")
        try:
            if len(name.encode()) <= self.longest_name and self._there(name) is None:
                query = spelled(
                    speakers(rows),
                    quoted=lambda one: self._read_segments if one == VALUE else self._quoted(one),
                    literal=self._literal,
                )
                self._rows(f"create view {self._name(name)} as {query}{self.view_ending}")
        except PlaudTableMismatchError:
            return
        except Exception as error:
            told = safe_message(error, self._connection)
            log.info("View %s was not created (%s). Nothing depends on it; see docs/model.md.", name, told)

    @property
    def _read_segments(self) -> str:
        """The name, in SQL, of what people read segments from."""
        return self._name(self._tables.segments.name)

    def _literal(self, text: str) -> str:
        return literal(text)

    def _problems(self, table: sa.Table, there: Mapping[str, Found]) -> Iterator[str]:
        ours = {self._stored(column.name): column for column in table.columns}
        for name, column in ours.items():
            found = there.get(name)
            if found is None:
                if not column.nullable:
                    yield f"column {column.name!r} is missing, {self._type(column)} is needed"
            elif not re.fullmatch(self.holds[content_of(column)], found.kind, re.IGNORECASE):
                yield f"column {column.name!r} is {found.kind}, {self._type(column)} is needed"
            elif column.nullable and not found.is_nullable:
                yield f"column {column.name!r} is NOT NULL, but not every row has a value"
        for name, found in there.items():
            if name not in ours and not found.is_nullable and not found.has_default:
                yield f"column {name!r} is NOT NULL without a default, and nothing here fills it"

    def _refuse(self, table: sa.Table, parameter: str, problems: Sequence[str]) -> None:
        if problems:
            raise PlaudTableMismatchError(
                f"Table {table.fullname!r} of warehouse {self.conn_id!r} does not fit: "
                f"{'; '.join(problems)}. Change it, move it away (it is then created anew), or name "
                f"another one in {parameter}. Nothing was written."
            )

    def _is_no_table(self, table: str, kind: str) -> PlaudTableMismatchError:
        """Return what is said of a view, or of what else stands in the place of a table."""
        return PlaudTableMismatchError(
            f"Table {str(table)!r} of warehouse {self.conn_id!r} is a {kind.lower()}, a table is needed. "
            "Move it away (it is then created anew), or name another one. Nothing was written."
        )

    def _add(self, column: sa.Column[Any]) -> None:
        table: Any = column.table
        statement = self._add_column(column)
        refusal = None
        try:
            self._rows(statement)
        except Exception as error:
            refusal = safe_message(error, self._connection)
        # Another task may have been faster.
        if refusal is not None and self._stored(column.name) not in (self._there(table.name) or {}):
            raise PlaudTableMismatchError(
                f"Table {table.fullname!r} of warehouse {self.conn_id!r} lacks column {column.name!r}, and "
                f"it could not be added ({refusal}). Its owner may add it: {statement}. Nothing was written."
            )
        log.info("Added column %s to table %s of an earlier version", column.name, table.fullname)

    def _add_column(self, column: sa.Column[Any]) -> str:
        table: Any = column.table
        return (
            f"alter table {self._name(table.name)} add column if not exists "
            f"{self._quoted(column.name)} {self._type(column)}"
        )

    def _run(self, work: Callable[[], Result], failed: str, *, has_rows: bool) -> Result:
        """
        Do it; an error is raised without a context, and in words that quote no row.

        :param work: What to do.
        :param failed: What has not been done, for the message.
        :param has_rows: Whether the warehouse's own message may quote rows, and must not be shown.
        """
        try:
            return work()
        except PlaudError:
            raise
        except Exception as error:
            refusal = self._refusal(error, failed, has_rows=has_rows)
        raise refusal

    def _refusal(self, error: BaseException, failed: str, *, has_rows: bool) -> PlaudWarehouseError:
        code = self._code(error)
        told = (one for start, one in self.advice.items() if code.startswith(start))
        reason, advice = next(told, _OTHERWISE)
        if has_rows:
            shown = code or type(error).__name__
            outcome = self.outcome
        else:
            shown, outcome = safe_message(error, self._connection), "No row was written."
        return PlaudWarehouseError(
            f"Warehouse {self.conn_id!r}: {self._tables.names} {failed}: {reason} ({shown}). "
            f"{outcome} {advice}"
        )


def token() -> str:
    """Return what makes a name of a staging table or file one of its own."""
    return uuid.uuid4().hex


def comment_of(column: sa.Column[Any]) -> str:
    """Return what is said of a column in the warehouse; nothing if there is nothing to say."""
    return str(column.comment or "")


def literal(text: str) -> str:
    """Return text as a literal of SQL, for warehouses where a backslash escapes."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    # BigQuery takes no line break in one.
    return "'" + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + "'"
