"""
The files in which the processes of a host share one client's tokens.

Every Airflow task is a new process: a token that is kept in memory serves one task, and Plaud allows ten
token requests a minute. So the newest token is kept in a file per base URL and client, readable by its owner
only and encrypted with a key derived from the secret key: whoever can read it could have asked for a token
anyway. Beside it lies when tokens were asked for.

What is kept, and when a token is renewed, is decided in :mod:`plaud_provider.api.tokens`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from plaud_provider.api.account import Account
from plaud_provider.api.effects import Token, TokenState
from plaud_provider.api.tokens import LOCK_SECONDS, REQUEST_SECONDS
from plaud_provider.encryption import cipher, named_by
from plaud_provider.exceptions import PlaudConnectionError
from plaud_provider.private_folder import FileLock, LockedError, PrivateFolder, this_host

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

log = logging.getLogger(__name__)

_MASKED: set[str] = set()

#: Pauses between two tries for the lock: from the first to the longest.
POLL_SECONDS = 0.01
MAX_POLL_SECONDS = 0.5

#: For how long a call waits for another one of its process, which waits for the lock and then renews.
PATIENCE_SECONDS = LOCK_SECONDS + 2 * REQUEST_SECONDS

#: Seconds by which a wall clock has been set, and not only been read a moment later.
LEAST_STEP = 1.0

_FORMAT_VERSION = 2
#: Fields of a state that are tokens.
_TOKENS = ("token", "user_token")


class _Known(NamedTuple):
    """
    A state that this process has read or written.

    :param is_stored: Whether it is in the file; otherwise it could not be written.
    """

    state: TokenState
    is_stored: bool


#: What this process knows, by the file's path.
_KNOWN: dict[str, _Known] = {}
#: API keys that Plaud has let in, by the file that says so.
_ACCEPTED: set[str] = set()
#: Those of this process that hold or wait for a client's lock, by process and path: a fork starts with none.
#: The result is whether the lock could be had.
_HOLDERS: dict[tuple[int, str], Future[bool]] = {}


class TokenStore:
    """
    One client's :class:`~plaud_provider.api.effects.TokenState` on this host.

    A store that cannot be read or written costs token requests, never a task: what one process knows is then
    all that it has.

    :param account: Whose tokens these are.
    :param directory: Where the files lie; by default a folder of ``AIRFLOW_HOME``, or one of this user's in
        the system's temporary folder where that is not writable.
    """

    def __init__(self, account: Account, *, directory: Path | None = None) -> None:
        name = account.client_name
        self._secret_key = account.secret_key
        self._folder = PrivateFolder(directory)
        folder = self._folder.path
        # A connection with another secret key for the same client (an old one, a wrong one) has a file of its
        # own: sharing one, each would overwrite what the other cannot read. Plaud's limit is the client's, so
        # that they share the lock and the moments of their calls.
        self.path = folder / f"{name}-{named_by(account.secret_key)}.token"
        self.calls_path = folder / f"{name}.calls"
        self.lock_path = folder / f"{name}.lock"
        # Empty: that it is there says that Plaud has let this API key in.
        self.accepted_path = folder / f"{name}-{named_by(account.api_key)}.accepted"
        self._lock = FileLock(
            self.lock_path,
            seconds=LOCK_SECONDS,
            poll_seconds=POLL_SECONDS,
            max_poll_seconds=MAX_POLL_SECONDS,
        )

    def known(self) -> TokenState | None:
        """Return the state that this process knows, without I/O; ``None`` if it knows of no token."""
        known = _KNOWN.get(str(self.path))
        return known.state if known is not None and known.state.token is not None else None

    def read(self) -> TokenState:
        """Return what is stored; an empty state if nothing is, or nothing that this secret key can open."""
        known = _KNOWN.get(str(self.path))
        if known is not None and not known.is_stored:
            return known.state
        state = self._read()
        _KNOWN[str(self.path)] = _Known(state, is_stored=True)
        return state

    def write(self, state: TokenState) -> None:
        """Store a state, atomically and for this user only; nothing is written where nothing has changed."""
        known = _KNOWN.get(str(self.path))
        stored = known.state if known is not None and known.is_stored else None
        fields = _masked(state)._asdict()
        calls = fields.pop("calls")
        for name in _TOKENS:
            token = fields[name]
            fields[name] = None if token is None else asdict(token)
        changed: dict[Path, bytes] = {}
        if stored is None or stored.calls != state.calls:
            written = {"host": this_host(), "ahead": _wall_clock_ahead(), "calls": calls}
            changed[self.calls_path] = json.dumps(written).encode()
        if stored is None or stored._replace(calls=state.calls) != state:
            content = json.dumps({"version": _FORMAT_VERSION, **fields}).encode()
            changed[self.path] = self._cipher().encrypt(content)
        try:
            for path, content in changed.items():
                self._folder.replace(path, content)
        except OSError as unwritable:
            _KNOWN[str(self.path)] = _Known(state, is_stored=False)
            if known is not None and not known.is_stored:
                return
            log.warning(
                "The Plaud token cannot be kept in %s (%s): every task asks for its own, and Plaud allows "
                "ten token requests a minute. Make it a folder of this user's own (mode 0700).",
                self.path.parent,
                unwritable.strerror,
            )
        else:
            _KNOWN[str(self.path)] = _Known(state, is_stored=True)

    @property
    def is_key_known(self) -> bool:
        """Whether Plaud has let this client's API key in before, as far as this process knows."""
        return str(self.accepted_path) in _ACCEPTED

    def was_key_accepted(self) -> bool:
        """Whether Plaud has let this client's API key in before, as far as this host knows."""
        return self.is_key_known or (self._folder.is_private and self.accepted_path.exists())

    def note_key_accepted(self) -> None:
        """Remember that Plaud has let this client's API key in; in this process at least."""
        if not self.was_key_accepted():
            with suppress(OSError):
                self._folder.replace(self.accepted_path, b"")
        _ACCEPTED.add(str(self.accepted_path))

    @contextmanager
    def lock(self) -> Iterator[tuple[TokenState, bool]]:
        """
        Hold this client's token for a renewal, against all threads and processes of the host.

        Only one call of a process waits for the file's lock. All others wait for that one, as they can use
        what it leaves.

        :return: The state, and whether the lock is held. If not, another call of this process has held it.
        :raises PlaudConnectionError: if someone else holds it for longer than any renewal takes.
        """
        mine, other = self._queue_up()
        if other is not None:
            try:
                had = other.result(PATIENCE_SECONDS)
            except TimeoutError:
                had = False
            yield self._left_by_other(had), False
            return
        with self._holding(mine), ExitStack() as held:
            try:
                if self._is_lockable():
                    held.enter_context(self._lock.held())
            except OSError as unusable:
                self._warn_not_locked(unusable.strerror)
            yield self.read(), True

    @asynccontextmanager
    async def async_lock(self) -> AsyncIterator[tuple[TokenState, bool]]:
        """Hold this client's token as :meth:`lock` does, without blocking the event loop."""
        mine, other = self._queue_up()
        if other is not None:
            try:
                had = await asyncio.wait_for(asyncio.wrap_future(other), PATIENCE_SECONDS)
            except TimeoutError:
                had = False
            yield self._left_by_other(had), False
            return
        with self._holding(mine):
            async with AsyncExitStack() as held:
                try:
                    if self._is_lockable():
                        await held.enter_async_context(self._lock.aheld())
                except OSError as unusable:
                    self._warn_not_locked(unusable.strerror)
                yield await asyncio.to_thread(self.read), True

    def _queue_up(self) -> tuple[Future[bool], Future[bool] | None]:
        """Return a future of one's own, and that of whoever of this process was first, if somebody was."""
        mine: Future[bool] = Future()
        # From now on those who wait for it cannot cancel it.
        mine.set_running_or_notify_cancel()
        first = _HOLDERS.setdefault((os.getpid(), str(self.path)), mine)
        return mine, None if first is mine else first

    @contextmanager
    def _holding(self, mine: Future[bool]) -> Iterator[None]:
        had = True
        try:
            yield
        except LockedError:
            had = False
            raise self._held_for_too_long() from None
        finally:
            del _HOLDERS[os.getpid(), str(self.path)]
            mine.set_result(had)

    def _left_by_other(self, had_lock: bool) -> TokenState:
        if not had_lock:
            raise self._held_for_too_long()
        known = _KNOWN.get(str(self.path))
        return TokenState() if known is None else known.state

    def _read(self) -> TokenState:
        from cryptography.fernet import InvalidToken

        if not self._folder.is_private:
            return TokenState()
        state = TokenState(calls=self._read_calls())
        try:
            stored = json.loads(self._cipher().decrypt(self.path.read_bytes()))
            if stored.pop("version") != _FORMAT_VERSION:
                return state
            for name in _TOKENS:
                token = stored.get(name)
                stored[name] = Token(**token) if token else None
            return _masked(TokenState(calls=state.calls, **stored))
        except FileNotFoundError:
            return state
        except (OSError, InvalidToken, ValueError, TypeError, KeyError, AttributeError) as unreadable:
            log.debug(
                "The stored Plaud token is not usable (%s); asking for a new one.", type(unreadable).__name__
            )
            return state

    def _read_calls(self) -> tuple[float, ...]:
        """Return when tokens were asked for, by the wall clock as it is set now."""
        try:
            written = json.loads(self.calls_path.read_bytes())
            put_forward = _wall_clock_ahead() - written["ahead"]
            if written["host"] != this_host() or abs(put_forward) < LEAST_STEP:
                put_forward = 0.0
            return tuple(moment + put_forward for moment in written["calls"])
        except (OSError, ValueError, TypeError, KeyError):
            return ()

    def _held_for_too_long(self) -> PlaudConnectionError:
        return PlaudConnectionError(
            f"Another process has been renewing this client's Plaud token for {LOCK_SECONDS:.0f} seconds "
            f"(lock {self.lock_path}). Nothing was submitted; try again. If it has been stopped, end it."
        )

    def _is_lockable(self) -> bool:
        if not self._folder.is_private:
            self._warn_not_locked("not a folder that only this user may write to")
        return self._folder.is_private

    def _warn_not_locked(self, reason: str | None) -> None:
        log.warning("Renewing the Plaud token without a lock: %s (%s)", self.lock_path, reason)

    def _cipher(self) -> Fernet:
        return cipher(self._secret_key, "token store")


def _wall_clock_ahead() -> float:
    """Return by how much the wall clock is ahead of the monotonic one: that changes only when it is set."""
    return time.time() - time.monotonic()


def _masked(state: TokenState) -> TokenState:
    """Have Airflow mask the tokens should anything ever log them; never called on an event loop."""
    from airflow.sdk.log import mask_secret

    for token in (state.token, state.user_token):
        for secret in (token.access_token, token.refresh_token) if token is not None else ():
            # Each mask recompiles a pattern: once per token and process is enough.
            if secret is not None and secret not in _MASKED:
                _MASKED.add(secret)
                mask_secret(secret)
    return state
