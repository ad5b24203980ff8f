"""What was uploaded is known to the next attempt, for as long as it can be submitted, and to nobody else."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from plaud_provider.api.account import Account
from plaud_provider.api.dialects.embedded_uploads import BegunUpload
from plaud_provider.api.regions import Region
from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.recordings import upload_memory
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.recordings.upload_memory import LEAST_SECONDS, UploadMemory
from tests.unit.s3_server import S3Server

ACCOUNT = Account(Region.US, "https://platform-us.plaud.ai/developer/api", "client", "secret-key-canary")
AUDIO = AudioReference("/data/calls/a.wav")
URL = "https://files.example/f.mp3?X-Amz-Signature=download-canary"

BEGUN = BegunUpload(
    "f", "u", 30, [f"https://s3.example/{n}?X-Amz-Signature=part-canary" for n in (1, 2)], ["e"]
)


def memory(path: str | Path | None, account: Account = ACCOUNT) -> UploadMemory:
    return UploadMemory(account, None if path is None else str(path))


def kept(path: Path) -> list[Path]:
    return sorted((path / "uploaded").iterdir())


@pytest.mark.parametrize("place", ["folder", "host", "s3"])
def test_another_process_knows_it(place: str, tmp_path: Path, s3: S3Server) -> None:
    path = {"folder": str(tmp_path / "results"), "host": None, "s3": "s3://aws_calls@calls/work"}[place]
    name = memory(path).name(AUDIO, "v1")
    assert memory(path).url(name) is None

    memory(path).keep(name, URL)

    assert memory(path).url(name) == URL
    assert memory(path).url(memory(path).name(AUDIO, "v2")) is None
    memory(path).forget(name)
    assert memory(path).url(name) is None


@pytest.mark.parametrize("place", ["folder", "host", "s3"])
def test_another_process_knows_how_far_an_upload_is(place: str, tmp_path: Path, s3: S3Server) -> None:
    path = {"folder": str(tmp_path / "results"), "host": None, "s3": "s3://aws_calls@calls/work"}[place]
    name = memory(path).name(AUDIO, "v1")

    memory(path).keep_begun(name, "45 mp3", BEGUN)

    assert memory(path).begun(name, "45 mp3") == BEGUN
    assert memory(path).url(name) is None
    assert memory(path).begun(name, "44 mp3") is None
    assert memory(path).begun(memory(path).name(AUDIO, "v2"), "45 mp3") is None
    memory(path).keep(name, URL)
    assert memory(path).url(name) == URL
    assert memory(path).begun(name, "45 mp3") is None


def test_an_upload_is_gone_on_with_as_long_as_its_urls_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    date = f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}"
    begun = replace(BEGUN, urls=[f"{url}&X-Amz-Date={date}&X-Amz-Expires=3600" for url in BEGUN.urls])
    ours = memory(tmp_path)
    name = ours.name(AUDIO, "v1")
    ours.keep_begun(name, "45 mp3", begun)

    monkeypatch.setattr(upload_memory.time, "time", lambda: now + 3600 - 5)
    assert ours.begun(name, "45 mp3") == begun
    monkeypatch.setattr(upload_memory.time, "time", lambda: now + 3600 + 5)
    assert ours.begun(name, "45 mp3") is None


@pytest.mark.parametrize(
    "remember",
    [lambda ours, name: ours.keep(name, URL), lambda ours, name: ours.keep_begun(name, "45 mp3", BEGUN)],
)
def test_nobody_else_can_read_it(
    tmp_path: Path, remember: Callable[[UploadMemory, str | None], None]
) -> None:
    remember(memory(tmp_path), memory(tmp_path).name(AUDIO, "v1"))

    [file] = kept(tmp_path)
    content = file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not any(secret in content for secret in (b"files.example", b"canary", b"calls", b"a.wav"))


@pytest.mark.parametrize(
    "other",
    [
        Account(Region.US, ACCOUNT.base_url, "client", "another-key"),
        Account(Region.US, ACCOUNT.base_url, "another", "secret-key-canary"),
        Account(Region.JP, "https://platform-jp.plaud.ai/developer/api", "client", "secret-key-canary"),
    ],
)
def test_it_is_of_one_client_and_region(tmp_path: Path, other: Account) -> None:
    memory(tmp_path).keep(memory(tmp_path).name(AUDIO, "v1"), URL)

    theirs = memory(tmp_path, other)
    assert theirs.url(theirs.name(AUDIO, "v1")) is None


def test_a_file_is_only_of_use_under_its_own_name(tmp_path: Path) -> None:
    ours = memory(tmp_path)
    ours.keep(ours.name(AUDIO, "v1"), URL)
    other = ours.name(AudioReference("/data/calls/b.wav"), "v1")
    assert other is not None
    kept(tmp_path)[0].rename(tmp_path / "uploaded" / other)

    assert ours.url(other) is None


@pytest.mark.parametrize(("query", "seconds"), [("", 86_400), ("&X-Amz-Date={}&X-Amz-Expires=7200", 7200)])
def test_it_is_used_while_it_can_be_fetched_for_long_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str, seconds: int
) -> None:
    now = time.time()
    url = URL + query.format(f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}")
    ours = memory(tmp_path)
    name = ours.name(AUDIO, "v1")
    ours.keep(name, url)

    monkeypatch.setattr(upload_memory.time, "time", lambda: now + seconds - LEAST_SECONDS - 5)
    assert ours.url(name) == url
    monkeypatch.setattr(upload_memory.time, "time", lambda: now + seconds - LEAST_SECONDS + 5)
    assert ours.url(name) is None


def test_what_has_no_version_is_not_remembered(tmp_path: Path) -> None:
    ours = memory(tmp_path)

    assert ours.name(AUDIO, None) is None
    ours.keep(None, URL)
    assert ours.url(None) is None
    assert not (tmp_path / "uploaded").exists()


@pytest.mark.parametrize("content", [b"", b"no token", b"gAAAAABnothing"])
def test_what_cannot_be_read_is_nothing(tmp_path: Path, content: bytes) -> None:
    ours = memory(tmp_path)
    name = ours.name(AUDIO, "v1")
    ours.keep(name, URL)
    kept(tmp_path)[0].write_bytes(content)

    assert ours.url(name) is None


def test_a_place_that_cannot_be_used_costs_an_upload_and_no_task(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "uploaded").write_text("a file where the folder would be")
    ours = memory(tmp_path)
    name = ours.name(AUDIO, "v1")

    with caplog.at_level(logging.WARNING):
        assert ours.url(name) is None
        ours.keep(name, URL)

    assert "a retry would upload it again" in caplog.text
    assert "canary" not in caplog.text


def test_what_is_no_folder_is_refused_by_name() -> None:
    with pytest.raises(
        PlaudConfigurationError, match=r"results_path: 'results/uploaded/'.*nothing is paid for"
    ):
        memory("results")


def test_on_the_host_what_has_ended_is_removed() -> None:
    home = Path(os.environ["AIRFLOW_HOME"]) / "plaud_tokens"
    ours = memory(None)
    ours.keep(ours.name(AUDIO, "old"), URL)
    [old] = kept(home)
    then = time.time() - 86_400 - 5
    os.utime(old, (then, then))

    ours.keep(ours.name(AUDIO, "new"), URL)

    assert [path.name for path in kept(home)] == [ours.name(AUDIO, "new")]


def test_on_a_host_where_others_may_write_it_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folders = [Path(os.environ["AIRFLOW_HOME"]) / "plaud_tokens", tmp_path / f"plaud-provider-{os.getuid()}"]
    for folder in folders:
        folder.mkdir()
        folder.chmod(0o777)
    ours = memory(None)
    name = ours.name(AUDIO, "v1")

    ours.keep(name, URL)

    assert ours.url(name) is None
    assert [list(folder.iterdir()) for folder in folders] == [[], []]
