"""
What was moved, in OpenLineage's words: datasets, and facets of them and of the run.

Only imported where OpenLineage's provider is installed. Names follow its naming rules: a bucket, a site or
``file`` is a namespace, a folder in it a name; so is a database with its tables.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs
from airflow.providers.common.compat.openlineage.facet import (
    ColumnLineageDatasetFacet,
    Fields,
    InputDataset,
    InputField,
    OutputDataset,
    OutputStatisticsOutputDatasetFacet,
    RunFacet,
    SchemaDatasetFacet,
    SchemaDatasetFacetFields,
)
from airflow.providers.openlineage.extractors import OperatorLineage

from plaud_provider import __version__
from plaud_provider.database.connections import kind_of, look_up
from plaud_provider.warehouse.tables import plaud_tables

if TYPE_CHECKING:
    import sqlalchemy as sa
    from airflow.sdk import Connection

    from plaud_provider.lineage.moved import Moved, Target

_PRODUCER = f"airflow-provider-plaud/{__version__}"
_STORAGE = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:[^/@]*@)?(?P<place>[^/]*)(?P<path>/.*)?", re.DOTALL
)
#: The ports of servers whose connections often leave them out.
_PORTS = {"postgres": 5432, "mysql": 3306}
#: Databases in a file.
_FILES = frozenset({"sqlite", "duckdb"})
#: Columns that are the reference itself; all others that have a source come from the audio.
_IDENTICAL = {"audio_uri": "uri"}
#: Columns that this package or the run makes up.
_OWN = frozenset({"transcription_id", "segment_index", "region", "status", "submitted_at", "landed_at"})
_RUN = frozenset({"dag_id", "run_id"})


@attrs.define
class PlaudRunFacet(RunFacet):  # type: ignore[misc,unused-ignore]
    """
    What became of the recordings, in numbers and ids; no text.

    :param counts: Recordings by what became of them.
    :param transcriptionIds: Ids of their transcriptions, a thousand at most.
    :param audioSeconds: How long they are together, where that is known.
    """

    counts: dict[str, float]
    transcriptionIds: list[str]
    audioSeconds: float

    _additional_skip_redact = ["counts", "transcriptionIds", "audioSeconds"]


def lineage_of(moved: Moved | None) -> OperatorLineage[Any, Any]:
    """
    Return what a task has moved as OpenLineage has it.

    :param moved: What it has noted; ``None`` if it did not come so far.
    """
    if moved is None:
        return OperatorLineage()
    inputs = [InputDataset(*_folder(folder)) for folder in moved.folders]
    outputs: list[OutputDataset] = []
    if moved.target is not None:
        rows = (moved.transcripts, moved.segments)
        outputs = _tables(moved.target, inputs, rows)
    facet = PlaudRunFacet(
        counts=dict(moved.counts),
        transcriptionIds=list(moved.ids),
        audioSeconds=round(moved.audio_seconds, 3),
        producer=_PRODUCER,  # type: ignore[call-arg,unused-ignore]
    )
    return OperatorLineage(inputs=inputs, outputs=outputs, run_facets={"plaud": facet})


def _folder(reference: str) -> tuple[str, str]:
    found = _STORAGE.fullmatch(reference)
    if found is None or found["scheme"] == "file":
        path = reference.removeprefix("file://")
        return "file", path.rstrip("/") or "/"
    name = (found["path"] or "/").strip("/") or "/"
    return f"{found['scheme']}://{found['place']}", name


def _tables(target: Target, inputs: list[InputDataset], rows: tuple[int, int]) -> list[OutputDataset]:
    declared = plaud_tables(target.schema, target.transcripts_table, target.segments_table)
    connection = look_up(target.conn_id, parameter="sql_conn_id")
    return [
        OutputDataset(
            *_table(connection, table),
            facets={"schema": _schema(table), "columnLineage": _columns(table, inputs)},
            outputFacets={"outputStatistics": OutputStatisticsOutputDatasetFacet(rowCount=count)},
        )
        for table, count in zip((declared.transcripts, declared.segments), rows, strict=True)
    ]


def _table(connection: Connection, table: sa.Table) -> tuple[str, str]:
    kind = kind_of(connection)
    if kind in _FILES:
        path = str(connection.host or "").partition("?")[0]
        return f"{kind}://{path}", str(table.fullname)
    port = connection.port or _PORTS.get(kind)
    namespace = f"{kind}://{connection.host or 'localhost'}" + (f":{port}" if port else "")
    parts: list[Any] = [
        connection.schema,
        table.schema or ("public" if kind == "postgres" else None),
        table.name,
    ]
    return namespace, ".".join(str(part) for part in parts if part)


def _schema(table: sa.Table) -> SchemaDatasetFacet:
    return SchemaDatasetFacet(
        fields=[SchemaDatasetFacetFields(name=column.name, type=str(column.type)) for column in table.columns]
    )


def _columns(table: sa.Table, inputs: list[InputDataset]) -> ColumnLineageDatasetFacet:
    """Return from what of the recordings each column comes: from its audio, or its reference."""
    return ColumnLineageDatasetFacet(
        fields={
            column.name: Fields(
                inputFields=[
                    InputField(one.namespace, one.name, _IDENTICAL.get(column.name, "audio"))
                    for one in inputs
                ],
                transformationType="IDENTITY" if column.name in _IDENTICAL else None,
                transformationDescription=None if column.name in _IDENTICAL else "transcribed by Plaud",
            )
            for column in table.columns
            if column.name not in _OWN | _RUN
        }
    )
