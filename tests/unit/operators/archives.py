"""A folder of recordings and what one chunk of it goes through, task by task."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk.exceptions import TaskDeferred

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.handover.kept_results import ResultStore
from plaud_provider.handover.manifest import read_keys, write_manifest
from plaud_provider.hooks.plaud import PlaudHook
from plaud_provider.ledger.ledger import Entry, Ledger, Owner, Recording, open_ledger
from plaud_provider.operators.chunk import COUNTS_KEY
from plaud_provider.operators.land_recordings import LandRecordingsOperator
from plaud_provider.operators.submit_recordings import SubmitRecordingsOperator
from plaud_provider.recordings.listing import list_recordings
from tests.unit.recordings.sounds import wav
from tests.unit.tasks import TaskStateStore, event_of, task_context
from tests.unit.warehouse.warehouses import CONN_ID, Warehouse

PUBLIC = "https://files.example"
#: Another task, of another dag.
STRANGER = Owner("other_dag", "other_run", "submit", 3, 1)
#: Id of the task that submits a chunk.
SUBMIT = "transcribe.chunk.submit"


@dataclass
class Archive:
    """
    Recordings in a folder, in one chunk, and a ledger in a warehouse.

    :param folder: Where the recordings lie.
    :param results: Where chunks and kept answers lie.
    :param warehouse: Warehouse and ledger.
    :param plaud: Where recordings are submitted.
    """

    folder: Path
    results: Path
    warehouse: Warehouse
    plaud: EmulatorServer
    stores: dict[tuple[str, str], TaskStateStore] = field(default_factory=dict)

    def add(self, *names: str, seconds: float = 1.0) -> None:
        """Put recordings in the folder; each is so long."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            # The rate keeps long ones small; what is in them is their name.
            (self.folder / name).write_bytes(wav(seconds, rate=400) + name.encode())

    def list(self, run_id: str = "run") -> str:
        """List the folder, as one chunk; return its path."""
        folder = self.results / "manifests" / run_id
        [chunk] = write_manifest(list_recordings(str(self.folder)), str(folder), chunk_size=1000)
        return chunk

    # The tasks

    def submit_task(self, run_id: str = "run", **arguments: Any) -> SubmitRecordingsOperator:
        told = {"public_urls": {str(self.folder): PUBLIC}, **self._common(run_id), **arguments}
        return SubmitRecordingsOperator(task_id="submit", **told)

    def submit(self, run_id: str = "run", *, try_number: int = 1, **arguments: Any) -> dict[str, Any]:
        """Run the submit of a run; return its counts, and check that XCom has them."""
        context = self.context(SUBMIT, run_id, try_number)
        counts = self.submit_task(run_id, **arguments).execute(context)
        assert context["ti"].xcom(COUNTS_KEY) == counts
        return counts

    def resumed_submit(self, deferred: TaskDeferred, run_id: str = "run", **arguments: Any) -> dict[str, Any]:
        """Let a submit that waited go on."""
        kwargs = json.loads(json.dumps(deferred.kwargs or {}))
        return self.submit_task(run_id, **arguments).resume_execution(  # type: ignore[no-any-return]
            deferred.method_name, {**kwargs, "event": None}, self.context(SUBMIT, run_id)
        )

    def land_task(self, run_id: str = "run", **arguments: Any) -> LandRecordingsOperator:
        told = {"poke_interval": 0.05, **self._landing(run_id), **arguments}
        return LandRecordingsOperator(task_id="land", **told)

    def land(
        self, run_id: str = "run", *, try_number: int = 1, max_tries: int = 0, **arguments: Any
    ) -> dict[str, int]:
        """Run the wait of a run as Airflow does: a new operator, and the trigger in between."""
        context = self.context("land", run_id, try_number, max_tries=max_tries)
        try:
            return self.land_task(run_id, **arguments).execute(context)
        except TaskDeferred as deferred:
            waiting = deferred
        while True:
            event = event_of(asked_at_once(waiting.trigger))
            try:
                return self.resumed_land(waiting, event, run_id, **arguments)
            except TaskDeferred as deferred:
                waiting = deferred

    def resumed_land(
        self, deferred: TaskDeferred, event: Any, run_id: str = "run", **arguments: Any
    ) -> dict[str, int]:
        return self.land_task(run_id, **arguments).resume_execution(  # type: ignore[no-any-return]
            deferred.method_name, {**(deferred.kwargs or {}), "event": event}, self.context("land", run_id)
        )

    def keep(self, *names: str) -> None:
        """Keep what Plaud answers about recordings, as a trigger does."""
        entries = self.entries()
        with PlaudHook() as hook:
            for name in names:
                transcription = hook.get_transcription(str(entries[name].transcription_id))
                assert transcription.is_final
                ResultStore(str(self.results)).save(transcription, "us")

    def count(self, run_id: str = "run", **arguments: Any) -> dict[str, int]:
        """Land what is kept and count, as at the deadline."""
        return self.land_task(run_id, timeout=0, **arguments).execute(self.context("count", run_id))

    def context(self, task_id: str, run_id: str = "run", try_number: int = 1, *, max_tries: int = 0) -> Any:
        store = self.stores.setdefault((task_id, run_id), TaskStateStore())
        return task_context(
            store, task_id=task_id, run_id=run_id, map_index=0, try_number=try_number, max_tries=max_tries
        )

    def _common(self, run_id: str) -> dict[str, Any]:
        manifest = self.results / "manifests" / run_id / "chunk-00001.jsonl"
        return {"manifest": str(manifest), "ledger_conn_id": CONN_ID}

    def _landing(self, run_id: str) -> dict[str, Any]:
        return {**self._common(run_id), "results_path": str(self.results), "sql_conn_id": CONN_ID}

    # What came of it

    @property
    def ledger(self) -> Ledger:
        return open_ledger(CONN_ID)

    def keys(self, run_id: str = "run") -> dict[str, str]:
        """Return the key of each recording by its name."""
        keyed = read_keys(self._common(run_id)["manifest"])
        return {Path(one.uri).name: one.key for one in keyed}

    def entries(self) -> dict[str, Entry]:
        """Return the rows of the ledger by the names of recordings."""
        if "plaud_submissions" not in self.warehouse.tables():
            return {}
        found = self.warehouse.rows("select recording_key from plaud_submissions")
        return {
            Path(str(entry.audio_uri)).name: entry
            for entry in self.ledger.entries([key for (key,) in found]).values()
        }

    def states(self) -> dict[str, str]:
        return {name: entry.state.value for name, entry in self.entries().items()}

    def count_of_states(self) -> Counter[str]:
        return Counter(self.states().values())

    def paid(self) -> Counter[str]:
        """Return how often Plaud has accepted each recording, by the names in their URLs."""
        return Counter(job["audio_url"].rpartition("/")[2] for job in self.plaud.transcriptions())

    def posted(self) -> list[str]:
        """Return what was sent, accepted or not, by the names in their URLs."""
        return [row["body"]["audioUrl"].rpartition("/")[2] for row in self.plaud.ledger(kind="submit")]

    def landed(self) -> dict[str, str]:
        """Return status by name of what is in the warehouse."""
        if "plaud_transcripts" not in self.warehouse.tables():
            return {}
        rows = self.warehouse.rows("select audio_uri, status from plaud_transcripts")
        return {Path(uri).name: status for uri, status in rows}

    def kept(self) -> list[Path]:
        """Return the answers that are kept."""
        return sorted(self.results.glob("*.json"))

    # What others do

    def hold(self, *names: str, run_id: str = "run", owner: Owner = STRANGER) -> None:
        """Have another task claim recordings that have been planned."""
        keys = self.keys(run_id)
        self.ledger.claim([self._recording(name, keys[name]) for name in names], owner)

    def lapse(self) -> None:
        """Let all leases end."""
        past = (datetime.now(tz=UTC) - timedelta(seconds=1)).strftime("%Y-%m-%d %H:%M:%S.%f")
        timed = f"'{past}+00:00'" if self.warehouse.kind == "postgres" else f"'{past}'"
        self.warehouse.run(
            # A claim is released if its lease ends when it begins.
            f"update plaud_submissions set claimed_at = '2020-01-01 00:00:00.000000', lease_until = {timed} "
            "where lease_until is not null"
        )

    @staticmethod
    def _recording(name: str, key: str) -> Recording:
        return Recording(key, f"/calls/{name}", "us", "client")


def asked_at_once(trigger: Any) -> Any:
    """Return a trigger that does not know when its recordings were submitted: it looks at once."""
    trigger.submitted_at = trigger.audio_seconds = None
    return trigger
