"""
Forgetting transcriptions: their rows, what is kept of them, and that they are to come back.

The ledger is told first: whoever has such a text in hand then does not land it, and no later run takes the
recording up. Files and rows go afterwards, so that a purge which ends in between is made good by a retry.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.handover.kept_results import kept_name
from plaud_provider.recordings.converted import CONVERTED, converted_name
from plaud_provider.storage.folder import parse_folder

if TYPE_CHECKING:
    from plaud_provider.ledger.entry import Entry
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.warehouse.loaders.loader import Loader, Stored

log = logging.getLogger(__name__)

_STATE = "Nothing was removed."
#: A kept answer that was being written when its process ended.
_TORN = re.compile(r"\.([0-9a-f]{64}\.json)\.\w+")
#: A reference without its scheme ``file`` or the Airflow connection in it: neither says which file it is.
_WAY = re.compile(r"^file://|(?<=://)[^/@]*@")


class Wanted:
    """
    What is to be forgotten; a transcription has to be of all that is given.

    :param folder: Only recordings under this folder.
    :param recordings: Only these: references to recordings, or ids of transcriptions.
    :param before: Only what was submitted before (where that is not known: completed, else landed).
    """

    def __init__(
        self,
        *,
        folder: str | None = None,
        recordings: Iterable[str] | None = None,
        before: datetime | None = None,
    ) -> None:
        # Once, not for each of a million rows.
        self._folder = None if folder is None else _place(folder).rstrip("/") + "/"
        self._named = None if recordings is None else frozenset(map(_place, recordings))
        self._before = before

    def has(self, transcription_id: str | None, audio_uri: str | None, since: datetime | None) -> bool:
        """Whether a transcription is to be forgotten."""
        place = _place(audio_uri) if audio_uri is not None else None
        if self._folder is not None and not (place or "").startswith(self._folder):
            return False
        if self._named is not None and self._named.isdisjoint((transcription_id, place)):
            return False
        return self._before is None or (since is not None and since < self._before)


class Purged(NamedTuple):
    """
    What was removed, in numbers.

    :param recordings: Recordings that are forgotten.
    :param transcripts: Rows of transcriptions.
    :param segments: Rows of segments.
    :param ledger: Rows of the ledger that have no text any more, and are kept.
    :param files: Kept answers and converted recordings.
    :param in_progress: Recordings that a task is about to submit; they are left as they are.
    :param elsewhere: Recordings that have landed in other tables too, or only there; those are not touched.
    """

    recordings: int
    transcripts: int
    segments: int
    ledger: int
    files: int
    in_progress: int
    elsewhere: int


def purge(
    wanted: Wanted, loader: Loader, ledger: Ledger, results_path: str | None, *, is_only_plan: bool
) -> Purged:
    """
    Forget transcriptions, and say what was removed; doing it again removes what came in between.

    :param wanted: Which.
    :param loader: The tables.
    :param ledger: The ledger.
    :param results_path: Where answers are kept until they are landed; ``None``: nowhere.
    :param is_only_plan: Whether only to say what would be removed.
    :raises PlaudConfigurationError: if the warehouse is one that cannot be purged.
    :raises PlaudError: if ledger, storage or warehouse could not be reached; a retry goes on.
    """
    rows = _rows(wanted, loader)
    entries = _entries(wanted, ledger, rows.values())
    held = {key for key, entry in entries.items() if entry.state in ("claimed", "submitting")}
    if not is_only_plan:
        held = set(entries) - ledger.purge(list(entries))
    gone = {key: entry for key, entry in entries.items() if key not in held}
    regions = {entry.transcription_id: entry.region for entry in gone.values() if entry.transcription_id}
    regions |= {known: row.region for known, row in rows.items()}
    files = _remove_files(results_path, regions, gone, is_only_plan=is_only_plan)
    transcripts, segments = len(rows), sum(row.segment_count for row in rows.values())
    if not is_only_plan:
        transcripts, segments = loader.remove(sorted(regions))
    elsewhere = [entry for entry in gone.values() if entry.target not in (None, loader.target)]
    _tell(regions, gone, rows, is_only_plan=is_only_plan)
    if elsewhere:
        log.warning(
            "%d of these recordings landed last in other tables, which are not touched: %s. Purge those too.",
            len(elsewhere),
            ", ".join(sorted({str(entry.target) for entry in elsewhere})),
        )
    unknown = sum(known not in {entry.transcription_id for entry in gone.values()} for known in rows)
    return Purged(
        recordings=len(gone) + unknown,
        transcripts=transcripts,
        segments=segments,
        ledger=len(gone),
        files=files,
        in_progress=len(held),
        elsewhere=len(elsewhere),
    )


def _rows(wanted: Wanted, loader: Loader) -> dict[str, Stored]:
    found = loader.stored(
        lambda row: wanted.has(
            row.transcription_id, row.audio_uri, row.submitted_at or row.completed_at or row.landed_at
        )
    )
    return {row.transcription_id: row for row in found}


def _entries(wanted: Wanted, ledger: Ledger, rows: Iterable[Stored]) -> dict[str, Entry]:
    """Return what the ledger has of what is wanted, by its own words or by those of the rows."""
    ids: dict[str, list[str]] = {}
    for row in rows:
        ids.setdefault(row.region, []).append(row.transcription_id)
    of_rows = {region: set(known) for region, known in ids.items()}
    found = ledger.chosen(
        lambda entry: (
            entry.transcription_id in of_rows.get(entry.region, ())
            or wanted.has(
                entry.transcription_id,
                entry.audio_uri,
                entry.submitted_at or entry.finished_at or entry.claimed_at,
            )
        )
    )
    return {entry.recording_key: entry for entry in found}


def _remove_files(
    results_path: str | None,
    regions: dict[str, str],
    keys: Iterable[str],
    *,
    is_only_plan: bool,
) -> int:
    if results_path is None:
        return 0
    folder = parse_folder(results_path, argument="results_path", state=_STATE, kind=PlaudConfigurationError)
    ours = {kept_name(region, known) for known, region in regions.items()}
    ours |= {f"{CONVERTED}/{converted_name(key)}" for key in keys}
    found = [name for name, _ in folder.files() if _TORN.sub(r"\1", name) in ours]
    if not is_only_plan:
        folder.remove(found)
    return len(found)


def _tell(ids: Iterable[str], gone: dict[str, Entry], rows: dict[str, Stored], *, is_only_plan: bool) -> None:
    """Say which recordings are forgotten, a line each."""
    what = "Would purge" if is_only_plan else "Purged"
    of_entries = {entry.transcription_id: entry.audio_uri for entry in gone.values()}
    for known in sorted(ids):
        audio_uri = of_entries.get(known) or (rows[known].audio_uri if known in rows else None)
        log.info("%s transcription %s of %s.", what, known, audio_uri or "a recording without reference")


def _place(reference: str) -> str:
    return _WAY.sub("", reference)
