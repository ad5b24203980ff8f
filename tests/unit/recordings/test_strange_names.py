"""Names of all kinds, from the listing to what Plaud fetches."""

from __future__ import annotations

import functools
import http.server
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Thread
from urllib.parse import unquote_to_bytes

import pytest
import requests

from plaud_provider.handover.manifest import read_manifest, write_manifest
from plaud_provider.recordings.examine import examine
from plaud_provider.recordings.identity import recording_key
from plaud_provider.recordings.listing import Found, list_recordings
from plaud_provider.recordings.local_files import validate_public_urls
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.recordings.sources import AudioSource, audio_source
from tests.unit.recordings.sounds import WAV
from tests.unit.s3_server import S3Server

NAMES = [
    "a b.wav",
    " begins and ends with a space .wav",
    "100%.wav",
    "a%20b.wav",
    "a%2Fb%00.wav",
    "#1.wav",
    "a#b?c.wav",
    "a?b#c.wav",
    "what?.wav",
    "what?versionId=3.wav",
    "what?versionid=3&x.wav",
    "what?generation=3.wav",
    "what?X-Amz-Signature=1&token=2.wav",
    "a+b&c=d;e,f@g:h.wav",
    "quotes '\"`.wav",
    "[1]{2}(3)<4>|5*6.wav",
    "~$!^.wav",
    "back\\slash.wav",
    "grüße 🎤.wav",
    "👩‍👩‍👧 नमस्ते שלום.wav",
    "e\u0301 and é.wav",
    "tab\there.wav",
    "...dots...wav",
]
FOLDERS = ["", "a b/", "50%/#1?/🎤/"]


def source(uri: str, public_urls: dict[str, str] | None = None) -> AudioSource:
    return audio_source(
        AudioReference(uri), url_validity=timedelta(hours=1), public_urls=validate_public_urls(public_urls)
    )


def key(uri: str, version: str | None) -> str:
    return recording_key(
        AudioReference(uri),
        version=version,
        language=None,
        speaker_diarization=False,
        region="us",
        client_id="client",
    )


def fetched(recording: AudioSource) -> bytes:
    return requests.get(recording.url().reveal(), timeout=10).content


@pytest.fixture(scope="module")
def listed(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """All of them in one bucket, as a manifest gives them back, by their keys."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("AIRFLOW_CONN_AWS_CALLS", s3_server.connection())
        s3_server.reset()
        for folder in FOLDERS:
            for name in NAMES:
                s3_server.put(f"2024/{folder}{name}", WAV + name.encode())
        found = list_recordings("s3://aws_calls@calls/2024")
        chunks = write_manifest(found, str(tmp_path_factory.mktemp("manifest")), chunk_size=1000)
        recordings = read_manifest(chunks[0])
    return {recording.uri.removeprefix("s3://aws_calls@calls/2024/"): recording for recording in recordings}


@pytest.fixture
def storage(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    monkeypatch.setenv("AIRFLOW_CONN_AWS_CALLS", s3_server.connection())
    return s3_server


def test_every_name_is_listed_but_hidden_ones(listed: dict[str, Found]) -> None:
    expected = {folder + name for folder in FOLDERS for name in NAMES if not name.startswith(".")}

    assert set(listed) == expected


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(".")])
def test_an_object_of_any_name_is_listed_looked_at_measured_signed_and_fetched(
    listed: dict[str, Found], storage: S3Server, folder: str, name: str
) -> None:
    found = listed[folder + name]
    recording = source(found.uri)

    assert recording.look() == found.version
    assert examine(recording).seconds == pytest.approx(7.74, abs=0.01)
    assert fetched(recording) == WAV + name.encode()


@pytest.mark.parametrize("name", NAMES)
def test_a_single_submit_of_any_name_is_the_same_recording(
    listed: dict[str, Found], storage: S3Server, name: str
) -> None:
    reference = f"s3://aws_calls@calls/2024/{name}"
    version = source(reference).look()

    if name.startswith("."):
        assert name not in listed
    else:
        assert key(reference, version) == key(listed[name].uri, listed[name].version)


# Local files


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def translate_path(self, path: str) -> str:
        """As the inherited one, which takes names for UTF-8."""
        return os.path.join(self.directory, os.fsdecode(unquote_to_bytes(path)).lstrip("/"))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    folder = tmp_path / "50% #1?"
    folder.mkdir()
    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield folder, {str(folder): f"http://127.0.0.1:{server.server_port}/"}
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_local_file_of_any_name_is_listed_looked_at_measured_and_fetched(
    served: tuple[Path, dict[str, str]], tmp_path: Path, prefix: str
) -> None:
    folder, urls = served
    # Names of local files are bytes, and need not be text.
    names = [name for name in NAMES if not name.startswith(".")]
    names += ["line\nbreak.wav", os.fsdecode(b"caf\xe9.wav")]
    for name in names:
        (folder / name).write_bytes(WAV + os.fsencode(name))

    chunks = write_manifest(list_recordings(f"{prefix}{folder}/"), str(tmp_path / "manifest"))
    listed = read_manifest(chunks[0])

    assert [found.uri for found in listed] == [f"{prefix}{folder}/{name}" for name in sorted(names)]
    for found, name in zip(listed, sorted(names), strict=True):
        recording = source(found.uri, urls)
        assert recording.look()
        assert examine(recording).seconds == pytest.approx(7.74, abs=0.01)
        assert fetched(recording) == WAV + os.fsencode(name)
