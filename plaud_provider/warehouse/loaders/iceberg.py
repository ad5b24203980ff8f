"""Apache Iceberg through pyiceberg."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from plaud_provider.database.arrow import arrow_schema
from plaud_provider.database.connections import kind_of, look_up
from plaud_provider.exceptions import PlaudConfigurationError, PlaudWarehouseError
from plaud_provider.warehouse.lake import folder_name
from plaud_provider.warehouse.loaders.lake import LakeLoader, rows_of_ids

if TYPE_CHECKING:
    import sqlalchemy as sa

    from plaud_provider.warehouse.lake import Lake
    from plaud_provider.warehouse.loaders.iceberg_rows import Found
    from plaud_provider.warehouse.tables import PlaudTables

#: Namespace of the tables where ``schema`` names none.
NAMESPACE = "plaud"
#: Catalog where a local lake names none, below ``lake_path``.
CATALOG_FILE = "catalog.sqlite"
#: Types of connections that lead to a database for a SQL catalog.
_SQL = ("postgres", "mysql", "sqlite")
#: Columns whose values may be longer than the name of a folder.
_LONG = frozenset({"audio_uri", "text", "error", "run_id", "raw", "metadata"})
#: How long commits of other tasks may keep the file of a local catalog locked.
_LOCKED_SECONDS = 60
#: Of other columns a table's metadata would have the least and the greatest value: the beginning of what was
#: said.
_PROPERTIES = {
    "write.metadata.metrics.default": "counts",
    "write.metadata.metrics.column.transcription_id": "full",
    "write.metadata.metrics.column.landed_at": "full",
}


class IcebergLoader(LakeLoader):
    """Lands in Iceberg tables of a catalog, partitioned by the day of ``landed_at``."""

    needs = "pyiceberg"

    def __init__(self, lake: Lake, tables: PlaudTables) -> None:
        super().__init__(lake, tables)
        # By table: what was looked for last, and in which version, and what was found.
        self._looked: dict[Any, tuple[Any, list[Found]]] = {}

    @cached_property
    def _catalog(self) -> Any:
        """
        The catalog.

        :raises PlaudConfigurationError: if its connection is of a type that leads to none.
        """
        if self._lake.catalog_conn_id is None:
            from pyiceberg.catalog.sql import SqlCatalog

            folder = self._lake.location.removeprefix("file://")
            os.makedirs(folder, exist_ok=True)
            uri = f"sqlite:///{folder}/{CATALOG_FILE}?timeout={_LOCKED_SECONDS}"
            return SqlCatalog("plaud", uri=uri)
        return self._named_catalog(self._lake.catalog_conn_id)

    def _named_catalog(self, conn_id: str) -> Any:
        connection = look_up(conn_id, parameter="lake_catalog_conn_id")
        kind = kind_of(connection)
        extra = {name: str(value) for name, value in connection.extra_dejson.items()}
        if kind in _SQL:
            from pyiceberg.catalog.sql import SqlCatalog

            from plaud_provider.database.database import open_database

            url = open_database(conn_id, connection=connection).engine.url
            return SqlCatalog("plaud", uri=url.render_as_string(hide_password=False), **self._properties)
        if kind == "aws":
            from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
            from pyiceberg.catalog.glue import GlueCatalog

            glue = AwsBaseHook(aws_conn_id=conn_id, client_type="glue").get_conn()
            return GlueCatalog("plaud", client=glue, **self._properties)
        if kind == "iceberg":
            from pyiceberg.catalog import load_catalog

            # As Airflow's own Iceberg provider reads such a connection, which need not be installed.
            properties = {"type": "rest", **extra}
            if connection.host:
                properties["uri"] = connection.host
            if connection.login and connection.password:
                properties["credential"] = f"{connection.login}:{connection.password}"
            return load_catalog("plaud", **properties, **self._properties)
        raise PlaudConfigurationError(
            f"lake_catalog_conn_id: connection {conn_id!r} is of type {kind!r}, which leads to no catalog of "
            "Iceberg. Pass one of type 'iceberg' (REST), 'aws' (Glue), 'postgres', 'mysql' or 'sqlite' "
            "(SQL). Nothing was sent."
        )

    @property
    def _properties(self) -> dict[str, str]:
        """How files are read and written: as the path says, else as the catalog does."""
        if self._lake.conn_id is None:
            return {}
        return {
            "py-io-impl": "plaud_provider.warehouse.loaders.iceberg_files.AirflowFileIO",
            "plaud.lake-path": self._lake.path,
        }

    def _create_or_check(self) -> None:
        namespace = self._namespace
        if not self._catalog.namespace_exists(namespace):
            if self._tables.schema is not None:
                raise PlaudWarehouseError(
                    f"schema: the catalog of lake_path {self._lake.path!r} has no schema {namespace!r} (a "
                    "namespace, in Iceberg's words). Create it (it is not created here), or correct the "
                    "name. Nothing was written."
                )
            self._catalog.create_namespace_if_not_exists(namespace)
        super()._create_or_check()

    @property
    def _namespace(self) -> str:
        return NAMESPACE if self._tables.schema is None else str(self._tables.schema)

    def _open(self, table: sa.Table) -> Any:
        from pyiceberg.exceptions import NoSuchTableError

        try:
            return self._catalog.load_table((self._namespace, str(table.name)))
        except NoSuchTableError:
            return None

    def _own_problems(self, table: sa.Table, opened: Any) -> Iterator[str]:
        """Yield what pyiceberg does not write; see the base class."""
        from pyiceberg.transforms import IdentityTransform, UnknownTransform, VoidTransform

        kind = opened.properties.get("write.format.default", "parquet")
        if kind.lower() != "parquet":
            yield f"write.format.default is {kind!r}, and pyiceberg writes 'parquet'"
        level = opened.properties.get("write.delete.isolation-level", "serializable")
        if level.lower() != "serializable":
            yield (
                f"write.delete.isolation-level is {level!r}, by which two tasks that land the same recording "
                "at once both add it; 'serializable' is needed"
            )
        fields = opened.spec().fields
        sources = [opened.schema().find_column_name(field.source_id) for field in fields]
        for name in sorted({str(name) for name in sources if sources.count(name) > 1}):
            yield f"column {name!r} has more than one partition, which pyiceberg does not write"
        for field, name in zip(fields, sources, strict=True):
            if name in _LONG and isinstance(field.transform, IdentityTransform):
                yield f"column {name!r} is a partition, and may be longer than the name of a folder"
            if isinstance(field.transform, (VoidTransform, UnknownTransform)):
                yield (
                    f"partition {field.name!r} has the transform {field.transform}, which pyiceberg does not "
                    "write"
                )

    def _schema(self, opened: Any) -> Any:
        return opened.schema().as_arrow()

    def _create(self, table: sa.Table, columns: Mapping[str, sa.Column[Any]]) -> None:
        from pyiceberg.exceptions import TableAlreadyExistsError
        from pyiceberg.partitioning import PartitionField, PartitionSpec
        from pyiceberg.schema import Schema
        from pyiceberg.transforms import DayTransform
        from pyiceberg.types import NestedField

        fields = [
            NestedField(number, field.name, iceberg_type(field.type), required=not field.nullable)
            for number, field in enumerate(arrow_schema(columns.items()), start=1)
        ]
        schema = Schema(*fields)
        landed_at = schema.find_field("landed_at").field_id
        day = PartitionField(landed_at, 1000, DayTransform(), "landed_day")
        folder = f"{folder_name(self._namespace)}/{folder_name(str(table.name))}"
        try:
            self._catalog.create_table(
                (self._namespace, str(table.name)),
                schema,
                location=f"{self._lake.location}/{folder}",
                partition_spec=PartitionSpec(day),
                properties=_PROPERTIES,
            )
        except TableAlreadyExistsError:
            return

    def _add_column(self, opened: Any, column: sa.Column[Any]) -> None:
        [field] = arrow_schema([(column.name, column)])
        with opened.update_schema() as update:
            update.add_column(column.name, iceberg_type(field.type))

    def _read(self, opened: Any, columns: Sequence[str], ids: Sequence[str] | None) -> Any:
        if ids is None:
            return opened.scan(selected_fields=tuple(columns)).to_arrow()
        if {*columns} <= {"transcription_id", "landed_at"}:
            return self._looked_at(opened, columns, ids)
        names = dict.fromkeys((*columns, "transcription_id"))
        rows = opened.scan(row_filter=self._span(ids), selected_fields=tuple(names))
        with rows.to_arrow_batch_reader() as batches:
            return rows_of_ids(batches, columns, ids, batches.schema)

    def _looked_at(self, opened: Any, columns: Sequence[str], ids: Sequence[str]) -> Any:
        import pyarrow as pa

        schema = self._schema(opened)
        nothing = pa.schema([schema.field(name) for name in columns]).empty_table()
        found = [one.rows.select(list(columns)) for one in self._look(opened, ids)]
        return pa.concat_tables([*found, nothing], promote_options="permissive")

    def _look(self, opened: Any, ids: Sequence[str]) -> list[Found]:
        """Return the files that have rows of these ids; a landing asks for the same ones again."""
        from plaud_provider.warehouse.loaders.iceberg_rows import look

        what = (opened.metadata.current_snapshot_id, tuple(ids))
        looked = self._looked.get(opened.metadata.table_uuid)
        if looked is None or looked[0] != what:
            looked = (what, look(opened, self._span(ids), ids, None))
            self._looked[opened.metadata.table_uuid] = looked
        return looked[1]

    def _append(self, opened: Any, rows: Any) -> None:
        opened.append(rows)

    def _replace(self, opened: Any, rows: Any, ids: Sequence[str]) -> None:
        self._swap(opened, self._span(ids), self._look(opened, ids), rows)

    def _delete(self, opened: Any, ids: Sequence[str], before: datetime) -> None:
        from pyiceberg.expressions import And, LessThan

        from plaud_provider.warehouse.loaders.iceberg_rows import look

        span = And(self._span(ids), LessThan("landed_at", before.isoformat()))
        self._swap(opened, span, look(opened, span, ids, before), None)

    def _swap(self, opened: Any, span: Any, found: Sequence[Found], rows: Any) -> None:
        """
        Delete rows and add others, in one commit.

        It reads the texts only of files that have rows of both kinds: pyiceberg's own ``overwrite`` reads
        those of each file whose bounds an id lies in, so in the end of all.

        :param opened: The version of the table that it is for.
        :param span: A condition that the rows meet, by bounds that files have. A commit of others that adds
            or removes a file that may have such rows is in the way of this one.
        :param found: The files that have rows which are deleted.
        :param rows: What is added; ``None``: nothing.
        """
        from pyiceberg.io.pyarrow import _dataframe_to_data_files

        from plaud_provider.warehouse.loaders.iceberg_rows import kept

        if rows is None and not found:
            return
        added = [*kept(opened, found), *([] if rows is None else [rows])]
        with opened.transaction() as transaction, transaction.update_snapshot().overwrite() as files:
            files.delete_by_predicate(span)
            for one in found:
                files.delete_data_file(one.task.file)
            for some in added:
                for file in _dataframe_to_data_files(opened.metadata, some, opened.io):
                    files.append_data_file(file)

    def _forget(self, table: sa.Table, ids: Sequence[str]) -> None:
        from pyiceberg.expressions import In

        from plaud_provider.warehouse.loaders.iceberg_files import expire

        opened = self._open(table)
        for name, ref in opened.refs().items():
            of_ref = opened.scan(
                row_filter=In("transcription_id", ids),
                selected_fields=("transcription_id",),
                snapshot_id=ref.snapshot_id,
            )
            if name != "main" and of_ref.to_arrow().num_rows:
                raise PlaudWarehouseError(
                    f"Table {table.fullname!r} of lake_path {self._lake.path!r} has a branch or tag {name!r} "
                    "with rows that are to be removed. Drop it, then retry; nothing was removed from this "
                    "table."
                )
        self._swap(opened, self._span(ids), self._look(opened, ids), None)
        expire(self._open(table))

    def _span(self, ids: Sequence[str]) -> Any:
        """
        Return the condition for rows with an id from the first to the last of these.

        With a list of more than 200 ids pyiceberg skips no file by its bounds, and it makes a literal of each
        id anew at every step.
        """
        from pyiceberg.expressions import And, GreaterThanOrEqual, LessThanOrEqual

        least, greatest = min(ids, default=""), max(ids, default="")
        name = "transcription_id"
        return And(GreaterThanOrEqual(name, least), LessThanOrEqual(name, greatest))

    @property
    def _conflicts(self) -> tuple[type[Exception], ...]:
        from pyiceberg.exceptions import CommitFailedException, ValidationException

        return CommitFailedException, ValidationException


def iceberg_type(kind: Any) -> Any:
    """Return the type of Iceberg for one of Arrow."""
    import pyarrow as pa
    from pyiceberg import types

    return {
        pa.timestamp("us", tz="UTC"): types.TimestamptzType(),
        pa.float64(): types.DoubleType(),
        pa.int64(): types.LongType(),
        pa.int32(): types.IntegerType(),
        pa.bool_(): types.BooleanType(),
        pa.date32(): types.DateType(),
        pa.string(): types.StringType(),
    }[kind]
