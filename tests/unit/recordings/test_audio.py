"""What a file is and how long: by a disk, where it is read whole, and by a storage, a few ranges of it."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaud_provider.exceptions import PlaudStorageError
from plaud_provider.recordings.audio import MIN_BYTES_PER_SECOND, Measured, measure
from plaud_provider.recordings.samples import VARYING_BYTES
from plaud_provider.storage.ranges import BLOCK_BYTES, LIMIT_BYTES, open_ranges
from tests.unit.recordings import sounds
from tests.unit.recordings.media import encoded
from tests.unit.recordings.sounds import M4A, MP3, WAV, atom, chunk, m4a, wav

HOUR = 3600
#: How a WMA begins, and how what says how it is encrypted does.
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_ENCRYPTION = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e")
#: What reading a recording in a storage may cost.
REQUESTS, REQUESTED = 4, 66 * 1024
#: A rate that varies, of the fourth and the ninth quality.
VARYING, VARYING_LESS = ({"flags": "+qscale", "global_quality": str(118 * quality)} for quality in (4, 9))
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "2000000"}


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


def measured(content: bytes) -> Measured:
    return measure(io.BytesIO(content))


def ranged(content: bytes) -> Measured:
    return measure(Reads(content).file, is_ranged=True)


def both(content: bytes) -> tuple[Measured, Measured]:
    return measured(content), ranged(content)


# Files that players play whole


def tagged(size: int, *, synchsafe: bool = True) -> bytes:
    """Return an ID3 tag with so many bytes in it."""
    bits = 7 if synchsafe else 8
    length = bytes((size >> bits * place) & (2**bits - 1) for place in (3, 2, 1, 0))
    return b"ID3\x04\x00\x00" + length + bytes(size)


def without_header(seconds: float = 6.0, **told: Any) -> bytes:
    return encoded("mp3", "libmp3lame", seconds, options={"write_xing": "0", "id3v2_version": "0"}, **told)


def speech(seconds: float) -> bytes:
    """Return an MP3 of varying rate that does not say how long it is."""
    return without_header(seconds, is_noise=True, has_pauses=True, codec_options=VARYING)


PLAIN = without_header()
COVER = os.urandom(100_000)


@pytest.mark.parametrize(
    ("content", "seconds"),
    [
        (PLAIN, 6.08),
        (b"APETAGEX" + bytes(24) + PLAIN, 6.08),
        (tagged(10) + bytes(65_536) + PLAIN, 6.08),
        (b"\xff" * 8 + PLAIN, 6.08),
        (bytes(range(1, 71)) + PLAIN, 6.08),
        (tagged(300, synchsafe=False) + PLAIN, 6.08),
        (tagged(3) + b"\xff" * 10 + PLAIN, 6.08),
        (PLAIN + tagged(30_000), 6.08),
        (PLAIN + b"TAG" + bytes(125), 6.08),
        (bytes(500) + PLAIN, 6.08),
        (tagged(100_000) + PLAIN, 6.08),
        (PLAIN[100:], 6.0),
        (encoded("mp3", "libmp3lame") * 5, 30.5),
        (encoded("mp3", "libmp3lame", rate=11025), 6.2),
        (encoded("mp3", "libmp3lame", rate=44100, layout="stereo", bit_rate=320_000), 6.05),
        (encoded("mp3", "libmp3lame", codec_options=VARYING, tags={"title": "x" * 3000}), 6.08),
    ],
    ids=[
        "no header",
        "APE tag first",
        "64 KB of zeros",
        "0xff first",
        "junk first",
        "tag size not synchsafe",
        "tag, then 0xff",
        "tag behind the sound",
        "ID3v1",
        "zeros first",
        "cover art",
        "amid a frame",
        "five in a row",
        "11,025 Hz",
        "320 kbit/s",
        "variable",
    ],
)
def test_an_mp3_is_as_long_as_its_frames(content: bytes, seconds: float) -> None:
    on_disk, in_storage = both(content)

    assert (on_disk.format, on_disk.kind) == ("mp3", "measured")
    assert on_disk.seconds == pytest.approx(seconds, abs=0.1)
    assert in_storage.format == "mp3"
    assert in_storage.seconds == pytest.approx(seconds, rel=0.05)


def test_an_estimate_of_a_variable_rate_takes_the_whole_file_into_account() -> None:
    silence = without_header(60, bit_rate=8000, is_silent=True)

    on_disk, in_storage = both(silence + without_header(240, bit_rate=128_000))

    assert (on_disk.kind, on_disk.seconds) == ("measured", pytest.approx(300, abs=0.5))
    assert (in_storage.kind, in_storage.seconds) == ("estimated", pytest.approx(300, rel=0.1))


def test_a_silence_at_the_beginning_is_not_taken_for_a_constant_rate() -> None:
    begin = without_header(100, is_silent=True, codec_options=VARYING)

    on_disk, in_storage = both(begin + speech(900) * 2)

    assert on_disk.seconds == pytest.approx(1900, abs=1)
    assert in_storage.seconds == pytest.approx(1900, rel=0.1)


@pytest.mark.parametrize(
    ("container", "codec", "told"),
    [
        ("mp3", "libmp3lame", {"codec_options": VARYING, "options": {"write_xing": "0"}}),
        ("mp3", "libmp3lame", {"codec_options": {"abr": "1", "b": "48000"}, "options": {"write_xing": "0"}}),
        ("adts", "aac", {}),
        ("latm", "aac", {}),
        ("ogg", "libopus", {"rate": 48000}),
        ("flv", "aac", {"rate": 44100}),
        ("flv", "aac", {"rate": 44100, "is_seekable": False}),
        ("webm", "libopus", {"rate": 48000}),
        ("webm", "libopus", {"rate": 48000, "is_seekable": False}),
        ("matroska", "aac", {"is_seekable": False}),
        ("mp4", "aac", {"options": FRAGMENTS}),
    ],
)
@pytest.mark.parametrize("seconds", [100, 600])
def test_speech_with_pauses_is_as_long_in_a_storage_as_on_a_disk(
    container: str, codec: str, told: dict[str, Any], seconds: int
) -> None:
    on_disk, in_storage = both(encoded(container, codec, seconds, is_noise=True, has_pauses=True, **told))

    assert (on_disk.kind, on_disk.seconds) == ("measured", pytest.approx(seconds, abs=0.5))
    assert in_storage.seconds == pytest.approx(seconds, rel=0.01 if in_storage.kind == "measured" else 0.1)


@pytest.mark.parametrize(
    ("container", "codec"), [("webm", "libopus"), ("matroska", "aac"), ("mpegts", "aac")]
)
def test_recordings_one_after_the_other_are_not_taken_for_the_last_by_their_times(
    container: str, codec: str
) -> None:
    # A sample that has no time in it tells nothing.
    content = encoded(
        container, codec, 90, rate=48000, is_seekable=False, options={"cluster_time_limit": "500"}
    )

    on_disk, in_storage = both(content * 2)

    assert (on_disk.kind, on_disk.seconds) == ("measured", pytest.approx(180, abs=1))
    if in_storage.kind == "not measurable":
        assert "of several recordings, which cannot be measured by parts" in str(in_storage.problem)
        assert len(content) * 2 > VARYING_BYTES
    else:
        assert in_storage.seconds == pytest.approx(180, rel=0.1)


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("ipod", "aac", {}),
        ("ipod", "alac", {}),
        ("ipod", "aac", {"movflags": "faststart"}),
        ("mp4", "aac", FRAGMENTS),
        ("mp4", "aac", {**FRAGMENTS, "movflags": "dash+empty_moov"}),
    ],
    ids=["index at the end", "ALAC", "index first", "fragments", "DASH"],
)
def test_an_m4a_is_as_long_as_its_packets(container: str, codec: str, options: dict[str, str]) -> None:
    for found in both(encoded(container, codec, 30, options=options)):
        assert found == Measured(pytest.approx(30, abs=0.1), "measured", "m4a")


@pytest.mark.parametrize("is_first", [True, False])
def test_an_m4a_may_have_a_cover(is_first: bool) -> None:
    content = encoded("ipod", "aac", 30)
    at = content.index(b"moov") - 4
    picture = atom(b"covr", atom(b"data", struct.pack(">II", 13, 0) + COVER))
    handler = atom(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    tags = atom(b"udta", atom(b"meta", bytes(4) + handler + atom(b"ilst", picture)))
    index = tags + content[at + 8 :] if is_first else content[at + 8 :] + tags
    reads = Reads(content[:at] + atom(b"moov", index))

    assert measured(reads.content) == Measured(pytest.approx(30, abs=0.1), "measured", "m4a")
    assert measure(reads.file, is_ranged=True) == Measured(pytest.approx(30, abs=0.1), "measured", "m4a")
    assert reads.fetched < REQUESTED


@pytest.mark.parametrize(
    "claimed", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x7FFFF000, 0x7FFFFFDB, 0x7FFF0000]
)
def test_a_wav_that_was_streamed_is_as_long_as_its_bytes(claimed: int) -> None:
    for found in both(wav(3.0, claimed=claimed)):
        assert found == Measured(3.0, "measured", "wav")


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("pcm_s16le", "wav", {}),
        ("pcm_s24le", "wav", {}),
        ("pcm_f32le", "wav", {}),
        ("pcm_u8", "wav", {}),
        ("pcm_alaw", "wav", {}),
        ("adpcm_ms", "wav", {}),
        ("libmp3lame", "wav", {}),
        ("pcm_s16le", "wav", {"rf64": "always"}),
    ],
)
@pytest.mark.parametrize("is_seekable", [True, False], ids=["finished", "streamed"])
def test_a_wav_is_measured_whatever_is_in_it(
    codec: str, container: str, options: dict[str, str], is_seekable: bool
) -> None:
    content = encoded(container, codec, options=options, is_seekable=is_seekable)

    for found in both(content):
        assert found == Measured(pytest.approx(6, abs=0.2), "measured", container)


def test_a_wave64_is_measured() -> None:
    for found in both(encoded("w64", "pcm_s16le")):
        assert found == Measured(6.0, "measured", "w64")


@pytest.mark.parametrize(
    ("encoding", "byte_rate", "align", "seconds"),
    [(6, 8000, 1, 2.0), (49, 1625, 65, 9.846), (0xFFFE, 0, 2, 1.0)],
    ids=["A-law", "GSM", "no byte rate"],
)
def test_a_wav_in_another_encoding(encoding: int, byte_rate: int, align: int, seconds: float) -> None:
    if encoding == 0xFFFE:
        encoding = 1
    content = wav(1.0, encoding=encoding, byte_rate=byte_rate, align=align)

    assert measured(content) == Measured(pytest.approx(seconds, abs=0.01), "measured", "wav")


@pytest.mark.parametrize("is_ranged", [True, False])
def test_a_wav_above_4_gib_is_as_long_as_its_bytes(tmp_path: Path, is_ranged: bool) -> None:
    sound = 39 * HOUR * 16000 * 2
    path = tmp_path / "long.wav"
    with path.open("wb") as file:
        file.write(wav(0.0, rate=16000, claimed=sound % 2**32))
        file.truncate(44 + sound)

    def read(start: int, end: int) -> bytes:
        return os.pread(descriptor, end - start, start)

    if not is_ranged:
        assert measure(path).seconds == 39 * HOUR
        return
    descriptor = os.open(path, os.O_RDONLY)
    found = measure(open_ranges(read, size=44 + sound, close=lambda: os.close(descriptor)), is_ranged=True)
    assert found == Measured(39 * HOUR, "measured", "wav")


def test_what_lies_behind_the_sound_of_a_wav_is_no_sound() -> None:
    for found in both(wav(3.0) + chunk(b"id3 ", bytes(200_000))):
        assert found == Measured(3.0, "measured", "wav")


def test_a_wav_whose_header_was_written_early_is_about_as_long_as_its_bytes() -> None:
    sound = os.urandom(90 * 16000)

    for found in both(wav(1.0) + sound):
        assert found == Measured(pytest.approx(91, abs=0.1), "estimated", "wav")


@pytest.mark.parametrize(
    ("container", "codec", "rate", "name"),
    [
        ("ogg", "libopus", 48000, "opus"),
        ("flac", "flac", 16000, "flac"),
        ("webm", "libopus", 48000, "webm"),
        ("amr", "libopencore_amrnb", 8000, "amr"),
        ("adts", "aac", 16000, "aac"),
        ("3gp", "libopencore_amrnb", 8000, "mp4"),
        ("mp2", "mp2", 32000, "mp2"),
        ("aiff", "pcm_s16be", 16000, "aiff"),
        ("voc", "pcm_u8", 8000, "voc"),
        ("sox", "pcm_s32le", 16000, "sox"),
    ],
)
def test_other_formats_are_told_apart_and_measured(container: str, codec: str, rate: int, name: str) -> None:
    bit_rate = 12200 if "amr" in codec else None
    on_disk, in_storage = both(encoded(container, codec, 20, rate=rate, bit_rate=bit_rate))

    assert on_disk == Measured(pytest.approx(20, abs=0.2), "measured", name)
    assert (in_storage.format, in_storage.seconds) == (name, pytest.approx(20, rel=0.1))


def test_a_film_is_no_m4a() -> None:
    for found in both(encoded("mp4", "aac", video=True)):
        assert found == Measured(pytest.approx(6, abs=0.2), "measured", "mp4")


@pytest.mark.parametrize(
    ("container", "options"),
    [
        ("mp4", {}),
        ("mp4", {"movflags": "frag_keyframe"}),
        ("mp4", {"movflags": "dash+empty_moov", "frag_duration": "2000000"}),
        ("matroska", {}),
        ("mpegts", {}),
    ],
    ids=["MP4", "fragments, of which the first is long", "DASH", "Matroska", "MPEG-TS"],
)
def test_sound_that_begins_later_than_the_picture_is_not_cut_off(
    container: str, options: dict[str, str]
) -> None:
    for found in both(encoded(container, "aac", 12, video=True, begin=3, options=options)):
        assert (found.kind, found.seconds) == ("measured", pytest.approx(12, abs=0.2))


def test_a_stretch_of_a_longer_recording_is_as_long_as_itself() -> None:
    for found in both(encoded("ogg", "libopus", 20, rate=48000, begin=HOUR)):
        assert found == Measured(pytest.approx(20, abs=0.1), "measured", "opus")


@pytest.mark.parametrize(("name", "content"), [("wav", WAV), ("mp3", MP3), ("m4a", M4A)])
def test_the_sample_recordings(name: str, content: bytes, tmp_path: Path) -> None:
    seconds = {"wav": sounds.WAV_SECONDS, "mp3": sounds.MP3_SECONDS, "m4a": sounds.M4A_SECONDS}[name]
    (tmp_path / "recording").write_bytes(content)

    for found in (measure(tmp_path / "recording"), measure(str(tmp_path / "recording")), ranged(content)):
        assert found == Measured(pytest.approx(seconds, abs=0.12), "measured", name)


# What cannot be measured


def encrypted_wma() -> bytes:
    """Return a WMA whose header speaks of what it is encrypted with, in the place of what pads it."""
    content = encoded("asf", "libmp3lame", 6)
    assert content[:16] == ASF_HEADER
    (length, count) = struct.unpack("<QI", content[16:28])
    objects = content[30:length] + ASF_ENCRYPTION + struct.pack("<Q", 24 + 16) + bytes(16)
    return (
        ASF_HEADER
        + struct.pack("<QI", 30 + len(objects), count + 1)
        + content[28:30]
        + objects
        + content[length:]
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"R", "is no WAV, MP3 or M4A recording by its content"),
        (b"Dear all, see the minutes of the meeting.\n" * 100, "is no WAV, MP3 or M4A recording"),
        (b"<html><body>404</body></html>", "is no WAV, MP3 or M4A recording"),
        (b"\xff\xd8\xff\xe0" + bytes(1000), "is no WAV, MP3 or M4A recording"),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "is no WAV, MP3 or M4A recording"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "is no WAV, MP3 or M4A recording"),
        (b"\xff" * 50_000, "is no WAV, MP3 or M4A recording"),
        (bytes(50_000), "is no WAV, MP3 or M4A recording"),
        (tagged(1000), "is no WAV, MP3 or M4A recording"),
        (b"RIFF\x00\x00\x00\x00WAVE", "is no WAV, MP3 or M4A recording"),
        (wav(0.0), "is a WAV file without sound in it"),
        (wav(9.0, encoding=0x9999), "has its sound in an encoding that FFmpeg does not know"),
        (wav(9.0, encoding=0), "has its sound in an encoding that FFmpeg does not know"),
        (PLAIN[:200], ""),
        (
            WAV[: len(WAV) // 2],
            "is cut off: its WAV header speaks of 247,694 bytes of sound, of which 123,825",
        ),
        (wav(1.0, claimed=26 * HOUR * 16000), "is cut off: its WAV header speaks of 1,497,600,000 bytes"),
        (M4A[: len(M4A) // 2], "is cut off: its MP4 header speaks of 70,742 bytes of sound"),
        (M4A[:-3000], "is cut off"),
        (MP3[: len(MP3) // 2], "is cut off: its MP3 header speaks of"),
        (m4a(26 * HOUR, sound=50_000), "has no sound in it"),
        (atom(b"ftyp", b"M4A ") + atom(b"moov", atom(b"mvhd", b"\x07")), "is "),
        # FairPlay, Common Encryption, Audible, Windows Media
        (M4A.replace(b"mp4a", b"drms", 1), "is encrypted"),
        (M4A.replace(b"mp4a", b"enca", 1), "is encrypted"),
        (M4A.replace(b"mp4a", b"aavd", 1), "is encrypted"),
        (encoded("mp4", "aac", 60, options=FRAGMENTS).replace(b"mp4a", b"enca", 1), "is encrypted"),
        (encrypted_wma(), "is encrypted"),
    ],
)
def test_what_cannot_be_measured_says_why(content: bytes, why: str) -> None:
    for found in both(content):
        assert found.kind == "not measurable"
        assert why in (found.problem or "")


def test_of_what_is_cut_off_the_rest_is_known() -> None:
    content = encoded("ipod", "aac", 30, options={"movflags": "faststart"})

    for found in both(content[: len(content) // 2]):
        assert (found.kind, found.seconds) == ("not measurable", pytest.approx(15, abs=1))


def test_what_lacks_its_last_moment_is_not_cut_off() -> None:
    assert measured(wav(10.0)[:-8000]) == Measured(9.5, "measured", "wav")
    assert measured(MP3[: int(len(MP3) * 0.95)]).seconds == pytest.approx(15.2, abs=0.1)


# What it costs


@pytest.mark.parametrize(
    ("content", "requests"),
    [
        (wav(HOUR / 4, rate=16000), 1),
        (wav(HOUR / 4, rate=16000, claimed=0xFFFFFFFF), 2),
        (encoded("mp3", "libmp3lame", 60), 1),
        (without_header(60), 4),
        (tagged(500_000) + encoded("mp3", "libmp3lame", 60, options={"id3v2_version": "0"}), 2),
        (encoded("ipod", "aac", 60), 2),
        (encoded("ipod", "aac", 60, options={"movflags": "faststart"}), 1),
        (encoded("mp4", "aac", 60, options=FRAGMENTS), 2),
    ],
    ids=["WAV", "streamed WAV", "MP3", "MP3 without header", "cover", "M4A", "M4A, index first", "fragments"],
)
def test_a_long_recording_in_a_storage_is_measured_in_few_requests(content: bytes, requests: int) -> None:
    reads = Reads(content)

    assert measure(reads.file, is_ranged=True).seconds == pytest.approx(measured(content).seconds, rel=0.02)
    assert (len(reads.spans), reads.fetched < REQUESTED) == (requests, True)


#: What does not say its length is read in as few requests, of more bytes.
ODD = {
    "MP3 of varying rate": (lambda: speech(1800), (4, 3200)),
    "a shorter one": (lambda: speech(300), (2, 3072)),
    "AAC": (lambda: encoded("adts", "aac", 60), (2, 3072)),
    "MPEG-TS": (lambda: encoded("mpegts", "aac", 60), (4, 90)),
    "MPEG-TS with a picture": (lambda: encoded("mpegts", "aac", 60, video=True, moves_from=0), (4, 90)),
    "MPEG-TS whose sound comes late": (
        lambda: encoded("mpegts", "aac", 60, video=True, moves_from=0, begin=4),
        (5, 320),
    ),
    "MPEG program stream": (
        lambda: encoded("mpeg", "mp2", 60, rate=44100, video=True, moves_from=0),
        (4, 90),
    ),
    "FLAC": (lambda: encoded("flac", "flac", 60, is_noise=True), (4, 90)),
    "WebM": (lambda: encoded("webm", "libopus", 60, rate=48000, is_seekable=False), (4, 90)),
    "fragments that are not listed": (
        lambda: encoded(
            "mp4",
            "aac",
            600,
            options={"movflags": "frag_keyframe+empty_moov+skip_trailer", "frag_duration": "20000000"},
        ),
        (5, 320),
    ),
}


@pytest.mark.parametrize(("make", "cost"), ODD.values(), ids=ODD)
def test_what_does_not_say_its_length_is_measured_in_few_requests(
    make: Callable[[], bytes], cost: tuple[int, int]
) -> None:
    content = make()
    reads = Reads(content)

    found = measure(reads.file, is_ranged=True)

    assert found.seconds == pytest.approx(measured(content).seconds, rel=0.1)
    assert (len(reads.spans) <= cost[0], reads.fetched <= cost[1] * 1024) == (True, True)


@pytest.mark.parametrize(
    "content",
    [
        b"RIFF0000WAVE" + chunk(b"junk", bytes(40_000)) * 400,
        atom(b"ftyp", b"M4A ") + atom(b"free", bytes(40_000)) * 400,
        atom(b"ftyp", b"M4A ") + atom(b"moov", atom(b"free") * 1_000_000),
        MP3[20:24] + b"no further frame" * 700_000,
        b"ID3" * 3_000_000,
        bytes(10_000_000),
    ],
    ids=["WAV", "M4A", "small atoms", "MP3", "tags", "zeros"],
)
def test_a_strange_file_is_given_up_after_some_megabytes(content: bytes) -> None:
    reads = Reads(content)

    assert measure(reads.file, is_ranged=True).kind == "not measurable"
    assert measured(content).kind == "not measurable"
    assert reads.fetched <= LIMIT_BYTES


def test_an_index_that_claims_a_billion_samples_takes_no_memory() -> None:
    content = bytearray(encoded("ipod", "aac", 30))
    at = content.index(b"stsz") + 8
    content[at : at + 8] = struct.pack(">II", 1, 10**9)

    assert measured(bytes(content)).format == "m4a"


@pytest.mark.parametrize("content", [WAV, MP3, M4A])
def test_a_storage_that_fails_is_not_the_recordings_fault(content: bytes) -> None:
    def read(start: int, end: int) -> bytes:
        raise PlaudStorageError("away")

    with pytest.raises(PlaudStorageError, match="away"):
        measure(open_ranges(read, size=len(content)), is_ranged=True)


def test_a_disk_that_fails_is_not_the_recordings_fault() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError("I/O error")

    with pytest.raises(OSError, match="I/O error"):
        measure(Broken(WAV))


# Several in one, and what is before the sound


def test_recordings_one_after_the_other_are_as_long_as_all_of_them() -> None:
    chained = b"".join(encoded("ogg", "libopus", seconds, rate=48000) for seconds in (20, 40))
    streamed = encoded("mpegts", "aac", 6) * 2

    whole, in_part = both(chained)

    assert (whole.kind, whole.seconds) == ("measured", pytest.approx(60, abs=0.1))
    assert (in_part.kind, in_part.seconds) == ("estimated", pytest.approx(60, rel=0.2))
    assert measured(streamed).seconds == pytest.approx(12, abs=0.3)


@pytest.mark.parametrize("name", [b"bext", b"PAD ", b"iXML"])
def test_what_is_before_the_sound_of_a_wav_may_be_larger_than_the_first_block(name: bytes) -> None:
    for found in both(wav(60, chunks=chunk(name, bytes(50_001)))):
        assert found == Measured(60.0, "measured", "wav")


def test_an_mp3_that_claims_much_less_than_its_bytes_are_is_estimated_by_them() -> None:
    whole, in_part = both(sounds.mp3_that_claims(2))

    assert whole.seconds == pytest.approx(sounds.MP3_SECONDS, abs=0.1)
    assert (in_part.kind, in_part.seconds) == ("estimated", pytest.approx(sounds.MP3_SECONDS, rel=0.1))


def test_zeros_behind_an_mp3_are_no_sound() -> None:
    for found in both(encoded("mp3", "libmp3lame", 6) + bytes(50_000)):
        assert found.kind != "not measurable"
        assert found.seconds == pytest.approx(6, rel=0.1)


def test_a_rate_of_0_in_the_header_of_a_gsm_recording_is_that_of_its_packets() -> None:
    about = struct.pack("<HHIIHHHH", 0x31, 1, 8000, 0, 65, 0, 2, 320)
    sound = os.urandom(65 * 500)
    content = b"WAVE" + chunk(b"fmt ", about) + chunk(b"data", sound)

    for found in both(b"RIFF" + struct.pack("<I", len(content)) + content):
        assert found == Measured(20.0, "measured", "wav")


def test_of_a_constant_rate_the_bytes_are_compared_with_the_claim_in_a_storage_too() -> None:
    content = encoded("aiff", "pcm_s16be", 60)

    for found in both(content[: len(content) // 2]):
        assert (found.kind, found.seconds) == ("not measurable", pytest.approx(30, abs=0.1))


def test_an_archive_is_no_recording_though_it_has_one_in_it() -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("call.mp3", MP3 * 10)

    for found in both(content.getvalue()):
        assert (found.kind, found.problem) == ("not measurable", "is a ZIP archive by its content. Unpack it")


# What a header says is compared with what is there


def flac_that_claims(content: bytes, samples: int) -> bytes:
    about = int.from_bytes(content[18:26]) >> 36 << 36 | samples
    return content[:18] + about.to_bytes(8) + content[26:]


FLAC = encoded("flac", "flac", 20, layout="stereo", is_noise=True)


@pytest.mark.parametrize("samples", [0, 5 * 16000])
def test_a_flac_that_says_nothing_or_too_little_is_as_long_as_its_frames(samples: int) -> None:
    for found in both(flac_that_claims(FLAC, samples)):
        assert found == Measured(pytest.approx(20, abs=0.05), "measured", "flac")


@pytest.mark.parametrize(
    "content",
    [
        FLAC,
        encoded("webm", "libopus", 60, rate=48000, bit_rate=64_000),
        encoded("flv", "libmp3lame", 60, rate=44100, bit_rate=64_000),
    ],
    ids=["FLAC", "WebM", "FLV"],
)
def test_what_was_cut_in_half_is_never_measured_to_be_whole(content: bytes) -> None:
    whole = measured(content).seconds or 0

    for found in both(content[: len(content) // 2]):
        assert found.kind != "measured"
        assert found.seconds == pytest.approx(whole / 2, rel=0.1)


def test_a_live_recording_that_does_not_say_its_length_is_measured_by_its_last_moment() -> None:
    content = encoded("webm", "libopus", 90, rate=48000, bit_rate=48_000, is_seekable=False)

    for found in both(content):
        assert found == Measured(pytest.approx(90, abs=0.1), "measured", "webm")


@pytest.mark.parametrize("is_seekable", [True, False], ids=["finished", "piped"])
@pytest.mark.parametrize("share", [1, 0.5])
def test_a_wma_is_as_long_as_its_last_packet_says_whole_or_not(is_seekable: bool, share: float) -> None:
    content = encoded("asf", "wmav2", 120, bit_rate=32_000, is_seekable=is_seekable)

    on_disk, in_storage = both(content[: int(len(content) * share)])

    assert on_disk == Measured(pytest.approx(120 * share, abs=0.5), "measured", "asf")
    assert in_storage == Measured(pytest.approx(on_disk.seconds, abs=0.1), "measured", "asf")


@pytest.mark.parametrize("frames", [100, 10_000_000])
def test_an_mp3_with_all_the_bytes_it_claims_is_as_long_as_its_frames_whatever_it_says(frames: int) -> None:
    content = encoded("mp3", "libmp3lame", 30, codec_options=VARYING, options={"id3v2_version": "0"})
    at = content.index(b"Xing") + 8
    on_disk, in_storage = both(content[:at] + struct.pack(">I", frames) + content[at + 4 :])

    assert (on_disk.kind, on_disk.seconds) == ("measured", pytest.approx(30, abs=0.2))
    assert in_storage.seconds == pytest.approx(30, rel=0.05)


@pytest.mark.parametrize("codec", ["adpcm_ms", "adpcm_ima_wav", "g722"])
def test_a_wav_with_a_wrong_byte_rate_is_as_long_as_its_packets(codec: str) -> None:
    content = bytearray(encoded("wav", codec, 20))
    content[28:32] = struct.pack("<I", 16000)

    for found in both(bytes(content)):
        assert found == Measured(pytest.approx(20, abs=0.2), "measured", "wav")


def test_an_mp3_of_varying_rate_in_a_wav_is_as_long_as_its_frames() -> None:
    content = encoded("wav", "libmp3lame", 20, codec_options=VARYING_LESS, bit_rate=None)

    for found in both(content):
        assert found == Measured(pytest.approx(20, abs=0.2), "measured", "wav")


def test_a_trimmed_recording_is_as_long_as_what_is_played_of_it() -> None:
    content = bytearray(encoded("ipod", "aac", 40))
    at = content.index(b"elst") + 12
    content[at : at + 8] = struct.pack(">Ii", 10_000, 16000 * 10)

    for found in both(bytes(content)):
        assert found == Measured(pytest.approx(10, abs=0.1), "measured", "m4a")


@pytest.mark.parametrize("container", ["mov", "asf", "matroska", "mpegts"])
def test_sound_that_ends_before_the_picture_is_not_cut_off(container: str) -> None:
    codec = {"mov": "pcm_s16le", "asf": "wmav2"}.get(container, "aac")
    on_disk, in_storage = both(encoded(container, codec, 12, video=True, video_seconds=20, bit_rate=32_000))

    assert (on_disk.kind, on_disk.seconds) == ("measured", pytest.approx(12, abs=0.2))
    assert in_storage.kind == "estimated" or in_storage.seconds == pytest.approx(12, abs=0.2)


@pytest.mark.parametrize("begin", [HOUR, 2**33 / 90_000 - 15], ids=["late", "until the clock begins anew"])
def test_a_stretch_of_a_broadcast_is_as_long_as_itself(begin: float) -> None:
    for found in both(encoded("mpegts", "aac", 40, begin=begin)):
        assert found == Measured(pytest.approx(40, abs=0.2), "measured", "mpegts")


def test_few_frames_in_a_sample_are_known_for_what_they_are() -> None:
    reads = Reads(encoded("mp2", "mp2", 40, rate=48000, bit_rate=384_000))

    assert measure(reads.file, is_ranged=True).seconds == pytest.approx(40, rel=0.02)
    assert (len(reads.spans) <= REQUESTS, reads.fetched < REQUESTED) == (True, True)


def test_an_apev2_tag_in_front_is_skipped_however_large() -> None:
    tag = b"APETAGEX" + struct.pack("<IIII", 2000, 60_000, 1, 0xA0000000) + bytes(8) + os.urandom(60_000)

    on_disk, in_storage = both(tag + without_header(30))

    assert (on_disk.kind, on_disk.seconds) == ("measured", pytest.approx(30, abs=0.2))
    assert in_storage.seconds == pytest.approx(30, rel=0.05)


# Anything at all


@settings(max_examples=60, deadline=None)
@given(
    seconds=st.floats(0.2, 20),
    rate=st.sampled_from([8000, 11025, 16000, 44100, 48000]),
    cut=st.floats(0, 0.3),
)
def test_a_wav_is_as_long_as_the_sound_that_is_there_and_cut_off_if_much_of_it_is_not(
    seconds: float, rate: int, cut: float
) -> None:
    content = wav(seconds, rate=rate, chunks=chunk(b"LIST", bytes(99)))
    sound = int(seconds * rate) * 2
    lost = int(sound * cut)

    found = measured(content[: len(content) - lost])

    assert found.seconds == pytest.approx((sound - lost) / rate / 2, abs=0.001)
    assert found.kind == (
        "not measurable" if sound > max((sound - lost) * 1.1, sound - lost + rate * 0.2) else "measured"
    )


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([WAV[:44], MP3[:300], M4A[:60], PLAIN[:2000], b"\0\0\0\x18ftypM4A ", b"ID3\x04"]),
    st.binary(max_size=300),
)
def test_any_bytes_have_an_answer(head: bytes, rest: bytes) -> None:
    for found in both(head + rest):
        if found.kind == "measured" and found.seconds:
            least = MIN_BYTES_PER_SECOND.get(found.format, 0)
            assert found.seconds * least <= len(head + rest)


def test_the_first_block_is_what_a_look_has_read() -> None:
    reads = Reads(wav(HOUR / 4))

    measure(reads.file, is_ranged=True)

    assert reads.spans == [(0, BLOCK_BYTES)]


def test_no_other_file_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(WAV)
    lists: list[Any] = [
        f"#EXTM3U\n#EXTINF:10,\n{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {secret}\n",
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns={secret}\n",
    ]

    for text in lists:
        assert measured(text.encode()).kind == "not measurable"
