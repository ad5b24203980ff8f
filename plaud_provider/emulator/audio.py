"""Recordings: whether a file is one, and how long it is."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

#: FFmpeg's names of what is taken.
_CONTAINERS = {"wav": "WAV", "mp3": "MP3", "mov,mp4,m4a,3gp,3g2,mj2": "M4A", "w64": "WAV", "aac": "M4A"}
_OPTIONS = {"format_whitelist": "wav,w64,mp3,mov,aac,ogg,flac,matroska", "protocol_whitelist": "none"}


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
    Recognise a recording by its content, never by its name, and read it for its duration.

    :raises AudioError: if it is empty, no WAV, MP3 or M4A, or has no duration.
    """
    import av

    if not file.seek(0, io.SEEK_END):
        raise AudioError("audio_empty", "The audio file has no bytes.")
    file.seek(0)
    container = None
    try:
        with av.open(file, "r", options=_OPTIONS, metadata_errors="replace", io_open=_open_nothing) as media:
            container = _CONTAINERS.get(media.format.name)
            if container is None or not media.streams.audio:
                raise AudioError("unsupported_audio", "The file is not a WAV, MP3 or M4A recording.")
            duration = _duration(media)
    except (av.FFmpegError, ValueError):
        container = container or _claimed(file)
        duration = 0.0
    if container is None:
        raise AudioError("unsupported_audio", "The file is not a WAV, MP3 or M4A recording.")
    if not duration:
        raise AudioError("unreadable_audio", f"The {container} file is damaged: it has no readable duration.")
    return Audio(container, round(duration, 3), sha256)


def _claimed(file: BinaryIO) -> str | None:
    """Return what a file that cannot be read begins like."""
    file.seek(0)
    head = file.read(12)
    if head[4:8] == b"ftyp":
        return "M4A"
    if head[:3] == b"ID3":
        return "MP3"
    return "WAV" if head[:4] == b"RIFF" and head[8:12] == b"WAVE" else None


def _duration(media: Any) -> float:
    """Return the length of all that is there."""
    import av

    stream, ticks = media.streams.audio[0], 0
    with suppress(av.FFmpegError):
        for packet in media.demux(stream):
            ticks += packet.duration or 0
    return float(ticks * stream.time_base) if stream.time_base else 0.0


def _open_nothing(url: str, flags: int, options: object) -> Any:
    raise PermissionError("a recording may not refer to other files")
