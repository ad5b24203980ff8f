"""
What a recording is and how long it lasts, from a few reads of its file.

Whatever is wrong here would be paid for: Plaud bills what it accepts. So a file's own word for its length is
only taken as far as its bytes go.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple, NoReturn

from plaud_provider.exceptions import PlaudError, PlaudStorageError
from plaud_provider.recordings.reference import AudioReference, refused
from plaud_provider.storage.ranges import ReadLimitError

if TYPE_CHECKING:
    from plaud_provider.recordings.sources import AudioSource

Container = Literal["WAV", "MP3", "M4A"]

#: No recording that is longer is submitted.
MAX_HOURS = 24.0
#: Shorter ones have nothing in them that could be said; this is what is left of a file that was cut off.
MIN_SECONDS = 0.1
#: How few bytes a second of sound can have, with room below the thinnest encodings that there are: WAV with
#: G.723.1 has 667, MP3 at its lowest rate 1,000, silence in AAC at 8 kHz about 30 with its sample table.
MIN_BYTES_PER_SECOND = {"WAV": 400.0, "MP3": 800.0, "M4A": 16.0}
#: A header that claims so much more than there is belongs to a recording that was cut off.
TOLERATED_CLAIM = 1.1

#: What programs write for the size of sound that they could not know yet: ffmpeg and GStreamer, arecord, sox.
_UNKNOWN_SIZES = frozenset([0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x7FFFF000])
_PCM = (1, 3)
_PADDING_BYTES = 16 * 1024


class AudioHeader(NamedTuple):
    """
    What a recording's content says about it.

    :param container: Its format, by its content, not its name.
    :param duration_seconds: How long it is.
    """

    container: Container
    duration_seconds: float


class _DamagedError(Exception):
    """Why a file is no recording."""


def examine(source: AudioSource, *, max_hours: float = MAX_HOURS) -> AudioHeader:
    """
    Find out what a recording is by reading a few blocks of it.

    :param source: The recording.
    :param max_hours: Longer ones are refused.
    :raises PlaudInputError: if it is empty, no WAV, MP3 or M4A, damaged or too long; nothing is paid for.
    :raises PlaudConfigurationError: if the connection, a right or an extra is missing.
    :raises PlaudStorageError: if it could not be read.
    """
    with source.open() as file:
        return read_header(file, audio=source.audio, max_hours=max_hours)


def read_header(
    file: BinaryIO, *, audio: AudioReference, size: int | None = None, max_hours: float = MAX_HOURS
) -> AudioHeader:
    """
    Find out what an open file is.

    Extension and content need not agree: the content decides, as it does for Plaud.

    :param file: The file; it is sought, and read in small pieces.
    :param audio: Its reference, for errors.
    :param size: Its bytes; ``None``: they are sought.
    :param max_hours: Longer ones are refused.
    :raises PlaudInputError: if it is empty, no WAV, MP3 or M4A, damaged or too long.
    :raises PlaudStorageError: if it changes while it is read.
    """
    if size is None:
        size = file.seek(0, os.SEEK_END)
    if not size:
        raise refused(audio, "is empty")
    try:
        container, seconds = _measure(file, size)
        if size < seconds * MIN_BYTES_PER_SECOND[container]:
            raise _DamagedError(
                f"claims to be {_length(seconds)} long, which its {size:,} bytes cannot be: its {container} "
                "header is wrong. Repair or replace it"
            )
    except _DamagedError as damage:
        raise refused(audio, str(damage)) from None
    except ReadLimitError:
        raise refused(
            audio, "has no header within the first megabytes that were read of it. Repair or replace it"
        ) from None
    except EOFError:
        raise refused(audio, "changed while it was read; try again", PlaudStorageError) from None
    if seconds > max_hours * 3600:
        raise refused(
            audio, f"is {_length(seconds)} long, more than the {max_hours:g} hours that are allowed. Split it"
        )
    return AudioHeader(container, round(seconds, 3))


def _measure(file: BinaryIO, size: int) -> tuple[Container, float]:
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "WAV", _checked("WAV", _wav_seconds(file, size))
    if head[4:8] == b"ftyp":
        return "M4A", _checked("M4A", _m4a_seconds(file, size))
    if head[:3] == b"ID3" or _is_mp3_frame(head):
        return "MP3", _checked("MP3", _mp3_seconds(file, size))
    raise _DamagedError("is no WAV, MP3 or M4A recording by its content, whatever its name. Convert it first")


def _checked(container: Container, seconds: float | None) -> float:
    if seconds is None:
        raise _DamagedError(
            f"is a damaged {container} file: it has no readable duration. Repair or replace it"
        )
    if seconds < MIN_SECONDS:
        raise _DamagedError(
            f"is a {container} file without sound in it ({seconds:.3f} seconds), cut off or never begun"
        )
    return seconds


def _wav_seconds(file: BinaryIO, size: int) -> float | None:
    """Walk the chunks to the sound. Not by tinytag, which takes an unknown size for a size."""
    rate = 0.0
    position = 12
    while position + 8 <= size:
        name, length = struct.unpack("<4sI", _exactly(file, position, 8))
        position += 8
        if name == b"fmt " and position + 16 <= size:
            tag, channels, frequency, byte_rate, align = struct.unpack("<HHIIH", _exactly(file, position, 14))
            is_pcm = tag in _PCM and align
            rate = float(align * frequency if is_pcm else byte_rate) if channels else 0.0
        elif name == b"data":
            there = size - position
            if length in _UNKNOWN_SIZES:
                length = there
            if length > there * TOLERATED_CLAIM:
                _cut_off("WAV", length, there)
            return min(length, there) / rate if rate else None
        # Chunks are padded to an even number of bytes.
        position += length + length % 2
    return None


def _m4a_seconds(file: BinaryIO, size: int) -> float | None:
    """Walk the atoms to the movie header. Not by tinytag, which goes on to the end of every track."""
    seconds = None
    has_sound = False
    for name, start, end in _atoms(file, 0, size):
        if end - start > (size - start) * TOLERATED_CLAIM:
            _cut_off("M4A", end - start, size - start)
        if name == b"moov":
            seconds = _movie_seconds(file, start, min(end, size))
        has_sound = has_sound or name in (b"mdat", b"moof")
        if seconds is not None and has_sound:
            # A recording that was written in fragments has thousands of them.
            break
    return seconds


def _movie_seconds(file: BinaryIO, start: int, end: int) -> float | None:
    scale, duration = 0, 0
    for name, begin, stop in _atoms(file, start, end):
        if name == b"mvhd":
            scale, duration = _numbers(file, begin, stop, {0: (12, ">II"), 1: (20, ">IQ")})
        elif name == b"mvex" and scale and not duration:
            # Written in fragments, as some recorders do: the length may be here, or nowhere.
            for inner, at, until in _atoms(file, begin, stop):
                if inner == b"mehd":
                    (duration,) = _numbers(file, at, until, {0: (4, ">I"), 1: (4, ">Q")})
    is_known = scale and duration not in (0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
    return duration / scale if is_known else None


def _atoms(file: BinaryIO, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the contents of the atoms in a stretch; they may end beyond it."""
    while position + 8 <= end:
        length, name = struct.unpack(">I4s", _exactly(file, position, 8))
        header = 8
        if length == 1 and position + 16 <= end:
            (length,) = struct.unpack(">Q", _exactly(file, position + 8, 8))
            header = 16
        elif length == 0:
            length = end - position
        if length < header:
            return
        yield name, position + header, position + length
        position += length


def _numbers(file: BinaryIO, start: int, end: int, layouts: dict[int, tuple[int, str]]) -> tuple[int, ...]:
    """Return the numbers of an atom, which lie elsewhere in each version of it."""
    layout = layouts.get(_exactly(file, start, 1)[0]) if start < end else None
    if layout is None or start + layout[0] + struct.calcsize(layout[1]) > end:
        raise _DamagedError("is a damaged M4A file: its movie header cannot be read. Repair or replace it")
    return struct.unpack(layout[1], _exactly(file, start + layout[0], struct.calcsize(layout[1])))


def _mp3_seconds(file: BinaryIO, size: int) -> float | None:
    from tinytag import TinyTag, TinyTagException

    start = _first_frame(file)
    if start is None:
        return None
    try:
        tag = TinyTag.get("audio.mp3", file_obj=file, tags=False, check_magic_bytes=False)
    except TinyTagException as error:
        # It wraps whatever happens, the failure of a read included.
        if isinstance(error.__cause__, (PlaudError, ReadLimitError, EOFError)):
            raise error.__cause__ from None
        return None
    if not tag.duration or not tag.bitrate:
        return tag.duration
    # By the header in its first frame, if it has one; else by what is there, as far as one can tell.
    claimed, there = int(tag.duration * tag.bitrate * 1000 / 8), size - start
    if claimed > there * TOLERATED_CLAIM:
        _cut_off("MP3", claimed, there)
    return tag.duration * min(1.0, there / claimed) if claimed else tag.duration


def _first_frame(file: BinaryIO) -> int | None:
    """Return where the sound begins, behind tags and the zeros that some programs leave behind them."""
    position = 0
    while True:
        file.seek(position)
        head = file.read(10)
        if head[:3] != b"ID3" or len(head) < 10:
            break
        # Seven bits of each byte.
        lengths = zip(head[6:], (21, 14, 7, 0), strict=True)
        position += 10 + sum((byte & 0x7F) << shift for byte, shift in lengths)
    file.seek(position)
    padded = file.read(_PADDING_BYTES)
    sound = padded.lstrip(b"\0")
    return position + len(padded) - len(sound) if _is_mp3_frame(sound[:4]) else None


def _is_mp3_frame(head: bytes) -> bool:
    """Return whether these bytes begin an MPEG layer III frame: sync, version, layer, bit and sample rate."""
    return (
        len(head) >= 4
        and head[0] == 0xFF
        and head[1] & 0xE0 == 0xE0
        and head[1] & 0x18 != 0x08
        and head[1] & 0x06 == 0x02
        and head[2] & 0xF0 not in (0x00, 0xF0)
        and head[2] & 0x0C != 0x0C
    )


def _exactly(file: BinaryIO, position: int, count: int) -> bytes:
    """Return so many bytes from a position on."""
    file.seek(position)
    content = file.read(count)
    if len(content) < count:
        raise EOFError
    return content


def _cut_off(container: str, claimed: int, there: int) -> NoReturn:
    raise _DamagedError(
        f"is cut off: its {container} header speaks of {claimed:,} bytes of sound, of which {there:,} are "
        "there. Copy or record it again"
    )


def _length(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else f"{seconds:,.1f} seconds"
