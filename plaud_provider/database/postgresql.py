"""What PostgreSQL does in its own way: rows as arrays, locks by name, locks of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from plaud_provider.database import arrays, copying
from plaud_provider.database.sqlalchemy import SqlAlchemyTransaction
from plaud_provider.warehouse.rows import columns_of

if TYPE_CHECKING:
    from plaud_provider.database.base import MayReplace
    from plaud_provider.warehouse.rows import Columns, Row

# Advisory locks are numbers that all programs of a database share: the first of two is ours ("plau").
_LOCK_SPACE = int.from_bytes(b"plau")
# The lock table has room for some 6,000 locks by default, for all transactions together. Names that share one
# wait for each other, no more.
_LOCKS = 1024


class PostgresTransaction(SqlAlchemyTransaction):
    """
    A transaction on a PostgreSQL connection.

    :param connection: The connection, in a transaction.
    """

    def insert(self, table: sa.Table, columns: Columns) -> None:
        """Insert rows, given as the values of each column."""
        if self._connection.dialect.driver in copying.DRIVERS:
            copying.copy_rows(self._connection, table, columns)
            return
        for batch in arrays.parts(columns):
            self._connection.execute(arrays.insert(table), batch)

    def upsert(self, table: sa.Table, rows: Sequence[Row], *, may_replace: MayReplace) -> None:
        """Insert rows, or replace those that may be; see the base class."""
        for batch in arrays.parts(columns_of(rows)):
            self._connection.execute(arrays.upsert(table, may_replace), batch)

    def delete(self, column: sa.Column[Any], values: Sequence[str]) -> None:
        """Delete the rows of the column's table that have one of these values."""
        self._connection.execute(arrays.delete(column), {column.name: list(values)})

    def lock(self, names: Collection[str]) -> None:
        """Keep other transactions that lock one of these names waiting until this one ends."""
        locks = sorted(
            {int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % _LOCKS for name in names}
        )
        numbers = sa.func.unnest(sa.cast(locks, postgresql.ARRAY(sa.Integer))).column_valued("number")
        self._connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_SPACE, numbers)))

    def lock_rows(self, query: sa.Select[Any]) -> None:
        """Lock the rows that a query finds, in its order."""
        self._connection.execute(query.with_for_update())
