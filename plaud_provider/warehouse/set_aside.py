"""Large transcripts on disk while they are landed, as a warehouse makes copies of its own."""

from __future__ import annotations

import marshal
import os
from collections.abc import Iterator
from dataclasses import replace
from tempfile import TemporaryFile
from typing import IO

from plaud_provider.api.models import Transcription
from plaud_provider.database.rows import Columns, batches, pieces
from plaud_provider.warehouse.rows import columns_of_segments

#: Segments whose rows are made at once.
_SEGMENTS = 20_000
#: Later formats of marshal remember each text, to write it once if it comes again.
_FORMAT = 2


class SetAside:
    """
    Texts and segments of a transcription, in files without a name, which vanish with the process.

    :param transcription: The transcription.
    :raises OSError: if there is no room on the disk for temporary files.
    """

    def __init__(self, transcription: Transcription) -> None:
        self.segment_count = transcription.segment_count
        self.speaker_count = transcription.speaker_count
        self._raw = _file(transcription.raw)
        self._text = None if transcription.text is None else _file(transcription.text)
        self._segments = TemporaryFile(prefix="plaud-")  # noqa: SIM115
        for segments in batches(transcription.segments, _SEGMENTS):
            columns = columns_of_segments([(transcription.transcription_id, segments)])
            self._segments.write(marshal.dumps(columns, _FORMAT))

    @property
    def raw(self) -> str:
        """The answer itself."""
        return _content(self._raw)

    @property
    def text(self) -> str | None:
        """The whole transcript."""
        return None if self._text is None else _content(self._text)

    def segment_columns(self) -> Iterator[Columns]:
        """Yield the rows of its segments, so many at once that they take a bounded amount of memory."""
        end = self._segments.seek(0, os.SEEK_END)
        self._segments.seek(0)
        while self._segments.tell() < end:
            yield marshal.load(self._segments)


def without_texts(transcription: Transcription) -> Transcription:
    """Return what is left of a transcription whose texts and segments are set aside."""
    return replace(transcription, text=None, segments=(), raw="{}")


def _file(text: str) -> IO[bytes]:
    file = TemporaryFile(prefix="plaud-")  # noqa: SIM115
    for piece in pieces(text):
        file.write(piece.encode())
    return file


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()
