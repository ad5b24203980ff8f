from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from plaud_provider.exceptions import PlaudInputError, PlaudStorageError
from plaud_provider.recordings.local_files import is_served, validate_public_urls
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.recordings.sources import AudioSource, audio_source

AUDIO = b"RIFF a recording"


def source(reference: str, **changes: object) -> AudioSource:
    arguments = {"url_validity": timedelta(hours=6), "public_urls": {}, **changes}
    return audio_source(AudioReference(reference), **arguments)  # type: ignore[arg-type]


URLS = {"/data": "https://files.example/data"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "calls" / "2024").mkdir(parents=True)
    (tmp_path / "secret.wav").write_bytes(AUDIO)
    return tmp_path / "calls"


@pytest.mark.parametrize("prefix", ["", "file://"])
@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("a.wav", "a.wav"),
        ("2024/a b.wav", "2024/a%20b.wav"),
        ("a#1?.wav", "a%231%3F.wav"),
        ("100%25.wav", "100%2525.wav"),
        ("🎤.wav", "%F0%9F%8E%A4.wav"),
        ("a;b@c.wav", "a%3Bb%40c.wav"),
    ],
)
def test_a_local_file_has_its_public_url(folder: Path, prefix: str, name: str, quoted: str) -> None:
    (folder / name).write_bytes(AUDIO)
    urls = validate_public_urls({f"{prefix}{folder}/": "https://files.example/calls/"})

    recording = source(f"{prefix}{folder}/{name}", public_urls=urls)

    assert recording.look()
    assert recording.url().reveal() == f"https://files.example/calls/{quoted}"


def test_a_file_that_was_copied_is_the_same_recording(folder: Path) -> None:
    urls = {str(folder): "https://files.example"}
    (folder / "a.wav").write_bytes(AUDIO)
    first = source(f"{folder}/a.wav", public_urls=urls).look()
    (folder / "a.wav").unlink()
    (folder / "a.wav").write_bytes(AUDIO)

    assert source(f"{folder}/a.wav", public_urls=urls).look() == first


def test_the_longest_folder_counts(folder: Path) -> None:
    urls = {str(folder): "https://all.example", str(folder / "2024"): "https://2024.example"}

    assert source(f"{folder}/2024/a.wav", public_urls=urls).url().reveal() == "https://2024.example/a.wav"


def test_a_local_file_that_nobody_serves_is_told() -> None:
    with pytest.raises(PlaudInputError, match=r"is a local file.*public_urls=\{.*s3://"):
        source("/data/a.wav")
    with pytest.raises(PlaudInputError, match="is a local file"):
        source("/database/a.wav", public_urls=URLS)


@pytest.mark.parametrize(
    ("reference", "served"),
    [
        ("/data/a.wav", True),
        ("file:///data/2024/a.wav", True),
        ("/database/a.wav", False),
        ("/a.wav", False),
        ("file:///elsewhere/a.wav", False),
        # Whatever is wrong with these, another public_urls would not mend it.
        ("/data/../a.wav", True),
        ("/data/notes.txt", True),
        ("s3://calls/a.wav", True),
        ("https://files.example/a.wav", True),
        ("a.wav", True),
    ],
)
def test_whether_a_recording_is_served_is_known_without_a_look(reference: str, served: bool) -> None:
    assert is_served(AudioReference(reference), validate_public_urls(URLS)) is served
    if not served:
        with pytest.raises(PlaudInputError, match="is a local file, which Plaud cannot fetch"):
            source(reference, public_urls=URLS)


@pytest.mark.parametrize("path", ["/data/../etc/a.wav", "file:///data/calls/../../a.wav", "/data/.."])
def test_a_path_does_not_climb(path: str) -> None:
    with pytest.raises(PlaudInputError, match=r"contains '\.\.'"):
        source(path, public_urls=URLS)


def test_a_link_does_not_lead_out(folder: Path) -> None:
    (folder / "out.wav").symlink_to(folder.parent / "secret.wav")
    (folder / "kept.wav").write_bytes(AUDIO)
    (folder / "in.wav").symlink_to(folder / "kept.wav")
    urls = {str(folder): "https://files.example"}

    assert source(f"{folder}/in.wav", public_urls=urls).look()
    with pytest.raises(PlaudInputError, match="is a link that leads out"):
        source(f"{folder}/out.wav", public_urls=urls).look()


def test_a_local_file_that_plaud_could_not_fetch_is_told(folder: Path) -> None:
    urls = {str(folder): "https://files.example"}
    (folder / "empty.wav").write_bytes(b"")
    (folder / "loop.wav").symlink_to(folder / "loop.wav")

    for name, message in [
        ("no.wav", "does not exist on this worker"),
        ("empty.wav", "is empty"),
        ("2024", "is not a file"),
        ("loop.wav", "cannot be read"),
    ]:
        with pytest.raises((PlaudInputError, PlaudStorageError), match=message):
            source(f"{folder}/{name}", public_urls=urls).look()


@pytest.mark.parametrize("value", [None, "", "None", {}, "{}"])
def test_public_urls_may_be_left_out(value: object) -> None:
    assert validate_public_urls(value) == {}  # type: ignore[arg-type]


def test_public_urls_may_be_the_json_of_a_variable() -> None:
    assert validate_public_urls('{"file:///data/": "https://files.example/data/"}') == URLS


@pytest.mark.parametrize(
    "value",
    [
        "/data",
        ["/data"],
        {"data": "https://files.example"},
        {"/data/..": "https://files.example"},
        {"/data": "http://files.example"},
        {"/data": "files.example"},
        {"/data": "https://user:secret-canary@files.example"},
        {"/data": "https://files.example/?token=secret-canary"},
        {"/data": 1},
    ],
)
def test_other_public_urls_are_refused(value: object) -> None:
    with pytest.raises(PlaudInputError, match=r"public_urls: .*says where Plaud can fetch") as refused:
        validate_public_urls(value)  # type: ignore[arg-type]
    assert "canary" not in str(refused.value)


def test_a_local_file_is_opened_for_a_few_reads(folder: Path) -> None:
    (folder / "a.wav").write_bytes(AUDIO)

    with source(f"{folder}/a.wav", public_urls={str(folder): "https://files.example"}).open() as file:
        assert file.read(4) == b"RIFF"
        assert file.read() == AUDIO[4:]
        open_files = psutil.Process().num_fds()
    assert psutil.Process().num_fds() == open_files - 1


def test_a_local_file_is_opened_only_if_it_may_be_looked_at(folder: Path) -> None:
    urls = {str(folder): "https://files.example"}
    (folder / "out.wav").symlink_to(folder.parent / "secret.wav")

    for name, message in [("out.wav", "is a link that leads out"), ("no.wav", "does not exist")]:
        with pytest.raises(PlaudInputError, match=message):
            source(f"{folder}/{name}", public_urls=urls).open()


def test_a_file_that_this_user_may_not_read_is_its_own_trouble(folder: Path) -> None:
    urls = {str(folder): "https://files.example"}
    (folder / "a.wav").write_bytes(AUDIO)
    (folder / "a.wav").chmod(0)
    recording = source(f"{folder}/a.wav", public_urls=urls)

    with as_another_user(folder):
        for asked in (recording.look, recording.open):
            with pytest.raises(PlaudInputError, match=r"may not be read by this worker's user\. Give it"):
                asked()


@contextmanager
def as_another_user(folder: Path) -> Iterator[None]:
    """Be nobody, who gets as far as a folder; root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    for above in [folder, *folder.parents]:
        if above.stat().st_uid == 0 and above.stat().st_mode & 0o001 == 0:
            above.chmod(0o711)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# A further look


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files whose content was read for its hash."""
    names: list[str] = []
    real = hashlib.file_digest

    def file_digest(file: Any, digest: str) -> Any:
        names.append(Path(file.name).name)
        return real(file, digest)

    monkeypatch.setattr(hashlib, "file_digest", file_digest)
    return names


def test_a_file_that_nobody_has_touched_is_not_read_again_for_a_further_look(read: list[str]) -> None:
    recordings = Path(__file__).parents[3] / "demo" / "recordings"
    recording = source(f"{recordings}/voicemail.wav", public_urls={str(recordings): "https://files.example"})

    assert recording.look() == recording.look() == recording.look()
    assert read == ["voicemail.wav"]


def test_it_is_not_read_again_by_another_task_of_this_host(
    folder: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]
) -> None:
    monkeypatch.setattr("plaud_provider.recordings.local_files.SETTLED_SECONDS", -1.0)
    (folder / "a.wav").write_bytes(AUDIO)
    served = {str(folder): "https://files.example"}

    looks = {source(f"{folder}/a.wav", public_urls=served).look() for _ in range(3)}

    assert looks == {hashlib.sha256(AUDIO).hexdigest()}
    assert read == ["a.wav"]


def test_a_folder_for_hashes_that_others_may_write_to_is_not_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]
) -> None:
    monkeypatch.setattr("plaud_provider.recordings.local_files.SETTLED_SECONDS", -1.0)
    (folder / "a.wav").write_bytes(AUDIO)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setattr("plaud_provider.private_folder.default_directory", lambda: shared)

    for _ in range(2):
        source(f"{folder}/a.wav", public_urls={str(folder): "https://files.example"}).look()

    assert read == ["a.wav", "a.wav"]
    assert list(shared.iterdir()) == []


def rewritten(path: Path) -> None:
    path.write_bytes(bytes(reversed(path.read_bytes())))


def replaced(path: Path) -> None:
    other = path.with_name("other.wav")
    other.write_bytes(bytes(reversed(path.read_bytes())))
    os.replace(other, path)


def rewritten_and_dated_back(path: Path) -> None:
    before = path.stat()
    rewritten(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def led_elsewhere(path: Path) -> None:
    other = path.with_name("other.wav")
    other.write_bytes(bytes(reversed(path.read_bytes())))
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize("settled_seconds", [-1.0, 2.0], ids=["left alone before", "just written"])
@pytest.mark.parametrize("change", [rewritten, replaced, rewritten_and_dated_back, led_elsewhere])
def test_a_further_look_sees_content_that_was_changed_however_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], settled_seconds: float
) -> None:
    path = folder / "a.wav"
    path.write_bytes(AUDIO)
    recording = source(str(path), public_urls={str(folder): "https://files.example"})
    monkeypatch.setattr("plaud_provider.recordings.local_files.SETTLED_SECONDS", settled_seconds)
    if settled_seconds < 0:
        wait_for_another_tick(folder)
    first = recording.look()

    if settled_seconds < 0:
        wait_for_another_tick(folder)
    change(path)

    assert recording.look() == hashlib.sha256(bytes(reversed(AUDIO))).hexdigest() != first


def wait_for_another_tick(folder: Path) -> None:
    """Wait until the disk's clock has gone on, some milliseconds."""
    tick = folder / "tick"
    tick.touch()
    begin = tick.stat().st_ctime_ns
    while tick.stat().st_ctime_ns == begin:
        tick.touch()


def test_a_file_that_has_gone_since_is_told(folder: Path) -> None:
    (folder / "a.wav").write_bytes(AUDIO)
    recording = source(f"{folder}/a.wav", public_urls={str(folder): "https://files.example"})
    recording.look()

    (folder / "a.wav").unlink()
    with pytest.raises(PlaudInputError, match="does not exist"):
        recording.look()
    (folder / "a.wav").symlink_to(folder.parent / "secret.wav")
    with pytest.raises(PlaudInputError, match="is a link that leads out"):
        recording.look()


def test_hashes_of_many_files_are_looked_up_in_a_database_that_is_opened_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(folder.parent / "home"))
    opened: list[str] = []
    connect = sqlite3.connect

    def connecting(path: str, **options: Any) -> sqlite3.Connection:
        opened.append(path)
        return connect(path, **options)

    monkeypatch.setattr(sqlite3, "connect", connecting)
    urls = {str(folder): "https://files.example"}
    for number in range(5):
        (folder / f"{number}.wav").write_bytes(AUDIO + bytes([number]))

    versions = [source(f"{folder}/{number}.wav", public_urls=urls).look() for number in range(5)]

    assert len(set(versions)) == 5
    assert len(opened) == 1
