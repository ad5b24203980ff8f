"""What the demo prints at the end: the transcripts, read back from the warehouse."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb

HEADINGS = ("recording", "speaker", "time", "text")
MINIMUM_WIDTH, MAXIMUM_WIDTH = 80, 140

TRANSCRIPTS = """
select t.audio_uri, t.status, coalesce(s.text, t.text), t.error, s.speaker, s.start_seconds
from plaud_transcripts t
left join plaud_segments s using (transcription_id)
order by t.audio_uri, t.transcription_id, s.segment_index
"""
EXAMPLE = "select speaker, start_seconds, text from plaud_segments order by transcription_id, segment_index"


@dataclass(frozen=True)
class Line:
    """A stretch of speech."""

    recording: str
    speaker: str
    time: str
    text: str


def read_lines(warehouse: Path) -> list[Line]:
    """Return what was said in the transcripts of a warehouse, in order."""
    # Read-only, and closed at once: DuckDB lets one process at a time write.
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        rows = connection.execute(TRANSCRIPTS).fetchall()
    return [_line(*row) for row in rows]


def _line(
    uri: str, status: str, text: str | None, error: str | None, speaker: str | None, start: Any
) -> Line:
    return Line(
        recording=urlsplit(uri or "").path.rsplit("/", 1)[-1],
        speaker=speaker or "",
        time="" if start is None else f"{int(start) // 60:02d}:{int(start) % 60:02d}",
        text=(text or "") if status == "completed" else f"[{status}] {error or ''}",
    )


def format_table(lines: list[Line]) -> str:
    """Return the lines as a table that fits the terminal; a recording's name stands once."""
    cells = [(line.recording, line.speaker, line.time) for line in lines]
    widths = [max(len(text) for text in column) for column in zip(HEADINGS[:3], *cells, strict=True)]
    margin = sum(widths) + 2 * len(widths)
    columns = shutil.get_terminal_size((100, 24)).columns
    width = min(max(columns, MINIMUM_WIDTH), MAXIMUM_WIDTH) - margin
    return "\n".join(_rows(lines, widths, max(width, 20)))


def _rows(lines: list[Line], widths: list[int], text_width: int) -> Iterator[str]:
    def row(*texts: str) -> str:
        return "  ".join(
            [*(text.ljust(width) for text, width in zip(texts, widths, strict=False)), texts[-1]]
        ).rstrip()

    yield row(*HEADINGS)
    yield row(*("-" * width for width in widths), "-" * text_width)
    previous = ""
    for line in lines:
        first, *rest = textwrap.wrap(line.text, text_width) or [""]
        yield row(line.recording if line.recording != previous else "", line.speaker, line.time, first)
        for continued in rest:
            yield row("", "", "", continued)
        previous = line.recording


def query_command(warehouse: Path) -> str:
    """Return a shell command that queries the warehouse, to copy and paste."""
    code = f"import duckdb; duckdb.connect('{short(warehouse)}', read_only=True).sql('{EXAMPLE}').show()"
    return f'{short(Path(sys.executable))} -c "{code}"'


def short(path: Path) -> str:
    """Return a path from here if it is below, else in full. Links are kept: a venv's python is one."""
    path = Path(os.path.abspath(path))
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
