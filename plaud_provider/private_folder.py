"""
The folder in which the processes of a host share what is this user's alone: tokens, and the request quota.

It lies in ``AIRFLOW_HOME``, or in the system's temporary folder where that is not writable. Someone else's
folder, or one that others may write to, is not used.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from pathlib import Path
from uuid import uuid4

_NAME = "plaud_tokens"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class PrivateFolder:
    """
    A folder that only this user may write to, and files that only this user may read.

    :param path: Where it is; by default :func:`default_directory`. It is created if it is not there.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_directory()
        #: Whether it is there and others may not write to it.
        self.is_private = is_private(self.path)

    def check(self) -> None:
        """
        Refuse a folder that others may write to.

        :raises PermissionError: if it is one, or if it could not be created.
        """
        if not self.is_private:
            raise PermissionError(errno.EPERM, "not a folder that only this user may write to")

    def replace(self, path: Path, content: bytes) -> None:
        """
        Write a file of this folder whole, or not at all.

        :raises OSError: if that is not possible; the file is then as it was.
        """
        self.check()
        # mkstemp creates with mode 0600.
        descriptor, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{path.stem}-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


class LockedError(Exception):
    """Someone else has had a lock for as long as was to be waited for it."""


class FileLock:
    """
    A lock that one thread of one process of this host has at a time, and loses at the latest when it ends.

    As the ``filelock`` package has it, which takes a third as long to import as all else of a submit.

    :param path: A file for it, which is created if it is not there, and stays.
    :param seconds: For how long to wait for it.
    :param poll_seconds: The pause before the second try.
    :param max_poll_seconds: Each pause is half as long again as the one before, up to this; by default they
        stay the same.
    """

    def __init__(
        self, path: Path, *, seconds: float, poll_seconds: float, max_poll_seconds: float | None = None
    ) -> None:
        self._path = path
        self._seconds = seconds
        self._poll_seconds = poll_seconds
        self._max_poll_seconds = poll_seconds if max_poll_seconds is None else max_poll_seconds

    @contextmanager
    def held(self) -> Iterator[None]:
        """
        Have the lock.

        :raises LockedError: if someone else has it for too long.
        :raises OSError: if there cannot be such a file, or its file system cannot lock.
        """
        with self._opened() as descriptor:
            for pause in self._pauses(descriptor):
                time.sleep(pause)
            yield

    @asynccontextmanager
    async def aheld(self) -> AsyncIterator[None]:
        """Have the lock as :meth:`held` does, and wait for it without blocking the event loop."""
        with self._opened() as descriptor:
            for pause in self._pauses(descriptor):
                await asyncio.sleep(pause)
            yield

    @contextmanager
    def _opened(self) -> Iterator[int]:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield descriptor
        finally:
            # A child that was forked meanwhile has the file open too: closing alone would leave it locked.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _pauses(self, descriptor: int) -> Iterator[float]:
        """Try until the lock is had, with a pause yielded before each further try."""
        deadline = time.monotonic() + self._seconds
        pause = self._poll_seconds
        while not _lock(descriptor):
            if time.monotonic() >= deadline:
                raise LockedError
            yield pause
            pause = min(pause * 1.5, self._max_poll_seconds)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def default_directory() -> Path:
    """Return this user's folder, created and checked."""
    home = os.environ.get("AIRFLOW_HOME") or os.path.expanduser("~/airflow")
    fallback = (
        Path(tempfile.gettempdir()) / f"plaud-provider-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    )
    for folder in (Path(home) / _NAME, fallback):
        if is_private(folder):
            return folder
    # Nothing suitable: whoever uses it says so.
    return Path(home) / _NAME


def is_private(folder: Path) -> bool:
    """Create a folder for this user alone; someone else's, or one that others may write to, is not used."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode) or not os.access(folder, os.W_OK | os.X_OK):
        return False
    return not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o022)


@cache
def this_host() -> str:
    """Name this host, as long as it runs: all processes with this name read one monotonic clock."""
    try:
        # A container may have a clock of its own: a time namespace (man 7 time_namespaces).
        namespace = Path("/proc/self/ns/time")
        return f"{_BOOT_ID.read_text().strip()} {namespace.readlink() if namespace.is_symlink() else ''}"
    except OSError:
        # Not Linux: this process, then, and what it forks.
        return uuid4().hex
