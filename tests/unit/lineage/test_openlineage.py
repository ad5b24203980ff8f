"""What Airflow's OpenLineage provider writes to a file about our tasks; events agree with the warehouse."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.openlineage.extractors.manager import ExtractorManager
from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter
from airflow.sdk.exceptions import TaskDeferred
from airflow.utils.state import TaskInstanceState
from openlineage.client import OpenLineageClient
from openlineage.client.transport.file import FileConfig, FileTransport

from plaud_provider.hooks.plaud import PlaudAsyncHook, PlaudHook
from plaud_provider.hooks.shells import tell_of_submit
from plaud_provider.lineage.moved import Moved, Target, folders_of
from plaud_provider.lineage.openlineage import lineage_of
from plaud_provider.operators.list_recordings import ListRecordingsOperator
from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator
from tests.unit.operators.archives import PUBLIC, STRANGER, Archive
from tests.unit.operators.conftest import archive as archive
from tests.unit.tasks import TaskStateStore, task_context
from tests.unit.warehouse.warehouses import CONN_ID

AT = datetime(2026, 3, 29, tzinfo=UTC)


class Events:
    """The provider's extractors and its client, which writes to a file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "events.jsonl"
        transport = FileTransport(FileConfig(log_file_path=str(self.file), append=True))
        self._adapter = OpenLineageAdapter(client=OpenLineageClient(transport=transport))
        self._extractors = ExtractorManager()

    def complete(self, task: Any, state: TaskInstanceState = TaskInstanceState.SUCCESS) -> dict[str, Any]:
        """Have the event of a task written that has run, and return it as it is in the file."""
        found = self._extractors.extract_metadata(SimpleNamespace(run_id="run"), task, state, None)
        self._adapter.complete_task(
            run_id="01941f29-7c00-7087-8906-40e512c257bd",
            job_name=f"dag.{task.task_id}",
            end_time=AT.isoformat(),
            task=found,
            nominal_start_time=None,
            nominal_end_time=None,
            owners=None,
            tags=None,
            job_description=None,
        )
        event: dict[str, Any] = json.loads(self.file.read_text().splitlines()[-1])
        return event


@pytest.fixture
def events(tmp_path: Path) -> Events:
    return Events(tmp_path)


def facet(event: dict[str, Any]) -> dict[str, Any]:
    return event["run"]["facets"]["plaud"]


def names(datasets: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["namespace"], one["name"]) for one in datasets]


def test_the_events_of_an_archive_agree_with_its_tables(archive: Archive, events: Events) -> None:
    archive.add("a.wav", "b.wav", "c.wav", seconds=60)
    archive.add("bad.wav", seconds=30)
    folder = ("file", str(archive.folder))
    listing = ListRecordingsOperator(
        task_id="list",
        path=str(archive.folder),
        results_path=str(archive.results),
        sql_conn_id=CONN_ID,
        public_urls={str(archive.folder): PUBLIC},
    )
    listing.execute(task_context(None, task_id="list"))
    listed = events.complete(listing)
    archive.list()
    submit = archive.submit_task()
    submit.execute(archive.context("submit"))
    submitted = events.complete(submit)
    ids = sorted(str(entry.transcription_id) for entry in archive.entries().values())
    archive.plaud.force(str(archive.entries()["bad.wav"].transcription_id), status="failed", error="noise")
    archive.plaud.state.clock.advance(3600)
    archive.keep("a.wav", "b.wav", "c.wav", "bad.wav")
    land = archive.land_task(timeout=0)
    land.execute(archive.context("land"))
    landed = events.complete(land)

    assert names(listed["inputs"]) == names(submitted["inputs"]) == names(landed["inputs"]) == [folder]
    assert facet(listed)["counts"]["chunks"] == 1
    assert facet(submitted)["transcriptionIds"] == ids
    assert facet(submitted)["audioSeconds"] == 3 * 60 + 30
    assert facet(submitted)["counts"]["submitted"] == archive.plaud.summary()["submits_accepted"] == 4
    assert (facet(landed)["counts"]["landed"], facet(landed)["counts"]["failed"]) == (3, 1)
    assert facet(landed)["audioSeconds"] == 3 * 60
    assert len(facet(landed)["transcriptionIds"]) == 3
    place = f"sqlite://{archive.warehouse.path}"
    assert names(landed["outputs"]) == [(place, "plaud_transcripts"), (place, "plaud_segments")]
    for output in landed["outputs"]:
        [(rows,)] = archive.warehouse.rows(f"select count(*) from {output['name']}")
        assert output["outputFacets"]["outputStatistics"]["rowCount"] == rows > 0
        columns = {found[1] for found in archive.warehouse.rows(f"pragma table_info({output['name']})")}
        assert {field["name"] for field in output["facets"]["schema"]["fields"]} == columns
        lineage = output["facets"]["columnLineage"]["fields"]
        assert lineage.keys() < columns
        assert lineage["text"]["inputFields"][0] | {"transformations": []} == {
            "namespace": "file",
            "name": str(archive.folder),
            "field": "audio",
            "transformations": [],
        }
    written = events.file.read_text()
    spoken = [text for (text,) in archive.warehouse.rows("select text from plaud_segments") if len(text) > 12]
    assert spoken
    assert [text for text in [*spoken, "secret-key-canary"] if json.dumps(text)[1:-1] in written] == []


def test_what_was_submitted_before_a_wait_for_another_task_is_told_as_well(
    archive: Archive, events: Events
) -> None:
    archive.add("a.wav", "b.wav", "c.wav", seconds=60)
    archive.list()
    archive.submit(plan_only=True)
    archive.hold("a.wav")
    with pytest.raises(TaskDeferred) as deferred:
        archive.submit()
    archive.ledger.release(STRANGER)
    kwargs = json.loads(json.dumps(deferred.value.kwargs))
    submit = archive.submit_task()

    submit.resume_execution("resume", {**kwargs, "event": None}, archive.context("submit"))
    told = facet(events.complete(submit))

    assert told["counts"]["submitted"] == archive.plaud.summary()["submits_accepted"] == 3
    assert len(told["transcriptionIds"]) == 3
    assert told["audioSeconds"] == 3 * 60


def test_a_single_recording_has_its_events(archive: Archive, events: Events) -> None:
    submit = SubmitTranscriptionOperator(
        task_id="submit", audio_url="https://files.example/calls/a.mp3?X-Amz-Signature=canary"
    )
    known = submit.execute(task_context(TaskStateStore(), task_id="submit"))
    archive.plaud.state.clock.advance(3600)
    load = TranscriptionToSqlOperator(
        task_id="load",
        transcription_id=known,
        audio_uri="https://files.example/calls/a.mp3?X-Amz-Signature=canary",
        sql_conn_id=CONN_ID,
    )
    load.execute(task_context(None, task_id="load"))

    submitted, loaded = events.complete(submit), events.complete(load)

    assert names(submitted["inputs"]) == names(loaded["inputs"]) == [("https://files.example", "calls")]
    assert facet(submitted)["transcriptionIds"] == facet(loaded)["transcriptionIds"] == [known]
    assert loaded["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 1
    assert "canary" not in events.file.read_text()


def test_a_task_that_failed_before_it_moved_anything_has_an_event_without_datasets(events: Events) -> None:
    submit = SubmitTranscriptionOperator(task_id="submit", audio_url="https://files.example/a.mp3")

    event = events.complete(submit, TaskInstanceState.FAILED)

    assert (event.get("inputs"), event.get("outputs")) == ([], [])


@pytest.mark.parametrize(
    ("connection", "schema", "expected"),
    [
        (
            "postgres://me:pw@db.example/dwh",
            None,
            ("postgres://db.example:5432", "dwh.public.plaud_transcripts"),
        ),
        (
            "postgres://me:pw@db.example:6432/dwh",
            "raw",
            ("postgres://db.example:6432", "dwh.raw.plaud_transcripts"),
        ),
        ("mysql://me:pw@db.example/dwh", None, ("mysql://db.example:3306", "dwh.plaud_transcripts")),
    ],
)
def test_tables_are_named_as_openlineage_names_them(
    monkeypatch: pytest.MonkeyPatch, connection: str, schema: str | None, expected: tuple[str, str]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DWH", connection)
    target = Target("dwh", schema, "plaud_transcripts", "plaud_segments")

    found = lineage_of(Moved(("s3://aws_default@calls/2024/",), {}, target=target))

    assert (found.outputs[0].namespace, found.outputs[0].name) == expected
    assert (found.inputs[0].namespace, found.inputs[0].name) == ("s3://calls", "2024")


def test_folders_within_each_other_are_one() -> None:
    uris = ["s3://b/a/1.mp3", "s3://b/a/x/2.mp3", "s3://b/ab/3.mp3", None]

    assert folders_of(uris) == ("s3://b/a/", "s3://b/ab/")


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Any:
    from airflow.sdk import lineage, plugins_manager

    collector = lineage.HookLineageCollector()
    monkeypatch.setattr(plugins_manager, "get_hook_lineage_readers_plugins", lambda: [object()])
    monkeypatch.setattr(
        "airflow.providers.common.compat.lineage.hook.get_hook_lineage_collector", lambda: collector
    )
    return collector


def inputs(collector: Any) -> list[str]:
    return [told.asset.uri for told in collector.collected_assets.inputs]


def test_a_task_of_ones_own_has_the_recording_as_its_input(archive: Archive, collector: Any) -> None:
    archive.plaud.state.clock.set_speed(100_000)
    try:
        with PlaudHook() as hook:
            hook.transcribe("https://files.example/calls/a.mp3?X-Amz-Signature=canary", poke_interval=0.01)
    finally:
        archive.plaud.state.clock.set_speed(1)

    assert inputs(collector) == ["https://files.example/calls/a.mp3"]


def test_a_submit_by_either_hook_is_told_as_operators_tell_it(archive: Archive, collector: Any) -> None:
    archive.add("a.wav", "b.wav")
    public_urls = {str(archive.folder): PUBLIC}

    async def submit() -> None:
        async with PlaudAsyncHook() as hook:
            await hook.submit_transcription(archive.folder / "b.wav", public_urls=public_urls)

    with PlaudHook() as hook:
        hook.submit_transcription(archive.folder / "a.wav", public_urls=public_urls)
    asyncio.run(submit())

    assert sorted(inputs(collector)) == [f"file://{archive.folder}/{name}" for name in ("a.wav", "b.wav")]


def test_the_connection_in_a_reference_is_no_part_of_a_datasets_name(collector: Any) -> None:
    with PlaudHook() as hook:
        tell_of_submit(hook, "s3://aws_default@calls/2024/1.mp3")

    assert inputs(collector) == ["s3://calls/2024/1.mp3"]
