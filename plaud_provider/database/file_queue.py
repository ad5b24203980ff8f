"""Turns at a database file that one process at a time may open."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from plaud_provider.private_folder import FileLock, LockedError, PrivateFolder

log = logging.getLogger(__name__)

POLL_SECONDS = 0.005
#: Waits that are longer are told in the log.
LONG_SECONDS = 5.0

#: Paths of which this thread has the turn.
_mine = threading.local()


class FileQueue:
    """
    Gives the processes and threads of this host turns at a file, so that none is overtaken again and again.

    There are two locks: that of the turn, and that of being next. Whoever waits for the turn is next, and has
    that lock until its turn comes. So whoever has just had a turn, and wants another one, comes after the one
    that is next; the others have the same chance to be next after that.

    It only orders those who use it. What cannot be had, because the folder for the locks cannot be written to
    or somebody has kept a lock for too long, is done without.

    :param path: The file.
    :param seconds: For how long to wait for either lock.
    """

    def __init__(self, path: str, *, seconds: float) -> None:
        self._path = os.path.realpath(path)
        self._seconds = seconds

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have the turn. A thread that has it already goes on at once."""
        held: set[str] = _mine.__dict__.setdefault("paths", set())
        if self._path in held:
            yield
            return
        with ExitStack() as until_done:
            began = time.monotonic()
            try:
                with self._lock("next").held():
                    until_done.enter_context(self._lock("turn").held())
            except LockedError:
                log.warning("%s: no turn in %.0f s; going on without.", self._path, self._seconds)
            except OSError as error:
                log.debug("%s: there are no turns: %s", self._path, error.strerror)
            if (waited := time.monotonic() - began) > LONG_SECONDS:
                log.info("%s: waited %.0f s for a turn among other tasks.", self._path, waited)
            held.add(self._path)
            try:
                yield
            finally:
                held.discard(self._path)

    def _lock(self, what: str) -> FileLock:
        folder = PrivateFolder()
        folder.check()
        name = hashlib.sha256(os.fsencode(self._path)).hexdigest()[:32]
        return FileLock(folder.path / f"{name}.{what}.lock", seconds=self._seconds, poll_seconds=POLL_SECONDS)
