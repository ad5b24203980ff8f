"""An archive in object storage: signed when it is submitted, downloaded by the emulator."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import unquote, urlsplit

import pytest

from plaud_provider.handover.manifest import write_manifest
from plaud_provider.recordings.listing import list_recordings
from tests.unit.operators.archives import Archive
from tests.unit.operators.test_storage_references import CALL, OTHER_CALL
from tests.unit.operators.test_storage_references import fetching_server as fetching_server
from tests.unit.operators.test_storage_references import plaud as plaud
from tests.unit.recordings.test_names_as_they_are import ALIKE
from tests.unit.s3_server import S3Server


@pytest.fixture
def archive(archive: Archive, s3: S3Server) -> Archive:
    s3.put("2024/a.wav", CALL)
    s3.put("2024/with space, 100% & #1.wav", OTHER_CALL)
    s3.put("2024/b.mp3", b"This is not a recording.")
    return archive


def keys_of(archive: Archive) -> list[str]:
    """Return what was submitted, as the paths of the URLs say."""
    urls = [row["body"]["audioUrl"] for row in archive.plaud.ledger(kind="submit")]
    return [unquote(urlsplit(url).path).removeprefix("/calls/") for url in urls]


def listed(archive: Archive, run_id: str = "run") -> None:
    folder = archive.results / "manifests" / run_id
    write_manifest(list_recordings("s3://aws_calls@calls/2024/"), str(folder))


def test_recordings_land_by_two_calls_each(archive: Archive) -> None:
    listed(archive)

    assert archive.submit()["submitted"] == 2
    archive.plaud.advance(3600)
    archive.land()

    assert archive.count() == {
        "total": 3,
        "landed": 2,
        "failed": 1,
        "unknown": 0,
        "expired": 0,
        "processing": 0,
        "not_submitted": 0,
    }
    assert archive.landed() == {"a.wav": "completed", "with space, 100% & #1.wav": "completed"}
    assert len(archive.plaud.ledger(kind="submit")) == len(archive.plaud.ledger(kind="get")) == 2


# Fault row 36
def test_a_url_that_had_expired_is_signed_anew_and_paid_once_more_when_told(
    archive: Archive, s3: S3Server
) -> None:
    listed(archive)
    s3.gate.later = timedelta(hours=7)
    archive.submit()
    archive.plaud.advance(3600)
    archive.land()
    assert archive.count_of_states() == {"failed": 3}
    assert len(archive.plaud.ledger(kind="submit")) == 2

    listed(archive, "second")
    assert archive.submit("second")["failed_before"] == 3
    archive.submit("second", resubmit=["failed"])
    archive.plaud.advance(3600)
    archive.land("second")
    assert archive.count_of_states() == {"failed": 3}
    # Once a run, however often it is retried.
    assert archive.submit("second", try_number=2, resubmit=["failed"])["submitted"] == 0
    assert len(archive.plaud.ledger(kind="submit")) == 4

    s3.gate.later = timedelta()
    listed(archive, "third")
    archive.submit("third", resubmit=["failed"])
    archive.plaud.advance(3600)
    archive.land("third")
    assert archive.count_of_states() == {"landed": 2, "failed": 1}


# Fault row 63
def test_a_listing_that_changed_submits_the_right_files(archive: Archive, s3: S3Server) -> None:
    listed(archive)
    archive.submit()
    # The first chunk has other recordings now, one of them under an old name; all tasks are cleared.
    s3.put("2024/a.wav", OTHER_CALL)
    s3.put("2024/0.wav", CALL)
    listed(archive)

    counts = archive.submit(try_number=2)

    assert (counts["total"], counts["waiting"], counts["submitted"]) == (4, 1, 2)
    archive.plaud.advance(3600)
    archive.land(try_number=2)
    assert archive.count()["landed"] == 3


def test_recordings_whose_names_look_alike_are_each_submitted_once(archive: Archive, s3: S3Server) -> None:
    for name in ALIKE:
        s3.put(f"alike/{name}", CALL)
    for run_id in ("run", "second"):
        found = list_recordings("s3://aws_calls@calls/alike/", suffixes=[])
        write_manifest(found, str(archive.results / "manifests" / run_id))

    assert archive.submit()["submitted"] == len(ALIKE)
    assert sorted(keys_of(archive)) == sorted(f"alike/{name}" for name in ALIKE)
    assert archive.submit("second")["submitted"] == 0
    archive.plaud.advance(3600)
    archive.land()
    assert archive.landed() == dict.fromkeys(ALIKE, "completed")
