"""
The fragments of an MP4: when its sound begins and ends, by the first and the last of them.

What was streamed has an index for each few seconds instead of one for all. How many bytes a second has tells
nothing there: most are a picture's, and silence has few. But each fragment says when it begins. So it is
enough to find the first and the last: by the list of them at the file's end (``mfra``) or beginning
(``sidx``), else by looking around.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from plaud_provider.recordings.boxes import Box, Boxes, boxes_between
from plaud_provider.recordings.ffmpeg import JUMP
from plaud_provider.recordings.view import View
from plaud_provider.storage.ranges import LIMIT_BYTES, NEXT_BYTES

#: Boxes behind a fragment that are looked at for the next: its samples, and what may lie between.
_MOST_BOXES = 8
#: What a fragment's index may have.
_LARGEST = 1024 * 1024
#: Flags that say which fields there are: of a fragment's track, of its run of samples, of each sample.
_OFFSET, _DESCRIPTION, _UNITS = 0x1, 0x2, 0x8
_FIRST_FLAGS, _UNITS_OF_EACH, _OF_EACH = 0x4, 0x100, 0xF00
#: How a fragment begins: the sizes of two boxes, of which the inner is always the same, and their names.
_FRAGMENT = re.compile(rb"....moof\0\0\0\x10mfhd", re.DOTALL)
_TOP = 16
#: How much of a file's end is looked at for its last sound. If it is farther away, the picture goes on alone.
_SILENT_END = 512 * 1024
#: How far is looked for a fragment amid the file: that is only a check.
_CHECKED = 64 * 1024
#: The box in which Smooth Streaming says when a fragment begins.
_SMOOTH = bytes.fromhex("6d1d9b0542d544e680e2141daff757b2")


class Sound(NamedTuple):
    """
    The sound of a fragment.

    :param offset: Where the fragment is.
    :param begin: When it begins, in seconds.
    :param end: When it ends.
    :param gap: Seconds of it that are none: a sample lasts until the next, however late that is.
    """

    offset: int
    begin: float
    end: float
    gap: float


class _Listed(NamedTuple):
    """Where the first and the last fragment of a list are, and whether it is one of those with sound."""

    first: int
    last: int
    is_of_sound: bool


class _LostError(Exception):
    """The next fragment is farther away than may be read, or does not say when it begins."""


class Fragments:
    """
    The fragments of a file.

    :param view: The file.
    :param boxes: What its index says; it has fragments.
    """

    def __init__(self, view: View, boxes: Boxes) -> None:
        self._view = view
        self._boxes = boxes
        self._begin, self._end = math.inf, 0.0
        #: How long all of it is by its own word, if it has one.
        self.claimed = boxes.seconds_of_fragments

    @property
    def there(self) -> float:
        """How long all of it is that is there, sound or picture, as far as it was seen."""
        return max(0.0, self._end - self._begin)

    def length(self) -> tuple[float, bool] | None:
        """Return how long the sound is, and whether it is exact; ``None`` if that cannot be found out."""
        try:
            return self._length()
        except _LostError:
            return None

    def _length(self) -> tuple[float, bool] | None:
        listed = self._listed_at_end() or self._listed_at_beginning()
        first = next(self._sounds(listed.first if listed else self._boxes.first_fragment), None)
        last = None
        if listed:
            following = self._sounds(listed.last)
            last = next(following if listed.is_of_sound else reversed(list(following)), None)
        is_listed = last is not None
        last = last or self._last()
        if not first or not last or not (is_listed or self._is_one(first, last)):
            return None
        first = self._indexed() or first
        there = self._there_of(last)
        end = last.begin + (last.end - last.begin) * there
        # What is before 0 is there for the decoder to start with.
        return end - max(0.0, first.begin) - sum(sound.gap for sound in {first, last}), there == 1.0

    def _indexed(self) -> Sound | None:
        """Return the sound before the first fragment, of which the index tells."""
        track = self._boxes.track
        if track is None or not track.samples or not track.scale or track.units is None:
            return None
        table = self._view.part(track.units.start + 8, min(track.units.end, track.units.start + _LARGEST))
        runs = struct.iter_unpack(">II", table[: len(table) // 8 * 8])
        gap = sum(count * units for count, units in runs if units > track.scale * JUMP)
        return Sound(0, 0.0, track.seconds, gap / track.scale)

    # Lists

    def _listed_at_end(self) -> _Listed | None:
        """Return what a list at the end of the file says."""
        size = self._view.size
        tail = self._view.part(size - NEXT_BYTES, size)
        if tail[-12:-8] != b"mfro":
            return None
        found = None
        for folder in boxes_between(self._view, size - int.from_bytes(tail[-4:]), size):
            for box in boxes_between(self._view, folder.start, folder.end) if folder.name == b"mfra" else ():
                version, number, sizes, count = self._numbers(">B3xIII", box.start)
                if box.name != b"tfra" or not count:
                    continue
                entry = (16 if version else 8) + sum((sizes >> shift & 3) + 1 for shift in (0, 2, 4))
                offset = ">8xQ" if version else ">4xI"
                (first,) = self._numbers(offset, box.start + 16)
                (last,) = self._numbers(offset, box.start + 16 + (count - 1) * entry)
                # Some programs list only where a picture can be entered.
                if found is None or self._is_sound(number):
                    found = _Listed(first, last, self._is_sound(number))
        return found

    def _listed_at_beginning(self) -> _Listed | None:
        """Return what a list before the fragments says."""
        for box in boxes_between(self._view, self._boxes.index_end, self._boxes.first_fragment):
            if box.name != b"sidx":
                continue
            (version,) = self._numbers(">B", box.start)
            about = ">8xIQQ2xH" if version else ">8xIII2xH"
            scale, _, offset, count = self._numbers(about, box.start)
            start = box.start + struct.calcsize(about)
            parts = list(struct.iter_unpack(">II4x", self._view.part(start, start + 12 * count)))
            # With the first bit it is a list of lists.
            if not scale or len(parts) != count or not count or any(size >> 31 for size, _ in parts):
                continue
            first = box.end + offset
            ends = list(itertools.accumulate((size for size, _ in parts), initial=first))
            if ends[-1] > self._view.size - NEXT_BYTES:
                self.claimed = self.claimed or sum(units for _, units in parts) / scale
                return _Listed(first, max(end for end in ends[:-1] if end < self._view.size), False)
        return None

    # Fragments

    def _sounds(self, position: int) -> Iterator[Sound]:
        """Yield the sound of fragments that follow, up to where more than a few boxes are between them."""
        left = _MOST_BOXES
        for box in boxes_between(self._view, position, self._view.size):
            left -= 1
            if box.name == b"moof":
                sound = self._sound(box)
                if sound is not None:
                    left = _MOST_BOXES
                    yield sound
            if not left:
                return

    def _sound(self, fragment: Box) -> Sound | None:
        found = None
        if fragment.end - fragment.start > _LARGEST:
            raise _LostError
        for folder in boxes_between(self._view, fragment.start, fragment.end):
            if folder.name != b"traf":
                continue
            number, begin, end, gap = self._span(folder)
            if end > begin:
                self._begin, self._end = min(self._begin, begin), max(self._end, end)
            if end > begin and self._is_sound(number):
                found = Sound(fragment.start - 8, begin, end, gap)
        return found

    def _span(self, folder: Box) -> tuple[int, float, float, float]:
        """Return of a track in a fragment its number, when it begins and ends, and the gap in it."""
        number = default = total = gap = scale = 0
        begin = None
        for box in boxes_between(self._view, folder.start, folder.end):
            version, fields, value = self._numbers(">BxHI", box.start)
            if box.name == b"tfhd":
                number = value
                scale = self._boxes.tracks[number].scale if number in self._boxes.tracks else 0
                skipped = (8 if fields & _OFFSET else 0) + (4 if fields & _DESCRIPTION else 0)
                default = self._boxes.sample_units.get(number, 0)
                if fields & _UNITS:
                    (default,) = self._numbers(">I", box.start + 8 + skipped)
            elif box.name == b"tfdt":
                (begin,) = self._numbers(">q" if version else ">I", box.start + 4)
            elif box.name == b"uuid" and self._view.part(box.start, box.start + 16) == _SMOOTH:
                (version,) = self._numbers(">B", box.start + 16)
                (begin,) = self._numbers(">q" if version else ">I", box.start + 20)
            elif box.name == b"trun":
                for units, count in (
                    self._units(box, fields) if fields & _UNITS_OF_EACH else [(default, value)]
                ):
                    total += units * count
                    gap += units * count if units > scale * JUMP else 0
        if not scale or not total:
            return number, 0.0, 0.0, 0.0
        if begin is None:
            raise _LostError
        return number, begin / scale, (begin + total) / scale, gap / scale

    def _units(self, run: Box, fields: int) -> Iterable[tuple[int, int]]:
        """Return how long samples of a run last, and how many of them follow each other."""
        start = run.start + 8 + (4 if fields & _OFFSET else 0) + (4 if fields & _FIRST_FLAGS else 0)
        # The first field of each.
        sample = struct.Struct(f">I{4 * (fields & _OF_EACH).bit_count() - 4}x")
        table = self._view.part(start, min(run.end, start + _LARGEST))
        return [
            (units, 1) for (units,) in sample.iter_unpack(table[: len(table) // sample.size * sample.size])
        ]

    def _is_sound(self, number: int) -> bool:
        return self._boxes.track is not None and self._boxes.track.number == number

    def _numbers(self, form: str, position: int) -> tuple[int, ...]:
        """Return numbers at an offset; zeros where the file ends before."""
        size = struct.calcsize(form)
        return struct.unpack(form, self._view.part(position, position + size).ljust(size, b"\0"))

    # Looking around

    def _last(self) -> Sound | None:
        """Return the last sound, unless the end of the file has none for long."""
        start = end = self._view.size
        for window in _windows(self._size_of_first() * 5 // 4, end - self._boxes.first_fragment):
            content = self._part(end - window, min(start + _TOP, end))
            start = end - window
            tops = _tops(content)
            for at in reversed(tops):
                sound = next(self._sounds(start + at), None)
                if sound is not None:
                    return sound
            if tops and window >= _SILENT_END:
                break
        return None

    def _size_of_first(self) -> int:
        """Return how many bytes the first fragment has with its samples: others are about as large."""
        start = self._boxes.first_fragment
        return (
            max(box.end for box in itertools.islice(boxes_between(self._view, start, self._view.size), 2))
            - start
        )

    def _is_one(self, first: Sound, last: Sound) -> bool:
        """Whether times rise from the first to the last fragment: else recordings follow each other."""
        begins = [first.begin]
        window = min(max(NEXT_BYTES, self._size_of_first()), _CHECKED)
        for third in (1, 2):
            middle = first.offset + (last.offset - first.offset) * third // 3
            with suppress(_LostError):
                tops = _tops(self._part(middle, middle + window))
                place = middle + tops[0] if tops else last.offset
                sound = next(self._sounds(place), None) if place < last.offset else None
                begins += [sound.begin] if sound is not None else []
        begins.append(last.begin)
        return begins == sorted(begins)

    def _there_of(self, sound: Sound) -> float:
        """Return which share of a fragment's samples is there: a stream may have broken off."""
        _, *behind = itertools.islice(boxes_between(self._view, sound.offset, self._view.size), 2)
        for samples in behind:
            return min(1.0, (self._view.size - samples.start) / max(1, samples.end - samples.start))
        return 1.0

    def _part(self, start: int, end: int) -> bytes:
        content = self._view.part(start, end)
        if self._view.is_exhausted:
            raise _LostError
        return content


def _windows(first: int, there: int) -> Iterator[int]:
    """Yield how many bytes to look at, more and more, up to all that there are."""
    window = max(first, NEXT_BYTES)
    while window < min(there, LIMIT_BYTES):
        yield window
        window *= 4
    if there > LIMIT_BYTES:
        raise _LostError
    yield there


def _tops(content: bytes) -> list[int]:
    """Return where fragments begin in some bytes."""
    return [found.start() for found in _FRAGMENT.finditer(content)]
