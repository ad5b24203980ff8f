from __future__ import annotations

import io
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tinytag import TinyTag

from plaud_provider.exceptions import PlaudInputError, PlaudStorageError
from plaud_provider.recordings.given_urls import GivenUrl
from plaud_provider.recordings.header import MIN_BYTES_PER_SECOND, AudioHeader, examine, read_header
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.storage.ranges import BLOCK_BYTES, LIMIT_BYTES, open_ranges
from tests.unit.recordings import sounds
from tests.unit.recordings.sounds import M4A, MP3, WAV, atom, chunk, m4a, movie_header, wav

AUDIO = AudioReference("s3://conn@calls/a call.wav")
HOUR = 3600


class Reads:
    """A file of which every fetch is counted."""

    def __init__(self, content: bytes, size: int | None = None) -> None:
        self.content = content
        self.spans: list[tuple[int, int]] = []
        self.file = open_ranges(self._read, size=len(content) if size is None else size)

    def _read(self, start: int, end: int) -> bytes:
        self.spans.append((start, end))
        return self.content[start:end]

    @property
    def fetched(self) -> int:
        return sum(end - start for start, end in self.spans)


def header(content: bytes, **options: Any) -> AudioHeader:
    return read_header(Reads(content).file, audio=AUDIO, **options)


def refusal(content: bytes, **options: Any) -> str:
    with pytest.raises(PlaudInputError) as refused:
        header(content, **options)
    message = str(refused.value)
    assert message.startswith("audio_url: 's3://conn@calls/a call.wav' ")
    assert message.endswith(". Nothing was sent, nothing is paid for.")
    return message


# What it is, and how long


@pytest.mark.parametrize(
    ("content", "container", "seconds"),
    [
        (WAV, "WAV", sounds.WAV_SECONDS),
        (MP3, "MP3", sounds.MP3_SECONDS),
        (sounds.mp3_without_header(), "MP3", sounds.MP3_SECONDS),
        (M4A, "M4A", sounds.M4A_SECONDS),
        (m4a(90), "M4A", 90),
        (m4a(90, version=1), "M4A", 90),
        (m4a(90, moov_first=False), "M4A", 90),
        (wav(2.5), "WAV", 2.5),
    ],
)
def test_content_tells_container_and_duration(content: bytes, container: str, seconds: float) -> None:
    found = header(content)

    assert found.container == container
    assert found.duration_seconds == pytest.approx(seconds, abs=0.01)


@pytest.mark.parametrize(("name", "content"), [("wav", WAV), ("mp3", MP3), ("m4a", M4A)])
def test_the_duration_is_the_one_that_tinytag_reads(name: str, content: bytes) -> None:
    expected = TinyTag.get(f"a.{name}", file_obj=io.BytesIO(content)).duration

    assert header(content).duration_seconds == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize(
    ("encoding", "byte_rate", "seconds"),
    [(6, 8000, 2.0), (17, 4000, 4.0), (49, 1625, 9.846), (0xFFFE, 16000, 1.0)],
    ids=["A-law", "ADPCM", "GSM", "extensible"],
)
def test_a_wav_in_another_encoding_is_measured_by_its_byte_rate(
    encoding: int, byte_rate: int, seconds: float
) -> None:
    content = wav(1.0, encoding=encoding, byte_rate=byte_rate, align=65)

    assert header(content).duration_seconds == pytest.approx(seconds, abs=0.001)


@pytest.mark.parametrize("claimed", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x7FFFF000])
def test_a_wav_that_was_streamed_is_as_long_as_its_bytes(claimed: int) -> None:
    assert header(wav(3.0, claimed=claimed)).duration_seconds == 3.0


def test_a_wav_that_lacks_its_last_moment_is_as_long_as_its_bytes() -> None:
    assert header(wav(10.0)[:-8000]).duration_seconds == pytest.approx(9.5)


def test_an_mp3_that_lacks_its_last_moment_is_as_long_as_its_bytes() -> None:
    assert header(MP3[: int(len(MP3) * 0.95)]).duration_seconds == pytest.approx(15.22, abs=0.02)


def test_a_cut_mp3_that_does_not_say_its_length_is_as_long_as_its_bytes() -> None:
    assert header(sounds.mp3_without_header()[:40_000]).duration_seconds == pytest.approx(8.0, abs=0.1)


def test_an_m4a_in_fragments_may_say_its_length_elsewhere() -> None:
    extends = atom(b"mvex", atom(b"mehd", bytes(4) + struct.pack(">I", 90_000)))
    fragments = [atom(b"moof", bytes(100)) + atom(b"mdat", bytes(50_000)) for _ in range(400)]
    content = atom(b"ftyp", b"M4A ") + atom(b"moov", movie_header(0) + extends) + b"".join(fragments)
    reads = Reads(content)

    assert read_header(reads.file, audio=AUDIO).duration_seconds == 90
    assert len(reads.spans) == 1


@pytest.mark.parametrize("padding", [0, 1, 4000])
def test_an_mp3_may_begin_behind_tags_and_zeros(padding: int) -> None:
    tag = b"ID3\x04\x00\x00\x00\x00\x07\x68" + bytes(1000)

    assert header(tag + tag + bytes(padding) + MP3[20:]).duration_seconds == pytest.approx(15.984, abs=0.1)


# What is refused


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"R", "is no WAV, MP3 or M4A recording by its content, whatever its name"),
        (b"Dear all, see the minutes of the meeting.\n" * 100, "is no WAV, MP3 or M4A"),
        (b"<html><body>404</body></html>", "is no WAV, MP3 or M4A"),
        (b"OggS" + bytes(1000), "is no WAV, MP3 or M4A"),
        (b"\xff\xfeD\x00e\x00a\x00r\x00" * 100, "is no WAV, MP3 or M4A"),
        (b"\xff\xd8\xff\xe0" + bytes(1000), "is no WAV, MP3 or M4A"),
        (b"RIFF\x00\x00\x00\x00WAVE", "is a damaged WAV file: it has no readable duration"),
        (wav(0.0), "is a WAV file without sound in it"),
        (wav(1.0, byte_rate=0, encoding=6), "is a damaged WAV file"),
        (b"RIFF0000WAVE" + chunk(b"data", bytes(9000)), "is a damaged WAV file"),
        (b"RIFF0000WAVE" + chunk(b"fmt ", bytes(16)) + chunk(b"data", bytes(9000)), "is a damaged WAV file"),
        (
            WAV[: len(WAV) // 2],
            "is cut off: its WAV header speaks of 247,694 bytes of sound, of which 123,825",
        ),
        (wav(1.0, claimed=26 * HOUR * 16000), "is cut off: its WAV header speaks of 1,497,600,000 bytes"),
        (M4A[: len(M4A) // 2], "is cut off: its M4A header speaks of 70,742 bytes of sound"),
        (M4A[:-3000], "is a damaged M4A file: it has no readable duration"),
        (atom(b"ftyp", b"M4A ") + atom(b"moov", movie_header(0)), "is a damaged M4A file"),
        (atom(b"ftyp", b"heic") + atom(b"mdat", bytes(1000)), "is a damaged M4A file"),
        (atom(b"ftyp", b"M4A ") + atom(b"moov", atom(b"mvhd", b"\x07")), "its movie header cannot be read"),
        (MP3[: len(MP3) // 2], "is cut off: its MP3 header speaks of 79,920 bytes of sound, of which 40,040"),
        (MP3[:100], "is cut off: its MP3 header"),
        (sounds.mp3_without_header()[:200], "is a MP3 file without sound in it"),
        (b"ID3\x04\x00\x00\x00\x00\x00\x00" + b"no sound" * 5000, "is a damaged MP3 file"),
        (b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + b"no sound" * 5000, "is a damaged MP3 file"),
    ],
)
def test_what_is_no_recording_is_refused_with_a_reason(content: bytes, why: str) -> None:
    assert why in refusal(content)


@pytest.mark.parametrize(
    ("content", "container"),
    [
        (m4a(26 * HOUR, sound=50_000), "M4A"),
        (m4a(26 * HOUR, sound=50_000, version=1), "M4A"),
        (sounds.mp3_that_claims(26 * HOUR), "MP3"),
        (wav(3.0, align=1, encoding=1).replace(struct.pack("<I", 8000), struct.pack("<I", 1), 1), "WAV"),
    ],
)
def test_a_length_that_the_bytes_cannot_hold_is_refused(content: bytes, container: str) -> None:
    assert f"bytes cannot be: its {container} header is wrong" in refusal(content)


def test_an_mp3_that_claims_26_hours_and_their_bytes_is_refused() -> None:
    assert "is cut off" in refusal(sounds.mp3_that_claims(26 * HOUR, byte_count=26 * HOUR * 5000))


@pytest.mark.parametrize("version", [0, 1])
def test_a_recording_that_is_really_too_long_is_refused(version: int) -> None:
    content = m4a(26 * HOUR, sound=26 * HOUR * 20, version=version)

    assert "is 26.0 hours long, more than the 24 hours that are allowed. Split it" in refusal(content)
    assert header(content, max_hours=26).duration_seconds == 26 * HOUR


def test_the_limit_of_hours_is_the_callers() -> None:
    assert "more than the 0.002 hours" in refusal(WAV, max_hours=0.002)


@pytest.mark.parametrize(("container", "thinnest"), [("WAV", 667), ("MP3", 1000), ("M4A", 30)])
def test_the_thinnest_real_encodings_are_not_refused(container: str, thinnest: float) -> None:
    assert MIN_BYTES_PER_SECOND[container] < thinnest


# What it costs


@pytest.mark.parametrize(
    ("content", "requests", "size"),
    [
        (wav(HOUR / 4, rate=16000), 1, BLOCK_BYTES),
        (MP3, 2, BLOCK_BYTES + 128),
        (m4a(HOUR, sound=7_200_000), 1, BLOCK_BYTES),
        (m4a(HOUR, sound=7_200_000, moov_first=False), 2, BLOCK_BYTES + 116),
    ],
    ids=["WAV", "MP3", "M4A", "M4A with its header at the end"],
)
def test_a_header_is_read_in_few_requests(content: bytes, requests: int, size: int) -> None:
    reads = Reads(content)
    read_header(reads.file, audio=AUDIO)

    assert (len(reads.spans), reads.fetched) == (requests, size)


@pytest.mark.parametrize(
    "content",
    [
        b"RIFF0000WAVE" + chunk(b"junk", bytes(40_000)) * 400,
        atom(b"ftyp", b"M4A ") + atom(b"free", bytes(40_000)) * 400,
        atom(b"ftyp", b"M4A ") + atom(b"moov", atom(b"free") * 1_000_000),
        MP3[20:24] + b"no further frame" * 700_000,
    ],
    ids=["WAV", "M4A", "small atoms", "MP3"],
)
def test_a_strange_file_is_given_up_after_some_megabytes(content: bytes) -> None:
    reads = Reads(content)

    with pytest.raises(PlaudInputError, match="has no header within the first megabytes"):
        read_header(reads.file, audio=AUDIO)
    assert reads.fetched <= LIMIT_BYTES


def test_a_file_that_became_shorter_may_be_read_again() -> None:
    with pytest.raises(PlaudStorageError, match="changed while it was read"):
        read_header(Reads(M4A[:40_000], size=len(M4A)).file, audio=AUDIO)


@pytest.mark.parametrize("content", [WAV, MP3, M4A])
def test_a_storage_that_fails_is_not_the_recordings_fault(content: bytes) -> None:
    def read(start: int, end: int) -> bytes:
        raise PlaudStorageError("away")

    for head in (b"", content[:BLOCK_BYTES]):
        file = open_ranges(read, size=len(content), head=head)
        if content is WAV and head:
            assert read_header(file, audio=AUDIO)
            continue
        with pytest.raises(PlaudStorageError, match="away"):
            read_header(file, audio=AUDIO)


def test_any_open_file_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(MP3)

    with (tmp_path / "a.mp3").open("rb") as file:
        assert read_header(file, audio=AUDIO).container == "MP3"
    assert read_header(io.BytesIO(MP3), audio=AUDIO, size=len(MP3)).container == "MP3"


def test_a_given_url_is_not_read() -> None:
    source = GivenUrl(AudioReference("https://files.example/a.wav?X-Amz-Signature=canary"))

    with pytest.raises(PlaudInputError, match="is a URL, which is not read here") as refused:
        examine(source)
    assert "canary" not in str(refused.value)


# Anything at all


sizes = st.sampled_from([0, 1, 2, 100, 16_000, 2**31 - 1, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)
chunks = st.lists(
    st.tuples(
        st.sampled_from([b"fmt ", b"data", b"fact", b"LIST", b"\0\0\0\0"]), sizes, st.binary(max_size=60)
    ),
    max_size=6,
)


@given(chunks, st.binary(max_size=20))
def test_any_chain_of_wav_chunks_is_measured_by_what_is_there_or_refused(
    chain: list[tuple[bytes, int, bytes]], rest: bytes
) -> None:
    body = b"".join(name + struct.pack("<I", size) + content for name, size, content in chain)
    content = b"RIFF0000WAVE" + body + rest

    try:
        found = header(content)
    except PlaudInputError:
        return
    assert 0 < found.duration_seconds <= len(content) / MIN_BYTES_PER_SECOND["WAV"]


@given(
    seconds=st.floats(0.2, 20),
    rate=st.sampled_from([8000, 16000, 44100, 48000]),
    chunks=st.lists(st.binary(max_size=99), max_size=3),
    cut=st.floats(0, 0.3),
)
def test_a_wav_is_as_long_as_the_sound_that_is_there_and_cut_off_if_much_of_it_is_not(
    seconds: float, rate: int, chunks: list[bytes], cut: float
) -> None:
    content = wav(seconds, rate=rate, chunks=b"".join(chunk(b"LIST", text) for text in chunks))
    sound = int(seconds * rate) * 2
    lost = int(sound * cut)
    content = content[: len(content) - lost]

    if sound > (sound - lost) * 1.1:
        assert "is cut off" in refusal(content)
    else:
        assert header(content).duration_seconds == pytest.approx((sound - lost) / rate / 2, abs=0.001)


@given(
    st.sampled_from([WAV[:44], MP3[:300], M4A[:60], b"\0\0\0\x18ftypM4A ", b"ID3\x04"]),
    st.binary(max_size=200),
)
def test_no_bytes_whatever_raise_anything_but_a_refusal(head: bytes, rest: bytes) -> None:
    with suppress(PlaudInputError):
        header(head + rest)
