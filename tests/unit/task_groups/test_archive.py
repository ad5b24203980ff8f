"""The factory: which tasks it makes, what reaches them, and how little they leave in Airflow's database."""

from __future__ import annotations

import inspect
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, Asset, Param, TaskGroup
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.definitions.taskgroup import MappedTaskGroup
from airflow.sdk.definitions.xcom_arg import XComArg
from airflow.serialization.serialized_objects import DagSerialization

from plaud_provider.operators.finish_recordings import FinishRecordingsOperator, ReportRecordingsOperator
from plaud_provider.operators.land_recordings import LandRecordingsOperator
from plaud_provider.operators.list_recordings import ListRecordingsOperator
from plaud_provider.operators.submit_recordings import SubmitRecordingsOperator
from plaud_provider.recordings.listing import Found
from plaud_provider.task_groups.archive import transcribe_archive
from tests.unit.operators.archives import SUBMIT, Archive
from tests.unit.tasks import task_context
from tests.unit.warehouse.warehouses import CONN_ID

MAY = datetime(2024, 5, 1, tzinfo=UTC)
LIST, LAND, FINISH, REPORT = (
    "transcribe.list",
    "transcribe.chunk.land",
    "transcribe.chunk.finish",
    "transcribe.report",
)
CHUNK = (SUBMIT, LAND, FINISH)
#: For each argument of the factory: a value, the tasks that get it, and what it is called there.
ARGUMENTS: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "path": ("s3://calls/2024/", (LIST,), "path"),
    "results_path": ("s3://calls/results", (LIST, LAND, FINISH), "results_path"),
    "sql_conn_id": ("snowflake", (LIST, LAND, FINISH), "sql_conn_id"),
    "ledger_conn_id": ("books", CHUNK, "ledger_conn_id"),
    "plaud_conn_id": ("plaud_eu", CHUNK, "plaud_conn_id"),
    "region": ("eu", CHUNK, "region"),
    "pattern": ("**/*.wav", (LIST,), "pattern"),
    "suffixes": ([".wav"], (LIST,), "suffixes"),
    "modified_after": (MAY, (LIST,), "modified_after"),
    "modified_before": ("{{ data_interval_end }}", (LIST,), "modified_before"),
    "language": ("en", (SUBMIT,), "language"),
    "speaker_diarization": (True, (SUBMIT,), "speaker_diarization"),
    "webhook_url": ("https://me.example/hook", (SUBMIT,), "webhook_url"),
    "schema": ("speech", (LAND, FINISH), "schema"),
    "transcripts_table": ("calls", (LAND, FINISH), "transcripts_table"),
    "segments_table": ("turns", (LAND, FINISH), "segments_table"),
    "chunk_size": (50, (LIST,), "chunk_size"),
    "chunks_at_once": (3, (SUBMIT,), "max_active_tis_per_dag"),
    "max_failed": (7, (FINISH,), "max_failed"),
    "max_audio_hours": (99.5, (SUBMIT,), "max_audio_hours"),
    "max_recording_hours": (3.0, (SUBMIT,), "max_recording_hours"),
    "resubmit": (["failed"], (SUBMIT,), "resubmit"),
    "dry_run": (True, CHUNK, "plan_only"),
    "timeout": (3600.0, (LAND,), "timeout"),
    "poke_interval": (7.0, (LAND,), "poke_interval"),
    "partial_count": (11, (LAND,), "partial_count"),
    "partial_seconds": (12.0, (LAND,), "partial_seconds"),
    "url_validity": (timedelta(hours=2), (SUBMIT,), "url_validity"),
    "public_urls": ({"/calls": "https://files.example"}, (SUBMIT,), "public_urls"),
    "keep_raw": (True, (LAND, FINISH), "keep_raw"),
    "outlets": ([Asset("calls")], (REPORT,), "outlets"),
}


def made(**arguments: Any) -> DAG:
    """Return a DAG with the factory's tasks."""
    with DAG("d", schedule=None) as dag:
        transcribe_archive(**{"path": "/calls", "results_path": "/results", **arguments})
    return dag


def test_it_makes_a_listing_three_tasks_a_chunk_and_a_report() -> None:
    dag = made()

    assert {task_id: type(task) for task_id, task in dag.task_dict.items()} == {
        LIST: ListRecordingsOperator,
        SUBMIT: SubmitRecordingsOperator,
        LAND: LandRecordingsOperator,
        FINISH: FinishRecordingsOperator,
        REPORT: ReportRecordingsOperator,
    }
    assert not any(isinstance(task, MappedOperator) for task in dag.tasks), "mapped as a group, not each"
    chunk = dag.task_group.get_task_group_dict()["transcribe.chunk"]
    assert isinstance(chunk, MappedTaskGroup)
    assert set(chunk.children) == set(CHUNK)


def test_tasks_come_one_after_the_other_whatever_happens() -> None:
    dag = made()

    assert dag.get_task(SUBMIT).upstream_task_ids == {LIST}
    assert dag.get_task(LAND).upstream_task_ids >= {SUBMIT}
    assert dag.get_task(FINISH).upstream_task_ids >= {LAND}
    assert dag.get_task(REPORT).upstream_task_ids == {LIST, FINISH}
    rules = {task.task_id: task.trigger_rule for task in dag.tasks}
    assert rules == {
        LIST: "all_success",
        SUBMIT: "all_success",
        LAND: "all_done",
        FINISH: "all_done",
        REPORT: "all_done",
    }


def test_every_argument_is_known_here() -> None:
    parameters = set(inspect.signature(transcribe_archive).parameters)

    assert parameters == set(ARGUMENTS) | {"group_id", "task_arguments"}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_reaches_its_tasks(name: str) -> None:
    value, task_ids, attribute = ARGUMENTS[name]
    dag = made(**{name: value})

    for task_id in task_ids:
        assert getattr(dag.get_task(task_id), attribute) == value, task_id
    # No other task has such an argument.
    others = [task for task in dag.tasks if task.task_id not in task_ids]
    accept = [task.task_id for task in others if attribute in inspect.signature(type(task)).parameters]
    assert [task_id for task_id in accept if attribute not in ("outlets", "max_active_tis_per_dag")] == []


def test_defaults_are_those_of_the_tasks() -> None:
    factory = inspect.signature(transcribe_archive).parameters
    classes = {
        LIST: ListRecordingsOperator,
        SUBMIT: SubmitRecordingsOperator,
        LAND: LandRecordingsOperator,
        FINISH: FinishRecordingsOperator,
    }
    for name, (_, task_ids, attribute) in ARGUMENTS.items():
        for task_id in set(task_ids) & set(classes):
            if (name, task_id) == ("sql_conn_id", LIST):
                # A listing of its own is for no warehouse in particular.
                continue
            own = inspect.signature(classes[task_id]).parameters.get(attribute)
            if own is not None and own.default is not inspect.Parameter.empty:
                assert factory[name].default == own.default, (name, task_id)


def test_the_ledger_is_in_the_warehouse_unless_it_is_named() -> None:
    assert made(sql_conn_id="lake").get_task(SUBMIT).ledger_conn_id == "lake"
    assert made(sql_conn_id="lake", ledger_conn_id="books").get_task(FINISH).ledger_conn_id == "books"


def test_arguments_for_tasks_reach_all_of_them() -> None:
    dag = made(retries=7, queue="plaud", retry_delay=timedelta(seconds=5), pool="plaud")

    for task in dag.tasks:
        assert (task.retries, task.queue, task.pool) == (7, "plaud", "plaud")
        assert task.retry_delay == timedelta(seconds=5)


@pytest.mark.parametrize(("outer", "inner"), [(None, "calls"), ("outer", "transcribe"), ("outer", "calls")])
def test_the_report_finds_its_tasks_in_any_group(outer: str | None, inner: str) -> None:
    with DAG("d", schedule=None) as dag:
        if outer is None:
            group = transcribe_archive("/calls", results_path="/results", group_id=inner)
        else:
            with TaskGroup(outer):
                group = transcribe_archive("/calls", results_path="/results", group_id=inner)
    report = dag.get_task(f"{group.group_id}.report")
    assert isinstance(report, ReportRecordingsOperator)

    named = (report.list_task_id, report.submit_task_id, report.finish_task_id)
    assert [type(dag.get_task(task_id)) for task_id in named] == [
        ListRecordingsOperator,
        SubmitRecordingsOperator,
        FinishRecordingsOperator,
    ]


def test_two_archives_may_be_in_one_dag() -> None:
    with DAG("d", schedule=None) as dag:
        first = transcribe_archive("/calls", results_path="/results", group_id="calls")
        second = transcribe_archive("/memos", results_path="/results", group_id="memos")
        first >> second

    assert len(dag.tasks) == 10
    assert dag.get_task("memos.list").upstream_task_ids == {"calls.report"}


def test_it_serializes() -> None:
    dag = made(outlets=[Asset("calls")], modified_after=MAY, max_audio_hours=3)
    read = DagSerialization.deserialize_dag(json.loads(json.dumps(DagSerialization.serialize_dag(dag))))

    assert sorted(read.task_dict) == sorted(dag.task_dict)
    assert read.get_task(SUBMIT).max_active_tis_per_dag == 2
    assert {str(read.get_task(task_id).trigger_rule) for task_id in (LAND, FINISH, REPORT)} == {"all_done"}


# Templates


FORM: dict[str, Any] = {
    "archive": None,
    "pattern": "*.wav",
    "resubmit": ["failed", "expired"],
    "diarize": False,
    "dry_run": True,
    "hours": 1.5,
    "unset": None,
    "failed": 0.5,
    "chunk_size": 3,
    "after": "2020-01-01",
}


def rendered(archive: Archive, *, native: bool) -> DAG:
    """Return a DAG of the factory whose arguments have come from a form."""
    with DAG("d", schedule=None, render_template_as_native_obj=native, params={"any": Param(1)}) as dag:
        transcribe_archive(
            "{{ params.archive }}",
            results_path=str(archive.results),
            ledger_conn_id=CONN_ID,
            public_urls=json.dumps({str(archive.folder): "https://files.example"}),
            pattern="{{ params.pattern }}",
            modified_after="{{ params.after }}",
            modified_before="{{ params.unset }}",
            language="{{ params.unset }}",
            region="{{ params.unset }}",
            schema="{{ params.unset }}",
            speaker_diarization="{{ params.diarize }}",
            resubmit="{{ params.resubmit }}",
            dry_run="{{ params.dry_run }}",
            max_audio_hours="{{ params.hours }}",
            max_failed="{{ params.failed }}",
            chunk_size="{{ params.chunk_size }}",
        )
    for task in dag.tasks:
        if hasattr(task, "manifest"):
            # As a chunk's task has it once its group is expanded.
            task.manifest = str(archive.results / "manifests" / "run" / "chunk-00001.jsonl")
        context = {"params": {**FORM, "archive": str(archive.folder)}, "dag": dag, "task": task}
        for name in task.template_fields:
            if not isinstance(getattr(task, name), XComArg):
                value = task.render_template(getattr(task, name), context, dag.get_template_env())
                setattr(task, name, value)
    return dag


@pytest.mark.parametrize("native", [False, True], ids=["text", "native"])
def test_what_templates_render_means_the_same_as_text_and_as_values(archive: Archive, native: bool) -> None:
    archive.add("a.wav", "b.wav", "c.mp3", seconds=360)
    dag = rendered(archive, native=native)
    if native:
        assert dag.get_task(SUBMIT).resubmit == ["failed", "expired"]
    else:
        assert dag.get_task(SUBMIT).resubmit == "['failed', 'expired']"

    [chunk] = dag.get_task(LIST).execute(task_context(None, task_id=LIST))
    tasks = {task_id: dag.get_task(task_id) for task_id in CHUNK}
    for task in tasks.values():
        task.manifest = chunk
    plan = tasks[SUBMIT].execute(archive.context(SUBMIT))

    assert (plan["total"], plan["new"], plan["audio_hours"]) == (2, 2, 0.2)
    assert tasks[LAND].execute(archive.context("land"))["pending"] == 0
    assert tasks[FINISH].execute(archive.context("finish")) == {}
    assert archive.plaud.ledger() == []
    tasks[SUBMIT].plan_only = False if native else "False"
    tasks[SUBMIT].execute(archive.context(SUBMIT))
    assert archive.paid() == {"a.wav": 1, "b.wav": 1}
    assert archive.plaud.ledger(kind="submit")[0]["body"].keys() == {"audioUrl"}


# What is left in Airflow's database

CHUNKS = 250
ID = "txn_0123456789abcdef01234567"


def xcom_bytes(value: Any) -> int:
    return len(json.dumps(BaseXCom.serialize_value(value)))


def test_xcom_of_50_000_recordings_stays_under_1_mb(archive: Archive) -> None:
    archive.add("a.wav", "b.wav")
    archive.list()
    submit, finish = archive.context(SUBMIT), archive.context("finish")
    returned = [archive.submit_task().execute(submit)]
    archive.plaud.advance(601)
    returned.append(archive.land())
    finished = FinishRecordingsOperator(task_id="finish", **archive._landing("run")).execute(finish)
    returned.append(finished)
    pushed = [json.loads(text) for context in (submit, finish) for text in context["ti"].pushed.values()]
    # Each count with as many digits as it may have.
    full = [
        {name: 1234.5678 if isinstance(count, float) else 200 for name, count in value.items()}
        for value in (*returned, *pushed)
    ]
    a_chunk = sum(xcom_bytes(value) for value in full)
    long = "s3://aws_default@company-recordings-eu-central-1/transcription/results/manifests"
    run = "backfill__2024-05-01T00_00_00_00_00-0123abcd"
    paths = [f"{long}/plaud_transcribe_archive/{run}/{LIST}/chunk-{n:05}.jsonl" for n in range(CHUNKS)]

    total = CHUNKS * a_chunk + xcom_bytes(paths) + 1000
    print(f"XCom of {CHUNKS} chunks: {total / 1e3:.0f} kB, of which paths {xcom_bytes(paths) / 1e3:.0f} kB")
    assert total < 1_000_000


def test_a_listing_of_50_000_recordings_leaves_only_paths(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    found = (
        Found(f"s3://calls/2024/{n:05}.wav", "0123456789abcdef", 1_000_000, MAY) for n in range(200 * CHUNKS)
    )
    monkeypatch.setattr("plaud_provider.recordings.listing.list_recordings", lambda *_, **__: found)
    task = ListRecordingsOperator(task_id="list", path="s3://calls/2024/", results_path=str(archive.results))

    chunks = task.execute(task_context(None, task_id=LIST, run_id="scheduled__2024-05-01T00:00:00+00:00"))

    assert len(chunks) == CHUNKS
    assert xcom_bytes(chunks) < 100_000
