"""
A file whose sound is being measured, whatever its container.

A file's own word for its length is compared with its bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from plaud_provider.recordings import ffmpeg
from plaud_provider.recordings.samples import HEAD_BYTES

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

    from plaud_provider.recordings.view import View

#: Shorter ones have nothing in them that could be said; this is what is left of a file that was cut off.
MIN_SECONDS = 0.1
#: A file that claims so much more than there is was cut off.
TOLERATED_CLAIM = 1.1


class DamagedError(Exception):
    """Why a file cannot be measured, and how much of it is there, if that is known."""

    def __init__(self, why: str, seconds: float | None = None) -> None:
        super().__init__(why)
        self.seconds = None if seconds is None else round(seconds, 3)


class ByPartsError(DamagedError):
    """The same of a file that can only be measured by reading all of it."""


class Media:
    """
    A file that is being measured.

    :param view: What it is read through.
    :param is_whole: Whether all of it may be read.
    """

    def __init__(self, view: View, is_whole: bool) -> None:
        self.format = ""
        self.view = view
        self.size = view.size
        self.is_whole = is_whole

    @property
    def name(self) -> str:
        """Its format as messages have it."""
        return self.format.upper()

    def container_format(self, head: bytes) -> str:
        """Return FFmpeg's name of a container; empty if its beginning does not tell."""
        with suppress(DamagedError), self.opened(io.BytesIO(head)) as (container, _):
            return container.format.name
        return ""

    @contextmanager
    def opened(self, file: Any, **options: str) -> Iterator[tuple[InputContainer, AudioStream]]:
        """Open media with FFmpeg, and note what it is."""
        try:
            with ffmpeg.opened(file, **options) as (container, stream):
                self.format = ffmpeg.format_of(container, stream)
                yield container, stream
        except ffmpeg.UnreadableError as error:
            if self.format:
                raise self.damaged() from error
            raise DamagedError(str(error)) from error

    def counted(self, container: InputContainer, stream: AudioStream) -> float:
        """Count all packets."""
        claim = ffmpeg.claim(container, stream)
        count, end = ffmpeg.counted(container, stream)
        if (
            claim is None
            or container.format.name in ffmpeg.WITH_TIMES_AT_END
            or self.is_guessed(claim, container, stream)
        ):
            return count.seconds
        if claim.end is not None:
            self.not_cut_off(claim.end, end)
        elif claim.seconds > count.span:
            self.not_cut_off(claim.seconds, count.seconds)
        return count.seconds

    def is_guessed(self, claim: ffmpeg.Claim, container: InputContainer, stream: AudioStream) -> bool:
        """Whether a length is FFmpeg's guess by a file's size: it would be another of a shorter file."""
        if container.format.name in ffmpeg.WITH_TIMES_AT_END or stream.codec_context.name.startswith("pcm"):
            return False
        head = self.view.part(0, HEAD_BYTES)
        with (
            suppress(DamagedError),
            self.opened(io.BytesIO(head[: len(head) // 2])) as (beginning, its_stream),
        ):
            return ffmpeg.claim(beginning, its_stream) != claim
        return False

    def not_cut_off(
        self,
        claimed: float | None,
        seconds: float,
        claimed_bytes: int | None = None,
        there: int | None = None,
    ) -> float:
        """Return the length of what is there, if it is not much less than what is claimed."""
        if claimed is None or claimed <= max(seconds * TOLERATED_CLAIM, seconds + MIN_SECONDS):
            return seconds
        raise cut_off(self.name, claimed_bytes, there, claimed, seconds)

    def damaged(self) -> DamagedError:
        """Return the error of a file that does not say how long it is."""
        return DamagedError(
            f"is a damaged {self.name} file: it has no readable duration. Repair or replace it"
        )


def cut_off(
    name: str,
    claimed_bytes: int | None,
    there: int | None,
    claimed: float = 0.0,
    seconds: float | None = None,
) -> DamagedError:
    """
    Return the error of a file that was cut off.

    :param name: Its format.
    :param claimed_bytes: Bytes of sound that it claims; ``None``: it claims a length.
    :param there: How many of them are there.
    :param claimed: Seconds that it claims.
    :param seconds: How many of them are there.
    """
    if claimed_bytes:
        what = f"{claimed_bytes:,} bytes of sound, of which {there:,} are there"
    else:
        what = f"{length_in_words(claimed)}, of which {length_in_words(seconds or 0.0)} are there"
    return DamagedError(f"is cut off: its {name} header speaks of {what}. Copy or record it again", seconds)


def length_in_words(seconds: float) -> str:
    """Return a length as messages have it."""
    return f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else f"{seconds:,.1f} seconds"
