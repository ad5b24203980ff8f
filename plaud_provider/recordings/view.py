"""A file as FFmpeg is given it: bounded, and with stretches left out."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from typing import BinaryIO

from plaud_provider.storage.ranges import ReadLimitError

#: What of a file may be read as often as FFmpeg wants.
FIRST_BYTES = 128 * 1024


class View(io.RawIOBase):
    """
    An open file of which not more is read than may be.

    Where that ends, so does the file: FFmpeg makes do with what it has seen. A read that fails is the end of
    the file likewise, and the failure is kept: FFmpeg would lose it.

    :param file: The file.
    :param size: Its bytes.
    :param ends_at: When reading is given up, by ``time.monotonic()``.
    """

    def __init__(self, file: BinaryIO, size: int, *, ends_at: float) -> None:
        super().__init__()
        self.size = size
        self._source = _Source(file, ends_at)
        self._start = 0
        self._left = sys.maxsize
        self._hidden: Sequence[tuple[int, int]] = ()
        self._position = 0

    def again(
        self,
        *,
        start: int = 0,
        end: int | None = None,
        most: int = sys.maxsize,
        hidden: Sequence[tuple[int, int]] = (),
    ) -> View:
        """
        Return another view of the same file.

        :param start: Where it begins.
        :param end: Where it ends, if not where the file does.
        :param most: Bytes that are read of it at most, beyond its first ones, which may be read again.
        :param hidden: Boxes of an MP4, from name to end, that are shown as free space and not read.
        """
        view = View.__new__(View)
        io.RawIOBase.__init__(view)
        view.size = min(self.size, self.size if end is None else end) - start
        view._source = self._source
        view._start = start
        view._left = most
        view._hidden = hidden
        view._position = 0
        return view

    @property
    def fetched(self) -> int:
        """Bytes that were fetched from a storage; 0 of a file that is not in one."""
        return getattr(self._source.file, "fetched", 0)

    @property
    def is_exhausted(self) -> bool:
        """Whether more was to be read than may be."""
        return self._source.is_exhausted

    @property
    def is_late(self) -> bool:
        """Whether it took too long."""
        return self._source.is_late

    def raise_failure(self) -> None:
        """Raise what a read has failed with."""
        if self._source.failure is not None:
            raise self._source.failure

    def part(self, start: int, end: int) -> bytes:
        """Return bytes from one offset up to another, as far as there are."""
        start = max(0, start)
        return self._source.read(self._start + start, max(0, min(end, self.size) - start))

    def readable(self) -> bool:
        """Return ``True``."""
        return True

    def seekable(self) -> bool:
        """Return ``True``."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError("before the beginning")
        self._position = base + offset
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """Read on."""
        end = self.size if size < 0 else min(self._position + size, self.size)
        end = min(end, max(FIRST_BYTES, self._position + self._left))
        parts = []
        while self._position < end:
            part = self._next(end)
            if not part:
                break
            parts.append(part)
            self._position += len(part)
            self._left -= len(part) if self._position > FIRST_BYTES else 0
        return b"".join(parts)

    def _next(self, end: int) -> bytes:
        """Return some bytes at the position, but not beyond an offset."""
        for start, stop in self._hidden:
            if start <= self._position < stop:
                content = b"free" if self._position < start + 4 else b""
                length = min(end, stop) - self._position
                return content[self._position - start :].ljust(length, b"\0")[:length]
            if self._position < start:
                end = min(end, start)
        return self._source.read(self._start + self._position, end - self._position)


class _Source:
    """The file behind views of it, and what happened to it."""

    def __init__(self, file: BinaryIO, ends_at: float) -> None:
        self.file = file
        self.failure: BaseException | None = None
        self.is_exhausted = False
        self.is_late = False
        self._ends_at = ends_at

    def read(self, start: int, count: int) -> bytes:
        if self.failure is not None or self.is_late:
            return b""
        if time.monotonic() > self._ends_at:
            self.is_late = True
            return b""
        try:
            self.file.seek(start)
            return self.file.read(count)
        except ReadLimitError:
            self.is_exhausted = True
        except BaseException as failure:
            self.failure = failure
        return b""
