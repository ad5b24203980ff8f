"""Names that a reader, a form or a library may take for one another are different recordings, everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
import requests

from plaud_provider.exceptions import PlaudInputError
from plaud_provider.handover.kept_results import ResultStore
from plaud_provider.handover.manifest import Keyed, read_keys, read_manifest, write_keys, write_manifest
from plaud_provider.recordings.examine import examine
from plaud_provider.recordings.listing import list_recordings
from plaud_provider.recordings.local_files import validate_public_urls
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.recordings.sources import AudioSource, audio_source
from tests.unit.handover.test_kept_results import transcription
from tests.unit.recordings.sounds import WAV
from tests.unit.recordings.test_strange_names import key
from tests.unit.recordings.test_strange_names import served as served
from tests.unit.s3_server import S3Server
from tests.unit.storage.other_storages import Storage

ALIKE = [
    "a.wav",
    "a.wav ",
    " a.wav",
    "a .wav",
    "a.wav\n",
    "\na.wav",
    "a.wav\t",
    "a.wav\r",
    "a.wav\xa0",
    "a.wav\u3000",
    "A.wav",
    "a.WAV",
    "a%20.wav",
    "a.wav%20",
    "%61.wav",
    "a+.wav",
    "é.wav",
    "e\u0301.wav",
    "\ufb01.wav",
    "fi.wav",
    "ß.wav",
    "ss.wav",
]


class Place:
    """
    A folder with a recording of each name; the content of each tells its name.

    :param root: Reference to the folder.
    :param public_urls: From where a local one is served.
    """

    def __init__(self, root: str, public_urls: dict[str, str] | None = None) -> None:
        self.root = root
        self._public_urls = validate_public_urls(public_urls)

    def source(self, uri: str) -> AudioSource:
        return audio_source(
            AudioReference(uri), url_validity=timedelta(hours=1), public_urls=self._public_urls
        )


def content(name: str) -> bytes:
    return WAV + os.fsencode(name)


@pytest.fixture(params=["s3", "local", "gs", "abfs"])
def place(request: pytest.FixtureRequest) -> Place:
    fixture: Callable[[str], object] = request.getfixturevalue
    if request.param == "s3":
        s3 = fixture("s3")
        assert isinstance(s3, S3Server)
        for name in ALIKE:
            s3.put(f"2024/{name}", content(name))
        return Place("s3://aws_calls@calls/2024/")
    if request.param == "local":
        folder, urls = request.getfixturevalue("served")
        for name in ALIKE:
            (folder / name).write_bytes(content(name))
        return Place(f"{folder}/", urls)
    storage: type[Storage] = request.getfixturevalue("storage")[1]
    storage.objects = {f"2024/{name}": content(name) for name in ALIKE}
    fixture("gcs" if request.param == "gs" else "azure")
    return Place("gs://calls/2024/" if request.param == "gs" else "abfs://azure_calls@calls/2024/")


def test_names_that_look_alike_are_listed_handed_over_looked_up_signed_and_fetched_as_different_recordings(
    place: Place, tmp_path: Path
) -> None:
    chunks = write_manifest(list_recordings(place.root, suffixes=[]), str(tmp_path / "manifest"))
    listed = {found.uri: found for found in read_manifest(chunks[0])}

    assert set(listed) == {place.root + name for name in ALIKE}
    for name in ALIKE:
        uri = place.root + name
        recording = place.source(uri)
        assert listed[uri].version in (None, recording.look())
        assert examine(recording).seconds == pytest.approx(7.74, abs=0.01)
        url = recording.url().reveal()
        assert unquote_to_bytes(urlsplit(url).path).rpartition(b"/")[2] == os.fsencode(name)
        assert requests.get(url, timeout=10).content == content(name)
    keys = [Keyed(key(place.root + name, "the same"), place.root + name) for name in ALIKE]
    write_keys(chunks[0], keys)
    assert len({keyed.key for keyed in keys}) == len(ALIKE)
    assert read_keys(chunks[0]) == keys


@pytest.mark.parametrize("name", ["b.wav ", " b.wav", "b.wav\n", "B.wav", "b%2Ewav"])
def test_a_name_that_only_looks_like_one_that_is_there_does_not_exist(
    s3: S3Server, served: tuple[Path, dict[str, str]], name: str
) -> None:
    folder, urls = served
    s3.put("b.wav", WAV)
    (folder / "b.wav").write_bytes(WAV)

    for place in (
        Place("s3://aws_calls@calls/"),
        Place(f"{folder}/", urls),
        Place(f"file://{folder}/", urls),
    ):
        assert place.source(f"{place.root}b.wav").look()
        with pytest.raises(PlaudInputError, match=r"does not exist.*not percent-decoded"):
            place.source(place.root + name).look()


@pytest.mark.parametrize("name", ["2024", "2024 ", "2024\n", "\n2024", " 2024", "é", "e\u0301", "20%2024"])
@pytest.mark.parametrize("kind", ["s3", "local", "file"])
def test_a_folder_is_taken_as_it_is_named(s3: S3Server, tmp_path: Path, kind: str, name: str) -> None:
    roots = {"s3": "s3://aws_calls@calls", "local": str(tmp_path), "file": f"file://{tmp_path}"}
    folder = f"{roots[kind]}/{name}"
    for other in ("2024", "2024 ", "2024\n", "\n2024", " 2024", "é", "e\u0301", "20%2024"):
        s3.put(f"{other}/a.wav", WAV)
        (tmp_path / other).mkdir()
        (tmp_path / other / "a.wav").write_bytes(WAV)

    found = list(list_recordings(f" {folder}"))
    assert [recording.uri for recording in found] == [f"{folder}/a.wav"]
    [chunk] = write_manifest(found, folder)
    assert chunk == f"{folder}/chunk-00001.jsonl"
    assert read_manifest(chunk) == found
    store = ResultStore(folder)
    store.save(transcription(), "eu")
    assert store.load("eu", "txn_1") == transcription()
    written = {path.parent.name for path in tmp_path.rglob("*.json")} - {"x"}
    written |= {
        listed["Key"].partition("/")[0]
        for listed in s3.client.list_objects_v2(Bucket="calls")["Contents"]
        if listed["Key"].endswith(".json")
    }
    assert written == {name}


def test_a_folder_that_is_served_is_taken_as_it_is_named(tmp_path: Path) -> None:
    for name in ("calls", "calls ", "calls\n"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").write_bytes(WAV)
    place = Place(f"{tmp_path}/calls /", {f"{tmp_path}/calls ": "https://files.example"})

    assert place.source(f"{tmp_path}/calls /a.wav").look()
    for name in ("calls", "calls\n"):
        with pytest.raises(PlaudInputError, match="is a local file, which Plaud cannot fetch"):
            place.source(f"{tmp_path}/{name}/a.wav")
