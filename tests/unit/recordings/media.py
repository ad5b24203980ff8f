"""Media files, encoded by FFmpeg as people's programs do."""

from __future__ import annotations

import math
import random
import tempfile
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import av

_FRAME = 1024


def encoded(
    container: str,
    codec: str,
    seconds: float = 6.0,
    *,
    rate: int = 16000,
    layout: str = "mono",
    bit_rate: int | None = None,
    video: bool = False,
    video_seconds: float | None = None,
    moves_from: float | None = None,
    begin: float = 0.0,
    cover: bytes | None = None,
    is_silent: bool = False,
    is_noise: bool = False,
    has_pauses: bool = False,
    is_seekable: bool = True,
    options: Mapping[str, str] | None = None,
    codec_options: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> bytes:
    """
    Return a file with a tone.

    :param container: FFmpeg's name of its format.
    :param codec: FFmpeg's name of an encoder.
    :param video: Whether there is a moving picture as well, from the beginning.
    :param video_seconds: How long that is; ``None``: up to the end of the sound.
    :param moves_from: When the picture begins to be another, of many more bytes, each time; ``None``: never.
    :param begin: When the sound begins, in the file's time.
    :param cover: A picture (PNG) of the cover.
    :param is_silent: Whether the tone is left out.
    :param is_noise: Whether there is noise instead of it, which does not become small.
    :param has_pauses: Whether 16 seconds of 25 are silent, as when one side of a call listens.
    :param is_seekable: Whether the program could go back to write sizes and lengths; else it streams.
    """
    side = 32 if moves_from is None else 128
    target: Any = tempfile.TemporaryFile()  # noqa: SIM115
    # FFmpeg opens a file a second time to move its index to the front.
    sink: Any = f"/proc/self/fd/{target.fileno()}" if is_seekable else _Stream(target)
    with av.open(sink, "w", format=container, options=dict(options or {})) as output:
        output.metadata.update(tags or {})
        sound: Any = output.add_stream(codec, rate=rate, layout=layout, options=dict(codec_options or {}))
        if bit_rate:
            sound.bit_rate = bit_rate
        picture: Any = None
        if video:
            # What is noise is no new scene.
            picture = output.add_stream("mpeg4", rate=5, options={"g": "20", "sc_threshold": "1000000000"})
            picture.width, picture.height, picture.pix_fmt = side, side, "yuv420p"
        if cover is not None:
            _add_cover(output, cover)
        pictures = deque(range(int((video_seconds or begin + seconds) * 5) if video else 0))
        for frame in _tone(
            seconds, rate, layout, is_silent=is_silent, is_noise=is_noise, has_pauses=has_pauses
        ):
            frame.pts += int(begin * rate)
            # One after the other, as of what is recorded.
            while pictures and pictures[0] * rate <= frame.pts * 5:
                output.mux(picture.encode(_image(pictures.popleft(), side, moves_from)))
            output.mux(sound.encode(frame))
        for number in pictures:
            output.mux(picture.encode(_image(number, side, moves_from)))
        output.mux(sound.encode(None))
        if video:
            output.mux(picture.encode(None))
    with target:
        target.seek(0)
        content: bytes = target.read()
    return content


class _Stream:
    def __init__(self, target: Any) -> None:
        self.write = target.write


def _add_cover(output: Any, cover: bytes) -> None:
    stream = output.add_stream("png", rate=1)
    stream.width = stream.height = 16
    stream.pix_fmt = "rgb24"
    stream.disposition = stream.disposition.attached_pic
    packet = av.Packet(cover)
    packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1)
    output.start_encoding()
    output.mux(packet)


def _image(number: int, side: int, moves_from: float | None) -> Any:
    frame = av.VideoFrame(side, side, "yuv420p")
    for plane in frame.planes:
        # Else it is what was in memory: another size of the picture each time.
        content = bytes([number * 5 % 256]) * plane.buffer_size
        if moves_from is not None and number >= moves_from * 5:
            content = random.Random(number).randbytes(plane.buffer_size)
        plane.update(content)
    frame.pts = number
    return frame


def _tone(
    seconds: float, rate: int, layout: str, *, is_silent: bool, is_noise: bool, has_pauses: bool
) -> Iterator[Any]:
    total = int(seconds * rate)
    channels = 2 if layout == "stereo" else 1
    wave = [0 if is_silent else int(9000 * math.sin(at * 440 * math.tau / rate)) for at in range(rate)]
    if is_noise:
        drawn = random.Random(1)
        wave = [drawn.randrange(-9000, 9000) for _ in range(rate)]
    second = array("h", [sample for sample in wave for _ in range(channels)]) * 2
    for begin in range(0, total, _FRAME):
        count = min(_FRAME, total - begin)
        frame = av.AudioFrame(format="s16", layout=layout, samples=count)
        at = begin % rate * channels
        content = second[at : at + count * channels].tobytes()
        frame.planes[0].update(bytes(len(content)) if has_pauses and begin / rate % 25 >= 9 else content)
        frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
        yield frame
