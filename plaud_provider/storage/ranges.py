"""A file that is read in ranges, and never as a whole."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO, cast

#: What the first read asks for at least: headers are shorter, nearly always.
BLOCK_BYTES = 32 * 1024
#: What each further one asks for: an index elsewhere, or a sample of the sound.
NEXT_BYTES = 11 * 1024
#: What all reads of a file ask for at most.
LIMIT_BYTES = 4 * 1024 * 1024
#: Blocks of a file that is read as a whole, and how many are kept: an MP4 is read in several places at once.
STREAMED_BYTES = 1024 * 1024
STREAMED_BLOCKS = 8


class ReadLimitError(Exception):
    """More of a file was to be read than a header needs."""


def open_ranges(
    read: Callable[[int, int], bytes],
    *,
    size: int,
    head: bytes = b"",
    close: Callable[[], None] = lambda: None,
) -> BinaryIO:
    """
    Return a file whose content is fetched as it is needed, each byte once.

    :param read: Returns the bytes from one offset up to another.
    :param size: Bytes of the file.
    :param head: What is known of its beginning.
    :param close: Called when it is closed.
    """
    return cast("BinaryIO", _RangedFile(read, size, head, close))


def open_stream(read: Callable[[int, int], bytes], *, size: int) -> BinaryIO:
    """
    Return a file that is read from its beginning to its end, in large blocks of which the last few are kept.

    :param read: Returns the bytes from one offset up to another.
    :param size: Bytes of the file.
    """
    return cast("BinaryIO", _Stream(read, size))


class _Seekable(io.RawIOBase):
    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("before the beginning")
        self._position = base + offset
        return self._position


class _Stream(_Seekable):
    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__(size)
        self._fetch_range = read
        self._blocks: dict[int, bytes] = {}

    def read(self, size: int = -1, /) -> bytes:
        end = self._size if size < 0 else min(self._position + size, self._size)
        parts = []
        while self._position < end:
            number, start = divmod(self._position, STREAMED_BYTES)
            part = self._block(number)[start : start + end - self._position]
            if not part:
                raise EOFError("the file became shorter")
            parts.append(part)
            self._position += len(part)
        return b"".join(parts)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            if len(self._blocks) >= STREAMED_BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            start = number * STREAMED_BYTES
            self._blocks[number] = self._fetch_range(start, min(start + STREAMED_BYTES, self._size))
        return self._blocks[number]


class _RangedFile(_Seekable):
    def __init__(
        self, read: Callable[[int, int], bytes], size: int, head: bytes, close: Callable[[], None]
    ) -> None:
        super().__init__(size)
        self._fetch_range = read
        self._close = close
        self._spans: list[tuple[int, bytes]] = [(0, head)] if head else []
        self._block = NEXT_BYTES if head else BLOCK_BYTES
        #: Bytes that were fetched.
        self.fetched = 0

    def read(self, size: int = -1, /) -> bytes:
        end = self._size if size < 0 else min(self._position + size, self._size)
        if end - self._position > LIMIT_BYTES:
            raise ReadLimitError
        parts = []
        while self._position < end:
            start, content = self._span(end)
            part = content[self._position - start : end - start]
            parts.append(part)
            self._position += len(part)
        return b"".join(parts)

    def close(self) -> None:
        if not self.closed:
            self._close()
        super().close()

    def _span(self, end: int) -> tuple[int, bytes]:
        """Return a fetched span that contains the position."""
        for start, content in self._spans:
            if start <= self._position < start + len(content):
                return start, content
        if any(start + len(content) == self._position for start, content in self._spans):
            # Whoever reads on will do so again.
            self._block = max(2 * self._block, BLOCK_BYTES)
        elif self._spans:
            # Whoever jumps wants a little.
            self._block = NEXT_BYTES
        start = self._position
        stop = min(max(start + self._block, end), self._size)
        stop = min([stop, *(begin for begin, _ in self._spans if begin > start)])
        self.fetched += stop - start
        if self.fetched > LIMIT_BYTES:
            raise ReadLimitError
        content = self._fetch_range(start, stop)
        if not content:
            raise EOFError("the file became shorter")
        if not self._spans:
            self._block = NEXT_BYTES
        self._spans.append((start, content))
        return start, content
