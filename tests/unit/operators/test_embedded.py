"""An archive with the API ``embedded``: options of the recordings, and what lands."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.emulator.settings import Settings
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.operators.list_recordings import ListRecordingsOperator
from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.submit.plan import Plan
from tests.unit.operators.archives import Archive
from tests.unit.tasks import TaskStateStore, task_context
from tests.unit.warehouse.warehouses import CONN_ID


@pytest.fixture
def embedded(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    settings = Settings(api="embedded", fetch_audio=False, processing_seconds=600, processing_ratio=0)
    with EmulatorServer(settings) as server:
        connection = json.loads(server.airflow_connection)
        connection["extra"]["requests_per_minute"] = 60_000
        monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
        archive.plaud = server
        archive.add("a.wav", "b.wav")
        archive.list()
        yield archive


def test_an_archive_lands_with_its_api_model_and_languages(embedded: Archive) -> None:
    counts = embedded.submit(model="plaud-omni-3", hotwords="Plaud Note, MacBook", detection_level="segment")
    assert counts["submitted"] == 2
    embedded.plaud.advance(600)
    assert embedded.land()["landed"] == 2

    sent = [request["body"]["params"] for request in embedded.plaud.ledger(kind="submit")]
    assert [(one["hotwords"], one["transcribe"]["model"]) for one in sent] == [
        ("Plaud Note,MacBook", "plaud-omni-3")
    ] * 2
    assert embedded.plaud.summary()["exchanges"] == 0
    rows = embedded.warehouse.rows("select api, model, completed_at from plaud_transcripts")
    assert rows == [("embedded", "plaud-omni-3", None)] * 2
    languages = embedded.warehouse.rows("select distinct language from plaud_segments")
    assert languages == [("en",)]


def test_other_options_are_another_recording_to_list_submit_and_ledger(embedded: Archive) -> None:
    embedded.submit(model="plaud-omni-3")
    assert embedded.submit("run", model="plaud-omni-3")["new"] == 0
    assert embedded.submit("run", hotwords=["Plaud"])["new"] == 2
    assert embedded.submit("run")["new"] == 2
    assert embedded.paid().total() == 6


def test_the_listing_knows_recordings_by_their_options(
    embedded: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded.submit(model="plaud-omni-3")
    embedded.plaud.advance(600)
    embedded.land()
    asked: list[str] = []
    key = Plan.key
    monkeypatch.setattr(Plan, "key", lambda *told: asked.append(key(*told)) or asked[-1])

    def chunks(run_id: str, **options: str) -> list[str]:
        task = ListRecordingsOperator(
            task_id="list",
            path=str(embedded.folder),
            results_path=str(embedded.results),
            sql_conn_id=CONN_ID,
            public_urls={str(embedded.folder): "https://files.example"},
            **options,
        )
        return task.execute(embedded.context("list", run_id))

    assert chunks("second", model="plaud-omni-3") == []
    assert len(chunks("third")) == 1
    assert len(set(asked)) == 4


@pytest.mark.parametrize("name", ["webhook_url", "model", "detection_level"])
def test_what_the_api_lacks_is_refused_by_every_task_that_would_pay(embedded: Archive, name: str) -> None:
    option = {name: "https://hook.example/"}
    single = SubmitTranscriptionOperator(task_id="submit", audio_url="https://calls.example/a.mp3", **option)

    with pytest.raises(PlaudInputError, match=f"^{name}: "):
        embedded.submit(**option)
    with pytest.raises(PlaudInputError, match=f"^{name}: "):
        single.execute(task_context(TaskStateStore()))
    assert embedded.plaud.ledger() == []
    assert embedded.states() == {}
