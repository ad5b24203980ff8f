"""
Removing what runs have left at results_path: what is landed, and what is too old to be of use.

The rule, at the end of any run over a folder: a kept answer, and a converted recording, goes once it has
landed or failed by the ledger, or is older than Plaud keeps results; what is remembered of an upload goes
after the day for which it is of use, chunks of other runs after a month.
What a run is still waiting for is neither. Files that are not ours stay. What a killed process was writing
goes with the file that it was to be, once nobody can be writing it any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from plaud_provider.api.limits import RETENTION, UPLOAD_RETENTION
from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.handover.kept_results import KEPT_NAME, kept_name
from plaud_provider.handover.manifest import MANIFESTS
from plaud_provider.recordings.converted import CONVERTED, converted_name
from plaud_provider.recordings.upload_memory import UPLOADED
from plaud_provider.storage.folder import finished_name, parse_folder

#: A run over a very large archive takes weeks.
OLDEST_MANIFEST = timedelta(days=30)
#: The ledger's clock and that of the storage may differ by so much.
CLOCKS_APART = timedelta(minutes=10)
#: Nobody writes a file for so long.
LONGEST_WRITE = timedelta(minutes=1)
_STATE = "All transcripts are landed; what is left over is removed by the next run."


def sweep(results_path: str, ended_since: Callable[[datetime], Iterable[tuple[str, str, str]]]) -> int:
    """
    Remove what is left over.

    :param results_path: The folder that runs share.
    :param ended_since: Returns key, region and id of what has landed or failed since a moment, see
        :meth:`~plaud_provider.ledger.ledger.Ledger.ended_since`.
    :return: How many files were removed.
    :raises PlaudError: if the folder could not be read or cleared.
    """
    folder = parse_folder(results_path, argument="results_path", state=_STATE, kind=PlaudConfigurationError)
    now = time.time()
    manifests, removed = f"{MANIFESTS}/", []
    kept: dict[str, list[tuple[str, float]]] = {}
    for name, modified in folder.files():
        if name.startswith(manifests):
            if modified < now - OLDEST_MANIFEST.total_seconds():
                removed.append(name)
        elif name.startswith(f"{UPLOADED}/"):
            if modified < now - (UPLOAD_RETENTION + CLOCKS_APART).total_seconds():
                removed.append(name)
        elif KEPT_NAME.fullmatch(finished_name(name)) or name.startswith(f"{CONVERTED}/"):
            if modified < now - RETENTION.total_seconds():
                removed.append(name)
            elif finished_name(name) == name or modified < now - LONGEST_WRITE.total_seconds():
                kept.setdefault(finished_name(name), []).append((name, modified))
    if kept:
        since = min(modified for files in kept.values() for _, modified in files)
        oldest = datetime.fromtimestamp(since, tz=UTC) - CLOCKS_APART
        for key, region, known in ended_since(oldest):
            names = (kept_name(region, known), f"{CONVERTED}/{converted_name(key)}")
            removed += [name for finished in names for name, _ in kept.get(finished, ())]
    folder.remove(removed)
    return len(removed)
