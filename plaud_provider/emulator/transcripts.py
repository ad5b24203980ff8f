"""Transcripts: from a file beside a known recording, or a sentence that says that there is none."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from plaud_provider.emulator.audio import UNSEEN, Audio

logger = logging.getLogger("plaud_provider.emulator")

AUDIO_SUFFIXES = (".wav", ".mp3", ".m4a")


@dataclass(frozen=True, slots=True)
class Transcript:
    """
    What was said.

    :param language: BCP-47 code.
    :param segments: ``start`` and ``end`` in seconds, ``speaker`` and ``text``.
    """

    language: str
    text: str
    segments: tuple[dict[str, Any], ...]


class TranscriptLibrary:
    """
    Transcripts of known recordings, found by the sha256 of the recording.

    A recording ``NAME.wav`` (or ``.mp3``, ``.m4a``) with a ``NAME.wav.json`` beside it is known; the JSON has
    ``language``, ``text`` and ``segments``.

    :param folders: Where they are; folders below are searched too.
    :raises ValueError: if a transcript is not as described.
    """

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders = folders
        self._lock = Lock()
        self._seen: frozenset[tuple[str, int]] = frozenset()
        self._transcripts: dict[str, Transcript] = {}
        self._scan(strict=True)

    def __len__(self) -> int:
        return len(self._transcripts)

    def find(self, sha256: str) -> Transcript | None:
        """Return the transcript of a recording; folders that have changed are read again first."""
        with self._lock:
            if sha256 not in self._transcripts and self._folder_times() != self._seen:
                self._scan(strict=False)
            return self._transcripts.get(sha256)

    def _scan(self, *, strict: bool) -> None:
        self._seen = self._folder_times()
        for sidecar in self._sidecars():
            try:
                transcript = read_sidecar(sidecar)
            except (ValueError, OSError):
                if strict:
                    raise
                logger.warning("%s is not a transcript; left out", sidecar)
                continue
            with sidecar.with_suffix("").open("rb") as recording:
                self._transcripts[hashlib.file_digest(recording, "sha256").hexdigest()] = transcript

    def _sidecars(self) -> Iterator[Path]:
        for folder in self._folders:
            for sidecar in sorted(folder.rglob("*.json")):
                recording = sidecar.with_suffix("")
                if recording.suffix.lower() in AUDIO_SUFFIXES and recording.is_file():
                    yield sidecar

    def _folder_times(self) -> frozenset[tuple[str, int]]:
        folders = [path for top in self._folders for path in (top, *top.rglob("*/")) if path.is_dir()]
        return frozenset((str(path), path.stat().st_mtime_ns) for path in folders)


def read_sidecar(path: Path) -> Transcript:
    """
    Read a transcript.

    :raises ValueError: if it is not one; the message names the file and the field.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}).") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: an object with language, text and segments is expected.")
    for name in ("language", "text"):
        if not isinstance(content.get(name), str):
            raise ValueError(f"{path}: {name} is missing or not a string.")
    segments = content.get("segments")
    if not isinstance(segments, list):
        raise ValueError(f"{path}: segments is missing or not a list.")
    return Transcript(content["language"], content["text"], tuple(_segment(path, item) for item in segments))


def _segment(path: Path, item: object) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise ValueError(f"{path}: a segment is not an object.")
    for name in ("start", "end"):
        seconds = item.get(name)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
            raise ValueError(f"{path}: {name} of a segment is not a number of seconds.")
    if not isinstance(item.get("text"), str) or not isinstance(item.get("speaker", ""), str):
        raise ValueError(f"{path}: text and speaker of a segment are strings.")
    return {
        "start": item["start"],
        "end": item["end"],
        "text": item["text"],
        "speaker": item.get("speaker", "Speaker 1"),
    }


def placeholder(audio: Audio) -> Transcript:
    """Return the transcript of a recording that is not in the library: it says plainly what it is."""
    text = "This is the Plaud emulator: no speech recognition was run. "
    if audio is UNSEEN:
        text += "The recording was not downloaded either; its length is made up."
    else:
        text += f"The recording is a {audio.container} file of {audio.duration:g} seconds."
    segment = {"start": 0.0, "end": audio.duration, "text": text, "speaker": "Speaker 1"}
    return Transcript("en", text, (segment,))
