"""One run of a DAG against an emulator of its own, and what it cost."""

from __future__ import annotations

import hashlib
import hmac
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.recordings import write_recordings
from demo.airflow_api import TERMINAL_RUN_STATES
from demo.emulator import Emulator
from demo.files import FileServer
from demo.postgres import Postgres
from demo.processes import Supervisor
from demo.stack import COMPONENTS, AirflowStack

WEBHOOK_SECRET = "whsec_benchmark"
#: A budget that never holds anybody up.
NO_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Regime:
    """
    What a run meets.

    :param request_limit: Submit and result calls a minute; 0 for no limit.
    :param token_limit: Token requests a minute; 0 for no limit.
    :param speed: How much faster the server's clock runs, and with it the minutes of its limits.
    :param calls_webhook: Whether Airflow's webhook is called as soon as a transcription is final.
    """

    request_limit: int
    token_limit: int
    processing_seconds: float = 20.0
    speed: float = 1.0
    calls_webhook: bool = False

    def floor_seconds(self, count: int) -> float:
        """Return the (2n - burst) / limit that no client can go below, in real seconds."""
        if not self.request_limit:
            return self.processing_seconds / self.speed
        requests = max(0, 2 * count - self.request_limit)
        # The first burst takes no time, but what it submits has to be processed.
        return max(60.0 * requests / self.request_limit, self.processing_seconds) / self.speed

    def __str__(self) -> str:
        limits = f"{self.request_limit or 'no limit'} / {self.token_limit or 'no limit'}"
        clock = f", clock {self.speed:g} times as fast" if self.speed != 1 else ""
        return f"requests / tokens a minute {limits}, {self.processing_seconds:g} s processing{clock}"


@dataclass(frozen=True, slots=True)
class Contender:
    """
    A DAG, and where it lands.

    :param landed: Query for how many transcripts a run has landed, ``{run_id}`` to be filled in.
    """

    name: str
    dag_id: str
    landed: str


@dataclass(frozen=True, slots=True)
class Figures:
    """
    What a run cost.

    :param cpu_seconds: Of all Airflow processes, beyond what they take when idle, by component; tasks are the
        scheduler's, as its workers run them.
    :param requests: Submits and results, whatever became of them; those refused are among them.
    :param delay_seconds: From done to seen, the median, in seconds of the server.
    :param landed_seconds: From done to landed in our table, the median, where the server's clock is ours.
    """

    contender: str
    count: int
    state: str
    landed: int
    wall_seconds: float
    task_instances: int
    cpu_seconds: dict[str, float]
    requests: int
    refused: int
    submits_accepted: int
    tokens: int
    delay_seconds: float
    landed_seconds: float

    @property
    def total_cpu_seconds(self) -> float:
        return sum(self.cpu_seconds.values())


class Bench:
    """
    An Airflow to run contenders in.

    :param stack: It runs, with the DAGs of all contenders.
    :param warehouse: Where they land; connection ``warehouse``.
    :param root: Folder for recordings and results of runs.
    """

    def __init__(self, stack: AirflowStack, warehouse: Postgres, root: Path) -> None:
        self._stack = stack
        self._warehouse = warehouse
        self._root = root
        self._number = 0
        self._idle_rates: dict[str, float] = {}

    def measure_idle(self, dag_id: str, seconds: float) -> float:
        """Take what Airflow costs a second while it is only asked for the state of runs, as it is in all."""
        self._stack.wait_for_dag(dag_id)
        began, before = time.monotonic(), self._cpu_seconds()
        while time.monotonic() < began + seconds:
            self._stack.api.get(f"/dags/{dag_id}/dagRuns", limit=1)
            time.sleep(1)
        after, took = self._cpu_seconds(), time.monotonic() - began
        self._idle_rates = {component: (after[component] - before[component]) / took for component in after}
        return sum(self._idle_rates.values())

    def run(
        self, contender: Contender, count: int, regime: Regime, *, timeout: float, earlier: int = 0
    ) -> Figures:
        """
        Run a contender over new recordings, against a new emulator.

        :param earlier: Runs of the same client that go before, over as many other recordings; they are no
            part of the figures.
        """
        self._number += 1
        name = f"run_{self._number}"
        archive = self._root / name
        write_recordings(archive, count)
        with self._serving(name, archive, regime) as (emulator, conf):
            run_id = f"{contender.dag_id}_{name}"
            self._stack.wait_for_dag(contender.dag_id)
            for number in range(earlier):
                folder = f"earlier_{number}"
                write_recordings(archive / folder, count)
                others = {key: f"{conf[key]}/{folder}" for key in ("archive", "public_url")}
                self._stack.api.trigger(contender.dag_id, conf | others, run_id=f"{run_id}_{folder}")
                self._wait(contender.dag_id, f"{run_id}_{folder}", time.monotonic() + timeout)
            asked_before = len(_asked(emulator))
            began, before = time.monotonic(), self._cpu_seconds()
            self._stack.api.trigger(contender.dag_id, conf, run_id=run_id)
            run = self._wait(contender.dag_id, run_id, began + timeout)
            # What comes after the end, such as the report of the last task, is part of the cost.
            time.sleep(2)
            after, took = self._cpu_seconds(), time.monotonic() - began
            cpu_seconds = {
                component: after[component] - before[component] - took * self._idle_rates.get(component, 0.0)
                for component in after
            }
            entries = _asked(emulator)[asked_before:]
            asked = _Asked(entries, regime)
        instances = self._stack.api.get(f"/dags/{contender.dag_id}/dagRuns/{run_id}/taskInstances", limit=1)
        return Figures(
            contender=contender.name,
            count=count,
            state=run["state"],
            landed=self._landed(contender, run_id),
            wall_seconds=_seconds_between(run["queued_at"], run["end_date"]),
            task_instances=instances["total_entries"],
            cpu_seconds=cpu_seconds,
            requests=asked.requests,
            refused=asked.refused,
            submits_accepted=asked.submits_accepted,
            tokens=asked.tokens,
            delay_seconds=asked.delay_seconds,
            landed_seconds=self._landed_seconds(entries, regime.processing_seconds),
        )

    @contextmanager
    def _serving(self, name: str, archive: Path, regime: Regime) -> Iterator[tuple[Emulator, dict[str, str]]]:
        work = self._root / f"{name}_servers"
        options = {
            "--request-limit": regime.request_limit,
            "--token-limit": regime.token_limit,
            "--processing-seconds": regime.processing_seconds,
            "--processing-ratio": 0,
            "--speed": regime.speed,
        }
        pairs = [str(part) for pair in options.items() for part in pair]
        with Supervisor() as supervisor, ExitStack() as calls:
            work.mkdir()
            emulator = Emulator(supervisor, archive, work, "--quiet", *pairs)
            files = FileServer(supervisor, archive, work)
            plaud = emulator.connection()
            plaud["extra"]["requests_per_minute"] = regime.request_limit * regime.speed or NO_LIMIT
            if regime.calls_webhook:
                plaud["extra"] |= {
                    "webhook_base_url": "https://airflow.example",
                    "webhook_secret": WEBHOOK_SECRET,
                    "webhook_path": str(work / "marks"),
                }
                url = f"{self._stack.base_url}/plaud/webhooks/{name}"
                calls.enter_context(calling(url, emulator))
            self._stack.api.create_connection(name, plaud)
            # Without a login: the HTTP hook would put Basic auth over the Bearer token.
            http = {"conn_type": "http", "host": plaud["host"], "port": plaud["port"]}
            self._stack.api.create_connection(f"{name}_http", http)
            yield (
                emulator,
                {
                    "archive": str(archive),
                    "public_url": files.url,
                    "plaud_conn_id": name,
                    "http_conn_id": f"{name}_http",
                    "results_path": str(work / "results"),
                },
            )

    def _wait(self, dag_id: str, run_id: str, deadline: float) -> dict[str, Any]:
        while True:
            self._stack.check()
            run: dict[str, Any] = self._stack.api.get(f"/dags/{dag_id}/dagRuns/{run_id}")
            if run["state"] in TERMINAL_RUN_STATES:
                return run
            if time.monotonic() > deadline:
                # Given up: what has been done so far counts, and nothing of it goes on.
                self._stack.api.request("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})
                return {**self._stack.api.get(f"/dags/{dag_id}/dagRuns/{run_id}"), "state": "given up"}
            time.sleep(1)

    def _cpu_seconds(self) -> dict[str, float]:
        """Return what each component has taken so far, with its processes that have ended."""
        return {
            component: _cpu_seconds(self._stack.component(component).members()) for component in COMPONENTS
        }

    def _landed(self, contender: Contender, run_id: str) -> int:
        table = contender.landed.partition(" from ")[2].split()[0]
        # A contender that has landed nothing yet may have made no table.
        if not self._warehouse.rows(f"select 1 from information_schema.tables where table_name = '{table}'"):
            return 0
        return int(self._warehouse.rows(contender.landed.format(run_id=run_id))[0][0])

    def _landed_seconds(self, entries: list[dict[str, Any]], processing_seconds: float) -> float:
        landed_at = dict(self._warehouse.rows("select transcription_id, landed_at from plaud_transcripts"))
        delays = [
            (landed_at[known] - datetime.fromisoformat(entry["emulated_time"])).total_seconds()
            for entry in entries
            if entry["accepted"] and (known := entry["transcription_id"]) in landed_at
        ]
        return statistics.median(delays) - processing_seconds if delays else float("nan")


@contextmanager
def every(seconds: float, work: Callable[[], object]) -> Iterator[None]:
    """Do something again and again in a thread, until the end of this block."""
    is_over = threading.Event()

    def go_on() -> None:
        while not is_over.wait(seconds):
            work()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextmanager
def calling(url: str, emulator: Emulator) -> Iterator[None]:
    """Call Airflow's webhook, as Plaud does, about what is done."""
    called: set[str] = set()
    with httpx.Client(trust_env=False, timeout=30) as client:

        def call() -> None:
            for known in client.get(f"{emulator.url}/_emulator/state").json()["transcriptions"]:
                transcription_id = known["transcription_id"]
                if known["status"] == "completed" and transcription_id not in called:
                    _call(client, url, transcription_id)
                    called.add(transcription_id)

        with every(0.2, call):
            yield


def _call(client: httpx.Client, url: str, transcription_id: str) -> None:
    event = {"event": "transcription.completed", "data": {"transcriptionId": transcription_id}}
    body, timestamp = json.dumps(event).encode(), f"{time.time():.0f}"
    signature = hmac.new(WEBHOOK_SECRET.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    headers = {"plaud-timestamp": timestamp, "plaud-signature": f"sha256={signature.hexdigest()}"}
    client.post(url, content=body, headers=headers).raise_for_status()


def _cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _asked(emulator: Emulator) -> list[dict[str, Any]]:
    """Return the requests that the emulator has seen."""
    with httpx.Client(base_url=emulator.url, timeout=60, trust_env=False) as client:
        entries: list[dict[str, Any]] = client.get("/_emulator/ledger").json()
    return entries


class _Asked:
    """What the emulator counted."""

    def __init__(self, entries: list[dict[str, Any]], regime: Regime) -> None:
        kinds = Counter(entry["kind"] for entry in entries)
        self.requests = kinds["submit"] + kinds["get"]
        self.tokens = kinds["exchange"] + kinds["refresh"]
        self.refused = sum(entry["status"] == 429 for entry in entries)
        self.submits_accepted = sum(entry["accepted"] for entry in entries)
        self.delay_seconds = _median_delay(entries, regime.processing_seconds)


def _median_delay(entries: list[dict[str, Any]], processing_seconds: float) -> float:
    done_at: dict[str, float] = {}
    seen_at: dict[str, float] = {}
    for entry in entries:
        transcription_id, at = entry["transcription_id"], entry["emulated_seconds"]
        if entry["accepted"]:
            done_at[transcription_id] = at + processing_seconds
        elif (
            entry["kind"] == "get" and entry["status"] == 200 and at >= done_at.get(transcription_id, at + 1)
        ):
            seen_at.setdefault(transcription_id, at)
    delays = [at - done_at[transcription_id] for transcription_id, at in seen_at.items()]
    return statistics.median(delays) if delays else float("nan")


def _seconds_between(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
