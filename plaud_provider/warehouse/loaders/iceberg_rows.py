"""Which files of an Iceberg table have rows of some transcriptions. Of other rows no text is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan

#: Files that are looked into at once.
_AT_ONCE = 8
#: Columns that are looked at.
LOOKED_AT = ("transcription_id", "landed_at")


class Found(NamedTuple):
    """
    A file with rows of some transcriptions.

    :param task: How pyiceberg reads it.
    :param rows: :data:`LOOKED_AT` of these rows; a table of Arrow.
    :param others: Which rows of the file are other ones; an array of Arrow.
    """

    task: Any
    rows: Any
    others: Any


def look(opened: Any, span: Any, ids: Sequence[str], before: datetime | None) -> list[Found]:
    """
    Return the files that have rows of these ids.

    :param opened: The version of the table.
    :param span: A condition that the rows meet, by bounds that files have.
    :param ids: The ids.
    :param before: Only rows with an earlier ``landed_at``; ``None``: all of them.
    """

    def find(task: Any) -> Found:
        rows = _read(opened, task, opened.schema().select(*LOOKED_AT))
        meant = _are_meant(rows, ids, before)
        return Found(task, rows.filter(meant), pc.invert(meant))

    tasks = list(opened.scan(row_filter=span).plan_files())
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [found for found in pool.map(find, tasks) if found.rows.num_rows]


def kept(opened: Any, found: Sequence[Found]) -> Iterator[Any]:
    """
    Yield what else is in the files: a table of Arrow for each that has other rows as well.

    :param opened: The version of the table.
    :param found: What :func:`look` has found in this version.
    """
    for one in found:
        if pc.any(one.others).as_py():
            yield _read(opened, one.task, opened.schema()).filter(one.others)


def _read(opened: Any, task: Any, columns: Any) -> Any:
    return ArrowScan(opened.metadata, opened.io, columns, AlwaysTrue()).to_table([task])


def _are_meant(rows: Any, ids: Sequence[str], before: datetime | None) -> Any:
    meant = pc.is_in(rows["transcription_id"].cast(pa.string()), pa.array(ids, pa.string()))
    if before is not None:
        meant = pc.and_(meant, pc.less(rows["landed_at"], pa.scalar(before)))
    return meant.fill_null(False)
