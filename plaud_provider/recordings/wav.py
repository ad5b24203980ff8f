"""
How long a WAV is: it says where its sound begins, and how many bytes a second of it has.

What its header says of the sound's size is often wrong: a program that streams does not know it yet, and 32
bits count to 4 GiB only.
"""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from plaud_provider.recordings import ffmpeg
from plaud_provider.recordings.media import TOLERATED_CLAIM, DamagedError
from plaud_provider.recordings.view import View

if TYPE_CHECKING:
    from plaud_provider.recordings.media import Media

#: What is read to find the sound.
WAV_HEADER_BYTES = 256 * 1024
#: How many bytes of the sound FFmpeg looks at: the header says what it is.
_PROBED = "4096"
#: What encodings are called in which FFmpeg knows how much sound is in so many bytes.
_CONSTANT = ("pcm", "adpcm", "g72", "gsm", "truespeech")
#: What programs write for a size that they cannot know yet: 0, or something near one of these.
_PLACEHOLDERS = (2_000_000_000, 2**31, 2**32)
_NEAR = 100_000


class _Sound(NamedTuple):
    """
    Where sound lies: its first byte, bytes a second, bytes as claimed, where known, and whether its encoding
    has a constant rate.
    """

    start: int
    byte_rate: float
    claimed: int | None
    is_constant: bool


def wav_length(media: Media, start: int, head: bytes) -> tuple[float, bool]:
    """Return how long the sound is that is there: bytes of constant rate, whatever the header claims."""
    sound = None
    # What is before the sound may be larger than this.
    with suppress(DamagedError):
        sound = _sound(media, io.BytesIO(head), start)
    if media.is_whole and not (sound and sound.is_constant):
        with suppress(DamagedError), media.opened(media.view.again(start=start)) as (container, stream):
            if not stream.codec_context.name.startswith(_CONSTANT):
                return media.counted(container, stream), True
    if sound is None or sound.claimed is None or media.size > (sound.start + sound.claimed) * TOLERATED_CLAIM:
        # Behind the sound FFmpeg looks for more, by what it takes for sizes.
        view = media.view.again(start=start, most=WAV_HEADER_BYTES)
        sound = _sound(media, view, start)
        if sound is None:
            # A size of 0, as is written before there is any sound.
            view = media.view.again(start=start, most=WAV_HEADER_BYTES)
            sound = _sound(media, view, start, ignore_length="1")
    if sound is None:
        return 0.0, True
    position, byte_rate, claimed, _ = sound
    there = media.size - position
    if claimed is None:
        return there / byte_rate, True
    if claimed > there:
        return media.not_cut_off(claimed / byte_rate, there / byte_rate, claimed, there), True
    if media.size > 2**32:
        # 32 bits count to 4 GiB only, and then from 0 again.
        claimed += (there - claimed) // 2**32 * 2**32
    end = position + claimed
    if there > claimed * TOLERATED_CLAIM and not _are_chunks(media.view, end + claimed % 2):
        # The header was written when it was not that long yet.
        return there / byte_rate, False
    return claimed / byte_rate, True


def _sound(media: Media, file: Any, start: int, **options: str) -> _Sound | None:
    """Return what FFmpeg makes of a header; ``None`` if it finds no sound behind it."""
    with media.opened(file, probesize=_PROBED, **options) as (container, stream):
        first = next(ffmpeg.packets(container, stream), None)
        claim = ffmpeg.claim(container, stream)
        byte_rate = (stream.codec_context.bit_rate or 0) / 8
        is_constant = stream.codec_context.name.startswith(_CONSTANT)
        if first is not None and first.duration and (is_constant or not byte_rate):
            # Headers of such encodings are often wrong about it.
            byte_rate = first.size / ffmpeg.seconds(first.duration, stream)
    if first is None:
        return None
    if not byte_rate or first.pos is None:
        raise media.damaged()
    position = start + first.pos
    header = media.view.part(position - 8, position)
    if header[:4] != b"data" or media.view.part(start, start + 4) in (b"RF64", b"BW64"):
        # Sizes of 64 bits, elsewhere in the file; FFmpeg has bounded them by the file's.
        is_known = claim and isinstance(file, View)
        claimed = int(claim.seconds * byte_rate) if claim and is_known else None
        return _Sound(position, byte_rate, claimed, is_constant)
    (claimed,) = struct.unpack("<I", header[4:])
    is_placeholder = claimed == 0 or any(abs(claimed - known) <= _NEAR for known in _PLACEHOLDERS)
    # A recording may have just so many bytes.
    is_known = claimed and (not is_placeholder or claimed <= media.size - position)
    if is_known and not is_constant and claim and 1 / 4 < claimed / claim.seconds / byte_rate < 4:
        # How long it is is said beside its rate, which is none where it varies.
        byte_rate = claimed / claim.seconds
    return _Sound(position, byte_rate, int(claimed) if is_known else None, is_constant)


def _are_chunks(view: View, position: int) -> bool:
    """Whether what begins there is a further chunk of a RIFF file."""
    header = view.part(position, position + 8)
    if len(header) < 8 or not all(0x20 <= byte < 0x7F for byte in header[:4]) or header[:4] == b"RIFF":
        return len(header) < 8
    (length,) = struct.unpack("<I", header[4:])
    return position + 8 + int(length) <= view.size + 1
