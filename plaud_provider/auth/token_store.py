"""
The file in which the processes of a host share one client's tokens.

Every Airflow task is a new process: a token that is kept in memory serves one task, and Plaud allows ten
token requests a minute. So the newest token is kept in a file per base URL and client, readable by its owner
only and encrypted with a key derived from the secret key: whoever can read it could have asked for a token
anyway.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from plaud_provider.api.effects import Token, TokenState
from plaud_provider.api.requests import Account
from plaud_provider.exceptions import PlaudConnectionError
from plaud_provider.private_folder import FileLock, LockedError, PrivateFolder

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

log = logging.getLogger(__name__)

_MASKED: set[str] = set()

#: Longer than any renewal takes, even one that obeys a Retry-After on the way.
LOCK_SECONDS = 300.0
#: Those who wait look again in step; at 50 of them the default of 50 ms is a queue of seconds.
POLL_SECONDS = 0.01

_FORMAT_VERSION = 1


class TokenStore:
    """
    One client's :class:`~plaud_provider.api.effects.TokenState` on this host.

    A store that cannot be read or written costs token requests, never a task: it is then empty.

    :param account: Whose tokens these are.
    :param directory: Where the file lies; by default a folder of ``AIRFLOW_HOME``, or one of this user's in
        the system's temporary folder where that is not writable.
    """

    def __init__(self, account: Account, *, directory: Path | None = None) -> None:
        name = hashlib.sha256(f"{account.base_url}\0{account.client_id}".encode()).hexdigest()[:32]
        self._folder = PrivateFolder(directory)
        folder = self._folder.path
        self._key = _key(account.secret_key)
        # A connection with another secret key for the same client (an old one, a wrong one) has a file of its
        # own: sharing one, each would overwrite what the other cannot read. The quota is the client's, so
        # that they share the lock.
        self.path = folder / f"{name}-{hashlib.sha256(self._key).hexdigest()[:16]}.token"
        self.lock_path = folder / f"{name}.lock"
        self._lock = FileLock(self.lock_path, seconds=LOCK_SECONDS, poll_seconds=POLL_SECONDS)
        self._unwritten: TokenState | None = None

    def read(self) -> TokenState:
        """Return what is stored; an empty state if nothing is, or nothing that this secret key can open."""
        from cryptography.fernet import InvalidToken

        if self._unwritten is not None:
            return self._unwritten
        try:
            self._folder.check()
            opened = self._cipher().decrypt(self.path.read_bytes())
            stored = json.loads(opened)
            if stored.pop("version") != _FORMAT_VERSION:
                return TokenState()
            token = stored.pop("token")
            return _masked(TokenState(token=Token(**token) if token else None, **stored))
        except FileNotFoundError:
            return TokenState()
        except (OSError, InvalidToken, ValueError, TypeError, KeyError, AttributeError) as unreadable:
            log.debug(
                "The stored Plaud token is not usable (%s); asking for a new one.", type(unreadable).__name__
            )
            return TokenState()

    def write(self, state: TokenState) -> None:
        """Store a state, atomically and for this user only."""
        token = _masked(state).token
        stored = {**state._asdict(), "token": None if token is None else asdict(token)}
        content = json.dumps({"version": _FORMAT_VERSION, **stored}).encode()
        try:
            self._folder.replace(self.path, self._cipher().encrypt(content))
            self._unwritten = None
        except OSError as unwritable:
            self._unwritten = state
            log.warning(
                "The Plaud token cannot be kept in %s (%s): every task asks for its own, and Plaud allows "
                "ten token requests a minute. Make it a folder of this user's own (mode 0700).",
                self.path.parent,
                unwritable.strerror,
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """
        Hold this client's token for a renewal, against all threads and processes of the host.

        :raises PlaudConnectionError: if someone else holds it for longer than any renewal takes.
        """
        with ExitStack() as held:
            try:
                self._folder.check()
                held.enter_context(self._lock.held())
            except LockedError:
                raise self._held() from None
            except OSError as unusable:
                self._not_locked(unusable)
            yield

    @asynccontextmanager
    async def async_lock(self) -> AsyncIterator[None]:
        """Hold this client's token as :meth:`lock` does, without blocking the event loop."""
        async with AsyncExitStack() as held:
            try:
                self._folder.check()
                await held.enter_async_context(self._lock.aheld())
            except LockedError:
                raise self._held() from None
            except OSError as unusable:
                self._not_locked(unusable)
            yield

    def _held(self) -> PlaudConnectionError:
        return PlaudConnectionError(
            f"Another process has been renewing this client's Plaud token for {LOCK_SECONDS:.0f} seconds "
            f"(lock {self.lock_path}). Nothing was submitted; try again."
        )

    def _not_locked(self, unusable: OSError) -> None:
        log.warning("Renewing the Plaud token without a lock: %s (%s)", self.lock_path, unusable.strerror)

    def _cipher(self) -> Fernet:
        from cryptography.fernet import Fernet

        digest = hashlib.blake2b(b"airflow-provider-plaud token store", key=self._key, digest_size=32)
        return Fernet(base64.urlsafe_b64encode(digest.digest()))


def _masked(state: TokenState) -> TokenState:
    """Have Airflow mask the tokens should anything ever log them; never called on an event loop."""
    from airflow.sdk.log import mask_secret

    if state.token is not None:
        for secret in (state.token.access_token, state.token.refresh_token):
            # Each mask recompiles a pattern: once per token and process is enough.
            if secret is not None and secret not in _MASKED:
                _MASKED.add(secret)
                mask_secret(secret)
    return state


def _key(secret_key: str) -> bytes:
    # The secret key is a random API key: a fast hash suffices, a password hash would cost every task.
    return hashlib.sha256(secret_key.encode()).digest()
