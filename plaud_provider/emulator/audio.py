"""Recordings: whether a file is one, and how long it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from tinytag import TinyTag, TinyTagException

_SUFFIXES = {"WAV": "wav", "MP3": "mp3", "M4A": "m4a"}


class AudioError(Exception):
    """
    Why a URL or a file is no usable recording.

    :param code: A word for programs.
    :param message: A sentence for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Audio:
    """
    A recording that was recognised.

    :param container: ``WAV``, ``MP3``, ``M4A``, or ``unknown`` if it was not looked at.
    :param duration: Length in seconds, rounded to milliseconds.
    :param sha256: Of the file's bytes.
    """

    container: str
    duration: float
    sha256: str


# Where nothing is downloaded.
UNSEEN = Audio("unknown", 60.0, "")


def recognise(file: BinaryIO, sha256: str) -> Audio:
    """
    Recognise a recording by its first bytes, never by its name, and read its duration.

    :raises AudioError: if it is empty, no WAV, MP3 or M4A, or has no duration.
    """
    file.seek(0)
    head = file.read(12)
    if not head:
        raise AudioError("audio_empty", "The audio file has no bytes.")
    container = _container(head)
    if container is None:
        raise AudioError("unsupported_audio", "The file is not a WAV, MP3 or M4A recording.")
    duration = _duration(file, container)
    if not duration:
        raise AudioError("unreadable_audio", f"The {container} file is damaged: it has no readable duration.")
    return Audio(container, round(duration, 3), sha256)


def _container(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "WAV"
    if head[4:8] == b"ftyp":
        return "M4A"
    if head[:3] == b"ID3" or _is_mp3_frame(head):
        return "MP3"
    return None


def _is_mp3_frame(head: bytes) -> bool:
    """Return whether these bytes begin an MPEG layer III frame: sync, layer, bit rate and sample rate."""
    return (
        len(head) >= 4
        and head[0] == 0xFF
        and head[1] & 0xE0 == 0xE0
        and head[1] & 0x18 != 0x08
        and head[1] & 0x06 == 0x02
        and head[2] & 0xF0 not in (0x00, 0xF0)
        and head[2] & 0x0C != 0x0C
    )


def _duration(file: BinaryIO, container: str) -> float | None:
    try:
        tag = TinyTag.get(f"audio.{_SUFFIXES[container]}", file_obj=file, tags=False, check_magic_bytes=False)
    except TinyTagException:
        return None
    return tag.duration
