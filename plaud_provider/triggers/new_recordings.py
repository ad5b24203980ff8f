"""Notice new recordings under a folder, for DAGs that are to start when there are some."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Hashable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from plaud_provider.exceptions import PlaudConfigurationError, PlaudError, PlaudInputError

_VERSION = 1
#: Under what is kept in Airflow's asset state, or as a file at results_path, what has been announced.
_NOTED = "plaud_new_recordings"
_SUM = 1 << 128


class Listing(NamedTuple):
    """
    What lies in a folder, in a size that does not grow with it.

    :param digest: Differs if there is another name, version, size or time of change; whatever the order.
    :param recordings: How many recordings there are.
    """

    digest: str
    recordings: int


class NewRecordingsTrigger(BaseEventTrigger):
    """
    List a folder now and then, and send an event when it is not what it was: for an ``AssetWatcher``.

    The event only says that there is something to do; what that is, the ledger of the DAG that starts knows.
    So nothing is transcribed twice, however many DAGs watch a folder and however often one is started; and
    nothing is missed, as an event follows each listing that has something new, and the run lists after it.
    Times of change are not compared: an upload in parts shows up with the time at which it was begun.

    What has been announced is noted at the next look, when Airflow has stored the event: a triggerer that is
    killed in between announces it once more, and that run finds nothing to do. It is noted in the asset's
    state (Airflow 3.3), else at ``results_path``; without both, a triggerer that starts announces a folder
    that is not empty. A recording that is removed or replaced counts as something new.

    Triggers of the same folder, pattern and interval share one listing: the same watcher in two DAGs is one
    trigger, and different ones share it from Airflow 3.3 on. It only reads, and writes nothing but its note.

    :param path: The folder: ``s3://connection@bucket/prefix/``, ``gs://…``, ``abfs://…`` or an absolute path
        that the triggerer has. One that does not exist yet is empty.
    :param pattern: Only recordings whose path below it matches, as in ``**/*.wav``.
    :param suffixes: Only names that end so; by default those of M4A, MP3 and WAV.
    :param poll_interval: Seconds between two listings, from 5.
    :param results_path: Folder for the note, where the asset has no state or several share the trigger.
    :raises PlaudInputError: if an argument cannot be.
    """

    def __init__(
        self,
        *,
        path: str,
        pattern: str | None = None,
        suffixes: Sequence[str] | None = None,
        poll_interval: float = 60.0,
        results_path: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if poll_interval < 5:
            raise PlaudInputError(f"poll_interval: {poll_interval:g} is less than 5 seconds.")
        self.path = str(path)
        self.pattern = pattern
        self.suffixes = None if suffixes is None else list(suffixes)
        self.poll_interval = poll_interval
        self.results_path = None if results_path is None else str(results_path)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments: paths, names and numbers only."""
        return (
            "plaud_provider.triggers.new_recordings.NewRecordingsTrigger",
            {
                "path": self.path,
                "pattern": self.pattern,
                "suffixes": self.suffixes,
                "poll_interval": self.poll_interval,
                "results_path": self.results_path,
            },
        )

    def shared_stream_key(self) -> Hashable:
        """Return what is listed, and how often: triggers with the same share one listing (Airflow 3.3)."""
        return ("plaud", self.path, self.pattern, tuple(self.suffixes or ()), self.poll_interval)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[Listing]:
        """
        Yield a listing now and then, forever.

        :param kwargs: Arguments of one of the triggers that share it.
        """
        trigger = cls(**kwargs)
        while True:
            if (listing := await trigger.look()) is not None:
                yield listing
            await trigger.pause()

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """
        Yield an event for each listing that is not what was announced last.

        :param shared_stream: Listings.
        """
        noted, announced = await self._noted(), None
        async for listing in shared_stream:
            if announced is not None and await self._note(announced):
                noted, announced = announced, None
            before = announced or noted
            if listing.recordings and (before is None or listing.digest != before.digest):
                yield TriggerEvent(self._event(listing, before))
                announced = listing

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield events; Airflow before 3.3 calls this, one loop for each trigger."""
        _, arguments = self.serialize()
        async for event in self.filter_shared_stream(self.open_shared_stream(arguments)):
            yield event

    async def pause(self) -> None:
        """Wait until the next look."""
        await asyncio.sleep(self.poll_interval)

    async def look(self) -> Listing | None:
        """Return what lies in the folder; ``None`` if it could not be asked now."""
        from plaud_provider.storage.folder import parse_folder

        try:
            folder = parse_folder(self.path, argument="path", state="Nothing was listed.")
            await _look_up(folder.conn_id)
            return await asyncio.to_thread(self._look)
        except PlaudInputError as error:
            # A folder per day does not exist before its first recording.
            self.log.info("Nothing is listed: %s", error)
            return Listing("", 0)
        except PlaudError as error:
            self.log.warning("The folder could not be listed; trying again later. %s", error)
            return None

    def _look(self) -> Listing:
        from plaud_provider.recordings.listing import list_recordings
        from plaud_provider.recordings.reference import AUDIO_EXTENSIONS

        digest, count = 0, 0
        for found in list_recordings(
            self.path, pattern=self.pattern, suffixes=self.suffixes or AUDIO_EXTENSIONS
        ):
            told = repr((found.uri, found.version, found.size, found.modified))
            one = hashlib.sha256(told.encode("utf-8", "surrogatepass")).digest()[:16]
            # A sum has no order, and takes no memory.
            digest = (digest + int.from_bytes(one)) % _SUM
            count += 1
        return Listing(f"{digest:032x}", count)

    def _event(self, listing: Listing, before: Listing | None) -> dict[str, Any]:
        from plaud_provider.recordings.reference import AudioReference

        return {
            "version": _VERSION,
            "path": AudioReference(self.path).uri,
            "recordings": listing.recordings,
            "new": None if before is None else max(0, listing.recordings - before.recordings),
            "noticed_at": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        }

    # What has been announced

    @property
    def _note_name(self) -> str:
        told = json.dumps([self.path, self.pattern, self.suffixes])
        return f"{_NOTED}_{hashlib.sha256(told.encode()).hexdigest()[:16]}"

    async def _noted(self) -> Listing | None:
        """Return what was announced before this triggerer began, if that is known."""
        try:
            value = await self._read()
        except Exception as error:
            # Announced once more, it starts a run that finds nothing to do.
            self.log.warning("What was announced before is not known: %s", type(error).__name__)
            return None
        if not isinstance(value, dict) or value.get("version") != _VERSION:
            return None
        return Listing(str(value["digest"]), int(value["recordings"]))

    async def _note(self, listing: Listing) -> bool:
        """Note what was announced; return whether that worked."""
        value = {"version": _VERSION, **listing._asdict()}
        try:
            await self._write(value)
        except Exception as error:
            self.log.warning("What was announced could not be noted: %s", type(error).__name__)
            return False
        return True

    async def _read(self) -> Any:
        if self.results_path is None:
            store = self._store()
            return None if store is None else await store.aget(self._note_name)
        content = await self._in_folder(lambda folder: folder.read(f"{self._note_name}.json"))
        return None if content is None else json.loads(content)

    async def _write(self, value: dict[str, Any]) -> None:
        if self.results_path is not None:
            await self._in_folder(
                lambda folder: folder.write(f"{self._note_name}.json", json.dumps(value).encode())
            )
        elif (store := self._store()) is not None:
            await store.aset(self._note_name, value)

    def _store(self) -> Any:
        # Airflow before 3.3 has none.
        return getattr(self, "asset_state_store", None)

    async def _in_folder(self, work: Any) -> Any:
        from plaud_provider.storage.folder import parse_folder

        folder = parse_folder(
            str(self.results_path),
            argument="results_path",
            state="Nothing was noted.",
            kind=PlaudConfigurationError,
        )
        await _look_up(folder.conn_id)
        return await asyncio.to_thread(work, folder)


async def _look_up(conn_id: str | None) -> None:
    """Look a connection up from the event loop, so that a lookup from a thread finds its way."""
    if conn_id:
        from airflow.providers.common.compat.connection import get_async_connection

        await get_async_connection(conn_id)
