"""
A transcript as a file that other tools read: subtitles (SRT, WebVTT), text, Markdown.

**Times.** Where only the end of a segment is missing, or not after its start, it lasts as long as saying its
text takes, but not beyond the next time that is known. Where more is missing, it is put between the times
that are known around it, in proportion to the lengths of the texts; before the first one that is from 0,
after the last one to the end of the recording. A transcript without segments is one segment without times.

**Order.** Subtitles are in the order of their starts, and each ends after it starts. Segments that overlap,
as two people speak at once, stay so: players show both. Text and Markdown keep the API's order.

**Length.** A segment that is longer than two lines of 42 characters is split into several subtitles, which
share its time in proportion to their lengths. Words are broken only if they are longer than a line, as in
scripts without spaces, and never before a combining mark.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from plaud_provider.api.models import Segment, Transcription

LINE_CHARACTERS = 42
LINES = 2
#: How fast people speak, and how long a subtitle is shown at least, where nothing tells its time.
CHARACTERS_PER_SECOND = 15.0
SHORTEST_SECONDS = 1.0

#: Does not show, and keeps a player from taking a text for markup or for the time of a subtitle.
_WORD_JOINER = "\u2060"
# SRT has no escape: `<b>` and `{\an8}` are obeyed, and times are found by `-->` or by how they look.
_SRT_MARKUP = re.compile(r"(?<=[<{])|(?<=--)(?=>)|(?<=\d:\d\d)(?=:\d\d[.,]\d)|(?<=\d:\d)(?=:\d\d?[.,]\d)")
_VTT_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_MARKDOWN = re.compile(r"([\\`*_\[\]<>&#|~$])")
# What makes a list, a line or a heading of a paragraph, at its beginning.
_MARKDOWN_START = re.compile(r"^(\d*)([-+=.)])")


class Cue(NamedTuple):
    """
    A subtitle.

    :param start: When it appears, in whole milliseconds.
    :param end: When it goes; later than ``start``.
    :param speaker: Who says it.
    :param lines: At most :data:`LINES` lines of :data:`LINE_CHARACTERS`.
    """

    start: int
    end: int
    speaker: str | None
    lines: tuple[str, ...]


def to_srt(transcription: Transcription) -> str:
    """Return it as SubRip subtitles; see :meth:`.models.Transcription.to_srt`."""
    cues = _cues(transcription, lambda speaker: f"{speaker}: ")
    blocks = (
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n"
        + "".join(f"{_SRT_MARKUP.sub(_WORD_JOINER, line)}\n" for line in cue.lines)
        for number, cue in enumerate(cues, 1)
    )
    return "\n".join(blocks)


def to_vtt(transcription: Transcription) -> str:
    """Return it as WebVTT subtitles; see :meth:`.models.Transcription.to_vtt`."""

    def cue_text(cue: Cue) -> str:
        text = "\n".join(cue.lines).translate(_VTT_ENTITIES)
        if cue.speaker is None:
            return text
        # The space is no part of the name, and without it a name that ends so would make a `-->`.
        space = " " if cue.speaker.endswith("--") else ""
        return f"<v {cue.speaker.translate(_VTT_ENTITIES)}{space}>{text}</v>"

    blocks = (
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{cue_text(cue)}\n"
        for cue in _cues(transcription, lambda speaker: "")
    )
    return "\n".join(("WEBVTT\n", *blocks))


def to_text(transcription: Transcription) -> str:
    """Return it as plain text; see :meth:`.models.Transcription.to_text`."""
    return "\n".join(
        f"{text}\n" if speaker is None else f"{speaker}: {text}\n"
        for speaker, _, text in _paragraphs(transcription)
    )


def to_markdown(transcription: Transcription) -> str:
    """Return it as Markdown; see :meth:`.models.Transcription.to_markdown`."""
    parts = [f"# {_markdown(transcription.transcription_id)}\n"]
    known = {
        "Language": transcription.language,
        "Length": _hours(transcription.duration_seconds),
        "Completed": transcription.completed_at and f"{transcription.completed_at:%Y-%m-%d %H:%M} UTC",
    }
    if facts := [f"- {name}: {_markdown(value)}\n" for name, value in known.items() if value]:
        parts.append("".join(facts))
    for speaker, start, text in _paragraphs(transcription):
        who, when = speaker and f"**{_markdown(speaker)}**", _hours(start)
        head = " ".join(filter(None, (who, when and f"({when})")))
        paragraph = _MARKDOWN_START.sub(r"\1\\\2", _markdown(text))
        parts.append(f"{head}\n\n{paragraph}\n" if head else f"{paragraph}\n")
    return "\n".join(parts)


def _texts(transcription: Transcription) -> list[tuple[Segment | None, str]]:
    """Return the segments that say something, with their texts on one line; ``None`` for the whole text."""
    said = [(segment, _one_line(segment.text)) for segment in transcription.segments]
    found: list[tuple[Segment | None, str]] = [(segment, text) for segment, text in said if text]
    if not found and (whole := _one_line(transcription.text or "")):
        return [(None, whole)]
    return found


def _one_line(text: str) -> str:
    """Return a text with single spaces, without line breaks and without characters that control something."""
    kept = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cs"))
    return " ".join(kept.split())


def _speaker(segment: Segment | None) -> str | None:
    return (_one_line(segment.speaker) or None) if segment is not None and segment.speaker else None


def _paragraphs(transcription: Transcription) -> Iterator[tuple[str | None, float | None, str]]:
    """Yield what one speaker says without a break: who, from when, and what."""
    turns = groupby(_texts(transcription), key=lambda said: _speaker(said[0]))
    for speaker, turn in turns:
        said = list(turn)
        first = said[0][0]
        yield speaker, first.start_seconds if first is not None else None, " ".join(text for _, text in said)


def _cues(transcription: Transcription, title: Callable[[str], str]) -> list[Cue]:
    """Return the subtitles; the first one of a segment begins with what ``title`` makes of its speaker."""
    said = _texts(transcription)
    spans = _spans(
        [
            (segment.start_seconds, segment.end_seconds) if segment is not None else (None, None)
            for segment, _ in said
        ],
        [len(text) for _, text in said],
        transcription.duration_seconds,
    )
    cues: list[Cue] = []
    for (segment, text), (start, end) in zip(said, spans, strict=True):
        speaker = _speaker(segment)
        lines = _wrapped(f"{title(speaker)}{text}" if speaker else text)
        cards = [tuple(lines[first : first + LINES]) for first in range(0, len(lines), LINES)]
        total = sum(len(line) for line in lines)
        done = 0
        # Each has a millisecond of its own, however short the segment is.
        first, last = round(start * 1000), max(round(end * 1000), round(start * 1000) + len(cards))
        at = first
        for number, card in enumerate(cards, 1):
            done += sum(map(len, card))
            left = len(cards) - number
            until = min(max(first + (last - first) * done // total, at + 1), last - left)
            cues.append(Cue(at, until, speaker, card))
            at = until
    return sorted(cues, key=lambda cue: cue.start)


def _spans(
    given: Sequence[tuple[float | None, float | None]], lengths: Sequence[int], duration: float | None
) -> list[tuple[float, float]]:
    """Return start and end of each segment in seconds, with what is missing filled in."""
    times: list[float | None] = []
    for start, end in given:
        is_known = start is None or end is None or end > start
        times += [start, end if is_known else None]
    # Text between two neighbouring times: that of a segment between its start and end, none between segments.
    weights = [length if is_end else 0 for length in lengths for is_end in (False, True)]
    filled: list[float] = []
    at = 0
    while at < len(times):
        if (known := times[at]) is not None:
            filled.append(known)
            at += 1
            continue
        until = next((later for later in range(at, len(times)) if times[later] is not None), len(times))
        left = filled[-1] if filled else 0.0
        right = times[until] if until < len(times) else duration
        text = sum(weights[at : until + 1])
        said = left + max(text / CHARACTERS_PER_SECOND, SHORTEST_SECONDS)
        if right is None or right <= left:
            right = said
        elif until == at + 1 and at % 2:
            right = min(right, said)
        passed = 0
        for missing in range(at, until):
            passed += weights[missing]
            filled.append(left + (right - left) * (passed / text if text else 0.0))
        at = until
    return [(start, max(start, end)) for start, end in zip(filled[::2], filled[1::2], strict=True)]


def _wrapped(text: str) -> list[str]:
    """Return a text in lines of at most :data:`LINE_CHARACTERS`."""
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + bool(lines[-1]) + len(word) <= LINE_CHARACTERS:
            lines[-1] += f" {word}" if lines[-1] else word
            continue
        for piece in _broken(word):
            if lines[-1]:
                lines.append(piece)
            else:
                lines[-1] = piece
    return lines


def _broken(word: str) -> Iterator[str]:
    """Yield a word in pieces that fit a line, none of which begins with a mark of the letter before."""
    while len(word) > LINE_CHARACTERS:
        at = LINE_CHARACTERS
        while at > 1 and unicodedata.category(word[at]) in ("Mn", "Mc", "Me", "Cf"):
            at -= 1
        yield word[:at]
        word = word[at:]
    yield word


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def _clock(milliseconds: int, point: str) -> str:
    seconds, thousandths = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{thousandths:03}"


def _hours(seconds: float | None) -> str | None:
    """Return a time of a recording as people write it, such as ``1:02:03``."""
    if seconds is None:
        return None
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
