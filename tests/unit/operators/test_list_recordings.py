"""The listing of an archive as a task: arguments as templates render them, and what it leaves to others."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException

from plaud_provider.exceptions import PlaudConfigurationError, PlaudInputError
from plaud_provider.handover.manifest import read_manifest
from plaud_provider.operators.list_recordings import ListRecordingsOperator
from tests.unit.operators.archives import Archive
from tests.unit.s3_server import S3Server
from tests.unit.tasks import task_context

MAY = datetime(2024, 5, 1, tzinfo=UTC)


def listed(archive: Archive, *, context: Any = None, **arguments: Any) -> list[list[str]]:
    """Return the names in each chunk."""
    told = {"path": str(archive.folder), "results_path": str(archive.results), **arguments}
    task = ListRecordingsOperator(task_id="list", **told)
    chunks = task.execute(context or task_context(None, task_id="list"))
    return [[Path(found.uri).name for found in read_manifest(chunk)] for chunk in chunks]


def dated(archive: Archive, **times: datetime) -> None:
    """Put recordings there that were last changed then."""
    for name, moment in times.items():
        archive.add(f"{name}.wav")
        os.utime(archive.folder / f"{name}.wav", (moment.timestamp(), moment.timestamp()))


def test_recordings_come_in_chunks(archive: Archive) -> None:
    archive.add("a.wav", "b.mp3", "c.M4A", "d.wav", "e.wav", "notes.txt")

    assert listed(archive, chunk_size=2) == [["a.wav", "b.mp3"], ["c.M4A", "d.wav"], ["e.wav"]]
    assert listed(archive, chunk_size="200") == [["a.wav", "b.mp3", "c.M4A", "d.wav", "e.wav"]]


def test_an_empty_archive_is_no_chunk(archive: Archive) -> None:
    archive.folder.mkdir()

    assert listed(archive) == []


def test_an_archive_in_object_storage(archive: Archive, s3: S3Server) -> None:
    for name in ("2024/a.wav", "2024/b.wav", "2025/c.wav"):
        s3.put(name, b"sound")

    assert listed(archive, path="s3://aws_calls@calls/2024/") == [["a.wav", "b.wav"]]


@pytest.mark.parametrize(
    ("suffixes", "names"),
    [
        ([".wav"], ["a.wav"]),
        ("['.wav', '.mp3']", ["a.wav", "b.mp3"]),
        (".wav", ["a.wav"]),
        (".mp3, .m4a", ["b.mp3", "c.m4a"]),
        (None, ["a.wav", "b.mp3", "c.m4a"]),
        ("None", ["a.wav", "b.mp3", "c.m4a"]),
        ([], ["a.wav", "b.mp3", "c.m4a", "d.txt"]),
    ],
)
def test_suffixes_may_be_text_that_a_template_rendered(
    archive: Archive, suffixes: Any, names: list[str]
) -> None:
    archive.add("a.wav", "b.mp3", "c.m4a", "d.txt")

    assert listed(archive, suffixes=suffixes) == [names]


@pytest.mark.parametrize("unset", [None, "", "None"])
def test_what_a_template_makes_of_an_unset_value_limits_nothing(archive: Archive, unset: str | None) -> None:
    archive.add("a.wav")

    assert listed(archive, pattern=unset, modified_after=unset, modified_before=unset) == [["a.wav"]]


@pytest.mark.parametrize(
    "moment",
    [
        MAY,
        MAY.replace(tzinfo=None),
        "2024-05-01",
        "2024-05-01 00:00:00+00:00",
        "2024-05-01T02:00:00+02:00",
        "2024-05-01T00:00:00Z",
        # From a template that renders native values.
        20240501,
    ],
)
def test_times_may_be_text_that_a_template_rendered(archive: Archive, moment: Any) -> None:
    dated(archive, before=MAY.replace(month=4), at=MAY, after=MAY.replace(month=6))

    assert listed(archive, modified_after=moment) == [["after.wav", "at.wav"]]
    assert listed(archive, modified_before=moment) == [["before.wav"]]


def test_only_what_matches_is_listed(archive: Archive) -> None:
    archive.add("sales-1.wav", "sales-2.wav", "support.wav")

    assert listed(archive, pattern="sales-*.wav") == [["sales-1.wav", "sales-2.wav"]]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"path": "/no/such/folder"}, PlaudInputError, "path: '/no/such/folder' does not exist"),
        ({"path": "calls"}, PlaudInputError, "path: "),
        ({"path": "s3://aws_typo@calls/"}, PlaudConfigurationError, "'aws_typo', which does not exist"),
        ({"path": ""}, PlaudInputError, "path: it is empty"),
        ({"path": None}, PlaudInputError, "path: it is empty"),
        ({"results_path": "results"}, PlaudConfigurationError, "results_path: "),
        ({"modified_after": "yesterday"}, PlaudInputError, "modified_after: 'yesterday' is not a time"),
        ({"modified_before": "2024-13-01"}, PlaudInputError, "modified_before: '2024-13-01' is not a time"),
        ({"modified_before": 7}, PlaudInputError, "modified_before: 7 is not a time"),
        ({"pattern": "a/**b/c"}, PlaudInputError, "pattern: "),
        ({"chunk_size": "0"}, PlaudInputError, "chunk_size: '0' is not a number of at least 1"),
        ({"chunk_size": "many"}, PlaudInputError, "chunk_size: 'many'"),
    ],
)
def test_a_wrong_argument_is_told(
    archive: Archive, arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    archive.add("a.wav")

    with pytest.raises(kind, match=message):
        listed(archive, **arguments)


def test_a_scheduled_run_that_nobody_has_named_an_archive_for_is_skipped(archive: Archive) -> None:
    with pytest.raises(AirflowSkipException):
        listed(archive, path="", context=task_context(None, run_type="scheduled"))


@pytest.mark.parametrize(
    ("first", "second"),
    [("a:1", "a+1"), ("a_1", "a+1"), (".", ".."), ("x" * 250, "x" * 249), ("..", "_")],
)
def test_each_run_has_a_folder_of_its_own(archive: Archive, first: str, second: str) -> None:
    def folder(run_id: str) -> Path:
        task = ListRecordingsOperator(
            task_id="list", path=str(archive.folder), results_path=str(archive.results)
        )
        [chunk] = task.execute(task_context(None, task_id="list", run_id=run_id))
        return Path(chunk).parent

    archive.add("a.wav")

    assert folder(first) != folder(second)
    assert folder(first) == folder(first), "a retry writes over what it wrote"
    assert folder(first).relative_to(archive.results / "manifests" / "dag")


def test_a_run_id_with_colons_and_pluses_makes_a_plain_folder(archive: Archive) -> None:
    archive.add("a.wav")
    context = task_context(None, task_id="g.list", run_id="scheduled__2024-05-01T00:00:00+00:00")
    task = ListRecordingsOperator(task_id="list", path=str(archive.folder), results_path=str(archive.results))
    [chunk] = task.execute(context)

    name = Path(chunk).parent.parent.name
    assert name.startswith("scheduled__2024-05-01T00_00_00_00_00-")
    assert not set(name) & set(":+ ")


def test_every_argument_is_templated() -> None:
    arguments = {name: f"{{{{ '{name}' }}}}" for name in ListRecordingsOperator.template_fields}
    with DAG("d", schedule=None):
        task = ListRecordingsOperator(task_id="list", **arguments)  # type: ignore[arg-type]
    task.render_template_fields({})

    assert {name: getattr(task, name) for name in arguments} == {name: name for name in arguments}


def test_warehouse_of_a_kind_that_is_not_served_is_refused_before_anything_is_listed(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.add("a.wav")
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", '{"conn_type": "snowflake", "host": "example.com"}')

    with pytest.raises(PlaudConfigurationError, match=r"^sql_conn_id: .*'lake' is of type 'snowflake'"):
        listed(archive, sql_conn_id="lake")
    assert not archive.results.exists()
