"""ClickHouse: whole columns by Arrow, two inserts in order, and views that show one landing of each id."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.sql import quoted_name

from plaud_provider.api.models import Status
from plaud_provider.database.arrow import arrow_schema, arrow_table
from plaud_provider.database.connections import hook_of
from plaud_provider.database.rows import batches, columns_of
from plaud_provider.database.types import UtcTime
from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudError,
    PlaudInputError,
    PlaudTableMismatchError,
    PlaudWarehouseError,
    how_to_install,
)
from plaud_provider.warehouse.loaders.loader import Removed, Stored
from plaud_provider.warehouse.loaders.ordered import OrderedLoader
from plaud_provider.warehouse.loaders.trial import refused_by_constraints, rows_of_trial, try_out
from plaud_provider.warehouse.speakers import speakers, speakers_name

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from plaud_provider.api.regions import Region
    from plaud_provider.database.rows import Columns
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.warehouse.loaders.loader import Landed
    from plaud_provider.warehouse.rows import Landing
    from plaud_provider.warehouse.tables import PlaudTables

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Whatever the user's profile says: an insert is there, or refused, when it returns.
_SETTINGS = {
    "async_insert": 0,
    "insert_deduplicate": 0,
    # A table of a user may have a partition for each id.
    "max_partitions_per_insert_block": 0,
}
#: Ids per query.
_LOOKED_UP = 1000
#: Columns that an insert may not name, or whose value is kept nowhere.
_COMPUTED = ("MATERIALIZED", "ALIAS", "EPHEMERAL")
#: Engines that keep rows, or those that come last of a sorting key; the others of the family add rows up.
_ENGINE = re.compile(r"(?:Replicated|Shared)?(Replacing)?MergeTree")
_ENGINE_ARGUMENTS = re.compile(r"\w+MergeTree\((?P<arguments>[^)]*)\)")
#: Names of constraints that refuse rows.
_CHECK = re.compile(r"CONSTRAINT (\S+) CHECK ")
#: In the catalog, the table with a name in our database.
_NAMED = "= {table:String} and database = if({database:String} = '', currentDatabase(), {database:String})"
_CODE = re.compile(r"\(([A-Z][A-Z_]+)\)")
_ADVICE: Mapping[str, tuple[str, str]] = {
    "ACCESS_DENIED": (
        "permission was denied",
        "Grant SELECT, INSERT, ALTER DELETE, ALTER ADD COLUMN, CREATE TABLE and CREATE VIEW on the database.",
    ),
    "READONLY": ("the user or its session is read-only", "Check the user's profile and the connection."),
    "UNKNOWN_TABLE": ("a table is not there any more", "Retry: each task creates missing tables first."),
    "VIOLATED_CONSTRAINT": (
        "a constraint of the table refused a row",
        "Look for constraints that this package did not make.",
    ),
    "MEMORY_LIMIT_EXCEEDED": ("it ran out of memory", "Raise max_memory_usage, or retry."),
}
_OTHERWISE = ("it was refused, or the connection broke", "Retry; if it stays, look at the server's own log.")
#: Types that hold every value of a column of ours, by the type that we create.
_HOLD: Mapping[str, re.Pattern[str]] = {
    "String": re.compile(r"String"),
    "Float64": re.compile(r"Float64"),
    "Int32": re.compile(r"U?Int(32|64|128|256)"),
    "DateTime64(6, 'UTC')": re.compile(r"DateTime64\([6-9](, '.*')?\)"),
    # A Date ends in 2149 and begins in 1970: older recordings would become others.
    "Date32": re.compile(r"Date32"),
}


class ClickHouseLoader(OrderedLoader):
    """
    Lands in ClickHouse through its Airflow provider's ``ClickHouseHook``.

    :param connection: Its Airflow connection.
    :param tables: Tables to write.
    :raises PlaudConfigurationError: if its provider or pyarrow is not installed.
    """

    kind = "ClickHouse"

    def __init__(self, connection: Connection, tables: PlaudTables) -> None:
        super().__init__(tables)
        names = {str(table.name): parameter for table, parameter in tables.parameters.items()}
        for name in [*names]:
            if (view := f"{name}_current") in names:
                raise PlaudInputError(
                    f"{names[view]}: {view!r} is the name of the view of {name!r}. Choose another one. "
                    "Nothing was sent."
                )
        if find_spec("pyarrow") is None:
            raise PlaudConfigurationError(
                f"sql_conn_id: connection {connection.conn_id!r} leads to ClickHouse, which takes rows from "
                f"pyarrow, and that is not installed. Install it: {how_to_install('clickhouse')}. Nothing "
                "was sent."
            )
        self._connection_id = str(connection.conn_id)
        self._hook = hook_of(connection, parameter="sql_conn_id")
        self._client: Any = None

    @property
    def conn_id(self) -> str:
        """Airflow connection of the warehouse."""
        return self._connection_id

    def ensure(self, *, is_checked: bool = False) -> None:
        """Create or check the tables and their views; see the base class."""
        with self._connected():
            self._run(self._create_or_check, "could not be created or looked at")

    def landed(self, ids: Sequence[str]) -> set[str]:
        """Return those that are completed and here; see the base class."""
        view = self._name(self._tables.transcripts, view=True)
        query = (
            f"select distinct transcription_id from {view} "
            "where transcription_id in {ids:Array(String)} and status = {status:String}"
        )
        found: set[str] = set()
        with self._connected():
            for some in batches(ids, _LOOKED_UP):
                ask = partial(self._rows, query, ids=list(some), status=Status.COMPLETED.value)
                found |= {known for (known,) in self._run(ask, "could not be read")}
        return found

    def read(
        self, columns: Sequence[str], where: Mapping[str, Sequence[str]], most: int | None = None
    ) -> list[Sequence[Any]]:
        """Return columns of the transcripts; see the base class."""
        view = self._name(self._tables.transcripts, view=True)
        conditions = (f"{name} in {{{name}:Array(String)}}" for name in where)
        query = (
            f"select {', '.join(map(_quoted, columns))} from {view} where {' and '.join(conditions)} "
            f"order by landed_at, transcription_id{'' if most is None else f' limit {most}'}"
        )
        of = {name: list(values) for name, values in where.items()}
        with self._connected():
            return self._run(partial(self._rows, query, **of), "could not be read")

    def stored(self, is_wanted: Callable[[Stored], bool]) -> list[Stored]:
        """Return what is here and wanted; see the base class."""
        view = self._name(self._tables.transcripts, view=True)
        query = f"select {', '.join(Stored._fields)} from {view}"
        with self._connected():
            rows = self._run(partial(self._rows, query), "could not be read")
        return [one for row in rows if is_wanted(one := Stored(*row))]

    def remove(self, ids: Sequence[str]) -> Removed:
        """
        Remove all rows of these transcriptions; see the base class.

        By mutations, which write the parts anew: a ``DELETE`` would only hide the rows until a merge.
        """
        counts = []
        with self._connected():
            for table in reversed(list(self._tables.parameters)):
                removed = 0
                for some in batches(ids, _LOOKED_UP):
                    of_ids = "transcription_id in {ids:Array(String)}"
                    count = f"select count() from {self._name(table, view=True)} where {of_ids}"
                    removed += self._run(partial(self._rows, count, ids=list(some)), "could not be read")[0][
                        0
                    ]
                    statement = f"alter table {self._name(table)} delete where {of_ids}"
                    self._run(
                        partial(
                            self._client.command,
                            f"{statement} settings mutations_sync = 2",
                            parameters={"ids": list(some)},
                        ),
                        "still have rows that were to be removed",
                    )
                counts.append(removed)
        return Removed(transcripts=counts[1], segments=counts[0])

    def load(self, landings: Sequence[Landing], ledger: Ledger | None = None) -> Landed:
        """Replace all rows of these transcriptions; see the base class."""
        with self._connected():
            return super().load(landings, ledger)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        self._client = self._run(self._hook.get_client, "could not be reached")
        try:
            yield
        finally:
            self._client.close()

    def _types(self, table: sa.Table) -> dict[str, str]:
        """Return our columns with their types."""
        return {name: _type_of(column) for name, column in self._columns(table).items()}

    def _create_or_check(self) -> None:
        schema = self._tables.schema
        query = "select count() from system.databases where name = {name:String}"
        if schema is not None and not self._rows(query, name=str(schema))[0][0]:
            raise PlaudWarehouseError(
                f"schema: warehouse {self.conn_id!r} has no schema {schema!r} (a database, in ClickHouse's "
                "words). Create it (it is not created here), or correct the name. Nothing was written."
            )
        for table, parameter in self._tables.parameters.items():
            there = self._there(str(table.name))
            if there:
                self._check(table, parameter, there)
            else:
                self._client.command(self._create(table))
        transcripts, segments = (self._name(table) for table in self._tables.parameters)
        latest = (
            f"(transcription_id, landed_at) in (select transcription_id, max(landed_at) from {transcripts} "
            "group by transcription_id)"
        )
        for table, name in zip(self._tables.parameters, (transcripts, segments), strict=True):
            there = self._there(f"{table.name}_current")
            # Its columns are those that its table had when it was made.
            if not there.keys() >= self._types(table).keys():
                self._refuse_other_peoples(table)
                view = self._name(table, view=True)
                self._client.command(f"create or replace view {view} as select * from {name} where {latest}")
        self._create_speakers()

    def _create_speakers(self) -> None:
        """Make the view of speakers if this user may; nothing depends on it."""
        segments = self._tables.segments
        name = speakers_name(str(segments.name))
        if self._there(name):
            return
        columns = [sa.column(column.name, column.type) for column in segments.columns]
        current = sa.table(quoted_name(f"{segments.name}_current", quote=True), *columns)
        current.schema = self._tables.schema
        query = speakers(current).compile(compile_kwargs={"literal_binds": True})
        schema = "" if self._tables.schema is None else f"{_quoted(str(self._tables.schema))}."
        try:
            self._client.command(f"create view if not exists {schema}{_quoted(name)} as {query}")
        except Exception as error:
            code = next(iter(_CODE.findall(str(error))), type(error).__name__)
            log.info("View %s was not created (%s). Nothing depends on it; see docs/model.md.", name, code)

    def _refuse_other_peoples(self, table: sa.Table) -> None:
        """Refuse to replace what has the name of a view of ours and is none."""
        name = f"{table.name}_current"
        query = f"select engine, as_select from system.tables where name {_NAMED}"
        for engine, select in self._rows(query, **self._named(name)):
            if engine != "View" or "max(landed_at)" not in select:
                raise PlaudTableMismatchError(
                    f"{name!r} of warehouse {self.conn_id!r} is a table or view of other people, and readers "
                    f"find the rows of {table.fullname!r} there. Move it away, or name another table in "
                    f"{self._tables.parameters[table]}. Nothing was written."
                )

    def _named(self, name: str) -> dict[str, str]:
        """Return the parameters of :data:`_NAMED`."""
        return {"table": name, "database": str(self._tables.schema or "")}

    def _there(self, name: str) -> dict[str, str]:
        """Return the columns that a table or view has, with their types; none if there is no such one."""
        return dict(
            self._rows(f"select name, type from system.columns where table {_NAMED}", **self._named(name))
        )

    def _create(self, table: sa.Table) -> str:
        columns = ", ".join(self._declared(table, name) for name in self._types(table))
        keys = ", ".join(_quoted(column.name) for column in table.primary_key)
        return (
            f"create table if not exists {self._name(table)} ({columns}) engine = MergeTree "
            f"order by ({keys}) partition by toYYYYMM(landed_at) comment '{table.comment}'"
        )

    def _declared(self, table: sa.Table, name: str) -> str:
        """Return a column as statements declare it."""
        comment = table.c[name].comment if name in table.c else "landed_at of its transcript"
        return f"{_quoted(name)} {self._types(table)[name]} comment '{comment}'"

    def _check(self, table: sa.Table, parameter: str, there: Mapping[str, str]) -> None:
        problems = []
        for name, kind in self._types(table).items():
            found = there.get(name)
            if found is None and kind.startswith("Nullable"):
                self._client.command(
                    f"alter table {self._name(table)} add column if not exists {self._declared(table, name)}"
                )
            elif found is None:
                problems.append(f"column {name!r} is missing, {kind} is needed")
            elif not _holds(found, kind):
                problems.append(f"column {name!r} is {found}, {kind} is needed")
        problems += self._problems_of_engine(table)
        problems += [
            f"column {name!r} is {kind}, and keeps no value of ours"
            for name, kind in self._computed(str(table.name)).items()
            if name in self._types(table)
        ]
        if problems:
            raise PlaudTableMismatchError(
                f"Table {table.fullname!r} of warehouse {self.conn_id!r} does not fit: "
                f"{'; '.join(problems)}. Change it, move it away (it is then created anew), or name another "
                f"one in {parameter}. Nothing was written."
            )
        query = f"select create_table_query from system.tables where name {_NAMED}"
        [(declared,)] = self._rows(query, **self._named(str(table.name)))
        if names := _CHECK.findall(declared):
            try_out(partial(self._refused, table, parameter, names))

    def _refused(
        self, table: sa.Table, parameter: str, names: Sequence[str], region: Region, is_plain: bool
    ) -> PlaudTableMismatchError | None:
        """Insert made-up rows into a temporary table with the constraints of a table."""
        copy = f"plaud_trial_{secrets.token_hex(8)}"
        try:
            self._client.command(f"create temporary table {copy} as {self._name(table)}")
        except Exception as error:
            if "ACCESS_DENIED" not in _CODE.findall(str(error)):
                raise
            log.warning(
                "Whether constraints of table %s (%s) refuse transcripts is not known: grant CREATE "
                "TEMPORARY TABLE ON *.* to have them tried out before anything is paid for",
                table.fullname,
                ", ".join(names),
            )
            return None
        columns = rows_of_trial(self._tables, region, is_plain=is_plain)[table]
        schema = arrow_schema(self._columns(table).items())
        rows = arrow_table(columns, schema, {"landed_at": datetime.now(tz=UTC)})
        try:
            self._client.insert_arrow(copy, rows, settings=_SETTINGS)
        except Exception as error:
            if "VIOLATED_CONSTRAINT" not in _CODE.findall(str(error)):
                raise
            return refused_by_constraints(table, parameter, f"warehouse {self.conn_id!r}", names)
        finally:
            self._client.command(f"drop temporary table {copy}")
        return None

    def _problems_of_engine(self, table: sa.Table) -> Iterator[str]:
        query = f"select engine, engine_full, sorting_key from system.tables where name {_NAMED}"
        [(engine, whole, key)] = self._rows(query, **self._named(str(table.name)))
        known = _ENGINE.fullmatch(engine)
        if known is None:
            yield f"its engine is {engine}, MergeTree or ReplacingMergeTree is needed"
        elif known[1]:
            # Rows with the same key become one at any time. Until their transcript is there, both landings'
            # segments have to be.
            needed = {column.name for column in table.primary_key}
            if table is self._tables.segments:
                needed.add("landed_at")
            missing = needed - {name.strip(" `") for name in key.split(",")}
            if missing:
                lacking = ", ".join(sorted(missing))
                yield f"its engine {engine} takes rows for one, as its sorting key lacks {lacking}"
            arguments = _ENGINE_ARGUMENTS.match(whole)
            versions = [one.strip(" `") for one in (arguments["arguments"] if arguments else "").split(",")]
            if [one for one in versions if one and not one.startswith("'")] not in ([], ["landed_at"]):
                yield f"its engine is {whole.partition(' ')[0]}, whose version is not landed_at"

    def _computed(self, name: str) -> dict[str, str]:
        """Return the columns of a table that an insert gives no value, and how they come by one."""
        query = f"select name, default_kind from system.columns where table {_NAMED}"
        return {name: kind for name, kind in self._rows(query, **self._named(name)) if kind in _COMPUTED}

    def _last_landed(self, ids: Sequence[str]) -> datetime | None:
        tables = " union all ".join(
            f"select landed_at from {self._name(table)} where transcription_id in {{ids:Array(String)}}"
            for table in self._tables.parameters
        )
        query = f"select count(), toString(max(toTimeZone(landed_at, 'UTC'))) from ({tables})"
        [(count, last)] = self._run(partial(self._rows, query, ids=list(ids)), "could not be read")
        return datetime.fromisoformat(last[:26]).replace(tzinfo=UTC) if count else None

    def _append_segments(self, columns: Columns, stamp: datetime) -> None:
        self._insert(self._tables.segments, columns, {"landed_at": stamp})

    def _publish_transcripts(self, landings: Sequence[Landing]) -> None:
        self._insert(self._tables.transcripts, columns_of([landing.transcript_row() for landing in landings]))

    def _insert(self, table: sa.Table, columns: Columns, in_all: Mapping[str, Any] | None = None) -> None:
        self._run(
            lambda: self._client.insert_arrow(
                _quoted(table.name),
                arrow_table(columns, arrow_schema(self._columns(table).items()), in_all),
                database=None if self._tables.schema is None else _quoted(str(self._tables.schema)),
                settings=_SETTINGS,
            ),
            "did not take what was to be landed",
        )

    def _remove_older(self, ids: Sequence[str], stamp: datetime) -> None:
        parameters = {"ids": list(ids), "stamp": stamp}
        for table in reversed(list(self._tables.parameters)):
            self._run(
                partial(self._sweep, self._name(table), parameters),
                "have the new rows, and old ones, which the views do not show, could not be removed",
            )

    def _sweep(self, name: str, parameters: Mapping[str, Any]) -> None:
        older = "where transcription_id in {ids:Array(String)} and landed_at < {stamp:DateTime64(6, 'UTC')}"
        try:
            # Whatever the user's profile says, nobody waits for it: the views show none of these rows.
            self._client.command(
                f"delete from {name} {older} settings lightweight_deletes_sync = 0", parameters=parameters
            )
        except Exception as error:
            # A table with projections is written anew.
            if "SUPPORT_IS_DISABLED" not in _CODE.findall(str(error)):
                raise
            self._client.command(f"alter table {name} delete {older}", parameters=parameters)

    def _rows(self, query: str, **parameters: Any) -> list[Any]:
        return list(self._client.query(query, parameters=parameters).result_rows)

    def _name(self, table: sa.Table, *, view: bool = False) -> str:
        name = _quoted(f"{table.name}_current" if view else table.name)
        return name if self._tables.schema is None else f"{_quoted(str(self._tables.schema))}.{name}"

    def _run(self, work: Callable[[], Result], failed: str) -> Result:
        """
        Do it; an error is raised without a context, and in words that quote no row.

        :param work: What to do.
        :param failed: What has not been done, for the message.
        """
        try:
            return work()
        except PlaudError:
            raise
        except Exception as error:
            code = next(iter(_CODE.findall(str(error))), type(error).__name__)
        reason, advice = _ADVICE.get(
            code, ("it was refused", "Retry; if it stays, look at the server's log.")
        )
        raise PlaudWarehouseError(
            f"Warehouse {self.conn_id!r}: {self._tables.names} {failed}: {reason} ({code}). Readers of its "
            f"views find the rows from before or the new ones. {advice}"
        )


def _type_of(column: sa.Column[Any]) -> str:
    if isinstance(column.type, UtcTime):
        kind = "DateTime64(6, 'UTC')"
    elif isinstance(column.type, sa.Date):
        kind = "Date32"
    elif isinstance(column.type, sa.Float):
        kind = "Float64"
    else:
        kind = "Int32" if isinstance(column.type, sa.Integer) else "String"
    return f"Nullable({kind})" if column.nullable else kind


def _holds(found: str, needed: str) -> bool:
    bare = re.sub(r"^LowCardinality\((.*)\)$", r"\1", found)
    is_nullable = bare.startswith("Nullable(")
    bare = bare.removeprefix("Nullable(").removesuffix(")") if is_nullable else bare
    kind = needed
    if needed.startswith("Nullable("):
        if not is_nullable:
            return False
        kind = needed[len("Nullable(") : -1]
    return _HOLD[kind].fullmatch(bare) is not None


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"
