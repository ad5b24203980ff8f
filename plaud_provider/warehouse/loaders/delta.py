"""Delta Lake through delta-rs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from plaud_provider.database.arrow import arrow_schema, arrow_table
from plaud_provider.database.content import Content, content_of
from plaud_provider.warehouse.lake import folder_name
from plaud_provider.warehouse.loaders.folders import FolderLoader
from plaud_provider.warehouse.loaders.lake import rows_of_ids
from plaud_provider.warehouse.loaders.object_store import storage_options
from plaud_provider.warehouse.loaders.trial import refused_by_constraints, rows_of_trial, try_out
from plaud_provider.warehouse.loaders.whole_landings import Meant, meant

if TYPE_CHECKING:
    import sqlalchemy as sa

    from plaud_provider.api.regions import Region
    from plaud_provider.exceptions import PlaudTableMismatchError

#: Of other columns the log would have the least and the greatest value: the beginning of what was said.
_PROPERTIES = {"delta.dataSkippingStatsColumns": "transcription_id,landed_at"}

#: How properties that are constraints begin.
_CONSTRAINT = "delta.constraints."
_SAID = (Content.TEXT, Content.JSON)
#: Texts that are a word, or not there.
_WORDS = frozenset({"region", "language", "status", "dag_id", "api", "model"})


class DeltaLoader(FolderLoader):
    """
    Lands in Delta tables.

    They have no partitions: the statistics in the log tell readers which files have a day.
    """

    needs = "deltalake"

    def _open(self, table: sa.Table) -> Any:
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            return DeltaTable(self._uri(table), storage_options=storage_options(self._lake))
        except TableNotFoundError:
            return None

    def _uri(self, table: sa.Table) -> str:
        return f"{self._lake.location}/{folder_name(str(table.name))}"

    def _schema(self, opened: Any) -> Any:
        import pyarrow as pa

        return pa.schema(opened.schema().to_arrow())

    def _create(self, table: sa.Table, columns: Mapping[str, sa.Column[Any]]) -> None:
        from deltalake import DeltaTable

        options = storage_options(self._lake)
        DeltaTable.create(
            self._uri(table),
            arrow_schema(columns.items()),
            mode="ignore",
            configuration=_PROPERTIES,
            storage_options=options,
        )

    def _own_problems(self, table: sa.Table, opened: Any) -> Iterator[str]:
        """Yield what delta-rs, or the format itself, makes something else of; see the base class."""
        metadata = opened.metadata()
        told = metadata.configuration
        if str(told.get("delta.appendOnly", "")).lower() == "true":
            yield "delta.appendOnly is set, and rows that land again replace others"
        if told.get("delta.columnMapping.mode", "none") != "none":
            yield "delta.columnMapping.mode is set, which delta-rs does not write by"
        try:
            opened.to_pyarrow_dataset()
        except Exception as error:
            yield f"delta-rs cannot read it ({type(error).__name__}): it has a feature that is not supported"
        ours = self._columns(table)
        for name in metadata.partition_columns:
            # What is said may be empty, which is null as a partition, or longer than a path can be.
            if name in ours and content_of(ours[name]) in _SAID and name not in _WORDS:
                yield f"column {name!r} is a partition, and may be empty or longer than the name of a folder"
        for field in opened.schema().fields:
            if field.name in ours and "delta.generationExpression" in field.metadata:
                yield f"column {field.name!r} is generated, and takes no value"

    def _check(self, table: sa.Table, parameter: str, opened: Any) -> None:
        super()._check(table, parameter, opened)
        told = opened.metadata().configuration
        constraints = {
            name.removeprefix(_CONSTRAINT): condition
            for name, condition in told.items()
            if name.startswith(_CONSTRAINT)
        }
        if constraints:
            try_out(partial(self._refused, table, parameter, constraints))

    def _refused(
        self,
        table: sa.Table,
        parameter: str,
        constraints: Mapping[str, str],
        region: Region,
        is_plain: bool,
    ) -> PlaudTableMismatchError | None:
        """Land made-up rows in a table of this host with the same constraints."""
        from deltalake import DeltaTable, write_deltalake
        from deltalake.exceptions import DeltaError

        columns = rows_of_trial(self._tables, region, is_plain=is_plain)[table]
        with TemporaryDirectory(prefix="plaud-") as folder:
            schema = self._schema(self._open(table))
            there = DeltaTable.create(folder, schema)
            for name, condition in constraints.items():
                there.alter.add_constraint({name: condition})
            rows = arrow_table(columns, schema, {"landed_at": datetime.now(tz=UTC)})
            try:
                write_deltalake(there, rows, mode="append")
            except DeltaError:
                return refused_by_constraints(table, parameter, f"lake_path {self._lake.path!r}", constraints)
        return None

    def _add_column(self, opened: Any, column: sa.Column[Any]) -> None:
        from deltalake import Schema

        opened.alter.add_columns(list(Schema.from_arrow(arrow_schema([(column.name, column)])).fields))

    def _read(self, opened: Any, columns: Sequence[str], ids: Sequence[str] | None) -> Any:
        import pyarrow.dataset as ds

        data = opened.to_pyarrow_dataset()
        if ids is None:
            return data.to_table(columns=list(columns))
        # Files by what the log says of them, rows here: a file that delta-rs has written again, without some
        # rows, has texts of a type that pyarrow compares with no other.
        files = list(data.get_fragments(filter=ds.field("transcription_id").isin(list(ids))))
        chosen = ds.FileSystemDataset(files, data.schema, data.format, data.filesystem)
        names = dict.fromkeys((*columns, "transcription_id"))
        return rows_of_ids(chosen.to_batches(columns=[*names]), columns, ids, data.schema)

    def _meant(self, opened: Any, ids: Sequence[str], before: datetime | None = None) -> Meant | None:
        rows = self._read(opened, ("transcription_id", "landed_at"), ids)
        return meant(rows, partial(self._landed_between, opened), ids, before)

    def _landed_between(self, opened: Any, first: datetime, last: datetime) -> Any:
        import pyarrow.dataset as ds

        stamp = ds.field("landed_at")
        return opened.to_pyarrow_dataset().to_table(
            columns=["landed_at"], filter=(stamp >= first) & (stamp <= last)
        )

    def _append(self, opened: Any, rows: Any) -> None:
        from deltalake import write_deltalake

        write_deltalake(opened, rows, mode="append")

    def _replace(self, opened: Any, rows: Any, ids: Sequence[str]) -> None:
        from deltalake import write_deltalake

        condition, found = _these(ids), self._meant(opened, ids)
        if found is not None and found.are_all:
            stamps = rows["landed_at"].unique().to_pylist()
            if not self._landed_between(opened, min(stamps), max(stamps)).num_rows:
                # delta-rs has the new rows match as well.
                condition = _of_landings([*found.whole, *stamps])
        write_deltalake(opened, rows, mode="overwrite", predicate=condition)

    def _delete(self, opened: Any, ids: Sequence[str], before: datetime) -> None:
        if (found := self._meant(opened, ids, before)) is None:
            return
        older = f"{_these(ids)} and landed_at < '{before.isoformat()}'"
        opened.delete(_of_landings(found.whole) if found.are_all else older)

    def _forget(self, table: sa.Table, ids: Sequence[str]) -> None:
        opened = self._open(table)
        opened.delete(_these(ids))
        # Files that the log does not know stay: another task may be about to commit them.
        opened.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)

    @property
    def _conflicts(self) -> tuple[type[Exception], ...]:
        from deltalake.exceptions import CommitFailedError

        return (CommitFailedError,)


def _of_landings(stamps: Sequence[datetime]) -> str:
    """Return the condition for all rows of landings: quicker than one with a thousand ids."""
    quoted = (f"'{stamp.isoformat()}'" for stamp in stamps)
    return f"landed_at in ({', '.join(quoted)})"


def _these(ids: Sequence[str]) -> str:
    """Return the condition for rows of these ids; delta-rs takes it as text only."""
    quoted = ("'" + known.replace("'", "''") + "'" for known in ids)
    return f"transcription_id in ({', '.join(quoted)})"
