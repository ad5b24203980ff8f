"""Write transcripts as files: subtitles, text, Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from plaud_provider.api.arguments import (
    TextArguments,
    is_unset,
    validate_transcription_ids,
    validate_words,
    warehouse_of,
)
from plaud_provider.exceptions import PlaudInputError, PlaudNotFoundError
from plaud_provider.recordings.mapping import HarmlessLabel

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.storage.folder import LocalFolder, StoredFolder
    from plaud_provider.warehouse.transcripts import Known

SHOWN = 5
_STATE = "Nothing was sent to Plaud, and nothing is paid for; the transcripts are in the warehouse."


class ExportTranscriptionOperator(TextArguments, HarmlessLabel, BaseOperator):
    """
    Write transcripts that have landed as files: SRT, WebVTT, text, Markdown or JSON.

    They are read from the warehouse, so that Plaud is asked for nothing, however old they are. A file has the
    whole name of its recording and an ending of its own, such as ``0001.mp3.srt``: it never replaces what is
    there under another name. Running it again replaces what it wrote. What Plaud could not transcribe has no
    file; the log counts those.

    The files are transcripts: keep them where only those can read who may. A local folder that is made is for
    its user alone.

    :param transcription_id: An id or a list of ids (templated), such as ``submit.output`` of a mapped task.
        Left out: all that this DAG run has landed, as behind an archive.
    :param formats: Any of ``srt``, ``vtt``, ``txt``, ``md``, ``json`` (templated).
    :param folder: Where the files go (templated): ``s3://connection@bucket/prefix/``, ``gs://…``,
        ``abfs://…``, ``file:///folder`` or an absolute path. There a file is called by its recording and its
        id, such as ``0001.mp3.txn_0123.srt``. Left out: beside each recording, which takes the right to write
        there.
    :param sql_conn_id: Connection of the warehouse (templated); by default ``warehouse_default``, or none if
        there is a ``lake_path``.
    :param schema: Schema of its table (templated).
    :param transcripts_table: Its table of transcripts (templated).
    :param lake_path: Folder of the lake that they are read from if no ``sql_conn_id`` is given (templated).
    :param lake_format: Format of its tables (templated): ``iceberg``, ``delta`` or ``parquet``.
    :param lake_catalog_conn_id: Connection of Iceberg's catalog (templated).
    :return: References to the files that were written.
    :raises PlaudInputError: for a format that there is none of, a folder that is none, or a recording beside
        which nothing can be written, as it is an ``https://`` URL.
    :raises PlaudNotFoundError: for ids that are not in the warehouse; all others are written.
    :raises PlaudConfigurationError: if a connection or a right is missing.
    :raises PlaudStorageError: if the storage cannot be used now.
    :raises PlaudWarehouseError: if the warehouse is away or refuses.
    """

    template_fields: Sequence[str] = (
        "transcription_id",
        "formats",
        "folder",
        "sql_conn_id",
        "schema",
        "transcripts_table",
        "lake_path",
        "lake_format",
        "lake_catalog_conn_id",
    )
    ui_color = "#fef7e0"

    def __init__(
        self,
        *,
        transcription_id: str | Sequence[str] | None = None,
        formats: Sequence[str] | str = ("srt", "vtt"),
        folder: str | None = None,
        sql_conn_id: str | None = None,
        schema: str | None = None,
        transcripts_table: str = "plaud_transcripts",
        lake_path: str | None = None,
        lake_format: str = "iceberg",
        lake_catalog_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.transcription_id = transcription_id
        self.formats = formats
        self.folder = folder
        self.sql_conn_id = warehouse_of(sql_conn_id, lake_path)
        self.schema = schema
        self.transcripts_table = transcripts_table
        self.lake_path = lake_path
        self.lake_format = lake_format
        self.lake_catalog_conn_id = lake_catalog_conn_id

    def execute(self, context: Context) -> list[str]:
        """Read from the warehouse, and write."""
        from plaud_provider.api.models import EXPORTS, Status
        from plaud_provider.warehouse.lake import checked_lake
        from plaud_provider.warehouse.transcripts import TranscriptReader

        formats = validate_words("formats", self.formats, EXPORTS)
        # A folder that is none is found before anything is read.
        folder = _folder(self.folder, "folder") if self.folder else None
        lake = checked_lake(self.lake_path, self.lake_format, self.lake_catalog_conn_id)
        reader = TranscriptReader(self.sql_conn_id, self.schema, self.transcripts_table, lake=lake)
        ids = self._ids()
        if ids is None:
            ids = reader.landed_by(context["ti"].dag_id, context["ti"].run_id)
        written: list[str] = []
        found, failed = set(), 0
        for known, transcription in reader.transcriptions(ids):
            found.add(known.transcription_id)
            if transcription.status is not Status.COMPLETED:
                failed += 1
                continue
            place, stem = (folder, _name(known)) if folder is not None else _beside(known)
            place.open()
            for ending in formats:
                name = f"{stem}.{ending}"
                place.write(name, EXPORTS[ending](transcription).encode())
                written.append(place.root + name)
        self.log.info(
            "Wrote %d files of %d transcriptions; %d have failed and have no transcript.",
            len(written),
            len(found) - failed,
            failed,
        )
        if missing := [one for one in ids if one not in found]:
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            raise PlaudNotFoundError(
                f"transcription_id: {', '.join(missing[:SHOWN])}{more} not in {self.transcripts_table!r} of "
                f"{self.sql_conn_id or self.lake_path!r}. Land them before they are exported "
                "(TranscriptionToSqlOperator), or correct sql_conn_id, schema or transcripts_table. All "
                f"others are written. {_STATE}"
            )
        return written

    def _ids(self) -> list[str] | None:
        given: Any = self.transcription_id
        if is_unset(given):
            return None
        return validate_transcription_ids(
            list(given) if isinstance(given, Iterable) and not isinstance(given, (str, bytes)) else given
        )


def _folder(path: str | None, argument: str) -> LocalFolder | StoredFolder:
    from plaud_provider.storage.folder import parse_folder

    return parse_folder(path or "", argument=argument, state=_STATE)


def _beside(known: Known) -> tuple[LocalFolder | StoredFolder, str]:
    """Return the folder of a recording, and its name."""
    from plaud_provider.recordings.reference import AudioReference
    from plaud_provider.storage.signatures import WEB

    uri = known.audio_uri or ""
    parent, _, name = uri.rpartition("/")
    if not name or AudioReference(uri).scheme in WEB:
        where = f"its recording is {uri}" if uri else "its recording is not known"
        raise PlaudInputError(
            f"folder: transcription {known.transcription_id} cannot be written beside its recording, as "
            f"{where}. Pass the folder that the files are to be in. {_STATE}"
        )
    return _folder(f"{parent}/", "folder"), name


def _name(known: Known) -> str:
    """Return what a transcript is called in a folder of many: as its recording, and never as another one."""
    recording = (known.audio_uri or "").rpartition("/")[2]
    # An id is quoted where it becomes part of a path.
    from urllib.parse import quote

    unique = quote(known.transcription_id, safe="")
    return f"{recording}.{unique}" if recording else unique
