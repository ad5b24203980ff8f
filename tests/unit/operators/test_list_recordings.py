"""The listing of an archive as a task: arguments as templates render them, and what it leaves to others."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from plaud_provider.exceptions import PlaudArchiveError, PlaudConfigurationError, PlaudInputError
from plaud_provider.handover.manifest import read_manifest
from plaud_provider.operators.chunk import COUNTS_KEY
from plaud_provider.operators.list_recordings import ListRecordingsOperator
from tests.unit.operators.archives import PUBLIC, Archive
from tests.unit.s3_server import S3Server
from tests.unit.tasks import task_context
from tests.unit.warehouse.warehouses import CONN_ID

MAY = datetime(2024, 5, 1, tzinfo=UTC)


def listed(archive: Archive, *, context: Any = None, **arguments: Any) -> list[list[str]]:
    """Return the names in each chunk."""
    told = {
        "path": str(archive.folder),
        "results_path": str(archive.results),
        "skips_settled": False,
        **arguments,
    }
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


@pytest.mark.parametrize(
    ("requests_per_minute", "first", "chunk_size"),
    [(10, 200, None), (60, 200, "None"), (100, 300, ""), (600, 1000, None), (60_000, 1000, None)],
)
def test_chunks_have_what_the_quota_lets_submit_in_some_minutes(
    archive: Archive,
    monkeypatch: pytest.MonkeyPatch,
    requests_per_minute: float,
    first: int,
    chunk_size: str | None,
) -> None:
    connection = json.loads(os.environ["AIRFLOW_CONN_PLAUD_DEFAULT"])
    connection["extra"]["requests_per_minute"] = requests_per_minute
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
    archive.add(*(f"{number:04}.wav" for number in range(first + 1)))

    assert [len(chunk) for chunk in listed(archive, chunk_size=chunk_size)] == [first, 1]


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


def test_a_scheduled_run_that_nobody_has_named_an_archive_for_fails_so_that_its_day_is_made_up_for(
    archive: Archive,
) -> None:
    with pytest.raises(PlaudInputError, match="path: it is empty"):
        listed(archive, path="", context=task_context(None, run_type="scheduled"))


@pytest.mark.parametrize(
    ("first", "second"),
    [("a:1", "a+1"), ("a_1", "a+1"), (".", ".."), ("x" * 250, "x" * 249), ("..", "_")],
)
def test_each_run_has_a_folder_of_its_own(archive: Archive, first: str, second: str) -> None:
    def folder(run_id: str) -> Path:
        task = ListRecordingsOperator(
            task_id="list", path=str(archive.folder), results_path=str(archive.results), skips_settled=False
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
    task = ListRecordingsOperator(
        task_id="list", path=str(archive.folder), results_path=str(archive.results), skips_settled=False
    )
    [chunk] = task.execute(context)

    name = Path(chunk).parent.parent.name
    assert name.startswith("scheduled__2024-05-01T00_00_00_00_00-")
    assert not set(name) & set(":+ ")


def test_every_argument_is_templated() -> None:
    arguments = {name: f"{{{{ '{name}' }}}}" for name in ListRecordingsOperator.template_fields}
    with DAG("d", schedule=None):
        task = ListRecordingsOperator(task_id="list", **arguments)  # type: ignore[arg-type]
    task.render_template_fields({})

    rendered = {name: getattr(task, name) for name in arguments}
    assert [str(one) for one in rendered.pop("recordings")] == ["recordings"]
    assert rendered == {name: name for name in rendered}


# With a ledger: only what is left to do


def left(archive: Archive, *, context: Any = None, **arguments: Any) -> list[list[str]]:
    """Return the names in each chunk that is left to do."""
    told = {"skips_settled": True, "public_urls": {str(archive.folder): PUBLIC}, **arguments}
    return listed(archive, context=context, **told)


@pytest.fixture
def known(any_archive: Archive) -> Archive:
    """An archive of which some recordings have landed, are waited for, have failed or are new."""
    archive = any_archive
    archive.add("landed.wav", "waiting.wav", "refused.wav", "unknown.wav", "gone.wav", "expired.wav")
    (archive.folder / "refused.wav").write_bytes(b"nothing that is sound")
    archive.list()
    fault = {"match": {"kind": "submit", "body_contains": "unknown.wav"}, "action": "drop_after"}
    archive.plaud.inject(fault)
    archive.submit()
    ids = {name: str(entry.transcription_id) for name, entry in archive.entries().items()}
    archive.ledger.expired({ids["gone.wav"]: "gone", ids["expired.wav"]: "gone"}, region="us")
    archive.warehouse.run(
        "update plaud_submissions set submitted_at = '2020-01-01 00:00:00.000000' "
        "where audio_uri like '%gone%'"
    )
    archive.plaud.force(ids["landed.wav"], status="completed", text="a")
    archive.keep("landed.wav")
    with pytest.raises(PlaudArchiveError):
        archive.count()
    archive.add("new.wav")
    return archive


def test_what_is_settled_is_counted_and_needs_no_chunk(known: Archive) -> None:
    context = task_context(None, task_id="list")

    chunks = left(known, context=context)

    # What expired lately may be known after all, and to look is free.
    assert chunks == [["expired.wav", "new.wav", "waiting.wav"]]
    assert context["ti"].xcom(COUNTS_KEY) == {
        "landed_before": 1,
        "failed_before": 1,
        "unknown_before": 1,
        "expired_before": 1,
        "left_by_others": 0,
    }


@pytest.mark.parametrize(
    ("resubmit", "more"),
    [("failed", "refused.wav"), ("unknown", "unknown.wav"), (["expired"], "gone.wav")],
)
def test_what_is_to_be_submitted_again_is_left_to_do(known: Archive, resubmit: Any, more: str) -> None:
    assert left(known, resubmit=resubmit) == [sorted(["expired.wav", "new.wav", "waiting.wav", more])]


@pytest.mark.parametrize("other", [{"language": "en"}, {"speaker_diarization": "True"}])
def test_in_other_terms_it_is_another_recording(known: Archive, other: dict[str, Any]) -> None:
    assert len(left(known, **other)[0]) == 7


def test_what_has_landed_elsewhere_is_left_to_do_here(known: Archive) -> None:
    elsewhere = left(known, transcripts_table="t2", segments_table="s2")

    assert elsewhere == [["expired.wav", "landed.wav", "new.wav", "waiting.wav"]]


def test_a_second_run_over_what_has_landed_has_no_chunks(archive: Archive) -> None:
    archive.add("a.wav", "b.wav")
    archive.list()
    archive.submit()
    archive.plaud.advance(601)
    archive.land()

    assert left(archive) == []


def test_what_other_runs_have_left_at_plaud_is_landed_by_this_one(any_archive: Archive) -> None:
    archive = any_archive
    archive.add("old.wav", "late.wav")
    archive.list()
    archive.submit()
    with pytest.raises(PlaudArchiveError):
        archive.count()
    archive.warehouse.run("update plaud_submissions set lease_until = '2020-01-01 00:00:00.000000'")
    # Of a folder of today; "late.wav" is listed again.
    (archive.folder / "old.wav").unlink()
    archive.add("new.wav")
    told = {"path": str(archive.folder), "results_path": str(archive.results), "ledger_conn_id": CONN_ID}
    task = ListRecordingsOperator(task_id="list", public_urls={str(archive.folder): PUBLIC}, **told)

    listing, left_over = task.execute(task_context(None, task_id="list", run_id="today"))

    assert [Path(found.uri).name for found in read_manifest(listing)] == ["late.wav", "new.wav"]
    assert read_manifest(left_over) == []
    assert archive.submit("today", manifest=left_over)["total"] == 0
    # Plaud has not finished it yet: the next run comes back to it, and this one is not red for it.
    assert archive.count("today", manifest=left_over)["processing"] == 1
    archive.plaud.advance(601)
    counts = archive.land("today", manifest=left_over)
    assert (counts["total"], counts["landed"]) == (1, 1)
    assert archive.landed() == {"old.wav": "completed"}
    assert len(task.execute(task_context(None, task_id="list", run_id="tomorrow"))) == 1


def test_what_can_be_converted_is_listed_if_it_is_to_be(archive: Archive) -> None:
    archive.add("a.wav", "b.flac", "c.WEBM", "d.mpga", "e.txt")

    assert listed(archive) == [["a.wav", "d.mpga"]]
    assert listed(archive, convert="mp3") == [["a.wav", "b.flac", "c.WEBM", "d.mpga"]]
    assert listed(archive, convert="mp3", suffixes=[".flac"]) == [["b.flac"]]


def test_warehouse_of_a_kind_that_is_not_served_is_refused_before_anything_is_listed(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.add("a.wav")
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", '{"conn_type": "oracle", "host": "example.com"}')

    with pytest.raises(PlaudConfigurationError, match=r"^sql_conn_id: .*'lake' is of type 'oracle'"):
        listed(archive, sql_conn_id="lake")
    assert not archive.results.exists()
