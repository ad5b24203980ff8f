"""Recordings in formats that Plaud does not take, as MP3."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from plaud_provider.api.limits import MAX_HOURS
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.recordings import ffmpeg
from plaud_provider.recordings.ffmpeg import JUMP

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

Convert = Literal["mp3"]

#: Formats that are left as they are.
KEPT = frozenset({"mp3", "m4a"})
#: Encodings of phones.
_AMR = frozenset({"amrnb", "amrwb"})
#: Seconds of sound that are missed, not only rounded.
_GAP = 0.05
#: Sample rates of MP3.
_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
#: Bits a second of one channel: more than speech needs.
_BIT_RATE = 64_000


def validate_convert(value: object) -> Convert | None:
    """
    Return to what recordings are converted.

    :param value: ``mp3``; ``None``, empty or ``None`` as text: they are not.
    :raises PlaudInputError: if it is something else; nothing was sent.
    """
    if value in (None, "", "None"):
        return None
    if value == "mp3":
        return "mp3"
    raise PlaudInputError(
        f"convert: {value!r} is not 'mp3', the only format that recordings are converted to. Nothing was "
        "sent, nothing is paid for."
    )


def to_mp3(source: Any, target: Any, *, max_hours: float = MAX_HOURS) -> float:
    """
    Convert a recording to MP3 while it is read, in constant memory.

    What is damaged in it is left out, as players do; a file that was cut off converts without an error. So
    the caller compares the length with that which the file claims.

    :param source: An open file to read from. Where it can seek, an MP4 may have its index at its end.
    :param target: An open file to write to; it need not seek.
    :param max_hours: Hours of sound at most: a small file may have days of silence in it.
    :return: Seconds of sound that were written.
    :raises plaud_provider.recordings.ffmpeg.UnreadableError: if there is no sound in it, or more.
    """
    import av

    with ffmpeg.opened(source) as (container, stream):
        rate, layout = _sound(stream)
        # The header in front would have to be written last.
        options = {"write_xing": "0"}
        with av.open(target, "w", format="mp3", options=options) as output:
            encoder = output.add_stream("libmp3lame", rate=rate, layout=layout)
            encoder.bit_rate = _BIT_RATE * (2 if layout == "stereo" else 1)
            samples = 0
            due: float | None = None
            resampler: av.AudioResampler | None = None
            kind = None

            def write(frames: Iterable[Any]) -> int:
                written = 0
                for frame in frames:
                    # Of its own clock: larger gaps and jumps of the source's times are none in the sound.
                    frame.pts = samples + written
                    written += frame.samples
                    output.mux(encoder.encode(frame))
                return written

            for frame in _frames(container, stream):
                missing = 0 if due is None or frame.time is None else round((frame.time - due) * rate)
                due = None if frame.time is None else frame.time + frame.samples / frame.sample_rate
                its_kind = (frame.format.name, frame.layout.name, frame.sample_rate)
                if resampler is None or its_kind != kind:
                    # At the beginning, and where another recording follows in the same file.
                    samples += write(resampler.resample(None)) if resampler else 0
                    resampler, kind = av.AudioResampler(format="s16p", layout=layout, rate=rate), its_kind
                silence = _silence(missing, rate, layout) if _GAP * rate < missing <= JUMP * rate else []
                samples += write([*silence, *resampler.resample(frame)])
                if samples > max_hours * 3600 * rate:
                    raise ffmpeg.UnreadableError(f"has more than {max_hours:g} hours of sound in it")
            samples += write(resampler.resample(None)) if resampler else 0
            output.mux(encoder.encode(None))
    return samples / rate


def _sound(stream: AudioStream) -> tuple[int, Literal["mono", "stereo"]]:
    rate = stream.codec_context.sample_rate or 16000
    return min(_RATES, key=lambda known: (known < rate, abs(known - rate))), (
        "mono" if (stream.codec_context.channels or 1) == 1 else "stereo"
    )


def _silence(samples: int, rate: int, layout: str) -> list[Any]:
    """Return what is heard where a program has left out silence."""
    import av

    frame = av.AudioFrame(format="s16p", layout=layout, samples=samples)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    frame.sample_rate = rate
    return [frame]


def _decoder(stream: AudioStream) -> Any:
    """Return what decodes a stream: FFmpeg's own decoder of AMR does not know how phones shorten silence."""
    import av

    own = stream.codec_context
    if own.name not in _AMR:
        return own
    decoder = av.CodecContext.create(f"libopencore_{own.name}", "r")
    decoder.sample_rate, decoder.layout = own.sample_rate, "mono"  # type: ignore[attr-defined]
    return decoder


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[Any]:
    """Yield what can be decoded, up to where the file ends or cannot be read any more."""
    import av

    decoder = _decoder(stream)
    for packet in itertools.chain(ffmpeg.packets(container, stream), [None]):
        with suppress(av.FFmpegError):
            yield from list(decoder.decode(packet))
