"""
The boxes of an MP4 file, as far as they tell what of it need not be read.

The sample tables of an hour are half a megabyte, and those of a hostile file gigabytes of memory to FFmpeg;
the length can be known without them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from plaud_provider.recordings.view import View

#: Boxes of the index that hold others.
_FOLDERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"mvex", b"edts"})
#: Tables with an entry for each sample or chunk.
_TABLES = frozenset({b"stsz", b"stz2", b"stco", b"co64", b"stsc", b"stss", b"stps", b"ctts", b"sdtp"})
#: A box of the index that has more bytes holds pictures, texts or tables.
_LARGE = 4096
#: Boxes that are looked at: some programs fill a file with empty ones.
_MOST = 400
#: Samples whose index FFmpeg may keep in memory, at 24 bytes.
_MOST_SAMPLES = 3_000_000


class Box(NamedTuple):
    """
    A box.

    :param name: Its four letters.
    :param start: Where its contents begin.
    :param end: Where they end; it may be beyond the file's.
    """

    name: bytes
    start: int
    end: int


@dataclass
class Track:
    """
    What a track says about itself; 0 or ``None`` where it does not.

    :param number: What fragments call it.
    :param scale: Its units in a second.
    :param seconds: How long it is.
    :param samples: Of which the index tells; a fragment tells of its own.
    :param units: The table of how long those last.
    :param edited: How many seconds an edit has left of it.
    """

    is_sound: bool = False
    number: int = 0
    scale: int = 0
    seconds: float = 0.0
    samples: int = 0
    units: Box | None = None
    edited: float | None = None


class Boxes:
    """
    The boxes of a file.

    :param view: The file.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._left = _MOST
        #: Where the sound lies; its end may be beyond the file's.
        self.sound = (view.size, view.size)
        #: Whether there is an index.
        self.has_index = False
        #: Whether the index says nothing about some of it, which follows in pieces with an index each.
        self.is_fragmented = False
        #: Whether there are more samples than can be.
        self.has_huge_tables = False
        #: The tracks that have a number, and the first sound among them.
        self.tracks: dict[int, Track] = {}
        self.track: Track | None = None
        #: How long that is, by its own header and what an edit has left of it, where they say so.
        self.seconds: float | None = None
        #: How long all that is in fragments is, where that is said.
        self.seconds_of_fragments: float | None = None
        #: How many units a sample of a track lasts, by its number, if its fragment says nothing else.
        self.sample_units: dict[int, int] = {}
        #: Where the index ends, and the first fragment begins.
        self.index_end = self.first_fragment = 0
        self._large: list[Box] = []
        self._tables: list[Box] = []
        self._time_scale = 0
        self._may_be_fragmented = False
        self._read()

    def without_tables(self) -> View:
        """Return the file without what takes long to read: tables, if one is large, and pictures."""
        hidden = list(self._large)
        if self.has_huge_tables or any(table.end - table.start > _LARGE for table in self._tables):
            hidden += self._tables
        spans = sorted((box.start - 4, min(box.end, self._view.size)) for box in hidden)
        return self._view.again(hidden=spans)

    def _read(self) -> None:
        has_sound = False
        for box in self._inside(0, self._view.size):
            if box.name == b"moov":
                self.has_index, self.index_end = True, box.end
                self._index(box)
            elif box.name == b"mdat" and not has_sound:
                has_sound = True
                self.sound = (box.start, box.end)
            elif box.name == b"moof":
                self.is_fragmented, self.first_fragment = True, box.start - 8
            # Of a file in pieces there are thousands.
            if self.has_index and (self.is_fragmented or (has_sound and not self._may_be_fragmented)):
                return

    def _index(self, folder: Box, track: Track | None = None) -> None:
        for box in self._inside(folder.start, min(folder.end, self._view.size)):
            if box.name == b"trak":
                track = Track()
            if box.name == b"mvex":
                self._may_be_fragmented = True
            if box.name == b"stsz":
                samples = int.from_bytes(self._view.part(box.start + 8, box.start + 12))
                self.has_huge_tables |= samples > _MOST_SAMPLES
                if track:
                    track.samples = samples
            elif box.name == b"stts" and track:
                track.units = box
            if box.name == b"mvhd":
                self._time_scale, _ = self._header(box)
            elif box.name == b"mehd":
                length = int.from_bytes(self._view.part(box.start + 4, min(box.start + 12, box.end)))
                self.seconds_of_fragments = length / self._time_scale if self._time_scale else None
            elif box.name == b"trex":
                content = self._view.part(box.start, box.start + 16).ljust(16, b"\0")
                number, units = struct.unpack(">4xI4xI", content)
                self.sample_units[number] = units
            elif track and box.name == b"tkhd":
                header = self._view.part(box.start, box.start + 24).ljust(24, b"\0")
                (track.number,) = struct.unpack(">20xI" if header[0] == 1 else ">12xI8x", header)
            elif track and box.name == b"mdhd":
                track.scale, length = self._header(box)
                track.seconds = length / track.scale if track.scale else 0.0
            elif track and box.name == b"hdlr":
                # QuickTime has another one of each track, about its bytes.
                track.is_sound |= self._view.part(box.start + 8, box.start + 12) == b"soun"
            elif track and box.name == b"elst":
                track.edited = self._edited(box)
            if box.name in _FOLDERS:
                self._index(box, track)
                if track and box.name == b"trak":
                    self.tracks[track.number] = track
                if track and box.name == b"trak" and track.is_sound and self.seconds is None:
                    self.track = self.track or track
                    self.seconds = min(filter(None, (track.seconds, track.edited)), default=None)
            elif box.name in _TABLES:
                self._tables.append(box)
            elif box.end - box.start > _LARGE:
                self._large.append(box)

    def _header(self, box: Box) -> tuple[int, int]:
        """Return what a header of a track, or of all, says: units in a second, and how many it lasts."""
        header = self._view.part(box.start, box.start + 32).ljust(32, b"\0")
        found: tuple[int, int] = struct.unpack(">20xIQ" if header[0] == 1 else ">12xII12x", header)
        return found

    def _edited(self, box: Box) -> float | None:
        """Return how many seconds of a track an edit has left, as when a recording was trimmed."""
        content = self._view.part(box.start, min(box.end, box.start + _LARGE))
        entry = ">Qq4x" if content[:1] == b"\1" else ">Ii4x"
        entries = content[8:]
        whole = len(entries) - len(entries) % struct.calcsize(entry)
        # From -1 nothing is played for so long.
        parts = [length for length, begin in struct.iter_unpack(entry, entries[:whole]) if begin >= 0]
        # Without a length it is all of it.
        return sum(parts) / self._time_scale if self._time_scale and parts and all(parts) else None

    def _inside(self, position: int, end: int) -> Iterator[Box]:
        for box in boxes_between(self._view, position, end):
            if not self._left:
                return
            self._left -= 1
            yield box


def boxes_between(view: View, position: int, end: int) -> Iterator[Box]:
    """Yield the boxes that follow each other from one offset of a file up to another."""
    while position + 8 <= end:
        header = view.part(position, position + 16)
        if len(header) < 8:
            return
        length, name = struct.unpack(">I4s", header[:8])
        start = position + 8
        if length == 1 and len(header) == 16:
            (length,) = struct.unpack(">Q", header[8:])
            start = position + 16
        elif length == 0:
            length = end - position
        if length < start - position:
            return
        yield Box(name, start, position + length)
        position += length
