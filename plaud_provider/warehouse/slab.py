"""A slab of transcriptions as Parquet files, for warehouses that load files in bulk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import Enum, auto
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from plaud_provider.database.rows import columns_of
from plaud_provider.database.types import JsonText, UtcTime
from plaud_provider.warehouse.loaders.rows import parts
from plaud_provider.warehouse.rows import segment_columns

if TYPE_CHECKING:
    from plaud_provider.database.rows import Columns
    from plaud_provider.warehouse.rows import Landing
    from plaud_provider.warehouse.tables import PlaudTables

    #: Changes the values of a table's columns, in place, before they are written.
    Prepare = Callable[[sa.Table, Columns], None]


class Content(Enum):
    """What a column of ours holds, whatever a warehouse calls its type."""

    #: Text of a bounded length.
    NAME = auto()
    #: Text of any length.
    TEXT = auto()
    JSON = auto()
    DOUBLE = auto()
    INTEGER = auto()
    TIME = auto()
    DATE = auto()
    BOOLEAN = auto()


def content_of(column: sa.Column[Any]) -> Content:
    """
    Return what a column holds.

    :param column: A column of our tables.
    """
    kinds: tuple[tuple[type, Content], ...] = (
        (JsonText, Content.JSON),
        (UtcTime, Content.TIME),
        (sa.Boolean, Content.BOOLEAN),
        (sa.Date, Content.DATE),
        (sa.Float, Content.DOUBLE),
        (sa.Integer, Content.INTEGER),
    )
    for kind, content in kinds:
        if isinstance(column.type, kind):
            return content
    return Content.TEXT if getattr(column.type, "length", None) is None else Content.NAME


class Slab(NamedTuple):
    """
    Files with the rows of some transcriptions.

    :param ids: The transcriptions.
    :param files: A Parquet file for each table, those without a row included.
    :param counts: How many rows each has.
    """

    ids: list[str]
    files: Mapping[sa.Table, Path]
    counts: Mapping[sa.Table, int]


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
    import pyarrow as pa
    from pyarrow import parquet

    transcripts, segments = tables.transcripts, tables.segments
    schemas = {table: _schema(table) for table in (transcripts, segments)}
    with TemporaryDirectory(prefix="plaud-") as folder:
        files = {transcripts: Path(folder, "transcripts.parquet"), segments: Path(folder, "segments.parquet")}
        counts = dict.fromkeys(files, 0)
        with ExitStack() as stack:
            writers = {
                table: stack.enter_context(parquet.ParquetWriter(path, schemas[table], compression="zstd"))
                for table, path in files.items()
            }
            for part in parts(landings):
                rows = {
                    transcripts: columns_of([landing.transcript_row() for landing in part]),
                    segments: segment_columns(part),
                }
                for table, columns in rows.items():
                    if prepare is not None:
                        prepare(table, columns)
                    made = pa.table(
                        {name: pa.array(columns[name], schemas[table].field(name).type) for name in columns},
                        schema=schemas[table],
                    )
                    writers[table].write_table(made)
                    counts[table] += made.num_rows
        yield Slab([landing.transcription_id for landing in landings], files, counts)


def _schema(table: sa.Table) -> Any:
    import pyarrow as pa

    types = {
        Content.NAME: pa.string(),
        Content.TEXT: pa.string(),
        Content.JSON: pa.string(),
        Content.DOUBLE: pa.float64(),
        Content.INTEGER: pa.int64(),
        Content.TIME: pa.timestamp("us", tz="UTC"),
        Content.DATE: pa.date32(),
        Content.BOOLEAN: pa.bool_(),
    }
    return pa.schema(
        [
            pa.field(column.name, types[content_of(column)], nullable=bool(column.nullable))
            for column in table.columns
        ]
    )
