"""
One Plaud, one warehouse that is also the ledger, one Airflow, and somebody who kills its processes.

What is true is read from Plaud's own record and from the database, past the package.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import httpx
import psutil
import sqlalchemy as sa

from benchmarks.recordings import transcript
from demo.airflow_api import TERMINAL_RUN_STATES
from demo.emulator import Emulator
from demo.guard import is_living
from demo.postgres import Postgres
from demo.processes import wait_until
from demo.stack import AirflowStack
from tests.integration.archive import write_recording

#: How long Plaud takes to answer a submit, in which a worker may be killed.
ANSWER_SECONDS = 0.4
#: How much longer a client may take to write down what was answered, on a machine that is busy.
SLACK = timedelta(seconds=5)
OPEN_STATES = ("claimed", "submitting", "processing")
ORDINARY, SUBMITTING, WITH_WORKER, TRIGGERER = "task", "submitting task", "task and worker", "triggerer"
#: A submitting task that is told to end, as by a clear or a worker that goes away; and the ledger's database.
ENDED, DATABASE = "submitting task (SIGTERM)", "database"
#: How long a task may take to end when it is told to: its answers in flight come in.
END_SECONDS = 20.0


class Owner(NamedTuple):
    """A try of a task instance."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int


def write_archive(folder: Path, count: int, rng: random.Random) -> None:
    """Write recordings, each with another transcript of another number of segments."""
    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"call-{number:05}.wav"
        write_recording(path, frames=1600 + number)
        told = transcript(rng, 1 + number % 7)
        path.with_name(f"{path.name}.json").write_text(json.dumps(told))


def name_of(reference: str) -> str:
    """Return a recording's name, of a path or a URL."""
    return unquote(urlsplit(reference).path).rpartition("/")[2]


class Submit(NamedTuple):
    """A submit that Plaud has accepted."""

    transcription_id: str
    name: str
    at: datetime


class Truth(NamedTuple):
    """What Plaud says of a transcription."""

    name: str
    status: str
    text: str
    segments: tuple[tuple[float, float, str, str], ...]


class PlaudRecord:
    """
    What a Plaud in a process of its own has seen and done, by its admin API and by its API.

    :param emulator: The process.
    :param request_limit: Requests a minute that it takes.
    """

    def __init__(self, emulator: Emulator, request_limit: int) -> None:
        self._connection = emulator.connection()
        self._client = httpx.Client(base_url=emulator.url, timeout=60, trust_env=False)
        self.request_limit = request_limit

    def answer_submits_late(self) -> None:
        fault = {"match": {"kind": "submit"}, "times": None, "action": "delay", "seconds": ANSWER_SECONDS}
        self._client.post("/_emulator/faults", json=[fault]).raise_for_status()

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = self._get("/_emulator/summary")
        return summary

    def accepted(self) -> list[Submit]:
        """Return what it has accepted, in order: what it bills."""
        return [
            Submit(
                entry["transcription_id"],
                name_of(entry["audio_url"]),
                datetime.fromisoformat(entry["real_time"]),
            )
            for entry in self._get("/_emulator/ledger?kind=submit")
            if entry["accepted"]
        ]

    def is_being_asked(self) -> bool:
        """Whether a submit is under way."""
        return any(entry["status"] is None for entry in self._get("/_emulator/ledger?kind=submit"))

    def truth(self) -> dict[str, Truth]:
        """Return what any client would be answered now; this counts as requests."""
        names = {submit.transcription_id: submit.name for submit in self.accepted()}
        headers = {"Authorization": f"Bearer {self._token()}"}
        told = {}
        for number, (transcription_id, name) in enumerate(names.items()):
            if number % self.request_limit == 0:
                self._client.post("/_emulator/clock", json={"advance": 61}).raise_for_status()
            answer = self._get(f"/open/partner/ai/transcriptions/{transcription_id}", headers=headers)
            segments = tuple(
                (segment["start"], segment["end"], segment["speaker"], segment["text"])
                for segment in answer.get("segments", [])
            )
            told[transcription_id] = Truth(name, answer["status"], answer.get("text", ""), segments)
        return told

    def _token(self) -> str:
        self._client.post("/_emulator/clock", json={"advance": 61}).raise_for_status()
        answer = self._client.post(
            "/oauth/partner/access-token",
            auth=(self._connection["login"], self._connection["password"]),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def _get(self, path: str, **arguments: Any) -> Any:
        answer = self._client.get(path, **arguments)
        answer.raise_for_status()
        return answer.json()


class Row(NamedTuple):
    """What the ledger has of a recording."""

    name: str
    state: str
    transcription_id: str | None
    error: str | None
    submitted_at: datetime | None
    owner: Owner


class Tables:
    """Ledger and warehouse, by plain SQL."""

    def __init__(self, server: Postgres) -> None:
        self._server = server

    def restart(self) -> None:
        """Restart the database, whoever is connected."""
        self._server.restart()

    def ledger(self) -> dict[str, Row]:
        """Return the ledger's rows by the names of their recordings."""
        if not self._server.rows("select 1 from pg_tables where tablename = 'plaud_submissions'"):
            return {}
        found = self._server.rows(
            "select audio_uri, state, transcription_id, error, submitted_at, owner_dag_id, owner_run_id, "
            "owner_task_id, owner_map_index, owner_try_number from plaud_submissions"
        )
        rows = [
            Row(name_of(uri), state, transcription_id, error, submitted_at, Owner(*owner))
            for uri, state, transcription_id, error, submitted_at, *owner in found
        ]
        by_name = {row.name: row for row in rows}
        assert len(by_name) == len(rows), "a recording has two keys"
        return by_name

    def states(self) -> Counter[str]:
        return Counter(row.state for row in self.ledger().values())

    def transcripts(self) -> dict[str, Truth]:
        """Return what has landed by transcription id, as Plaud tells it."""
        segments: dict[str, list[tuple[float, float, str, str]]] = {}
        for transcription_id, *segment in self._server.rows(
            "select transcription_id, start_seconds, end_seconds, speaker, text from plaud_segments "
            "order by transcription_id, segment_index"
        ):
            segments.setdefault(transcription_id, []).append(tuple(segment))
        landed = {}
        for transcription_id, uri, status, text, count in self._server.rows(
            "select transcription_id, audio_uri, status, text, segment_count from plaud_transcripts"
        ):
            own = tuple(segments.pop(transcription_id, []))
            assert len(own) == count, f"{transcription_id} says that it has {count} segments"
            landed[transcription_id] = Truth(name_of(uri), status, text, own)
        assert not segments, "segments without a transcript"
        return landed

    def end_leases_of(self, owners: Sequence[Owner]) -> None:
        """
        Let the time pass that the ledger gives a submit, for those whose process is dead.

        Nobody who lives notices: a row is of one try of one task instance.
        """
        if not owners or "submitting" not in self.states():
            return
        engine = sa.create_engine(self._server.url, poolclass=sa.pool.NullPool)
        with engine.begin() as connection:
            connection.execute(
                sa.text(
                    "update plaud_submissions set lease_until = now() "
                    "where state = 'submitting' and lease_until > now() and owner_dag_id = :dag_id "
                    "and owner_run_id = :run_id and owner_task_id = :task_id "
                    "and owner_map_index = :map_index and owner_try_number = :try_number"
                ),
                [owner._asdict() for owner in owners],
            )


class Kill(NamedTuple):
    """
    A process that was killed, or ended, or restarted.

    :param what: One of the kinds.
    :param at: When.
    :param owner: The try of a task instance that it ran, if it was a task.
    """

    what: str
    at: datetime
    owner: Owner | None = None


@dataclass
class World:
    """
    All of it.

    :param archive: Folder of recordings.
    :param results: What tasks and triggers leave for each other.
    """

    stack: AirflowStack
    plaud: PlaudRecord
    tables: Tables
    archive: Path
    results: Path
    kills: list[Kill] = field(default_factory=list)

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> tuple[str, str]:
        return dag_id, self.stack.trigger(dag_id, conf)

    def end_leases_of_the_dead(self) -> None:
        self.tables.end_leases_of([kill.owner for kill in self.kills if kill.owner is not None])

    def wait_for(self, runs: Sequence[tuple[str, str]], *, timeout: float) -> dict[tuple[str, str], str]:
        """Wait until runs have ended, and return how."""
        states: dict[tuple[str, str], str] = {}

        def ended() -> bool:
            self.stack.check()
            self.end_leases_of_the_dead()
            states.update({run: self.stack.api.run_state(*run) for run in runs})
            return set(states.values()) <= TERMINAL_RUN_STATES

        wait_until(ended, timeout=timeout, what="runs have ended", poll=1)
        return states

    def clear_failed(self, run: tuple[str, str]) -> None:
        """Have what failed in a run tried again, with what waits for it."""
        dag_id, run_id = run
        body = {"dry_run": False, "dag_run_id": run_id, "only_failed": True, "include_downstream": True}
        self.stack.api.request("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)

    def left_behind(self) -> list[str]:
        """Return the files that tasks and triggers have left."""
        return [str(path.relative_to(self.results)) for path in self.results.rglob("*") if path.is_file()]


class Killer:
    """
    Kills and ends processes of an Airflow at random, and restarts its ledger; says which.

    :param world: Where.
    :param rng: Chooses.
    """

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng

    def series(self, count: int) -> list[str]:
        """Return a series of kinds, each of which is in it."""
        kinds = {ORDINARY: 3, SUBMITTING: 4, WITH_WORKER: 1, TRIGGERER: 1, ENDED: 3, DATABASE: 2}
        chosen = self._rng.choices(list(kinds), list(kinds.values()), k=max(0, count - len(kinds)))
        series = [*kinds, *chosen]
        self._rng.shuffle(series)
        return series

    def run(self, series: Sequence[str], *, is_over: Callable[[], bool]) -> None:
        """Kill one after the other, until all is over."""
        for kind in series:
            time.sleep(self._rng.uniform(0.5, 3))
            kill = None
            while kill is None:
                if is_over():
                    return
                kill = self._kill(kind)
            self._world.kills.append(kill)
            self._world.end_leases_of_the_dead()

    def _kill(self, kind: str) -> Kill | None:
        if kind == TRIGGERER:
            at = datetime.now(tz=UTC)
            self._world.stack.restart("triggerer", signal.SIGKILL)
            return Kill(kind, at)
        if kind == DATABASE:
            at = datetime.now(tz=UTC)
            self._world.tables.restart()
            return Kill(kind, at)
        running = self._running_tasks()
        if kind in (SUBMITTING, ENDED):
            running = [one for one in running if one["task_id"].endswith("submit")]
            if not self._world.plaud.is_being_asked():
                return None
        return self._kill_task(kind, self._rng.choice(running)) if running else None

    def _running_tasks(self) -> list[dict[str, Any]]:
        path = "/dags/~/dagRuns/~/taskInstances"
        found = self._world.stack.api.get(path, state="running", limit=100)["task_instances"]
        return [one for one in found if one["pid"] is not None]

    def _kill_task(self, kind: str, task: dict[str, Any]) -> Kill | None:
        try:
            process = psutil.Process(task["pid"])
            worker = process.parent()
        except psutil.NoSuchProcess:
            return None
        scheduler = self._world.stack.component("scheduler").members()
        if (
            worker is None
            or worker not in scheduler
            or worker.pid == self._world.stack.component("scheduler").pid
        ):
            return None
        doomed = [process, worker] if kind == WITH_WORKER else [process]
        at = datetime.now(tz=UTC)
        for one in doomed:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGTERM if kind == ENDED else signal.SIGKILL)
        wait_until(
            lambda: not any(map(is_living, doomed)),
            timeout=END_SECONDS,
            what=f"{kind}: it is dead",
            poll=0.01,
        )
        names = ("dag_id", "dag_run_id", "task_id", "map_index", "try_number")
        return Kill(kind, at, Owner(*(task[name] for name in names)))
