"""Recordings, and files that pretend to be some."""

from __future__ import annotations

import struct
from pathlib import Path

RECORDINGS = Path(__file__).parents[3] / "demo" / "recordings"
WAV = (RECORDINGS / "voicemail.wav").read_bytes()
MP3 = (RECORDINGS / "bestellung.mp3").read_bytes()
M4A = (RECORDINGS / "standup-memo.m4a").read_bytes()
WAV_SECONDS, MP3_SECONDS, M4A_SECONDS = 7.74, 15.984, 13.989

# Its first frame says how many frames and bytes there are.
_TAG = MP3[:20]


def wav(
    seconds: float = 1.0,
    *,
    rate: int = 8000,
    claimed: int | None = None,
    chunks: bytes = b"",
    encoding: int = 1,
    align: int = 2,
    byte_rate: int | None = None,
) -> bytes:
    """Return a WAV of silence, whose header may claim another number of bytes."""
    sound = bytes(int(seconds * rate) * 2)
    about = struct.pack("<HHIIHH", encoding, 1, rate, rate * 2 if byte_rate is None else byte_rate, align, 16)
    size = len(sound) if claimed is None else claimed
    body = b"WAVE" + chunk(b"fmt ", about) + chunks + b"data" + struct.pack("<I", size) + sound
    return b"RIFF" + struct.pack("<I", len(body)) + body


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def atom(name: bytes, content: bytes = b"", *, length: int | None = None) -> bytes:
    return struct.pack(">I", 8 + len(content) if length is None else length) + name + content


def movie_header(seconds: float, *, version: int = 0) -> bytes:
    if version == 0:
        return atom(b"mvhd", bytes(12) + struct.pack(">II", 1000, int(seconds * 1000)) + bytes(80))
    return atom(b"mvhd", bytes([version]) + bytes(19) + struct.pack(">IQ", 1000, int(seconds * 1000)))


def m4a(seconds: float, sound: int = 100_000, *, version: int = 0, moov_first: bool = True) -> bytes:
    movie = atom(b"moov", movie_header(seconds, version=version))
    parts = [movie, atom(b"mdat", bytes(sound))]
    return atom(b"ftyp", b"M4A \0\0\0\0") + b"".join(parts if moov_first else reversed(parts))


def mp3_without_header() -> bytes:
    """Return an MP3 of a constant rate that does not say how long it is."""
    frames = MP3[len(_TAG) :]
    second = frames.index(b"\xff\xf3", 4)
    return _TAG + frames[second:]


def mp3_that_claims(seconds: float, *, byte_count: int | None = None) -> bytes:
    """Return an MP3 whose header is of a recording so long, with so many bytes."""
    at = MP3.index(b"Info") + 8
    frames = int(seconds * 16000 / 576)
    claimed = int.from_bytes(MP3[at + 4 : at + 8]) if byte_count is None else byte_count
    return MP3[:at] + struct.pack(">II", frames, claimed) + MP3[at + 8 :]
