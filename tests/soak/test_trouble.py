"""
Minutes or an hour of trouble with Plaud: real Airflow, and a server that shares no code with the package.

``PLAUD_TROUBLE_MINUTES=60 PLAUD_TROUBLE_LIMIT=60 make soak`` takes an hour, with three minutes to get over
each trouble. In less time there are fewer and shorter ones. Whether full speed is had again can only be
seen with four minutes for each kind, as with ``PLAUD_TROUBLE_MINUTES=32 PLAUD_TROUBLE_KINDS=8``.
``PLAUD_TROUBLE_FILES`` takes another number of recordings.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from demo.airflow_api import TERMINAL_RUN_STATES
from demo.postgres import Postgres
from demo.processes import Supervisor, wait_until
from demo.stack import AirflowStack
from plaud_provider.quota.breaker import FAILURES_TO_OPEN, LONGEST_PAUSE
from plaud_provider.submit.send import CONCURRENCY
from tests.integration.archive import write_recordings
from tests.integration.conftest import SETTINGS
from tests.integration.leftovers import processes_using
from tests.soak.shared_ledger import Tables
from tests.soak.trouble import Record, Trouble, TroubledPlaud, plan, twice

MINUTES = float(os.environ.get("PLAUD_TROUBLE_MINUTES", "4"))
KINDS = int(os.environ.get("PLAUD_TROUBLE_KINDS", "15"))
LIMIT = int(os.environ.get("PLAUD_TROUBLE_LIMIT", "240"))
#: A recording takes a submit and a look; there is work left in every trouble.
FILES = int(os.environ.get("PLAUD_TROUBLE_FILES", str(int(MINUTES * LIMIT / 3))))
CHUNK = max(20, min(200, FILES // 5))
CHUNKS_AT_ONCE = 2
PATIENCE = MINUTES * 60 + 600 + 120 * FILES / LIMIT
#: Seconds until full speed is had again, and by which a wait may be longer than it was told.
RECOVERY, LATENESS = 180.0, 15.0
#: For as long as the lease of a submit its answer may come in.
LEASE_SECONDS = 180.0
#: Clocks of two processes, and what is rounded.
CLOCKS = 0.5

pytestmark = pytest.mark.timeout(2 * PATIENCE + 600, method="thread")


@dataclass
class World:
    """All of it."""

    stack: AirflowStack
    plaud: TroubledPlaud
    tables: Tables
    archive: Path
    results: Path
    times: Path
    waits: list[str] = field(default_factory=list)

    def wait_for(self, dag_id: str, run_id: str, timeout: float) -> str:
        def ended() -> bool:
            self.stack.check()
            return self.stack.api.run_state(dag_id, run_id) in TERMINAL_RUN_STATES

        wait_until(ended, timeout=timeout, what=f"{run_id} has ended", poll=1)
        return self.stack.api.run_state(dag_id, run_id)

    def start_waits(self, transcription_id: str) -> None:
        """Start waits that end at their deadlines only."""
        self.waits.append(self.stack.trigger("trouble_waits", {"transcription_id": transcription_id}))

    def waited(self) -> list[dict[str, Any]]:
        """Return what the waits have written down."""
        for run_id in self.waits:
            self.wait_for("trouble_waits", run_id, timeout=300)
        return [
            {**json.loads(path.read_text()), "wait": path.name} for path in sorted(self.times.glob("*/*"))
        ]


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    work = tmp_path_factory.mktemp("trouble")
    archive, results, servers = work / "calls", work / "results", work / "servers"
    servers.mkdir()
    write_recordings(archive, FILES)
    # Not below pytest's own folder: PostgreSQL runs as another user, whom any other pytest locks out.
    folder = Path(tempfile.mkdtemp(prefix="plaud-pg-"))
    postgres = Postgres(folder)
    try:
        with Supervisor() as supervisor:
            plaud = TroubledPlaud(supervisor, servers, LIMIT)
            env = {
                **SETTINGS,
                "AIRFLOW__CORE__PARALLELISM": "8",
                "AIRFLOW_CONN_PLAUD_DEFAULT": json.dumps(plaud.connection("archive")),
                "AIRFLOW_CONN_PLAUD_WAITS": json.dumps(plaud.connection("waits")),
                "AIRFLOW_CONN_WAREHOUSE_DEFAULT": json.dumps(postgres.connection()),
                "AIRFLOW_VAR_PLAUD_RESULTS_PATH": str(results),
                "AIRFLOW_VAR_PLAUD_TIMES_PATH": str(work / "times"),
                "AIRFLOW_VAR_PLAUD_PUBLIC_URLS": json.dumps(
                    {str(archive): "https://recordings.example.com/calls"}
                ),
            }
            database = postgres.create_database("airflow").render_as_string(hide_password=False)
            with AirflowStack(
                work / "airflow", [Path(__file__).parent / "dags"], env=env, sql_alchemy_conn=database
            ) as stack:
                yield World(stack, plaud, Tables(postgres), archive, results, work / "times")
            assert processes_using(work / "airflow") == []
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_an_archive_and_waits_get_over_every_trouble(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for dag_id in ("trouble_archive", "trouble_waits"):
        world.stack.wait_for_dag(dag_id)
    world.plaud.set(never="never-done")
    never = world.plaud.submit("somebody", "never-done.wav")
    began = time.time()
    run_id = world.stack.trigger("trouble_archive", {"archive": str(world.archive), "chunk_size": CHUNK})
    wait_until(
        lambda: len(world.plaud.record().of("submit", client="archive")) >= 10,
        timeout=120,
        what="the archive is being submitted",
    )
    troubles, told = plan(MINUTES, began=time.time() + 10, kinds=KINDS)
    world.plaud.set_trouble(told)
    for trouble in troubles:
        while time.time() < trouble.start:
            world.stack.check()
            time.sleep(0.5)
        world.start_waits(never)
    state = world.wait_for("trouble_archive", run_id, timeout=PATIENCE)
    took = time.time() - began
    waited = world.waited()
    record = world.plaud.record()
    with capsys.disabled():
        print(f"\n{FILES} recordings, {LIMIT} a minute: {took:.0f} s; the run: {state}")
        print(report(world, record, troubles, waited))

    assert state == "success"
    check_quota(record)
    check_paid_once(world, record)
    check_unknown(world, record, troubles)
    check_warehouse(world, record)
    check_recovery(record, troubles)
    check_deadlines(waited, expected=6 * len(troubles))
    missed = {name for trouble in troubles for name in trouble.names} - record.consumed().keys()
    # Where they follow each other closely, all may still wait for answers that hang, or for their turns.
    is_spread_out = troubles[1].start - troubles[0].end >= RECOVERY
    assert len(missed) <= (0 if is_spread_out else len(troubles) / 2), missed


def test_a_submit_that_is_under_way_at_its_execution_timeout_is_waited_for_but_not_for_ever(
    world: World,
) -> None:
    world.plaud.set_trouble(
        [{"name": "hanging", "calls": ["submit"], "hang": True, "effect": True, "start": 0, "end": 1e12}]
    )
    recording = str(next(world.archive.glob("*.wav")))
    run_id = world.stack.trigger("trouble_submit", {"recording": recording})
    world.wait_for("trouble_submit", run_id, timeout=300)
    [submit] = world.stack.api.get(f"/dags/trouble_submit/dagRuns/{run_id}/taskInstances")["task_instances"]
    assert submit["state"] == "failed"
    # Its answer may be worth money.
    assert 20.0 <= submit["duration"] <= LEASE_SECONDS + LATENESS
    # A clear does not pay again for what may be paid for.
    world.stack.api.clear("trouble_submit", run_id, ["submit"])
    wait_until(
        lambda: (
            world.stack.api.run_state("trouble_submit", run_id) == "queued"
            or world.stack.api.run_state("trouble_submit", run_id) == "running"
        ),
        timeout=30,
        what="it runs again",
    )
    world.wait_for("trouble_submit", run_id, timeout=120)
    assert len(world.plaud.record().accepted()) == 1


def report(
    world: World, record: Record, troubles: Sequence[Trouble], waited: Sequence[dict[str, Any]]
) -> str:
    """Return what happened, trouble by trouble."""
    submits, looks, tokens = (len(record.of(call, client="archive")) for call in ("submit", "get", "token"))
    lines = [f"ledger {dict(world.tables.states())}; {submits} submits, {looks} looks, {tokens} tokens"]
    lines += [
        f"{client}: busiest minute {record.busiest_minute('submit', 'get', client=client)} requests, "
        f"{record.busiest_minute('token', client=client)} tokens; "
        f"{sum(one.over for one in record.of('submit', 'get', 'token', client=client))} over the limit"
        for client in ("archive", "waits")
    ]
    consumed, unknown = record.consumed(), unknown_names(world)
    for trouble in troubles:
        met = [one for one in record.sent_during(trouble) if one.audio in unknown]
        speed = record.until_full_speed(trouble.end, client="archive", limit=LIMIT)
        left = FILES - len({one.audio for one in record.accepted() if one.at < trouble.end})
        lines.append(
            f"  {', '.join(trouble.names):28} {trouble.end - trouble.start:4.0f} s, "
            f"{sum(consumed[name] for name in trouble.names):4} requests; "
            f"{len(record.in_flight_at(trouble.start))} submits in flight, "
            f"{len(record.sent_during(trouble))} sent, {len(met)} unknown; full speed "
            f"{'never' if speed is None else f'after {speed:.0f} s'} ({left} left)"
        )
    lines += [f"  {name}: {count}" for name, count in consumed.items() if name.endswith("one id")]
    late = [one["ended"] - one["began"] - one["timeout"] for one in waited if "ended" in one]
    if late:
        lines.append(f"{len(waited)} waits ended {min(late):.1f} to {max(late):.1f} s after their deadlines")
    return "\n".join(lines)


def unknown_names(world: World) -> set[str]:
    return {row.name for row in world.tables.ledger().values() if row.state == "unknown"}


def check_quota(record: Record) -> None:
    for client in ("archive", "waits"):
        assert record.busiest_minute("submit", "get", client=client) <= LIMIT
        assert record.busiest_minute("token", client=client) <= 10


def check_paid_once(world: World, record: Record) -> None:
    assert twice(one.audio for one in record.accepted()) == []
    ledger = world.tables.ledger()
    assert len(ledger) == FILES
    assert {row.state for row in ledger.values()} <= {"landed", "unknown", "failed", "expired"}
    for row in ledger.values():
        assert row.state == "landed" or row.error, f"{row.name} is {row.state} for no reason"


def check_unknown(world: World, record: Record, troubles: Sequence[Trouble]) -> None:
    """
    Only what was being sent when trouble began is of unknown outcome, and one for each trial.

    Those that were sent until it was clear that there is trouble are in flight as well.
    """
    unknown = unknown_names(world)
    left = set(unknown)
    for trouble in troubles:
        sent = {one.audio for one in record.sent_during(trouble)} | {
            one.audio for one in record.in_flight_at(trouble.start)
        }
        trials = 3 + (trouble.end - trouble.start) / (60 * LONGEST_PAUSE)
        at_once = min(CONCURRENCY, -(-LIMIT // 30)) * CHUNKS_AT_ONCE
        assert len(sent & unknown) <= FAILURES_TO_OPEN + at_once + trials, trouble
        left -= sent
    assert left == set(), "unknown, though they met with no trouble"


def check_warehouse(world: World, record: Record) -> None:
    """What Plaud has accepted has landed, but for what is unknown, and for ids that are refused for ever."""
    unknown = unknown_names(world)
    refused = {
        one.transcription_id for one in record.requests if one.trouble and one.trouble.endswith("one id")
    }
    expected = {
        one.accepted: one.audio
        for one in record.accepted()
        if one.client == "archive" and one.audio not in unknown and one.accepted not in refused
    }
    landed = world.tables.transcripts()
    assert {transcription_id: told.name for transcription_id, told in landed.items()} == expected
    for told in landed.values():
        assert told.status == "completed"
        assert told.text == f"Said in {told.name}."
        assert told.segments == ((0.0, 4.2, "Speaker 1", told.text),)
    failed = [row for row in world.tables.ledger().values() if row.state in ("failed", "expired")]
    assert {row.transcription_id for row in failed} == refused


def check_recovery(record: Record, troubles: Sequence[Trouble]) -> None:
    """Where there was the time and the work for it, full speed was had again within three minutes."""
    starts = [trouble.start for trouble in troubles[1:]]
    for trouble, next_start in zip(troubles, [*starts, float("inf")], strict=True):
        left = FILES - len({one.audio for one in record.accepted() if one.at < trouble.end})
        if next_start - trouble.end < RECOVERY or left < 1.5 * LIMIT:
            continue
        speed = record.until_full_speed(trouble.end, client="archive", limit=LIMIT)
        assert speed is not None, trouble
        assert speed <= RECOVERY, trouble


def check_deadlines(waited: Sequence[dict[str, Any]], *, expected: int) -> None:
    assert len(waited) == expected
    for one in waited:
        assert one["error"] == "PlaudWaitTimeoutError", one
        late = one["ended"] - one["began"] - one["timeout"]
        assert -CLOCKS <= late <= LATENESS, one
