"""A recording that is known by another version of its content: a few are paid for, an archive is not."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from plaud_provider.exceptions import PlaudArchiveError
from plaud_provider.handover.manifest import read_manifest
from plaud_provider.ledger.ledger import Ledger, Owner, Recording
from plaud_provider.operators.chunk import COUNTS_KEY
from plaud_provider.operators.list_recordings import ListRecordingsOperator
from plaud_provider.operators.report_recordings import ReportRecordingsOperator
from tests.unit.ledger.ledgers import OWNER
from tests.unit.operators.archives import PUBLIC, Archive
from tests.unit.s3_server import S3Server
from tests.unit.tasks import task_context
from tests.unit.warehouse.warehouses import CONN_ID

NAMES = tuple(f"{number:02}.wav" for number in range(25))


@pytest.fixture
def paid(any_archive: Archive) -> Archive:
    """An archive of 25 recordings that are at Plaud."""
    any_archive.add(*NAMES)
    any_archive.list()
    any_archive.submit()
    return any_archive


def changed(archive: Archive, *names: str) -> None:
    """Give recordings another content: another version of the same length."""
    archive.add(*names)
    for name in names:
        path = archive.folder / name
        path.write_bytes(path.read_bytes()[:-1] + b"~")


def listed(archive: Archive, **arguments: Any) -> tuple[list[str], dict[str, int]]:
    """Return what is left to do, and the counts of what is not."""
    context = task_context(None, task_id="list")
    told = {"path": str(archive.folder), "public_urls": {str(archive.folder): PUBLIC}, **arguments}
    task = ListRecordingsOperator(task_id="list", results_path=str(archive.results), **told)
    chunks = task.execute(context)
    names = [Path(found.uri).name for chunk in chunks for found in read_manifest(chunk)]
    return names, context["ti"].xcom(COUNTS_KEY)


def report(archive: Archive, counts: dict[str, int], **arguments: Any) -> Any:
    task = ReportRecordingsOperator(
        task_id="report",
        manifests=[],
        results_path=str(archive.results),
        ledger_conn_id=CONN_ID,
        list_task_id="list",
        submit_task_id="submit",
        land_task_id="land",
        **arguments,
    )
    others = {("list", COUNTS_KEY): [counts], ("submit", COUNTS_KEY): [], ("land", COUNTS_KEY): []}
    return task.execute(task_context(None, task_id="report", others={**others, ("land", "problems"): []}))


def test_few_that_were_replaced_are_left_to_do_as_before(paid: Archive) -> None:
    changed(paid, *NAMES[:20])
    paid.add("new.wav")

    names, counts = listed(paid)

    assert {*names} == {*NAMES, "new.wav"}
    assert (counts["changed"], counts["changed_left"]) == (20, 0)
    assert report(paid, counts)["changed"] == 20


@pytest.mark.parametrize("max_changed", [20, "20", 24, 0.9, "0.9", 0])
def test_archive_of_new_versions_is_not_paid_for_unasked_and_what_is_new_is_left_to_do(
    paid: Archive, max_changed: Any
) -> None:
    changed(paid, *NAMES)
    paid.add("new.wav")

    names, counts = listed(paid, max_changed=max_changed)

    assert names == ["new.wav"]
    assert (counts["changed"], counts["changed_left"]) == (25, 25)
    if max_changed == 0:
        assert report(paid, counts, max_changed=0)["total"] == 25
    else:
        message = r"25 recordings were paid for before.*set max_changed to None, or to that number"
        with pytest.raises(PlaudArchiveError, match=message):
            report(paid, counts, max_changed=max_changed)
        assert report(paid, counts, max_changed=max_changed, plan_only=True)["changed_left"] == 25


@pytest.mark.parametrize("max_changed", [25, None, "None", "", 0.97])
def test_with_consent_all_are_left_to_do(paid: Archive, max_changed: Any) -> None:
    changed(paid, *NAMES)
    paid.add("new.wav")

    names, counts = listed(paid, max_changed=max_changed)

    assert {*names} == {*NAMES, "new.wav"}
    assert (counts["changed"], counts["changed_left"]) == (25, 0)


def test_copied_bucket_of_the_same_sizes_is_noticed(archive: Archive, s3: S3Server) -> None:
    def put(marker: bytes) -> None:
        for number in range(30):
            s3.put(f"2024/{number}.mp3", b"sound" + marker)

    told = {"path": "s3://aws_calls@calls/2024/", "public_urls": None}
    put(b"1")
    names, counts = listed(archive, **told)
    assert (len(names), counts.get("changed")) == (30, None), "nothing is known yet"
    with_keys = read_manifest(str(next(archive.results.rglob("chunk-00001.jsonl"))))
    ledger = archive.ledger
    plan = ListRecordingsOperator(task_id="list", results_path="/r", **told)._listing(ledger)._plan
    for found in with_keys:
        key = plan.key(found.audio, found.version)
        accept(ledger, Recording(key, found.uri, "us", plan.account.client_id))

    put(b"2")
    assert listed(archive, **told)[0] == []
    # Whoever asks for another transcription of it means to pay for another.
    assert len(listed(archive, **told, language="ja")[0]) == 30
    assert len(listed(archive, **told, speaker_diarization=True)[0]) == 30


def accept(ledger: Ledger, recording: Recording, owner: Owner = OWNER) -> None:
    ledger.claim([recording], owner)
    ledger.submitting(recording.recording_key, owner)
    ledger.processing(recording, owner, f"txn_{recording.recording_key}", submitted_at=datetime.now(tz=UTC))


def test_file_that_was_refused_unpaid_may_be_replaced_however_many_they_are(archive: Archive) -> None:
    archive.folder.mkdir()
    for name in NAMES:
        (archive.folder / name).write_bytes(b"no sound of " + name.encode())
    archive.list()
    archive.submit()
    assert archive.paid().total() == 0

    archive.add(*NAMES)

    names, counts = listed(archive)
    assert ({*names}, counts.get("changed")) == ({*NAMES}, None)


def test_fifty_thousand_are_looked_up_in_bulk(archive: Archive, statements: list[str]) -> None:
    ledger = archive.ledger
    rows = 50_000
    archive.warehouse.run(
        "insert into plaud_submissions (recording_key, state, audio_uri, region, client_id, "
        "speaker_diarization, transcription_id, owner_dag_id, owner_run_id, owner_task_id, owner_map_index, "
        "owner_try_number, claimed_at, updated_at) "
        f"with recursive n(i) as (select 0 union all select i + 1 from n where i < {rows - 1}) "
        "select 'k' || i, 'landed', 's3://calls/2024/' || i || '.mp3', 'us', 'c', 0, 't' || i, 'd', 'r', "
        "'t', 0, 1, '2026-01-01 00:00:00.000000+00:00', '2026-01-01 00:00:00.000000+00:00' from n"
    )
    uris = [f"s3://calls/2024/{number}.mp3" for number in range(rows + 5)]
    statements.clear()

    found = ledger.paid_uris(uris, region="us", client_id="c", language=None, speaker_diarization=False)

    assert len(found) == rows
    assert 0 < len(statements) <= 200
