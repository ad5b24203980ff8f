from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plaud_provider.private_folder import FileLock, LockedError

REPOSITORY = Path(__file__).resolve().parents[2]
TAKE = f"""
import os, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from pathlib import Path
from plaud_provider.private_folder import FileLock
lock = FileLock(Path(sys.argv[1]), seconds=0, poll_seconds=0)
"""
TAKE_AND_WAIT = f"""{TAKE}
with lock.held():
    print("held", flush=True)
    sys.stdin.read()
"""
TAKE_AND_FORK = f"""{TAKE}
with lock.held():
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
print("released", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "name.lock"


@contextmanager
def process(script: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a script that says a word once it has come so far, and ends with its input."""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline()
        yield running


def at_once(path: Path) -> FileLock:
    return FileLock(path, seconds=0, poll_seconds=0)


def test_one_process_at_a_time_has_it(path: Path) -> None:
    with process(TAKE_AND_WAIT, path), pytest.raises(LockedError), at_once(path).held():
        pass

    with at_once(path).held():
        pass


async def test_one_process_at_a_time_has_it_on_an_event_loop(path: Path) -> None:
    with process(TAKE_AND_WAIT, path), pytest.raises(LockedError):
        async with at_once(path).aheld():
            pass

    async with at_once(path).aheld():
        pass


def test_who_is_killed_loses_it(path: Path) -> None:
    with process(TAKE_AND_WAIT, path) as holder:
        holder.kill()
        holder.wait()
        with at_once(path).held():
            pass


def test_a_child_that_was_forked_meanwhile_does_not_keep_it(path: Path) -> None:
    with process(TAKE_AND_FORK, path), at_once(path).held():
        pass


def test_it_is_waited_for(path: Path) -> None:
    had = threading.Event()

    def wait() -> None:
        with FileLock(path, seconds=20, poll_seconds=0.001).held():
            had.set()

    with at_once(path).held():
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not had.wait(0.02)
    waiter.join()

    assert had.is_set()


async def test_an_event_loop_goes_on_meanwhile(path: Path) -> None:
    async def wait() -> None:
        async with FileLock(path, seconds=20, poll_seconds=0.001).aheld():
            pass

    async with at_once(path).aheld():
        waiter = asyncio.create_task(wait())
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert not waiter.done()
    await waiter


def test_where_there_can_be_no_file_it_says_so(path: Path) -> None:
    path.mkdir()

    with pytest.raises(IsADirectoryError), at_once(path).held():
        pass
