"""Who speaks how much: one row per transcription and speaker, as a view of the segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import IdentifierPreparer, SQLCompiler

#: A run of spaces becomes one, if it is not longer than 2 to the power of this.
_HALVINGS = 5


def speakers_name(segments_table: str) -> str:
    """
    Return the name of the view that belongs to a table of segments.

    :param segments_table: Its name: of ``plaud_segments`` it is ``plaud_speakers``.
    """
    stem = segments_table.removesuffix("segments")
    return f"{stem}speakers" if stem != segments_table else f"{segments_table}_speakers"


def speakers(segments: sa.FromClause) -> sa.Select[tuple[object, ...]]:
    """
    Return the query of the view.

    A word is what stands between white space: spaces, tabs and line breaks. Of scripts that write none
    between words, such as Japanese, Chinese or Thai, it counts little more than segments. It uses no function
    that databases spell in different ways, so that all of them count the same.

    :param segments: The table of segments.
    """
    c = segments.c
    text: sa.ColumnElement[str] = c.text
    for white in ("\t", "\n", "\r"):
        text = sa.func.replace(text, white, " ")
    for _ in range(_HALVINGS):
        text = sa.func.replace(text, "  ", " ")
    is_timed = c.end_seconds > c.start_seconds
    said = sa.select(
        c.transcription_id,
        c.speaker,
        sa.case((is_timed, c.end_seconds - c.start_seconds), else_=0.0).label("length"),
        sa.func.trim(text).label("said"),
    ).subquery("said_by")
    spaces = _length(said.c.said) - _length(sa.func.replace(said.c.said, " ", ""))
    spoken = (
        sa.select(
            said.c.transcription_id,
            said.c.speaker,
            sa.func.sum(said.c.length, type_=sa.Double()).label("seconds"),
            sa.func.count(type_=sa.BigInteger()).label("segments"),
            sa.func.sum(sa.case((said.c.said == "", 0), else_=spaces + 1), type_=sa.BigInteger()).label(
                "words"
            ),
        )
        .group_by(said.c.transcription_id, said.c.speaker)
        .subquery("spoken")
    )
    whole = sa.func.sum(spoken.c.seconds, type_=sa.Double()).over(partition_by=spoken.c.transcription_id)
    return sa.select(
        *spoken.c,
        sa.type_coerce(spoken.c.seconds / sa.func.nullif(whole, 0.0, type_=sa.Double()), sa.Double()).label(
            "share"
        ),
    )


def spelled(query: sa.Select[Any], *, quoted: Callable[[str], str], literal: Callable[[str], str]) -> str:
    """
    Return the query as a statement, for a warehouse that SQLAlchemy has no dialect of.

    :param query: The query.
    :param quoted: Returns a name as it is written there.
    :param literal: Returns a text as it is written there.
    """

    class Preparer(IdentifierPreparer):
        def quote(self, ident: str, force: Any = None) -> str:
            return quoted(ident)

    class Compiler(SQLCompiler):
        def render_literal_value(self, value: Any, type_: Any, literal_execute: bool = False) -> str:
            if isinstance(value, str):
                return literal(value)
            return super().render_literal_value(value, type_)

    class Spelling(DefaultDialect):
        preparer = Preparer
        statement_compiler = Compiler
        supports_statement_cache = False
        div_is_floordiv = False

    return str(query.compile(dialect=Spelling(), compile_kwargs={"literal_binds": True}))


class _length(sa.sql.functions.GenericFunction[int]):
    """How many characters a text has."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(_length)
def _compile_length(element: _length, compiler: Any, **options: Any) -> str:
    # That of SQL Server leaves out spaces at the end; what is measured here has none.
    name = "len" if compiler.dialect.name == "mssql" else "length"
    return f"{name}{compiler.function_argspec(element, **options)}"
