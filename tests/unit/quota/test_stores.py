"""Where a host keeps its quota, and what takes its place."""

from __future__ import annotations

import logging
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from plaud_provider.api.effects import Operation
from plaud_provider.private_folder import PrivateFolder
from plaud_provider.quota import stores
from plaud_provider.quota.document import from_document
from plaud_provider.quota.rule import Quota, Rate
from plaud_provider.quota.stores import (
    Change,
    FallbackStore,
    FileStore,
    MemoryStore,
    QuotaStore,
    StoreUnavailableError,
)
from tests.unit.quota.conftest import Spoil, insecure, unwritable

T = TypeVar("T")
RATE = Rate(60.0)


def count(quota: Quota, now: float) -> int:
    quota.overtaken += 1
    return quota.overtaken


def counted(quota: Quota, now: float) -> int:
    return quota.overtaken


@pytest.fixture
def store(private_folder: Path) -> FileStore:
    return FileStore(PrivateFolder(private_folder), "client")


def test_what_one_process_changes_another_one_finds(store: FileStore, private_folder: Path) -> None:
    store.update(count)

    assert FileStore(PrivateFolder(private_folder), "client").update(counted) == 1
    assert FileStore(PrivateFolder(private_folder), "another").update(counted) == 0


def test_two_that_take_turns_find_what_the_other_has_changed(store: FileStore, private_folder: Path) -> None:
    other = FileStore(PrivateFolder(private_folder), "client")

    assert [one.update(count) for one in (store, other, store, store, other)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_no_change_is_lost_where_many_make_one(kind: str, private_folder: Path) -> None:
    memory = MemoryStore()

    def change(_: int) -> None:
        own = memory if kind == "memory" else FileStore(PrivateFolder(private_folder), "client")
        for _ in range(10):
            own.update(count)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(8)))

    found = memory if kind == "memory" else FileStore(PrivateFolder(private_folder), "client")
    assert found.update(counted) == 80


def test_the_files_are_their_owner_s_alone(store: FileStore, private_folder: Path) -> None:
    store.update(count)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in private_folder.iterdir()}
    assert modes == {"client.budget": 0o600, "client.budget.lock": 0o600}


def test_the_file_holds_times_and_tickets_and_nothing_else(store: FileStore) -> None:
    store.update(lambda quota, now: quota.take("ticket", Operation.GET, now=now, rate=RATE))

    assert from_document(store.path.read_bytes()).out.keys() == {"ticket"}
    assert "client" not in store.path.read_text()


def take(quota: Quota, now: float) -> float:
    return quota.take("ticket", Operation.GET, now=now, rate=RATE)


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 1}', b'{"version": 99}', b"\x00" * 100])
def test_a_damaged_file_or_one_of_another_version_starts_as_if_full(store: FileStore, content: bytes) -> None:
    store.path.write_bytes(content)

    assert store.update(take) > 0
    assert 0 < from_document(store.path.read_bytes()).opens_at - time.time() <= 60


def test_a_file_that_someone_removed_starts_as_if_full(store: FileStore) -> None:
    assert store.update(take) == 0.0
    store.path.unlink()

    assert store.update(take) > 0


STOPPED = """
import os, signal, sys
from pathlib import Path
from plaud_provider.private_folder import PrivateFolder
from plaud_provider.quota.stores import FileStore

def stop(quota, now):
    print("held", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)

FileStore(PrivateFolder(Path(sys.argv[1])), "client").update(stop)
"""


def test_while_a_stopped_process_holds_the_lock_others_get_one_request_a_minute_and_then_go_on(
    private_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "LOCK_SECONDS", 0.05)
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(private_folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        own = FallbackStore(
            FileStore(PrivateFolder(private_folder), "client"),
            MemoryStore(),
            consequence="",
            rest_seconds=0.0,
        )
        assert own.update(take) > 0
        assert own.update(lambda quota, now: quota.limit(now=now, rate=RATE)) == 1.0
        process.send_signal(signal.SIGCONT)
    assert process.returncode == 0

    assert own.update(take) == 0.0


def test_a_change_that_fails_changes_nothing_and_lets_the_next_one_in(store: FileStore) -> None:
    store.update(count)

    def fail(quota: Quota, now: float) -> None:
        quota.overtaken = 7
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        store.update(fail)

    assert store.update(counted) == 1


@pytest.mark.parametrize("spoil", [insecure, unwritable])
def test_a_folder_that_is_not_private_is_not_used(private_folder: Path, spoil: Spoil) -> None:
    spoil(private_folder)
    store = FileStore(PrivateFolder(private_folder), "client")

    with pytest.raises(StoreUnavailableError, match="only this user may write to"):
        store.update(count)
    assert not private_folder.is_dir() or list(private_folder.iterdir()) == []


def test_a_folder_in_place_of_the_file_makes_it_unavailable(store: FileStore) -> None:
    store.path.mkdir()

    with pytest.raises(StoreUnavailableError, match="directory"):
        store.update(count)


def test_a_lock_that_is_never_released_makes_it_unavailable(
    store: FileStore, private_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "LOCK_SECONDS", 0.05)
    held, release = threading.Event(), threading.Event()

    def hold(quota: Quota, now: float) -> None:
        held.set()
        release.wait(20)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(store.update, hold)
        held.wait(20)
        with pytest.raises(StoreUnavailableError, match=r"another process has held .*client\.budget\.lock"):
            FileStore(PrivateFolder(private_folder), "client").update(count)
        release.set()
        holding.result()


class Unreliable:
    """A store that is away when told to be."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.is_away = False
        self.asked = 0

    def update(self, change: Change[T]) -> T:
        self.asked += 1
        if self.is_away:
            raise StoreUnavailableError("the disk is full")
        return self.store.update(change)


@pytest.fixture
def unreliable() -> Unreliable:
    return Unreliable()


def fallback(
    unreliable: Unreliable, second: QuotaStore | None = None, *, rest_seconds: float = 60.0
) -> FallbackStore:
    return FallbackStore(
        unreliable, second or MemoryStore(), consequence="All bets are off.", rest_seconds=rest_seconds
    )


def test_while_a_store_is_there_the_other_one_is_not_used(unreliable: Unreliable) -> None:
    second: Any = None

    assert fallback(unreliable, second).update(count) == 1
    assert unreliable.store.update(counted) == 1


def test_while_a_store_is_away_the_other_one_takes_its_place_with_one_warning(
    unreliable: Unreliable, caplog: pytest.LogCaptureFixture
) -> None:
    unreliable.is_away = True
    store = fallback(unreliable, rest_seconds=0.0)

    with caplog.at_level(logging.WARNING):
        assert [store.update(count) for _ in range(3)] == [1, 2, 3]

    [record] = caplog.records
    assert "the disk is full. All bets are off." in record.getMessage()


def test_a_store_that_is_away_is_left_in_peace_for_a_while(unreliable: Unreliable) -> None:
    """It may take ten seconds to find out that a database does not answer."""
    unreliable.is_away = True
    store = fallback(unreliable)

    for _ in range(3):
        store.update(count)

    assert unreliable.asked == 1


def test_while_one_tries_a_store_that_hangs_the_others_do_without(unreliable: Unreliable) -> None:
    """A triggerer's calls must not wait for it one after the other."""
    unreliable.is_away = True
    store = fallback(unreliable)
    store.update(count)
    store._rests_until = 0.0
    hangs, go_on = threading.Event(), threading.Event()

    def hang(change: Change[T]) -> T:
        hangs.set()
        go_on.wait(20)
        raise StoreUnavailableError("it does not answer")

    unreliable.update = hang  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(store.update, count)
        hangs.wait(20)
        assert [store.update(count) for _ in range(3)] == [2, 3, 4]
        go_on.set()
        assert trying.result() == 5


def test_a_store_that_is_back_is_used_again_and_missed_again(
    unreliable: Unreliable, caplog: pytest.LogCaptureFixture
) -> None:
    store = fallback(unreliable, rest_seconds=0.0)

    with caplog.at_level(logging.INFO):
        for is_away in (True, False, True):
            unreliable.is_away = is_away
            store.update(count)

    assert unreliable.store.update(counted) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]
