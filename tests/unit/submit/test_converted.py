"""What Plaud does not take is converted, kept for it, and removed in the end."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from plaud_provider.exceptions import PlaudConfigurationError, PlaudInputError
from plaud_provider.handover.manifest import write_manifest
from plaud_provider.handover.sweep import sweep
from plaud_provider.recordings.audio import measure
from plaud_provider.recordings.converted import converted_folder
from plaud_provider.recordings.listing import list_recordings
from tests.unit.operators.archives import PUBLIC, Archive
from tests.unit.recordings.media import encoded
from tests.unit.s3_server import S3Server


@pytest.fixture
def flac(archive: Archive) -> Archive:
    archive.folder.mkdir(parents=True)
    (archive.folder / "a.flac").write_bytes(encoded("flac", "flac"))
    listed(archive)
    return archive


def listed(archive: Archive, run_id: str = "run") -> None:
    found = list_recordings(str(archive.folder), suffixes=[])
    write_manifest(found, str(archive.results / "manifests" / run_id))


def arguments(archive: Archive) -> dict[str, Any]:
    return {
        "convert": "mp3",
        "results_path": str(archive.results),
        "public_urls": {str(archive.folder): PUBLIC, str(archive.results): f"{PUBLIC}/kept"},
    }


def kept(archive: Archive) -> list[Path]:
    return sorted((archive.results / "converted").glob("*"))


def test_plaud_gets_an_mp3_and_the_ledger_the_recording(flac: Archive) -> None:
    assert flac.submit(**arguments(flac))["submitted"] == 1

    [mp3] = kept(flac)
    assert measure(mp3).format == "mp3"
    assert measure(mp3).seconds == pytest.approx(6, abs=0.2)
    assert flac.plaud.ledger(kind="submit")[0]["body"]["audioUrl"] == f"{PUBLIC}/kept/converted/{mp3.name}"
    assert flac.entries()["a.flac"].duration_seconds == pytest.approx(6, abs=0.1)


def test_without_convert_it_is_a_row_that_says_how(flac: Archive) -> None:
    assert flac.submit()["refused"] == 1

    assert "is FLAC by its content" in (flac.entries()["a.flac"].error or "")
    assert "convert='mp3'" in (flac.entries()["a.flac"].error or "")


def test_what_is_converted_is_used_again_by_another_attempt(flac: Archive) -> None:
    flac.plaud.inject({"match": {"kind": "submit"}, "times": 1, "action": "status", "status": 402})
    with pytest.raises(Exception, match="402"):
        flac.submit(**arguments(flac))
    [mp3] = kept(flac)
    mp3.write_bytes(b"made before")

    assert flac.submit(try_number=2, **arguments(flac))["submitted"] == 1
    assert mp3.read_bytes() == b"made before"


def test_it_is_removed_once_it_has_landed(flac: Archive) -> None:
    flac.submit(**arguments(flac))
    transcription_id = str(flac.entries()["a.flac"].transcription_id)
    flac.plaud.force(transcription_id, status="completed", text="hello")
    flac.land()

    sweep(str(flac.results), flac.ledger.ended_since)

    assert flac.states() == {"a.flac": "landed"}
    assert kept(flac) == []


def test_what_plaud_takes_is_not_converted(archive: Archive) -> None:
    archive.folder.mkdir(parents=True)
    (archive.folder / "a.mp3").write_bytes(encoded("mp3", "libmp3lame"))
    listed(archive)

    assert archive.submit(**arguments(archive))["submitted"] == 1
    assert kept(archive) == []


def test_what_was_cut_off_is_not_converted(archive: Archive) -> None:
    content = encoded("webm", "libopus", rate=48000)
    archive.folder.mkdir(parents=True)
    (archive.folder / "a.webm").write_bytes(content[: len(content) // 2])
    listed(archive)

    assert archive.submit(**arguments(archive))["refused"] == 1
    assert archive.posted() == kept(archive) == []


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"results_path": None}, PlaudInputError, "results_path: it is empty"),
        ({"convert": "ogg"}, PlaudInputError, "convert: 'ogg' is not 'mp3'"),
        ({"public_urls": {"/data": PUBLIC}}, PlaudConfigurationError, "results_path: .*is a local folder"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_sent(
    flac: Archive, wrong: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        flac.submit(**{**arguments(flac), **wrong})
    assert flac.posted() == []


def test_in_object_storage_the_mp3_is_signed_and_removed_in_the_end(archive: Archive, s3: S3Server) -> None:
    s3.put("meeting.bin", encoded("mp4", "aac", video=True))
    found = list_recordings("s3://aws_calls@calls/", suffixes=[])
    write_manifest(found, str(archive.results / "manifests" / "run"))
    work = "s3://aws_calls@calls/work/"

    assert archive.submit(convert="mp3", results_path=work)["submitted"] == 1

    folder = converted_folder(work)
    [name] = folder.names()
    [entry] = archive.entries().values()
    assert name == f"{entry.recording_key}.mp3"
    assert f"/work/converted/{name}?" in archive.plaud.ledger(kind="submit")[0]["body"]["audioUrl"]

    sweep(work, archive.ledger.ended_since)
    assert folder.names() == [name]
    archive.ledger.landed([str(entry.transcription_id)], region="us")
    sweep(work, archive.ledger.ended_since)
    assert folder.names() == []


def test_what_is_older_than_plaud_needs_it_is_removed(archive: Archive) -> None:
    folder = archive.results / "converted"
    folder.mkdir(parents=True)
    for name, days in {"old.mp3": 8, "new.mp3": 6}.items():
        (folder / name).write_bytes(b"sound")
        then = time.time() - days * 86400
        os.utime(folder / name, (then, then))

    sweep(str(archive.results), archive.ledger.ended_since)

    assert [path.name for path in kept(archive)] == ["new.mp3"]
