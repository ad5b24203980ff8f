"""
An orderly end of a task that submits: nothing more is sent, and answers that are paid for still come in.

Airflow ends a task in two ways. A signal (clear, mark failed, a worker that goes away) calls ``on_kill`` and
lets the task go on, for 5 s or for as long as the worker has left. ``execution_timeout`` raises in the main
thread, wherever that is.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from plaud_provider.exceptions import PlaudStoppedError

T = TypeVar("T")


class Stop:
    """Says to the work of a task that the task is to end."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._tell: Callable[[], object] | None = None

    def set(self) -> None:
        """Have the work end; from any thread and from a signal handler."""
        self._event.set()
        if self._tell is not None:
            self._tell()

    @property
    def is_set(self) -> bool:
        """Whether the task is to end."""
        return self._event.is_set()

    def check(self) -> None:
        """
        Go on, unless the task is to end.

        :raises PlaudStoppedError: if it is.
        """
        if self.is_set:
            raise PlaudStoppedError(
                "The task was ended before all was sent. What Plaud has accepted is noted; the rest was not "
                "sent, and a retry or another run submits it."
            )

    @contextmanager
    def telling(self, tell: Callable[[], object]) -> Iterator[None]:
        """Call this as well when the task is to end, in this block."""
        self._tell = tell
        try:
            if self.is_set:
                tell()
            yield
        finally:
            self._tell = None

    def run(self, work: Callable[[], T]) -> T:
        """
        Do work in a thread of its own, which ``execution_timeout`` does not interrupt: it comes to its end.

        :param work: What ends early once this is set.
        """
        with ThreadPoolExecutor(1, "plaud-submit") as thread:
            under_way = thread.submit(contextvars.copy_context().run, work)
            try:
                return under_way.result()
            except BaseException:
                self.set()
                # Leaving the block waits for it.
                raise
