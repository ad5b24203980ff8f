from __future__ import annotations

import threading
from pathlib import Path

import pytest

from plaud_provider.database.file_queue import FileQueue
from plaud_provider.private_folder import LockedError


def queue(tmp_path: Path, seconds: float = 10.0) -> FileQueue:
    return FileQueue(str(tmp_path / "warehouse.duckdb"), seconds=seconds)


def test_whoever_has_had_a_turn_comes_after_the_one_that_is_next(tmp_path: Path) -> None:
    turns: list[str] = []
    is_next = threading.Event()

    def other() -> None:
        is_next.set()
        with queue(tmp_path).turn():
            turns.append("other")

    with queue(tmp_path).turn():
        thread = threading.Thread(target=other)
        thread.start()
        assert is_next.wait(10)
        # The lock of being next is taken by now, or will be before this thread can want it again.
        _wait_until_next_is_taken(tmp_path)
        turns.append("first")
    with queue(tmp_path).turn():
        turns.append("again")
    thread.join(10)

    assert turns == ["first", "other", "again"]


def test_thread_that_has_the_turn_needs_no_other(tmp_path: Path) -> None:
    with queue(tmp_path).turn(), queue(tmp_path, seconds=0).turn():
        pass


def test_turn_that_nobody_gives_back_is_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[bool] = []

    def other() -> None:
        with queue(tmp_path, seconds=0.05).turn():
            done.append(True)

    with queue(tmp_path).turn():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(10)

    assert done == [True]
    assert "going on without" in caplog.text


def test_folder_for_locks_that_cannot_be_written_to_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "file"))

    with queue(tmp_path).turn():
        pass


def _wait_until_next_is_taken(tmp_path: Path) -> None:
    lock = queue(tmp_path, seconds=0)._lock("next")
    is_taken = False
    while not is_taken:
        try:
            with lock.held():
                pass
        except LockedError:
            is_taken = True
