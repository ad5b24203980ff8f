"""
Two DAGs over one archive and single submits of some of it, over one ledger, while processes are killed or
told to end, and the ledger's database restarts.

``PLAUD_SOAK_FILES=1000 make soak`` takes a thousand recordings; ``PLAUD_SOAK_SEED`` another series of kills.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from demo.emulator import Emulator
from demo.files import FileServer
from demo.postgres import Postgres
from demo.processes import Supervisor
from demo.stack import AirflowStack
from tests.integration.conftest import SETTINGS
from tests.integration.leftovers import processes_using
from tests.soak.shared_ledger import (
    ANSWER_SECONDS,
    ENDED,
    OPEN_STATES,
    SLACK,
    Kill,
    Killer,
    PlaudRecord,
    Row,
    Submit,
    Tables,
    World,
    name_of,
    write_archive,
)

FILES = int(os.environ.get("PLAUD_SOAK_FILES", "60"))
SEED = int(os.environ.get("PLAUD_SOAK_SEED", "11"))
CHUNK = max(10, FILES // 10)
SINGLES = max(10, FILES // 6)
#: On a busy machine one takes ten seconds.
KILLS = max(10, FILES // 16)
#: Requests a minute; a recording takes a submit and a look.
LIMIT = max(100, min(600, FILES))
ONE, TWO, SINGLE = "shared_ledger_one", "shared_ledger_two", "shared_ledger_single"
#: Seconds that runs may take, beyond what the limit asks for.
PATIENCE = 300 + FILES
#: How often what a kill has left open is taken up again.
ROUNDS = 5

pytestmark = pytest.mark.timeout(ROUNDS * PATIENCE, method="thread")


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    work = tmp_path_factory.mktemp("shared_ledger")
    archive, results, servers = work / "calls", work / "results", work / "servers"
    servers.mkdir()
    write_archive(archive, FILES, random.Random(SEED))
    # Not below pytest's own folder: PostgreSQL runs as another user, whom any other pytest locks out.
    folders = [Path(tempfile.mkdtemp(prefix="plaud-pg-")) for _ in range(2)]
    # Airflow's own is another one: how Airflow gets over its restart is not the question.
    postgres, metadata = map(Postgres, folders)
    try:
        with Supervisor() as supervisor:
            options = {"--request-limit": LIMIT, "--processing-seconds": 5, "--processing-ratio": 0}
            arguments = [str(part) for pair in options.items() for part in pair]
            emulator = Emulator(supervisor, archive, servers, "--quiet", *arguments)
            files = FileServer(supervisor, archive, servers)
            plaud = emulator.connection()
            plaud["extra"]["requests_per_minute"] = LIMIT
            env = {
                **SETTINGS,
                "AIRFLOW__CORE__PARALLELISM": "6",
                "AIRFLOW_CONN_PLAUD_DEFAULT": json.dumps(plaud),
                "AIRFLOW_CONN_WAREHOUSE_DEFAULT": json.dumps(postgres.connection()),
                "AIRFLOW_VAR_PLAUD_RESULTS_PATH": str(results),
                "AIRFLOW_VAR_PLAUD_PUBLIC_URLS": json.dumps({str(archive): files.url}),
            }
            database = metadata.create_database("airflow").render_as_string(hide_password=False)
            with AirflowStack(
                work / "airflow", [Path(__file__).parent / "dags"], env=env, sql_alchemy_conn=database
            ) as stack:
                yield World(stack, PlaudRecord(emulator, LIMIT), Tables(postgres), archive, results)
            assert processes_using(work / "airflow") == []
    finally:
        postgres.stop()
        metadata.stop()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def test_each_is_paid_once_and_the_warehouse_equals_the_truth_whoever_dies(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(SEED)
    began = time.monotonic()
    world.plaud.answer_submits_late()
    runs = start(world, rng)
    killer = Killer(world, rng)
    killer.run(killer.series(KILLS), is_over=lambda: has_ended(world, runs))
    world.wait_for(runs, timeout=PATIENCE)
    take_up(world)

    accepted, ledger = world.plaud.accepted(), world.tables.ledger()
    lost = {row.name: row for row in ledger.values() if row.state == "unknown"}
    with capsys.disabled():
        print(f"\nseed {SEED}, {time.monotonic() - began:.0f} s: {summary(world, accepted, lost)}")
    assert len(world.kills) >= KILLS / 2
    check_paid_once(accepted, ledger)
    check_lost_by_kills(lost, accepted, world.kills)

    take_up(world, "unknown")
    check_paid_twice_only_if_lost(world, lost)
    check_all_succeed(world, runs)
    check_quota(world)
    check_warehouse(world, orphans={submit.transcription_id for submit in accepted if submit.name in lost})
    assert world.left_behind() == []


def start(world: World, rng: random.Random) -> list[tuple[str, str]]:
    """Start the three DAGs at once."""
    for dag_id in (ONE, TWO, SINGLE):
        world.stack.wait_for_dag(dag_id)
    recordings = sorted(str(path) for path in world.archive.glob("*.wav"))
    archive = {"archive": str(world.archive), "chunk_size": CHUNK}
    return [
        world.trigger(ONE, archive),
        world.trigger(TWO, archive),
        world.trigger(SINGLE, {"recordings": rng.sample(recordings, SINGLES)}),
    ]


def has_ended(world: World, runs: list[tuple[str, str]]) -> bool:
    return all(world.stack.api.run_state(*run) != "running" for run in runs)


def take_up(world: World, *resubmit: str) -> None:
    """
    Run an archive again until the ledger has nothing that is open.

    :param resubmit: States to submit again from.
    """
    for _ in range(ROUNDS):
        world.end_leases_of_the_dead()
        states = world.tables.states()
        if states.total() == FILES and not any(states[state] for state in (*OPEN_STATES, *resubmit)):
            return
        conf = {"archive": str(world.archive), "chunk_size": CHUNK, "resubmit": " ".join(resubmit)}
        world.wait_for([world.trigger(ONE, conf)], timeout=PATIENCE)
    pytest.fail(f"after {ROUNDS} more runs the ledger still has {world.tables.states()}")


def summary(world: World, accepted: list[Submit], lost: Mapping[str, Row]) -> str:
    seen = world.plaud.summary()
    [busiest] = seen["busiest_minute"].values()
    kills = Counter(kill.what for kill in world.kills)
    killed = ", ".join(f"{count} {what}" for what, count in sorted(kills.items()))
    at_plaud = sum(submit.name in lost for submit in accepted)
    return (
        f"{FILES} recordings, {SINGLES} of them also by single submits; killed: {killed}; {len(accepted)} "
        f"submits accepted, {len(lost)} of unknown outcome, of which Plaud has {at_plaud}; {seen['gets']} "
        f"looks, {seen['exchanges']} tokens, {busiest['api_requests']} requests in the busiest minute, where "
        f"{LIMIT} are allowed, {seen['refused_429']} refused"
    )


def check_paid_once(accepted: list[Submit], ledger: Mapping[str, Row]) -> None:
    """Whoever died: nothing is paid twice, and what is paid for is landed or said to be lost."""
    assert [name for name, count in Counter(s.name for s in accepted).items() if count > 1] == []
    assert len(ledger) == FILES
    assert {row.state for row in ledger.values()} <= {"landed", "unknown"}
    by_name = {submit.name: submit.transcription_id for submit in accepted}
    for row in ledger.values():
        if row.state == "landed":
            assert row.transcription_id == by_name[row.name]
        else:
            assert row.error, f"{row.name} is unknown for no reason"
    assert by_name.keys() <= ledger.keys()


def check_lost_by_kills(lost: Mapping[str, Row], accepted: list[Submit], kills: list[Kill]) -> None:
    """Only what a killed process was sending is of unknown outcome: one that was told to end has waited."""
    killed_at = {kill.owner: kill.at for kill in kills if kill.owner is not None and kill.what != ENDED}
    arrived = {submit.name: submit.at for submit in accepted}
    for name, row in lost.items():
        assert row.owner in killed_at, f"{row} is unknown, and nobody killed its owner"
        at = killed_at[row.owner]
        assert row.submitted_at is not None
        assert row.submitted_at <= at, f"{row} was sent after its owner was killed at {at}"
        if name in arrived:
            answered = arrived[name] + timedelta(seconds=ANSWER_SECONDS)
            assert at <= answered + SLACK, f"{row} was answered at {answered}, its owner killed at {at}"


def check_paid_twice_only_if_lost(world: World, lost: Mapping[str, Row]) -> None:
    accepted, ledger = world.plaud.accepted(), world.tables.ledger()
    twice = {name for name, count in Counter(submit.name for submit in accepted).items() if count > 1}
    assert twice <= lost.keys()
    assert max(Counter(submit.name for submit in accepted).values()) <= 2
    assert Counter(row.state for row in ledger.values()) == {"landed": FILES}


def check_all_succeed(world: World, runs: list[tuple[str, str]]) -> None:
    """Cleared once all is settled, whatever failed succeeds, and nothing is paid for."""
    before = len(world.plaud.accepted())
    for run, state in world.wait_for(runs, timeout=PATIENCE).items():
        if state == "failed":
            world.clear_failed(run)
    assert set(world.wait_for(runs, timeout=PATIENCE).values()) == {"success"}
    assert len(world.plaud.accepted()) == before


def check_quota(world: World) -> None:
    summary = world.plaud.summary()
    assert summary["refused_429"] == 0
    for busiest in summary["busiest_minute"].values():
        assert busiest["api_requests"] <= LIMIT
        assert busiest["token_requests"] <= 10


def check_warehouse(world: World, orphans: set[str]) -> None:
    """All that Plaud has is in the warehouse as Plaud tells it, but for what was lost."""
    truth = world.plaud.truth()
    expected = {known: told for known, told in truth.items() if known not in orphans}
    assert world.tables.transcripts() == expected
    assert {told.status for told in expected.values()} == {"completed"}
    assert {told.name for told in expected.values()} == {name_of(str(p)) for p in world.archive.glob("*.wav")}
    for told in expected.values():
        said = json.loads((world.archive / f"{told.name}.json").read_text())
        assert (told.text, len(told.segments)) == (said["text"], len(said["segments"]))
