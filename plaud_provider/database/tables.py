"""
Tables that the ledger and the warehouse declare, and the names that users give them.

Names reach SQL only as quoted identifiers that a dialect compiler writes; what no database could take as a
name is refused here, before anything is opened.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import quoted_name

from plaud_provider import __version__
from plaud_provider.exceptions import PlaudInputError

#: What a MySQL server would choose by its own settings. A collation that tells no cases apart would take two
#: ids for one.
_MYSQL = {"engine": "InnoDB", "default_charset": "utf8mb4", "collate": "utf8mb4_bin", "row_format": "DYNAMIC"}


class DeclaredTables:
    """
    Tables that are created on first use, and have to fit if they are there.

    :param schema: Schema that they are in; ``None`` for the connection's own.
    :param parameters: The tables, each with the argument that names it.
    :param keyed: Those whose primary key the database itself has to enforce.
    :param views: Views of them, for people, by name: they are made where they can be, and nothing depends on
        them.
    """

    def __init__(
        self,
        schema: str | None,
        parameters: Mapping[sa.Table, str],
        *,
        keyed: frozenset[sa.Table],
        views: Mapping[str, sa.Select[Any]] | None = None,
    ) -> None:
        self.schema = schema
        self.parameters = parameters
        self.keyed = keyed
        self.views = views or {}
        for table in parameters:
            what = f"{table.comment}. " if table.comment else ""
            table.comment = f"{what}Created by airflow-provider-plaud {__version__}"
            for option, value in _MYSQL.items():
                table.kwargs[f"mysql_{option}"] = value

    @property
    def names(self) -> str:
        """Their names, for messages."""
        return " and ".join(table.fullname for table in self.parameters)

    def refuse_names_longer_than(self, limit: int, database: str) -> None:
        """
        Refuse names that this kind of database would cut short, which PostgreSQL does without an error.

        :param limit: Bytes (UTF-8) that a name may have.
        :param database: Kind of database, for the message.
        :raises PlaudInputError: if a name is longer.
        """
        names = {parameter: table.name for table, parameter in self.parameters.items()}
        if self.schema is not None:
            names["schema"] = self.schema
        for parameter, name in names.items():
            if (length := len(name.encode())) > limit:
                raise PlaudInputError(
                    f"{parameter}: {shown(name)} has {length} bytes; {database} takes names of at most "
                    f"{limit}. Choose a shorter one. Nothing was sent."
                )

    def refuse_one_name_for_two(self, *, tells_cases_apart: bool) -> None:
        """
        Refuse two tables that would be one.

        :param tells_cases_apart: Whether the database takes names that differ in upper and lower case for
            different ones.
        :raises PlaudInputError: if two names are one.
        """
        seen: dict[str, str] = {}
        for table, parameter in self.parameters.items():
            name = str(table.name) if tells_cases_apart else table.name.casefold()
            if name in seen:
                raise PlaudInputError(
                    f"{parameter}: {shown(str(table.name))} is also the {seen[name]}. Give the two tables "
                    "different names. Nothing was sent."
                )
            seen[name] = parameter


def schema_name(value: str | None) -> quoted_name | None:
    """
    Return a schema's name as an identifier that is always quoted; ``None`` for the connection's own.

    :param value: What a user gave.
    :raises PlaudInputError: if it cannot be a name.
    """
    if value is None:
        return None
    return table_name("schema", value, "leave it out for the connection's own schema")


def table_name(parameter: str, value: object, remedy: str) -> quoted_name:
    """
    Return a name as an identifier that is always quoted.

    :param parameter: Argument that it was given as, for the message.
    :param value: What a user gave.
    :param remedy: What else to do, for the message.
    :raises PlaudInputError: if it cannot be a name.
    """
    if not isinstance(value, str):
        problem = f"is a {type(value).__name__}, not a name"
    elif not value.strip():
        problem = "is empty"
    elif any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        problem = "has control characters (a tab, a line break, NUL) or is not valid Unicode"
    else:
        return quoted_name(value, quote=True)
    raise PlaudInputError(
        f"{parameter}: {shown(value)} {problem}. Give a plain name; {remedy}. Nothing was sent."
    )


def shown(value: object) -> str:
    """Return what a user gave as it is shown in a message: not all of it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
