"""What is purged is gone from everywhere, and does not come back or cost anything by itself."""

from __future__ import annotations

import base64
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from plaud_provider.exceptions import PlaudInputError
from plaud_provider.operators.list_recordings import ListRecordingsOperator
from plaud_provider.operators.purge_transcriptions import PurgeTranscriptionsOperator
from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.transfers.purging import Wanted
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator
from tests.unit.operators.archives import PUBLIC, Archive
from tests.unit.tasks import TaskStateStore, task_context
from tests.unit.warehouse.warehouses import CONN_ID

NOTHING = {"transcripts": 0, "segments": 0, "files": 0}


def purge(archive: Archive, **arguments: Any) -> dict[str, Any]:
    task = PurgeTranscriptionsOperator(
        task_id="forget", sql_conn_id=CONN_ID, results_path=str(archive.results), **arguments
    )
    return task.execute(task_context(TaskStateStore(), task_id="forget"))


def list_again(archive: Archive, run_id: str, **arguments: Any) -> list[str]:
    task = ListRecordingsOperator(
        task_id="list",
        path=str(archive.folder),
        results_path=str(archive.results),
        sql_conn_id=CONN_ID,
        public_urls={str(archive.folder): PUBLIC},
        **arguments,
    )
    return task.execute(task_context(None, task_id="list", run_id=run_id))


def run(archive: Archive, run_id: str = "run") -> dict[str, int]:
    archive.list(run_id)
    archive.submit(run_id)
    archive.plaud.state.clock.advance(3600)
    return archive.land(run_id)


def texts(archive: Archive) -> list[str]:
    """Return the texts of all transcripts, and of their segments."""
    found = archive.warehouse.rows("select text from plaud_transcripts")
    found += archive.warehouse.rows("select text from plaud_segments")
    return [text for (text,) in found if text]


@pytest.mark.parametrize("chosen", ["age", "recording", "id", "folder"])
def test_what_is_chosen_goes_and_the_rest_stays(any_archive: Archive, chosen: str) -> None:
    archive = any_archive
    archive.add("a.wav")
    run(archive)
    old = archive.entries()["a.wav"]
    when = datetime.now(tz=UTC) - timedelta(days=40)
    for table in ("plaud_submissions", "plaud_transcripts"):
        moment = f"{when:%Y-%m-%d %H:%M:%S.%f}" + "+00:00" * (archive.warehouse.kind == "postgres")
        archive.warehouse.run(f"update {table} set submitted_at = '{moment}'")
    (archive.folder / "a.wav").rename(archive.folder / "a.bak")
    archive.add("b.wav")
    run(archive, "later")
    wanted: dict[str, dict[str, Any]] = {
        "age": {"older_than_days": "30"},
        "recording": {"recordings": str(archive.folder / "a.wav")},
        "id": {"recordings": [old.transcription_id]},
        # Not that of a folder whose name begins so.
        "folder": {"path": f"file://{archive.folder}", "older_than_days": 30},
    }

    planned = purge(archive, plan_only=True, **wanted[chosen])
    assert sorted(archive.landed()) == ["a.wav", "b.wav"]
    removed = purge(archive, **wanted[chosen])

    assert {**planned, "plan_only": False} == removed
    assert removed["recordings"] == removed["transcripts"] == removed["ledger"] == 1
    assert removed["segments"] > 0
    assert list(archive.landed()) == ["b.wav"]
    assert archive.states() == {"a.wav": "landed", "b.wav": "landed"}
    after = archive.entries()["a.wav"]
    assert (after.recording_key, after.transcription_id, after.submitted_at) == (
        old.recording_key,
        old.transcription_id,
        after.submitted_at,
    )
    assert after.purged_at is not None
    assert purge(archive, **wanted[chosen]) == {**removed, **NOTHING}


def test_a_folder_is_not_one_whose_name_begins_alike() -> None:
    wanted = Wanted(folder="s3://aws@bucket/calls")

    assert wanted.has(None, "s3://other@bucket/calls/1.wav", None)
    assert not wanted.has(None, "s3://bucket/calls-of-others/1.wav", None)
    assert not wanted.has(None, None, None)


def test_what_is_named_is_read_once_for_all_rows() -> None:
    wanted = Wanted(recordings=iter(["txn_1", "s3://aws@bucket/calls/1.wav"]))

    rows = [("txn_1", None), ("txn_2", "s3://other@bucket/calls/1.wav"), ("txn_1", None), ("txn_3", None)]
    assert [wanted.has(*row, None) for row in rows] == [True, True, True, False]


def test_nothing_comes_back_by_itself_and_nothing_is_paid_again(any_archive: Archive) -> None:
    archive = any_archive
    archive.add("a.wav", "b.wav")
    run(archive)
    purge(archive, path=str(archive.folder))
    paid = archive.paid()

    resubmit = ["failed", "expired", "unknown"]
    assert list_again(archive, "again", resubmit=resubmit) == []
    # Nor by a task that has the recordings already.
    archive.list("third")
    counts = archive.submit("third", resubmit=resubmit)
    landed = archive.land("third")
    # Nor if the load of an earlier run is cleared.
    ids = [str(entry.transcription_id) for entry in archive.entries().values()]
    load = TranscriptionToSqlOperator(
        task_id="load", transcription_id=ids, sql_conn_id=CONN_ID, ledger_conn_id=CONN_ID
    )
    loaded = load.execute(task_context(None, task_id="load"))
    with pytest.raises(PlaudInputError, match=r"was purged at .* delete its row"):
        SubmitTranscriptionOperator(
            task_id="submit",
            audio_url=str(archive.folder / "a.wav"),
            public_urls={str(archive.folder): PUBLIC},
            ledger_conn_id=CONN_ID,
            resubmit=["failed", "expired"],
            on_unknown_submit="resubmit",
        ).execute(task_context(TaskStateStore(), task_id="submit"))

    assert counts["new"] == counts["total"] == landed["total"] == loaded["transcripts"] == 0
    assert archive.paid() == paid
    assert archive.landed() == {}
    assert archive.kept() == []


def test_what_is_at_plaud_when_it_is_purged_never_lands(archive: Archive) -> None:
    archive.add("a.wav", "b.wav")
    archive.list()
    archive.submit()
    purge(archive, recordings=[str(archive.folder / "a.wav")])
    archive.plaud.state.clock.advance(3600)
    # As a trigger that waited already does.
    archive.keep("a.wav")

    counts = archive.land()

    assert (counts["total"], counts["landed"]) == (1, 1)
    assert archive.landed() == {"b.wav": "completed"}
    assert archive.kept() == []


def test_a_text_in_hand_when_its_recording_is_purged_is_not_landed(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.add("a.wav")
    archive.list()
    archive.submit()
    archive.plaud.state.clock.advance(3600)
    from plaud_provider.transfers.landing import Lander

    land = Lander._land_slab

    def late(self: Lander, landings: Any, tally: Any) -> None:
        purge(archive, path=str(archive.folder))
        land(self, landings, tally)

    monkeypatch.setattr(Lander, "_land_slab", late)

    archive.land()

    assert archive.landed() == {}


def test_a_claimed_recording_is_left_and_counted(archive: Archive) -> None:
    archive.add("a.wav")
    archive.list()
    archive.submit(max_audio_hours=0)
    archive.hold("a.wav")

    removed = purge(archive, recordings=["/calls/a.wav"])

    assert (removed["in_progress"], removed["recordings"]) == (1, 0)
    assert archive.entries()["a.wav"].purged_at is None


def test_no_byte_of_a_text_is_left(
    archive: Archive, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    archive.add("a.wav", "b.wav")
    archive.list()
    archive.submit()
    archive.plaud.state.clock.advance(3600)
    archive.keep("a.wav", "b.wav")
    # As a process that ended while it kept one leaves it.
    torn = archive.kept()[0]
    torn.with_name(f".{torn.name}.x1y2").write_bytes(torn.read_bytes())
    archive.land(keep_raw=True)
    words = [text for text in texts(archive) if len(text) > 12]
    assert words
    assert traces(tmp_path, words)

    removed = purge(archive, path=str(archive.folder))

    assert removed["files"] == 3
    assert traces(tmp_path, words) == []
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert [form for text in words for form in forms(text) if form.decode() in logged] == []


def forms(text: str) -> list[bytes]:
    """Return a text as it may be written: plain, in JSON, in a URL, and within base64."""
    plain = text.encode()
    within = [base64.b64encode(plain[start : start + 12])[:16] for start in range(3)]
    return [plain, json.dumps(text)[1:-1].encode(), quote(text).encode(), *within]


def traces(folder: Path, words: list[str]) -> list[Path]:
    """Return the files in which a text can be read."""
    every = [file for file in folder.rglob("*") if file.is_file()]
    found = {form for text in words for form in forms(text)}
    return [file for file in every if any(form in file.read_bytes() for form in found)]


@pytest.mark.parametrize("nothing", [{}, {"recordings": [], "path": "None", "older_than_days": "None"}])
def test_a_purge_without_a_choice_is_refused(archive: Archive, nothing: dict[str, Any]) -> None:
    with pytest.raises(PlaudInputError, match="would remove everything"):
        purge(archive, **nothing)


def test_a_signature_is_in_no_rendered_field(archive: Archive) -> None:
    task = PurgeTranscriptionsOperator(
        task_id="forget", recordings=["https://files.example/a.wav?X-Amz-Signature=canary"]
    )

    assert "canary" not in str(task.recordings)
