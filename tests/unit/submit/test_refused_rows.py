"""What cannot be submitted is a row with its reason, also where it is the only one; what is wrong with an
argument or a connection is told, and is no mark on a recording."""

from __future__ import annotations

from typing import Any

import pytest

from plaud_provider.exceptions import PlaudConfigurationError, PlaudInputError
from plaud_provider.handover.manifest import write_manifest
from plaud_provider.ledger.ledger import State
from plaud_provider.recordings.listing import Found, list_recordings
from plaud_provider.recordings.stored_objects import StoredObject
from tests.unit.operators.archives import Archive
from tests.unit.recordings.sounds import wav
from tests.unit.s3_server import S3Server

FOLDER = "s3://aws_calls@calls/"


def list_into_chunk(archive: Archive, path: str, run_id: str = "run") -> None:
    found = list_recordings(path, suffixes=[])
    write_manifest(found, str(archive.results / "manifests" / run_id))


def is_one_refused_row(archive: Archive, reason: str) -> bool:
    """Submit a chunk of one recording; whether it became a row with a reason, and stays so."""
    counts = archive.submit()
    assert (counts["total"], counts["new"], counts["refused"]) == (1, 0, 1)
    assert archive.submit(try_number=2)["failed_before"] == 1, "once"
    [entry] = archive.entries().values()
    assert archive.plaud.ledger(kind="submit") == []
    assert archive.count()["failed"] == 1
    return entry.state is State.FAILED and reason in (entry.error or "")


def test_a_file_that_is_no_recording(archive: Archive) -> None:
    archive.folder.mkdir(parents=True)
    (archive.folder / "readme.txt").write_text("Calls of March.")
    list_into_chunk(archive, str(archive.folder))

    assert is_one_refused_row(archive, "is no WAV, MP3 or M4A recording")


@pytest.mark.parametrize("content", [b"", b"not a sound at all" * 100])
def test_a_recording_without_sound(archive: Archive, content: bytes) -> None:
    archive.folder.mkdir(parents=True)
    (archive.folder / "a.wav").write_bytes(content)
    list_into_chunk(archive, str(archive.folder))

    assert is_one_refused_row(archive, "is")


@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
def test_an_object_that_is_archived(archive: Archive, s3: S3Server, storage_class: str) -> None:
    s3.put("a.wav", wav(1.0), StorageClass=storage_class)
    list_into_chunk(archive, FOLDER)

    assert is_one_refused_row(archive, "archived")


def test_several_that_are_archived_are_as_many_rows(archive: Archive, s3: S3Server) -> None:
    for name in ("a.wav", "b.wav"):
        s3.put(name, wav(1.0), StorageClass="GLACIER")
    list_into_chunk(archive, FOLDER)

    assert archive.submit()["refused"] == 2
    assert archive.states() == {"a.wav": "failed", "b.wav": "failed"}


def test_an_object_that_may_not_be_looked_up(
    archive: Archive, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("a.wav", wav(1.0))
    list_into_chunk(archive, FOLDER)
    monkeypatch.setattr(StoredObject, "look", denied)

    assert is_one_refused_row(archive, "may not be looked up")


def test_objects_none_of_which_may_be_looked_up_are_one_error_of_the_connection(
    archive: Archive, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.wav", "b.wav"):
        s3.put(name, wav(1.0))
    list_into_chunk(archive, FOLDER)
    with monkeypatch.context() as missing:
        missing.setattr(StoredObject, "look", denied)
        with pytest.raises(PlaudConfigurationError, match="may not be looked up"):
            archive.submit()
    assert archive.entries() == {}

    assert archive.submit(try_number=2)["submitted"] == 2, "once the right is there"


def test_a_connection_that_is_missing_is_told_also_of_a_single_recording(
    archive: Archive, s3: S3Server
) -> None:
    found = [Found("s3://aws_typo@calls/a.wav", "v1", 100, None)]
    write_manifest(found, str(archive.results / "manifests" / "run"))

    with pytest.raises(PlaudConfigurationError, match="'aws_typo', which does not exist"):
        archive.submit()
    assert archive.entries() == {}


def test_a_single_local_recording_that_is_served_nowhere_is_an_error_of_the_argument(
    archive: Archive,
) -> None:
    archive.add("a.wav")
    archive.list()

    with pytest.raises(PlaudInputError, match="public_urls"):
        archive.submit(public_urls={"/elsewhere": "https://files.example"})
    assert archive.entries() == {}


def denied(source: StoredObject) -> Any:
    raise PlaudConfigurationError(f"audio_url: {source.audio.uri!r} may not be looked up.")


@pytest.mark.parametrize("name", ["recording.php", "john.smith", "a.mpga", "a.wave", "a.bin", "a", "a.txt"])
def test_a_recording_is_not_refused_for_its_name(archive: Archive, name: str) -> None:
    archive.add(name)
    list_into_chunk(archive, str(archive.folder))

    assert archive.submit()["submitted"] == 1
    assert archive.paid() == {name: 1}


def test_what_cannot_be_measured_is_a_row_that_resubmit_can_send(archive: Archive) -> None:
    archive.folder.mkdir(parents=True)
    (archive.folder / "half.wav").write_bytes(wav(10.0)[:80_000])
    list_into_chunk(archive, str(archive.folder))
    assert is_one_refused_row(archive, "is cut off")
    assert "unreadable='send'" in (archive.entries()["half.wav"].error or "")

    list_into_chunk(archive, str(archive.folder), "again")
    counts = archive.submit("again", resubmit=["failed"], unreadable="send")

    assert counts["submitted"] == 1
    assert archive.entries()["half.wav"].duration_seconds == pytest.approx(5, abs=0.1)


def test_an_unknown_policy_is_told_before_anything_is_sent(archive: Archive) -> None:
    archive.add("a.wav")
    archive.list()

    with pytest.raises(PlaudInputError, match="unreadable: 'maybe' is not 'refuse' or 'send'"):
        archive.submit(unreadable="maybe")
