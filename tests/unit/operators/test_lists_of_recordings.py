"""A list of recordings as an archive: listed, submitted and landed in chunks, each paid for once."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields
from airflow.serialization.serialized_objects import DagSerialization

from plaud_provider.exceptions import PlaudInputError, PlaudStorageError
from plaud_provider.operators.chunk import COUNTS_KEY
from plaud_provider.operators.list_recordings import ListRecordingsOperator
from tests.unit.operators.archives import PUBLIC, Archive
from tests.unit.tasks import task_context
from tests.unit.warehouse.warehouses import CONN_ID

SECRET = "canary-signature"
URLS = [f"https://files.example/{name}.mp3?X-Amz-Signature={SECRET}-{name}" for name in "abc"]


def task(archive: Archive, recordings: Any, **arguments: Any) -> ListRecordingsOperator:
    told = {"results_path": str(archive.results), "ledger_conn_id": CONN_ID, "sql_conn_id": CONN_ID}
    return ListRecordingsOperator(task_id="list", recordings=recordings, **{**told, **arguments})


def run(archive: Archive, recordings: Any, run_id: str = "run", **arguments: Any) -> dict[str, Any]:
    """List, submit and land; return the counts of the listing."""
    context = task_context(None, task_id="list", run_id=run_id)
    for chunk in task(archive, recordings, **arguments).execute(context):
        archive.submit(run_id, manifest=chunk)
        archive.plaud.advance(3600)
        archive.land(run_id, manifest=chunk)
    counts: dict[str, Any] = context["ti"].xcom(COUNTS_KEY)
    return counts


def url_for(left: timedelta) -> str:
    """Return a URL of a recording that is valid for so long."""
    signed = datetime.now(tz=UTC) + left - timedelta(hours=1)
    return (
        f"https://files.example/a.mp3?X-Amz-Date={signed:%Y%m%dT%H%M%SZ}&X-Amz-Expires=3600"
        f"&X-Amz-Signature={SECRET}"
    )


def test_a_list_is_paid_for_once_and_lands(archive: Archive) -> None:
    assert run(archive, URLS)["landed_before"] == 0
    assert archive.landed() == {f"{name}.mp3": "completed" for name in "abc"}
    # Signed anew, and one more.
    again = [url.replace(SECRET, "other") for url in URLS]
    assert run(archive, [*again, "https://files.example/d.mp3"], "again")["landed_before"] == 3

    assert len(archive.landed()) == 4
    # With the signature, without which nobody can fetch it.
    assert sorted(job.audio_url for job in archive.plaud.state.jobs) == [
        *URLS,
        "https://files.example/d.mp3",
    ]


def test_a_local_file_is_the_same_recording_as_in_an_archive(archive: Archive) -> None:
    archive.add("a.wav")
    archive.list()
    archive.submit()
    archive.plaud.advance(3600)
    archive.land()

    counts = run(archive, [str(archive.folder / "a.wav")], "list", public_urls={str(archive.folder): PUBLIC})

    assert counts["landed_before"] == 1
    assert archive.paid() == {"a.wav": 1}


def test_recordings_of_one_path_and_another_query_are_several(archive: Archive) -> None:
    run(archive, ["https://pbx.example/recording.php?id=5", "https://pbx.example/recording.php?id=6"])

    assert len(archive.plaud.transcriptions()) == 2


def test_no_signature_is_stored_in_plain(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        chunks = task(archive, URLS).execute(task_context(None, task_id="list"))

    files = [path for path in archive.results.rglob("*") if path.is_file()]
    assert [str(path) for path in files] == chunks
    assert [path for path in files if SECRET in path.read_text()] == []
    assert SECRET not in caplog.text


@pytest.mark.parametrize("given", [URLS, json.dumps(URLS), "\n".join(URLS)])
def test_no_signature_is_rendered_or_serialized(archive: Archive, given: Any) -> None:
    with DAG("d", schedule=None) as dag:
        one = task(archive, given)

    assert SECRET not in json.dumps(DagSerialization.serialize_dag(dag))
    assert SECRET not in json.dumps(_serialize_rendered_fields(one))
    one.recordings = given
    assert SECRET not in json.dumps(_serialize_rendered_fields(one)), "as when a template was rendered"


def test_one_bad_recording_is_a_row_and_stops_no_other(archive: Archive) -> None:
    run(archive, [URLS[0], "ftp://files.example/x.mp3", "https://files.example/notes.txt"])

    assert archive.states() == {"a.mp3": "landed", "x.mp3": "failed", "notes.txt": "failed"}


def test_an_expired_link_is_no_mark_on_its_recording(archive: Archive) -> None:
    [chunk] = task(archive, [url_for(timedelta(minutes=-1)), URLS[1]]).execute(
        task_context(None, task_id="list")
    )

    with pytest.raises(PlaudStorageError, match=r"1 of 2 .* expired at .* sign it again") as caught:
        archive.submit(manifest=chunk)

    assert SECRET not in str(caught.value)
    assert archive.states()["b.mp3"] == "processing"
    run(archive, [url_for(timedelta(hours=1)), URLS[1]], "again")
    assert archive.states() == {"a.mp3": "landed", "b.mp3": "landed"}
    assert len(archive.plaud.transcriptions()) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"recordings": []}, "recordings: the list is empty"),
        ({"recordings": None}, "path: it is empty, and so is recordings"),
        ({"recordings": URLS, "path": "/calls"}, "path: there are recordings as well"),
        ({"recordings": [{"url": URLS[0]}]}, "recordings: number 1 of the list is a dict"),
    ],
)
def test_what_cannot_be_listed_is_told(archive: Archive, arguments: dict[str, Any], words: str) -> None:
    told = {"results_path": str(archive.results), "ledger_conn_id": CONN_ID, "sql_conn_id": CONN_ID}
    wrong = ListRecordingsOperator(task_id="list", **{**told, **arguments})

    with pytest.raises(PlaudInputError, match=words) as caught:
        wrong.execute(task_context(None, task_id="list"))

    assert SECRET not in str(caught.value)


def test_the_secret_key_has_changed_between_two_tasks(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    [chunk] = task(archive, URLS).execute(task_context(None, task_id="list"))
    connection = json.loads(archive.plaud.airflow_connection)
    monkeypatch.setenv(
        "AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps({**connection, "password": "a new secret key"})
    )

    with pytest.raises(PlaudInputError, match=r"manifest: .*another secret key"):
        archive.submit(manifest=chunk)
