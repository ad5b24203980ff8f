"""Arguments that are text take paths, and what templates of native values make of text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, ObjectStoragePath
from airflow.serialization.serialized_objects import DagSerialization

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.operators.land_recordings import LandRecordingsOperator
from plaud_provider.operators.list_recordings import ListRecordingsOperator
from plaud_provider.operators.report_recordings import ReportRecordingsOperator
from plaud_provider.operators.submit_recordings import SubmitRecordingsOperator
from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.sensors.transcription import TranscriptionSensor
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator
from tests.unit.operators.archives import Archive
from tests.unit.tasks import TaskStateStore, task_context

NEEDED: dict[type[Any], dict[str, Any]] = {
    ListRecordingsOperator: {"path": "/a", "results_path": "/r"},
    SubmitRecordingsOperator: {"manifest": "/m"},
    ReportRecordingsOperator: {
        "manifests": [],
        "results_path": "/r",
        "list_task_id": "l",
        "submit_task_id": "s",
        "land_task_id": "d",
    },
    LandRecordingsOperator: {"manifest": "/m", "results_path": "/r"},
    SubmitTranscriptionOperator: {"audio_url": "https://files.example/1.mp3"},
    TranscriptionSensor: {"transcription_id": "txn_1"},
    TranscriptionToSqlOperator: {"transcription_id": "txn_1"},
}
#: Templated arguments that are no text, or several: they are read where they are used.
OTHERS = {
    *(
        "audio_url",
        "audio_uri",
        "recordings",
        "transcription_id",
        "suffixes",
        "modified_after",
        "modified_before",
        "chunk_size",
        "manifests",
    ),
    *("speaker_diarization", "url_validity", "public_urls", "identity_params", "resubmit", "max_audio_hours"),
    *("hotwords", "decode_silence"),
    *("max_recording_hours", "plan_only", "keep_raw", "max_failed", "max_changed", "price_per_hour"),
    *("metadata", "metadata_columns"),
    # What is no time zone is refused when the DAG is parsed.
    "metadata_timezone",
}
#: It could be that of anything, a list of fields and a pattern of them included.
ANY_PATH = "/data/{calls}.csv"


def texts() -> Iterator[tuple[type[Any], str]]:
    for operator in NEEDED:
        for name in operator.template_fields:
            if name not in OTHERS:
                yield operator, name


def rendered(operator: type[Any], name: str, value: Any) -> Any:
    """Return an argument as Airflow leaves it that has rendered a template of native values."""
    with DAG("d", schedule=None, render_template_as_native_obj=True) as dag:
        task = operator(task_id="task", **{**NEEDED[operator], name: "{{ params.value }}"})
    task.render_template_fields({"params": {"value": value}, "dag": dag, "task": task, "ti": None})
    return getattr(task, name)


@pytest.mark.parametrize(("operator", "name"), list(texts()))
def test_every_text_takes_paths_numbers_and_lists_of_one(operator: type[Any], name: str) -> None:
    assert rendered(operator, name, "2024") == "2024"
    assert rendered(operator, name, "[1]") == "[1]"
    assert rendered(operator, name, ["one"]) == "one"
    assert rendered(operator, name, "None") is None
    for path in (Path(ANY_PATH), ObjectStoragePath(f"file://{ANY_PATH}")):
        task = operator(task_id="task", **{**NEEDED[operator], name: path})
        assert getattr(task, name) == str(path)
    with pytest.raises(PlaudInputError, match=f"^{name}: takes one text, not a list of 2"):
        rendered(operator, name, ["one", "two"])


@pytest.mark.parametrize(("operator", "name"), list(texts()))
def test_a_path_can_be_stored_with_the_dag(operator: type[Any], name: str) -> None:
    with DAG("d", schedule=None) as dag:
        operator(task_id="task", **{**NEEDED[operator], name: Path(ANY_PATH)})

    assert f'"{ANY_PATH}"' in json.dumps(DagSerialization.serialize_dag(dag))


@pytest.mark.parametrize("kind", [Path, lambda path: ObjectStoragePath(f"file://{path}"), str])
def test_an_archive_is_listed_and_planned_whatever_names_it(archive: Archive, kind: Any) -> None:
    for folder in ("2024", "2025"):
        (archive.folder / folder).mkdir(parents=True)
    archive.add("2024/a.wav", "2024/b.wav", "2025/c.wav")
    listing = ListRecordingsOperator(
        task_id="list",
        path=kind(archive.folder),
        results_path=kind(archive.results),
        pattern=["2024/*"],
        public_urls={Path(archive.folder): "https://files.example"},
        language=["en"],
    )
    [chunk] = listing.execute(task_context(None, task_id="list"))
    submit = SubmitRecordingsOperator(
        task_id="submit",
        manifest=kind(chunk.removeprefix("file://")),
        public_urls={Path(archive.folder): "https://files.example"},
        plan_only=True,
        language=["en"],
    )

    assert submit.execute(task_context(None, task_id="submit"))["new"] == 2


@pytest.mark.parametrize(
    "kind", [Path, lambda path: ObjectStoragePath(f"file://{path}"), lambda path: [str(path)]]
)
def test_a_recording_is_submitted_whatever_names_it(
    plaud: EmulatorServer, archive: Archive, kind: Any
) -> None:
    archive.add("a.wav")
    submit = SubmitTranscriptionOperator(
        task_id="submit",
        audio_url=kind(Path(archive.folder, "a.wav")),
        public_urls={str(archive.folder): "https://files.example"},
    )

    assert submit.execute(task_context(TaskStateStore(), task_id="submit"))
    assert plaud.ledger(kind="submit")[0]["body"] == {"audioUrl": "https://files.example/a.wav"}


def test_the_recordings_of_rows_may_be_named_by_paths_and_numbers() -> None:
    load = TranscriptionToSqlOperator(
        task_id="load", transcription_id=["a", "b", "c"], audio_uri=[Path("/data/1.wav"), 48213, None]
    )

    assert load._recordings() == {"a": "/data/1.wav", "b": "48213", "c": None}
