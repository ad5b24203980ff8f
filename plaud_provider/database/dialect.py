"""
What one kind of database does in its own way.

:class:`Dialect` has the statements that all of them know; each has a file of its own for the rest.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.pool import NullPool

from plaud_provider.database.rows import batches, parts, rows_of
from plaud_provider.database.types import host_clock
from plaud_provider.exceptions import PlaudConfigurationError, PlaudWarehouseError

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from sqlalchemy.sql.base import ReadOnlyColumnCollection

    from plaud_provider.database.rows import Columns, Row

    MayReplace = Callable[[ReadOnlyColumnCollection[str, Any]], sa.ColumnElement[bool]]

# Values per DELETE: the smallest limit on variables is 999, of older SQLite.
_BATCH = 500
_LOOK_FOR_CONSTRAINTS = "Look for checks, keys and triggers that this package did not make."
_SQLITE_LOOKS = ("CHECK", "FOREIGNKEY", "TRIGGER")
_ENCODING = (
    "the database's encoding lacks a character",
    "A retry does not help. Take a database whose encoding is UTF8.",
)
#: Checks, foreign keys, and errors that triggers raise.
_LOOKS_AT_VALUES = ("23503", "23514", "45000", "P0001", *(f"SQLITE_CONSTRAINT_{w}" for w in _SQLITE_LOOKS))
#: The connection, other writers, rights, and what an operator is to mend.
_NOT_BY_TABLE = ("08", "25006", "28", "40", "42501", "53", "55P03", "57", "SQLITE_BUSY", "SQLITE_READONLY")
#: Numbers of MySQL's errors, as SQLSTATEs: its driver tells the number only.
MYSQL_SQLSTATES: Mapping[int, str] = {
    **dict.fromkeys((1044, 1045, 1142, 1143, 1227, 1370, 1410, 1698), "42501"),
    **dict.fromkeys((1406, 1301), "22001"),
    **dict.fromkeys((1366, 1300, 3854), "22021"),
    **dict.fromkeys((1264, 1265, 1292, 1367), "22000"),
    **dict.fromkeys((1048, 1062, 1364), "23000"),
    **dict.fromkeys((1451, 1452), "23503"),
    # A check, and a table whose partitions have no place for a row.
    **dict.fromkeys((3819, 4025, 1526), "23514"),
    # What a trigger signals.
    1644: "45000",
    **dict.fromkeys((1290, 1792, 1836), "25006"),
    **dict.fromkeys((1213, 1020, 3058), "40P01"),
    1205: "55P03",
    **dict.fromkeys((1146, 1051), "42P01"),
    1054: "42703",
    **dict.fromkeys((1021, 1040, 1041, 1114, 1203), "53000"),
    1153: "54000",
    **dict.fromkeys((1317, 1969, 3024), "57014"),
    **dict.fromkeys((1053, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 4031), "08006"),
    **dict.fromkeys((2002, 2003, 2006, 2013, 2055), "08006"),
}
#: Those of SQL Server and of its client library likewise.
MSSQL_SQLSTATES: Mapping[int, str] = {
    **dict.fromkeys((229, 230, 262, 297, 300, 916, 2760, 15247), "42501"),
    **dict.fromkeys((2627, 2601), "23505"),
    **dict.fromkeys((515, 547), "23000"),
    **dict.fromkeys((8152, 2628), "22001"),
    **dict.fromkeys((241, 245, 8114), "22000"),
    **dict.fromkeys((701, 1105, 9002, 40544), "53000"),
    **dict.fromkeys((4060, 18452, 18456), "28000"),
    **dict.fromkeys((20002, 20003, 20004, 20006, 20009, 20047), "08006"),
    **dict.fromkeys((10928, 10929, 40197, 40501, 40613, 49918), "08006"),
    1205: "40P01",
    3960: "40001",
    1222: "55P03",
    208: "42P01",
    207: "42703",
    3906: "25006",
}
_SQLSTATES = {"MySQLdb": MYSQL_SQLSTATES, "pymssql": MSSQL_SQLSTATES}
_JSON_ESCAPE = re.compile(r"\\(?:u0000|.)", re.DOTALL)


class Dialect:
    """
    What all of them have in common.

    Errors pass as the database raises them.

    :param hook: Hook of the database.
    :param parameter: Argument that names its connection, for messages.
    :param keeps_connection: Whether a connection may be kept for the next transaction.
    """

    #: For how long to wait for other writers, in seconds.
    wait_seconds = 60.0
    #: What begins a transaction, after what the driver itself does.
    begin: ClassVar[str | None] = None
    #: What looks now at constraints and triggers that wait for the commit.
    check_late: ClassVar[str | None] = None
    #: Whether names of columns and tables that differ in upper and lower case are different ones.
    tells_cases_apart = False
    #: Whether it takes one writer at a time.
    takes_one_writer = False
    #: The isolation level of transactions, where the engine commits each statement by itself otherwise; that
    #: saves two round trips for each that needs no transaction around it. ``None``: it begins one by itself.
    isolation_level: ClassVar[str | None] = None
    #: Whether an engine can be used again.
    engine_stays_good = True
    #: Waits for this task's turn at the database, where only one at a time can have it.
    turn: Callable[..., AbstractContextManager[object]] = nullcontext
    #: The time in SQL by the database's clock, which all who use it share, or so much later. Of a database in
    #: this process it is the host's.
    clock: Callable[[timedelta], sa.ColumnElement[datetime]] = staticmethod(host_clock)
    #: What an error's code means and what to do, by the start of the code.
    advice: ClassVar[Mapping[str, tuple[str, str]]] = {
        "08": ("the connection broke", "Retry."),
        "0A": (
            "the database does not offer what is needed here",
            (
                "A retry does not help: its log says what it was. Take row-level security, rules and the "
                "like from our tables, or name a database or a proxy that is the whole of its kind."
            ),
        ),
        "22001": ("a text is longer than its column takes", "Make the column text, without a length."),
        "22021": _ENCODING,
        "22P05": _ENCODING,
        "22": ("a column cannot hold a value of ours", "Compare the table's types with ours."),
        "23": ("a constraint of the table refused a row", _LOOK_FOR_CONSTRAINTS),
        "25006": ("the database is read-only", "Check the connection: this may be a standby."),
        "40": ("other writers kept getting in the way", "Retry."),
        "42501": (
            "permission was denied",
            (
                "Grant select, insert, update and delete on our tables, create on the schema; look for "
                "policies of row-level security."
            ),
        ),
        "42P01": ("a table is not there any more", "Retry: each task creates missing tables first."),
        "42703": ("a column is not there any more", "Retry: each task tells first what does not fit."),
        **dict.fromkeys(("45", "P0001"), ("a trigger of the table refused a row", _LOOK_FOR_CONSTRAINTS)),
        "53": ("the database is out of disk space, memory or connections", "Make room, then retry."),
        "54": (
            "a value is larger than the database takes",
            (
                "A retry does not help. Look for an index on one of our text columns that this package did "
                "not make: long texts do not fit into one."
            ),
        ),
        "55P03": ("another writer held a lock for too long", "Raise lock_timeout, or retry."),
        "57": (
            "the statement was cancelled, by a timeout or by an operator",
            "Raise statement_timeout, or retry.",
        ),
    }

    def __init__(self, hook: DbApiHook, *, parameter: str, keeps_connection: bool = False) -> None:
        self._hook = hook
        self._parameter = parameter
        self._keeps_connection = keeps_connection
        #: Kind of database, by SQLAlchemy's name of the dialect.
        self.name = str(hook.conn_type)

    def create_engine(self) -> sa.Engine:
        """
        Return SQLAlchemy's engine. Nothing is opened yet.

        :raises PlaudConfigurationError: if the database would vanish with the task.
        """
        return self._engine(poolclass=NullPool)

    def insert(self, connection: sa.Connection, table: sa.Table, columns: Columns) -> None:
        """
        Insert rows.

        :param connection: Where.
        :param table: The table.
        :param columns: The rows, as the values of each column.
        """
        for part in parts(columns):
            connection.execute(sa.insert(table), rows_of(part))

    def upsert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        rows: Sequence[Row],
        *,
        may_replace: MayReplace | None = None,
    ) -> None:
        """
        Insert rows; one whose primary key is there replaces that row if it may, else nothing happens to it.

        Each row is one atomic step, taken in the order given: two transactions that upsert the same keys in
        the same order wait for each other, not in a circle.

        :param connection: Where.
        :param table: A table whose primary key the database enforces.
        :param rows: Rows, all with every column of the table, no key twice. Large texts may be taken out of
            them.
        :param may_replace: Tells, of the columns of the row to be inserted, when it replaces the one there;
            ``None``: always.
        """
        raise NotImplementedError

    def delete(self, connection: sa.Connection, column: sa.Column[Any], values: Sequence[str]) -> None:
        """
        Delete rows.

        :param connection: Where.
        :param column: A column of the table.
        :param values: Its values in the rows to delete.
        """
        for batch in batches(values, _BATCH):
            connection.execute(sa.delete(column.table).where(column.in_(batch)))

    def overwrite_deleted(self, connection: sa.Connection) -> None:
        """
        Have what this transaction deletes overwritten where it lay, if this kind of database can be told to.

        :param connection: Where.
        """

    def lock(self, connection: sa.Connection, names: Iterable[str]) -> None:
        """
        Keep other transactions that lock one of these names waiting until this one ends.

        For what no key keeps apart. Databases that take one writer at a time need nothing.

        :param connection: Where.
        :param names: The names.
        """

    def clean(self, rows_or_columns: Iterable[Row | list[Any]], *, json: Collection[str] = ()) -> int:
        """
        Replace, in place, what this kind of database refuses in text.

        :param rows_or_columns: Rows, or columns of many, to clean.
        :param json: Names of values in rows that are JSON as text.
        :return: How many characters were replaced.
        """
        return 0

    def refuse_unsuited(self, connection: sa.Connection, title: str) -> None:
        """
        Refuse a database of which no table would do.

        :param connection: A connection to it.
        :param title: What it is, for the message.
        :raises PlaudConfigurationError: if it is one.
        """

    def problems(self, connection: sa.Connection, table: sa.Table) -> Mapping[str | None, str]:
        """
        Return what is wrong with a table that is there and SQLAlchemy's inspector does not see.

        :param connection: Where.
        :param table: The table.
        :return: Problems by the casefolded names of columns; ``None`` for one of the table itself.
        """
        return {}

    def filled(self, inspector: sa.Inspector, table: sa.Table) -> Collection[str]:
        """
        Return columns that the database fills where a row leaves them out, and SQLAlchemy does not know of.

        :param inspector: SQLAlchemy's inspector of the database.
        :param table: The table.
        """
        return ()

    def unusable_keys(self, inspector: sa.Inspector, table: sa.Table) -> Collection[str | None]:
        """
        Return the names of a table's keys that do not keep two rows apart at once, as :meth:`upsert` needs.

        :param inspector: SQLAlchemy's inspector of the database.
        :param table: The table.
        """
        return ()

    def is_passing(self, error: BaseException) -> bool:
        """Whether another writer was in the way, or is; it passes by itself."""
        # SQLSTATEs of two writers of one row: serialization failure, deadlock, a key added meanwhile.
        return code_of(error) in ("40001", "40P01", "23505")

    def is_away(self, error: BaseException) -> bool:
        """Whether the database cannot be reached (any more) but may come back by itself."""
        return False

    def looks_at_values(self, error: BaseException) -> bool:
        """Whether what refused a row may let others pass: a check, a foreign key or a trigger."""
        return code_of(error).startswith(_LOOKS_AT_VALUES)

    def is_by_table(self, error: BaseException) -> bool:
        """Whether a table is to blame for an error, of which another attempt changes nothing."""
        return not self.is_away(error) and not code_of(error).startswith(_NOT_BY_TABLE)

    def explain(self, error: BaseException) -> tuple[str, str]:
        """Return what an error means, and what to do; in words that quote no row."""
        code = code_of(error) or ("42P01" if isinstance(error, NoSuchTableError) else "")
        for start, (reason, remedy) in self.advice.items():
            if code.startswith(start):
                return f"{reason} ({code})", remedy
        return f"{_origin(error)} {code}".strip(), "Retry; if it stays, look at the database's own log."

    def _engine(self, **options: Any) -> sa.Engine:
        # SQLAlchemy's errors and logs would quote the rows otherwise.
        engine: sa.Engine = self._hook.get_sqlalchemy_engine(
            engine_kwargs={"hide_parameters": True, **options}
        )
        return engine

    def _names_no_file(self, title: str) -> PlaudConfigurationError:
        return PlaudConfigurationError(
            f"{self._parameter}: connection {self._hook.get_conn_id()!r} names no {title} file. An in-memory "
            "database would vanish with the task, and the rows with it. Put the path of a file into the "
            "connection's host. Nothing was sent."
        )


def upsert_of(insert: Any, table: sa.Table, may_replace: MayReplace | None) -> sa.Insert:
    """
    Return the statement of :meth:`Dialect.upsert`, of one that inserts.

    :param insert: An ``INSERT`` of SQLite's or PostgreSQL's dialect.
    :param table: The table.
    :param may_replace: See there.
    """
    new = insert.excluded
    upsert: sa.Insert = insert.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={column.name: new[column.name] for column in table.c if not column.primary_key},
        where=may_replace(new) if may_replace else None,
    )
    return upsert


def tell_each_connection(engine: sa.Engine, statement: str) -> None:
    """
    Have a statement run on each new connection.

    :param engine: The engine.
    :param statement: What a session is told.
    """

    def tell(connection: Any, _: object) -> None:
        with closing(connection.cursor()) as cursor:
            cursor.execute(statement)

    sa.event.listen(engine, "connect", tell)


def locked_for_too_long(table: str, seconds: float) -> PlaudWarehouseError:
    """
    Return the error of :meth:`Dialect.lock`.

    :param table: The table whose rows are locked.
    :param seconds: For how long another transaction has had the lock.
    """
    return PlaudWarehouseError(
        f"Table {table!r} was being written by another task for {seconds:.0f} s. Nothing was written. Let "
        "fewer tasks write at once; landings need no lock if transcription_id is the table's primary key."
    )


def into(connection: sa.Connection, table: sa.Table, columns: Iterable[str]) -> str:
    """Return a table and some of its columns as a statement has them that a driver is sent directly."""
    preparer = connection.dialect.identifier_preparer
    names = ", ".join(preparer.format_column(table.c[name]) for name in columns)
    # Drivers take %% for % in statements with parameters, which this is not.
    return f"{preparer.format_table(table)} ({names})".replace("%%", "%")


def run_on_driver(connection: sa.Connection, statement: str, work: Callable[[], None]) -> None:
    """
    Do what SQLAlchemy has no part in; an error is raised as SQLAlchemy would, had it sent the statement.

    :param connection: The connection.
    :param statement: What is shown of the statement.
    :param work: What the driver is asked to do. Its error may quote rows, so it is the context of no other.
    """
    failure: Any
    try:
        work()
    except connection.dialect.loaded_dbapi.Error as error:
        failure = error
    else:
        return
    raise sa.exc.DBAPIError.instance(
        statement,
        None,
        failure,
        connection.dialect.loaded_dbapi.Error,
        hide_parameters=True,
        connection_invalidated=connection.dialect.is_disconnect(failure, connection.connection, None),
        dialect=connection.dialect,
    )


def code_of(error: BaseException) -> str:
    """Return the code of a database's error: SQLite's name, a SQLSTATE, or nothing."""
    original = getattr(error, "orig", None) or error
    for attribute in ("sqlite_errorname", "sqlstate", "pgcode"):
        if isinstance(code := getattr(original, attribute, None), str):
            return code
    numbers = _SQLSTATES.get(type(original).__module__.partition(".")[0], {})
    number = original.args[0] if original.args else None
    if isinstance(number, tuple):
        # That of pymssql is a pair of number and message.
        number = number[0] if number else None
    return numbers.get(number, "") if isinstance(number, int) else ""


def replace_nuls(rows_or_columns: Iterable[Row | list[Any]], json: Collection[str]) -> int:
    """Replace NUL by U+FFFD as :meth:`Dialect.clean` does, and its escape in JSON."""
    replaced = 0
    for values in rows_or_columns:
        places: Any = values.items() if isinstance(values, dict) else enumerate(values)
        for place, value in places:
            if not isinstance(value, str):
                continue
            if "\x00" in value:
                values[place] = value.replace("\x00", "\ufffd")
                replaced += value.count("\x00")
            elif place in json and "\\u0000" in value:
                escapes = [escape for escape in _JSON_ESCAPE.findall(value) if escape == "\\u0000"]
                values[place] = _JSON_ESCAPE.sub(_without_nul, value)
                replaced += len(escapes)
    return replaced


def _without_nul(escape: re.Match[str]) -> str:
    # A backslash that is itself escaped is no part of it.
    return "\ufffd" if escape[0] == "\\u0000" else escape[0]


def _origin(error: BaseException) -> str:
    """Return an error's class and the line it came from, which show no value."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"
