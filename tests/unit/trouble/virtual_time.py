"""An event loop whose time goes on only when nothing else is left to do: an hour takes seconds."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, NoReturn, TypeVar

import pytest

from plaud_provider.api.retry import RetryPolicy

T = TypeVar("T")
START = 1_800_000_000.0


class _Inline(ThreadPoolExecutor):
    """Does what belongs in a thread at once: it takes no time."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as failure:
            future.set_exception(failure)
        return future


class VirtualLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer when nothing is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        # Of a time in epoch seconds nothing smaller can be told.
        self._clock_resolution = 1e-6
        self.set_default_executor(_Inline())

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        loop: Any = self
        if not loop._ready and loop._scheduled:
            self.now = max(self.now, loop._scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]], monkeypatch: pytest.MonkeyPatch) -> T:
    """Run a coroutine in virtual time: all modules of the package read the loop's clock."""

    def blocked(seconds: float) -> NoReturn:
        raise AssertionError(f"the event loop was to be blocked for {seconds} s")

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        clock = SimpleNamespace(**{**vars(time), "time": loop.time, "monotonic": loop.time, "sleep": blocked})
        for name, module in list(sys.modules.items()):
            if name.startswith("plaud_provider.") and getattr(module, "time", None) is time:
                monkeypatch.setattr(module, "time", clock)
        # The default is kept by the class.
        defaults = {**RetryPolicy._field_defaults, "now": loop.time}
        monkeypatch.setattr(RetryPolicy.__new__, "__defaults__", tuple(defaults.values()))
        monkeypatch.setattr(
            "plaud_provider.triggers.transcription.ONE_LOOK",
            RetryPolicy(attempts=1, malformed_attempts=1),
        )
        return runner.run(main(loop))
