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
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple

from plaud_provider.recordings import ffmpeg
from plaud_provider.recordings.boxes import Boxes
from plaud_provider.recordings.fragments import Fragments
from plaud_provider.recordings.media import (
    MIN_SECONDS,
    TOLERATED_CLAIM,
    ByPartsError,
    DamagedError,
    Media,
    cut_off,
    length_in_words,
)
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
from plaud_provider.recordings.wav import wav_length

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

Kind = Literal["measured", "estimated", "not measurable"]

#: The packets of a file are all counted if it has no more bytes: on a disk, and in a storage that is read in
#: ranges. The latter is one or two of its reads.
WHOLE_BYTES = 256 * 1024 * 1024
WHOLE_RANGED_BYTES = 48 * 1024
#: No file takes longer; a hostile one may try.
MAX_SECONDS = 60.0

#: How a Windows Media file begins, and what in its header says how it is encrypted.
_ASF = b"\x30\x26\xb2\x75"
_ASF_ENCRYPTION = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e")
#: How much FFmpeg looks at to know what a file is, if each read is a request: not more than the first has.
_PROBED_IN_RANGES = "24576"
#: Between which factors a claim fits what samples say.
_FITTING = 1.5
#: Likewise what samples of a constant rate say of each other.
_STEADY = 1.1
#: How few bytes a second of sound can have, with room below the thinnest encodings that there are: WAV with
#: G.723.1 has 667, MP3 at its lowest rate 1,000, silence in AAC at 8 kHz about 30 with its sample table.
MIN_BYTES_PER_SECOND = {"wav": 400.0, "w64": 400.0, "mp3": 800.0, "m4a": 16.0}


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
            raise DamagedError("is empty")
        try:
            seconds, is_exact = recording.length()
        except ByPartsError:
            if size > VARYING_BYTES:
                raise
            view.part(0, size)
            recording = _Recording(view, is_whole=True)
            seconds, is_exact = recording.length()
        recording.check(seconds)
    except DamagedError as damage:
        return Measured(damage.seconds, "not measurable", recording.format, str(damage))
    finally:
        # What cannot be read is no fault of the recording's.
        view.raise_failure()
    if view.is_late:
        return Measured(None, "not measurable", recording.format, "takes too long to be read")
    return Measured(round(seconds, 3), "measured" if is_exact else "estimated", recording.format)


class _Recording(Media):
    """A file that is being measured, by its container."""

    def check(self, seconds: float) -> None:
        """Refuse a length that cannot be."""
        if seconds < MIN_SECONDS:
            raise DamagedError(
                f"is a {self.name} file without sound in it ({seconds:.3f} seconds), cut off or never begun",
                seconds,
            )
        if self.size < seconds * MIN_BYTES_PER_SECOND.get(self.format, 0):
            raise DamagedError(
                f"claims to be {length_in_words(seconds)} long, which its {self.size:,} bytes cannot be: "
                f"its {self.name} header is wrong. Repair or replace it"
            )

    def length(self) -> tuple[float, bool]:
        """Return the length in seconds, and whether it is exact."""
        start = _start(self.view)
        # Within the block that is read first, if that has much of it.
        head = self.view.part(start, HEAD_BYTES if start < HEAD_BYTES // 2 else start + HEAD_BYTES // 2)
        if (head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE") or head[:4] == b"riff":
            return wav_length(self, start, head)
        if head[:4] == b"PK\3\4":
            # FFmpeg would look for sound in there.
            raise DamagedError("is a ZIP archive by its content. Unpack it")
        if head[:4] == _ASF and _ASF_ENCRYPTION in head:
            raise DamagedError(ffmpeg.ENCRYPTED)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return self._movie()
        container_format = self.container_format(head)
        if container_format in ffmpeg.FRAMES_ONLY:
            return self._frames(start, head, container_format)
        samples = Samples(self.view, start, head, self.format)
        if container_format in STREAMED and not self.is_whole:
            # FFmpeg would read much more of the end for it.
            end = samples.last_moment()
            self._refuse_several(samples)
            if end is not None:
                return end, True
        options = {} if self.is_whole else {"probesize": _PROBED_IN_RANGES}
        with self.opened(self.view.again(start=start), **options) as (container, stream):
            if self.is_whole:
                return self.counted(container, stream), True
            claim = ffmpeg.claim(container, stream)
            if stream.codec_context.name.startswith("pcm") and stream.codec_context.bit_rate and claim:
                there = self.size * 8 / stream.codec_context.bit_rate
                self.not_cut_off(claim.seconds, there)
                # Else the header was written when it was not that long yet.
                return (claim.seconds, True) if there < claim.seconds * 2 else (there, False)
            if head[:4] == PAGE and self._is_chained(head):
                return samples.by_head(), False
            if head[:4] == PAGE and claim is not None:
                # By the time of its last page.
                return claim.seconds, not self.is_guessed(claim, container, stream)
            if container_format in STREAMED and claim is not None:
                return claim.seconds, False
            end = samples.last_moment()
            if end is not None:
                self._refuse_several(samples)
                if claim and not self.is_guessed(claim, container, stream):
                    # What ends last may be a picture.
                    last = samples.last.last if samples.last and claim.end is not None else end
                    self.not_cut_off(claim.end or claim.seconds, last)
                return end, True
            if claim is None:
                return self._counted_in_part(container, stream)
            is_exact = claim.end is None or len(container.streams) == 1
            is_exact = is_exact and not self.is_guessed(claim, container, stream)
            return self._confirmed(claim.seconds, is_exact, samples)

    # MP4 and its kin

    def _movie(self) -> tuple[float, bool]:
        boxes = Boxes(self.view)
        there, promised = max(0, self.size - boxes.sound[0]), boxes.sound[1] - boxes.sound[0]
        if not boxes.has_index:
            self.format = "mp4"
            raise cut_off("MP4", promised, there) if promised > there else self.damaged()
        if self.is_whole and not boxes.has_huge_tables:
            with self.opened(self.view.again()) as (container, stream):
                return self.counted(container, stream), True
        if boxes.is_fragmented:
            return self._of_fragments(boxes)
        with self.opened(boxes.without_tables()) as (container, stream):
            claim = ffmpeg.claim(container, stream)
            if claim is None:
                raise self.damaged()
            claimed = min(filter(None, (claim.seconds, boxes.seconds)))
            if promised > there:
                return self.not_cut_off(claimed, claimed * there / promised, promised, there), True
            return claimed, True

    def _of_fragments(self, boxes: Boxes) -> tuple[float, bool]:
        with self.opened(self.view.again(end=boxes.index_end)):
            pass
        fragments = Fragments(self.view, boxes)
        length = fragments.length()
        if length is None:
            raise ByPartsError(
                f"is an {self.name} file in fragments, whose first and last sound cannot be found in few "
                "reads. Write it anew in one piece (ffmpeg -i FILE -c copy NEW.mp4)"
            )
        if fragments.claimed:
            self.not_cut_off(fragments.claimed, fragments.there)
        return length

    # Frames one after the other

    def _frames(self, start: int, head: bytes, container_format: str) -> tuple[float, bool]:
        claim, claimed_bytes = self._mp3_claim(head)
        there = self.size - start
        is_whole = not claimed_bytes or there <= claimed_bytes * TOLERATED_CLAIM
        if self.is_whole:
            # Where all bytes are there, it is the number of frames that is wrong.
            is_cut_off = not claimed_bytes or claimed_bytes > there * TOLERATED_CLAIM
            return self.not_cut_off(claim if is_cut_off else None, self._all_frames(start)), True
        if claim and claimed_bytes and claimed_bytes > there * TOLERATED_CLAIM:
            return self.not_cut_off(claim, claim * there / claimed_bytes, claimed_bytes, there), True
        samples = Samples(self.view, start, head, self.format, container_format)
        if claim and claimed_bytes and is_whole and _is_like(claim, samples.by_head()):
            return claim * min(1.0, there / claimed_bytes), True
        is_varying = samples.are_of_different_sizes()
        sampled = samples.seconds() if claim or not is_varying else 0.0
        if claim and is_whole and _is_like(claim, sampled):
            return claim, True
        # It may begin with a long silence, whose frames are of one size.
        is_varying = is_varying or not _is_like(samples.by_head(), sampled, within=_STEADY)
        if is_varying and there <= VARYING_BYTES:
            self.view.part(0, self.size)
            return self._all_frames(start), True
        if is_varying:
            sampled = samples.seconds(VARYING_SAMPLE_BYTES)
        return sampled, False

    def _all_frames(self, start: int) -> float:
        """Return how long all frames are."""
        with self.opened(self.view.again(start=start)) as (container, stream):
            count, _ = ffmpeg.counted(container, stream)
        return count.seconds

    def _refuse_several(self, samples: Samples) -> None:
        if not samples.do_times_rise():
            raise ByPartsError(
                f"is a {self.name} file of several recordings, which cannot be measured by parts of it. "
                "Split it or convert it into one"
            )

    def _is_chained(self, head: bytes) -> bool:
        """Whether an Ogg file is several in one: its last page is of no stream that begins it."""
        tail = self.view.part(self.size - HEAD_BYTES // 2, self.size)
        _, page, last = tail.rpartition(PAGE)
        return bool(page) and last[10:14] not in {one[10:14] for one in head.split(PAGE)}

    def _mp3_claim(self, head: bytes) -> tuple[float | None, int | None]:
        """Return seconds and bytes that an MP3 has by a first frame without sound, if there is one."""
        with self.opened(io.BytesIO(head)) as (container, stream):
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
            return self.not_cut_off(claim, by_head), False
        if self.format not in MARKERS:
            # Sound that begins with silence has fewer bytes there.
            return min(claim, by_head), False
        if self.format == "flac":
            return claim, False
        sampled = samples.seconds()
        return (claim, is_exact) if _is_like(claim, sampled) else (sampled, False)

    # Any

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
            if self.view.fetched > HEAD_BYTES + SAMPLE_BYTES:
                break
        else:
            if not self.view.is_exhausted:
                return count.seconds, True
        if first is None or last <= first:
            raise self.damaged()
        return count.seconds * (self.size - first) / (last - first), False


def _is_like(claim: float, estimate: float, within: float = _FITTING) -> bool:
    return claim / within < estimate < claim * within


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
