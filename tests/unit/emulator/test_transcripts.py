from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.emulator.settings import Settings
from plaud_provider.emulator.transcripts import read_sidecar

RECORDINGS = Path(__file__).parents[3] / "demo" / "recordings"


@pytest.mark.parametrize("path", sorted(path.name for path in RECORDINGS.glob("*.json")))
def test_a_recording_with_a_transcript_beside_it_gets_that(client, path):
    recording = path.removesuffix(".json")
    sidecar = json.loads((RECORDINGS / path).read_bytes())
    result = client.transcribed(recording, speakerDiarization=True)
    assert set(result) == {
        "transcriptionId", "status", "text", "language", "duration", "segments", "completedAt"
    }  # fmt: skip
    assert result["status"] == "completed"
    assert (result["text"], result["language"]) == (sidecar["text"], sidecar["language"])
    assert result["segments"] == sidecar["segments"]
    assert 0 == result["segments"][0]["start"] < result["segments"][-1]["end"] <= result["duration"]


def test_a_recording_is_known_by_its_bytes_not_its_name(client):
    assert client.transcribed("nested/grüße & mehr.wav")["text"].startswith("Hello, this is Marcus")


def test_speakers_are_named_only_when_asked_for(client):
    segments = client.transcribed("support-call.wav")["segments"]
    assert [set(segment) for segment in segments] == [{"start", "end", "text"}] * 4


def test_a_language_that_was_asked_for_is_echoed(client):
    assert client.transcribed("bestellung.mp3", language="de-AT")["language"] == "de-AT"


def test_a_recording_without_a_transcript_says_that_nothing_was_recognised(client):
    result = client.transcribed("unknown.wav")
    assert "no speech recognition was run" in result["text"]
    assert "WAV" in result["text"]
    assert "7.74 seconds" in result["text"]
    assert result["segments"] == [{"start": 0.0, "end": result["duration"], "text": result["text"]}]


def test_a_transcript_that_is_added_while_running_is_found(start, tmp_path):
    client = start(transcripts=(tmp_path,)).sign_in()
    assert "no speech recognition" in client.transcribed("voicemail.wav")["text"]
    folder = tmp_path / "2026" / "03"
    folder.mkdir(parents=True)
    for name in ("voicemail.wav", "voicemail.wav.json"):
        shutil.copy(RECORDINGS / name, folder)
    assert client.transcribed("voicemail.wav")["text"].startswith("Hello, this is Marcus")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "not valid JSON"),
        ("[]", "object"),
        ('{"text": "", "segments": []}', "language"),
        ('{"language": "en", "segments": []}', "text"),
        ('{"language": "en", "text": ""}', "segments"),
        ('{"language": "en", "text": "", "segments": [1]}', "segment"),
        ('{"language": "en", "text": "", "segments": [{"start": "0", "end": 1, "text": ""}]}', "start"),
        ('{"language": "en", "text": "", "segments": [{"start": 0, "end": NaN, "text": ""}]}', "end"),
        ('{"language": "en", "text": "", "segments": [{"start": 0, "end": 1}]}', "text"),
    ],
)
def test_a_transcript_that_is_none_is_refused_by_name(tmp_path, content, named):
    sidecar = tmp_path / "a.wav.json"
    sidecar.write_text(content)
    with pytest.raises(ValueError, match=rf"a\.wav\.json.*{named}"):
        read_sidecar(sidecar)


def test_an_emulator_does_not_start_with_a_broken_transcript(tmp_path):
    shutil.copy(RECORDINGS / "voicemail.wav", tmp_path)
    (tmp_path / "voicemail.wav.json").write_text("{")
    with pytest.raises(ValueError, match="voicemail"):
        EmulatorServer(Settings(transcripts=(tmp_path,)))
