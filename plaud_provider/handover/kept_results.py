"""
Transcripts on their way from whoever saw them completed to whoever lands them.

Plaud's answer that a transcription is completed carries the transcript: kept, it does not have to be asked
for again. A kept file that cannot be used counts as none, since Plaud still has the transcript.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Self

from plaud_provider.api.answers import parse_transcription
from plaud_provider.api.models import Transcription
from plaud_provider.exceptions import PlaudConfigurationError, PlaudResponseError
from plaud_provider.storage.folder import open_from_loop, parse_folder

log = logging.getLogger(__name__)

#: What a kept answer is called.
KEPT_NAME = re.compile(r"[0-9a-f]{64}\.json")
#: Answers that are read at once.
READERS = 8
_STATE = "No transcript is lost: Plaud keeps them for some days."


class ResultStore:
    """
    Answers of Plaud, one file each: ``<results_path>/<sha256 of region and transcription id>.json``.

    Nothing is looked up until :meth:`aopen` or the first use. All methods but :meth:`aopen`
    block; a trigger calls them with ``asyncio.to_thread`` after ``await store.aopen()``. Several threads may,
    and several processes: two that save the same answer leave one of the two, whole.

    All methods raise :class:`~plaud_provider.exceptions.PlaudConfigurationError` if the folder's connection,
    a right or an extra is missing, and :class:`~plaud_provider.exceptions.PlaudStorageError` if the storage
    cannot be used now.

    :param results_path: The folder: ``s3://connection@bucket/prefix/``, ``gs://…``, ``abfs://…``,
        ``file:///folder`` or an absolute path. A local one is made, for its user alone, if it does not exist.
    :raises PlaudConfigurationError: if it is none, or carries a password.
    """

    def __init__(self, results_path: str) -> None:
        self._files = parse_folder(
            results_path, argument="results_path", state=_STATE, kind=PlaudConfigurationError
        )

    async def aopen(self) -> Self:
        """
        Look the connection up and make the folder, from an event loop.

        :raises AirflowNotFoundException: if there is no such connection. A failure of Airflow's API looks the
            same, so that another attempt may find it.
        """
        await open_from_loop(self._files)
        return self

    def save(self, transcription: Transcription, region: str) -> None:
        """
        Save an answer, in place of an earlier copy; a reader sees all of it or nothing.

        :param transcription: What Plaud answered.
        :param region: Plaud region that it came from.
        """
        name = kept_name(region, transcription.transcription_id)
        self._files.write(name, transcription.raw.encode())

    def load(self, region: str, transcription_id: str) -> Transcription | None:
        """Return what was saved; ``None`` if nothing was, or what is there is no answer about this one."""
        name = kept_name(region, transcription_id)
        found = [self._files.read(name)]
        if found == [None]:
            return None
        try:
            # Handed on, not held here as well: it may be large.
            return parse_transcription(found.pop() or b"", requested_id=transcription_id)
        except PlaudResponseError:
            log.warning(
                "results_path: %s in %s is no answer about transcription %s, and is not used.",
                name,
                self._files.argument.shown,
                transcription_id,
            )
            return None

    def load_all(
        self, region: str, transcription_ids: Iterable[str]
    ) -> Iterator[tuple[str, Transcription | None]]:
        """
        Yield what was saved of each, in their order; ``None`` of what was not.

        :param region: Plaud region that they came from.
        :param transcription_ids: Ids that Plaud gave. A few are read at once and in memory.
        """
        ids = iter(transcription_ids)
        with ThreadPoolExecutor(READERS) as readers:
            while some := list(islice(ids, READERS)):
                answers = readers.map(partial(self.load, region), some)
                for known in some:
                    # Not by zip, which would hold the last one.
                    yield known, next(answers)

    def kept(self, region: str, transcription_ids: Iterable[str]) -> list[str]:
        """
        Return those of which something is saved.

        :param region: Plaud region that they came from.
        :param transcription_ids: Ids that Plaud gave.
        """
        names = set(self._files.names())
        return [known for known in transcription_ids if kept_name(region, known) in names]

    def remove_landed(self, region: str, transcription_ids: Iterable[str], *, keep_raw: bool) -> None:
        """
        Remove what has landed.

        This is when a kept answer is removed: once the transaction that wrote its rows is committed. Any
        earlier, and a task that fails would have to ask Plaud again. What is kept later, or never landed, is
        left to :mod:`plaud_provider.handover.sweep`.

        :param region: Plaud region that it came from.
        :param transcription_ids: What has landed, kept before or not.
        :param keep_raw: Whether the user wants them to stay.
        """
        if not keep_raw:
            self._files.remove(
                [kept_name(region, transcription_id) for transcription_id in transcription_ids]
            )


def kept_name(region: str, transcription_id: str) -> str:
    """Return a name that any storage takes, whatever an id looks like, and that tells nothing."""
    return hashlib.sha256(f"{region}\x00{transcription_id}".encode()).hexdigest() + ".json"
