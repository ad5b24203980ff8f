"""
Segments of a transcript, as an answer has them.

===========  ============================================================
value        names, the documented one first
===========  ============================================================
start, end   ``start``, ``start_time``; ``end``, ``end_time``, in seconds
speaker      ``speaker``, ``speaker_id``; also an object with its label
text         ``text``, ``transcript``
language     ``language``
===========  ============================================================

They stand in a list, or in an object of segments by their numbers. What else stands in their place is left
out, as is what is no object among them: the transcript itself is paid for.
"""

from __future__ import annotations

from typing import Any

from plaud_provider.api.members import as_seconds, as_text, by_plain_name, first, plain
from plaud_provider.api.models import Segment

TEXT = ("text", "transcript")
LANGUAGE = ("language",)
_START = ("start", "starttime")
_END = ("end", "endtime")
_SPEAKER = ("speaker", "speakerid")
KNOWN_KEYS = frozenset(
    [*_START, *_END, *_SPEAKER, *TEXT, *LANGUAGE, "languageprobability", "languageprobabilitiy", "id"]
)


def are_segments(value: object) -> bool:
    """Whether a list is one of segments: what else an answer may hold has neither beginning nor end."""
    return isinstance(value, list) and any(
        isinstance(one, dict) and not {*_START, *_END}.isdisjoint(map(plain, one)) for one in value[:20]
    )


def used_up(items: list[Any]) -> list[Segment]:
    """
    Return segments, and forget what they are made of: it takes more memory than they do.

    They are no tuple that grows: that fails (SystemError) if another thread asks for all objects there are,
    as what looks for leaks of memory does.
    """
    found: list[Segment] = []
    # A long transcript names the same few speakers and languages a hundred thousand times.
    same: dict[str | None, str | None] = {}
    for place, item in enumerate(items):
        if isinstance(item, dict):
            members = [by_plain_name(item)]
            speaker, language = _speaker(first(members, _SPEAKER)), as_text(first(members, LANGUAGE))
            segment = Segment(
                index=len(found),
                start_seconds=as_seconds(first(members, _START)),
                end_seconds=as_seconds(first(members, _END)),
                speaker=same.setdefault(speaker, speaker),
                text=as_text(first(members, TEXT)) or "",
                language=same.setdefault(language, language),
            )
            found.append(segment)
        items[place] = None
    return found


def _speaker(value: object) -> str | None:
    """Return a speaker's label, also of an object that has one."""
    if isinstance(value, dict):
        value = first([by_plain_name(value)], ("label", "name", *_SPEAKER, "id"))
    return as_text(value)
