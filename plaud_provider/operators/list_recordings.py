"""List the recordings of an archive, or those that a user names, in chunks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf

from plaud_provider.api.arguments import (
    is_template,
    is_unset,
    optional,
    optional_number,
    split_words,
)
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.lineage.moved import Moved, folders_of
from plaud_provider.operators.chunk import (
    COUNTS_KEY,
    PROBLEMS_KEY,
    SHOWN,
    ArchiveOperator,
    states_to_resubmit,
)
from plaud_provider.operators.terms import TermsOperator
from plaud_provider.recordings.identity import validate_identity_params
from plaud_provider.recordings.local_files import validate_public_urls
from plaud_provider.recordings.reference import AUDIO_EXTENSIONS, CONVERTED_EXTENSIONS, wrapped
from plaud_provider.transfers.metadata import describer_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.recordings.listing import Found
    from plaud_provider.submit.settled import Listing


#: Recordings that were paid for by another version of their content and may be paid for again unasked.
MAX_CHANGED = 20
#: Minutes that a chunk takes to submit, if the quota alone counts: landing begins after it.
CHUNK_MINUTES = 3
#: Recordings of a chunk at least and at most: less is not worth two tasks, of more too much is done again
#: after a killed one.
CHUNK_SIZES = (200, 1_000)
#: Characters of a folder's name that are taken from an id; with what makes it unique, any storage takes it.
LONGEST_NAME = 200


class ListRecordingsOperator(TermsOperator, ArchiveOperator):
    """
    List recordings, and write those that are left to do in chunks for further tasks.

    They are those under a folder (``path``), or those that a list names (``recordings``).

    Nothing is billed and Plaud is not asked. What the ledger has settled is only counted: what is in the
    target's tables already, and what has failed, expired or is of unknown outcome unless ``resubmit`` names
    it. So a further run over an archive has as many tasks as there is work. What other runs with this ledger,
    client and target have left at Plaud, when they ended before it was done, is taken up in a chunk of its
    own.

    An archive of any size is listed in constant memory; what the task returns is only where the chunks lie.

    :param path: The archive (templated), as an ``ObjectStoragePath``: ``s3://conn@bucket/2024/``, ``gs://…``,
        ``abfs://…`` or a local folder.
    :param recordings: In place of ``path``: references as for ``SubmitTranscriptionOperator``, as a list, as
        text in JSON or with one a line, as rows of a query with one column, or the output of a task
        (templated). They are shown without their signatures; those are stored encrypted, with a key made of
        the connection's secret key.
    :param results_path: Folder that workers and triggerers share (templated); the chunks are written below
        it.
    :param skips_settled: Whether what is settled is left out, as said above; if not, everything is listed,
        and neither ledger nor warehouse is asked.
    :param ledger_conn_id: As for all tasks of an archive.
    :param plaud_conn_id: As for all tasks of an archive.
    :param region: Likewise.
    :param sql_conn_id: Likewise.
    :param schema: Likewise.
    :param transcripts_table: Likewise.
    :param segments_table: Likewise.
    :param lake_path: Likewise.
    :param lake_format: Likewise.
    :param lake_catalog_conn_id: Likewise.
    :param pattern: Only recordings whose path below ``path`` matches, as in ``**/sales-*.mp3`` (templated).
    :param suffixes: Only names that end so, whatever their case; by default ``.m4a``, ``.mp3``, ``.mpga``,
        ``.wav``, ``.wave`` (templated).
    :param modified_after: Only recordings last changed then or later, as a datetime or ISO 8601 text, UTC
        unless it says otherwise; such as ``{{ data_interval_start }}`` (templated). Empty: from the
        beginning.
    :param modified_before: Only recordings last changed before (templated).
    :param chunk_size: Recordings per chunk (templated); by default what the connection's
        ``requests_per_minute`` lets submit in some three minutes, from 200 (as with the 60 that Plaud grants
        at first) to 1,000. Of very large archives chunks grow, since Airflow maps a task only so often
        (``[core] max_map_length``).
    :param language: As the recordings are to be submitted: it is a part of their identity (templated).
    :param speaker_diarization: Likewise (templated).
    :param model: Likewise (templated).
    :param hotwords: Likewise (templated).
    :param decode_silence: Likewise (templated).
    :param detection_level: Likewise (templated).
    :param public_urls: Likewise (templated).
    :param identity_params: Likewise (templated).
    :param resubmit: Likewise (templated).
    :param max_changed: How many recordings may be left to do that were paid for before by another version of
        their content (templated): a number, by default 20, or below 1 a share of what is listed; ``None`` for
        any number. A few are files that were replaced; if all are, more likely a bucket was encrypted or
        copied anew, and everything would be paid for again. Beyond it none of them is left to do, the others
        are, and ``ReportRecordingsOperator`` fails; ``0`` leaves them out and fails nothing.
    :param convert: ``mp3``, if the task that submits converts (templated): names of what can be converted are
        listed then as well, unless ``suffixes`` says which.
    :param upload: As for the task that submits (templated).
    :return: The paths of the chunks; empty if nothing is to be done.
    :raises PlaudInputError: if the folder does not exist or an argument is wrong.
    :raises PlaudConfigurationError: if a connection, its rights or an extra is missing, or the warehouse is
        none that is served.
    :raises PlaudStorageError: if a storage could not be asked.
    :raises PlaudWarehouseError: if the ledger or the warehouse could not be asked.
    """

    template_fields: Sequence[str] = (
        *ArchiveOperator.template_fields,
        *TermsOperator.template_fields,
        "path",
        "recordings",
        "results_path",
        "pattern",
        "suffixes",
        "modified_after",
        "modified_before",
        "chunk_size",
        "public_urls",
        "identity_params",
        "resubmit",
        "convert",
        "upload",
        "max_changed",
    )
    ui_color = "#f1f3f4"
    _comes_after_list = False

    def __init__(
        self,
        *,
        results_path: str,
        path: str | None = None,
        recordings: Any = None,
        skips_settled: bool = True,
        pattern: str | None = None,
        suffixes: Sequence[str] = AUDIO_EXTENSIONS,
        modified_after: datetime | str | None = None,
        modified_before: datetime | str | None = None,
        chunk_size: int | str | None = None,
        public_urls: Mapping[str, str] | str | None = None,
        identity_params: Sequence[str] | str | None = None,
        resubmit: Sequence[str] = (),
        convert: str | None = None,
        upload: str = "auto",
        max_changed: float | str | None = MAX_CHANGED,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.skips_settled = skips_settled
        self.path = path
        self.recordings = recordings
        self.results_path = results_path
        self.pattern = pattern
        self.suffixes = suffixes
        self.modified_after = modified_after
        self.modified_before = modified_before
        self.chunk_size = chunk_size
        self.public_urls = public_urls
        self.identity_params = identity_params
        self.resubmit = resubmit
        self.convert = convert
        self.upload = upload
        self.max_changed = max_changed

    def execute(self, context: Context) -> list[str]:
        """List and write."""
        from plaud_provider.handover.manifest import Keyed, write_left, write_manifest
        from plaud_provider.warehouse.loaders.choice import refuse_unserved

        self._ledger_conn()
        self._lake()
        if self.sql_conn_id is not None:
            refuse_unserved(self.sql_conn_id)
        # What describes recordings is used once they are paid for.
        if (describer := describer_of(self)) is not None:
            describer.check()
        size = optional_number("chunk_size", self.chunk_size, minimum=1) or self._chunk_size()
        # One is for what other runs have left.
        max_chunks = max(1, conf.getint("core", "max_map_length", fallback=1024) - 1)
        found, where = self._found()
        write = partial(
            write_manifest,
            folder=manifest_folder(self.results_path, context),
            chunk_size=int(size),
            max_chunks=max_chunks,
            seal=None if self.recordings is None else self._seal(),
        )
        if not self.skips_settled:
            chunks = write(found)
            self.log.info("Found recordings for %d chunk(s) %s.", len(chunks), where)
            self._moved = Moved(self._folders(), {"chunks": len(chunks)})
            return chunks
        with self._ledger() as ledger:
            listing = self._listing(ledger)
            chunks = write(listing.open_ones(found))
            left = listing.overdue()
            problems = listing.problems()
        if left:
            keyed = [Keyed(key=entry.recording_key, uri=entry.audio_uri or "") for entry in left]
            chunks.append(write_left(keyed, manifest_folder(self.results_path, context)))
        settled: dict[str, Any] = {**listing.settled, "left_by_others": len(left)}
        if listing.changed:
            settled |= {"changed": listing.changed, "changed_left": listing.changed_left}
        context["ti"].xcom_push(key=COUNTS_KEY, value=settled)
        context["ti"].xcom_push(key=PROBLEMS_KEY, value=problems)
        self._moved = Moved(self._folders(), {"chunks": len(chunks), **settled})
        self.log.info(
            "%d chunk(s) are to be done %s. Settled: %s. Left at Plaud by other runs: %d.",
            len(chunks),
            where,
            ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in listing.settled.items()),
            len(left),
        )
        if listing.changed_left:
            self.log.warning("%s", changed_in_words(listing.changed_left, self.max_changed))
        if listing.purged:
            self.log.info("%d recording(s) are purged, and left out.", listing.purged)
        return chunks

    def _chunk_size(self) -> float:
        smallest, largest = CHUNK_SIZES
        return min(max(smallest, self._plaud().settings.requests_per_minute * CHUNK_MINUTES), largest)

    def _listing(self, ledger: Ledger) -> Listing:
        from plaud_provider.recordings.upload import validate_upload
        from plaud_provider.submit.plan import Plan, Rules
        from plaud_provider.submit.settled import Listing

        resubmit = states_to_resubmit(self.resubmit)
        rules = Rules(
            url_validity=timedelta(hours=1),
            public_urls=validate_public_urls(self.public_urls),
            resubmit=resubmit,
            identity_params=validate_identity_params(self.identity_params),
            upload=validate_upload(self.upload),
        )
        plan = Plan(self._plaud().settings.account, self._terms(), rules)
        max_changed = optional_number("max_changed", self.max_changed, minimum=0)
        return Listing(plan, ledger, self._writer(ledger), resubmit, max_changed, told=SHOWN)

    def _wanted_suffixes(self) -> Sequence[str]:
        from plaud_provider.recordings.convert import validate_convert

        suffixes = _suffixes(self.suffixes)
        if validate_convert(self.convert) is not None and tuple(suffixes) == AUDIO_EXTENSIONS:
            return (*AUDIO_EXTENSIONS, *CONVERTED_EXTENSIONS)
        return suffixes

    def _seal(self) -> Callable[[str], str]:
        from plaud_provider.auth.sealing import UrlSeal

        return UrlSeal(self._plaud().settings.account.secret_key).seal

    def _convert_recordings(self, value: Any) -> Any:
        """Wrap URLs as they are assigned, so that rendered fields show them unsigned; Airflow calls this."""
        if is_template(value) or not isinstance(value, Sequence):
            return value
        from plaud_provider.recordings.given_lists import given_references

        try:
            return given_references(value)
        except PlaudInputError:
            # It is said when the task runs.
            return wrapped(value)

    def _folders(self) -> tuple[str, ...]:
        """Return the folders that are listed."""
        if self.recordings is None:
            return folders_of([f"{str(self.path).rstrip('/')}/"])
        from plaud_provider.recordings.given_lists import given_references

        return folders_of(one.uri for one in given_references(self.recordings))

    def _found(self) -> tuple[Iterable[Found], str]:
        """Return what there is, and where in words."""
        from plaud_provider.recordings.given_lists import given_recordings, given_references
        from plaud_provider.recordings.listing import list_recordings

        if self.recordings is not None:
            if self.path is not None:
                raise PlaudInputError(
                    "path: there are recordings as well. Pass one of both. Nothing was sent."
                )
            references = given_references(self.recordings)
            return given_recordings(references), f"of a list of {len(references)}"
        if self.path is None:
            # In a scheduled run too: one that is skipped counts as done, and its day is not made up for.
            raise PlaudInputError(
                "path: it is empty, and so is recordings. Name a folder of recordings, or pass a list of "
                "them as recordings. Nothing was sent, nothing is paid for."
            )
        found = list_recordings(
            self.path,
            pattern=self.pattern,
            suffixes=self._wanted_suffixes(),
            modified_after=_moment("modified_after", self.modified_after),
            modified_before=_moment("modified_before", self.modified_before),
        )
        return found, f"under {self.path}"


def changed_in_words(count: float, max_changed: object) -> str:
    """Return what to say of recordings that have changed and are left out, as they are too many."""
    return (
        f"{count:g} recordings were paid for before, and their files have another version now (replaced, or "
        f"in a bucket that was encrypted or copied anew). They were not submitted: max_changed={max_changed} "
        "allows fewer. To pay for them again set max_changed to None, or to that number; if their content is "
        "the same set it to 0, which leaves them out."
    )


def manifest_folder(results_path: str, context: Context, task_id: str | None = None) -> str:
    """
    Return the folder of a run's chunks.

    :param results_path: Folder that the tasks share.
    :param context: Of a task of that run.
    :param task_id: The task that lists; ``None``: the one of the context.
    """
    from plaud_provider.handover.manifest import MANIFESTS

    ti = context["ti"]
    names = map(_folder_name, (ti.dag_id, ti.run_id, task_id or ti.task_id))
    return "/".join([results_path.rstrip("/"), MANIFESTS, *names])


def _suffixes(value: object) -> Sequence[str]:
    return AUDIO_EXTENSIONS if is_unset(value) else split_words(value)


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
