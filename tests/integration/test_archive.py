"""An archive through a real Airflow: two DAGs and a backfill at once, and processes that die meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from demo.postgres import Postgres
from demo.processes import wait_until
from demo.stack import AirflowStack
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.emulator.settings import Settings
from tests.integration.archive import (
    BAD_NAMES,
    STRANGE_NAMES,
    serving,
    write_bad,
    write_recordings,
    write_strange,
)
from tests.integration.conftest import REPOSITORY, SETTINGS
from tests.integration.leftovers import processes_using
from tests.integration.test_recording import forms
from tests.unit.s3_server import BUCKET, S3Server
from tests.unit.s3_server import s3_server as s3_server

pytestmark = pytest.mark.timeout(1800, method="thread")

#: A thousand in the acceptance of the archive; CI takes fewer.
RECORDINGS = int(os.environ.get("PLAUD_TEST_RECORDINGS", "100"))
CHUNK = max(10, RECORDINGS // 5)
#: How much faster than ours the server's clock runs: its minutes are that much shorter.
SPEED = 20
ARCHIVE_DAG = "plaud_transcribe_archive"
OTHER_DAG = "archive_of_another_team"


@dataclass(frozen=True)
class World:
    stack: AirflowStack
    plaud: EmulatorServer
    warehouse: Postgres
    metadata: Postgres
    archive: Path
    s3: S3Server
    told: Path

    def ledger_states(self) -> Counter[str]:
        rows = self.warehouse.rows("select state, count(*) from plaud_submissions group by state")
        return Counter(dict(rows))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[World]:
    archive = tmp_path_factory.mktemp("archive")
    write_recordings(archive, RECORDINGS - len(STRANGE_NAMES))
    write_strange(archive)
    write_bad(archive / "bad")
    settings = Settings(request_limit=60, token_limit=10, speed=SPEED, processing_seconds=60.0)
    # Not below pytest's own folder: PostgreSQL runs as another user, whom any other pytest locks out.
    servers = Path(tempfile.mkdtemp(prefix="plaud-pg-"))
    warehouse, metadata = Postgres(servers / "warehouse"), Postgres(servers / "metadata")
    try:
        with EmulatorServer(settings) as plaud, serving(archive) as public_url:
            connection = json.loads(plaud.airflow_connection)
            connection["extra"]["requests_per_minute"] = 60 * SPEED
            home, told = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("told")
            env = {
                **SETTINGS,
                "AIRFLOW__CORE__PARALLELISM": "6",
                "AIRFLOW_CONN_PLAUD_DEFAULT": json.dumps(connection),
                "AIRFLOW_CONN_WAREHOUSE_DEFAULT": json.dumps(warehouse.connection()),
                "AIRFLOW_CONN_AWS_CALLS": s3_server.connection(),
                "AIRFLOW_VAR_PLAUD_RESULTS_PATH": str(tmp_path_factory.mktemp("results")),
                "AIRFLOW_VAR_PLAUD_TOLD": str(told),
                "AIRFLOW_VAR_PLAUD_PUBLIC_URLS": json.dumps({str(archive): public_url}),
            }
            folders = [REPOSITORY / "dags", Path(__file__).parent / "dags"]
            database = metadata.create_database("airflow").render_as_string(hide_password=False)
            with AirflowStack(home, folders, env=env, sql_alchemy_conn=database) as stack:
                stack.start_another("triggerer")
                yield World(stack, plaud, warehouse, metadata, archive, s3_server, told)
            assert processes_using(home) == []
    finally:
        warehouse.stop()
        metadata.stop()
        shutil.rmtree(servers, ignore_errors=True)


def backfill(stack: AirflowStack, dag_id: str, first: str, last: str, conf: dict[str, Any]) -> list[str]:
    """Start a backfill and return its runs once they are there."""
    body = {
        "dag_id": dag_id,
        "from_date": f"{first}T00:00:00Z",
        "to_date": f"{last}T00:00:00Z",
        "max_active_runs": 2,
        "dag_run_conf": conf,
    }
    stack.api.request("POST", "/backfills", json=body)

    def runs() -> list[str]:
        found = stack.api.get(f"/dags/{dag_id}/dagRuns", run_type="backfill")["dag_runs"]
        return [run["dag_run_id"] for run in found if run["run_type"] == "backfill"]

    wait_until(lambda: len(runs()) == 2, timeout=60, what="the backfill's runs")
    return runs()


def test_two_dags_and_a_backfill_pay_once_while_processes_die(world: World) -> None:
    stack, plaud, warehouse = world.stack, world.plaud, world.warehouse
    # A killed worker may leave some of unknown outcome behind, all in one chunk.
    conf = {"archive": str(world.archive), "chunk_size": CHUNK, "max_failed": None}
    runs = [
        (ARCHIVE_DAG, stack.trigger(ARCHIVE_DAG, conf)),
        (OTHER_DAG, stack.trigger(OTHER_DAG, {"archive": str(world.archive), "chunk_size": CHUNK})),
    ]
    runs += [(ARCHIVE_DAG, run) for run in backfill(stack, ARCHIVE_DAG, "2024-05-01", "2024-05-02", conf)]

    killed = kill_a_submitting_worker(world)
    wait_until(
        lambda: len(plaud.transcriptions()) >= RECORDINGS // 3, timeout=300, what="a third is submitted"
    )
    stack.restart("triggerer", signal.SIGKILL)
    wait_until(lambda: len(plaud.transcriptions()) >= RECORDINGS // 2, timeout=300, what="half is submitted")
    warehouse.restart()

    outcomes = {(dag_id, run_id): stack.wait_for_run(dag_id, run_id, timeout=1500) for dag_id, run_id in runs}
    states = world.ledger_states()
    accepted = Counter(job["audio_url"] for job in plaud.transcriptions())
    assert [url for url, count in accepted.items() if count > 1] == [], "paid twice"
    assert states["processing"] == states["claimed"] == states["submitting"] == 0, "stuck"
    assert states["failed"] == len(BAD_NAMES)
    assert states["unknown"] <= killed
    assert states["landed"] == RECORDINGS - states["unknown"]
    assert set(outcomes.values()) == {"success"}, outcomes
    assert plaud.summary()["refused_429"] <= 5
    landed = dict(warehouse.rows("select transcription_id, status from plaud_transcripts"))
    truth = {job["transcription_id"]: job["status"] for job in plaud.transcriptions()}
    assert landed.items() <= truth.items()
    assert len(landed) == states["landed"]


def kill_a_submitting_worker(world: World) -> int:
    """Kill a task that submits, with its worker, in the middle; return how many submits it may have lost."""

    def submitting() -> list[Any]:
        return [
            task
            for dag_id, run_id in running(world.stack)
            for task in world.stack.api.task_instances(dag_id, run_id)
            if task.task_id.endswith(".submit") and task.state == "running" and task.pid
        ]

    wait_until(
        lambda: bool(submitting()) and len(world.plaud.transcriptions()) > 5, timeout=180, what="submits"
    )
    for process in world.stack.task_processes(submitting()[0]):
        process.send_signal(signal.SIGKILL)
    return 8


def running(stack: AirflowStack) -> list[tuple[str, str]]:
    return [
        (dag_id, run["dag_run_id"])
        for dag_id in (ARCHIVE_DAG, OTHER_DAG)
        for run in stack.api.get(f"/dags/{dag_id}/dagRuns", state="running")["dag_runs"]
    ]


def test_a_second_run_costs_nothing(world: World) -> None:
    before = len(world.plaud.ledger())
    run_id = world.stack.trigger(
        ARCHIVE_DAG, {"archive": str(world.archive), "chunk_size": CHUNK, "max_failed": None}
    )

    assert world.stack.wait_for_run(ARCHIVE_DAG, run_id, timeout=300) == "success"
    assert len(world.plaud.ledger()) == before


def test_each_bad_recording_is_a_row_with_its_reason(world: World) -> None:
    rows = world.warehouse.rows(
        "select audio_uri, error, transcription_id from plaud_submissions where state = 'failed'"
    )

    assert {Path(uri).name for uri, _, _ in rows} == set(BAD_NAMES)
    assert all(error for _, error, _ in rows)
    assert {transcription_id for _, _, transcription_id in rows} == {None}


def test_an_archive_in_s3_lands_and_leaves_no_signed_url_and_no_transcript_behind(
    world: World, tmp_path: Path
) -> None:
    write_recordings(tmp_path, 6)
    write_strange(tmp_path)
    for file in tmp_path.iterdir():
        world.s3.client.put_object(Bucket=BUCKET, Key=f"2024/{file.name}", Body=file.read_bytes())
    conf = {
        "archive": f"s3://aws_calls@{BUCKET}/2024/",
        "results_path": f"s3://aws_calls@{BUCKET}/results",
        "chunk_size": 6,
    }
    run_id = world.stack.trigger(OTHER_DAG, conf)

    assert world.stack.wait_for_run(OTHER_DAG, run_id, timeout=300) == "success"
    told = world.told / run_id
    wait_until(told.exists, timeout=60, what="the notifier")
    assert f"{6 + len(STRANGE_NAMES)} landed" in told.read_text()
    texts = world.warehouse.rows(
        f"select t.text, t.audio_uri from plaud_transcripts t where t.audio_uri like 's3://aws_calls@{BUCKET}/%'"
    )
    assert len(texts) == 6 + len(STRANGE_NAMES)
    signatures = world.s3.signatures
    assert len(signatures) == len(texts)
    canaries = [form for secret in (*signatures, texts[0][0][:60]) for form in forms(secret)]
    sinks = {
        "metadata": dump(world.metadata, "airflow"),
        **{
            str(file): file.read_bytes()
            for file in world.stack.home.rglob("*")
            if file.is_file() and file.stat().st_size
        },
    }
    assert [name for name, content in sinks.items() if any(canary in content for canary in canaries)] == []
    warehouse = dump(world.warehouse, "postgres")
    assert [s for s in signatures if any(form in warehouse for form in forms(s))] == []
    kept = world.s3.client.list_objects_v2(Bucket=BUCKET, Prefix="results/").get("Contents", [])
    assert [item["Key"] for item in kept if item["Key"].endswith(".json")] == [], "landed answers are removed"


def dump(server: Postgres, database: str) -> bytes:
    """Return all that a database holds, as text."""
    engine = sa.create_engine(server.url.set(database=database), poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        tables = sa.inspect(connection).get_table_names()
        return b"".join(
            repr(connection.execute(sa.text(f'select * from "{table}"')).fetchall()).encode()
            for table in tables
        )
