from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import logging
import os
import re
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from plaud_provider.api.account import Account
from plaud_provider.api.effects import Token, TokenState
from plaud_provider.api.regions import Region
from plaud_provider.api.tokens import LOCK_SECONDS, REQUEST_SECONDS
from plaud_provider.auth.token_store import MAX_POLL_SECONDS, POLL_SECONDS, TokenStore
from plaud_provider.exceptions import PlaudConnectionError
from plaud_provider.private_folder import FileLock, default_directory

REPOSITORY = Path(__file__).resolve().parents[3]

TOKEN = Token("access-token-canary", "refresh-token-canary", expires_at=1_800_000_000.5, lifetime=86_400.0)
STATE = TokenState(
    TOKEN,
    calls=(1.0, 2.5),
    failures=3,
    not_before=5.0,
    refused_until=6.0,
    status=503,
    reason="why",
    user_token=Token("user-token-canary", None, expires_at=1_800_000_500.0, lifetime=86_400.0),
)
SECRET_KEY = "secret-key-canary"


def account(
    *, client_id: str = "client", secret_key: str = SECRET_KEY, base_url: str = "https://openapi.plaud.ai"
) -> Account:
    return Account(Region.US, base_url, client_id, secret_key)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    private = tmp_path / "tokens"
    private.mkdir(mode=0o700)
    return private


@pytest.fixture
def store(folder: Path) -> TokenStore:
    return TokenStore(account(), directory=folder)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_nothing_stored_is_an_empty_state(store: TokenStore) -> None:
    assert store.read() == TokenState()


@pytest.mark.parametrize(
    "state", [STATE, TokenState(TOKEN), TokenState(), TokenState(Token("a", None, 1.0, 2.0))]
)
def test_what_is_stored_is_read_by_another_process_of_the_same_client(
    folder: Path, state: TokenState
) -> None:
    TokenStore(account(), directory=folder).write(state)

    assert TokenStore(account(), directory=folder).read() == state


@pytest.mark.parametrize(
    "other",
    [
        account(secret_key="another"),
        account(client_id="another"),
        account(base_url="https://openapi.plaud.eu"),
        account(base_url="http://127.0.0.1:8080"),
    ],
    ids=["secret", "client", "region", "host"],
)
def test_another_account_reads_nothing_and_overwrites_nothing(folder: Path, other: Account) -> None:
    mine = TokenStore(account(), directory=folder)
    mine.write(STATE)
    theirs = TokenStore(other, directory=folder)

    assert theirs.read()._replace(calls=()) == TokenState()
    theirs.write(TokenState(calls=theirs.read().calls, refused_until=9.0))
    assert mine.read() == STATE


def test_another_secret_cannot_open_the_file_even_where_it_is_given_it(folder: Path) -> None:
    TokenStore(account(), directory=folder).write(STATE)
    [file] = folder.glob("*.token")
    other = TokenStore(account(secret_key="another"), directory=folder)
    file.rename(other.path)

    assert other.read() == TokenState(calls=STATE.calls)


def test_a_client_s_calls_count_whatever_its_secret(folder: Path) -> None:
    TokenStore(account(secret_key="old"), directory=folder).write(TokenState(calls=(7.0, 8.0)))

    assert TokenStore(account(secret_key="new"), directory=folder).read() == TokenState(calls=(7.0, 8.0))


@pytest.mark.parametrize("step", [-3600.0, -30.0, 30.0, 3600.0])
def test_setting_the_wall_clock_makes_no_call_older_or_younger(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    now = time.time()
    TokenStore(account(), directory=folder).write(TokenState(calls=(now - 20, now - 10)))
    clock = SimpleNamespace(time=lambda: now + step, monotonic=time.monotonic)
    monkeypatch.setattr("plaud_provider.auth.token_store.time", clock)

    calls = TokenStore(account(), directory=folder).read().calls
    assert [now + step - moment for moment in calls] == pytest.approx([20, 10], abs=2)


def test_a_client_s_renewals_are_one_at_a_time_whatever_its_secret(folder: Path) -> None:
    """Plaud's limit of token requests is per client id."""
    paths = {TokenStore(account(secret_key=key), directory=folder).lock_path for key in ("old", "new")}

    assert len(paths) == 1


def test_the_file_is_its_owner_s_alone(store: TokenStore, folder: Path) -> None:
    old = os.umask(0)
    try:
        store.write(STATE)
        with store.lock():
            pass
    finally:
        os.umask(old)

    assert {path.suffix: mode(path) for path in folder.iterdir()} == {
        ".token": 0o600,
        ".calls": 0o600,
        ".lock": 0o600,
    }


def test_the_folder_in_airflow_home_is_its_owner_s_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "not" / "there" / "yet"))
    old = os.umask(0)
    try:
        found = default_directory()
    finally:
        os.umask(old)

    assert found == tmp_path / "not" / "there" / "yet" / "plaud_tokens"
    assert mode(found) == 0o700


def test_nothing_in_the_folder_can_be_read_as_a_secret(store: TokenStore, folder: Path) -> None:
    store.write(STATE)

    content = b"".join(file.name.encode() + file.read_bytes() for file in folder.iterdir())
    opened = base64.urlsafe_b64decode(store.path.read_bytes())
    for secret in (TOKEN.access_token, TOKEN.refresh_token or "", SECRET_KEY):
        for shape in (secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode().rstrip("=")):
            assert shape.encode() not in content
            assert shape.encode() not in opened


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1] + b"!",
        lambda content: b"\x00" * len(content),
        lambda content: b'{"version": 1, "token": null}',
        lambda content: os.urandom(500),
    ],
    ids=["empty", "cut", "changed", "zeros", "plain", "random"],
)
def test_a_damaged_file_is_an_empty_state_and_is_replaced(store: TokenStore, damage: object) -> None:
    store.write(STATE)
    store.path.write_bytes(damage(store.path.read_bytes()))  # type: ignore[operator]

    assert store.read() == TokenState(calls=STATE.calls)
    store.write(STATE)
    assert store.read() == STATE


@pytest.mark.parametrize("content", [b"", b"[1, 2", b'{"a": 1}', b"[[1]]", b"7", b'["x"]', b"\xff"])
def test_damaged_moments_of_calls_are_none(store: TokenStore, content: bytes) -> None:
    store.write(STATE)
    store.calls_path.write_bytes(content)

    assert store.read() == STATE._replace(calls=())


@pytest.mark.parametrize(
    "content",
    [
        {"version": 1, "token": None, "not_before": 0.0, "refused_until": 0.0},
        {"token": None},
        {"version": 2, "token": {"access_token": "a"}},
        {"version": 2, "token": None, "another_field": 1},
        [1],
        None,
    ],
)
def test_a_file_of_another_version_is_an_empty_state(store: TokenStore, content: object) -> None:
    store.path.write_bytes(store._cipher().encrypt(json.dumps(content).encode()))

    assert store.read() == TokenState()


def test_a_folder_in_place_of_the_file_is_an_empty_state(store: TokenStore) -> None:
    store.path.mkdir()

    assert store.read() == TokenState()


def test_writing_replaces_the_file_and_leaves_nothing_beside_it(store: TokenStore, folder: Path) -> None:
    store.write(TokenState())
    with store.path.open("rb") as old:
        store.write(STATE)

        # Whoever has the old file open reads it to its end.
        assert os.fstat(old.fileno()).st_ino != store.path.stat().st_ino
    assert {path.name for path in folder.iterdir()} == {store.path.name, store.calls_path.name}


def test_readers_never_see_half_a_file(folder: Path) -> None:
    states = [TokenState(Token("t" * size, None, 1.0, 1.0)) for size in (10, 8000)]
    writer = TokenStore(account(), directory=folder)
    writer.write(states[0])
    seen: list[TokenState] = []
    reading = threading.Event()

    def read() -> None:
        reader = TokenStore(account(), directory=folder)
        while not reading.is_set():
            seen.append(reader.read())

    thread = threading.Thread(target=read)
    thread.start()
    for index in range(100):
        writer.write(states[index % 2])
    reading.set()
    thread.join()

    assert seen
    assert all(state in states for state in seen)


def insecure(folder: Path) -> None:
    folder.chmod(0o770)


def unwritable(folder: Path) -> None:
    folder.rmdir()
    folder.write_text("a file where the folder should be")


def linked(folder: Path) -> None:
    folder.rmdir()
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)


@pytest.mark.parametrize("spoil", [insecure, unwritable, linked])
def test_in_a_folder_that_is_not_private_nothing_is_kept_but_this_process_goes_on(
    folder: Path, spoil: object, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(folder)  # type: ignore[operator]
    store = TokenStore(account(), directory=folder)

    with caplog.at_level(logging.WARNING), store.lock():
        store.write(STATE)

    # All hooks of this process know it.
    assert TokenStore(account(), directory=folder).read() == STATE
    assert "ten token requests a minute" in caplog.text
    assert "without a lock" in caplog.text
    assert "canary" not in caplog.text
    assert not folder.is_dir() or list(folder.iterdir()) == []


async def test_without_a_private_folder_the_asynchronous_lock_lets_through_too(folder: Path) -> None:
    insecure(folder)
    store = TokenStore(account(), directory=folder)

    async with store.async_lock():
        assert os.listdir(folder) == []


def test_what_an_attacker_put_into_a_shared_folder_is_not_even_opened(folder: Path) -> None:
    store = TokenStore(account(), directory=folder)
    # Whoever opens it waits for ever.
    os.mkfifo(store.path)
    insecure(folder)

    assert TokenStore(account(), directory=folder).read() == TokenState()


@pytest.mark.parametrize("spoil", [insecure, unwritable, linked])
def test_where_airflow_home_does_not_do_a_folder_of_this_user_s_own_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spoil: object
) -> None:
    home = tmp_path / "airflow"
    (home / "plaud_tokens").mkdir(parents=True, mode=0o700)
    spoil(home / "plaud_tokens")  # type: ignore[operator]
    monkeypatch.setenv("AIRFLOW_HOME", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    found = default_directory()

    assert found == tmp_path / f"plaud-provider-{os.getuid()}"
    assert mode(found) == 0o700


def test_where_neither_does_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "plaud_tokens").mkdir(mode=0o777)
    (tmp_path / "plaud_tokens").chmod(0o777)
    (tmp_path / f"plaud-provider-{os.getuid()}").mkdir()
    (tmp_path / f"plaud-provider-{os.getuid()}").chmod(0o777)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = TokenStore(account())

    store.write(STATE)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


LOCK_IN_PROCESSES = """
import os, sys
sys.path.insert(0, os.getcwd())
from pathlib import Path
from plaud_provider.api.regions import Region
from plaud_provider.api.account import Account
from plaud_provider.auth.token_store import TokenStore
folder = Path(sys.argv[1])
store = TokenStore(Account(Region.US, "https://openapi.plaud.ai", "client", "key"), directory=folder)
for _ in range(20):
    with store.lock() as (state, is_locked):
        assert is_locked
        os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
        store.write(state._replace(failures=state.failures + 1))
        os.unlink(folder / "inside")
"""


def test_one_at_a_time_across_processes(folder: Path) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", LOCK_IN_PROCESSES, str(folder)], cwd=REPOSITORY)
        for _ in range(4)
    ]

    assert [process.wait() for process in running] == [0] * 4
    assert TokenStore(account(secret_key="key"), directory=folder).read().failures == 80


class Tries:
    """Counts how often anyone tries to lock a file."""

    def __init__(self) -> None:
        self.number = 0

    def flock(self, descriptor: int, operation: int) -> None:
        if operation != fcntl.LOCK_UN:
            self.number += 1
        fcntl.flock(descriptor, operation)


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> Tries:
    counted = Tries()
    stand_in = SimpleNamespace(**{**vars(fcntl), "flock": counted.flock})
    monkeypatch.setattr("plaud_provider.private_folder.fcntl", stand_in)
    return counted


async def test_of_a_thousand_calls_of_a_process_one_tries_for_the_lock(
    store: TokenStore, folder: Path, tries: Tries
) -> None:
    """They wait for that one, in whatever hook, thread or event loop, and see what it has left."""
    renewed = TokenState(Token("renewed", None, 9.0, 9.0))
    got: list[tuple[TokenState, bool]] = []
    everybody_waits = asyncio.Event()

    async def wait() -> None:
        async with TokenStore(account(), directory=folder).async_lock() as outcome:
            got.append(outcome)

    def wait_in_thread() -> None:
        with TokenStore(account(), directory=folder).lock() as outcome:
            got.append(outcome)

    with ThreadPoolExecutor(40) as pool:
        async with store.async_lock() as (_, is_locked):
            assert is_locked
            tasks = [asyncio.create_task(wait()) for _ in range(980)]
            threads = [pool.submit(wait_in_thread) for _ in range(10)]
            loops = [pool.submit(lambda: asyncio.run(wait())) for _ in range(10)]
            asyncio.get_running_loop().call_soon(everybody_waits.set)
            await everybody_waits.wait()
            while pool._work_queue.qsize():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await asyncio.to_thread(store.write, renewed)
        await asyncio.gather(*tasks, *map(asyncio.wrap_future, [*threads, *loops]))

    followers = [outcome for outcome in got if not outcome[1]]
    assert len(got) == 1000
    assert all(state == renewed for state, _ in got)
    # A thread may come only when all is over.
    assert len(followers) >= 980
    assert tries.number == 1 + len(got) - len(followers)


def test_the_pauses_between_two_tries_grow(store: TokenStore) -> None:
    """While Plaud takes long to answer, all processes of a host wait."""
    holder, other = (os.open(store.lock_path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    fcntl.flock(holder, fcntl.LOCK_EX)
    pauses = list(islice(store._lock._pauses(other), 30))
    os.close(holder)
    os.close(other)

    assert pauses[0] == POLL_SECONDS
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_POLL_SECONDS
    assert sum(pauses) / len(pauses) > 20 * POLL_SECONDS


async def test_when_the_one_that_tries_is_cancelled_another_one_takes_its_place(
    store: TokenStore, folder: Path
) -> None:
    holding = asyncio.Event()

    async def hold() -> None:
        async with store.async_lock():
            holding.set()
            await asyncio.Event().wait()

    async def wait() -> bool:
        while True:
            async with store.async_lock() as (_, is_locked):
                if is_locked:
                    return True

    holder = asyncio.create_task(hold())
    await holding.wait()
    waiters = [asyncio.create_task(wait()) for _ in range(20)]
    await asyncio.sleep(0)
    holder.cancel()

    async with asyncio.timeout(10):
        assert await asyncio.gather(*waiters) == [True] * 20


async def test_a_cancelled_holder_lets_the_next_one_in(store: TokenStore) -> None:
    holding = asyncio.Event()

    async def hold() -> None:
        async with store.async_lock():
            holding.set()
            await asyncio.Event().wait()

    holder = asyncio.create_task(hold())
    await holding.wait()
    holder.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holder

    async with asyncio.timeout(10), store.async_lock():
        pass


async def test_a_cancelled_waiter_does_not_end_up_with_the_lock(store: TokenStore, folder: Path) -> None:
    async def wait() -> None:
        async with TokenStore(account(), directory=folder).async_lock():
            pytest.fail("it was cancelled and went on")

    async with store.async_lock():
        waiters = [asyncio.create_task(wait()) for _ in range(4)]
        await asyncio.sleep(0.06)
        for waiter in waiters:
            waiter.cancel()
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)

    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    async with asyncio.timeout(10), store.async_lock():
        pass


def test_an_error_inside_lets_the_next_one_in(store: TokenStore) -> None:
    with pytest.raises(ValueError, match="inside"), store.lock():
        raise ValueError("inside")

    with store.lock():
        pass


def test_a_lock_that_is_never_released_ends_in_a_message(folder: Path) -> None:
    """Also for those who wait for the one that tries."""
    store = TokenStore(account(), directory=folder)
    store._lock = FileLock(store.lock_path, seconds=0.05, poll_seconds=0.01)
    stopped = os.open(store.lock_path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(stopped, fcntl.LOCK_EX)

    def wait() -> str:
        with pytest.raises(PlaudConnectionError) as caught, store.lock():
            pass
        return str(caught.value)

    with ThreadPoolExecutor(4) as pool:
        messages = [future.result() for future in [pool.submit(wait) for _ in range(4)]]
    os.close(stopped)

    assert all(re.search(r"Another process .*\.lock.*Nothing was submitted", text) for text in messages)


def test_whoever_holds_the_lock_is_done_before_others_give_up() -> None:
    """A holder sends one request; see tests/unit/api/test_tokens.py."""
    assert REQUEST_SECONDS * 2 <= LOCK_SECONDS
    assert TokenStore(account())._lock._seconds == LOCK_SECONDS
