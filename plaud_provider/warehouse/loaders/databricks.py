"""Databricks: files in a volume, then two atomic writes in order, as two tables share no transaction."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential, wait_random

from plaud_provider.database.connections import with_extra
from plaud_provider.database.content import Content
from plaud_provider.database.types import UtcTime, utc
from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudInputError,
    PlaudWarehouseError,
    how_to_install,
)
from plaud_provider.warehouse.loaders.files import VALUE, FilesLoader, Found, comment_of, literal, token
from plaud_provider.warehouse.loaders.loader import Landed
from plaud_provider.warehouse.loaders.ordered import stamp_of
from plaud_provider.warehouse.slab import written
from plaud_provider.warehouse.tables import PlaudTables

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from plaud_provider.database.rows import Columns
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.warehouse.rows import Landing
    from plaud_provider.warehouse.slab import Slab

log = logging.getLogger(__name__)

#: A setting of ours in the connection's extra.
_VOLUME = "plaud_volume"
_IN_VOLUME = re.compile(r"/Volumes(/[^/\\'`\x00-\x1f]+){3,}")
#: Whatever the user's own settings say. Of a value that does not fit ANSI mode makes an error, not NULL.
_SESSION = {"TIMEZONE": "UTC", "ANSI_MODE": "true"}
#: What no name in Unity Catalog may have.
_NOT_IN_NAME = re.compile(r"[./ `\x00-\x1f\x7f]")
_ERROR_CLASS = re.compile(r"\[([A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)*)\]")
_CONFLICT = "DELTA_CONCURRENT"
_WAIT_SECONDS = 600
_RIGHTS = (
    "Grant use catalog, use schema, create table on the schema, select and modify on the tables, and read "
    "volume and write volume on the volume."
)


class DatabricksLoader(FilesLoader):
    """
    Lands in Databricks through Airflow's ``DatabricksSqlHook``.

    Segments carry the ``landed_at`` of their transcript, and the view ``plaud_segments_current`` shows those
    that have the one of the transcript that is there. New segments come first; one ``MERGE`` of the
    transcripts then changes what readers find; what is older is removed afterwards.

    :param connection: Its Airflow connection.
    :param tables: Tables to write.
    :raises PlaudConfigurationError: if its provider or pyarrow is not installed, or no volume is named.
    :raises PlaudInputError: if a name cannot be one there.
    """

    kind = "Databricks"
    extra = "databricks"
    types = {
        Content.NAME: "string",
        Content.TEXT: "string",
        # `raw:status` works on it, and it has no limit, as VARIANT has.
        Content.JSON: "string",
        Content.DOUBLE: "double",
        Content.INTEGER: "bigint",
        Content.TIME: "timestamp",
        Content.DATE: "date",
        Content.BOOLEAN: "boolean",
    }
    holds = {
        Content.NAME: r"string|varchar\((25[5-9]|2[6-9]\d|[3-9]\d\d|\d{4,})\)",
        Content.TEXT: r"string",
        Content.JSON: r"string",
        Content.DOUBLE: r"double",
        Content.INTEGER: r"bigint|int",
        Content.TIME: r"timestamp",
        Content.DATE: r"date",
        Content.BOOLEAN: r"boolean",
    }
    parse_json = "{}"
    longest_name = 255
    outcome = "Readers of plaud_segments_current find the rows from before or the new ones."
    advice = {
        "INSUFFICIENT_PERMISSIONS": ("permission was denied", _RIGHTS),
        "PERMISSION_DENIED": ("permission was denied", _RIGHTS),
        "TABLE_OR_VIEW_NOT_FOUND": ("a table is not there", "Retry: each task creates missing tables first."),
        "SCHEMA_NOT_FOUND": ("the schema is not there", "Create it, or correct the connection's schema."),
        _CONFLICT: ("other writers of the table kept getting in the way", "Let fewer tasks land at once."),
        "DELTA_": ("the table refused it", "See the query history; a retry may help."),
    }

    def __init__(self, connection: Connection, tables: PlaudTables) -> None:
        super().__init__(connection, _with_landed_at(tables))
        extra = dict(connection.extra_dejson)
        self._volume = str(extra.pop(_VOLUME, "")).rstrip("/")
        if not _IN_VOLUME.fullmatch(self._volume):
            raise PlaudConfigurationError(
                f"sql_conn_id: connection {self.conn_id!r} leads to Databricks. In its extra, {_VOLUME} "
                "names the volume that files are put into, such as /Volumes/main/calls/staging. Nothing was "
                "sent."
            )
        for table, parameter in self._tables.parameters.items():
            if _NOT_IN_NAME.search(str(table.name)):
                raise PlaudInputError(
                    f"{parameter}: {str(table.name)[:80]!r} cannot be a name in Databricks: it has a dot, a "
                    "slash, a space or a backtick. Choose another one. Nothing was sent."
                )
        self._hook = _hook_of(with_extra(connection, extra), self._tables.schema)
        self._cursor: Any = None

    def load(self, landings: Sequence[Landing], ledger: Ledger | None = None) -> Landed:
        """Replace all rows of these transcriptions; see the base class. No ledger is in such a warehouse."""
        ids = [landing.transcription_id for landing in landings]
        with self._connected():
            last = self._run(lambda: self._last_landed(ids), "could not be read", has_rows=False)
            stamp = stamp_of(landings, last)

            def with_stamp(table: sa.Table, columns: Columns) -> None:
                columns["landed_at"] = [stamp] * len(columns["transcription_id"])

            with written(landings, self._tables, with_stamp) as slab:
                failed = f"did not take {len(ids)} transcriptions"
                self._run(lambda: self._load(slab), failed, has_rows=True)
            if last is not None:
                failed = "have the new rows, and old segments, which no view shows, could not be removed"
                self._run(lambda: self._remove_older(ids, stamp), failed, has_rows=False)
        return Landed(slab.counts[self._tables.transcripts], slab.counts[self._tables.segments])

    @contextmanager
    def _connected(self) -> Iterator[None]:
        connection = self._run(self._hook.get_conn, "could not be reached", has_rows=False)
        try:
            self._cursor = connection.cursor()
            yield
        finally:
            # The hook would hand out the closed one again.
            self._hook._sql_conn = None
            connection.close()

    def _rows(self, query: str, values: Sequence[str] = ()) -> list[Any]:
        # It takes no more than 255 parameters; there may be more ids.
        parts = query.split(VALUE)
        shown = [part for pair in zip(parts, [*map(literal, values), ""], strict=True) for part in pair]
        self._cursor.execute("".join(shown))
        return [tuple(row) for row in self._cursor.fetchall()] if self._cursor.description else []

    def _quoted(self, name: str) -> str:
        return "`" + str(name).replace("`", "``") + "`"

    @property
    def _read_segments(self) -> str:
        return self._name(f"{self._tables.segments.name}_current")

    def _of(self, table: str) -> tuple[str, list[str]]:
        """Return what picks a table in the information schema, with its values."""
        if self._tables.schema is None:
            return f"where table_schema = current_schema() and table_name = {VALUE}", [self._stored(table)]
        values = [self._stored(self._tables.schema), self._stored(table)]
        return f"where table_schema = {VALUE} and table_name = {VALUE}", values

    def _there(self, table: str) -> dict[str, Found] | None:
        where, values = self._of(table)
        if self._tables.schema is not None:
            known = f"select 1 from information_schema.schemata where schema_name = {VALUE}"
            if not self._rows(known, values[:1]):
                raise PlaudWarehouseError(
                    f"schema: warehouse {self.conn_id!r} has no schema {str(self._tables.schema)!r}, or its "
                    "user may not see it. Create it (it is not created here), or correct the name. Nothing "
                    "was written."
                )
        kinds = self._rows(f"select table_type from information_schema.tables {where}", values)
        if not kinds:
            return None
        [(kind,)] = kinds
        if "VIEW" in kind:
            raise self._is_no_table(table, kind)
        columns = self._rows(
            "select column_name, full_data_type, is_nullable, column_default "
            f"from information_schema.columns {where}",
            values,
        )
        return {
            self._stored(name): Found(str(kind).lower(), is_nullable == "YES", default is not None)
            for name, kind, is_nullable, default in columns
        }

    def _create(self, table: sa.Table) -> list[str]:
        columns = [
            f"{self._quoted(column.name)} {self._type(column)}{' not null' * (not column.nullable)}"
            + (f" comment {literal(comment)}" if (comment := comment_of(column)) else "")
            for column in table.columns
        ]
        statement = (
            f"create table if not exists {self._name(table.name)} ({', '.join(columns)}) using delta "
            f"cluster by (`transcription_id`, `landed_at`) comment {literal(str(table.comment))} "
            # Columns may be called anything.
            "tblproperties ('delta.columnMapping.mode' = 'name')"
        )
        return [statement]

    def _create_more(self) -> None:
        log.info("Databricks: built and tested as far as it goes without one (`plaud docs databricks`)")
        segments = self._tables.segments
        where, values = self._of(f"{segments.name}_current")
        known = self._rows(f"select column_name from information_schema.columns {where}", values)
        # Its columns are those that its table had when it was made.
        if {self._stored(name) for (name,) in known} >= {self._stored(c.name) for c in segments.columns}:
            return
        self._rows(
            f"create or replace view {self._read_segments} comment 'Segments of the transcripts that are "
            f"there' as select s.* from {self._name(segments.name)} s "
            f"join {self._name(self._tables.transcripts.name)} t "
            "on t.`transcription_id` = s.`transcription_id` and t.`landed_at` = s.`landed_at`"
        )

    def _add_column(self, column: sa.Column[Any]) -> str:
        table: Any = column.table
        # It knows no IF NOT EXISTS here.
        return (
            f"alter table {self._name(table.name)} add column {self._quoted(column.name)} "
            f"{self._type(column)}"
        )

    def _last_landed(self, ids: Sequence[str]) -> datetime | None:
        is_wanted = self._is_one_of("transcription_id", ids)
        # As text: drivers tell times without their zone, or with the session's.
        of_each = " union all ".join(
            f"select `landed_at` from {self._name(table.name)} where {is_wanted}"
            for table in self._tables.parameters
        )
        query = f"select date_format(max(`landed_at`), 'yyyy-MM-dd HH:mm:ss.SSSSSS') from ({of_each})"
        [(last,)] = self._rows(query, [*ids, *ids])
        return None if last is None else datetime.fromisoformat(last).replace(tzinfo=UTC)

    def _load(self, slab: Slab) -> None:
        own = token()
        files = {
            table: f"{self._volume}/plaud-{own}-{path.name}"
            for table, path in slab.files.items()
            if slab.counts[table]
        }
        try:
            for table, file in files.items():
                self._rows(f"put {literal(slab.files[table].as_posix())} into {literal(file)} overwrite")
            for statement in self._writes(files):
                # Of a statement that met another writer nothing has been written.
                Retrying(
                    retry=retry_if_exception(lambda error: self._code(error).startswith(_CONFLICT)),
                    wait=wait_exponential(multiplier=0.5, max=20) + wait_random(0, 2),
                    stop=stop_after_delay(_WAIT_SECONDS),
                    reraise=True,
                )(self._rows, statement)
        finally:
            for file in files.values():
                with suppress(Exception):
                    self._rows(f"remove {literal(file)}")

    def _writes(self, files: dict[sa.Table, str]) -> Iterator[str]:
        """Return what adds new segments, and then what makes them those that readers find."""
        segments, transcripts = self._tables.segments, self._tables.transcripts
        if segments in files:
            names = ", ".join(self._quoted(column.name) for column in segments.columns)
            yield (
                f"insert into {self._name(segments.name)} ({names}) select {names} "
                f"from parquet.`{files[segments]}`"
            )
        columns = [self._quoted(column.name) for column in transcripts.columns]
        yield (
            f"merge into {self._name(transcripts.name)} t "
            f"using (select {', '.join(columns)} from parquet.`{files[transcripts]}`) s "
            "on t.`transcription_id` = s.`transcription_id` "
            # Of two that land an id at once the later one stays, whichever comes last.
            "when matched and s.`landed_at` >= t.`landed_at` then "
            f"update set {', '.join(f't.{name} = s.{name}' for name in columns)} "
            f"when not matched then insert ({', '.join(columns)}) "
            f"values ({', '.join(f's.{name}' for name in columns)})"
        )

    def _remove_older(self, ids: Sequence[str], stamp: datetime) -> None:
        self._rows(
            f"delete from {self._name(self._tables.segments.name)} "
            f"where {self._is_one_of('transcription_id', ids)} "
            f"and `landed_at` < timestamp'{(utc(stamp) or stamp).isoformat(sep=' ')}'",
            list(ids),
        )

    def _code(self, error: BaseException) -> str:
        found = _ERROR_CLASS.search(str(error))
        return found[1] if found else ""


def _with_landed_at(tables: PlaudTables) -> PlaudTables:
    """Return the tables with ``landed_at`` of the transcript in the one of segments."""
    metadata = sa.MetaData(schema=tables.schema)
    transcripts, segments = (table.to_metadata(metadata) for table in (tables.transcripts, tables.segments))
    segments.append_column(
        sa.Column("landed_at", UtcTime, nullable=False, comment="landed_at of its transcript")
    )
    for made in (transcripts, segments):
        # It is said anew.
        made.comment = str(made.comment).partition(". Created by ")[0]
    return PlaudTables(tables.schema, transcripts, segments)


def _hook_of(connection: Connection, schema: str | None) -> Any:
    try:
        from airflow.providers.databricks.hooks.databricks_sql import DatabricksSqlHook
    except ImportError:
        DatabricksSqlHook = None
    if DatabricksSqlHook is None:
        raise PlaudConfigurationError(
            "sql_conn_id: the Airflow provider of the type 'databricks' of connection "
            f"{connection.conn_id!r} is not installed. Install it: {how_to_install('databricks')}. "
            "Nothing was sent."
        )
    own = connection.extra_dejson.get("session_configuration") or {}
    hook = DatabricksSqlHook(
        databricks_conn_id=str(connection.conn_id),
        schema=schema or connection.schema or None,
        session_configuration={**own, **_SESSION},
        # Else the driver puts no file anywhere.
        staging_allowed_local_path=tempfile.gettempdir(),
    )
    # Its driver must not see what is ours in the extra.
    hook.databricks_conn = connection
    return hook
