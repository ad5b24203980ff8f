"""ClickHouse: whole columns by Arrow, two inserts in order, and views that show one landing of each id."""

from __future__ import annotations

import logging
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
from plaud_provider.warehouse.loaders.clickhouse_fit import (
    SETTINGS,
    There,
    Trial,
    codes_of,
    look,
    problems,
    quoted,
    rows_of,
)
from plaud_provider.warehouse.loaders.loader import Removed, Stored
from plaud_provider.warehouse.loaders.ordered import OrderedLoader
from plaud_provider.warehouse.speakers import speakers, speakers_name

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from plaud_provider.database.rows import Columns
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.warehouse.loaders.loader import Landed
    from plaud_provider.warehouse.rows import Landing
    from plaud_provider.warehouse.tables import PlaudTables

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Ids per query.
_LOOKED_UP = 1000
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
            f"select {', '.join(map(quoted, columns))} from {view} where {' and '.join(conditions)} "
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
            if there is None:
                self._client.command(self._create(table))
            else:
                self._check(table, parameter, there)
        transcripts, segments = (self._name(table) for table in self._tables.parameters)
        latest = (
            f"(transcription_id, landed_at) in (select transcription_id, max(landed_at) from {transcripts} "
            "group by transcription_id)"
        )
        for table, name in zip(self._tables.parameters, (transcripts, segments), strict=True):
            shown = self._there(f"{table.name}_current")
            # Its columns are those that its table had when it was made.
            if shown is None or not shown.columns.keys() >= self._types(table).keys():
                self._refuse_other_peoples(table, shown)
                view = self._name(table, view=True)
                self._client.command(f"create or replace view {view} as select * from {name} where {latest}")
        self._create_speakers()

    def _create_speakers(self) -> None:
        """Make the view of speakers if this user may; nothing depends on it."""
        segments = self._tables.segments
        name = speakers_name(str(segments.name))
        if self._there(name) is not None:
            return
        columns = [sa.column(column.name, column.type) for column in segments.columns]
        current = sa.table(quoted_name(f"{segments.name}_current", quote=True), *columns)
        current.schema = self._tables.schema
        query = speakers(current).compile(compile_kwargs={"literal_binds": True})
        schema = "" if self._tables.schema is None else f"{quoted(str(self._tables.schema))}."
        try:
            self._client.command(f"create view if not exists {schema}{quoted(name)} as {query}")
        except Exception as error:
            code = next(iter(codes_of(error)), type(error).__name__)
            log.info("View %s was not created (%s). Nothing depends on it; see docs/model.md.", name, code)

    def _refuse_other_peoples(self, table: sa.Table, shown: There | None) -> None:
        """Refuse to replace what has the name of a view of ours and is none."""
        if shown is not None and (shown.engine != "View" or "max(landed_at)" not in shown.query):
            raise PlaudTableMismatchError(
                f"{f'{table.name}_current'!r} of warehouse {self.conn_id!r} is a table or view of other "
                f"people, and readers find the rows of {table.fullname!r} there. Move it away, or name "
                f"another table in {self._tables.parameters[table]}. Nothing was written."
            )

    def _there(self, name: str) -> There | None:
        """Return what has a name; ``None`` if nothing has."""
        return look(self._client, str(self._tables.schema or ""), name)

    def _create(self, table: sa.Table) -> str:
        columns = ", ".join(self._declared(table, name) for name in self._types(table))
        keys = ", ".join(quoted(column.name) for column in table.primary_key)
        return (
            f"create table if not exists {self._name(table)} ({columns}) engine = MergeTree "
            f"order by ({keys}) partition by toYYYYMM(landed_at) comment '{table.comment}'"
        )

    def _declared(self, table: sa.Table, name: str) -> str:
        """Return a column as statements declare it."""
        comment = table.c[name].comment if name in table.c else "landed_at of its transcript"
        return f"{quoted(name)} {self._types(table)[name]} comment '{comment}'"

    def _check(self, table: sa.Table, parameter: str, there: There) -> None:
        types = self._types(table)
        key = [column.name for column in table.primary_key]
        if table is self._tables.segments:
            # Until their transcript is there, both landings' segments have to be.
            key.append("landed_at")
        if found := list(problems(there, types, key)):
            raise PlaudTableMismatchError(
                f"Table {table.fullname!r} of warehouse {self.conn_id!r} does not fit: "
                f"{'; '.join(found)}. Change it, move it away (it is then created anew), or name another "
                f"one in {parameter}. Nothing was written."
            )
        for name in (name for name in types if name not in there.columns):
            self._client.command(
                f"alter table {self._name(table)} add column if not exists {self._declared(table, name)}"
            )
        title = f"warehouse {self.conn_id!r}"
        Trial(self._client, self._tables, table, there, self._columns(table), title).run()

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
                quoted(table.name),
                arrow_table(columns, arrow_schema(self._columns(table).items()), in_all),
                database=None if self._tables.schema is None else quoted(str(self._tables.schema)),
                settings=SETTINGS,
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
            if "SUPPORT_IS_DISABLED" not in codes_of(error):
                raise
            self._client.command(f"alter table {name} delete {older}", parameters=parameters)

    def _rows(self, query: str, **parameters: Any) -> list[Any]:
        return rows_of(self._client, query, **parameters)

    def _name(self, table: sa.Table, *, view: bool = False) -> str:
        name = quoted(f"{table.name}_current" if view else table.name)
        return name if self._tables.schema is None else f"{quoted(str(self._tables.schema))}.{name}"

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
            code = next(iter(codes_of(error)), type(error).__name__)
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
