"""Whether tables of ClickHouse that are there take every transcription, and keep it."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from plaud_provider.database.arrow import arrow_schema, arrow_table
from plaud_provider.exceptions import PlaudTableMismatchError
from plaud_provider.warehouse.loaders.trial import refused_by_constraints, rows_of_trial, try_out

if TYPE_CHECKING:
    from plaud_provider.api.regions import Region
    from plaud_provider.warehouse.tables import PlaudTables

log = logging.getLogger(__name__)

#: Whatever the user's profile says: an insert is there, or refused, when it returns.
SETTINGS = {
    "async_insert": 0,
    "insert_deduplicate": 0,
    # A table of a user may have a partition for each id.
    "max_partitions_per_insert_block": 0,
}
#: Columns that an insert may not name, or whose value is kept nowhere.
_COMPUTED = ("MATERIALIZED", "ALIAS", "EPHEMERAL")
#: Engines that keep rows, or those that come last of a sorting key; the others of the family add rows up.
_ENGINE = re.compile(r"(?:Replicated|Shared)?(Replacing)?MergeTree")
_ENGINE_ARGUMENTS = re.compile(r"\w+MergeTree\((?P<arguments>[^)]*)\)")
#: Names of constraints that refuse rows.
_CHECK = re.compile(r"CONSTRAINT (\S+) CHECK ")
#: Where a materialized view writes to, if it says so.
_TARGET = re.compile(r"CREATE MATERIALIZED VIEW \S+ TO (\S+)")
#: In the catalog, the table with a name in our database.
_NAMED = "= {table:String} and database = if({database:String} = '', currentDatabase(), {database:String})"
_CODE = re.compile(r"\(([A-Z][A-Z_]+)\)")
#: Types that hold every value of a column of ours, by the type that we create.
_HOLD: Mapping[str, re.Pattern[str]] = {
    "String": re.compile(r"String"),
    "Float64": re.compile(r"Float64"),
    "Int32": re.compile(r"U?Int(32|64|128|256)"),
    "DateTime64(6, 'UTC')": re.compile(r"DateTime64\([6-9](, '.*')?\)"),
    # A Date ends in 2149 and begins in 1970: older recordings would become others.
    "Date32": re.compile(r"Date32"),
}


class There(NamedTuple):
    """
    A table or view that is there.

    :param database: Database that it is in.
    :param name: Its name.
    :param columns: Its columns, with their types.
    :param computed: Those that an insert gives no value, and how they come by one.
    :param engine: Its engine.
    :param whole: The engine with its arguments.
    :param key: The sorting key.
    :param declared: The statement that would create it.
    :param query: What a view shows.
    :param inserts_into: Database and name of each view that inserts go through.
    """

    database: str
    name: str
    columns: dict[str, str]
    computed: dict[str, str]
    engine: str
    whole: str
    key: str
    declared: str
    query: str
    inserts_into: list[tuple[str, str]]


def rows_of(client: Any, query: str, **parameters: Any) -> list[Any]:
    """Return the rows of a query."""
    return list(client.query(query, parameters=parameters).result_rows)


def look(client: Any, database: str, name: str) -> There | None:
    """
    Return what has a name; ``None`` if nothing has.

    :param client: A connection.
    :param database: Database that it is in; empty for the connection's own.
    :param name: The name.
    """
    where = {"table": name, "database": database}
    query = (
        "select database, engine, engine_full, sorting_key, create_table_query, as_select, "
        f"arrayZip(dependencies_database, dependencies_table) from system.tables where name {_NAMED}"
    )
    found = rows_of(client, query, **where)
    if not found:
        return None
    [(own, engine, whole, key, declared, shown, views)] = found
    columns = rows_of(
        client, f"select name, type, default_kind from system.columns where table {_NAMED}", **where
    )
    return There(
        own,
        name,
        {column: kind for column, kind, _ in columns},
        {column: computed for column, _, computed in columns if computed in _COMPUTED},
        engine,
        whole,
        key,
        declared,
        shown,
        [(str(of), str(view)) for of, view in views],
    )


def problems(there: There, types: Mapping[str, str], key: Sequence[str]) -> Iterator[str]:
    """
    Yield what about a table would keep rows out, change or lose them.

    :param there: The table.
    :param types: Our columns with their types; those that may be empty may be missing.
    :param key: Columns that tell its rows apart at any time.
    """
    for name, kind in types.items():
        found = there.columns.get(name)
        if found is None and not kind.startswith("Nullable"):
            yield f"column {name!r} is missing, {kind} is needed"
        elif found is not None and not _holds(found, kind):
            yield f"column {name!r} is {found}, {kind} is needed"
    yield from _problems_of_engine(there, key)
    for name, kind in there.computed.items():
        if name in types:
            yield f"column {name!r} is {kind}, and keeps no value of ours"


def _problems_of_engine(there: There, key: Sequence[str]) -> Iterator[str]:
    known = _ENGINE.fullmatch(there.engine)
    if known is None:
        yield f"its engine is {there.engine}, MergeTree or ReplacingMergeTree is needed"
    elif known[1]:
        # Rows with the same key become one at any time.
        missing = {*key} - {name.strip(" `") for name in there.key.split(",")}
        if missing:
            lacking = ", ".join(sorted(missing))
            yield f"its engine {there.engine} takes rows for one, as its sorting key lacks {lacking}"
        arguments = _ENGINE_ARGUMENTS.match(there.whole)
        versions = [one.strip(" `") for one in (arguments["arguments"] if arguments else "").split(",")]
        if [one for one in versions if one and not one.startswith("'")] not in ([], ["landed_at"]):
            yield f"its engine is {there.whole.partition(' ')[0]}, whose version is not landed_at"


class Trial:
    """
    Made-up rows for one table, in temporary ones: each insert into it goes through constraints, and through
    materialized views of other people.

    :param client: A connection.
    :param tables: The tables.
    :param table: The one that is tried out.
    :param there: What it is.
    :param columns: Our columns of it.
    :param title: What it is in, for messages.
    """

    def __init__(
        self,
        client: Any,
        tables: PlaudTables,
        table: sa.Table,
        there: There,
        columns: Mapping[str, sa.Column[Any]],
        title: str,
    ) -> None:
        self._client = client
        self._tables = tables
        self._table = table
        self._there = there
        self._columns = columns
        self._title = title

    def run(self) -> None:
        """
        Try made-up transcriptions out, where there is what may refuse some.

        :raises PlaudTableMismatchError: if constraints or views refuse them all.
        """
        checks = _CHECK.findall(self._there.declared)
        views = [
            found
            for database, name in self._there.inserts_into
            if (found := look(self._client, database, name)) is not None
        ]
        if not checks and not views:
            return
        # Who may not make temporary tables is told what was not looked at.
        try:
            with self._temporary(f"as {self._name_of_table}"):
                pass
        except Exception as error:
            if "ACCESS_DENIED" not in codes_of(error):
                raise
            log.warning(
                "Whether constraints or materialized views of table %s (%s) refuse transcripts is not "
                "known: grant CREATE TEMPORARY TABLE ON *.* to have them tried out before anything is paid "
                "for",
                self._table.fullname,
                ", ".join([*checks, *(view.name for view in views)]),
            )
            return
        try_out(partial(self._refused, checks, views))

    @property
    def _name_of_table(self) -> str:
        return f"{quoted(self._there.database)}.{quoted(str(self._table.name))}"

    @contextmanager
    def _temporary(self, declared: str) -> Iterator[str]:
        name = f"plaud_trial_{secrets.token_hex(8)}"
        self._client.command(f"create temporary table {name} {declared}")
        try:
            yield name
        finally:
            self._client.command(f"drop temporary table {name}")

    def _refused(
        self, checks: Sequence[str], views: Sequence[There], region: Region, is_plain: bool
    ) -> PlaudTableMismatchError | None:
        columns = rows_of_trial(self._tables, region, is_plain=is_plain)[self._table]
        schema = arrow_schema(self._columns.items())
        rows = arrow_table(columns, schema, {"landed_at": datetime.now(tz=UTC)})
        with self._temporary(f"as {self._name_of_table}") as copy:
            try:
                self._client.insert_arrow(copy, rows, settings=SETTINGS)
            except Exception as error:
                if "VIOLATED_CONSTRAINT" not in codes_of(error):
                    raise
                parameter = self._tables.parameters[self._table]
                return refused_by_constraints(self._table, parameter, self._title, checks)
            for view in views:
                if (refusal := self._refused_by(view, copy)) is not None:
                    return refusal
        return None

    def _refused_by(self, view: There, copy: str) -> PlaudTableMismatchError | None:
        """Insert what a view makes of the rows into a temporary table of the columns that it goes to."""
        query = self._over(view.query, copy)
        if query is None:
            return None
        into = _TARGET.match(view.declared)
        name_of_view = f"{quoted(view.database)}.{quoted(view.name)}"
        code = None
        with self._temporary(f"as {into[1] if into else name_of_view}") as target:
            there = {name for name, *_ in rows_of(self._client, f"describe table {target}")}
            names = ", ".join(quoted(name) for name in view.columns if name in there)
            try:
                self._client.command(f"insert into {target} ({names}) select {names} from ({query})")
            except Exception as error:
                code = next(iter(codes_of(error)), type(error).__name__)
        if code is None:
            return None
        return PlaudTableMismatchError(
            f"Table {self._table.fullname!r} of {self._title} does not take every transcription: its "
            f"materialized view {view.database}.{view.name}, which each insert goes through, fails at a "
            f"made-up row ({code}). Nothing was written. Change or drop it, or name another table in "
            f"{self._tables.parameters[self._table]}."
        )

    def _over(self, query: str, copy: str) -> str | None:
        """Return a query over the rows that are made up; ``None`` where the table is not named in it."""
        spelled = [
            f"{database}.{name}"
            for database in (self._there.database, quoted(self._there.database))
            for name in (str(self._table.name), quoted(str(self._table.name)))
        ]
        names = "|".join(sorted(map(re.escape, spelled), key=len, reverse=True))
        changed, count = re.subn(rf"(?<![\w.`])(?:{names})(?![\w`])", copy, query)
        return changed if count else None


def codes_of(error: BaseException) -> list[str]:
    """Return the names of a server's error that its message has."""
    return _CODE.findall(str(error))


def quoted(name: str) -> str:
    """Return a name as it is written in SQL."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


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
