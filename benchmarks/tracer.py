"""Counts how often a reader who follows what runs has to change from one file of a package to another."""

from __future__ import annotations

import dis
import inspect
import sys
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple

_RESUMABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_RESUME = dis.opmap["RESUME"]
#: Bits of the argument of a RESUME instruction: none where a function begins, some where it goes on.
_GOES_ON = 0b11


class Step(NamedTuple):
    """
    A call, or a generator or coroutine that goes on.

    :param file: Path below the package's folder.
    :param function: Its qualified name.
    :param depth: How many functions of the package it is called through.
    :param goes_on: Whether it had begun before.
    """

    file: str
    function: str
    depth: int
    goes_on: bool

    def __str__(self) -> str:
        return f"{'  ' * self.depth}{self.file}:{self.function}{' (goes on)' * self.goes_on}"


@dataclass(slots=True)
class Walk:
    """
    What ran between two moments.

    :param steps: In order, those of several threads in one line.
    :param changes: How often a step was in another file than the one before it in its thread and asyncio
        task, by these two files, whichever came first.
    """

    steps: list[Step] = field(default_factory=list)
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def files(self) -> set[str]:
        """Paths of all files that were passed."""
        return {step.file for step in self.steps}

    @property
    def functions(self) -> int:
        """How many functions were called; one that goes on is not called again."""
        return sum(not step.goes_on for step in self.steps)

    def __add__(self, other: Walk) -> Walk:
        return Walk(self.steps + other.steps, self.changes + other.changes)


class _Place(NamedTuple):
    """
    Where a thread and asyncio task are.

    :param file: File of its last step.
    :param thread: Who made that step.
    :param woken: What has gone on since the last call.
    """

    file: str
    thread: int
    woken: frozenset[int]


class Tracer:
    """
    Follows the functions of one package, in this thread and in those that begin meanwhile.

    The same code counts the same each time: nothing of it depends on which of several tasks came first, on
    which of a pool's threads did something, or on how many pieces an answer came in.

    :param package: Folder of the package.
    :param leave_out: Folders below it that do not count.
    """

    def __init__(self, package: Path, *, leave_out: Collection[str] = ()) -> None:
        self._root = f"{package}/"
        self._left_out = tuple(f"{package}/{folder}/" for folder in leave_out)
        self._begin()

    def _begin(self) -> Walk:
        self._walk = Walk()
        self._thread = threading.get_ident()
        # An asyncio task, and what is handed to a thread by one, begins with a copy of its maker's value.
        self._place: ContextVar[_Place | None] = ContextVar("place", default=None)
        return self._walk

    @contextmanager
    def following(self) -> Iterator[Walk]:
        """Count what runs in this block; what other threads still do after it does not count."""
        walk = self._begin()
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)
        try:
            yield walk
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            self._begin()

    def _on_event(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or not self._counts(frame):
            return
        code, depth, goes_on = frame.f_code, self._depth(frame), _goes_on(frame)
        file = code.co_filename.removeprefix(self._root)
        place = self._came_from(depth) or _Place(file, 0, frozenset())
        if goes_on and id(frame) in place.woken:
            # Woken once more, for the next piece of an answer.
            return
        woken = place.woken | {id(frame)} if goes_on else frozenset()
        self._place.set(_Place(file, threading.get_ident(), woken))
        if place.file != file:
            self._walk.changes[min(place.file, file), max(place.file, file)] += 1
        self._walk.steps.append(Step(file, code.co_qualname, depth, goes_on))

    def _came_from(self, depth: int) -> _Place | None:
        place, thread = self._place.get(), threading.get_ident()
        if thread == self._thread or depth or (place is not None and place.thread != thread):
            return place
        # A pool's thread takes something new up, handed over by what ran last.
        return _Place(self._walk.steps[-1].file, 0, frozenset()) if self._walk.steps else None

    def _counts(self, frame: FrameType) -> bool:
        file = frame.f_code.co_filename
        return file.startswith(self._root) and not file.startswith(self._left_out)

    def _depth(self, frame: FrameType) -> int:
        depth, caller = 0, frame.f_back
        while caller is not None:
            depth += self._counts(caller)
            caller = caller.f_back
        return depth


def _goes_on(frame: FrameType) -> bool:
    code = frame.f_code
    if not code.co_flags & _RESUMABLE:
        return False
    operation, argument = code.co_code[frame.f_lasti : frame.f_lasti + 2]
    # Where an exception is thrown into it, it is still at its yield.
    return operation != _RESUME or bool(argument & _GOES_ON)
