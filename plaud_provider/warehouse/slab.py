"""A slab of transcriptions as files, for warehouses that load files in bulk."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from plaud_provider.database.arrow import arrow_schema, arrow_table
from plaud_provider.database.content import Content, content_of
from plaud_provider.database.rows import columns_of, rows_of
from plaud_provider.warehouse.loaders.rows import parts
from plaud_provider.warehouse.rows import segment_parts

if TYPE_CHECKING:
    from plaud_provider.database.rows import Columns, Row
    from plaud_provider.warehouse.rows import Landing
    from plaud_provider.warehouse.tables import PlaudTables

    #: Changes the values of a table's columns, in place, before they are written.
    Prepare = Callable[[sa.Table, Columns], None]


class Slab(NamedTuple):
    """
    Files with the rows of some transcriptions.

    :param ids: The transcriptions.
    :param files: A file for each table, those without a row included.
    :param counts: How many rows each has.
    """

    ids: list[str]
    files: Mapping[sa.Table, Path]
    counts: dict[sa.Table, int]


@contextmanager
def written(
    landings: Sequence[Landing], tables: PlaudTables, prepare: Prepare | None = None
) -> Iterator[Slab]:
    """
    Write a slab into a folder that only this user can read, and remove it afterwards.

    Rows are made and written in parts, so memory does not grow with the number of transcriptions.

    :param landings: Transcriptions, no id twice.
    :param tables: Tables that they are for. Columns of the files are named and typed as theirs; times are in
        UTC with microseconds, JSON is text.
    :param prepare: Changes values before they are written.
    """
    from pyarrow import parquet

    schemas = {table: arrow_schema(table.columns.items()) for table in tables.parameters}
    with TemporaryDirectory(prefix="plaud-") as folder:
        slab = _slab(landings, tables, folder, "parquet")
        with ExitStack() as stack:
            # All of these warehouses read Snappy.
            writers = {
                table: stack.enter_context(parquet.ParquetWriter(path, schemas[table], compression="snappy"))
                for table, path in slab.files.items()
            }
            for table, columns in _rows(landings, tables, prepare):
                rows = arrow_table(columns, schemas[table])
                writers[table].write_table(rows)
                slab.counts[table] += rows.num_rows
        yield slab


@contextmanager
def written_as_json(
    landings: Sequence[Landing], tables: PlaudTables, prepare: Prepare | None = None
) -> Iterator[Slab]:
    """
    Write a slab as compressed JSON lines, where JSON stands as it is; else as :func:`written` does.

    :param landings: Transcriptions, no id twice.
    :param tables: Tables that they are for. Times are in ISO 8601.
    :param prepare: Changes values before they are written.
    """
    with TemporaryDirectory(prefix="plaud-") as folder:
        slab = _slab(landings, tables, folder, "json.gz")
        with ExitStack() as stack:
            files = {
                table: stack.enter_context(gzip.open(path, "wt", encoding="utf-8", compresslevel=1))
                for table, path in slab.files.items()
            }
            for table, columns in _rows(landings, tables, prepare):
                for row in rows_of({column.name: columns[column.name] for column in table.columns}):
                    files[table].write(_json_line(table, row))
                    slab.counts[table] += 1
        yield slab


def _json_line(table: sa.Table, row: Row) -> str:
    values = [
        f"{json.dumps(name)}:{value if is_json else json.dumps(value, ensure_ascii=False, default=_iso)}"
        for name, value in row.items()
        if value is not None
        for is_json in [content_of(table.columns[name]) is Content.JSON]
    ]
    return f"{{{','.join(values)}}}\n"


def _iso(value: date) -> str:
    return value.isoformat()


def _slab(landings: Sequence[Landing], tables: PlaudTables, folder: str, ending: str) -> Slab:
    files = {
        tables.transcripts: Path(folder, f"transcripts.{ending}"),
        tables.segments: Path(folder, f"segments.{ending}"),
    }
    return Slab([landing.transcription_id for landing in landings], files, dict.fromkeys(files, 0))


def _rows(
    landings: Sequence[Landing], tables: PlaudTables, prepare: Prepare | None
) -> Iterator[tuple[sa.Table, Columns]]:
    """Yield rows of both tables, so many at once that they take a bounded amount of memory."""
    for part in parts(landings):
        transcripts = columns_of([landing.transcript_row() for landing in part])
        segments = ((tables.segments, columns) for columns in segment_parts(part))
        for table, columns in chain([(tables.transcripts, transcripts)], segments):
            if prepare is not None:
                prepare(table, columns)
            yield table, columns
