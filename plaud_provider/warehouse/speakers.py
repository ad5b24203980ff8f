"""Who speaks how much: one row per transcription and speaker, as a view of the segments."""

from __future__ import annotations

import sqlalchemy as sa

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
    spaces = sa.func.length(said.c.said) - sa.func.length(sa.func.replace(said.c.said, " ", ""))
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
