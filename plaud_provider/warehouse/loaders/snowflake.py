"""Snowflake: files by PUT and COPY into temporary tables, then one transaction."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential, wait_random

from plaud_provider.database.connections import hook_of
from plaud_provider.database.content import Content
from plaud_provider.exceptions import PlaudWarehouseError
from plaud_provider.warehouse.loaders.files import (
    LOCK_COMMENT,
    VALUE,
    FilesLoader,
    Found,
    comment_of,
    literal,
    token,
)

if TYPE_CHECKING:
    from pathlib import Path

    import sqlalchemy as sa
    from airflow.sdk import Connection

    from plaud_provider.warehouse.slab import Slab
    from plaud_provider.warehouse.tables import PlaudTables

#: Whatever the user's own settings say.
_SESSION = {
    "AUTOCOMMIT": True,
    "TIMEZONE": "UTC",
    "QUOTED_IDENTIFIERS_IGNORE_CASE": False,
    # A landing takes seconds; by default it would wait for another one for twelve hours.
    "LOCK_TIMEOUT": 1800,
}
_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*|[A-Z_][A-Z0-9_$]*")
#: Words that are no names unless they are quoted.
_RESERVED = re.compile(
    "ACCOUNT|ALL|ALTER|AND|ANY|AS|BETWEEN|BY|CASE|CAST|CHECK|COLUMN|CONNECT|CONNECTION|CONSTRAINT|"
    "CREATE|CROSS|CURRENT|CURRENT_DATE|CURRENT_TIME|CURRENT_TIMESTAMP|CURRENT_USER|DATABASE|DELETE|"
    "DISTINCT|DROP|ELSE|EXISTS|FALSE|FOLLOWING|FOR|FROM|FULL|GRANT|GROUP|GSCLUSTER|HAVING|ILIKE|IN|"
    "INCREMENT|INNER|INSERT|INTERSECT|INTO|IS|ISSUE|JOIN|LATERAL|LEFT|LIKE|LOCALTIME|LOCALTIMESTAMP|"
    "MINUS|NATURAL|NOT|NULL|OF|ON|OR|ORDER|ORGANIZATION|QUALIFY|REGEXP|REVOKE|RIGHT|RLIKE|ROW|ROWS|"
    "SAMPLE|SCHEMA|SELECT|SET|SOME|START|TABLE|TABLESAMPLE|THEN|TO|TRIGGER|TRUE|TRY_CAST|UNION|"
    "UNIQUE|UPDATE|USING|VALUES|VIEW|WHEN|WHENEVER|WHERE|WITH"
)
_RIGHTS = (
    "Grant the role usage on the warehouse, the database and the schema, create table and create stage on "
    "the schema, and select, insert, update and delete on the tables."
)
#: More than 20 transactions waited for one lock.
_TOO_MANY_WAIT = "000625"
_WAIT_SECONDS = 600
#: What is said of an object that is not there, and of one that a role may not see.
_MISSING = ("002003", "002043")


class SnowflakeLoader(FilesLoader):
    """
    Lands in Snowflake through its Airflow provider's ``SnowflakeHook``.

    :param connection: Its Airflow connection.
    :param tables: Tables to write.
    :raises PlaudConfigurationError: if its provider or pyarrow is not installed.
    """

    kind = "Snowflake"
    extra = "snowflake"
    types = {
        Content.NAME: "varchar(255)",
        Content.TEXT: "varchar",
        Content.JSON: "variant",
        Content.DOUBLE: "float",
        Content.INTEGER: "integer",
        Content.TIME: "timestamp_tz",
        Content.DATE: "date",
        Content.BOOLEAN: "boolean",
    }
    holds = {
        # From 255 characters, and from 16,777,216.
        Content.NAME: r"TEXT\((25[5-9]|2[6-9]\d|[3-9]\d\d|\d{4,})\)",
        Content.TEXT: r"TEXT\((1677721[6-9]|(1[7-9]|[2-9]\d)\d{6}|\d{9,})\)",
        Content.JSON: r"VARIANT",
        Content.DOUBLE: r"FLOAT",
        Content.INTEGER: r"NUMBER\((1\d|2\d|3\d),0\)",
        Content.TIME: r"TIMESTAMP_(TZ|LTZ)",
        Content.DATE: r"DATE",
        Content.BOOLEAN: r"BOOLEAN",
    }
    parse_json = "parse_json({})"
    longest_name = 255
    advice = {
        "003001": ("permission was denied", _RIGHTS),
        **dict.fromkeys(_MISSING, ("a table or schema is not there, or may not be seen", _RIGHTS)),
        "000606": ("no warehouse is active", "Name one in the connection, and grant usage on it."),
        "090073": ("the warehouse was suspended by a resource monitor", "Raise its quota, then retry."),
        "090105": ("the connection names no database", "Name it in the connection's extra (database)."),
        "090106": ("the connection names no schema", "Name it in the connection, or as schema."),
        "000604": ("the statement was cancelled, by a timeout or by an operator", "Retry."),
        _TOO_MANY_WAIT: ("more than 20 landings waited for each other", "Let fewer tasks land at once."),
        "100078": ("a text is longer than 16 MB", "A retry does not help."),
        "25000": ("the connection broke, or was refused", "Check the connection, or retry."),
        "39": ("the connection was refused", "Check the connection's login, role and network policy."),
    }

    def __init__(self, connection: Connection, tables: PlaudTables) -> None:
        super().__init__(connection, tables)
        self._hook = hook_of(connection, parameter="sql_conn_id")
        own = connection.extra_dejson.get("session_parameters") or {}
        self._hook.session_parameters = {"QUERY_TAG": "airflow-provider-plaud", **own, **_SESSION}
        self._cursor: Any = None

    @contextmanager
    def _connected(self) -> Iterator[None]:
        # What is temporary goes with the session, and an open transaction is rolled back.
        connection = self._run(self._hook.get_conn, "could not be reached", has_rows=False)
        try:
            self._cursor = connection.cursor()
            if self._tables.schema is not None:
                self._run(self._use_schema, "could not be looked at", has_rows=False)
            yield
        finally:
            connection.close()

    def _use_schema(self) -> None:
        schema = str(self._tables.schema)
        code = ""
        try:
            self._rows(f"use schema {self._quoted(schema)}")
        except Exception as error:
            code = self._code(error)
            if code not in _MISSING:
                raise
        if code:
            raise PlaudWarehouseError(
                f"schema: warehouse {self.conn_id!r} has no schema {schema!r}, or its role may not see it. "
                "Create it (it is not created here), correct the name, or grant usage on it. Nothing was "
                "written."
            )

    def _rows(self, query: str, values: Sequence[str] = ()) -> list[Any]:
        if not values:
            return list(self._cursor.execute(query).fetchall())
        marked = query.replace("%", "%%").replace(VALUE, "%s")
        return list(self._cursor.execute(marked, tuple(values)).fetchall())

    def _quoted(self, name: str) -> str:
        # As people write it, so that people can: Snowflake itself makes capitals of it.
        if not _PLAIN.fullmatch(name):
            return '"' + name.replace('"', '""') + '"'
        return f'"{self._stored(name)}"' if _RESERVED.fullmatch(self._stored(name)) else name

    def _stored(self, name: str) -> str:
        """Return a name as the catalog has it."""
        # SQLAlchemy's names have an `upper` of their own, which does nothing.
        return str(name).upper() if _PLAIN.fullmatch(name) else str(name)

    def _there(self, table: str) -> dict[str, Found] | None:
        columns = self._rows(
            "select column_name, data_type, character_maximum_length, numeric_precision, numeric_scale, "
            "is_nullable, column_default, is_identity from information_schema.columns "
            f"where table_schema = current_schema() and table_name = {VALUE}",
            [self._stored(table)],
        )
        found = {}
        for name, kind, length, precision, scale, is_nullable, default, is_identity in columns:
            size = {"TEXT": f"({length})", "NUMBER": f"({precision},{scale})"}.get(kind, "")
            found[name] = Found(f"{kind}{size}", is_nullable == "YES", bool(default) or is_identity == "YES")
        if found:
            self._refuse_view(table)
        return found or None

    def _refuse_view(self, table: str) -> None:
        [(kind,)] = self._rows(
            "select table_type from information_schema.tables "
            f"where table_schema = current_schema() and table_name = {VALUE}",
            [self._stored(table)],
        )
        if kind != "BASE TABLE":
            raise self._is_no_table(table, kind)

    def _create(self, table: sa.Table) -> list[str]:
        columns = [
            f"{self._quoted(column.name)} {self._type(column)}{' not null' * (not column.nullable)}"
            + (f" comment {literal(comment)}" if (comment := comment_of(column)) else "")
            for column in table.columns
        ]
        keys = ", ".join(self._quoted(column.name) for column in table.primary_key)
        statement = (
            f"create table if not exists {self._name(table.name)} ({', '.join(columns)}, "
            f"primary key ({keys})) comment = {literal(str(table.comment))}"
        )
        return [statement]

    def _create_more(self) -> None:
        if self._there(self._lock) is None:
            self._rows(
                f"create table if not exists {self._name(self._lock)} comment = {literal(LOCK_COMMENT)} "
                "as select current_timestamp() as locked_at"
            )

    def _load(self, slab: Slab) -> None:
        own = token()
        stage = f"plaud_stage_{own}"
        self._rows(f"create temporary stage {stage}")
        staged = {}
        # Before the transaction: DDL would commit it, and the lock is to be held for as short as possible.
        for table, path in slab.files.items():
            kind = "transcripts" if table is self._tables.transcripts else "segments"
            staged[table] = f"plaud_staged_{kind}_{own}"
            self._rows(f"create temporary table {staged[table]} ({self._staging_columns(table)})")
            if slab.counts[table]:
                self._rows(f"put {_file(path)} @{stage} auto_compress = false overwrite = true")
                self._rows(self._copy(table, staged[table], f"@{stage}/{path.name}"))
        attempts = Retrying(
            retry=retry_if_exception(lambda error: self._code(error) == _TOO_MANY_WAIT),
            wait=wait_exponential(multiplier=1, max=20) + wait_random(0, 1),
            stop=stop_after_delay(_WAIT_SECONDS),
            reraise=True,
        )
        attempts(self._swap, self._swap_statements(staged))

    def _copy(self, table: sa.Table, staged: str, file: str) -> str:
        names = [self._quoted(column.name) for column in table.columns]
        values = []
        for column in table.columns:
            # Names in a file are told apart by case, and may be words that are no names.
            in_file = '"' + str(column.name).replace('"', '""') + '"'
            values.append(f"$1:{in_file}::{self._staging_type(column)}")
        return (
            f"copy into {staged} ({', '.join(names)}) from (select {', '.join(values)} from {file}) "
            # Else a time of the file is a number without a zone.
            "file_format = (type = parquet use_logical_type = true) on_error = abort_statement"
        )

    def _swap(self, statements: Sequence[str]) -> None:
        lock = f"update {self._name(self._lock)} set locked_at = current_timestamp()"
        self._transact("begin transaction", [lock, *statements])

    def _code(self, error: BaseException) -> str:
        number = getattr(error, "errno", None)
        return f"{number:06d}" if isinstance(number, int) and number > 0 else ""


def _file(path: Path) -> str:
    """Return a file as ``put`` takes it: its path is a literal, as it may have blanks in it."""
    return "'file://" + path.as_posix().replace("'", "\\'") + "'"
