"""The factory: which tasks it makes, what reaches them, and how little they leave in Airflow's database."""

from __future__ import annotations

import inspect
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, Asset, BaseOperator, Param, TaskGroup, task_group
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.definitions.taskgroup import MappedTaskGroup
from airflow.sdk.definitions.xcom_arg import XComArg
from airflow.serialization.serialized_objects import DagSerialization

from plaud_provider.exceptions import PlaudInputError
from plaud_provider.operators.land_recordings import LandRecordingsOperator
from plaud_provider.operators.list_recordings import ListRecordingsOperator
from plaud_provider.operators.report_recordings import ReportRecordingsOperator
from plaud_provider.operators.submit_recordings import SubmitRecordingsOperator
from plaud_provider.recordings.listing import Found
from plaud_provider.task_groups.archive import transcribe_archive, transcribe_recordings
from tests.unit.operators.archives import SUBMIT, Archive
from tests.unit.tasks import task_context
from tests.unit.warehouse.warehouses import CONN_ID

MAY = datetime(2024, 5, 1, tzinfo=UTC)
LIST, LAND, REPORT = ("transcribe.list", "transcribe.chunk.land", "transcribe.report")
CHUNK = (SUBMIT, LAND)
#: For each argument of the factory, a value that is not its default.
VALUES: dict[str, Any] = {
    "path": "s3://calls/2024/",
    "results_path": "s3://calls/results",
    "sql_conn_id": "snowflake",
    "ledger_conn_id": "books",
    "plaud_conn_id": "plaud_eu",
    "region": "eu",
    "pattern": "**/*.wav",
    "suffixes": [".wav"],
    "modified_after": MAY,
    "modified_before": "{{ data_interval_end }}",
    "language": "en",
    "speaker_diarization": True,
    "model": "plaud-omni-3",
    "hotwords": ["Plaud Note"],
    "decode_silence": True,
    "detection_level": "chapter",
    "webhook_url": "https://me.example/hook",
    "schema": "speech",
    "transcripts_table": "calls",
    "segments_table": "turns",
    "lake_path": "s3://lake/plaud",
    "lake_format": "delta",
    "lake_catalog_conn_id": "glue",
    "chunk_size": 50,
    "chunks_at_once": 3,
    "max_failed": 7,
    "max_audio_hours": 99.5,
    "max_recording_hours": 3.0,
    "unreadable": "send",
    "convert": "mp3",
    "upload": "always",
    "resubmit": ["failed"],
    "dry_run": True,
    "timeout": 3600.0,
    "max_changed": 7,
    "price_per_hour": "0.28 USD",
    "metadata": {"campaign": "spring"},
    "metadata_pattern": "{agent}/{call}.mp3",
    "metadata_path": "/crm/calls.csv",
    "metadata_columns": ["agent"],
    "metadata_timezone": "Asia/Tokyo",
    "poke_interval": 7.0,
    "partial_count": 11,
    "partial_seconds": 12.0,
    "url_validity": timedelta(hours=2),
    "identity_params": ["id"],
    "public_urls": {"/calls": "https://files.example"},
    "keep_raw": True,
    "outlets": [Asset("calls")],
}
#: What an argument is called by the tasks that get it.
CALLED = {"dry_run": "plan_only", "chunks_at_once": "max_active_tis_per_dag"}
names = pytest.mark.parametrize("name", VALUES)


def made(default_args: dict[str, Any] | None = None, **arguments: Any) -> DAG:
    """Return a DAG with the factory's tasks."""
    needed = {"path": "/calls", "results_path": "/results"}
    needed = {name: value for name, value in needed.items() if name not in (default_args or {})}
    with DAG("d", schedule=None, default_args=default_args or {}) as dag:
        transcribe_archive(**{**needed, **arguments})
    return dag


def taken(dag: DAG, name: str) -> dict[str, Any]:
    """Return what an argument of the factory is at each task that takes it."""
    called = CALLED.get(name, name)
    found = {}
    for task in dag.tasks:
        ours = type(task).__mro__[: type(task).__mro__.index(BaseOperator)]
        takes = {parameter for one in ours for parameter in inspect.signature(one).parameters}
        if called in takes or (name == "outlets" and task.task_id == REPORT):
            found[task.task_id] = getattr(task, called)
    return found


def test_it_makes_a_listing_two_tasks_a_chunk_and_a_report() -> None:
    dag = made()

    assert {task_id: type(task) for task_id, task in dag.task_dict.items()} == {
        LIST: ListRecordingsOperator,
        SUBMIT: SubmitRecordingsOperator,
        LAND: LandRecordingsOperator,
        REPORT: ReportRecordingsOperator,
    }
    assert not any(isinstance(task, MappedOperator) for task in dag.tasks), "mapped as a group, not each"
    chunk = dag.task_group.get_task_group_dict()["transcribe.chunk"]
    assert isinstance(chunk, MappedTaskGroup)
    assert set(chunk.children) == set(CHUNK)


def test_each_task_says_what_it_does_and_costs_unless_somebody_says_something_else() -> None:
    docs = {task.task_id: task.doc_md or "" for task in made().tasks}

    assert set(docs) == {LIST, *CHUNK, REPORT}
    assert "Plaud bills" in docs[SUBMIT]
    assert all("Pays nothing" in docs[task_id] for task_id in (LIST, LAND, REPORT))
    for given in (made(doc_md="mine"), made(default_args={"doc_md": "mine"})):
        assert {task.doc_md for task in given.tasks} == {"mine"}


def test_tasks_come_one_after_the_other_whatever_happens() -> None:
    dag = made()

    assert dag.get_task(SUBMIT).upstream_task_ids == {LIST}
    assert dag.get_task(LAND).upstream_task_ids >= {SUBMIT}
    assert dag.get_task(REPORT).upstream_task_ids == {LIST, LAND}
    rules = {task.task_id: task.trigger_rule for task in dag.tasks}
    assert rules == {
        LIST: "all_success",
        SUBMIT: "all_success",
        LAND: "all_done",
        REPORT: "all_done",
    }


def test_with_a_limit_a_person_is_asked_between_plan_and_submit() -> None:
    dag = made(approve_above_hours="{{ params.hours }}", price_per_hour=0.28, resubmit=["failed"], retries=5)
    plan, approve = dag.get_task("transcribe.plan"), dag.get_task("transcribe.approve")

    assert plan.upstream_task_ids == {LIST}
    assert plan.partial_kwargs["resubmit"] == ["failed"]
    assert approve.upstream_task_ids == {LIST, "transcribe.plan"}
    assert (approve.approve_above_hours, approve.price_per_hour) == ("{{ params.hours }}", 0.28)
    assert approve.retries == 5
    assert "transcribe.approve" in dag.get_task(SUBMIT).upstream_task_ids
    assert dag.get_task(REPORT).manifests.operator is approve


def test_each_chunk_may_update_assets_of_its_own() -> None:
    dag = made(chunk_outlets=[Asset("chunks")], outlets=[Asset("calls")])

    assert dag.get_task(LAND).outlets == [Asset("chunks")]
    assert dag.get_task(REPORT).outlets == [Asset("calls")]


def test_a_limit_in_default_args_asks_as_well() -> None:
    dag = made(default_args={"approve_above_hours": 12.5, "price_per_hour": 0.28})
    approve = dag.get_task("transcribe.approve")

    assert (approve.approve_above_hours, approve.price_per_hour) == (12.5, 0.28)


def test_every_argument_is_known_here() -> None:
    parameters = set(inspect.signature(transcribe_archive).parameters)

    # What adds a step of its own is tested by itself.
    step = {"approve_above_hours", "chunk_outlets"}
    assert parameters == set(VALUES) | step | {"group_id", "task_arguments"}


@names
def test_an_argument_reaches_the_tasks_that_take_it(name: str) -> None:
    before, after = taken(made(), name), taken(made(**{name: VALUES[name]}), name)

    assert after
    assert after == dict.fromkeys(after, VALUES[name])
    assert all(value != VALUES[name] for value in before.values()), "it is the default"


@names
def test_default_args_reach_the_tasks_as_they_would_each_by_itself(name: str) -> None:
    dag = made(default_args={name: VALUES[name]})

    assert taken(dag, name) == taken(made(**{name: VALUES[name]}), name)


@names
def test_default_args_of_a_group_around_it_hold(name: str) -> None:
    with DAG("d", schedule=None, default_args={name: None}) as dag:
        needed = {"path": "/calls", "results_path": "/results"}
        needed.pop(name, None)
        with TaskGroup("outer", default_args={name: VALUES[name]}, prefix_group_id=False):
            transcribe_archive(**needed)

    assert taken(dag, name) == taken(made(**{name: VALUES[name]}), name)


@names
def test_what_is_given_beats_default_args_also_where_it_is_the_default(name: str) -> None:
    plain = taken(made(), name)
    default = next(iter(plain.values()))
    dag = made(default_args={name: VALUES[name]}, **{name: default})

    assert taken(dag, name) == plain


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retries", 7),
        ("queue", "q"),
        ("pool", "p"),
        ("max_active_tis_per_dag", 1),
        ("trigger_rule", "all_done"),
    ],
)
def test_default_args_for_all_operators_hold(name: str, value: Any) -> None:
    with DAG("d", schedule=None, default_args={name: value}):
        alone = ListRecordingsOperator(task_id="list", path="/calls", results_path="/results")
    dag = made(default_args={name: value})

    assert getattr(dag.get_task(LIST), name) == getattr(alone, name)
    assert getattr(dag.get_task(SUBMIT), name) == (value if name != "trigger_rule" else "all_success")


def test_the_client_of_default_args_pays_and_its_warehouse_is_the_ledger() -> None:
    """Two recordings of Europe went to the client of the US, and to the default warehouse."""
    dag = made(default_args={"plaud_conn_id": "plaud_eu", "region": "eu", "sql_conn_id": "dwh"})

    for task_id in CHUNK:
        task = dag.get_task(task_id)
        assert (task.plaud_conn_id, task.region) == ("plaud_eu", "eu")
        assert (task.sql_conn_id, task.ledger_conn_id) == ("dwh", "dwh")


def test_the_ledger_is_in_the_warehouse_unless_it_is_named() -> None:
    assert made(sql_conn_id="lake").get_task(SUBMIT).ledger_conn_id == "lake"
    assert made(sql_conn_id="lake", ledger_conn_id="books").get_task(LAND).ledger_conn_id == "books"


def test_arguments_for_tasks_reach_all_of_them() -> None:
    dag = made(retries=7, queue="plaud", retry_delay=timedelta(seconds=5), pool="plaud")

    for task in dag.tasks:
        assert (task.retries, task.queue, task.pool) == (7, "plaud", "plaud")
        assert task.retry_delay == timedelta(seconds=5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_active_tis_per_dag", 5),
        ("max_active_tis_per_dagrun", 5),
        ("map_index_template", "{{ ti.map_index }}"),
        ("on_failure_callback", print),
        ("priority_weight", 3),
        ("execution_timeout", timedelta(hours=1)),
        ("params", {"a": 1}),
        ("doc_md", "words"),
    ],
)
def test_arguments_of_tasks_do_not_collide_with_the_groups_own(name: str, value: Any) -> None:
    dag = made(**{name: value})

    found = [getattr(dag.get_task(task_id), name) for task_id in CHUNK]
    if name == "on_failure_callback":
        assert found == [[print]] * len(CHUNK)
    elif name == "params":
        assert [params["a"] for params in found] == [1] * len(CHUNK)
    else:
        assert found == [value] * len(CHUNK)


def test_how_many_chunks_are_submitted_at_once_is_said_by_the_nearest() -> None:
    def at_once(**arguments: Any) -> tuple[Any, Any]:
        dag = made(**arguments)
        return dag.get_task(SUBMIT).max_active_tis_per_dag, dag.get_task(LAND).max_active_tis_per_dag

    assert at_once() == (2, None)
    assert at_once(chunks_at_once=4) == (4, None)
    assert at_once(max_active_tis_per_dag=5) == (5, 5)
    assert at_once(max_active_tis_per_dag=5, chunks_at_once=4) == (4, 5)
    assert at_once(default_args={"max_active_tis_per_dag": 6}) == (6, 6)


@pytest.mark.parametrize("rule", ["none_failed_min_one_success", "all_done", "always"])
def test_a_trigger_rule_says_when_the_group_starts(rule: str) -> None:
    for dag in (made(trigger_rule=rule), made(default_args={"trigger_rule": rule})):
        rules = {task.task_id: task.trigger_rule for task in dag.tasks}
        assert rules == {
            LIST: rule,
            SUBMIT: "all_success",
            LAND: "all_done",
            REPORT: "all_done",
        }


@pytest.mark.parametrize("name", ["task_id", "manifest", "list_task_id", "dag", "task_group"])
def test_what_the_group_sets_itself_is_refused_by_name(name: str) -> None:
    with pytest.raises(PlaudInputError, match=rf"{name}: transcribe_archive\(\) sets it by itself"):
        made(**{name: None})


def test_a_second_archive_in_a_dag_needs_an_id_of_its_own() -> None:
    with DAG("d", schedule=None), TaskGroup("outer"):
        transcribe_archive("/calls", results_path="/results")
        with pytest.raises(PlaudInputError, match="group_id: 'transcribe' is taken in this DAG"):
            transcribe_archive("/memos", results_path="/results")


def test_in_a_mapped_task_group_it_is_refused_when_the_dag_is_parsed() -> None:
    with DAG("d", schedule=None):

        @task_group
        def each(path: str) -> None:
            with TaskGroup("within"):
                transcribe_archive(path, results_path="/results")

        with pytest.raises(PlaudInputError, match="is within the mapped task group 'each', and"):
            each.expand(path=["/a", "/b"])


def test_in_a_task_group_that_is_not_mapped_it_is_as_anywhere() -> None:
    with DAG("d", schedule=None) as dag:

        @task_group
        def each(path: str) -> None:
            transcribe_archive(path, results_path="/results")

        each("/a")

    assert dag.get_task("each.transcribe.report").list_task_id == "each.transcribe.list"


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

    named = (report.list_task_id, report.submit_task_id, report.land_task_id)
    assert [type(dag.get_task(task_id)) for task_id in named] == [
        ListRecordingsOperator,
        SubmitRecordingsOperator,
        LandRecordingsOperator,
    ]


def test_two_archives_may_be_in_one_dag() -> None:
    with DAG("d", schedule=None) as dag:
        first = transcribe_archive("/calls", results_path="/results", group_id="calls")
        second = transcribe_archive("/memos", results_path="/results", group_id="memos")
        first >> second

    assert len(dag.tasks) == 8
    assert dag.get_task("memos.list").upstream_task_ids == {"calls.report"}


def test_it_serializes() -> None:
    dag = made(outlets=[Asset("calls")], modified_after=MAY, max_audio_hours=3)
    read = DagSerialization.deserialize_dag(json.loads(json.dumps(DagSerialization.serialize_dag(dag))))

    assert sorted(read.task_dict) == sorted(dag.task_dict)
    assert read.get_task(SUBMIT).max_active_tis_per_dag == 2
    assert {str(read.get_task(task_id).trigger_rule) for task_id in (LAND, REPORT)} == {"all_done"}


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
    assert tasks[LAND].execute(archive.context("land")) == {}
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
    submit, land = archive.context(SUBMIT), archive.context("land")
    returned = [archive.submit_task().execute(submit)]
    archive.plaud.advance(601)
    archive.land()
    returned.append(archive.land_task().execute(land))
    pushed = [json.loads(text) for context in (submit, land) for text in context["ti"].pushed.values()]
    # Each count with as many digits as it may have.
    full = [
        {name: 1234.5678 if isinstance(count, float) else 200 for name, count in value.items()}
        for value in (*returned, *pushed)
        if isinstance(value, dict)
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
    task = ListRecordingsOperator(
        task_id="list",
        path="s3://calls/2024/",
        results_path=str(archive.results),
        skips_settled=False,
        chunk_size=200,
    )

    chunks = task.execute(task_context(None, task_id=LIST, run_id="scheduled__2024-05-01T00:00:00+00:00"))

    assert len(chunks) == CHUNKS
    assert xcom_bytes(chunks) < 100_000


# Lists


OF_FOLDERS = {"path", "pattern", "suffixes", "modified_after", "modified_before"}


@pytest.mark.parametrize("name", sorted(VALUES.keys() - OF_FOLDERS))
def test_an_argument_of_a_list_reaches_the_same_tasks(name: str) -> None:
    value = VALUES[name]
    with DAG("d", schedule=None) as dag:
        transcribe_recordings(["a.mp3"], **{"results_path": "/results", name: value})

    assert taken(dag, name) == taken(made(**{name: value}), name)


@pytest.mark.parametrize("name", sorted(OF_FOLDERS))
def test_a_list_is_of_no_folder(name: str) -> None:
    with DAG("d", schedule=None), pytest.raises(PlaudInputError, match=rf"{name}: transcribe_recordings\(\)"):
        transcribe_recordings([], results_path="/results", **{name: VALUES[name]})


def test_a_list_does_not_take_the_folder_of_default_args() -> None:
    with DAG("d", schedule=None, default_args={"path": "/calls", "results_path": "/results"}) as dag:
        transcribe_recordings("{{ var.value.recordings }}", retries=7)

    listing = dag.get_task(LIST)
    assert (listing.path, listing.recordings, listing.retries) == (None, "{{ var.value.recordings }}", 7)


def test_a_list_may_be_what_another_task_returns() -> None:
    with DAG("d", schedule=None) as dag:

        @dag.task
        def query() -> list[list[str]]:
            return []

        transcribe_recordings(query(), results_path="/results")

    assert dag.get_task(LIST).upstream_task_ids == {"query"}
