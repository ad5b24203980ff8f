"""Runs of the DAGs for archives, in one process."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.execution_time.context import MacrosAccessor, VariableAccessor
from airflow.utils.types import DagRunType

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.emulator.settings import Settings
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.operators.plan_recordings import PlanRecordingsOperator
from tests.dags.conftest import RunDag, load_dag, states
from tests.dags.test_dags import ARCHIVES, PLAN, Warehouse, metadata
from tests.dags.test_dags import quick_plaud as quick_plaud
from tests.dags.test_dags import warehouse as warehouse
from tests.integration.archive import BAD_NAMES, serving, write_bad, write_recording, write_recordings
from tests.unit.s3_server import BUCKET, S3Server
from tests.unit.s3_server import s3_server as s3_server

pytestmark = pytest.mark.timeout(180, method="thread")

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

GOOD = 5


@pytest.fixture(autouse=True)
def no_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow 3.2 reads its own DAGs too, whatever folder is named."""
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")


@pytest.fixture
def sqlite_warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    connection = {"conn_type": "sqlite", "host": str(tmp_path / "warehouse.sqlite")}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps(connection))
    return Warehouse("sqlite", tmp_path / "warehouse.sqlite")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An archive with a folder for a day, good and bad recordings in it."""
    root = tmp_path / "calls"
    write_recordings(root / "2024-05-01", GOOD)
    write_bad(root / "2024-05-01")
    monkeypatch.setenv("AIRFLOW_VAR_PLAUD_RESULTS_PATH", str(tmp_path / "results"))
    with serving(root) as public_url:
        monkeypatch.setenv("AIRFLOW_VAR_PLAUD_PUBLIC_URLS", json.dumps({str(root): public_url}))
        yield root


@pytest.mark.parametrize(
    ("dag_id", "conf"),
    [
        ("plaud_transcribe_archive", {"archive": "{root}"}),
        ("plaud_transcribe_daily", {"root": "{root}", "day": "2024-05-01"}),
    ],
)
def test_an_archive_lands_and_what_is_bad_is_a_row_with_its_reason(
    run_dag: RunDag,
    quick_plaud: EmulatorServer,
    warehouse: Warehouse,
    archive: Path,
    dag_id: str,
    conf: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    conf = {name: value.format(root=archive) for name, value in conf.items()} | {"max_failed": 4}
    run = run_dag(dag_id, conf)
    log = "".join(capfd.readouterr())

    assert run.state == "success", states(run)
    assert quick_plaud.summary()["submits_accepted"] == GOOD
    ledger = warehouse.query("select audio_uri, state, error, transcription_id from plaud_submissions")
    assert Counter(state for _, state, _, _ in ledger) == {"landed": GOOD, "failed": len(BAD_NAMES)}
    assert {Path(uri).name for uri, state, error, _ in ledger if state == "failed" and error} == set(
        BAD_NAMES
    )
    landed = warehouse.query("select transcription_id, audio_uri, submitted_at from plaud_transcripts")
    assert {row[0] for row in landed} == {row[3] for row in ledger if row[1] == "landed"}
    assert all(uri and submitted_at for _, uri, submitted_at in landed)
    [(text,)] = warehouse.query("select text from plaud_transcripts order by audio_uri limit 1")
    for secret in (text[:40], "secret-key-canary"):
        assert [table for table, rows in metadata().items() if secret in rows] == []
        assert secret not in log


def task_states(run: DagRun) -> dict[str, str]:
    """Return the states of a run's tasks by their names; those of a chunk are once there."""
    return {task_id.rpartition(".")[2]: state for (task_id, _), state in states(run).items()}


@pytest.mark.parametrize("dag_id", [PLAN, "plaud_transcribe_archive"])
def test_a_plan_says_what_would_be_paid_for_and_pays_nothing(
    run_dag: RunDag,
    plaud: EmulatorServer,
    sqlite_warehouse: Warehouse,
    archive: Path,
    dag_id: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # The DAG that pays has no such field any more; who passes it all the same does not mean to pay.
    run = run_dag(dag_id, {"archive": str(archive), "dry_run": dag_id != PLAN})

    assert run.state == "success", states(run)
    said = capfd.readouterr().out
    assert f"{GOOD + len(BAD_NAMES)} recordings: 0 landed before, 0 waiting, {GOOD} new" in said
    assert plaud.ledger() == []
    assert sqlite_warehouse.query("select * from plaud_submissions") == []


def test_a_plan_knows_what_has_landed(
    run_dag: RunDag,
    quick_plaud: EmulatorServer,
    sqlite_warehouse: Warehouse,
    archive: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run_dag("plaud_transcribe_archive", {"archive": str(archive), "max_failed": None})
    capfd.readouterr()
    run = run_dag(PLAN, {"archive": str(archive)})

    assert run.state == "success", states(run)
    assert f"{GOOD} landed before, 0 waiting, 0 new" in capfd.readouterr().out
    assert quick_plaud.summary()["submits_accepted"] == GOOD


def test_no_task_of_the_plan_can_be_told_to_submit() -> None:
    dag = load_dag(PLAN)
    plan = dag.get_task("plan")

    assert [task.task_id for task in dag.tasks if "submit" in task.task_id] == []
    assert "plan_only" not in plan.template_fields
    with pytest.raises(TypeError, match="plan_only"):
        PlanRecordingsOperator(task_id="plan", manifest="m", ledger_conn_id="l", plan_only=False)
    with DAG("d", schedule=None, default_args={"plan_only": False}):
        told = PlanRecordingsOperator(task_id="plan", manifest="m", ledger_conn_id="l")
    assert told.plan_only is True


@pytest.mark.parametrize(
    ("dag_id", "variable"),
    [
        ("plaud_transcribe_archive", "plaud_pay_for_archive"),
        ("plaud_transcribe_daily", "plaud_pay_for_daily"),
    ],
)
def test_a_run_that_names_no_folder_pays_nothing_until_somebody_has_agreed(
    run_dag: RunDag,
    plaud: EmulatorServer,
    sqlite_warehouse: Warehouse,
    archive: Path,
    dag_id: str,
    variable: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = run_dag(dag_id)

    assert run.state == "failed"
    assert f"the Airflow variable '{variable}' is not set" in capfd.readouterr().out
    assert plaud.ledger() == []


def test_a_day_without_a_folder_is_a_run_without_recordings(
    run_dag: RunDag, plaud: EmulatorServer, sqlite_warehouse: Warehouse, archive: Path
) -> None:
    run = run_dag("plaud_transcribe_daily", {"root": str(archive), "day": "2024-05-02"})

    assert run.state == "success", states(run)
    assert task_states(run)["list"] == task_states(run)["report"] == "success"
    assert plaud.ledger() == []


@pytest.mark.parametrize("dag_id", sorted(ARCHIVES))
def test_a_folder_that_does_not_exist_fails_the_run(
    run_dag: RunDag,
    plaud: EmulatorServer,
    sqlite_warehouse: Warehouse,
    dag_id: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    name = "root" if dag_id == "plaud_transcribe_daily" else "archive"
    run = run_dag(dag_id, {name: "/no/such/folder"})

    assert run.state == "failed"
    assert task_states(run)["report"] == "failed"
    said = capfd.readouterr().out
    assert "path: '/no/such/folder' does not exist" in said
    assert "The recordings could not be listed" in said


def test_a_run_with_too_many_bad_recordings_fails_and_the_report_says_so(
    run_dag: RunDag,
    quick_plaud: EmulatorServer,
    sqlite_warehouse: Warehouse,
    archive: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = run_dag("plaud_transcribe_archive", {"archive": str(archive), "max_failed": 0})
    said = capfd.readouterr().out

    assert run.state == "failed"
    assert task_states(run) == {
        "list": "success",
        "submit": "success",
        "land": "success",
        "report": "failed",
    }
    assert f"{len(BAD_NAMES)} recordings failed, max_failed=0 allows 0" in said
    assert sqlite_warehouse.query("select count(*) from plaud_transcripts") == [(GOOD,)], (
        "the good ones landed"
    )


def test_a_folder_that_failed_as_a_whole_is_red_says_why_and_is_paid_for_again_only_if_asked(
    run_dag: RunDag,
    sqlite_warehouse: Warehouse,
    tmp_path: Path,
    archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    conf = {"archive": str(archive / "2024-05-01"), "pattern": "call-*.wav"}
    settings = Settings(request_limit=0, token_limit=0, processing_seconds=0.2)
    right_urls = os.environ["AIRFLOW_VAR_PLAUD_PUBLIC_URLS"]
    with EmulatorServer(settings) as plaud, serving(tmp_path / "nothing") as elsewhere:
        monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", plaud.airflow_connection)
        # Plaud accepts the links, and finds nothing behind them.
        monkeypatch.setenv("AIRFLOW_VAR_PLAUD_PUBLIC_URLS", json.dumps({str(archive): elsewhere}))
        for _ in range(2):
            run = run_dag("plaud_transcribe_archive", conf)
            said = capfd.readouterr().out
            assert (run.state, task_states(run)["report"]) == ("failed", "failed")
            assert f"{GOOD} recordings failed, max_failed=" in said
            [complaint] = {line for line in said.splitlines() if "PlaudArchiveError:" in line}
            assert "HTTP 404" in complaint
            assert "resubmit=['failed']" in complaint
            assert plaud.summary()["submits_accepted"] == GOOD
        rows = sqlite_warehouse.query("select status, error from plaud_transcripts")
        assert [(status, "404" in error) for status, error in rows] == [("failed", True)] * GOOD

        monkeypatch.setenv("AIRFLOW_VAR_PLAUD_PUBLIC_URLS", right_urls)
        assert run_dag("plaud_transcribe_archive", {**conf, "resubmit": ["failed"]}).state == "success"
        assert plaud.summary()["submits_accepted"] == 2 * GOOD
    assert sqlite_warehouse.query("select count(*) from plaud_submissions where state = 'landed'") == [
        (GOOD,)
    ]


def test_objects_that_all_have_a_new_version_of_the_same_size_are_not_paid_for_again_unasked(
    run_dag: RunDag,
    quick_plaud: EmulatorServer,
    sqlite_warehouse: Warehouse,
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    count = 25
    monkeypatch.setenv("AIRFLOW_VAR_PLAUD_RESULTS_PATH", str(tmp_path / "results"))
    monkeypatch.setenv("AIRFLOW_CONN_AWS_CALLS", s3_server.connection())

    def put(last: bytes) -> None:
        for n in range(count):
            write_recording(tmp_path / "one.wav", frames=900 + n)
            content = (tmp_path / "one.wav").read_bytes()
            s3_server.client.put_object(Bucket=BUCKET, Key=f"versions/{n:02}.wav", Body=content[:-1] + last)

    conf = {"archive": f"s3://aws_calls@{BUCKET}/versions/"}
    put(b"1")
    assert run_dag("plaud_transcribe_archive", conf).state == "success"
    assert quick_plaud.summary()["submits_accepted"] == count
    put(b"2")
    capfd.readouterr()
    plan, run = run_dag(PLAN, conf), run_dag("plaud_transcribe_archive", conf)
    said = capfd.readouterr().out

    assert (plan.state, run.state, task_states(run)["report"]) == ("success", "failed", "failed")
    assert f"{count} changed and left out" in said
    assert f"{count} recordings were paid for before" in said
    assert "To pay for them again set max_changed to None" in said
    assert quick_plaud.summary()["submits_accepted"] == count
    assert sqlite_warehouse.query("select count(*) from plaud_transcripts") == [(count,)]

    assert run_dag("plaud_transcribe_archive", {**conf, "max_changed": None}).state == "success"
    assert quick_plaud.summary()["submits_accepted"] == 2 * count


# Templates of the DAGs, as each kind of run renders them

DAY = datetime(2024, 5, 1, tzinfo=UTC)
NEXT_DAY = datetime(2024, 5, 2, tzinfo=UTC)


def rendered(dag_id: str, name: str, *, run_type: str, logical_date: datetime | None, **params: Any) -> Any:
    """Return what an argument of a DAG's listing is in a run."""
    dag = load_dag(dag_id)
    listing = dag.get_task("transcribe.list")
    run = SimpleNamespace(
        run_type=DagRunType(run_type),
        logical_date=logical_date,
        run_after=NEXT_DAY,
        data_interval_start=logical_date,
        data_interval_end=logical_date and logical_date + timedelta(days=1),
    )
    defaults = {key: dag.params.get_param(key).value for key in dag.params}
    context: dict[str, Any] = {
        "dag": dag,
        "task": listing,
        "dag_run": run,
        "params": defaults | params,
        "macros": MacrosAccessor(),
        "var": {"value": VariableAccessor(deserialize_json=False)},
    }
    return listing.render_template(getattr(listing, name), context, dag.get_template_env())


@pytest.mark.parametrize(
    ("run_type", "logical_date", "in_interval", "limits"),
    [
        ("scheduled", DAY, False, ("", "")),
        ("scheduled", DAY, True, (DAY, NEXT_DAY)),
        ("backfill", DAY, True, (DAY, NEXT_DAY)),
        # It has an interval, of which nobody who starts it by hand thinks.
        ("manual", DAY, True, ("", "")),
        ("manual", None, True, ("", "")),
        ("asset_triggered", None, True, ("", "")),
    ],
)
def test_the_interval_of_a_run_limits_what_is_listed_where_it_is_asked_for(
    run_type: str, logical_date: datetime | None, in_interval: bool, limits: tuple[Any, Any]
) -> None:
    told: dict[str, Any] = {"run_type": run_type, "logical_date": logical_date, "in_interval": in_interval}
    names = ("modified_after", "modified_before")

    assert tuple(rendered("plaud_transcribe_archive", name, **told) for name in names) == limits


@pytest.mark.parametrize(
    ("run_type", "logical_date", "params", "pattern"),
    [
        ("scheduled", DAY, {}, "2024-05-01/**"),
        ("backfill", DAY, {"folder": "%Y/%m/%d"}, "2024/05/01/**"),
        ("manual", None, {}, "2024-05-02/**"),
        ("manual", None, {"day": "2023-12-31", "folder": "/calls/%Y%m%d/"}, "calls/20231231/**"),
    ],
)
def test_a_run_takes_the_folder_of_its_day(
    run_type: str, logical_date: datetime | None, params: dict[str, Any], pattern: str
) -> None:
    told: dict[str, Any] = {"run_type": run_type, "logical_date": logical_date, **params}

    assert rendered("plaud_transcribe_daily", "pattern", **told) == pattern


@pytest.mark.parametrize(
    ("dag_id", "param", "variable"),
    [
        ("plaud_transcribe_archive", "archive", "PLAUD_PAY_FOR_ARCHIVE"),
        ("plaud_transcribe_daily", "root", "PLAUD_PAY_FOR_DAILY"),
    ],
)
def test_the_form_comes_before_the_variable(
    dag_id: str, param: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {"run_type": "scheduled", "logical_date": DAY}
    with pytest.raises(PlaudInputError, match=variable.lower()):
        rendered(dag_id, "path", **told)

    monkeypatch.setenv(f"AIRFLOW_VAR_{variable}", "s3://aws_default@calls/")
    assert rendered(dag_id, "path", **told) == "s3://aws_default@calls/"
    assert rendered(dag_id, "path", **told, **{param: "/data/calls"}) == "/data/calls"
