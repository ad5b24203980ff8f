"""An archive on disk and a server that hands it out, for tests of whole runs."""

from __future__ import annotations

import struct
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

#: Names that URLs, shells and glob patterns have ideas about.
STRANGE_NAMES = ("with space.wav", "100%.wav", "a#1.wav", "who?.wav", "smile 😀.wav", "50%25+b.wav")
#: What is no recording, by name; none of it may be paid for. Their content is made by ``write_bad``.
BAD_NAMES = ("empty.mp3", "text.wav", "26 hours.wav", "noise.mp3")


def write_recordings(folder: Path, count: int) -> None:
    """Write short recordings, each of another length, so that none is like another."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        write_recording(folder / f"call-{n:05}.wav", frames=800 + n)


def write_recording(path: Path, *, frames: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(b"\x80" * frames)


def write_strange(folder: Path) -> None:
    """Write recordings whose names are all that is strange about them."""
    for n, name in enumerate(STRANGE_NAMES):
        write_recording(folder / name, frames=9000 + n)


def write_bad(folder: Path) -> None:
    """Write what can be known to be no recording before anything is paid."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "empty.mp3").write_bytes(b"")
    (folder / "text.wav").write_text("This is not a recording.\n" * 50)
    (folder / "noise.mp3").write_bytes(bytes(range(7, 250)) * 40)
    # 26 hours of 8 kHz are claimed, a second is there.
    claimed = 26 * 3600 * 8000
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        claimed + 36,
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        8000,
        8000,
        1,
        8,
        b"data",
        claimed,
    )
    (folder / "26 hours.wav").write_bytes(header + b"\x80" * 8000)


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of 127.0.0.1; yields its base URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
