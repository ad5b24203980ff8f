"""What calls leave for triggers: found within seconds, by whoever waits, and gone after a day."""

from __future__ import annotations

from pathlib import Path

import pytest

from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.handover.marks import (
    FOLDER_SECONDS,
    KEPT_SECONDS,
    LOOK_SECONDS,
    Marks,
    MarkWatch,
    mark_name,
)
from tests.unit.s3_server import S3Server, s3, s3_server

__all__ = ["s3", "s3_server"]

NOW = 1_800_000_000.0
S3_PATH = "s3://aws_calls@calls/marks"


@pytest.fixture(params=["local", "s3"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "marks")
    request.getfixturevalue("s3")
    return S3_PATH


def names(*ids: str) -> set[str]:
    return {mark_name("us", known) for known in ids}


def test_a_mark_is_found_by_those_who_look_for_what_is_new(path: str) -> None:
    marks = Marks(path)
    marks.leave("us", "txn_1", now=NOW)
    marks.leave("us", "txn_1", now=NOW + 1)
    marks.leave("eu", "txn_2", now=NOW + FOLDER_SECONDS)

    assert Marks(path).recent(now=NOW + 1) == names("txn_1")
    assert Marks(path).recent(now=NOW + FOLDER_SECONDS) == {*names("txn_1"), mark_name("eu", "txn_2")}
    assert Marks(path).recent(now=NOW + 3 * FOLDER_SECONDS) == set()
    assert len(Marks(path).all()) == 2


def test_files_of_others_in_the_folder_are_no_marks_and_stay(tmp_path: Path) -> None:
    others = [tmp_path / "2019" / "notes.txt", tmp_path / "0-calls" / f"{'a' * 64}.mp3", tmp_path / "0.txt"]
    for file in others:
        file.parent.mkdir(exist_ok=True)
        file.write_text("theirs")

    Marks(str(tmp_path)).leave("us", "txn_1", now=NOW)

    assert all(file.exists() for file in others)
    assert Marks(str(tmp_path)).all() == names("txn_1")


@pytest.mark.parametrize("known", ["../../etc", "12345", "a/b?c==", "ü" * 255])
def test_any_id_makes_a_name_and_none_is_shown(tmp_path: Path, known: str) -> None:
    Marks(str(tmp_path)).leave("us", known, now=NOW)

    [mark] = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert (mark.parent.parent, mark.name) == (tmp_path, mark_name("us", known))
    assert mark.read_bytes() == b""


def test_marks_of_yesterday_are_removed_by_who_leaves_new_ones(tmp_path: Path) -> None:
    marks = Marks(str(tmp_path))
    marks.leave("us", "old", now=NOW)
    marks.leave("us", "new", now=NOW + KEPT_SECONDS + FOLDER_SECONDS)

    assert marks.all() == names("new")
    assert len(list(tmp_path.iterdir())) == 1, "no empty folder is left"


async def test_a_watch_looks_now_and_then_and_sees_all_that_came_before(tmp_path: Path) -> None:
    marks, watch = Marks(str(tmp_path)), MarkWatch(str(tmp_path))
    marks.leave("us", "before", now=NOW - 7200)
    await watch.look(now=NOW)
    marks.leave("us", "new", now=NOW)
    await watch.look(now=NOW + LOOK_SECONDS / 2)
    assert watch.seen == names("before")
    await watch.look(now=NOW + LOOK_SECONDS)
    assert watch.seen == names("before", "new")


async def test_what_came_while_nobody_watched_is_seen(tmp_path: Path) -> None:
    marks, watch = Marks(str(tmp_path)), MarkWatch(str(tmp_path))
    await watch.look(now=NOW)
    marks.leave("us", "meanwhile", now=NOW + 3600)
    await watch.look(now=NOW + 3 * 3600)

    assert watch.seen == names("meanwhile")


async def test_a_folder_that_cannot_be_read_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    watch = MarkWatch(str(tmp_path / "file"))
    for second in range(5):
        await watch.look(now=NOW + second * LOOK_SECONDS)

    assert caplog.text.count("Calls of Plaud's webhook are not seen") == 1
    (tmp_path / "file").unlink()
    Marks(str(tmp_path / "file")).leave("us", "txn_1", now=NOW + 99)
    await watch.look(now=NOW + 100)
    assert watch.seen == names("txn_1")


def test_a_folder_that_is_none_is_told() -> None:
    with pytest.raises(PlaudConfigurationError, match="webhook_path: 'marks'"):
        Marks("marks")


def test_a_bucket_that_is_not_there_is_told(s3: S3Server) -> None:
    with pytest.raises(PlaudConfigurationError, match="webhook_path"):
        Marks("s3://aws_calls@no-such-bucket/marks").leave("us", "txn_1", now=NOW)
