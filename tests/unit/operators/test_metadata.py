"""What users know of their recordings lands beside the transcripts, or is refused before anything is paid."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from plaud_provider.exceptions import PlaudInputError
from plaud_provider.operators.list_recordings import ListRecordingsOperator
from plaud_provider.task_groups.archive import transcribe_archive
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator
from tests.unit.operators.archives import PUBLIC, Archive
from tests.unit.tasks import task_context
from tests.unit.warehouse.warehouses import CONN_ID

PATTERN = "{agent}_{date:%Y%m%d}-{time:%H%M}.wav"
NAMES = ("anna_20240301-0915.wav", "bert_20240302-2359.wav", "memo.wav")


def listed(archive: Archive, **arguments: Any) -> list[str]:
    task = ListRecordingsOperator(
        task_id="list",
        path=str(archive.folder),
        results_path=str(archive.results),
        public_urls={str(archive.folder): PUBLIC},
        **arguments,
    )
    return task.execute(task_context(None, task_id="list"))


def test_recordings_of_an_archive_have_what_their_names_and_a_list_say(
    any_archive: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = any_archive
    caplog.set_level(logging.WARNING)
    calls = tmp_path / "crm.csv"
    calls.write_text(f"reference,customer\n{NAMES[1]},7\nnot-there.wav,8\n")
    told = {
        "metadata_pattern": PATTERN,
        "metadata_path": str(calls),
        "metadata_columns": ["agent", "customer"],
        "metadata_timezone": "Europe/Berlin",
        "metadata": {"campaign": "spring"},
    }
    archive.add(*NAMES)
    assert listed(archive, **told)
    archive.list()
    archive.submit(**told)
    archive.plaud.advance(601)

    assert archive.land(**told)["landed"] == 3

    rows = {
        Path(uri).name: (json.loads(fields), *rest)
        for uri, fields, *rest in archive.warehouse.rows(
            "select audio_uri, cast(metadata as text), cast(recording_started_at as text), "
            "cast(recording_date as text), agent, customer from plaud_transcripts"
        )
    }
    fields, started_at, day, *columns = rows[NAMES[0]]
    assert fields == {"agent": "anna", "date": "2024-03-01", "time": "0915", "campaign": "spring"}
    assert started_at.startswith("2024-03-01 08:15:00")
    assert (day, columns) == ("2024-03-01", ["anna", None])
    assert rows[NAMES[1]][0]["customer"] == "7"
    assert rows[NAMES[1]][3:] == ("bert", "7")
    assert rows[NAMES[2]] == ({"campaign": "spring"}, None, None, None, None)
    said = caplog.text
    assert said.count("1 of 3 recordings do not match metadata_pattern") == 1
    assert said.count("2 of 3 recordings do not match metadata_path") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metadata_pattern": "{agent"}, "metadata_pattern: '{agent'"),
        ({"metadata_columns": ["agent"]}, "metadata_columns: nothing has a field 'agent'"),
        ({"metadata_pattern": PATTERN, "metadata_columns": ["Status", "agent"]}, "metadata_columns: "),
        ({"metadata_pattern": "{status}.wav", "metadata_columns": ["status"]}, "'status' is a column that"),
        ({"metadata_path": "/nowhere/calls.csv"}, "metadata_path: '/nowhere/calls.csv'"),
        ({"metadata_timezone": "Mars/Base"}, "metadata_timezone: 'Mars/Base'"),
    ],
)
def test_listing_refuses_what_could_describe_nothing_before_anything_is_paid(
    archive: Archive, arguments: dict[str, Any], message: str
) -> None:
    archive.add(*NAMES)

    with pytest.raises(PlaudInputError, match=message):
        listed(archive, **arguments)

    assert archive.plaud.ledger() == []


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("metadata_pattern", "{a}/{a}.wav"),
        ("metadata_pattern", "(?P<a>["),
        ("metadata_columns", ["a b"]),
        ("metadata_path", "/calls.xlsx"),
        ("metadata_timezone", "nowhere"),
    ],
)
def test_wrong_arguments_are_refused_when_a_dag_is_parsed(argument: str, value: Any) -> None:
    with pytest.raises(PlaudInputError, match=rf"^{argument}: "):
        TranscriptionToSqlOperator(task_id="load", transcription_id="txn_1", **{argument: value})
    with DAG("dag", schedule=None), pytest.raises(PlaudInputError, match=rf"^{argument}: "):
        transcribe_archive("/calls", results_path="/results", **{argument: value})


def test_templates_are_left_until_they_are_rendered() -> None:
    TranscriptionToSqlOperator(
        task_id="load",
        transcription_id="txn_1",
        metadata="{{ params.fields }}",
        metadata_pattern="{{ params.pattern }}",
        metadata_path="{{ params.path }}",
        metadata_columns="{{ params.columns }}",
        metadata_timezone="{{ params.zone }}",
    )


def test_group_passes_what_was_given_and_nothing_else() -> None:
    with DAG("dag", schedule=None, default_args={"metadata_timezone": "Asia/Tokyo"}) as dag:
        transcribe_archive("/calls", results_path="/results", metadata_pattern="{agent}/{call}.mp3")

    for name in ("list", "chunk.submit", "chunk.land"):
        task = dag.get_task(f"transcribe.{name}")
        told = getattr(task, "partial_kwargs", None) or vars(task)
        assert told["metadata_pattern"] == "{agent}/{call}.mp3"
        assert told["metadata_timezone"] == "Asia/Tokyo"
        assert told.get("metadata_path") is None


def test_single_recording_has_the_fields_it_was_given(archive: Archive) -> None:
    archive.add("a.wav")
    archive.list()
    archive.submit()
    transcription_id = archive.entries()["a.wav"].transcription_id
    archive.plaud.force(transcription_id, status="completed", text="a")

    for fields in ({"agent": "Löw", "started_at": "2024-03-01T09:15:00Z"}, "{'agent': 'Löw'}"):
        # As a template renders it: a mapping, or its text.
        TranscriptionToSqlOperator(
            task_id="load", transcription_id=transcription_id, metadata=fields, metadata_columns="agent"
        ).execute(task_context(None, task_id="load"))
        assert archive.warehouse.rows("select agent from plaud_transcripts") == [("Löw",)]


def test_reference_that_only_the_ledger_knows_is_described(archive: Archive) -> None:
    archive.add(NAMES[0])
    archive.list()
    archive.submit()
    transcription_id = archive.entries()[NAMES[0]].transcription_id
    archive.plaud.force(transcription_id, status="completed", text="a")

    TranscriptionToSqlOperator(
        task_id="load",
        transcription_id=transcription_id,
        ledger_conn_id=CONN_ID,
        metadata_pattern=PATTERN,
        metadata_columns=["agent"],
    ).execute(task_context(None, task_id="load"))

    assert archive.warehouse.rows("select agent from plaud_transcripts") == [("anna",)]
