from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import ObjectStoragePath

from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudError,
    PlaudInputError,
    PlaudStorageError,
)
from plaud_provider.recordings.listing import Found, list_recordings
from tests.unit.s3_server import S3Server

ARCHIVE = "s3://aws_calls@calls/2024/"
KEYS = ["a.wav", "B.MP3", "05/c.m4a", "05/06/d.wav", "05/notes.txt", "no extension"]
MAY = datetime(2024, 5, 1, tzinfo=UTC)


def names(found: Iterator[Found], root: str = ARCHIVE) -> list[str]:
    return [recording.uri.removeprefix(root) for recording in found]


@pytest.fixture
def archive(s3: S3Server) -> S3Server:
    for key in KEYS:
        s3.put(f"2024/{key}", b"RIFF")
    return s3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "2024"
    for key in KEYS:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(b"RIFF")
    return root


# S3


def test_recordings_are_listed_with_what_their_storage_tells(archive: S3Server) -> None:
    first = next(list_recordings(ARCHIVE, pattern="a.wav"))

    head = archive.client.head_object(Bucket="calls", Key="2024/a.wav")
    assert first == Found(
        uri="s3://aws_calls@calls/2024/a.wav",
        version=head["ETag"].strip('"'),
        size=4,
        modified=head["LastModified"],
    )


@pytest.mark.parametrize("path", [ARCHIVE, ARCHIVE.rstrip("/"), f" \n{ARCHIVE}"])
def test_recordings_come_in_the_order_of_their_names(archive: S3Server, path: str) -> None:
    assert names(list_recordings(path)) == ["05/06/d.wav", "05/c.m4a", "B.MP3", "a.wav"]


def test_a_whole_bucket_can_be_an_archive(archive: S3Server) -> None:
    for path in ("s3://aws_calls@calls", "s3://aws_calls@calls/"):
        assert names(list_recordings(path), "s3://aws_calls@calls/2024/")[0] == "05/06/d.wav"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"recursive": False}, ["B.MP3", "a.wav"]),
        ({"suffixes": [".wav"]}, ["05/06/d.wav", "a.wav"]),
        ({"suffixes": (".txt", ".MP3")}, ["05/notes.txt", "B.MP3"]),
        ({"suffixes": []}, ["05/06/d.wav", "05/c.m4a", "05/notes.txt", "B.MP3", "a.wav", "no extension"]),
        ({"pattern": "05/*"}, ["05/c.m4a"]),
        ({"pattern": "05/**"}, ["05/06/d.wav", "05/c.m4a"]),
        ({"pattern": "**/*.wav", "suffixes": []}, ["05/06/d.wav", "a.wav"]),
        ({"pattern": "06/*"}, []),
        ({"pattern": "05/*", "recursive": False}, []),
        ({"pattern": "*.flac"}, []),
    ],
)
def test_what_is_wanted_can_be_said(
    archive: S3Server, folder: Path, options: dict[str, Any], expected: list[str]
) -> None:
    assert names(list_recordings(ARCHIVE, **options)) == expected
    assert sorted(names(list_recordings(str(folder), **options), f"{folder}/")) == expected


def test_a_pattern_that_begins_with_folders_asks_for_nothing_else(archive: S3Server) -> None:
    archive.gate.requests.clear()
    archive.gate.queries.clear()

    assert names(list_recordings(ARCHIVE, pattern="05/06/*.wav")) == ["05/06/d.wav"]
    assert [query["prefix"] for query in archive.gate.queries] == ["2024/05/06/"]


@pytest.mark.parametrize(
    ("after", "before", "is_listed"),
    [
        (timedelta(0), None, True),
        (timedelta(seconds=1), None, False),
        (None, timedelta(0), False),
        (None, timedelta(seconds=1), True),
        (timedelta(0), timedelta(seconds=1), True),
        (timedelta(-9), timedelta(0), False),
    ],
)
@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-7)), None])
def test_times_are_from_including_to_excluding(
    s3: S3Server,
    folder: Path,
    after: timedelta | None,
    before: timedelta | None,
    is_listed: bool,
    zone: timezone | None,
) -> None:
    def limits(modified: datetime) -> dict[str, datetime | None]:
        def shifted(offset: timedelta | None) -> datetime | None:
            if offset is None:
                return None
            moment = modified + offset
            return moment.astimezone(zone) if zone else moment.replace(tzinfo=None)

        return {"modified_after": shifted(after), "modified_before": shifted(before)}

    s3.put("2024/a.wav", b"RIFF")
    modified = s3.client.head_object(Bucket="calls", Key="2024/a.wav")["LastModified"]
    os.utime(folder / "a.wav", (MAY.timestamp(), MAY.timestamp()))

    assert names(list_recordings(ARCHIVE, **limits(modified))) == ["a.wav"] * is_listed
    local = list_recordings(str(folder), pattern="a.wav", **limits(MAY))
    assert names(local, f"{folder}/") == ["a.wav"] * is_listed


def test_what_stands_for_a_folder_or_is_hidden_is_not_listed(s3: S3Server) -> None:
    for key in ("2024/", "2024/05.wav/", "2024/.a.wav", "2024/._b.wav", "2024/.trash/c.wav", "2024/d.wav"):
        s3.put(key, b"" if key.endswith("/") else b"RIFF")

    assert names(list_recordings(ARCHIVE)) == ["d.wav"]


def test_an_empty_recording_is_listed_to_be_refused_with_a_reason(s3: S3Server) -> None:
    s3.put("2024/empty.wav", b"")

    (found,) = list_recordings(ARCHIVE)
    assert found.size == 0


def test_a_folder_is_no_beginning_of_a_name(archive: S3Server) -> None:
    archive.put("2024-old/e.wav", b"RIFF")
    archive.put("2024.wav", b"RIFF")

    assert "e.wav" not in " ".join(names(list_recordings(ARCHIVE.rstrip("/"))))


@pytest.mark.parametrize("root", ["s3://aws_calls@calls//", "s3://aws_calls@calls/2024//"])
def test_a_folder_without_a_name_is_a_folder(s3: S3Server, root: str) -> None:
    s3.put("/a.wav", b"RIFF")
    s3.put("2024//b.wav", b"RIFF")

    assert len(list(list_recordings(root))) == 1


def test_pages_follow_each_other(archive: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.gate.page_size = 2
    expected = ["05/06/d.wav", "05/c.m4a", "B.MP3", "a.wav"]
    archive.gate.queries.clear()

    assert names(list_recordings(ARCHIVE)) == expected
    assert len(archive.gate.queries) == 3


def test_each_listing_sees_what_is_there_now(archive: S3Server) -> None:
    assert len(list(list_recordings(ARCHIVE))) == 4
    archive.put("2024/z.wav", b"RIFF")
    assert len(list(list_recordings(ARCHIVE))) == 5


def test_an_empty_folder_that_is_there_has_no_recordings(s3: S3Server, tmp_path: Path) -> None:
    s3.put("2024/", b"")

    assert list(list_recordings(ARCHIVE)) == []
    assert list(list_recordings("s3://aws_calls@calls/")) == []
    assert list(list_recordings(str(tmp_path))) == []


# What is wrong


def problem(path: str, **options: Any) -> PlaudError:
    with pytest.raises(PlaudError) as raised:
        list(list_recordings(path, **options))
    assert str(raised.value).endswith("Nothing was sent, nothing is paid for.")
    return raised.value


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("s3://aws_calls@calls/2023/", PlaudInputError, "path: 's3://aws_calls@calls/2023/' does not exist"),
        ("s3://aws_calls@calls/2024/a.wav", PlaudInputError, "is a file; pass the folder that it is in"),
        ("s3://aws_calls@no-such-bucket/", PlaudInputError, "there is no such bucket or container"),
        ("s3://aws_typo@calls/", PlaudConfigurationError, "connection 'aws_typo', which does not exist"),
    ],
)
def test_a_path_that_is_no_folder_in_storage_is_told(
    archive: S3Server, path: str, kind: type[PlaudError], message: str
) -> None:
    error = problem(path)

    assert isinstance(error, kind)
    assert message in str(error)


def test_rights_that_are_missing_are_told(archive: S3Server) -> None:
    archive.gate.is_forbidden = True

    error = problem(ARCHIVE)

    assert isinstance(error, PlaudConfigurationError)
    assert "may not be listed with connection 'aws_calls'. Give it the right to list" in str(error)


def test_a_storage_that_is_away_may_come_back(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_AWAY", s3.connection(extra=extra))

    error = problem("s3://aws_away@calls/2024/")

    assert isinstance(error, PlaudStorageError)
    assert "could not be listed with connection 'aws_away'" in str(error)


@pytest.mark.parametrize(
    ("path", "extra"), [("s3://calls/", "s3"), ("gs://calls/", "gcs"), ("abfs://calls/", "azure")]
)
def test_a_missing_extra_is_named(path: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow.sdk.io.has_fs", lambda scheme: False)

    assert f"airflow-provider-plaud[{extra}]" in str(problem(path))


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("", {}, "path: '' is no folder"),
        ("calls/2024", {}, "pass an absolute path, or an s3://"),
        ("https://files.example/2024/?sig=canary", {}, "is no folder of a kind that is known"),
        ("s3://", {}, "names no bucket"),
        ("s3://key:secret-canary@calls/", {}, "carries a password; name an Airflow connection"),
        ("/data/../etc", {}, "contains '..'"),
        ("/data", {"pattern": "/a.wav"}, "pattern: '/a.wav' has '' for a name"),
        ("/data", {"pattern": "**.wav"}, "has '**' as a part of a name"),
        ("/data", {"suffixes": ".wav"}, "suffixes: '.wav' is one text"),
    ],
)
def test_a_wrong_argument_is_told_before_the_first_recording_is_asked_for(
    path: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlaudInputError) as refused:
        list_recordings(path, **options)
    assert message in str(refused.value)
    assert "canary" not in str(refused.value)


# Local folders


def test_a_local_folder_is_listed_folder_by_folder(folder: Path) -> None:
    found = list(list_recordings(f"file://{folder}/"))

    assert names(iter(found), f"file://{folder}/") == ["B.MP3", "a.wav", "05/c.m4a", "05/06/d.wav"]
    assert {(recording.version, recording.size) for recording in found} == {(None, 4)}
    assert found[1].modified == datetime.fromtimestamp((folder / "a.wav").stat().st_mtime, tz=UTC)


def test_a_local_path_is_given_back_as_it_was_but_for_slashes(folder: Path) -> None:
    for path in (f"{folder}", f"{folder}/", f"/{folder}//.//"):
        assert next(list_recordings(path, pattern="a.wav")).uri == f"{folder}/a.wav"
    for path in (f"file://{folder}", f"file://{folder}//"):
        assert next(list_recordings(path, pattern="a.wav")).uri == f"file://{folder}/a.wav"


def test_links_are_followed_to_files_and_not_to_folders(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "e.wav").write_bytes(b"RIFF")
    (folder / "link.wav").symlink_to(tmp_path / "elsewhere" / "e.wav")
    (folder / "nowhere.wav").symlink_to(tmp_path / "gone.wav")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.wav")

    found = {Path(recording.uri).name: recording for recording in list_recordings(str(folder))}

    assert set(found) == {"a.wav", "B.MP3", "c.m4a", "d.wav", "link.wav", "nowhere.wav"}
    assert found["link.wav"].size == 4
    assert found["nowhere.wav"].size is None


def test_hidden_local_files_and_folders_are_not_listed(folder: Path) -> None:
    (folder / ".trash").mkdir()
    (folder / ".trash" / "e.wav").write_bytes(b"RIFF")
    (folder / "._a.wav").write_bytes(b"RIFF")

    assert len(list(list_recordings(str(folder)))) == 4


def test_a_local_path_that_is_no_folder_is_told(folder: Path) -> None:
    assert "does not exist on this worker" in str(problem(f"{folder}/no"))
    assert "is a file; pass the folder" in str(problem(f"{folder}/a.wav"))


def test_a_folder_that_cannot_be_read_is_not_taken_for_empty(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def denied(path: str) -> Any:
        if path.endswith("05/"):
            raise PermissionError
        return scandir(path)

    monkeypatch.setattr("os.scandir", denied)

    error = problem(str(folder))
    assert isinstance(error, PlaudConfigurationError)
    assert "may not be listed by this worker (its folder '05/')" in str(error)


def test_the_path_of_an_airflow_object_storage_path_is_taken(archive: S3Server) -> None:
    path = str(ObjectStoragePath("s3://calls/2024/", conn_id="aws_calls"))

    assert len(list(list_recordings(path))) == 4
