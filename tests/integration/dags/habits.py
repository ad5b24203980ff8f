"""What people do around our tasks: groups, mapping, branches, setup, lists from elsewhere, native types."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import (
    DAG,
    Asset,
    CronDataIntervalTimetable,
    ObjectStoragePath,
    Param,
    TaskGroup,
    setup,
    task,
    teardown,
)

from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.sensors.transcription import TranscriptionSensor
from plaud_provider.task_groups.archive import transcribe_archive, transcribe_recordings
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator

#: Set by the test: a folder for each of these DAGs, and where they lie for Plaud.
HOME = Path(os.environ.get("PLAUD_HABITS", "/nonexistent"))
RESULTS = HOME / "results"
PUBLIC_URLS = "{{ var.value.plaud_public_urls }}"
COMMON = {
    "results_path": str(RESULTS),
    "public_urls": PUBLIC_URLS,
    "poke_interval": 1,
    "retries": 0,
    "sql_conn_id": "warehouse_default",
}

# Two archives, each in a group of its own whose defaults say where it goes.
with DAG("habit_groups", schedule=None, default_args={**COMMON, "max_active_tis_per_dag": 1}):
    with TaskGroup("german", default_args={"language": "de", "transcripts_table": "german_transcripts"}):
        transcribe_archive(HOME / "habit_groups" / "de", group_id="calls")
    with TaskGroup("others"):
        transcribe_archive(ObjectStoragePath(str(HOME / "habit_groups" / "en")), group_id="calls")
        transcribe_archive(str(HOME / "habit_groups" / "fr"), group_id="memos", pool="default_pool")

# What templates make is a number or a list.
with DAG(
    "habit_native",
    schedule=None,
    render_template_as_native_obj=True,
    params={
        "day": Param(20240501, type=["integer", "string"]),
        "suffixes": Param([".wav", ".mp3"], type="array"),
        "chunk_size": Param("2", type="string"),
    },
    default_args=COMMON,
):
    transcribe_archive(
        str(HOME / "habit_native"),
        pattern="{{ params.day }}/*",
        suffixes="{{ params.suffixes }}",
        chunk_size="{{ params.chunk_size }}",
        metadata={"day": "{{ params.day }}"},
        max_failed="{{ 0 }}",
    )
    transcribe_archive("{{ params.day }}", group_id="of_no_folder")

# Single tasks, mapped.
with DAG(
    "habit_mapped",
    schedule=None,
    params={"recordings": Param([], type="array")},
    default_args={"retries": 0, "depends_on_past": True},
):

    @task
    def recordings(params: dict[str, list[str]]) -> list[str]:
        return params["recordings"]

    submitted = SubmitTranscriptionOperator.partial(
        task_id="submit",
        ledger_conn_id="warehouse_default",
        public_urls=PUBLIC_URLS,
        max_active_tis_per_dag=1,
        map_index_template="{{ task.audio_url }}",
    ).expand(audio_url=recordings())
    waited = TranscriptionSensor.partial(task_id="wait", poke_interval=1, timeout=120).expand(
        transcription_id=submitted.output
    )
    waited >> TranscriptionToSqlOperator(
        task_id="load",
        transcription_id=submitted.output,
        sql_conn_id="warehouse_default",
        ledger_conn_id="warehouse_default",
    )

# A folder that is made and removed around the archive, which a branch may skip.
with DAG(
    "habit_around",
    schedule=None,
    params={"is_wanted": Param(True, type="boolean")},
    default_args=COMMON,
):

    @setup
    def mount() -> None:
        (HOME / "habit_around" / "mounted").touch()

    @teardown
    def unmount() -> None:
        (HOME / "habit_around" / "mounted").unlink()

    @task.branch
    def choose(params: dict[str, bool]) -> str:
        return "calls.list" if params["is_wanted"] else "nothing"

    @task
    def nothing() -> None: ...

    @task(trigger_rule="none_failed_min_one_success")
    def after() -> None: ...

    mounted, unmounted = mount(), unmount()
    calls = transcribe_archive(HOME / "habit_around" / "calls", group_id="calls")
    branch = choose()
    mounted >> branch >> [calls, nothing()] >> after()
    calls >> unmounted.as_teardown(setups=mounted)

# Lists from everywhere.
with DAG("habit_lists", schedule=None, params={"one": Param("", type="string")}, default_args=COMMON):

    @task
    def found() -> list[str]:
        return [str(path) for path in sorted((HOME / "habit_lists" / "task").iterdir())]

    transcribe_recordings(found(), group_id="of_a_task")
    transcribe_recordings("{{ var.value.habit_list }}", group_id="of_a_variable")
    transcribe_recordings("{{ params.one }}", group_id="of_a_form")
    query = SQLExecuteQueryOperator(
        task_id="query", conn_id="warehouse_default", sql="select uri from habit_recordings order by uri"
    )
    transcribe_recordings(query.output, group_id="of_a_query")

# A folder a day, one run after the other.
with DAG(
    "habit_daily",
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={**COMMON, "depends_on_past": True},
):
    transcribe_archive(
        str(HOME / "habit_daily"),
        pattern="{{ (dag_run.logical_date or dag_run.run_after) | ds }}/**",
        outlets=[Asset("habit_transcripts")],
    )

# What follows a set of transcripts.
with DAG("habit_follows", schedule=[Asset("habit_transcripts")]):

    @task
    def counted(triggering_asset_events: dict[Asset, list[object]]) -> list[float]:
        return [event.extra["landed"] for events in triggering_asset_events.values() for event in events]

    counted()
