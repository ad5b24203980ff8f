"""List the recordings of an archive, in chunks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from plaud_provider.api.arguments import optional, split_words, validate_number
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.recordings.reference import AUDIO_EXTENSIONS

if TYPE_CHECKING:
    from airflow.sdk import Context


#: Characters of a folder's name that are taken from an id; with what makes it unique, any storage takes it.
LONGEST_NAME = 200


class ListRecordingsOperator(BaseOperator):
    """
    List the recordings under a folder, and write them in chunks for the tasks that follow.

    Nothing is billed and Plaud is not asked. An archive of any size is listed in constant memory; what the
    task returns is only where the chunks lie.

    :param path: The archive (templated), as an ``ObjectStoragePath``: ``s3://conn@bucket/2024/``, ``gs://…``,
        ``abfs://…`` or a local folder. If a template leaves it empty, a scheduled run is skipped.
    :param results_path: Folder that workers and triggerers share (templated); the chunks are written below
        it.
    :param pattern: Only recordings whose path below ``path`` matches, as in ``**/sales-*.mp3`` (templated).
    :param suffixes: Only names that end so, whatever their case; by default ``.m4a``, ``.mp3``, ``.wav``
        (templated).
    :param modified_after: Only recordings last changed then or later, as a datetime or ISO 8601 text, UTC
        unless it says otherwise; such as ``{{ data_interval_start }}`` (templated). Empty: from the
        beginning.
    :param modified_before: Only recordings last changed before (templated).
    :param chunk_size: Recordings per chunk (templated).
    :param sql_conn_id: Connection of the warehouse that they are to land in (templated): one of a kind that
        is not served is refused here, before anything is paid for. It is not opened.
    :return: The paths of the chunks; empty if nothing was found.
    :raises PlaudInputError: if the folder does not exist or an argument is wrong.
    :raises PlaudConfigurationError: if a connection, its rights or an extra is missing, or the warehouse is
        none that is served.
    :raises PlaudStorageError: if a storage could not be asked.
    """

    template_fields: Sequence[str] = (
        "path",
        "results_path",
        "pattern",
        "suffixes",
        "modified_after",
        "modified_before",
        "chunk_size",
        "sql_conn_id",
    )
    ui_color = "#f1f3f4"

    def __init__(
        self,
        *,
        path: str,
        results_path: str,
        pattern: str | None = None,
        suffixes: Sequence[str] = AUDIO_EXTENSIONS,
        modified_after: datetime | str | None = None,
        modified_before: datetime | str | None = None,
        chunk_size: int | str = 200,
        sql_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.results_path = results_path
        self.pattern = pattern
        self.suffixes = suffixes
        self.modified_after = modified_after
        self.modified_before = modified_before
        self.chunk_size = chunk_size
        self.sql_conn_id = sql_conn_id

    def execute(self, context: Context) -> list[str]:
        """List and write."""
        from plaud_provider.handover.manifest import write_manifest
        from plaud_provider.recordings.listing import list_recordings

        path = self._path(context)
        if (sql_conn_id := optional(self.sql_conn_id)) is not None:
            from plaud_provider.warehouse.loaders.choice import refuse_unserved

            refuse_unserved(sql_conn_id)
        found = list_recordings(
            path,
            pattern=optional(self.pattern),
            suffixes=_suffixes(self.suffixes),
            modified_after=_moment("modified_after", self.modified_after),
            modified_before=_moment("modified_before", self.modified_before),
        )
        ti = context["ti"]
        folder = "/".join(
            [
                self.results_path.rstrip("/"),
                "manifests",
                *map(_folder_name, (ti.dag_id, ti.run_id, ti.task_id)),
            ]
        )
        size = int(validate_number("chunk_size", self.chunk_size, minimum=1))
        chunks = write_manifest(found, folder, chunk_size=size)
        self.log.info(
            "Found recordings for %d chunk(s) of at most %d under %s.", len(chunks), size, self.path
        )
        return chunks

    def _path(self, context: Context) -> str:
        path = None if self.path is None else optional(str(self.path))
        if path is not None:
            return path
        if context["dag_run"].run_type == "scheduled":
            # Nobody has asked for this run: switching a DAG on to run it by hand also starts its schedule.
            raise AirflowSkipException("path: no archive is named for scheduled runs. Nothing is to be done.")
        raise PlaudInputError("path: it is empty. Name a folder of recordings. Nothing was sent.")


def _suffixes(value: object) -> Sequence[str]:
    is_unset = value is None or (isinstance(value, str) and optional(value) is None)
    return AUDIO_EXTENSIONS if is_unset else split_words(value)


def _moment(name: str, value: object) -> datetime | None:
    if isinstance(value, datetime):
        moment = value
    elif value is None or optional(str(value)) is None:
        return None
    else:
        try:
            # A template of native values has made a number of 20240501.
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            raise PlaudInputError(
                f"{name}: {value!r} is not a time in ISO 8601, such as 2024-05-01T00:00:00+00:00."
            ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _folder_name(text: str) -> str:
    """
    Return a name for a folder, of its own for each text.

    Run ids have colons and plus signs, which not every storage takes, and may be as long as a name at most.
    """
    name = re.sub(r"[^A-Za-z0-9_.=-]|^\.+", "_", text)[:LONGEST_NAME]
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
