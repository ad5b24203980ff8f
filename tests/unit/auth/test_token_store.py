from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import stat
import threading
from pathlib import Path
from urllib.parse import quote

import pytest

from plaud_provider.api.effects import Token, TokenState
from plaud_provider.api.regions import Region
from plaud_provider.api.requests import Account
from plaud_provider.auth.token_store import TokenStore
from plaud_provider.private_folder import default_directory

TOKEN = Token("access-token-canary", "refresh-token-canary", expires_at=1_800_000_000.5, lifetime=86_400.0)
STATE = TokenState(TOKEN, not_before=5.0, refused_until=6.0)
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

    assert theirs.read() == TokenState()
    theirs.write(TokenState(refused_until=9.0))
    assert mine.read() == STATE


def test_another_secret_cannot_open_the_file_even_where_it_is_given_it(folder: Path) -> None:
    TokenStore(account(), directory=folder).write(STATE)
    [file] = folder.glob("*.token")
    other = TokenStore(account(secret_key="another"), directory=folder)
    file.rename(other.path)

    assert other.read() == TokenState()


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

    assert {path.suffix: mode(path) for path in folder.iterdir()} == {".token": 0o600, ".lock": 0o600}


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

    [file] = folder.iterdir()
    content = file.name.encode() + file.read_bytes()
    opened = base64.urlsafe_b64decode(file.read_bytes())
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

    assert store.read() == TokenState()
    store.write(STATE)
    assert store.read() == STATE


@pytest.mark.parametrize(
    "content",
    [
        {"version": 2, "token": None, "not_before": 0.0, "refused_until": 0.0},
        {"token": None},
        {"version": 1, "token": {"access_token": "a"}},
        {"version": 1, "token": None, "another_field": 1},
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
    assert [path.name for path in folder.iterdir()] == [store.path.name]


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

    assert store.read() == STATE
    assert TokenStore(account(), directory=folder).read() == TokenState()
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


def test_one_at_a_time_across_threads(folder: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def renew() -> None:
        with TokenStore(account(), directory=folder).lock():
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.005)
            inside.pop()

    threads = [threading.Thread(target=renew) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == [1] * 8


async def test_one_at_a_time_across_tasks(folder: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    async def renew() -> None:
        async with TokenStore(account(), directory=folder).async_lock():
            inside.append(1)
            most.append(len(inside))
            await asyncio.sleep(0.005)
            inside.pop()

    await asyncio.gather(*(renew() for _ in range(8)))

    assert most == [1] * 8


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
            pytest.fail("it was cancelled and got in")

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


def test_a_lock_that_is_never_released_ends_in_a_message(
    store: TokenStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plaud_provider.exceptions import PlaudConnectionError

    monkeypatch.setattr("plaud_provider.auth.token_store.LOCK_SECONDS", 0.05)

    def wait() -> None:
        with (
            pytest.raises(PlaudConnectionError, match=r"Another process .*\.lock.*Nothing was submitted"),
            TokenStore(account(), directory=folder).lock(),
        ):
            pass

    with store.lock():
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
