"""gs:// and abfs:// with their real libraries, which sign by themselves, against a small storage of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from plaud_provider.exceptions import PlaudConfigurationError, PlaudError, PlaudInputError
from plaud_provider.handover.kept_results import ResultStore
from plaud_provider.handover.manifest import read_manifest, write_manifest
from plaud_provider.recordings.examine import examine
from plaud_provider.recordings.listing import list_recordings
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.recordings.sources import AudioSource, audio_source
from tests.unit.handover.test_kept_results import transcription
from tests.unit.recordings.sounds import M4A, MP3, WAV
from tests.unit.recordings.test_strange_names import NAMES
from tests.unit.storage.other_storages import AUDIO, Storage


def source(reference: str) -> AudioSource:
    return audio_source(AudioReference(reference), url_validity=timedelta(hours=6), public_urls={})


STORAGES = [("gcs", "gs://calls"), ("azure", "abfs://azure_calls@calls")]


@pytest.mark.parametrize(("fixture", "bucket"), STORAGES)
def test_an_object_is_looked_up_and_signed(fixture: str, bucket: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(fixture)
    recording = source(f"{bucket}/2024/a b#1.wav")

    assert recording.look()
    url = recording.url().reveal()
    assert requests.get(url, timeout=10).content == AUDIO
    query = parse_qs(urlsplit(url).query)
    if fixture == "gcs":
        assert query["X-Goog-Algorithm"] == ["GOOG4-RSA-SHA256"]
        assert query["X-Goog-Expires"] == ["21600"]
    else:
        assert query["sp"] == ["r"]
        assert query["sr"] == ["b"]


@pytest.mark.parametrize(("fixture", "bucket"), STORAGES)
def test_what_plaud_could_not_fetch_is_told(
    fixture: str, bucket: str, request: pytest.FixtureRequest, storage: tuple[str, type[Storage]]
) -> None:
    request.getfixturevalue(fixture)

    with pytest.raises(PlaudInputError, match="does not exist"):
        source(f"{bucket}/no.wav").look()
    with pytest.raises(PlaudInputError, match="is empty"):
        source(f"{bucket}/empty.wav").look()
    storage[1].status = 403
    with pytest.raises(PlaudConfigurationError, match="may not be looked up"):
        source(f"{bucket}/2024/a b#1.wav").look()


def test_a_blob_is_archived_until_it_has_another_tier(
    azure: None, storage: tuple[str, type[Storage]]
) -> None:
    recording = source("abfs://azure_calls@calls/2024/a b#1.wav")
    storage[1].tier = "Archive"

    with pytest.raises(PlaudInputError, match=r"is archived, and cannot be read: restore it first"):
        recording.look()
    for tier in ("Hot", "Cool", "Cold", ""):
        storage[1].tier = tier
        assert recording.look()


@pytest.mark.parametrize(
    ("fixture", "bucket", "refusal", "message"),
    [
        ("azure", "abfs://azure_calls@calls", (409, "BlobArchived"), "is archived"),
        ("azure", "abfs://azure_calls@calls", (409, "BlobBeingRehydrated"), "is archived"),
        ("azure", "abfs://azure_calls@calls", (403, "AuthorizationPermissionMismatch"), "may not be read"),
        ("gcs", "gs://calls", (403, "forbidden"), "may not be read with.*allow its key"),
        (
            "gcs",
            "gs://calls",
            (400, "customerEncryptionKeyIsIncorrect"),
            "may not be read with.*allow its key",
        ),
    ],
)
def test_an_object_that_is_there_and_may_not_be_read_is_told(
    fixture: str,
    bucket: str,
    refusal: tuple[int, str],
    message: str,
    request: pytest.FixtureRequest,
    storage: tuple[str, type[Storage]],
) -> None:
    request.getfixturevalue(fixture)
    storage[1].read_refusal = refusal

    with pytest.raises(PlaudInputError, match=message):
        source(f"{bucket}/2024/a b#1.wav").look()


@pytest.mark.parametrize(("fixture", "bucket"), STORAGES)
def test_a_further_look_asks_once_reads_nothing_again_and_sees_what_is_there(
    fixture: str, bucket: str, request: pytest.FixtureRequest, storage: tuple[str, type[Storage]]
) -> None:
    request.getfixturevalue(fixture)
    recording = source(f"{bucket}/2024/a b#1.wav")
    first = recording.look()
    storage[1].queries = []

    assert recording.look() == first
    assert len(storage[1].queries) == 1
    storage[1].objects = {"2024/a b#1.wav": b"RIFF another one"}
    second = recording.look()
    assert second not in (first, None)
    with recording.open() as file:
        assert file.read() == b"RIFF another one"
    storage[1].objects = {}
    with pytest.raises(PlaudInputError, match="does not exist"):
        recording.look()


def test_the_version_of_a_google_object_is_its_hash(
    gcs: Callable[..., None], storage: tuple[str, type[Storage]]
) -> None:
    first = source("gs://calls/2024/a b#1.wav").look()
    storage[1].generation = "2"
    gcs()

    assert source("gs://calls/2024/a b#1.wav").look() == first


def test_google_credentials_that_cannot_sign_are_told(gcs: Callable[..., None]) -> None:
    from google.oauth2.credentials import Credentials

    gcs(Credentials("user-token"))

    with pytest.raises(PlaudConfigurationError, match=r"could not be signed.*needs a service account key"):
        source("gs://calls/2024/a b#1.wav").url()


def test_azure_without_the_account_key_is_told(
    storage: tuple[str, type[Storage]], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "wasb", "extra": {"account_name": "account", "sas_token": "sv=1&sig=canary"}}
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_SAS", json.dumps(connection))

    with pytest.raises(PlaudConfigurationError, match=r"could not be signed.*account's name") as refused:
        source("abfs://azure_sas@calls/a.wav").url()
    assert "canary" not in str(refused.value)


def test_azure_without_a_connection_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlaudConfigurationError, match=r"default credentials did not lead.*account's name"):
        source("abfs://calls/a.wav").look()


def test_azures_own_form_needs_the_account_that_it_names(azure: None) -> None:
    here = "abfss://azure_calls@calls@account.dfs.core.windows.net/2024/a b#1.wav"
    elsewhere = "abfss://azure_calls@calls@other.dfs.core.windows.net/2024/a b#1.wav"

    assert source(here).look()
    with pytest.raises(PlaudConfigurationError, match="account 'other', but connection 'azure_calls'"):
        source(elsewhere).look()


# Names of any kind, listed, read and fetched


@pytest.mark.parametrize("has_md5", [True, False])
@pytest.mark.parametrize(("fixture", "bucket"), STORAGES)
def test_an_object_of_any_name_is_listed_looked_at_measured_signed_and_fetched(
    fixture: str,
    bucket: str,
    has_md5: bool,
    request: pytest.FixtureRequest,
    storage: tuple[str, type[Storage]],
    tmp_path: Path,
) -> None:
    request.getfixturevalue(fixture)
    names = [name for name in NAMES if not name.startswith(".")]
    storage[1].objects = {f"2024/{name}": WAV + name.encode() for name in names}
    storage[1].has_md5 = has_md5

    (chunk,) = write_manifest(list_recordings(f"{bucket}/2024"), str(tmp_path))
    listed = {found.uri.removeprefix(f"{bucket}/2024/"): found for found in read_manifest(chunk)}

    assert list(listed) == sorted(names)
    for name, found in listed.items():
        recording = source(found.uri)
        assert recording.look() == found.version
        assert found.version
        assert found.size == len(storage[1].objects[f"2024/{name}"])
        assert found.modified == datetime(2026, 11, 22, tzinfo=UTC)
        assert examine(recording).seconds == pytest.approx(7.74, abs=0.01)
        assert requests.get(recording.url().reveal(), timeout=10).content == WAV + name.encode()


@pytest.mark.parametrize(("fixture", "bucket"), STORAGES)
def test_a_listing_goes_from_page_to_page(
    fixture: str, bucket: str, request: pytest.FixtureRequest, storage: tuple[str, type[Storage]]
) -> None:
    request.getfixturevalue(fixture)
    keys = ["05/b.wav", "05/c.wav", "a.wav", "d.mp3", "e.m4a"]
    storage[1].objects = dict.fromkeys(keys, b"RIFF")
    storage[1].page_size = 2

    listed = [found.uri for found in list_recordings(bucket)]

    assert listed == [f"{bucket}/{key}" for key in keys]
    listed = [found.uri for found in list_recordings(bucket, recursive=False)]
    assert listed == [f"{bucket}/{key}" for key in keys[2:]]


@pytest.mark.parametrize(("fixture", "bucket"), STORAGES)
@pytest.mark.parametrize(("content", "container"), [(WAV, "WAV"), (MP3, "MP3"), (M4A, "M4A")])
def test_a_recording_is_measured_by_ranged_reads(
    fixture: str,
    bucket: str,
    content: bytes,
    container: str,
    request: pytest.FixtureRequest,
    storage: tuple[str, type[Storage]],
) -> None:
    request.getfixturevalue(fixture)
    storage[1].objects = {"a.wav": content}

    assert examine(source(f"{bucket}/a.wav")).format == container.lower()


def test_folders_of_an_azure_account_with_a_hierarchy_are_not_listed(
    azure: None, storage: tuple[str, type[Storage]]
) -> None:
    storage[1].objects = {"2024": b"", "2024/x.wav": b"", "2024/x.wav/a.wav": b"RIFF"}
    storage[1].folders = {"2024", "2024/x.wav"}

    listed = [found.uri for found in list_recordings("abfs://azure_calls@calls/2024")]

    assert listed == ["abfs://azure_calls@calls/2024/x.wav/a.wav"]
    with pytest.raises(PlaudInputError, match="is a folder"):
        source("abfs://azure_calls@calls/2024/x.wav").look()


def test_azures_own_form_is_listed_in_its_own_form(azure: None) -> None:
    root = "abfss://azure_calls@calls@account.dfs.core.windows.net/"

    listed = [found.uri for found in list_recordings(root)]

    assert listed == [f"{root}2024/a b#1.wav", f"{root}empty.wav"]
    assert source(listed[0]).look()


@pytest.mark.parametrize(("fixture", "bucket"), STORAGES)
def test_a_folder_that_cannot_be_listed_is_told(
    fixture: str, bucket: str, request: pytest.FixtureRequest, storage: tuple[str, type[Storage]]
) -> None:
    request.getfixturevalue(fixture)

    with pytest.raises(PlaudInputError, match=r"path: .*/2023' does not exist in its storage"):
        list(list_recordings(f"{bucket}/2023"))
    with pytest.raises(PlaudInputError, match="is a file; pass the folder"):
        list(list_recordings(f"{bucket}/2024/a b#1.wav"))
    with pytest.raises(PlaudInputError, match="there is no such bucket or container"):
        list(list_recordings(bucket.replace("calls", "other").replace("azure_other", "azure_calls")))
    storage[1].status = 403
    with pytest.raises(PlaudConfigurationError, match="may not be listed with"):
        list(list_recordings(bucket))


@pytest.mark.parametrize(("fixture", "bucket"), STORAGES)
def test_results_are_saved_loaded_and_removed(
    fixture: str, bucket: str, request: pytest.FixtureRequest, storage: tuple[str, type[Storage]]
) -> None:
    request.getfixturevalue(fixture)
    store = ResultStore(f"{bucket}/results")
    saved = transcription()

    assert store.load("eu", "txn_1") is None
    store.save(saved, "eu")
    store.save(saved, "eu")
    assert store.load("eu", "txn_1") == saved
    store.remove_landed("eu", ["txn_1", "txn_2"], keep_raw=False)
    assert store.load("eu", "txn_1") is None

    storage[1].status = 403
    with pytest.raises(PlaudConfigurationError, match=r"results_path: .* may not be read with"):
        store.load("eu", "txn_1")


@pytest.mark.parametrize(("fixture", "bucket"), STORAGES)
def test_chunks_are_written_and_stale_ones_removed(
    fixture: str, bucket: str, request: pytest.FixtureRequest, storage: tuple[str, type[Storage]]
) -> None:
    request.getfixturevalue(fixture)
    found = list(list_recordings(bucket))

    paths = write_manifest(found, f"{bucket}/manifests", chunk_size=1)
    assert [read_manifest(path) for path in paths] == [[recording] for recording in found]
    assert write_manifest(found[:1], f"{bucket}/manifests", chunk_size=1) == paths[:1]
    with pytest.raises(PlaudError, match="does not exist"):
        read_manifest(paths[1])
