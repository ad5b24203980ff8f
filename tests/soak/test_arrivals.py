"""
Recordings arrive in a bucket, in bursts; two DAGs watch it, and their triggerer is killed twice.

What Airflow's OpenLineage provider and StatsD client told is compared with Plaud's own record, and then the
text of all of it is removed, and looked for. ``PLAUD_SOAK_ARRIVALS=50 make soak`` takes fewer than 500.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import httpx
import pytest
import sqlalchemy as sa

from benchmarks.recordings import transcript
from demo.bucket import BUCKET, Bucket
from demo.emulator import Emulator
from demo.postgres import Postgres
from demo.processes import Supervisor, wait_until
from demo.stack import AirflowStack
from tests.integration.archive import write_recording
from tests.integration.conftest import REPOSITORY, SETTINGS
from tests.integration.leftovers import processes_using
from tests.soak.shared_ledger import PlaudRecord, Tables

FILES = int(os.environ.get("PLAUD_SOAK_ARRIVALS", "500"))
BURSTS = 5
#: Seconds between them.
PAUSE = 20
#: In which of them the triggerer is killed.
KILLED_IN = (1, 3)
LIMIT = 600
PATIENCE = 300 + 2 * FILES
DAGS = ("arrivals_one", "arrivals_two")
#: In every transcript.
SAID = "zebrafinch canary: Grüße, 100% 'sure'"
#: Plaud fails at these; what they are called by is all that is special about them.
FAILS = "-fails.wav"
LOST = "-lost.wav"
SINGLES = ("singles/single-0.wav", "singles/single-1.wav")

pytestmark = pytest.mark.timeout(2 * PATIENCE, method="thread")


class StatsD:
    """A StatsD server: what was sent to a UDP socket."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.5)
        self.port = self._socket.getsockname()[1]
        self.told: list[str] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> StatsD:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._is_over.is_set():
            try:
                self.told.extend(self._socket.recv(65536).decode().splitlines())
            except TimeoutError:
                continue

    def counters(self) -> dict[str, float]:
        found: defaultdict[str, float] = defaultdict(float)
        for line in list(self.told):
            if match := re.fullmatch(r"airflow\.plaud\.([^:]+):([\d.]+)\|c", line):
                found[match[1]] += float(match[2])
        return found


@dataclass
class World:
    """All of it; ``store`` has the recordings that arrive, with what is said in them."""

    stack: AirflowStack
    emulator: Emulator
    plaud: PlaudRecord
    postgres: Postgres
    airflow_database: sa.URL
    tables: Tables
    bucket: dict[str, Any]
    statsd: StatsD
    work: Path
    secrets: list[str]

    @property
    def store(self) -> Path:
        return self.work / "calls"

    def events(self) -> list[dict[str, Any]]:
        """Return OpenLineage's events of tasks that ended, as its provider wrote them."""
        told = [json.loads(path.read_text()) for path in (self.work / "lineage").iterdir()]
        return [event for event in told if event["eventType"] in ("COMPLETE", "FAIL")]

    def put(self, names: Sequence[str], *, folder: str) -> None:
        with _s3(self.bucket) as s3:
            for name in names:
                content = (self.store / name).read_bytes()
                s3.put_object(Bucket=BUCKET, Key=f"{folder}{name}", Body=content)

    def asked(self, kind: str) -> int:
        """Return how many requests of a kind Plaud has seen."""
        url = f"{self.emulator.url}/_emulator/ledger"
        return len(httpx.get(url, params={"kind": kind}, trust_env=False, timeout=60).json())

    def order(self, path: str, body: Any) -> None:
        url = f"{self.emulator.url}/_emulator/{path}"
        httpx.post(url, json=body, trust_env=False, timeout=60).raise_for_status()


@contextmanager
def _s3(connection: Mapping[str, Any]) -> Iterator[Any]:
    client = boto3.client(  # type: ignore[no-untyped-call]
        "s3",
        endpoint_url=connection["extra"]["endpoint_url"],
        region_name=connection["extra"]["region_name"],
        aws_access_key_id=connection["login"],
        aws_secret_access_key=connection["password"],
    )
    with closing(client):
        yield client


def write_calls(folder: Path) -> None:
    (folder / "singles").mkdir(parents=True)
    rng = random.Random(5)
    arriving = [f"call-{number:05}{kind_of(number)}" for number in range(FILES)]
    for number, name in enumerate([*arriving, *SINGLES]):
        path = folder / name
        write_recording(path, frames=8000 + number)
        told: Any = transcript(rng, 1 + number % 7)
        for segment in told["segments"]:
            segment["text"] += f" {SAID}"
        told["text"] = " ".join(segment["text"] for segment in told["segments"])
        path.with_name(f"{path.name}.json").write_text(json.dumps(told))


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    work = tmp_path_factory.mktemp("arrivals")
    for name in ("servers", "lineage", "none"):
        (work / name).mkdir()
    write_calls(work / "calls")
    # Not below pytest's own folder: PostgreSQL runs as another user, whom any other pytest locks out.
    folder = Path(tempfile.mkdtemp(prefix="plaud-pg-"))
    postgres = Postgres(folder)
    try:
        with Supervisor() as supervisor, StatsD() as statsd:
            options = {"--request-limit": LIMIT, "--processing-seconds": 15, "--processing-ratio": 0}
            arguments = [str(part) for pair in options.items() for part in pair]
            emulator = Emulator(supervisor, work / "calls", work / "servers", "--quiet", *arguments)
            bucket = Bucket(supervisor, work / "none", work / "servers").connection()
            plaud = emulator.connection()
            plaud["extra"]["requests_per_minute"] = LIMIT
            transport = {"type": "file", "log_file_path": str(work / "lineage" / "event"), "append": False}
            env = {
                **SETTINGS,
                "AIRFLOW_CONN_PLAUD_DEFAULT": json.dumps(plaud),
                "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(bucket),
                "AIRFLOW_CONN_WAREHOUSE_DEFAULT": json.dumps(postgres.connection()),
                "AIRFLOW_VAR_PLAUD_RESULTS_PATH": str(work / "results"),
                "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
                "AIRFLOW__OPENLINEAGE__EXECUTION_TIMEOUT": "60",
                "AIRFLOW__METRICS__STATSD_ON": "True",
                "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
                "AIRFLOW__METRICS__STATSD_PORT": str(statsd.port),
            }
            database = postgres.create_database("airflow")
            with AirflowStack(
                work / "airflow",
                [Path(__file__).parent / "dags", REPOSITORY / "dags"],
                env=env,
                sql_alchemy_conn=database.render_as_string(hide_password=False),
            ) as stack:
                yield World(
                    stack,
                    emulator,
                    PlaudRecord(emulator, LIMIT),
                    postgres,
                    database,
                    Tables(postgres),
                    bucket,
                    statsd,
                    work,
                    [plaud["password"], bucket["password"]],
                )
            assert processes_using(work / "airflow") == []
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_each_is_transcribed_once_told_as_it_was_and_forgotten(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    order_trouble(world)
    for dag_id in DAGS:
        world.stack.wait_for_dag(dag_id)
        world.stack.api.request("PATCH", f"/dags/{dag_id}", json={"is_paused": False})
    arrive(world)
    wait_until(lambda: is_settled(world), timeout=PATIENCE, what="all is settled", poll=1)

    with capsys.disabled():
        print(f"\n{time.monotonic() - began:.0f} s: {summary(world)}")
    check_once(world)
    check_metrics(world)
    check_lineage(world)
    check_singles(world)
    assert places_with_text(world) == {"warehouse"}

    run_id = world.stack.trigger("plaud_forget", {"folder": f"s3://{BUCKET}/", "remove": True})
    assert world.stack.wait_for_run("plaud_forget", run_id) == "success"

    assert world.tables.transcripts() == {}
    assert world.statsd.counters()["purged"] == len(world.tables.ledger())
    assert places_with_text(world) == set()
    assert places_with_secrets(world) == []


def kind_of(number: int) -> str:
    return {7: FAILS, 11: LOST}.get(number % 25, ".wav")


def names(kind: str) -> list[str]:
    return [f"call-{number:05}{kind}" for number in range(FILES) if kind_of(number) == kind]


def order_trouble(world: World) -> None:
    """Plaud refuses some for a while, and of some its answer is lost."""
    world.order(
        "faults",
        [
            {"match": {"kind": "submit", "body_contains": LOST}, "action": "drop_after", "times": None},
            {"match": {"kind": "submit"}, "action": "status", "status": 429, "times": 3, "skip": 5},
            {"match": {"kind": "get"}, "action": "status", "status": 500, "times": 3, "skip": 5},
        ],
    )


def arrive(world: World) -> None:
    """Put recordings into the bucket in bursts, and kill the triggerer in the middle of two of them."""
    waiting = sorted(path.name for path in world.store.glob("*.wav"))
    random.Random(7).shuffle(waiting)
    size = -(-FILES // BURSTS)
    for burst in range(BURSTS):
        some = waiting[burst * size : (burst + 1) * size]
        world.put(some[::2], folder="arrivals/")
        if burst in KILLED_IN:
            world.stack.kill("triggerer", signal.SIGKILL)
        world.put(some[1::2], folder="arrivals/")
        if burst in KILLED_IN:
            world.stack.restart("triggerer")
        until = time.monotonic() + PAUSE
        while time.monotonic() < until:
            fail_some(world)
            time.sleep(0.5)


def fail_some(world: World) -> None:
    """Let Plaud fail at what it is to fail at, before anybody has its transcript."""
    for submit in world.plaud.accepted():
        if submit.name.endswith(FAILS):
            world.order(f"transcriptions/{submit.transcription_id}", {"status": "failed", "error": "noise"})


def is_settled(world: World) -> bool:
    world.stack.check()
    fail_some(world)
    states = world.tables.states()
    if states.total() < FILES or set(states) - {"landed", "failed", "unknown"}:
        return False
    runs = [run["state"] for dag_id in DAGS for run in _runs(world, dag_id)]
    return not {"queued", "running"} & set(runs)


def _runs(world: World, dag_id: str) -> list[dict[str, Any]]:
    return list(world.stack.api.get(f"/dags/{dag_id}/dagRuns", limit=100)["dag_runs"])


def summary(world: World) -> str:
    seen = world.plaud.summary()
    runs = Counter(run["state"] for dag_id in DAGS for run in _runs(world, dag_id))
    return (
        f"{FILES} recordings, {dict(runs)} runs, {dict(world.tables.states())}; Plaud: {seen}; "
        f"metrics: {dict(world.statsd.counters())}; {len(world.events())} events"
    )


def check_once(world: World) -> None:
    accepted = Counter(submit.name for submit in world.plaud.accepted())
    assert accepted == Counter(path.name for path in world.store.glob("*.wav"))
    ledger = world.tables.ledger()
    for state, kind in (("failed", FAILS), ("unknown", LOST)):
        assert sorted(name for name, row in ledger.items() if row.state == state) == names(kind)
    told = {row.name: row.status for row in world.tables.transcripts().values()}
    answered = [name for name in accepted if not name.endswith(LOST)]
    assert told == {name: "failed" if name.endswith(FAILS) else "completed" for name in answered}
    assert {run["state"] for dag_id in DAGS for run in _runs(world, dag_id)} == {"success"}


def check_metrics(world: World) -> None:
    told, seen = world.statsd.counters(), world.plaud.summary()
    lost, failed = len(names(LOST)), len(names(FAILS))
    assert (told["submitted"], told["unknown"]) == (FILES - lost, lost)
    assert (told["landed"], told["failed"]) == (FILES - lost - failed, failed)
    assert told["refused.submit"] == seen["refused_429"] == 3
    assert told["requests.submit"] == world.asked("submit")
    # A triggerer that is killed can have counted a look that it did not send any more.
    assert abs(told["requests.get"] - world.asked("get")) <= len(KILLED_IN)
    assert told["results"] >= FILES - lost


def check_lineage(world: World) -> None:
    """Over all tasks, events add up to what Plaud and the warehouse have."""
    submitted, seconds = 0, 0.0
    ids: dict[str, set[str]] = {"submit": set(), "land": set()}
    rows: Counter[str] = Counter()
    for event in world.events():
        facet = event["run"]["facets"].get("plaud")
        task = event["job"]["name"].rpartition(".")[2]
        if facet is None or task not in ids:
            continue
        ids[task].update(facet["transcriptionIds"])
        if task == "submit":
            submitted += facet["counts"]["submitted"]
            seconds += facet["audioSeconds"]
        for output in event["outputs"]:
            rows[output["name"]] += output["outputFacets"]["outputStatistics"]["rowCount"]
        assert {(one["namespace"], one["name"]) for one in event["inputs"]} <= {
            (f"s3://{BUCKET}", "arrivals")
        }
    accepted = {s.transcription_id for s in world.plaud.accepted() if not s.name.endswith(LOST)}
    assert ids["submit"] == accepted
    landed = world.tables.transcripts()
    assert ids["land"] == {known for known, row in landed.items() if row.status == "completed"}
    assert submitted == FILES - len(names(LOST))
    assert seconds == pytest.approx(world.statsd.counters()["audio_seconds"], abs=0.01)
    written = {name.rpartition(".")[2]: many for name, many in rows.items()}
    # Two DAGs that wait for the same recordings at once may each write their rows.
    assert written["plaud_transcripts"] >= len(landed)
    assert written["plaud_segments"] >= sum(len(row.segments) for row in landed.values())


def check_singles(world: World) -> None:
    """An operator's submit, its load, and a task's own code, as they are told."""
    before = world.statsd.counters()["submitted"]
    world.put(SINGLES, folder="")
    run_id = world.stack.trigger("single_calls")
    assert world.stack.wait_for_run("single_calls", run_id) == "success"

    known = {submit.name: submit.transcription_id for submit in world.plaud.accepted()}["single-0.wav"]
    told = {
        event["job"]["name"].rpartition(".")[2]: event
        for event in world.events()
        if event["job"]["name"].startswith("single_calls.")
    }
    names = {task: [(i["namespace"], i["name"]) for i in told[task].get("inputs", [])] for task in told}
    place = f"s3://{BUCKET}"
    assert names["submit"] == names["load"] == [(place, "singles")]
    assert names["by_hook"] == [(place, "singles/single-1.wav")]
    for task in ("submit", "load"):
        assert told[task]["run"]["facets"]["plaud"]["transcriptionIds"] == [known]
    rows = [output["outputFacets"]["outputStatistics"]["rowCount"] for output in told["load"]["outputs"]]
    assert rows == [1, len(world.tables.transcripts()[known].segments)]
    assert world.statsd.counters()["submitted"] == before + len(SINGLES)


def _forms(text: str) -> list[bytes]:
    """Return a text as it is, quoted, escaped, in hexadecimal, and in base64 wherever it begins."""
    plain = text.encode()
    forms = [plain, quote(text).encode(), json.dumps(text)[1:-1].encode(), plain.hex().encode()]
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + plain)
        # Without what depends on the bytes around it.
        forms.append(encoded[4 if offset else 0 : -4])
    return forms


def _everything(world: World) -> Iterator[tuple[str, bytes]]:
    """Yield what there is, by place: but for the store itself and the servers' own folders."""
    for place in ("airflow", "lineage", "results"):
        for path in (world.work / place).rglob("*"):
            if path.is_file():
                yield place, path.read_bytes()
    yield "metrics", "\n".join(world.statsd.told).encode()
    for place, url in (("warehouse", world.postgres.url), ("metadata", world.airflow_database)):
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        with engine.connect() as connection:
            for table in sa.inspect(connection).get_table_names():
                for (row,) in connection.execute(sa.text(f'select t::text from "{table}" t')):
                    yield place, str(row).encode()


def places_with_text(world: World) -> set[str]:
    words = ["zebrafinch canary", SAID]
    forms = [form for word in words for form in _forms(word)]
    return {place for place, content in _everything(world) if any(form in content for form in forms)}


def places_with_secrets(world: World) -> list[str]:
    forms = [form for secret in world.secrets for form in _forms(secret)]
    signature = re.compile(rb"X-Amz-Signature(=|%3D)[0-9a-f]{8}")
    return [
        place
        for place, content in _everything(world)
        if signature.search(content) or any(form in content for form in forms)
    ]
