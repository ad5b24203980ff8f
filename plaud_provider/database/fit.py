"""Whether a table that is already there can hold our rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from plaud_provider.exceptions import PlaudTableMismatchError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from plaud_provider.warehouse.tables import DeclaredTables


class ExistingColumn(NamedTuple):
    """
    A column of a table that is there.

    :param name: Its name.
    :param type_name: Its type as the database writes it.
    :param nullable: Whether it takes NULL.
    :param has_default: Whether the database fills it where a row leaves it out.
    :param holds: Whether it can hold every value of a column of ours.
    """

    name: str
    type_name: str
    nullable: bool
    has_default: bool
    holds: Callable[[sa.Column[Any]], bool]


class ExistingTable(NamedTuple):
    """
    A table or view that is there.

    :param columns: Its columns.
    :param is_view: Whether it is a view.
    :param keys: Columns of its primary key and of each other unique one.
    """

    columns: Sequence[ExistingColumn]
    is_view: bool
    keys: Collection[frozenset[str]]


def refuse_misfits(
    tables: DeclaredTables, existing: dict[sa.Table, ExistingTable], dialect: sa.Dialect, title: str
) -> None:
    """
    Compare tables that were there with those we need.

    :param tables: What we need.
    :param existing: What was there; a table that was not is left out.
    :param dialect: Dialect that writes the types we need.
    :param title: What they are in, for the message.
    :raises PlaudTableMismatchError: that names every column that does not fit.
    """
    complaints = []
    for table, found in existing.items():
        problems = _problems(table, found, dialect)
        key = [column.name for column in table.primary_key]
        if table in tables.keyed and not found.is_view and frozenset(key) not in found.keys:
            problems.append(f"{', '.join(map(repr, key))} is not its primary key")
        if problems:
            complaints.append(
                f"Table {table.fullname!r} of {title} does not fit: {'; '.join(problems)}. "
                "Change it, move it away (it is then created anew), or name another one in "
                f"{tables.parameters[table]}."
            )
    if complaints:
        raise PlaudTableMismatchError(f"{' '.join(complaints)} Nothing was written.")


def _problems(table: sa.Table, found: ExistingTable, dialect: sa.Dialect) -> list[str]:
    if found.is_view:
        return ["it is a view, a table is needed"]
    there = {column.name.casefold(): column for column in found.columns}
    problems = []
    for column in table.columns:
        needed = column.type.compile(dialect=dialect)
        match = there.pop(column.name.casefold(), None)
        if match is None:
            problems.append(f"column {column.name!r} is missing, {needed} is needed")
        elif not match.holds(column):
            problems.append(f"column {column.name!r} is {match.type_name}, {needed} is needed")
        elif column.nullable and not match.nullable:
            problems.append(f"column {column.name!r} is NOT NULL, but not every row has a value")
    problems += [
        f"column {extra.name!r} is NOT NULL without a default, and nothing here fills it"
        for extra in there.values()
        if not extra.nullable and not extra.has_default
    ]
    return problems
