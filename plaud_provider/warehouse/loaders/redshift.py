"""Redshift: files on S3 by COPY into temporary tables, then one transaction."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from plaud_provider.database.connections import hook_of, with_extra
from plaud_provider.database.content import Content, content_of
from plaud_provider.database.dialect import replace_nuls
from plaud_provider.exceptions import PlaudConfigurationError, PlaudInputError, PlaudWarehouseError
from plaud_provider.storage.folder import parse_folder
from plaud_provider.warehouse.loaders.files import VALUE, FilesLoader, Found, comment_of, token
from plaud_provider.warehouse.slab import Slab, written_as_json

if TYPE_CHECKING:
    import sqlalchemy as sa
    from airflow.sdk import Connection

    from plaud_provider.database.rows import Columns
    from plaud_provider.warehouse.rows import Landing
    from plaud_provider.warehouse.tables import PlaudTables

log = logging.getLogger(__name__)

#: Settings of ours in the connection's extra; its driver must not see them.
_STAGING, _ROLE, _LONG_TEXTS = "plaud_staging", "plaud_iam_role", "plaud_long_texts"
#: Bytes that a VARCHAR takes, and a text in SUPER unless a cluster has been told to take longer ones.
_LONGEST = 65_535
_CUT = " [cut]"
_RIGHTS = (
    "Grant usage and create on the schema, temporary on the database, and select, insert, delete and alter "
    "on the tables."
)


class RedshiftLoader(FilesLoader):
    """
    Lands in Redshift through Airflow's ``RedshiftSQLHook``.

    Files are JSON lines: of Parquet, COPY makes neither SUPER of text nor TIMESTAMPTZ.

    :param connection: Its Airflow connection.
    :param tables: Tables to write.
    :raises PlaudConfigurationError: if its provider is not installed, or the extra does not say where files
        are staged.
    """

    kind = "Redshift"
    extra = "redshift"
    types = {
        Content.NAME: "varchar(255)",
        Content.TEXT: f"varchar({_LONGEST})",
        Content.JSON: "super",
        Content.DOUBLE: "double precision",
        Content.INTEGER: "bigint",
        Content.TIME: "timestamptz",
        Content.DATE: "date",
        Content.BOOLEAN: "boolean",
    }
    holds = {
        Content.NAME: r"character varying\((25[5-9]|2[6-9]\d|[3-9]\d\d|\d{4,5})\)",
        Content.TEXT: rf"character varying\({_LONGEST}\)",
        Content.JSON: r"super",
        Content.DOUBLE: r"double precision",
        Content.INTEGER: r"bigint|integer",
        Content.TIME: r"timestamp with time zone",
        Content.DATE: r"date",
        Content.BOOLEAN: r"boolean",
    }
    parse_json = "{}"
    longest_name = 127
    needs_pyarrow = False
    # Else nobody could alter or drop what the view shows.
    view_ending = " with no schema binding"
    advice = {
        "42501": ("permission was denied", _RIGHTS),
        "42P01": ("a table is not there any more", "Retry: each task creates missing tables first."),
        "40001": ("another transaction was in the way", "Retry."),
        "57014": ("the statement was cancelled, by a timeout or by an operator", "Retry."),
        "28": ("the connection was refused", "Check the connection's login and password."),
        "XX000": (
            "Redshift refused the files or had a fault",
            "See sys_load_error_detail; check that its role may read the staging folder.",
        ),
    }

    def __init__(self, connection: Connection, tables: PlaudTables) -> None:
        super().__init__(connection, tables)
        extra = dict(connection.extra_dejson)
        staging, role = extra.pop(_STAGING, None), extra.pop(_ROLE, "default")
        self._long_texts = extra.pop(_LONG_TEXTS, "refuse")
        if not staging or self._long_texts not in ("refuse", "cut"):
            raise PlaudConfigurationError(
                f"sql_conn_id: connection {self.conn_id!r} leads to Redshift. In its extra, {_STAGING} names "
                f"the folder on S3 that files are put into, such as s3://aws_default@bucket/staging; {_ROLE} "
                f"the IAM role that reads it (the cluster's default one if left out); {_LONG_TEXTS} is "
                "'refuse' (if left out) or 'cut'. Nothing was sent."
            )
        self._iam_role = str(role)
        self._folder = parse_folder(
            staging, argument=_STAGING, state="Nothing was sent.", kind=PlaudConfigurationError
        )
        self._hook = hook_of(connection, parameter="sql_conn_id")
        self._hook.conn = with_extra(connection, extra)
        self._cursor: Any = None

    @contextmanager
    def _connected(self) -> Iterator[None]:
        connection = self._run(self._hook.get_conn, "could not be reached", has_rows=False)
        try:
            # A transaction begins where we say so.
            connection.autocommit = True
            self._cursor = connection.cursor()
            yield
        finally:
            connection.close()

    def _rows(self, query: str, values: Sequence[str] = ()) -> list[Any]:
        if not values:
            self._cursor.execute(query)
        else:
            self._cursor.execute(query.replace("%", "%%").replace(VALUE, "%s"), tuple(values))
        return list(self._cursor.fetchall()) if self._cursor.description else []

    def _quoted(self, name: str) -> str:
        # RAW and LANGUAGE are reserved. Upper and lower case are one here, quoted or not.
        return '"' + str(name).replace('"', '""') + '"'

    def _there(self, table: str) -> dict[str, Found] | None:
        place, values = "current_schema()", []
        if self._tables.schema is not None:
            place, values = VALUE, [self._stored(self._tables.schema)]
            known = f"select 1 from svv_all_schemas where schema_name = {VALUE}"
            if not self._rows(known, values):
                raise PlaudWarehouseError(
                    f"schema: warehouse {self.conn_id!r} has no schema {str(self._tables.schema)!r}. Create "
                    "it (it is not created here), or correct the name. Nothing was written."
                )
        where = f"where table_schema = {place} and table_name = {VALUE}"
        values = [*values, self._stored(table)]
        # A view cannot be locked, nor can rows of it or of files on S3 be deleted.
        for (kind,) in self._rows(f"select table_type from svv_tables {where}", values):
            if "VIEW" in kind or "EXTERNAL" in kind:
                raise self._is_no_table(table, kind)
        columns = self._rows(
            "select column_name, data_type, character_maximum_length, is_nullable, column_default "
            f"from svv_columns {where}",
            values,
        )
        found = {}
        for name, kind, length, is_nullable, default in columns:
            size = f"({length})" if kind == "character varying" else ""
            found[self._stored(name)] = Found(f"{kind}{size}", is_nullable == "YES", default is not None)
        return found or None

    def _create(self, table: sa.Table) -> list[str]:
        name = self._name(table.name)
        columns = [
            f"{self._quoted(column.name)} {self._type(column)}{' not null' * (not column.nullable)}"
            for column in table.columns
        ]
        keys = ", ".join(self._quoted(column.name) for column in table.primary_key)
        sort = self._quoted("landed_at") if table is self._tables.transcripts else keys
        statement = (
            f"create table if not exists {name} ({', '.join(columns)}, primary key ({keys})) "
            f'diststyle key distkey ("transcription_id") sortkey ({sort})'
        )
        return [
            statement,
            f"comment on table {name} is {_literal(str(table.comment))}",
            *(
                f"comment on column {name}.{self._quoted(column.name)} is {_literal(comment)}"
                for column in table.columns
                if (comment := comment_of(column))
            ),
        ]

    def _create_more(self) -> None:
        log.info("Redshift: built and tested as far as it goes without one (`plaud docs redshift`)")

    @property
    def _read_segments(self) -> str:
        # Such a view takes no name without its schema.
        name = self._quoted(self._tables.segments.name)
        schema = self._tables.schema
        if schema is None:
            [(schema,)] = self._rows("select current_schema()")
        return f"{self._quoted(schema)}.{name}"

    def _add_column(self, column: sa.Column[Any]) -> str:
        table: Any = column.table
        return (
            f"alter table {self._name(table.name)} add column "
            f"{self._quoted(column.name)} {self._type(column)}"
        )

    def _staging_type(self, column: sa.Column[Any]) -> str:
        # COPY makes SUPER of JSON itself; as text it could not be longer than 65,535 bytes.
        return self._type(column)

    def _written(self, landings: Sequence[Landing]) -> AbstractContextManager[Slab]:
        return written_as_json(landings, self._tables, self._fit)

    def _fit(self, table: sa.Table, columns: Columns) -> None:
        """Replace NUL, which Redshift does not take, and refuse or cut what is too long."""
        self._nuls_replaced += replace_nuls(columns.values(), ())
        for column in table.columns:
            kind, values = content_of(column), columns[column.name]
            if kind is Content.JSON:
                rows = [{column.name: value} for value in values]
                self._nuls_replaced += replace_nuls(rows, (column.name,))
                values[:] = [row[column.name] for row in rows]
            if kind not in (Content.TEXT, Content.JSON):
                continue
            shorter = _cut if kind is Content.TEXT else _cut_in_json
            long = {
                place: cut
                for place, value in enumerate(values)
                if value and _size(value) > _LONGEST and (cut := shorter(value)) != value
            }
            ids = sorted({columns["transcription_id"][place] for place in long})
            if long and self._long_texts == "refuse":
                raise PlaudInputError(
                    f"Column {column.name!r} of {table.fullname!r} takes texts of {_LONGEST} bytes in "
                    f"Redshift; that of {', '.join(ids[:5])}{' and others' * (len(ids) > 5)} is longer. Set "
                    f'"{_LONG_TEXTS}": "cut" in the connection\'s extra to cut such texts ({_CUT!r} is at '
                    "their end then), or land in another warehouse. Nothing was written."
                )
            for place, cut in long.items():
                values[place] = cut
            if long:
                log.warning("Cut %d values of column %s: %s", len(long), column.name, ", ".join(ids))

    def _load(self, slab: Slab) -> None:
        own = token()
        staged = {
            table: self._quoted(f"plaud_staged_{path.name.partition('.')[0]}_{own}")
            for table, path in slab.files.items()
        }
        names = {
            table: f"plaud-{own}-{path.name}" for table, path in slab.files.items() if slab.counts[table]
        }
        self._folder.open()
        try:
            for table, file in names.items():
                self._folder.upload(file, str(slab.files[table]))
            for table, name in staged.items():
                self._rows(f"create temporary table {name} ({self._staging_columns(table)})")
                if table in names:
                    self._rows(self._copy(name, names[table]))
        finally:
            with suppress(Exception):
                self._folder.remove(names.values())
        self._swap(self._swap_statements(staged))

    def _copy(self, name: str, file: str) -> str:
        folder: Any = self._folder
        role = "default" if self._iam_role == "default" else _literal(self._iam_role)
        return (
            f"copy {name} from {_literal(folder.root + file)} iam_role {role} "
            # Names of columns are in lower case there, those of chosen fields in the file may not be.
            "format as json 'auto ignorecase' gzip timeformat 'auto' compupdate off statupdate off"
        )

    def _swap(self, statements: Sequence[str]) -> None:
        tables = ", ".join(self._name(table.name) for table in self._tables.parameters)
        # First of all: it is then that the transaction's view of the tables is taken.
        self._transact("begin", [f"lock table {tables}", *statements])

    def _literal(self, text: str) -> str:
        return _literal(text)

    def _code(self, error: BaseException) -> str:
        told = error.args[0] if error.args else None
        return str(told.get("C", "")) if isinstance(told, dict) else ""


def _size(text: str) -> int:
    # Up to four bytes each: most need not be encoded to be known as short enough.
    return len(text) if len(text) * 4 <= _LONGEST else len(text.encode())


def _cut(text: str) -> str:
    """Return text that a VARCHAR takes."""
    if _size(text) <= _LONGEST:
        return text
    return text.encode()[: _LONGEST - len(_CUT)].decode(errors="ignore") + _CUT


def _cut_in_json(text: str) -> str:
    """Return JSON whose texts SUPER takes; as it is, if it takes them."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {cut(name): cut(one) for name, one in value.items()}
        if isinstance(value, list):
            return [cut(one) for one in value]
        return _cut(value) if isinstance(value, str) else value

    found = json.loads(text)
    return text if (shorter := cut(found)) == found else json.dumps(shorter, ensure_ascii=False)


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
