from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from plaud_provider.api.models import Status
from plaud_provider.exceptions import PlaudInputError, PlaudNotFoundError, PlaudWarehouseError
from plaud_provider.operators.export_transcription import ExportTranscriptionOperator
from tests.unit.postgres_server import postgres_database, postgres_server
from tests.unit.tasks import task_context
from tests.unit.warehouse.warehouses import KINDS, Warehouse, connected, connected_postgres, landing

__all__ = ["postgres_database", "postgres_server"]

SENTINEL = "SENTINEL words of a caller"


@pytest.fixture(params=[*KINDS, "postgres"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    if request.param == "postgres":
        return connected_postgres(request.getfixturevalue("postgres_database"), monkeypatch)
    return connected(request.param, tmp_path, monkeypatch)


@pytest.fixture
def sqlite_warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    return connected("sqlite", tmp_path, monkeypatch)


def landed(warehouse: Warehouse, *audio_uris: str | None, **values: Any) -> list[str]:
    """Land a transcript of each recording, and return their ids."""
    ids = [f"txn_{number}" for number in range(len(audio_uris))]
    answers = [
        {
            "transcriptionId": one,
            "status": "completed",
            "segments": [{"start": 0, "end": 2.5, "text": f"{SENTINEL} {one}", "speaker": "A"}],
        }
        for one in ids
    ]
    writer = warehouse.writer()
    writer.ensure_tables()
    writer.replace(
        [
            landing(one, audio_uri=uri, raw=json.dumps(answer), **values)
            for one, uri, answer in zip(ids, audio_uris, answers, strict=True)
        ]
    )
    return ids


def export(**arguments: Any) -> Any:
    context = task_context(None, dag_id="a_dag", run_id="a_run")
    return ExportTranscriptionOperator(task_id="export", **arguments).execute(context)


def test_files_lie_beside_their_recordings_under_names_of_their_own(
    warehouse: Warehouse, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = tmp_path / "calls"
    calls.mkdir()
    (calls / "1.srt").write_text("somebody's own")
    ids = landed(warehouse, f"{calls}/1.mp3", f"{calls}/1.wav", f"file://{calls}/2.mp3")

    with caplog.at_level(logging.DEBUG):
        written = export(transcription_id=ids, formats="srt,txt")

    names = ["1.mp3.srt", "1.mp3.txt", "1.srt", "1.wav.srt", "1.wav.txt", "2.mp3.srt", "2.mp3.txt"]
    assert sorted(path.name for path in calls.iterdir()) == names
    assert sorted(written)[:2] == [f"{calls}/1.mp3.srt", f"{calls}/1.mp3.txt"]
    assert (calls / "1.srt").read_text() == "somebody's own"
    assert (calls / "1.wav.srt").read_text() == f"1\n00:00:00,000 --> 00:00:02,500\nA: {SENTINEL} txn_1\n"
    assert (calls / "2.mp3.txt").read_text() == f"A: {SENTINEL} txn_2\n"
    assert "SENTINEL" not in caplog.text + repr(written)


def test_what_a_run_has_landed_goes_below_a_folder_and_again_replaces_it(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    landed(warehouse, "https://calls.example/a/1.mp3", "s3://calls/b/1.mp3", None)
    folder = tmp_path / "out" / "2024"

    first = export(folder=str(folder), formats=["vtt", "json", "md"])
    second = export(folder=str(folder), formats=["vtt", "json", "md"])

    assert second == first
    assert len(first) == 9
    names = sorted(path.name for path in folder.glob("*.vtt"))
    assert names == ["1.mp3.txn_0.vtt", "1.mp3.txn_1.vtt", "txn_2.vtt"]
    assert json.loads((folder / "1.mp3.txn_0.json").read_text())["transcriptionId"] == "txn_0"
    assert export(folder=str(folder), transcription_id=[]) == []


def test_an_id_that_has_not_landed_is_told_after_all_others_are_written(
    sqlite_warehouse: Warehouse, tmp_path: Path
) -> None:
    landed(sqlite_warehouse, "s3://calls/1.mp3")

    with pytest.raises(PlaudNotFoundError, match=r"txn_9 not in 'plaud_transcripts' of 'warehouse_def"):
        export(transcription_id=["txn_9", "txn_0"], folder=str(tmp_path / "out"))

    assert (tmp_path / "out" / "1.mp3.txn_0.srt").exists()


def test_what_has_failed_has_no_file(sqlite_warehouse: Warehouse, tmp_path: Path) -> None:
    writer = sqlite_warehouse.writer()
    writer.ensure_tables()
    writer.replace([landing("txn_1", status=Status.FAILED, raw='{"status": "failed", "error": "no audio"}')])

    assert export(transcription_id="txn_1", folder=str(tmp_path / "out")) == []


@pytest.mark.parametrize(
    ("audio_uri", "arguments", "message"),
    [
        ("https://calls.example/1.mp3", {}, "folder: .*its recording is https://calls.example/1.mp3. Pass"),
        (None, {}, "folder: .*its recording is not known"),
        ("s3://calls/1.mp3", {"folder": "calls"}, "folder: 'calls' is no folder of a kind"),
        ("s3://calls/1.mp3", {"formats": ["pdf"]}, "formats: 'pdf' is none of json, md, srt, txt, vtt"),
    ],
)
def test_what_cannot_be_written_is_named_with_the_remedy(
    sqlite_warehouse: Warehouse, audio_uri: str | None, arguments: dict[str, Any], message: str
) -> None:
    landed(sqlite_warehouse, audio_uri)

    with pytest.raises(PlaudInputError, match=message):
        export(transcription_id="txn_0", **arguments)


def test_nothing_is_created_in_a_warehouse_that_has_no_transcripts(
    sqlite_warehouse: Warehouse, tmp_path: Path
) -> None:
    sqlite_warehouse.run("create table other (a int)")

    with pytest.raises(PlaudWarehouseError, match="plaud_transcripts could not be read"):
        export(transcription_id="txn_0", folder=str(tmp_path))

    assert sqlite_warehouse.tables() == {"other"}
