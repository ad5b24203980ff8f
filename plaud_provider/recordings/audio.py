"""
What a recording is and how long it lasts, by its content.

FFmpeg (PyAV) reads the media. Whatever is wrong here would be paid for, since Plaud bills what it accepts.
So a file's own word for its length is compared with its bytes; where there is no such word, or a false one,
its packets are counted: all of them, or those of some samples if the file is too large.
"""

from __future__ import annotations

import io
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

from plaud_provider.recordings import ffmpeg
from plaud_provider.recordings.boxes import Boxes
from plaud_provider.recordings.fragments import Fragments
from plaud_provider.recordings.samples import (
    HEAD_BYTES,
    MARKERS,
    PAGE,
    SAMPLE_BYTES,
    STREAMED,
    VARYING_BYTES,
    VARYING_SAMPLE_BYTES,
    Samples,
)
from plaud_provider.recordings.view import View

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

Kind = Literal["measured", "estimated", "not measurable"]

#: Shorter ones have nothing in them that could be said; this is what is left of a file that was cut off.
MIN_SECONDS = 0.1
#: A file that claims so much more than there is was cut off.
TOLERATED_CLAIM = 1.1
#: The packets of a file are all counted if it has no more bytes: on a disk, and in a storage that is read in
#: ranges. The latter is one or two of its reads.
WHOLE_BYTES = 256 * 1024 * 1024
WHOLE_RANGED_BYTES = 48 * 1024
#: What is read of a WAV to find its sound.
WAV_HEADER_BYTES = 256 * 1024
#: No file takes longer; a hostile one may try.
MAX_SECONDS = 60.0

#: How many bytes of its sound FFmpeg looks at: the header of a WAV says what it is.
_PROBED_OF_WAV = "4096"
#: What encodings are called in which FFmpeg knows how much sound is in so many bytes.
_CONSTANT_IN_WAV = ("pcm", "adpcm", "g72", "gsm", "truespeech")
#: How much FFmpeg looks at to know what a file is, if each read is a request: not more than the first has.
_PROBED_IN_RANGES = "24576"
#: Between which factors a claim fits what samples say.
_FITTING = 1.5
#: Likewise what samples of a constant rate say of each other.
_STEADY = 1.1
#: How few bytes a second of sound can have, with room below the thinnest encodings that there are: WAV with
#: G.723.1 has 667, MP3 at its lowest rate 1,000, silence in AAC at 8 kHz about 30 with its sample table.
MIN_BYTES_PER_SECOND = {"wav": 400.0, "w64": 400.0, "mp3": 800.0, "m4a": 16.0}
#: What programs write for the size of a WAV that they cannot know yet: 0, or something near one of these.
_PLACEHOLDERS = (2_000_000_000, 2**31, 2**32)
_NEAR = 100_000


class Measured(NamedTuple):
    """
    What a recording's content says about it.

    :param seconds: How long it is; ``None`` if nobody knows. If it was cut off, what is there.
    :param kind: ``measured``: that is so. ``estimated``: about so, from samples of a file that does not say
        it, or says it wrongly. ``not measurable``: it is damaged, cut off or no recording.
    :param format: Its format, by its content, not its name: ``mp3``, ``wav``, ``m4a``, ``mp4`` (with a moving
        picture, or with sound that an M4A has not), ``ogg``, ``opus``, ``flac``, ``webm``, ``amr``, ``aac``
        (bare), ``w64`` and so on; empty if it has none.
    :param problem: Why it cannot be measured, as in "is cut off"; else ``None``.
    """

    seconds: float | None
    kind: Kind
    format: str
    problem: str | None = None


class _DamagedError(Exception):
    """Why a file cannot be measured, and how much of it is there, if that is known."""

    def __init__(self, why: str, seconds: float | None = None) -> None:
        super().__init__(why)
        self.seconds = None if seconds is None else round(seconds, 3)


class _ByPartsError(_DamagedError):
    """The same of a file that can only be measured by reading all of it."""


def measure(path_or_file: str | os.PathLike[str] | BinaryIO, *, is_ranged: bool = False) -> Measured:
    """
    Find out what a file is and how long it lasts.

    Name and content need not agree: the content decides, as it does for Plaud. Whatever the file has in it
    makes an answer, never an error.

    :param path_or_file: Its path, or an open file that can seek.
    :param is_ranged: Whether each read is a request to a storage, so that only a few blocks are read.
    :raises OSError: if it cannot be opened or read; of an open file, whatever its own methods raise.
    """
    if isinstance(path_or_file, (str, os.PathLike)):
        with open(path_or_file, "rb") as file:
            return _measured(file, is_ranged=is_ranged)
    return _measured(path_or_file, is_ranged=is_ranged)


def _measured(file: BinaryIO, *, is_ranged: bool) -> Measured:
    size = file.seek(0, os.SEEK_END)
    view = View(file, size, ends_at=time.monotonic() + MAX_SECONDS)
    recording = _Recording(view, size <= (WHOLE_RANGED_BYTES if is_ranged else WHOLE_BYTES))
    try:
        if not size:
            raise _DamagedError("is empty")
        try:
            seconds, is_exact = recording.length()
        except _ByPartsError:
            if size > VARYING_BYTES:
                raise
            view.part(0, size)
            recording = _Recording(view, is_whole=True)
            seconds, is_exact = recording.length()
        recording.check(seconds)
    except _DamagedError as damage:
        return Measured(damage.seconds, "not measurable", recording.format, str(damage))
    finally:
        # What cannot be read is no fault of the recording's.
        view.raise_failure()
    if view.is_late:
        return Measured(None, "not measurable", recording.format, "takes too long to be read")
    return Measured(round(seconds, 3), "measured" if is_exact else "estimated", recording.format)


class _Sound(NamedTuple):
    """
    Where sound lies: its first byte, bytes a second, bytes as claimed, where known, and whether its encoding
    has a constant rate.
    """

    start: int
    byte_rate: float
    claimed: int | None
    is_constant: bool


class _Recording:
    """A file that is being measured."""

    def __init__(self, view: View, is_whole: bool) -> None:
        self.format = ""
        self._view = view
        self._size = view.size
        self._is_whole = is_whole

    def check(self, seconds: float) -> None:
        """Refuse a length that cannot be."""
        if seconds < MIN_SECONDS:
            raise _DamagedError(
                f"is a {self._name} file without sound in it ({seconds:.3f} seconds), cut off or never begun",
                seconds,
            )
        if self._size < seconds * MIN_BYTES_PER_SECOND.get(self.format, 0):
            raise _DamagedError(
                f"claims to be {length_in_words(seconds)} long, which its {self._size:,} bytes cannot be: "
                f"its {self._name} header is wrong. Repair or replace it"
            )

    def length(self) -> tuple[float, bool]:
        """Return the length in seconds, and whether it is exact."""
        start = _start(self._view)
        # Within the block that is read first, if that has much of it.
        head = self._view.part(start, HEAD_BYTES if start < HEAD_BYTES // 2 else start + HEAD_BYTES // 2)
        if (head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE") or head[:4] == b"riff":
            return self._wav(start, head)
        if head[:4] == b"PK\3\4":
            # FFmpeg would look for sound in there.
            raise _DamagedError("is a ZIP archive by its content. Unpack it")
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return self._movie()
        container_format = self._container_format(head)
        if container_format in ffmpeg.FRAMES_ONLY:
            return self._frames(start, head, container_format)
        samples = Samples(self._view, start, head, self.format)
        if container_format in STREAMED and not self._is_whole:
            # FFmpeg would read much more of the end for it.
            end = samples.last_moment()
            self._refuse_several(samples)
            if end is not None:
                return end, True
        options = {} if self._is_whole else {"probesize": _PROBED_IN_RANGES}
        with self._opened(self._view.again(start=start), **options) as (container, stream):
            if self._is_whole:
                return self._counted(container, stream), True
            claim = ffmpeg.claim(container, stream)
            if stream.codec_context.name.startswith("pcm") and stream.codec_context.bit_rate and claim:
                there = self._size * 8 / stream.codec_context.bit_rate
                self._not_cut_off(claim.seconds, there)
                # Else the header was written when it was not that long yet.
                return (claim.seconds, True) if there < claim.seconds * 2 else (there, False)
            if head[:4] == PAGE and self._is_chained(head):
                return samples.by_head(), False
            if head[:4] == PAGE and claim is not None:
                # By the time of its last page.
                return claim.seconds, not self._is_guessed(claim, container, stream)
            if container_format in STREAMED and claim is not None:
                return claim.seconds, False
            end = samples.last_moment()
            if end is not None:
                self._refuse_several(samples)
                if claim and not self._is_guessed(claim, container, stream):
                    # What ends last may be a picture.
                    last = samples.last.last if samples.last and claim.end is not None else end
                    self._not_cut_off(claim.end or claim.seconds, last)
                return end, True
            if claim is None:
                return self._counted_in_part(container, stream)
            is_exact = claim.end is None or len(container.streams) == 1
            is_exact = is_exact and not self._is_guessed(claim, container, stream)
            return self._confirmed(claim.seconds, is_exact, samples)

    @property
    def _name(self) -> str:
        return self.format.upper()

    def _container_format(self, head: bytes) -> str:
        """Return FFmpeg's name of a container; empty if its beginning does not tell."""
        with suppress(_DamagedError), self._opened(io.BytesIO(head)) as (container, _):
            return container.format.name
        return ""

    @contextmanager
    def _opened(self, file: Any, **options: str) -> Iterator[tuple[InputContainer, AudioStream]]:
        """Open media with FFmpeg, and note what it is."""
        try:
            with ffmpeg.opened(file, **options) as (container, stream):
                self.format = ffmpeg.format_of(container, stream)
                yield container, stream
        except ffmpeg.UnreadableError as error:
            if self.format:
                raise self._damaged() from error
            raise _DamagedError(str(error)) from error

    # Containers that say where their sound begins and how many bytes a second of it has

    def _wav(self, start: int, head: bytes) -> tuple[float, bool]:
        """Return how long the sound is that is there: bytes of constant rate, whatever the header claims."""
        sound = None
        # What is before the sound may be larger than this.
        with suppress(_DamagedError):
            sound = self._wav_sound(io.BytesIO(head), start)
        if self._is_whole and not (sound and sound.is_constant):
            with suppress(_DamagedError), self._opened(self._view.again(start=start)) as (container, stream):
                if not stream.codec_context.name.startswith(_CONSTANT_IN_WAV):
                    return self._counted(container, stream), True
        if (
            sound is None
            or sound.claimed is None
            or self._size > (sound.start + sound.claimed) * TOLERATED_CLAIM
        ):
            # Behind the sound FFmpeg looks for more, by what it takes for sizes.
            view = self._view.again(start=start, most=WAV_HEADER_BYTES)
            sound = self._wav_sound(view, start)
            if sound is None:
                # A size of 0, as is written before there is any sound.
                view = self._view.again(start=start, most=WAV_HEADER_BYTES)
                sound = self._wav_sound(view, start, ignore_length="1")
        if sound is None:
            return 0.0, True
        position, byte_rate, claimed, _ = sound
        there = self._size - position
        if claimed is None:
            return there / byte_rate, True
        if claimed > there:
            return self._not_cut_off(claimed / byte_rate, there / byte_rate, claimed, there), True
        if self._size > 2**32:
            # 32 bits count to 4 GiB only, and then from 0 again.
            claimed += (there - claimed) // 2**32 * 2**32
        end = position + claimed
        if there > claimed * TOLERATED_CLAIM and not _are_chunks(self._view, end + claimed % 2):
            # The header was written when it was not that long yet.
            return there / byte_rate, False
        return claimed / byte_rate, True

    def _wav_sound(self, file: Any, start: int, **options: str) -> _Sound | None:
        """Return what FFmpeg makes of a header; ``None`` if it finds no sound behind it."""
        with self._opened(file, probesize=_PROBED_OF_WAV, **options) as (container, stream):
            first = next(ffmpeg.packets(container, stream), None)
            claim = ffmpeg.claim(container, stream)
            byte_rate = (stream.codec_context.bit_rate or 0) / 8
            is_constant = stream.codec_context.name.startswith(_CONSTANT_IN_WAV)
            if first is not None and first.duration and (is_constant or not byte_rate):
                # Headers of such encodings are often wrong about it.
                byte_rate = first.size / ffmpeg.seconds(first.duration, stream)
        if first is None:
            return None
        if not byte_rate or first.pos is None:
            raise self._damaged()
        position = start + first.pos
        header = self._view.part(position - 8, position)
        if header[:4] != b"data" or self._view.part(start, start + 4) in (b"RF64", b"BW64"):
            # Sizes of 64 bits, elsewhere in the file; FFmpeg has bounded them by the file's.
            is_known = claim and isinstance(file, View)
            claimed = int(claim.seconds * byte_rate) if claim and is_known else None
            return _Sound(position, byte_rate, claimed, is_constant)
        (claimed,) = struct.unpack("<I", header[4:])
        is_placeholder = claimed == 0 or any(abs(claimed - known) <= _NEAR for known in _PLACEHOLDERS)
        # A recording may have just so many bytes.
        is_known = claimed and (not is_placeholder or claimed <= self._size - position)
        if is_known and not is_constant and claim and 1 / 4 < claimed / claim.seconds / byte_rate < 4:
            # How long it is is said beside its rate, which is none where it varies.
            byte_rate = claimed / claim.seconds
        return _Sound(position, byte_rate, int(claimed) if is_known else None, is_constant)

    # MP4 and its kin

    def _movie(self) -> tuple[float, bool]:
        boxes = Boxes(self._view)
        there, promised = max(0, self._size - boxes.sound[0]), boxes.sound[1] - boxes.sound[0]
        if not boxes.has_index:
            self.format = "mp4"
            raise _cut_off("MP4", promised, there) if promised > there else self._damaged()
        if self._is_whole and not boxes.has_huge_tables:
            with self._opened(self._view.again()) as (container, stream):
                return self._counted(container, stream), True
        if boxes.is_fragmented:
            return self._of_fragments(boxes)
        with self._opened(boxes.without_tables()) as (container, stream):
            claim = ffmpeg.claim(container, stream)
            if claim is None:
                raise self._damaged()
            claimed = min(filter(None, (claim.seconds, boxes.seconds)))
            if promised > there:
                return self._not_cut_off(claimed, claimed * there / promised, promised, there), True
            return claimed, True

    def _of_fragments(self, boxes: Boxes) -> tuple[float, bool]:
        with self._opened(self._view.again(end=boxes.index_end)):
            pass
        fragments = Fragments(self._view, boxes)
        length = fragments.length()
        if length is None:
            raise _ByPartsError(
                f"is an {self._name} file in fragments, whose first and last sound cannot be found in few "
                "reads. Write it anew in one piece (ffmpeg -i FILE -c copy NEW.mp4)"
            )
        if fragments.claimed:
            self._not_cut_off(fragments.claimed, fragments.there)
        return length

    # Frames one after the other

    def _frames(self, start: int, head: bytes, container_format: str) -> tuple[float, bool]:
        claim, claimed_bytes = self._mp3_claim(head)
        there = self._size - start
        is_whole = not claimed_bytes or there <= claimed_bytes * TOLERATED_CLAIM
        if self._is_whole:
            with self._opened(self._view.again(start=start)) as (container, stream):
                count, _ = ffmpeg.counted(container, stream)
            # Where all bytes are there, it is the number of frames that is wrong.
            is_cut_off = not claimed_bytes or claimed_bytes > there * TOLERATED_CLAIM
            return self._not_cut_off(claim if is_cut_off else None, count.seconds), True
        if claim and claimed_bytes and claimed_bytes > there * TOLERATED_CLAIM:
            return self._not_cut_off(claim, claim * there / claimed_bytes, claimed_bytes, there), True
        samples = Samples(self._view, start, head, self.format, container_format)
        if claim and claimed_bytes and is_whole and _is_like(claim, samples.by_head()):
            return claim * min(1.0, there / claimed_bytes), True
        is_varying = samples.are_of_different_sizes()
        sampled = samples.seconds() if claim or not is_varying else 0.0
        if claim and is_whole and _is_like(claim, sampled):
            return claim, True
        # It may begin with a long silence, whose frames are of one size.
        is_varying = is_varying or not _is_like(samples.by_head(), sampled, within=_STEADY)
        if is_varying and there <= VARYING_BYTES:
            self._view.part(0, self._size)
            with self._opened(self._view.again(start=start)) as (container, stream):
                count, _ = ffmpeg.counted(container, stream)
            return count.seconds, True
        if is_varying:
            sampled = samples.seconds(VARYING_SAMPLE_BYTES)
        return sampled, False

    def _refuse_several(self, samples: Samples) -> None:
        if not samples.do_times_rise():
            raise _ByPartsError(
                f"is a {self._name} file of several recordings, which cannot be measured by parts of it. "
                "Split it or convert it into one"
            )

    def _is_chained(self, head: bytes) -> bool:
        """Whether an Ogg file is several in one: its last page is of no stream that begins it."""
        tail = self._view.part(self._size - HEAD_BYTES // 2, self._size)
        _, page, last = tail.rpartition(PAGE)
        return bool(page) and last[10:14] not in {one[10:14] for one in head.split(PAGE)}

    def _mp3_claim(self, head: bytes) -> tuple[float | None, int | None]:
        """Return seconds and bytes that an MP3 has by a first frame without sound, if there is one."""
        with self._opened(io.BytesIO(head)) as (container, stream):
            first = next((packet for packet in container.demux(stream) if packet.size), None)
            if first is None or not first.pos:
                return None, None
            before = head[: first.pos]
            of_frame = ffmpeg.seconds(first.duration or 0, stream)
        for name in (b"Xing", b"Info"):
            at = before.rfind(name)
            if at >= 0 and len(before) - at < 2000:
                flags, *numbers = struct.unpack(">III", before[at + 4 : at + 16].ljust(12, b"\0"))
                count = numbers[1] if flags & 1 else numbers[0]
                return (numbers[0] * of_frame if flags & 1 else None), (count if flags & 2 else None)
        at = before.rfind(b"VBRI")
        if at >= 0:
            count, frames = struct.unpack(">II", before[at + 10 : at + 18].ljust(8, b"\0"))
            return frames * of_frame, count
        return None, None

    def _confirmed(self, claim: float, is_exact: bool, samples: Samples) -> tuple[float, bool]:
        """Compare a claim with the bytes that there are."""
        by_head = samples.by_head()
        if not by_head or _is_like(claim, by_head):
            return claim, is_exact
        if self.format == "flv":
            # It does not end with a tag.
            return self._not_cut_off(claim, by_head), False
        if self.format not in MARKERS:
            # Sound that begins with silence has fewer bytes there.
            return min(claim, by_head), False
        if self.format == "flac":
            return claim, False
        sampled = samples.seconds()
        return (claim, is_exact) if _is_like(claim, sampled) else (sampled, False)

    # Any

    def _counted(self, container: InputContainer, stream: AudioStream) -> float:
        """Count all packets."""
        claim = ffmpeg.claim(container, stream)
        count, end = ffmpeg.counted(container, stream)
        if (
            claim is None
            or container.format.name in ffmpeg.WITH_TIMES_AT_END
            or self._is_guessed(claim, container, stream)
        ):
            return count.seconds
        if claim.end is not None:
            self._not_cut_off(claim.end, end)
        elif claim.seconds > count.span:
            self._not_cut_off(claim.seconds, count.seconds)
        return count.seconds

    def _is_guessed(self, claim: ffmpeg.Claim, container: InputContainer, stream: AudioStream) -> bool:
        """Whether a length is FFmpeg's guess by a file's size: it would be another of a shorter file."""
        if container.format.name in ffmpeg.WITH_TIMES_AT_END or stream.codec_context.name.startswith("pcm"):
            return False
        head = self._view.part(0, HEAD_BYTES)
        with (
            suppress(_DamagedError),
            self._opened(io.BytesIO(head[: len(head) // 2])) as (beginning, its_stream),
        ):
            return ffmpeg.claim(beginning, its_stream) != claim
        return False

    def _counted_in_part(self, container: InputContainer, stream: AudioStream) -> tuple[float, bool]:
        """Count packets up to what may be read, and take the rest to be like them."""
        first, last = None, 0
        count = ffmpeg.Count(container, stream)
        for packet in ffmpeg.packets(container, stream):
            if first is None:
                first = packet.pos or 0
            if packet.pos is not None and packet.pos >= last:
                last = packet.pos + packet.size
            count.add(packet)
            if self._view.fetched > HEAD_BYTES + SAMPLE_BYTES:
                break
        else:
            if not self._view.is_exhausted:
                return count.seconds, True
        if first is None or last <= first:
            raise self._damaged()
        return count.seconds * (self._size - first) / (last - first), False

    def _not_cut_off(
        self,
        claimed: float | None,
        seconds: float,
        claimed_bytes: int | None = None,
        there: int | None = None,
    ) -> float:
        """Return the length of what is there, if it is not much less than what is claimed."""
        if claimed is None or claimed <= max(seconds * TOLERATED_CLAIM, seconds + MIN_SECONDS):
            return seconds
        raise _cut_off(self._name, claimed_bytes, there, claimed, seconds)

    def _damaged(self) -> _DamagedError:
        return _DamagedError(
            f"is a damaged {self._name} file: it has no readable duration. Repair or replace it"
        )


def _cut_off(
    name: str,
    claimed_bytes: int | None,
    there: int | None,
    claimed: float = 0.0,
    seconds: float | None = None,
) -> _DamagedError:
    if claimed_bytes:
        what = f"{claimed_bytes:,} bytes of sound, of which {there:,} are there"
    else:
        what = f"{length_in_words(claimed)}, of which {length_in_words(seconds or 0.0)} are there"
    return _DamagedError(f"is cut off: its {name} header speaks of {what}. Copy or record it again", seconds)


def _is_like(claim: float, estimate: float, within: float = _FITTING) -> bool:
    return claim / within < estimate < claim * within


def length_in_words(seconds: float) -> str:
    """Return a length as messages have it."""
    return f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else f"{seconds:,.1f} seconds"


def _start(view: View) -> int:
    """Return where a file begins behind ID3 and APE tags, which may have large pictures, and zeros."""
    position = 0
    while len(head := view.part(position, position + HEAD_BYTES // 2)[:32]) == 32:
        if head[:3] == b"ID3":
            # Seven bits of each byte.
            lengths = zip(head[6:10], (21, 14, 7, 0), strict=True)
            position += 10 + sum((byte & 0x7F) << shift for byte, shift in lengths)
        elif head[:8] == b"APETAGEX":
            position += 32 + int.from_bytes(head[12:16], "little")
        else:
            break
    if view.part(position, position + 16) == bytes(16):
        while block := view.part(position, position + HEAD_BYTES):
            if sound := block.lstrip(b"\0"):
                return position + len(block) - len(sound)
            position += len(block)
    return position if position < view.size else 0


def _are_chunks(view: View, position: int) -> bool:
    """Whether what begins there is a further chunk of a RIFF file."""
    header = view.part(position, position + 8)
    if len(header) < 8 or not all(0x20 <= byte < 0x7F for byte in header[:4]) or header[:4] == b"RIFF":
        return len(header) < 8
    (length,) = struct.unpack("<I", header[4:])
    return position + 8 + int(length) <= view.size + 1
