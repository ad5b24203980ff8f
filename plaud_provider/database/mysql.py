"""
MySQL and MariaDB: what their defaults would cut, mix up or lose, and what their errors mean.

Each session is told what it needs (strict mode, UTC, ``utf8mb4``), whatever the server's own settings are.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from plaud_provider.database.dialect import Dialect, code_of, locked_for_too_long, tell_each_connection
from plaud_provider.database.mysql_values import insert_values
from plaud_provider.database.rows import columns_of
from plaud_provider.database.types import UtcTime
from plaud_provider.exceptions import PlaudConfigurationError, PlaudWarehouseError

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from plaud_provider.database.dialect import MayReplace
    from plaud_provider.database.rows import Columns, Row

#: Without strict mode a text that is too long is cut, and a value that does not fit becomes another one.
_SESSION = (
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', "
    "innodb_lock_wait_timeout = 10"
)
#: Characters that a name may have.
_NAME_LENGTH = 64
_PASSING = ("40P01", "55P03")
_LOOK = sa.text(
    "select column_name, character_set_name from information_schema.columns "
    "where table_schema = coalesce(:schema, database()) and table_name = :name"
)
_ENGINE = sa.text(
    "select engine from information_schema.tables "
    "where table_schema = coalesce(:schema, database()) and table_name = :name"
)
# Of an invisible column of MariaDB SQLAlchemy sees no default.
_DEFAULTS = sa.text(
    "select column_name from information_schema.columns where table_schema = coalesce(:schema, database()) "
    "and table_name = :name and column_default is not null"
)
_PREFIX_KEYS = sa.text(
    "select distinct index_name from information_schema.statistics "
    "where table_schema = coalesce(:schema, database()) and table_name = :name and sub_part is not null"
)


class MySqlDialect(Dialect):
    """
    What MySQL and MariaDB do in their own way.

    No connection is kept between transactions: a lock by name is held for as long as its connection is.
    """

    advice: ClassVar[Mapping[str, tuple[str, str]]] = {
        **Dialect.advice,
        "08": ("the connection broke", "Retry."),
        "55P03": ("another writer held a lock for too long", "Let fewer tasks write at once, or retry."),
    }

    def __init__(self, hook: DbApiHook, *, parameter: str, keeps_connection: bool = False) -> None:
        super().__init__(hook, parameter=parameter, keeps_connection=keeps_connection)
        # A token is good for a quarter of an hour.
        self.engine_stays_good = not hook.connection_extra.get("iam")

    def create_engine(self) -> sa.Engine:
        """Return SQLAlchemy's engine; see the base class."""
        engine = sa.create_engine(
            self._url(),
            poolclass=NullPool,
            # SQLAlchemy's errors and logs would quote the rows otherwise.
            hide_parameters=True,
            # Who has waited for a lock has to see what the other one wrote.
            isolation_level="READ COMMITTED",
            max_identifier_length=_NAME_LENGTH,
            connect_args=self._connect_options(),
        )
        tell_each_connection(engine, _SESSION)
        return engine

    def insert(self, connection: sa.Connection, table: sa.Table, columns: Columns) -> None:
        """Insert rows; see the base class."""
        self._insert(connection, table, columns)

    def _insert(self, connection: sa.Connection, table: sa.Table, columns: Columns, ending: str = "") -> None:
        keys = columns[next(iter(table.primary_key)).name]
        # Asked for by the first long row.
        limit = cache(partial(_longest_statement, connection))
        insert_values(
            connection,
            table,
            columns,
            lambda number, size: _refuse_larger(table, keys[number], size, limit()),
            ending,
        )

    def upsert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        rows: Sequence[Row],
        *,
        may_replace: MayReplace | None = None,
    ) -> None:
        """Insert rows, or replace those that may be; see the base class."""
        if not rows:
            return
        insert = mysql.insert(table)
        keys = [column.name for column in table.primary_key]
        others = [column.name for column in table.c if column.name not in keys]
        if may_replace is None:
            replace = insert.on_duplicate_key_update({name: insert.inserted[name] for name in others})
            self._insert(connection, table, columns_of(rows), _after_values(connection, replace))
            return
        self._refuse_too_large(connection, table, rows)
        # Of an upsert MySQL assigns one column after the other, and a condition would see what is assigned
        # already. Nothing happens to a row that is there; not IGNORE, which would cut what is too long.
        connection.execute(insert.on_duplicate_key_update({keys[0]: table.c[keys[0]]}), rows)
        new = {column.name: sa.bindparam(f"new_{column.name}", type_=column.type) for column in table.c}
        is_row = [table.c[name] == new[name] for name in keys]
        values: Any = SimpleNamespace(**new)
        update = sa.update(table).where(*is_row, may_replace(values))
        connection.execute(
            update.values({name: new[name] for name in others}),
            [{f"new_{name}": row[name] for name in row} for row in rows],
        )

    def lock(self, connection: sa.Connection, names: Iterable[str]) -> None:
        """Keep other transactions that lock the same table waiting: there is one lock for all names."""
        tables = sorted({name.partition("\0")[0] for name in names})
        for table in tables:
            lock = sa.func.concat("plaud.", sa.func.sha1(sa.func.concat(sa.func.database(), ".", table)))
            if connection.scalar(sa.select(sa.func.get_lock(lock, int(self.wait_seconds)))) != 1:
                raise locked_for_too_long(table, self.wait_seconds)

    @staticmethod
    def clock(after: timedelta) -> sa.ColumnElement[datetime]:
        """Return the server's time in SQL; not that of the statement's start, which may have waited."""
        microseconds = sa.literal(after // timedelta(microseconds=1), sa.BigInteger())
        # SQLAlchemy's own sysdate takes no argument.
        now: sa.ColumnElement[datetime] = sa.literal_column("sysdate(6)")
        return sa.func.timestampadd(sa.text("MICROSECOND"), microseconds, now, type_=UtcTime())

    def problems(self, connection: sa.Connection, table: sa.Table) -> Mapping[str | None, str]:
        """Return what is wrong with a table that is there; see the base class."""
        where = {"schema": table.schema, "name": table.name}
        found: dict[str | None, str] = {}
        if (engine := connection.scalar(_ENGINE, where)) not in ("InnoDB", None):
            found[None] = f"its engine is {engine}, InnoDB is needed: others have no transactions"
        for name, charset in connection.execute(_LOOK, where):
            if charset is not None and charset != "utf8mb4":
                found[str(name).casefold()] = (
                    f"column {name!r} has the character set {charset}, utf8mb4 is needed"
                )
        return found

    def unusable_keys(self, inspector: sa.Inspector, table: sa.Table) -> Collection[str | None]:
        """Return the names of keys that compare only the beginning of a text."""
        there: Any = inspector
        names = there.bind.execute(_PREFIX_KEYS, {"schema": table.schema, "name": table.name}).scalars()
        return {None if name == "PRIMARY" else str(name) for name in names}

    def filled(self, inspector: sa.Inspector, table: sa.Table) -> Collection[str]:
        """Return the names of columns that have a default."""
        there: Any = inspector
        return set(there.bind.execute(_DEFAULTS, {"schema": table.schema, "name": table.name}).scalars())

    def is_passing(self, error: BaseException) -> bool:
        """Whether another writer of the same rows was in the way: a deadlock, or a lock held for long."""
        return code_of(error) in _PASSING

    def is_away(self, error: BaseException) -> bool:
        """Whether the server cannot be reached (any more), which may pass."""
        if not isinstance(error, DBAPIError):
            return False
        return error.connection_invalidated or code_of(error).startswith("08")

    def _refuse_too_large(self, connection: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
        """Refuse what the server would answer by closing the connection."""
        # Characters, of up to 4 bytes, twice as many when escaped: what is far below needs no look.
        largest = max(sum(len(value) for value in row.values() if isinstance(value, str)) for row in rows)
        if largest < 1_000_000:
            return
        first, limit = next(iter(table.primary_key)), _longest_statement(connection)
        for row in rows:
            size = sum(
                len(value.encode("utf8", "replace")) for value in row.values() if isinstance(value, str)
            )
            _refuse_larger(table, row[first.name], size, limit)

    def _url(self) -> sa.URL:
        """Return where to; the hook's own URL has in it whatever is in the connection's extra."""
        hook: Any = self._hook
        connection = hook.connection
        client = connection.extra_dejson.get("client", "mysqlclient")
        if client != "mysqlclient":
            raise PlaudConfigurationError(
                f"{self._parameter}: connection {hook.get_conn_id()!r} has the client {client!r} in its "
                "extra. Only mysqlclient is served: leave client out. Nothing was sent."
            )
        if not connection.schema:
            raise PlaudConfigurationError(
                f"{self._parameter}: connection {hook.get_conn_id()!r} names no database. Put its name into "
                "the connection's schema. Nothing was sent."
            )
        password, port = connection.password, connection.port
        if not self.engine_stays_good:
            password, port = hook.get_iam_token(connection)
        return sa.URL.create(
            "mysql+mysqldb",
            username=connection.login,
            password=password,
            host=connection.host or "localhost",
            port=port,
            database=connection.schema,
        )

    def _connect_options(self) -> dict[str, Any]:
        """Return what the hook's own connections are made with beside the URL."""
        extra = self._hook.connection_extra
        options: dict[str, Any] = {"charset": "utf8mb4", "connect_timeout": 30}
        options |= {name: extra[name] for name in ("ssl_mode", "unix_socket") if extra.get(name)}
        if ssl := extra.get("ssl"):
            options["ssl"] = json.loads(ssl) if isinstance(ssl, str) else ssl
        if not self.engine_stays_good:
            options["read_default_group"] = "enable-cleartext-plugin"
        return options


def _after_values(connection: sa.Connection, insert: mysql.Insert) -> str:
    """Return what an insert says after its rows, which MySQL and MariaDB spell in different ways."""
    compiled = insert.compile(dialect=connection.dialect)
    rows = f"VALUES ({', '.join(['%s'] * len(compiled.params))})"
    # In a statement without parameters %% stands for itself.
    return str(compiled).partition(rows)[2].replace("%%", "%")


def _longest_statement(connection: sa.Connection) -> int:
    """Return how many bytes of a statement the server takes."""
    return int(connection.exec_driver_sql("select @@max_allowed_packet").scalar_one())


def _refuse_larger(table: sa.Table, key: str, size: int, limit: int) -> None:
    if size + 100_000 > limit:
        raise PlaudWarehouseError(
            f"The row of {key!r} in {table.fullname} has {size} bytes; this server takes statements of at "
            f"most {limit}. Nothing was written. Raise max_allowed_packet there (up to 1 GB), then retry."
        )
