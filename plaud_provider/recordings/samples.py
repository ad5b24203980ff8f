"""
What stretches of a file say of all of it, where it does not say it by itself.

A stretch is read by FFmpeg as if it were a file. It has so many seconds a byte, or says when it is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from plaud_provider.recordings import ffmpeg
from plaud_provider.recordings.view import View

#: What is read of a file that is not read as a whole: its beginning, and samples of the rest.
HEAD_BYTES = 32 * 1024
SAMPLE_BYTES = 11 * 1024
SAMPLES = 3
#: Frames of varying size tell little of those elsewhere: speech has ten times the bytes of silence. Such a
#: file that does not say its length is read as a whole up to here, in one request; of a larger one each
#: sample has so much. docs/submit.md says what that costs and how far it is off.
VARYING_BYTES = 3 * 1024 * 1024
VARYING_SAMPLE_BYTES = 1024 * 1024
#: How much of a file's end is read to find a time in it.
TAILS = (HEAD_BYTES, 256 * 1024, 1024 * 1024)
PAGE = b"OggS"
#: Where a stretch of a file can be read from, of which FFmpeg has to know the beginning.
MARKERS = {"asf": b"\x82\0\0", "flac": b"\xff", "webm": b"\x1f\x43\xb6\x75", "ogg": PAGE, "opus": PAGE}
#: Of which any stretch says when it is, and can be read by itself.
STREAMED = frozenset({"mpegts", "mpeg"})
#: Of which the end tells when it ends.
_WITH_TIMES = frozenset({"asf", "flac", "webm", *STREAMED})
#: Between the beginning and the end: whether times rise there as well.
_LOOKS = 2
#: Seconds by which the times of a beginning may be above those of an end.
_TOLERATED = 1.5


class Moments(NamedTuple):
    """
    The times of a stretch.

    :param begin: When its sound begins, in seconds.
    :param end: When that ends.
    :param last: When all ends that is in it, be it sound or a picture.
    """

    begin: float
    end: float
    last: float


class Samples:
    """
    The beginning of a file, its end, and stretches between.

    :param view: The file.
    :param start: Where it begins, behind tags.
    :param head: What is there.
    :param format: What it is called by its content.
    :param container_format: FFmpeg's name of it, if it is nothing but frames one after the other.
    """

    def __init__(
        self, view: View, start: int, head: bytes, format: str, container_format: str | None = None
    ) -> None:
        self._view = view
        self._start = start
        self._head = head
        self._behind = start + len(head)
        self._format = format
        self._container_format = container_format
        self._of_head = _seconds_per_byte(head)
        #: The times at the end, once :meth:`last_moment` has found them.
        self.last: Moments | None = None

    def seconds(self, size: int = SAMPLE_BYTES) -> float:
        """
        Estimate the length by the beginning and some stretches of the rest, each standing for its part.

        :param size: Bytes of each.
        """
        if self._format in ffmpeg.WITH_ONE_HEADER:
            return self.by_head()
        rates = []
        for sample in self._parts(SAMPLES, size):
            if self._format not in MARKERS:
                # A few frames are not always enough for FFmpeg to know what they are.
                rates.append(_seconds_per_byte(sample, self._container_format))
            elif rate := _seconds_per_byte(self._with_beginning(sample), is_sound=True):
                rates.append(rate)
        rate = sum(rates) / len(rates) if rates else self._of_head
        return self._of_head * len(self._head) + rate * max(0, self._view.size - self._behind)

    def by_head(self) -> float:
        """Estimate the length by the beginning alone; 0 if there is no sound in that."""
        return self._of_head * (self._view.size - self._start)

    def _parts(self, count: int, size: int) -> Iterator[bytes]:
        """Yield stretches of a file, as far from each other as can be."""
        part = max(0, self._view.size - self._behind) / count
        for number in range(count):
            middle = int(self._behind + part * (number + 0.5))
            yield self._view.part(max(self._behind, middle - size // 2), middle + size // 2)

    def are_of_different_sizes(self) -> bool:
        """Whether frames are; one more byte is there for the rate to be kept."""
        with suppress(ffmpeg.UnreadableError), ffmpeg.opened(io.BytesIO(self._head)) as (container, stream):
            # The first and the last may be parts of frames.
            sizes = [packet.size for packet in ffmpeg.packets(container, stream)][1:-1]
            return max(sizes, default=0) - min(sizes, default=0) > 2
        return False

    def do_times_rise(self) -> bool:
        """Whether times rise from the beginning to the end: else recordings follow each other."""
        samples = self._parts(_LOOKS, SAMPLE_BYTES)
        moments = [self._moments(self._with_beginning(sample)) for sample in samples]
        begins = [found.begin for found in moments if found] + ([self.last.end] if self.last else [])
        return begins == sorted(begins)

    def _with_beginning(self, sample: bytes) -> bytes:
        """Put before a stretch what FFmpeg has to know to read it; empty if it has no place to begin at."""
        if self._format not in MARKERS:
            return sample
        marker = MARKERS[self._format]
        at = sample.find(marker)
        if self._format == "flac":
            # Only its first block, as the last one.
            return self._head[:4] + b"\x80" + self._head[5:42] + sample
        behind = self._head.find(marker)
        if marker == PAGE:
            # What it is is on its first pages, each stream's on one of its own.
            while self._head[behind + 5 : behind + 6] in (b"\2", b"\6"):
                behind = self._head.find(marker, behind + 1)
            behind = self._head.find(marker, behind + 1)
        return self._head[:behind] + sample[at:] if behind > 0 and at >= 0 else b""

    def last_moment(self) -> float | None:
        """Return how long the sound is by the times at its beginning and end, if those are told."""
        if self._format == "flv":
            return self._last_tag()
        if self._format not in _WITH_TIMES:
            return None
        # A picture may come first.
        first = self._moments(self._head) or self._moments(
            self._view.part(self._start, self._start + TAILS[1])
        )
        for size in TAILS if first else ():
            tail = self._view.part(max(self._behind, self._view.size - size), self._view.size)
            last = self._moments(self._with_beginning(tail))
            if first and last:
                self.last = last
                # Else its times are those of the stretch, or of another recording.
                is_later = last.begin >= first.end - _TOLERATED
                return last.end - ffmpeg.beginning(first.begin) if is_later else None
            if size > self._view.size:
                break
        return None

    def _last_tag(self) -> float | None:
        """Return how long an FLV is by its last tag, in front of whose size that is; it has milliseconds."""
        size = self._view.size
        length = int.from_bytes(self._view.part(size - 4, size))
        tag = self._view.part(size - 4 - length, size - 4 - length + 11)
        if length < 11 or len(tag) < 11 or int.from_bytes(tag[1:4]) != length - 11:
            return None
        first = self._moments(self._head)
        begin = ffmpeg.beginning(first.begin) if first else 0.0
        return (tag[7] << 24 | int.from_bytes(tag[4:7])) / 1000 - begin

    def _moments(self, part: bytes) -> Moments | None:
        """Return the times of a part; ``None`` if it has no sound, or does not say when."""
        times, last = [], 0.0
        with suppress(ffmpeg.UnreadableError), ffmpeg.opened(io.BytesIO(part)) as (container, stream):
            for packet in ffmpeg.packets(container):
                if packet.pts is None or not packet.time_base:
                    continue
                span = [packet.pts, packet.pts + (packet.duration or 0)]
                last = max(last, float(span[1] * packet.time_base))
                times += span if packet.stream_index == stream.index else []
            begin, end = (
                ffmpeg.seconds(time, stream) for time in (min(times, default=0), max(times, default=0))
            )
            return Moments(begin, end, last) if end > begin else None
        return None


def _seconds_per_byte(sample: bytes, container_format: str | None = None, *, is_sound: bool = False) -> float:
    covered, seconds, last = 0, 0.0, (0, 0.0)
    opening = ffmpeg.opened(io.BytesIO(sample), container_format)
    with suppress(ffmpeg.UnreadableError), opening as (container, stream):
        for packet in ffmpeg.packets(container):
            # The last one may be a part of a frame, and says all the same how long that is.
            covered, seconds = covered + last[0], seconds + last[1]
            is_of_sound = packet.stream_index == stream.index
            last = packet.size, ffmpeg.seconds(packet.duration or 0, stream) if is_of_sound else 0.0
    covered, seconds = (covered, seconds) if covered else last
    if not covered:
        return 0.0
    # What is left out at both ends are parts of frames, unless it is much: then it is no sound.
    return seconds / (covered if is_sound or covered > len(sample) / 2 else len(sample))
