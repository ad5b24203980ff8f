"""BigQuery: load jobs into tables that expire, then one script with one transaction."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential, wait_random

from plaud_provider.database.content import Content
from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudInputError,
    PlaudTableMismatchError,
    PlaudWarehouseError,
    how_to_install,
)
from plaud_provider.warehouse.loaders.files import (
    LOCK_COMMENT,
    VALUE,
    FilesLoader,
    Found,
    comment_of,
    literal,
    token,
)

if TYPE_CHECKING:
    import sqlalchemy as sa
    from airflow.sdk import Connection

    from plaud_provider.warehouse.slab import Slab
    from plaud_provider.warehouse.tables import PlaudTables

_DATASET = re.compile(r"(?:[a-z][a-z0-9:.-]*\.)?\w+", re.ASCII)
#: What a table's name may consist of: letters, marks, numbers, connectors, dashes and spaces.
_IN_NAME = ("L", "M", "N", "Pc", "Pd", "Zs")
#: So long a staging table stays if its task dies.
_EXPIRES = timedelta(hours=24)
#: BigQuery cancels a transaction that meets another one; it has to be tried again from its start.
_WAIT_SECONDS = 900
_CONFLICT = re.compile(r"concurrent update|could not serialize", re.IGNORECASE)
_PASSING = ("backendError", "internalError", "rateLimitExceeded", "jobRateLimitExceeded", "jobBackendError")
_RIGHTS = (
    "Grant bigquery.jobUser on the project and bigquery.dataEditor on the dataset. Row access policies of "
    "the tables hold for us as well."
)


class BigQueryLoader(FilesLoader):
    """
    Lands in BigQuery through Airflow's ``BigQueryHook``.

    :param connection: Its Airflow connection.
    :param tables: Tables to write; their schema is a dataset.
    :raises PlaudConfigurationError: if its provider or pyarrow is not installed, or no dataset is named.
    :raises PlaudInputError: if a name cannot be one there.
    """

    kind = "BigQuery"
    extra = "bigquery"
    types = {
        Content.NAME: "string",
        Content.TEXT: "string",
        Content.JSON: "json",
        Content.DOUBLE: "float64",
        Content.INTEGER: "int64",
        Content.TIME: "timestamp",
        Content.DATE: "date",
        Content.BOOLEAN: "bool",
    }
    holds = {
        Content.NAME: r"STRING(\((25[5-9]|2[6-9]\d|[3-9]\d\d|\d{4,})\))?",
        Content.TEXT: r"STRING",
        Content.JSON: r"JSON",
        Content.DOUBLE: r"FLOAT(64)?",
        Content.INTEGER: r"INT(EGER|64)",
        Content.TIME: r"TIMESTAMP",
        Content.DATE: r"DATE",
        Content.BOOLEAN: r"BOOL(EAN)?",
    }
    # A number with more digits than a double has is rounded, not refused.
    parse_json = "parse_json({}, wide_number_mode => 'round')"
    longest_name = 1024
    advice = {
        "accessDenied": ("permission was denied", _RIGHTS),
        "403": ("permission was denied", _RIGHTS),
        "notFound": ("a table or dataset is not there", "Retry: each task creates missing tables first."),
        "quotaExceeded": ("a quota is exceeded", "See the quotas of the project, then retry."),
        "responseTooLarge": ("a row is too large", "A retry does not help."),
        "concurrent": (
            "other writers of the tables kept getting in the way",
            "Let fewer tasks land at once.",
        ),
    }

    def __init__(self, connection: Connection, tables: PlaudTables) -> None:
        super().__init__(connection, tables)
        try:
            from airflow.providers.google.cloud.hooks.bigquery import BigQueryHook
        except ImportError:
            BigQueryHook = None
        if BigQueryHook is None:
            raise PlaudConfigurationError(
                f"sql_conn_id: the Airflow provider of the type {connection.conn_type!r} of connection "
                f"{self.conn_id!r} is not installed. Install it: {how_to_install(self.extra)}. "
                "Nothing was sent."
            )
        self._refuse_names()
        dataset = tables.schema or connection.extra_dejson.get("dataset") or connection.schema
        if not dataset:
            raise PlaudConfigurationError(
                f"sql_conn_id: connection {self.conn_id!r} leads to BigQuery and names no dataset. Name it "
                "as `dataset` in the connection's extra, or as `schema` where rows are landed. "
                "Nothing was sent."
            )
        self._hook = BigQueryHook(gcp_conn_id=self.conn_id, use_legacy_sql=False)
        self._dataset = str(dataset)
        self._client: Any = None
        self._location: str | None = None

    def _refuse_names(self) -> None:
        names = {parameter: str(table.name) for table, parameter in self._tables.parameters.items()}
        wrong = {
            parameter: name
            for parameter, name in names.items()
            if any(not unicodedata.category(character).startswith(_IN_NAME) for character in name)
        }
        if self._tables.schema is not None and not _DATASET.fullmatch(self._tables.schema):
            wrong["schema"] = str(self._tables.schema)
        for parameter, name in wrong.items():
            raise PlaudInputError(
                f"{parameter}: {name[:80]!r} cannot be a name in BigQuery: a table's has letters, numbers, "
                "underscores, dashes and spaces, a dataset's letters, numbers and underscores. Choose "
                "another one. Nothing was sent."
            )

    @contextmanager
    def _connected(self) -> Iterator[None]:
        self._client = self._run(self._open, "could not be reached", has_rows=False)
        try:
            yield
        finally:
            self._client.close()

    def _open(self) -> Any:
        from google.api_core.exceptions import NotFound

        client = self._hook.get_client(project_id=self._hook.project_id)
        project, _, name = self._dataset.rpartition(".")
        self._path = f"{project or client.project}.{name}"
        try:
            # Jobs have to run where the dataset is.
            self._location = client.get_dataset(self._path).location
        except NotFound:
            self._location = None
        if self._location is None:
            client.close()
            raise PlaudWarehouseError(
                f"schema: warehouse {self.conn_id!r} has no schema {self._dataset!r} (a dataset, in "
                "BigQuery's words). Create it (it is not created here), or correct the name. Nothing was "
                "written."
            )
        return client

    def _rows(self, query: str, values: Sequence[str] = ()) -> list[Any]:
        import google.cloud.bigquery as bigquery

        config = bigquery.QueryJobConfig(
            query_parameters=[bigquery.ScalarQueryParameter(None, "STRING", value) for value in values],
            use_legacy_sql=False,
        )
        job = self._client.query(query.replace(VALUE, "?"), job_config=config, location=self._location)
        return [tuple(row.values()) for row in job.result()]

    def _quoted(self, name: str) -> str:
        return f"`{name}`"

    def _name(self, table: str) -> str:
        return self._quoted(f"{self._path}.{table}")

    def _answers(self) -> bool:
        # A query of all columns may be billed as if it read them; looking at a table costs nothing.
        return False

    def _there(self, table: str) -> dict[str, Found] | None:
        from google.api_core.exceptions import NotFound

        try:
            there = self._client.get_table(f"{self._path}.{table}")
        except NotFound:
            return None
        if there.table_type != "TABLE":
            raise self._is_no_table(table, there.table_type)
        if there.require_partition_filter:
            raise PlaudTableMismatchError(
                f"Table {str(table)!r} of warehouse {self.conn_id!r} takes no query without a filter on its "
                "partitions (require_partition_filter), and a transcription is looked for by its id. Turn "
                "that off (alter table ... set options (require_partition_filter = false)), or name another "
                "table. Nothing was written."
            )
        found = {}
        for field in there.schema:
            size = f"({field.max_length})" if field.max_length else ""
            kind = f"ARRAY<{field.field_type}>" if field.mode == "REPEATED" else f"{field.field_type}{size}"
            found[self._stored(field.name)] = Found(
                kind, field.mode != "REQUIRED", field.default_value_expression is not None
            )
        return found

    def _create(self, table: sa.Table) -> list[str]:
        columns = []
        for column in table.columns:
            comment = comment_of(column)
            columns.append(
                f"{self._quoted(column.name)} {self._type(column)}{' not null' * (not column.nullable)}"
                + (f" options(description = {literal(comment)})" if comment else "")
            )
        keys = ", ".join(self._quoted(column.name) for column in table.primary_key)
        partition = "partition by date(`landed_at`) " if "landed_at" in table.columns else ""
        statement = (
            f"create table if not exists {self._name(table.name)} ({', '.join(columns)}, "
            f"primary key ({keys}) not enforced) {partition}cluster by `transcription_id` "
            f"options(description = {literal(str(table.comment))})"
        )
        return [statement]

    def _create_more(self) -> None:
        if self._there(self._lock) is None:
            self._rows(
                f"create table if not exists {self._name(self._lock)} options(description = "
                f"{literal(LOCK_COMMENT)}) as select current_timestamp() as locked_at"
            )

    def _delete_staged(self, table: str, ids: str) -> str:
        # A delete is billed as if it read the whole table (of one with partitions those that it changes),
        # even if it finds nothing, as most do: then only the ids are read.
        delete = super()._delete_staged(table, ids)
        return f"if exists (select 1 {delete.removeprefix('delete ')}) then {delete}; end if"

    def _load(self, slab: Slab) -> None:
        own = token()
        staged: dict[sa.Table, str] = {}
        try:
            for table in slab.files:
                kind = "transcripts" if table is self._tables.transcripts else "segments"
                staged[table] = f"{self._path}.plaud_staged_{kind}_{own}"
                self._stage(slab, table, staged[table], f"plaud_{own}_{kind}")
            statements = [
                "begin transaction",
                f"update {self._name(self._lock)} set locked_at = current_timestamp() where true",
                *self._swap_statements({table: self._quoted(name) for table, name in staged.items()}),
                "commit transaction",
            ]
            self._swap(";\n".join(statements) + ";", f"plaud_{own}_swap")
        finally:
            for name in staged.values():
                with suppress(Exception):
                    self._client.delete_table(name, not_found_ok=True)

    def _stage(self, slab: Slab, table: sa.Table, name: str, job_id: str) -> None:
        import google.cloud.bigquery as bigquery

        schema = [
            bigquery.SchemaField(column.name, self._staging_type(column).upper()) for column in table.columns
        ]
        made = bigquery.Table(name, schema=schema)
        made.expires = datetime.now(tz=UTC) + _EXPIRES
        self._client.create_table(made, exists_ok=True)
        if not slab.counts[table]:
            return
        config = bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.PARQUET,
            schema=schema,
            create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
            write_disposition=bigquery.WriteDisposition.WRITE_TRUNCATE,
        )

        def load(own_id: str) -> Any:
            with slab.files[table].open("rb") as file:
                return self._client.load_table_from_file(
                    file, name, job_config=config, job_id=own_id, location=self._location, num_retries=6
                )

        self._done(load, job_id)

    def _swap(self, script: str, job_id: str) -> None:
        import google.cloud.bigquery as bigquery

        config = bigquery.QueryJobConfig(use_legacy_sql=False)

        def swap(own_id: str) -> Any:
            # Left to itself the client starts failed jobs anew under other ids.
            return self._client.query(
                script, job_config=config, job_id=own_id, location=self._location, job_retry=None
            )

        self._done(swap, job_id)

    def _done(self, start: Callable[[str], Any], job_id: str) -> None:
        """
        Start a job and wait for its end; again while others are in the way, or BigQuery is in trouble.

        :param start: Starts it under an id. An id that was asked for twice is one job.
        :param job_id: What ids start with.
        """
        from google.api_core.exceptions import Conflict

        numbers = count()

        def run() -> None:
            own_id = f"{job_id}_{next(numbers)}"
            try:
                job = start(own_id)
            except Conflict:
                job = self._client.get_job(own_id, location=self._location)
            job.result()

        Retrying(
            retry=retry_if_exception(self._passes),
            wait=wait_exponential(multiplier=0.5, max=20) + wait_random(0, 2),
            stop=stop_after_delay(_WAIT_SECONDS),
            reraise=True,
        )(run)

    def _passes(self, error: BaseException) -> bool:
        return self._code(error) in ("concurrent", *_PASSING)

    def _code(self, error: BaseException) -> str:
        # The message of a conflict has no reason of its own; it quotes no row.
        if _CONFLICT.search(str(error)):
            return "concurrent"
        reasons = [one.get("reason") for one in getattr(error, "errors", None) or () if isinstance(one, dict)]
        number = getattr(error, "code", None)
        return str(next(filter(None, reasons), None) or (int(number) if isinstance(number, int) else ""))
