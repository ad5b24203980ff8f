"""Recordings in formats that Plaud does not take become MP3 while they are read."""

from __future__ import annotations

import io
import random
import tracemalloc
from typing import Any

import av
import pytest

from plaud_provider.exceptions import PlaudInputError
from plaud_provider.recordings.audio import measure
from plaud_provider.recordings.convert import to_mp3, validate_convert
from plaud_provider.recordings.ffmpeg import UnreadableError
from plaud_provider.storage.ranges import STREAMED_BLOCKS, STREAMED_BYTES, open_stream
from tests.unit.recordings.media import encoded
from tests.unit.recordings.sounds import wav


class Pipe:
    """Where bytes can only be written to."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, part: bytes) -> int:
        self.content += part
        return len(part)


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("wav", "pcm_s16le", {}),
        ("wav", "pcm_s24le", {"rate": 96000}),
        ("wav", "pcm_u8", {"rate": 6000}),
        ("flac", "flac", {"rate": 44100, "layout": "stereo"}),
        ("ogg", "libopus", {"rate": 48000}),
        ("webm", "libopus", {"rate": 48000, "is_seekable": False}),
        ("mp4", "aac", {"video": True}),
        ("amr", "libopencore_amrnb", {"rate": 8000, "bit_rate": 12200}),
    ],
)
def test_it_becomes_an_mp3_of_the_same_length(container: str, codec: str, options: dict[str, Any]) -> None:
    target = Pipe()

    seconds = to_mp3(io.BytesIO(encoded(container, codec, **options)), target)

    found = measure(io.BytesIO(bytes(target.content)))
    assert (found.format, found.kind) == ("mp3", "measured")
    assert seconds == pytest.approx(6, abs=0.1)
    assert found.seconds == pytest.approx(6, abs=0.3)


def test_silence_that_a_phone_has_shortened_is_converted() -> None:
    """AMR has a frame of comfort noise (type 8) every eight frames of silence, and nothing (15) between."""
    spoken = encoded("amr", "libopencore_amrnb", 6, rate=8000, bit_rate=12200)
    silence = (b"\x44" + bytes(5) + b"\x7c" * 7) * 100
    content = spoken + silence + spoken[6:]

    target = Pipe()

    assert to_mp3(io.BytesIO(content), target) == pytest.approx(28, abs=0.1)
    assert measure(io.BytesIO(content)).seconds == pytest.approx(28, abs=0.1)


def test_silence_that_a_program_has_left_out_is_converted() -> None:
    """As browsers do in WebM: of a pause every 20th packet is there."""
    content, target = io.BytesIO(encoded("webm", "libopus", 20, rate=48000)), io.BytesIO()
    with av.open(content) as source, av.open(target, "w", format="webm") as output:
        stream: Any = output.add_stream_from_template(source.streams.audio[0])
        for number, packet in enumerate(source.demux(source.streams.audio[0])):
            if packet.size and (number % 20 == 0 or not 200 < number < 700):
                packet.stream = stream
                output.mux(packet)

    assert to_mp3(io.BytesIO(target.getvalue()), Pipe()) == pytest.approx(20, abs=0.2)
    assert measure(io.BytesIO(target.getvalue())).seconds == pytest.approx(20, abs=0.1)


def test_of_what_is_cut_off_the_rest_is_converted_and_its_length_told() -> None:
    content = encoded("ogg", "libopus", rate=48000)

    assert to_mp3(io.BytesIO(content[: len(content) // 2]), Pipe()) == pytest.approx(3, abs=0.5)


@pytest.mark.parametrize(("container", "codec"), [("flv", "aac"), ("mpegts", "aac"), ("wv", "wavpack")])
def test_what_lies_behind_the_sound_is_left_out(container: str, codec: str) -> None:
    content = encoded(container, codec, rate=44100) + random.Random(1).randbytes(3000)

    assert to_mp3(io.BytesIO(content), Pipe()) == pytest.approx(6, abs=0.2)


def test_recordings_in_one_file_may_be_of_different_kinds() -> None:
    content = encoded("adts", "aac", 6, rate=16000) + encoded("adts", "aac", 4, rate=44100, layout="stereo")

    assert to_mp3(io.BytesIO(content), Pipe()) == pytest.approx(10, abs=0.3)


def test_what_has_no_sound_is_told() -> None:
    with pytest.raises(UnreadableError, match="is no WAV, MP3 or M4A recording"):
        to_mp3(io.BytesIO(b"no sound" * 1000), Pipe())


def test_no_more_is_converted_than_a_recording_may_have() -> None:
    silence = encoded("flac", "flac", 40, is_silent=True)
    target = Pipe()

    with pytest.raises(UnreadableError, match=r"has more than 0\.005 hours of sound in it"):
        to_mp3(io.BytesIO(silence), target, max_hours=0.005)

    assert to_mp3(io.BytesIO(silence), Pipe(), max_hours=0.012) == pytest.approx(40, abs=0.1)


def test_an_encoding_that_ffmpeg_does_not_know_is_told() -> None:
    with pytest.raises(UnreadableError, match="in an encoding that FFmpeg does not know"):
        to_mp3(io.BytesIO(wav(10, encoding=0x9999)), Pipe())


def test_a_stored_recording_is_read_in_large_blocks_and_not_kept() -> None:
    content = wav(1500, rate=16000)
    reads: list[int] = []

    def read(start: int, end: int) -> bytes:
        reads.append(end - start)
        return content[start:end]

    class Nowhere:
        def write(self, part: bytes) -> int:
            return len(part)

    tracemalloc.start()
    to_mp3(open_stream(read, size=len(content)), Nowhere())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(reads) <= len(content) // STREAMED_BYTES + 2
    assert most < (STREAMED_BLOCKS + 4) * STREAMED_BYTES


@pytest.mark.parametrize(("value", "expected"), [(None, None), ("", None), ("None", None), ("mp3", "mp3")])
def test_what_it_is_converted_to(value: object, expected: str | None) -> None:
    assert validate_convert(value) == expected


def test_another_format_is_told() -> None:
    with pytest.raises(PlaudInputError, match="convert: 'ogg' is not 'mp3'"):
        validate_convert("ogg")
