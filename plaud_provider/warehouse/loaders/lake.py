"""What the open table formats have in common: Arrow in, files out, two atomic commits in order."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import sqlalchemy as sa
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from plaud_provider.api.models import Status
from plaud_provider.database.arrow import arrow_table, arrow_type
from plaud_provider.database.rows import columns_of
from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudError,
    PlaudTableMismatchError,
    PlaudWarehouseError,
    how_to_install,
)
from plaud_provider.warehouse.loaders.loader import Removed, Stored
from plaud_provider.warehouse.loaders.ordered import OrderedLoader

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from plaud_provider.database.rows import Columns
    from plaud_provider.warehouse.lake import Lake
    from plaud_provider.warehouse.rows import Landing
    from plaud_provider.warehouse.tables import PlaudTables

Result = TypeVar("Result")

#: For how long a commit that others were faster than is tried again.
CONFLICT_SECONDS = 120.0
_DENIED = re.compile(r"denied|forbidden|\b40[13]\b|permission|read-?only", re.IGNORECASE)


class LakeLoader(OrderedLoader):
    """
    Lands in files of an open table format.

    Readers take a segment if its ``landed_at`` is that of its transcript.

    :param lake: Where and how.
    :param tables: Tables to write.
    :raises PlaudConfigurationError: if a library that it needs is not installed.
    :raises PlaudInputError: if a name cannot be one there.
    """

    #: Module that writes the format, beside pyarrow.
    needs: ClassVar[str] = "pyarrow"

    def __init__(self, lake: Lake, tables: PlaudTables) -> None:
        super().__init__(tables)
        self._lake = lake
        if missing := [name for name in ("pyarrow", self.needs) if find_spec(name) is None]:
            raise PlaudConfigurationError(
                f"lake_format: {lake.format!r} needs {missing[0]}, which is not installed. Install it: "
                f"{how_to_install(lake.format)}. Nothing was sent."
            )
        tables.refuse_one_name_for_two(tells_cases_apart=False)

    @property
    def conn_id(self) -> str:
        """The folder: no Airflow connection of a database leads there, so no ledger is there either."""
        return self._lake.path

    @property
    def kind(self) -> str:
        """Format of the tables."""
        return self._lake.format

    def ensure(self, *, is_checked: bool = False) -> None:
        """Create or check the tables; see the base class."""
        self._run(lambda: self._retrying(self._create_or_check), "could not be created or looked at")

    def landed(self, ids: Sequence[str]) -> set[str]:
        """Return those that are completed and here; see the base class."""
        of_ids = {"transcription_id": ids, "status": [Status.COMPLETED.value]}
        return {known for (known,) in self.read(("transcription_id",), of_ids)}

    def read(
        self, columns: Sequence[str], where: Mapping[str, Sequence[str]], most: int | None = None
    ) -> list[Sequence[Any]]:
        """Return columns of the transcripts; see the base class. Without ids, all rows are looked at."""
        names = dict.fromkeys((*columns, *where, "transcription_id", "landed_at"))
        allowed = {name: frozenset(values) for name, values in where.items()}

        def find() -> list[dict[str, Any]]:
            opened = self._open(self._tables.transcripts)
            found = self._read(opened, [*names], where.get("transcription_id")).to_pylist()
            return sorted(found, key=lambda row: (row["landed_at"], row["transcription_id"]))

        rows = self._run(find, "could not be read")
        # Of a landing that another one was faster than, the later one counts.
        latest = {row["transcription_id"]: row for row in rows}
        wanted: list[Sequence[Any]] = [
            tuple(row[name] for name in columns)
            for row in rows
            if row is latest[row["transcription_id"]]
            and all(row[name] in values for name, values in allowed.items())
        ]
        return wanted[:most]

    def stored(self, is_wanted: Callable[[Stored], bool]) -> list[Stored]:
        """Return what is here and wanted; see the base class."""
        return [one for row in self.read(Stored._fields, {}) if is_wanted(one := Stored(*row))]

    def remove(self, ids: Sequence[str]) -> Removed:
        """
        Remove all rows of these transcriptions, and what earlier versions of the tables have of them.

        See the base class. Earlier versions of the tables cannot be read any more afterwards.
        """
        if not ids:
            return Removed(0, 0)
        transcripts, segments = self._run(lambda: self._landings(ids), "could not be read")
        latest: dict[str, datetime] = {}
        for known, landed_at in transcripts:
            latest[known] = max(landed_at, latest.get(known, landed_at))
        for table in (self._tables.segments, self._tables.transcripts):
            self._run(
                partial(self._retrying, partial(self._forget, table, ids)),
                "still have rows, or files of earlier versions, that were to be removed",
            )
        return Removed(len(latest), sum(latest.get(known) == landed_at for known, landed_at in segments))

    def take_back(self, ids: Sequence[str]) -> None:
        """Remove what was landed to try it out; see the base class."""
        later = datetime.now(tz=UTC) + timedelta(days=1)

        def delete(table: sa.Table) -> None:
            self._delete(self._open(table), ids, later)

        for table in (self._tables.segments, self._tables.transcripts):
            self._run(partial(self._retrying, partial(delete, table)), "still have a row that was a trial")

    def _landings(self, ids: Sequence[str]) -> list[list[tuple[str, datetime]]]:
        """Return id and ``landed_at`` of each row of these ids, of both tables."""
        found = []
        for table in self._tables.parameters:
            rows = self._read(self._open(table), ("transcription_id", "landed_at"), ids).to_pydict()
            found.append(list(zip(rows["transcription_id"], rows["landed_at"], strict=True)))
        return found

    @abstractmethod
    def _forget(self, table: sa.Table, ids: Sequence[str]) -> None:
        """
        Remove the rows of these ids, and every file of an earlier version, as it may have some.

        Files that another task is about to commit have to stay.
        """

    @abstractmethod
    def _open(self, table: sa.Table) -> Any:
        """Return the newest version of a table; ``None`` if there is no such table."""

    @abstractmethod
    def _schema(self, opened: Any) -> Any:
        """Return the columns of a table as a schema of Arrow."""

    @abstractmethod
    def _create(self, table: sa.Table, columns: Mapping[str, sa.Column[Any]]) -> None:
        """Create a table, unless another task has."""

    @abstractmethod
    def _add_column(self, opened: Any, column: sa.Column[Any]) -> None:
        """Add a nullable column."""

    @abstractmethod
    def _read(self, opened: Any, columns: Sequence[str], ids: Sequence[str] | None) -> Any:
        """Return some columns of the rows of these ids (``None``: of all), as a table of Arrow."""

    @abstractmethod
    def _append(self, opened: Any, rows: Any) -> None:
        """Add rows."""

    @abstractmethod
    def _replace(self, opened: Any, rows: Any, ids: Sequence[str]) -> None:
        """
        Replace the rows of these ids in one commit.

        It fails with one of :attr:`_conflicts` if another commit has changed them since ``opened``.
        """

    @abstractmethod
    def _delete(self, opened: Any, ids: Sequence[str], before: datetime) -> None:
        """Delete rows of these ids whose ``landed_at`` is earlier; likewise."""

    @property
    @abstractmethod
    def _conflicts(self) -> tuple[type[Exception], ...]:
        """Errors of a commit that another one was faster than."""

    def _create_or_check(self) -> None:
        for table, parameter in self._tables.parameters.items():
            opened = self._open(table)
            if opened is None:
                self._create(table, self._columns(table))
            else:
                self._check(table, parameter, opened)

    def _check(self, table: sa.Table, parameter: str, opened: Any) -> None:
        there = self._schema(opened)
        problems = list(self._own_problems(table, opened))
        spellings = {name.casefold(): name for name in there.names}
        for name, column in self._columns(table).items():
            found = there.field(name).type if name in there.names else None
            other = spellings.get(name.casefold(), name)
            if found is None and other != name:
                problems.append(f"column {other!r} is not {name!r}: most readers take the two for one")
            elif found is None and column.nullable:
                self._add_column(opened, column)
                opened = self._open(table)
            elif found is None:
                problems.append(f"column {name!r} is missing, {arrow_type(column)} is needed")
            elif not _holds(found, column):
                problems.append(f"column {name!r} is {found}, {arrow_type(column)} is needed")
        ours = self._columns(table)
        problems += [
            f"column {field.name!r}, which is not ours, takes no nulls"
            for field in there
            if not field.nullable and field.name not in ours
        ]
        if problems:
            raise PlaudTableMismatchError(
                f"Table {table.fullname!r} of lake_path {self._lake.path!r} does not fit: "
                f"{'; '.join(problems)}. Change it, move it away (it is then created anew), or name another "
                f"one in {parameter}. Nothing was written."
            )

    def _own_problems(self, table: sa.Table, opened: Any) -> Iterable[str]:
        """Return what about a table that is there would keep rows out or change them, beside its columns."""
        return ()

    def _last_landed(self, ids: Sequence[str]) -> datetime | None:
        import pyarrow.compute as pc

        def latest() -> list[datetime | None]:
            rows = (self._read(self._open(table), ("landed_at",), ids) for table in self._tables.parameters)
            return [pc.max(of_table["landed_at"]).as_py() for of_table in rows]

        return max(filter(None, self._run(latest, "could not be read")), default=None)

    def _append_segments(self, columns: Columns, stamp: datetime) -> None:
        def append() -> None:
            opened = self._open(self._tables.segments)
            self._append(opened, arrow_table(columns, self._schema(opened), {"landed_at": stamp}))

        self._run(lambda: self._retrying(append), "did not take what was to be landed")

    def _publish_transcripts(self, landings: Sequence[Landing]) -> None:
        def publish() -> None:
            opened = self._open(self._tables.transcripts)
            ids = [landing.transcription_id for landing in landings]
            there = self._read(opened, ("transcription_id", "landed_at"), ids).to_pydict()
            last = dict(zip(there["transcription_id"], there["landed_at"], strict=True))
            # What another task has landed later has to stay: the segments of this landing may be swept.
            ours = [
                one
                for one in landings
                if one.transcription_id not in last or last[one.transcription_id] < one.landed_at
            ]
            if ours:
                rows = columns_of([landing.transcript_row() for landing in ours])
                replaced = [landing.transcription_id for landing in ours]
                self._replace(opened, arrow_table(rows, self._schema(opened)), replaced)

        self._run(lambda: self._retrying(publish), "did not take what was to be landed")

    def _remove_older(self, ids: Sequence[str], stamp: datetime) -> None:
        self._run(
            lambda: self._retrying(lambda: self._delete(self._open(self._tables.segments), ids, stamp)),
            "have the new rows, and old segments, whose landed_at is none of a transcript, could not be "
            "removed",
        )

    def _retrying(self, work: Callable[[], Result]) -> Result:
        """Do it, and again on the newest version of the table if another commit was faster."""
        retrying = Retrying(
            retry=retry_if_exception_type(self._conflicts),
            stop=stop_after_delay(CONFLICT_SECONDS),
            wait=wait_random_exponential(0.1, max=5),
            reraise=True,
        )
        return retrying(work)

    def _run(self, work: Callable[[], Result], failed: str) -> Result:
        """
        Do it; an error is raised without a context, and in words that quote no row.

        :param work: What to do.
        :param failed: What has not been done, for the message.
        """
        try:
            return work()
        except PlaudError:
            raise
        except Exception as error:
            name = type(error).__name__
            if isinstance(error, self._conflicts):
                reason = f"other tasks committed first for {CONFLICT_SECONDS:.0f} s. Let fewer write at once"
            elif isinstance(error, PermissionError) or _DENIED.search(str(error)):
                reason = "permission was denied. Let the connection read, write and delete below lake_path"
            else:
                reason = "it was refused, or the storage or the catalog is away"
        raise PlaudWarehouseError(
            f"lake_path {self._lake.path!r} ({self.kind}): {self._tables.names} {failed}: {reason} ({name}). "
            "Readers that join segments to transcripts by transcription_id and landed_at find the rows from "
            "before or the new ones. Then retry."
        )


def storage_path(lake: Lake) -> ObjectStoragePath:
    """Return the folder as Airflow opens it."""
    from airflow.sdk import ObjectStoragePath

    return ObjectStoragePath(lake.location if lake.is_local else lake.path)


def rows_of_ids(batches: Iterable[Any], columns: Sequence[str], ids: Sequence[str], schema: Any) -> Any:
    """
    Return some columns of the rows of these ids, as a table of Arrow.

    :param batches: Rows with these columns and their ids; in between there may be the texts of many others.
    :param columns: The columns.
    :param ids: The ids.
    :param schema: The types of all columns.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array(ids, pa.string())
    found = [
        batch.filter(pc.is_in(batch["transcription_id"].cast(pa.string()), wanted)).select(list(columns))
        for batch in batches
    ]
    return pa.Table.from_batches(found, pa.schema([schema.field(name) for name in columns]))


def _holds(found: Any, column: sa.Column[Any]) -> bool:
    import pyarrow as pa

    needed = arrow_type(column)
    if pa.types.is_string(needed):
        return bool(pa.types.is_string(found) or pa.types.is_large_string(found))
    if pa.types.is_timestamp(needed):
        return bool(pa.types.is_timestamp(found) and found.tz is not None and found.unit in ("us", "ns"))
    if pa.types.is_int32(needed):
        return bool(pa.types.is_int32(found) or pa.types.is_int64(found))
    return bool(found == needed)
