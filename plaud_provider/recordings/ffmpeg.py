"""
Media as FFmpeg reads it (PyAV), for whoever measures or converts a recording.

PyAV takes 50 ms and 100 MB of disk: it is imported where it is used, in tasks that read recordings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from av import Packet
    from av.audio.stream import AudioStream
    from av.container import InputContainer

#: Containers that are opened. Not among them is what makes FFmpeg open other files: playlists, image series.
_CONTAINERS = (
    "wav,w64,mp3,aac,mov,matroska,ogg,flac,amr,amrnb,amrwb,aiff,au,caf,asf,avi,mpegts,mpeg,flv,ac3,eac3,wv,ape,"
    "tta,dsf,dss,gsm,nistsphere,sox,voc,loas,qcp,rm,oma,act,mpc,mpc8,iff,ircam,avr,wve,xwma,mxf,wtv,dts"
)
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none", "probesize": "65536"}
#: Containers that are nothing but frames one after the other. Any stretch can be read by itself, but of those
#: that only say at their beginning what they are.
FRAMES_ONLY = frozenset({"mp3", "aac", "amr", "amrnb", "amrwb", "ac3", "eac3", "loas"})
WITH_ONE_HEADER = frozenset({"amr"})
#: Containers of which FFmpeg looks at the end for how long they are.
WITH_TIMES_AT_END = frozenset({"ogg", "mpegts", "mpeg"})
#: A larger packet of these is no frame but a tag behind the sound.
_LARGEST_FRAME = 8192
#: Seconds that times go back or forth where another recording follows in the same file.
JUMP = 1.0
#: Seconds before 0, at most, that are there for the decoder to start with: one of what is trimmed.
_LEAD = 2.0
#: What FFmpeg's names for containers are called here.
_NAMES = {"matroska": "webm", "amrnb": "amr", "amrwb": "amr"}
#: What is an M4A, if there is no picture but that of its cover.
_M4A_CODECS = frozenset({"aac", "alac", "mp3", "mp3float"})

#: What sound is called in an MP4 that is encrypted: Common Encryption, FairPlay, Audible.
_ENCRYPTED_TAGS = frozenset({"enca", "drms", "aavd"})
ENCRYPTED = "is encrypted (DRM), so that nobody can play it without its key. Save it without that protection"
_NONE = "is no WAV, MP3 or M4A recording by its content, whatever its name, nor has it any other sound"


class UnreadableError(Exception):
    """FFmpeg finds no sound in a file; the text says why, as in "has no sound in it"."""


@contextmanager
def opened(
    file: Any, container_format: str | None = None, **options: str
) -> Iterator[tuple[InputContainer, AudioStream]]:
    """
    Open media, and find the first sound in it.

    :param file: An open file; it seeks, if it can.
    :param container_format: FFmpeg's name of what it is; ``None``: FFmpeg finds out.
    :param options: FFmpeg's, beside those that keep it from opening other files.
    :raises UnreadableError: if there is none, or the file cannot be read, also while it is used.
    """
    import av

    try:
        with av.open(
            file,
            "r",
            format=container_format,
            options={**_OPTIONS, **options},
            metadata_errors="replace",
            buffer_size=4096,
            io_open=_open_nothing,
        ) as container:
            if not container.streams.audio:
                raise UnreadableError(f"has no sound in it ({container.format.long_name})")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise UnreadableError("has its sound in an encoding that FFmpeg does not know")
            if _tag(stream) in _ENCRYPTED_TAGS:
                raise UnreadableError(ENCRYPTED)
            yield container, stream
    except (av.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        raise UnreadableError(_NONE) from error


def format_of(container: InputContainer, stream: AudioStream) -> str:
    """Return what a file is called by its content, as ``mp3``."""
    name = container.format.name.split(",")[0]
    codec = stream.codec_context.name
    if name == "mov":
        has_picture = any(
            not video.disposition & video.disposition.attached_pic for video in container.streams.video
        )
        return "m4a" if codec in _M4A_CODECS and not has_picture else "mp4"
    if name == "mp3" and not codec.startswith("mp3"):
        return codec.removesuffix("float")
    if name == "ogg" and codec == "opus":
        return "opus"
    return _NAMES.get(name, name)


def seconds(time: int, stream: AudioStream) -> float:
    """Return a time of a stream in seconds."""
    return float(time * stream.time_base) if stream.time_base else 0.0


def beginning(moment: float) -> float:
    """
    Return from when on sound counts: what is a little before 0 is there for the decoder to start with.

    :param moment: When the first of it begins, in seconds. Far below 0 it is a clock that wraps around.
    """
    return 0.0 if -_LEAD <= moment < 0 else moment


class Claim(NamedTuple):
    """
    What a file says about its length.

    :param seconds: How long its sound is.
    :param end: When all that is in it ends, if it says only that: sound may begin later than a picture, and
        end earlier.
    """

    seconds: float
    end: float | None


def claim(container: InputContainer, stream: AudioStream) -> Claim | None:
    """Return what a file says about its length."""
    begin = beginning(seconds(stream.start_time or 0, stream))
    if stream.duration and stream.duration > 0:
        length = seconds(stream.duration, stream)
        if container.format.name == "ogg" and stream.codec_context.name == "opus" and length > begin:
            # Its time need not begin at 0, and FFmpeg says when it ends.
            length -= begin
        # ASF says of each stream how long the longest is.
        return Claim(length, length + begin if container.format.name == "asf" else None)
    if container.duration and container.duration > 0:
        end = container.duration / 1_000_000
        return Claim(end - begin if end > begin else end, end)
    return None


def packets(container: InputContainer, *streams: AudioStream) -> Iterator[Packet[Any]]:
    """Yield packets, of all streams or some, up to where the file ends or cannot be read any more."""
    import av

    # At its end PyAV looks for streams that a file has only further on in a list that is without them.
    with suppress(av.FFmpegError, IndexError):
        for packet in container.demux(*streams):
            if packet.size:
                yield packet


class Count:
    """
    How long the sound is in packets that follow each other.

    Where their times go far back or forth, another recording begins: neither is sound.
    """

    def __init__(self, container: InputContainer, stream: AudioStream) -> None:
        self._stream = stream
        self._is_of_frames = container.format.name in FRAMES_ONLY
        frame = (stream.codec_context.frame_size or 0) / (stream.codec_context.sample_rate or 1)
        self._frame = int(frame / stream.time_base) if stream.time_base else 0
        self._jump = int(JUMP / stream.time_base) if stream.time_base else 0
        self._first: int | None = None
        self._end = self._total = self._last = 0
        self._before = 0.0
        self._begin: int | None = None

    def add(self, packet: Packet[Any]) -> None:
        """Count a packet."""
        if self._is_of_frames and packet.size > _LARGEST_FRAME:
            # A tag behind the sound.
            return
        length = packet.duration or 0
        if self._frame and length > self._frame + self._jump:
            # It says how long nothing follows.
            length = self._frame
        self._total += length
        if packet.pts is None:
            return
        if self._first is not None and abs(packet.pts - self._end) > self._jump:
            self._before += self._length()
            self._first = None
        self._end = packet.pts + length if self._first is None else max(self._end, packet.pts + length)
        self._first = packet.pts if self._first is None else self._first
        self._begin = packet.pts if self._begin is None else self._begin
        self._last = max(self._last, self._end)

    @property
    def seconds(self) -> float:
        """All of it."""
        if self._first is None or self._is_of_frames:
            return seconds(self._total, self._stream)
        return self._before + self._length()

    @property
    def span(self) -> float:
        """From the first to the last of it, with what is no sound."""
        begin = beginning(seconds(self._begin or 0, self._stream))
        return max(self.seconds, seconds(self._last, self._stream) - begin)

    def _length(self) -> float:
        """Return how long the sound is since times went far back or forth."""
        return seconds(self._end, self._stream) - beginning(seconds(self._first or 0, self._stream))


def counted(container: InputContainer, stream: AudioStream) -> tuple[Count, float]:
    """Return the count of all packets of the sound, and when the last packet of anything ends."""
    count, last = Count(container, stream), 0.0
    for packet in packets(container):
        if packet.pts is not None and packet.time_base:
            last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index == stream.index:
            count.add(packet)
    return count, last


def _tag(stream: AudioStream) -> str:
    """Return the four letters that a container calls an encoding by; of a WAV they are a number."""
    with suppress(UnicodeDecodeError):
        return stream.codec_context.codec_tag
    return ""


def _open_nothing(url: str, flags: int, options: object) -> Any:
    """Refuse what a hostile file would have FFmpeg open."""
    raise PermissionError("a recording may not refer to other files")
