"""Recordings for benchmarks, each with a transcript that the emulator hands out."""

from __future__ import annotations

import json
import random
import wave
from pathlib import Path

SEGMENTS = 20
SPOKEN = (
    "the customer asked for a copy of last month's invoice and wanted to know when the technician would come"
)
WORDS = SPOKEN.split()


def write_recordings(folder: Path, count: int) -> None:
    """Write short recordings, each unlike the others, with transcripts as of a few minutes of speech."""
    folder.mkdir(parents=True)
    rng = random.Random(count)
    for number in range(count):
        recording = folder / f"call-{number:05}.wav"
        with wave.open(str(recording), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(1)
            file.setframerate(8000)
            file.writeframes(b"\x80" * (1600 + number))
        recording.with_name(f"{recording.name}.json").write_text(json.dumps(transcript(rng, SEGMENTS)))


def transcript(rng: random.Random, segments: int) -> dict[str, object]:
    spoken = [
        {
            "start": index * 5.0,
            "end": index * 5.0 + 4.5,
            "speaker": f"Speaker {index % 2 + 1}",
            "text": " ".join(rng.choices(WORDS, k=12)),
        }
        for index in range(segments)
    ]
    return {"language": "en", "text": " ".join(str(one["text"]) for one in spoken), "segments": spoken}
