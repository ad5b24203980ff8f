"""The DAGs of the README and the docs, run as people run them: by form, command, schedule and backfill."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.operators.land_recordings import LandRecordingsOperator
from plaud_provider.sensors.transcription import TranscriptionSensor
from tests.dags.conftest import states
from tests.dags.test_dags import Warehouse
from tests.dags.test_dags import quick_plaud as quick_plaud
from tests.docs.test_code_blocks import Block, of
from tests.unit.operators.test_storage_references import CALL, OTHER_CALL
from tests.unit.s3_server import ACCESS_KEY, REGION, SECRET_KEY, S3Server
from tests.unit.s3_server import s3 as s3
from tests.unit.s3_server import s3_server as s3_server

pytestmark = pytest.mark.timeout(180, method="thread")

#: When people start a run in each way: its logical date. A run for 1 May has it, a command gives none.
WAYS = {
    "schedule or backfill": datetime(2024, 5, 1, tzinfo=UTC),
    "form": datetime.now(tz=UTC),
    "command": None,
}
EXAMPLES = [block for block in of("python") if "with DAG(" in block.code]


@pytest.fixture
def s3_of_examples(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The buckets of the examples, as the connection ``aws_default`` and as the machine's own storage."""
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", s3.connection())
    for name, value in {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": s3.url,
    }.items():
        monkeypatch.setenv(name, value)
    there = [bucket["Name"] for bucket in s3.client.list_buckets()["Buckets"]]
    for name in {"plaud-work", "crm"}.difference(there):
        s3.client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.client.put_object(Bucket="crm", Key="calls.csv", Body=b"reference,agent\n")
    s3.put("2024/0001.mp3", CALL)
    return s3


@pytest.fixture
def databases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    for name in ("warehouse_default", "ledger", "crm"):
        connection = {"conn_type": "sqlite", "host": str(tmp_path / f"{name}.sqlite")}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
    with closing(sqlite3.connect(tmp_path / "crm.sqlite")) as crm:
        crm.execute("create table calls (recording_url text, transcribed_at text)")
        recordings = [
            ("s3://aws_default@calls/2024/0001.mp3", None),
            ("s3://aws_default@calls/x.mp3", "2024"),
        ]
        crm.executemany("insert into calls values (?, ?)", recordings)
        crm.commit()
    return Warehouse("sqlite", tmp_path / "warehouse_default.sqlite")


def test_all_examples_are_found() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("logical_date", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_an_example_lands_the_recordings_of_its_run(
    block: Block,
    logical_date: datetime | None,
    quick_plaud: EmulatorServer,
    databases: Warehouse,
    s3_of_examples: S3Server,
    airflow_in_process: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s3_of_examples.put(f"{logical_date or datetime.now(tz=UTC):%Y-%m-%d}/1.wav", OTHER_CALL)
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "example.py").write_text(block.code)
    local = "airflow.dag_processing.bundles.local.LocalDagBundle"
    bundle = {"name": "examples", "classpath": local, "kwargs": {"path": str(folder)}}
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps([bundle]))
    bag = DagBag(str(folder))
    assert bag.import_errors == {}
    [dag] = bag.dags.values()
    for task in dag.tasks:
        if isinstance(task, (TranscriptionSensor, LandRecordingsOperator)):
            task.poke_interval = 0.2

    run: Any = dag.test(logical_date=logical_date)

    assert run.state == "success", states(run)
    assert databases.query("select status from plaud_transcripts") == [("completed",)]
    assert quick_plaud.summary()["submits_accepted"] == 1
