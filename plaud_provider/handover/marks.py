"""
Marks that calls of Plaud's webhook leave for the triggers that wait: whose result is there to be looked at.

A mark is an empty file, ``<webhook_path>/<time>/<sha256 of region and transcription id>``, in a folder for
every ten minutes: so a trigger that looks every second lists only what is new. Whoever leaves marks
also removes old ones; a mark that is lost, or removed unread, costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from contextlib import suppress
from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from plaud_provider.exceptions import PlaudConfigurationError, PlaudError
from plaud_provider.handover.kept_results import kept_name
from plaud_provider.storage.folder import LocalFolder, open_from_loop, parse_folder

log = logging.getLogger(__name__)

#: Marks of so many seconds share a folder.
FOLDER_SECONDS = 600
#: Plaud repeats a call for a day; what it is about has been found otherwise by then.
KEPT_SECONDS = 26 * 3600.0
#: Seconds between two looks for marks.
LOOK_SECONDS = 1.0
#: A mark, as it lies in the folder.
_MARK = re.compile(r"(\d{8}T\d{4})/([0-9a-f]{64})")
#: Marks that a process remembers: those of several days.
REMEMBERED = 200_000
_STATE = "Nothing is lost: without marks transcriptions are looked at by themselves."


class Marks:
    """
    The folder of marks. All methods block.

    They raise :class:`~plaud_provider.exceptions.PlaudConfigurationError` if the folder's connection, a right
    or an extra is missing, and :class:`~plaud_provider.exceptions.PlaudStorageError` if its storage cannot be
    used now.

    :param webhook_path: The folder: ``s3://connection@bucket/prefix/``, ``gs://…``, ``abfs://…``,
        ``file:///folder`` or an absolute path.
    :raises PlaudConfigurationError: if it is none.
    """

    def __init__(self, webhook_path: str) -> None:
        self._root = parse_folder(
            webhook_path, argument="webhook_path", state=_STATE, kind=PlaudConfigurationError
        )
        self._written_to: str | None = None

    async def aopen(self) -> None:
        """Look the folder's connection up, from an event loop."""
        await open_from_loop(self._root)

    def leave(self, region: str, transcription_id: str, *, now: float) -> None:
        """
        Leave a mark, in place of an earlier one of the same ten minutes.

        :param region: Plaud region that the call came from.
        :param transcription_id: What it is about.
        :param now: Epoch seconds.
        """
        name = _folder_name(now)
        self._root.below(name).write(mark_name(region, transcription_id), b"")
        if name != self._written_to:
            self._written_to = name
            self.remove_old(now=now)

    def recent(self, *, now: float) -> set[str]:
        """Return the names of marks of the last ten minutes, or a little more."""
        names = {_folder_name(now - FOLDER_SECONDS), _folder_name(now)}
        return {mark for name in names for mark in self._root.below(name).names()}

    def all(self) -> set[str]:
        """Return the names of all marks."""
        return {mark for _, mark in self._stored().values()}

    def remove_old(self, *, now: float) -> None:
        """Remove marks that nobody looks for any more, by the names of their folders."""
        oldest = _folder_name(now - KEPT_SECONDS)
        old = {path: folder for path, (folder, _) in self._stored().items() if folder < oldest}
        self._root.remove(old)
        if isinstance(self._root, LocalFolder):
            for folder in set(old.values()):
                with suppress(OSError):
                    os.rmdir(os.path.join(self._root.path, folder))

    def _stored(self) -> dict[str, tuple[str, str]]:
        """Return folder and name of each mark, by its path; whatever else lies there is somebody else's."""
        found = ((path, _MARK.fullmatch(path)) for path, _ in self._root.files())
        return {path: (mark[1], mark[2]) for path, mark in found if mark is not None}


class MarkWatch:
    """
    The marks that a process knows, for all triggers in it: one of them lists the folder, now and then.

    :param webhook_path: The folder.
    """

    def __init__(self, webhook_path: str) -> None:
        self._marks = Marks(webhook_path)
        self._looked_at: float | None = None
        self._warned = False
        #: The names of marks that were seen.
        self.seen: set[str] = set()

    async def look(self, *, now: float) -> None:
        """
        See what is new, unless that was done just now. A folder that cannot be read holds nobody up.

        :param now: Epoch seconds.
        """
        before = self._looked_at
        if before is not None and now - before < LOOK_SECONDS:
            return
        # What comes meanwhile finds that somebody looks.
        self._looked_at = now
        try:
            if before is None:
                await self._marks.aopen()
            was_away = before is None or now - before > FOLDER_SECONDS
            found = await asyncio.to_thread(
                self._marks.all if was_away else lambda: self._marks.recent(now=now)
            )
        except (PlaudError, AirflowNotFoundException) as problem:
            self._looked_at = before
            if not self._warned:
                self._warned = True
                log.warning("Calls of Plaud's webhook are not seen: %s", problem)
            return
        self._warned = False
        if len(self.seen) > REMEMBERED:
            self.seen.clear()
        self.seen |= found


_WATCHES: dict[str, MarkWatch] = {}


def watch_marks(webhook_path: str) -> MarkWatch:
    """Return the process's watch of a folder."""
    return _WATCHES.setdefault(webhook_path, MarkWatch(webhook_path))


def mark_name(region: str, transcription_id: str) -> str:
    """Return the name of a transcription's mark."""
    return kept_name(region, transcription_id).removesuffix(".json")


def _folder_name(moment: float) -> str:
    begin = moment - moment % FOLDER_SECONDS
    return f"{datetime.fromtimestamp(begin, tz=UTC):%Y%m%dT%H%M}"
