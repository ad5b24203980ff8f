"""
SQL Server, Azure SQL and Fabric's SQL database: rows as one value of JSON, and what their errors mean.

Rows are sent as JSON in ASCII and taken apart there by ``OPENJSON``: a statement for many rows, whatever the
driver makes of scripts, times and long texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from plaud_provider.database.dialect import (
    Dialect,
    code_of,
    locked_for_too_long,
    replace_nuls,
    tell_each_connection,
)
from plaud_provider.database.rows import rows_of
from plaud_provider.exceptions import PlaudConfigurationError

if TYPE_CHECKING:
    from plaud_provider.database.dialect import MayReplace
    from plaud_provider.database.rows import Columns, Row

_DRIVER = "mssql+pymssql"
#: Whatever fails rolls the whole transaction back; who waits for another writer does so for a while only.
_SESSION = "SET XACT_ABORT ON; SET LOCK_TIMEOUT 60000"
#: Characters of JSON per statement: a server takes 256 MB, of two bytes each.
_STATEMENT = 16 * 1024 * 1024
#: Those of Synapse and Fabric's warehouses have neither keys nor NVARCHAR(max) nor DATETIMEOFFSET.
_UNSUITED_EDITIONS: Mapping[int, str] = {
    6: "a dedicated pool of Synapse",
    11: "a warehouse or SQL endpoint of Fabric, or a serverless pool of Synapse",
}
#: SQL Server 2016, the first with OPENJSON.
_COMPATIBILITY = 130
_SERVER = sa.text(
    "SELECT CAST(SERVERPROPERTY('EngineEdition') AS int), "
    "(SELECT compatibility_level FROM sys.databases WHERE name = DB_NAME())"
)
_TEXTS = sa.text(
    "SELECT column_name, data_type, collation_name FROM information_schema.columns "
    "WHERE table_schema = COALESCE(:schema, SCHEMA_NAME()) AND table_name = :name "
    "AND collation_name IS NOT NULL"
)
_LOCK = sa.text(
    "DECLARE @outcome int; EXEC @outcome = sp_getapplock @Resource = :name, @LockMode = 'Exclusive', "
    "@LockOwner = 'Transaction', @LockTimeout = :milliseconds; SELECT @outcome"
)


class MsSqlDialect(Dialect):
    """What SQL Server does in its own way; it has not been run, see ``docs/mssql.md``."""

    advice: ClassVar[Mapping[str, tuple[str, str]]] = {
        **Dialect.advice,
        "08": ("the connection broke, or was refused", "Retry."),
        "28": ("the connection was refused", "Check the connection's login, password and database."),
        "42501": (
            "permission was denied",
            "Grant select, insert, update and delete on our tables, alter on the schema and create table.",
        ),
        "55P03": ("another writer held a lock for too long", "Let fewer tasks land at once, or retry."),
    }

    def create_engine(self) -> sa.Engine:
        """Return SQLAlchemy's engine; see the base class."""
        hook: Any = self._hook
        if hook.sqlalchemy_scheme != _DRIVER:
            raise PlaudConfigurationError(
                f"{self._parameter}: connection {hook.get_conn_id()!r} has the sqlalchemy_scheme "
                f"{hook.sqlalchemy_scheme!r} in its extra. Only {_DRIVER} is served: leave it out. Nothing "
                "was sent."
            )
        # The hook would take a port that is left out for one that is called None.
        hook.connection.port = hook.connection.port or 1433
        engine = sa.create_engine(
            f"{_DRIVER}://",
            # The hook's own URL takes no option of its driver that is a number or a switch.
            creator=hook.get_conn,
            poolclass=NullPool,
            isolation_level="READ COMMITTED",
            # SQLAlchemy's errors and logs would quote the rows otherwise.
            hide_parameters=True,
        )
        tell_each_connection(engine, _SESSION)
        return engine

    def insert(self, connection: sa.Connection, table: sa.Table, columns: Columns) -> None:
        """Insert rows; see the base class."""
        names = _names(connection, table.columns)
        statement = (
            f"INSERT INTO {_table(connection, table)} ({', '.join(names)}) "
            f"SELECT {', '.join(names)} FROM {_rows_of_json(connection, table)}"
        )
        for rows in _as_json(table, rows_of(columns)):
            connection.execute(sa.text(statement), {"rows": rows})

    def upsert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        rows: Sequence[Row],
        *,
        may_replace: MayReplace | None = None,
    ) -> None:
        """Insert rows or replace them; see the base class. No ledger is here, so all may be replaced."""
        if may_replace is not None:
            raise NotImplementedError
        names = _names(connection, table.columns)
        keys = _names(connection, table.primary_key)
        others = [name for name in names if name not in keys]
        # Without HOLDLOCK two that land an id for the first time would both insert it.
        statement = (
            f"MERGE INTO {_table(connection, table)} WITH (HOLDLOCK) AS here "
            f"USING (SELECT * FROM {_rows_of_json(connection, table)}) AS new "
            f"ON {' AND '.join(f'here.{name} = new.{name}' for name in keys)} "
            f"WHEN MATCHED THEN UPDATE SET {', '.join(f'{name} = new.{name}' for name in others)} "
            f"WHEN NOT MATCHED THEN INSERT ({', '.join(names)}) "
            f"VALUES ({', '.join(f'new.{name}' for name in names)});"
        )
        for part in _as_json(table, rows):
            connection.execute(sa.text(statement), {"rows": part})

    def lock(self, connection: sa.Connection, names: Iterable[str]) -> None:
        """Keep other transactions that lock the same table waiting: there is one lock for all names."""
        for table in sorted({name.partition("\0")[0] for name in names}):
            name = f"plaud.{hashlib.sha256(table.casefold().encode()).hexdigest()}"
            wait = {"name": name, "milliseconds": int(self.wait_seconds * 1000)}
            if (connection.scalar(_LOCK, wait) or 0) < 0:
                raise locked_for_too_long(table, self.wait_seconds)

    def clean(self, rows_or_columns: Iterable[Row | list[Any]], *, json: Collection[str] = ()) -> int:
        """Replace NUL, which tools of SQL Server take for a text's end; see the base class."""
        return replace_nuls(rows_or_columns, json)

    def refuse_unsuited(self, connection: sa.Connection, title: str) -> None:
        """Refuse what speaks the same protocol and is another database; see the base class."""
        edition, compatibility = connection.execute(_SERVER).one()
        if (other := _UNSUITED_EDITIONS.get(edition)) is not None:
            raise PlaudConfigurationError(
                f"{self._parameter}: {title} is {other}, which lacks what our tables need (keys, NVARCHAR "
                "and DATETIMEOFFSET). Take SQL Server, Azure SQL or a SQL database of Fabric, whose rows "
                "OneLake mirrors; or land in a lake (lake_path). Nothing was sent."
            )
        if compatibility is not None and compatibility < _COMPATIBILITY:
            raise PlaudConfigurationError(
                f"{self._parameter}: {title} has the compatibility level {compatibility}; {_COMPATIBILITY} "
                "(SQL Server 2016) or later is needed. Raise it: ALTER DATABASE CURRENT SET "
                f"COMPATIBILITY_LEVEL = {_COMPATIBILITY}. Nothing was sent."
            )

    def problems(self, connection: sa.Connection, table: sa.Table) -> Mapping[str | None, str]:
        """Return what is wrong with a table that is there; see the base class."""
        found: dict[str | None, str] = {}
        for name, kind, collation in connection.execute(_TEXTS, {"schema": table.schema, "name": table.name}):
            if kind not in ("nvarchar", "nchar") and "_UTF8" not in collation.upper():
                found[str(name).casefold()] = (
                    f"column {name!r} is {kind} with the collation {collation}, which turns other scripts "
                    "into question marks; nvarchar is needed"
                )
            elif str(name).casefold() == "transcription_id" and not any(
                part.startswith(("BIN", "CS")) for part in collation.upper().split("_")
            ):
                found[str(name).casefold()] = (
                    f"column {name!r} has the collation {collation}, to which two ids may be one; one that "
                    "tells cases apart is needed, as Latin1_General_100_BIN2"
                )
        return found

    def is_passing(self, error: BaseException) -> bool:
        """Whether another writer was in the way: a deadlock, a lock held for long, a row added meanwhile."""
        return code_of(error) in ("40P01", "40001", "55P03", "23505")

    def is_away(self, error: BaseException) -> bool:
        """Whether the server cannot be reached (any more), which may pass."""
        return isinstance(error, DBAPIError) and (
            error.connection_invalidated or code_of(error).startswith("08")
        )


def _table(connection: sa.Connection, table: sa.Table) -> str:
    return _as_text(connection.dialect.identifier_preparer.format_table(table))


def _names(connection: sa.Connection, columns: Iterable[sa.Column[Any]]) -> list[str]:
    quote = connection.dialect.identifier_preparer.quote_identifier
    return [_as_text(quote(column.name)) for column in columns]


def _as_text(name: str) -> str:
    """Return a name as :func:`sqlalchemy.text` takes it, to which a colon begins a parameter."""
    return name.replace("\\", "\\\\").replace(":", "\\:")


def _rows_of_json(connection: sa.Connection, table: sa.Table) -> str:
    """Return what makes rows of the parameter ``rows``, which :func:`_as_json` makes."""
    columns = [
        # Collations are those of the columns that rows go into.
        f"{name} {column.type.compile(dialect=connection.dialect).partition(' COLLATE ')[0]} '$.c{place}'"
        for place, (name, column) in enumerate(
            zip(_names(connection, table.columns), table.columns, strict=True)
        )
    ]
    return f"OPENJSON(:rows) WITH ({', '.join(columns)})"


def _as_json(table: sa.Table, rows: Iterable[Row]) -> Iterator[str]:
    """Yield rows as arrays of JSON, so many at once that a statement takes them."""
    part: list[str] = []
    size = 0
    for row in rows:
        values = {
            f"c{place}": row[column.name]
            for place, column in enumerate(table.columns)
            if row[column.name] is not None
        }
        one = json.dumps(values, default=_iso)
        if part and size + len(one) > _STATEMENT:
            yield f"[{','.join(part)}]"
            part, size = [], 0
        part.append(one)
        size += len(one)
    if part:
        yield f"[{','.join(part)}]"


def _iso(value: date) -> str:
    return value.isoformat()
