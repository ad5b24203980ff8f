"""Downloads of the recordings, in the background."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from queue import SimpleQueue
from tempfile import SpooledTemporaryFile
from threading import Condition, Thread
from typing import IO, BinaryIO, cast
from urllib.parse import urlsplit

import requests

from plaud_provider.emulator.audio import Audio, AudioError, recognise

logger = logging.getLogger("plaud_provider.emulator")

_CHUNK = 256 * 1024
_IN_MEMORY = 8 * 1024 * 1024
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def fetch_audio(url: str, *, seconds: float, max_bytes: int) -> Audio:
    """
    Download a recording and recognise it.

    The error messages contain the whole URL with its signature, on purpose: real servers do that, and a
    client must not let such a message into its logs as it is.

    :param seconds: Time for the whole download.
    :param max_bytes: A greater file is refused.
    :raises AudioError: if it cannot be downloaded or is no recording.
    """
    deadline = time.monotonic() + seconds
    with requests.Session() as session, SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        # Neither a .netrc nor a proxy may come between the emulator and its own store.
        session.trust_env = urlsplit(url).hostname not in _LOOPBACK
        try:
            sha256 = _download(session, url, file, deadline, max_bytes)
        except requests.RequestException as error:
            raise AudioError(
                "audio_unreachable", f"Could not download {url}: {type(error).__name__}"
            ) from None
        return recognise(cast("BinaryIO", file), sha256)


def _download(session: requests.Session, url: str, file: IO[bytes], deadline: float, max_bytes: int) -> str:
    timeout = max(0.1, deadline - time.monotonic())
    digest = hashlib.sha256()
    with session.get(url, stream=True, allow_redirects=False, timeout=timeout) as response:
        if response.status_code != 200:
            raise AudioError("audio_unreachable", f"Could not download {url}: HTTP {response.status_code}")
        for chunk in response.iter_content(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
            if file.tell() > max_bytes:
                raise AudioError("audio_too_large", f"{url} has more than {max_bytes} bytes.")
            if time.monotonic() > deadline:
                raise AudioError("audio_unreachable", f"Could not download {url}: it took too long.")
    return digest.hexdigest()


class Background:
    """
    Work in threads that do not keep the process alive.

    An executor would: at exit Python waits for its threads, and a download may hang for half a minute.
    """

    def __init__(self, threads: int = 8) -> None:
        self._threads = threads
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._started = 0
        self._unfinished = 0
        self._changed = Condition()

    def run(self, work: Callable[[], None]) -> None:
        """Have ``work`` done soon."""
        with self._changed:
            self._unfinished += 1
            if self._started < self._threads:
                self._started += 1
                Thread(target=self._work, name=f"emulator-fetch-{self._started}", daemon=True).start()
        self._queue.put(work)

    def settle(self, timeout: float) -> bool:
        """Wait until nothing is left to do; return whether that was in time (real seconds)."""
        with self._changed:
            return self._changed.wait_for(lambda: self._unfinished == 0, timeout)

    def close(self) -> None:
        """Let the threads end after what they are doing; what waits in the queue is still done."""
        with self._changed:
            for _ in range(self._started):
                self._queue.put(None)
            self._started = 0

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except Exception:
                logger.exception("A download broke off")
            finally:
                with self._changed:
                    self._unfinished -= 1
                    self._changed.notify_all()
