from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.storage.ranges import BLOCK_BYTES, LIMIT_BYTES, ReadLimitError, open_ranges

CONTENT = bytes(range(256)) * 1024
Span = tuple[int, int]


def reader(content: bytes, spans: list[Span]) -> Callable[[int, int], bytes]:
    def read(start: int, end: int) -> bytes:
        spans.append((start, end))
        return content[start:end]

    return read


steps = st.lists(
    st.tuples(st.sampled_from([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END]), st.integers(-300_000, 300_000))
    | st.integers(-1, 70_000),
    max_size=12,
)


@given(steps, st.integers(0, 70_000))
def test_it_reads_as_any_file_does(steps: list[Span | int], head: int) -> None:
    spans: list[Span] = []
    file = open_ranges(reader(CONTENT, spans), size=len(CONTENT), head=CONTENT[:head])
    plain = io.BytesIO(CONTENT)

    for step in steps:
        if isinstance(step, int):
            assert file.read(step) == plain.read(step)
        else:
            whence, offset = step
            if {0: 0, 1: plain.tell(), 2: len(CONTENT)}[whence] + offset >= 0:
                assert file.seek(offset, whence) == plain.seek(offset, whence)
        assert file.tell() == plain.tell()
    fetched = [offset for start, end in spans for offset in range(start, end)]
    assert len(fetched) == len(set(fetched))


def test_whoever_reads_on_gets_more_at_a_time() -> None:
    spans: list[Span] = []
    file = open_ranges(reader(bytes(LIMIT_BYTES), spans), size=LIMIT_BYTES)

    while file.read(4000):
        pass

    assert len(spans) <= 8
    assert spans[0] == (0, BLOCK_BYTES)


def test_more_than_the_limit_is_not_fetched() -> None:
    spans: list[Span] = []
    file = open_ranges(reader(bytes(10 * LIMIT_BYTES), spans), size=10 * LIMIT_BYTES)

    with pytest.raises(ReadLimitError):
        list(iter(lambda: file.read(100_000), b""))
    assert sum(end - start for start, end in spans) <= LIMIT_BYTES


def test_one_read_of_a_gigabyte_asks_for_nothing() -> None:
    spans: list[Span] = []
    file = open_ranges(reader(b"", spans), size=2**30)

    with pytest.raises(ReadLimitError):
        file.read(2**30)
    assert spans == []


def test_it_is_closed_once() -> None:
    closed: list[bool] = []
    file = open_ranges(reader(CONTENT, []), size=len(CONTENT), close=lambda: closed.append(True))

    with file:
        file.read(1)
    file.close()

    assert closed == [True]
