from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.exceptions import PlaudConfigurationError, PlaudInputError, PlaudStorageError
from plaud_provider.handover.manifest import (
    Keyed,
    read_keys,
    read_manifest,
    remove_manifest,
    size_of_chunk,
    write_keys,
    write_left,
    write_manifest,
)
from plaud_provider.recordings.listing import Found
from tests.unit.handover.killed_writer import killed_while_writing
from tests.unit.s3_server import S3Server

NOON = datetime(2024, 5, 1, 12, 0, 0, 250000, tzinfo=UTC)


def recordings(count: int, start: int = 0) -> list[Found]:
    return [
        Found(f"s3://aws_calls@calls/{number:05}.wav", f"etag{number}", number, NOON)
        for number in range(start, start + count)
    ]


@pytest.fixture(params=["s3", "local", "file"])
def folder(request: pytest.FixtureRequest, s3: S3Server, tmp_path: Path) -> str:
    return {
        "s3": "s3://aws_calls@calls/runs/1/manifests",
        "local": f"{tmp_path}/runs/1",
        "file": f"file://{tmp_path}/runs/1/",
    }[request.param]


def test_chunks_come_back_as_they_were_in_their_order(folder: str) -> None:
    found = recordings(7)

    paths = write_manifest(iter(found), folder, chunk_size=3)

    assert paths == [f"{folder.rstrip('/')}/chunk-{number:05}.jsonl" for number in (1, 2, 3)]
    assert [read_manifest(path) for path in paths] == [found[:3], found[3:6], found[6:]]


def test_an_archive_without_recordings_has_no_chunks(folder: str) -> None:
    write_manifest(recordings(2), folder)

    assert write_manifest([], folder) == []


def test_a_shorter_listing_leaves_no_chunks_of_a_longer_one(folder: str) -> None:
    before = write_manifest(recordings(30), folder, chunk_size=10)
    for path in before:
        write_keys(path, [Keyed("key", "uri")])

    after = write_manifest(recordings(15, start=100), folder, chunk_size=10)

    assert after == before[:2]
    assert [found.size for path in after for found in read_manifest(path)] == list(range(100, 115))
    for read in (read_manifest, read_keys):
        with pytest.raises(PlaudInputError, match=r"chunk-00003.*does not exist"):
            read(before[2])


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    for name in ("chunk-1.jsonl", "chunk-00001.json", "notes.jsonl", "my-chunk-00009.jsonl"):
        (tmp_path / name).write_text("mine")

    write_manifest([], str(tmp_path))

    assert len(list(tmp_path.iterdir())) == 4


def test_a_listing_that_is_repeated_writes_the_same_files(tmp_path: Path) -> None:
    def written() -> dict[str, bytes]:
        write_manifest(recordings(5), str(tmp_path), chunk_size=2)
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    assert written() == written()


def test_no_more_than_a_chunk_is_in_memory(tmp_path: Path) -> None:
    def found() -> Iterator[Found]:
        for number, recording in enumerate(recordings(9)):
            assert len(list(tmp_path.iterdir())) == number // 3
            yield recording

    write_manifest(found(), str(tmp_path), chunk_size=3)


def test_keys_lie_beside_their_chunk(folder: str) -> None:
    (chunk,) = write_manifest(recordings(2), folder)
    keyed = [Keyed("k1", "s3://aws_calls@calls/a #1?.wav"), Keyed("k2", "/data/🎤\udce9.wav")]

    assert write_keys(chunk, iter(keyed)) == chunk.replace(".jsonl", ".keys.jsonl")
    assert read_keys(chunk) == keyed
    assert len(read_manifest(chunk)) == 2


texts = st.text(max_size=20)
founds = st.builds(
    Found,
    uri=texts,
    version=st.none() | texts,
    size=st.none() | st.integers(0, 2**50),
    modified=st.none() | st.datetimes(timezones=st.just(UTC)),
    given=st.none(),
)


@given(st.lists(founds, max_size=5), st.lists(st.builds(Keyed, key=texts, uri=texts), max_size=5))
def test_any_recording_and_key_comes_back(
    tmp_path_factory: pytest.TempPathFactory, found: list[Found], keyed: list[Keyed]
) -> None:
    folder = str(tmp_path_factory.mktemp("manifest"))
    paths = write_manifest(found, folder, chunk_size=2)
    write_keys(f"{folder}/chunk-00001.jsonl", keyed)

    assert [recording for path in paths for recording in read_manifest(path)] == found
    assert read_keys(f"{folder}/chunk-00001.jsonl") == keyed


def lines(*entries: object) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


HEAD = {"plaud_manifest": 1, "recordings": 1}
ENTRY = {"uri": "u", "version": None, "size": None, "modified": None}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "RIFF",
        "null",
        lines([]),
        lines(ENTRY),
        lines({**HEAD, "plaud_manifest": 2}, ENTRY),
        lines({"plaud_keys": 1, "recordings": 1}, ENTRY),
        lines(HEAD),
        lines(HEAD, ENTRY, ENTRY),
        lines(HEAD, []),
        lines(HEAD, {**ENTRY, "uri": None}),
        lines(HEAD, {**ENTRY, "size": "1"}),
        lines(HEAD, {**ENTRY, "modified": "noon"}),
        lines(HEAD, {**ENTRY, "more": 1}),
        lines(HEAD, {"uri": "u"}),
        lines(HEAD, ENTRY)[:-9],
        "[" * 100_000,
    ],
)
def test_a_file_that_is_no_chunk_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "chunk-00001.jsonl").write_text(content)

    with pytest.raises(PlaudInputError, match=r"manifest: .*chunk-00001\.jsonl' is not what this version"):
        read_manifest(str(tmp_path / "chunk-00001.jsonl"))


def test_a_keys_file_that_is_missing_is_told(folder: str) -> None:
    (chunk,) = write_manifest(recordings(1), folder)

    with pytest.raises(PlaudInputError, match=r"chunk-00001\.keys\.jsonl' does not exist.*Clear the task"):
        read_keys(chunk)


def test_a_chunk_size_that_makes_no_chunks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlaudInputError, match="chunk_size: 0 is less than 1"):
        write_manifest([], str(tmp_path), chunk_size=0)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("s3://aws_calls@no-such-bucket/x", "results_path: .*does not exist"),
        ("s3://aws_typo@calls/x", "connection 'aws_typo', which does not exist"),
        ("runs/1", "pass an absolute path"),
        ("s3://key:secret-canary@calls/x", "carries a password"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told(s3: S3Server, folder: str, message: str) -> None:
    with pytest.raises(PlaudConfigurationError, match=message) as refused:
        write_manifest(recordings(1), folder)
    assert "canary" not in str(refused.value)


def test_rights_that_are_missing_are_told(s3: S3Server) -> None:
    s3.gate.is_forbidden = True

    with pytest.raises(PlaudConfigurationError, match="may not be written to with connection 'aws_calls'"):
        write_manifest(recordings(1), "s3://aws_calls@calls/x")


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")

    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(PlaudConfigurationError, match="is a file, or below one; pass a folder"):
            write_manifest(recordings(1), str(folder))


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    (chunk,) = write_manifest(recordings(1), str(tmp_path))
    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(PlaudStorageError, match="No space left on device"):
        write_manifest(recordings(2), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["chunk-00001.jsonl"]
    assert read_manifest(chunk) == recordings(1)


# Archives of any size


@pytest.mark.parametrize(("max_chunks", "holds"), [(1023, 1_000_000), (1023, 3_000_000), (99, 250_000)])
def test_chunks_grow_so_that_large_archives_fit(max_chunks: int, holds: int) -> None:
    sizes = [size_of_chunk(index, 200, max_chunks) for index in range(max_chunks)]

    assert sum(sizes) >= holds
    assert sizes == sorted(sizes)
    assert sum(sizes[: max_chunks // 4 - 1]) == 200 * (max_chunks // 4 - 1), "not before they have to"


def test_an_archive_of_50_000_has_chunks_of_200() -> None:
    assert [size_of_chunk(index, 200, 1023) for index in range(250)] == [200] * 250


def test_more_than_the_chunks_hold_is_told(folder: str) -> None:
    assert len(write_manifest(recordings(6), folder, chunk_size=1, max_chunks=4)) == 4

    with pytest.raises(PlaudInputError, match=r"chunk_size: there are more recordings than 4 chunks hold"):
        write_manifest(recordings(100), folder, chunk_size=1, max_chunks=4)


def test_what_is_left_over_lies_beside_the_chunks_until_it_is_removed(folder: str) -> None:
    [chunk] = write_manifest(recordings(1), folder)
    left = write_left([Keyed("key", "uri")], folder)
    assert (read_manifest(left), read_keys(left)) == ([], [Keyed("key", "uri")])

    write_manifest(recordings(1), folder)
    with pytest.raises(PlaudInputError, match="does not exist"):
        read_manifest(left)

    remove_manifest(folder)
    with pytest.raises(PlaudInputError, match="does not exist"):
        read_manifest(chunk)


@pytest.mark.parametrize("name", ["chunk-00001.jsonl", "chunk-00001.keys.jsonl", "left-over.jsonl"])
def test_a_file_that_a_killed_task_has_not_finished_is_removed_with_the_chunks(
    tmp_path: Path, name: str
) -> None:
    write_manifest(recordings(1), str(tmp_path))
    killed_while_writing(tmp_path, name)

    remove_manifest(str(tmp_path))

    assert list(tmp_path.iterdir()) == []
