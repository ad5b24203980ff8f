from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, Asset, AssetAlias, BaseOperator
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudInputError,
    PlaudNotFoundError,
    PlaudStillProcessingError,
    PlaudTableMismatchError,
    PlaudTranscriptionFailedError,
)
from plaud_provider.hooks.plaud import PlaudHook
from plaud_provider.transfers import landing
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator
from tests.unit.warehouse import processes
from tests.unit.warehouse.warehouses import CONN_ID, Warehouse

SENTINEL = "SENTINEL-words-of-a-caller"
SIGNATURE = "canary-signature-91ab"
SIGNED = f"https://calls.s3.amazonaws.com/1.wav?versionId=7&X-Amz-Signature={SIGNATURE}&X-Amz-Expires=60"
UNSIGNED = "https://calls.s3.amazonaws.com/1.wav"
SEGMENTS = [
    {"start": 0.0, "end": 1.5, "speaker": "A", "text": f"{SENTINEL} one"},
    {"start": 1.5, "end": None, "text": "two"},
]


def submitted(plaud: EmulatorServer, *statuses: str) -> list[str]:
    """Submit recordings and have Plaud report them so; return their ids."""
    with PlaudHook() as hook:
        ids = [
            hook.submit_transcription(f"https://calls.example/{n}.wav").transcription_id
            for n in range(len(statuses))
        ]
    for transcription_id, status in zip(ids, statuses, strict=True):
        if status == "completed":
            plaud.force(
                transcription_id, status=status, text=SENTINEL, segments=SEGMENTS, language="en", duration=9
            )
        elif status == "failed":
            plaud.force(transcription_id, status=status, error={"code": "NO_AUDIO", "message": "empty"})
    return ids


def reads(plaud: EmulatorServer) -> int:
    return len(plaud.ledger(kind="get"))


def operator(transcription_id: Any, **arguments: Any) -> TranscriptionToSqlOperator:
    return TranscriptionToSqlOperator(task_id="load", transcription_id=transcription_id, **arguments)


def task_context(run_id: str = "a_run") -> Any:
    return {"ti": SimpleNamespace(dag_id="a_dag", run_id=run_id), "outlet_events": OutletEventAccessors()}


def load(transcription_id: Any, *, run_id: str = "a_run", **arguments: Any) -> Any:
    return operator(transcription_id, **arguments).execute(task_context(run_id))


def test_one_transcription_becomes_rows(plaud: EmulatorServer, warehouse: Warehouse) -> None:
    [only] = submitted(plaud, "completed")

    assert load(only, audio_uri=SIGNED) == {"version": 1, "transcripts": 1, "segments": 2, "failed": 0}

    columns = "transcription_id, audio_uri, region, language, duration_seconds, text, status, dag_id, run_id"
    assert warehouse.rows(f"select {columns} from plaud_transcripts") == [
        (only, UNSIGNED, "us", "en", 9.0, SENTINEL, "completed", "a_dag", "a_run")
    ]
    assert warehouse.rows("select * from plaud_segments order by segment_index") == [
        (only, 0, 0.0, 1.5, "A", f"{SENTINEL} one", None),
        (only, 1, 1.5, None, None, "two", None),
    ]
    assert reads(plaud) == 1


def test_many_become_rows_failed_ones_with_their_error(plaud: EmulatorServer, warehouse: Warehouse) -> None:
    ids = submitted(plaud, "completed", "failed", "completed")

    assert load(ids, audio_uri=["s3://b/0.wav", None, SIGNED]) == {
        "version": 1,
        "transcripts": 3,
        "segments": 4,
        "failed": 1,
    }

    rows = warehouse.rows("select transcription_id, audio_uri, status, error, text from plaud_transcripts")
    assert sorted(rows, key=lambda row: ids.index(row[0])) == [
        (ids[0], "s3://b/0.wav", "completed", None, SENTINEL),
        (ids[1], None, "failed", "NO_AUDIO: empty", None),
        (ids[2], UNSIGNED, "completed", None, SENTINEL),
    ]


def test_all_is_landed_before_failed_ones_fail_the_task_with_their_reasons(
    plaud: EmulatorServer, warehouse: Warehouse
) -> None:
    ids = submitted(plaud, "failed", "completed")

    with pytest.raises(PlaudTranscriptionFailedError, match=rf"1 transcription: {ids[0]}.*NO_AUDIO: empty"):
        load(ids, on_failed="fail")

    rows = warehouse.rows("select transcription_id, status from plaud_transcripts")
    assert dict(rows) == {ids[0]: "failed", ids[1]: "completed"}
    assert load(ids[1], on_failed="fail")["transcripts"] == 1


def test_running_again_changes_only_when_and_by_whom(plaud: EmulatorServer, warehouse: Warehouse) -> None:
    ids = submitted(plaud, "completed", "failed")
    load(ids)
    before, segments_before = warehouse.content()

    load(ids, run_id="next_run")

    after, segments_after = warehouse.content()
    assert segments_after == segments_before
    assert [row[:12] + row[15:] for row in after] == [row[:12] + row[15:] for row in before]
    assert {row[14] for row in after} == {"next_run"}


def test_id_given_twice_is_fetched_and_landed_once(plaud: EmulatorServer, warehouse: Warehouse) -> None:
    [only] = submitted(plaud, "completed")

    assert load([only, only], audio_uri=[None, "s3://b/0.wav"])["transcripts"] == 1

    assert reads(plaud) == 1
    assert warehouse.rows("select audio_uri from plaud_transcripts") == [("s3://b/0.wav",)]


class LazySequence(Sequence[str]):
    """Asks for each item, as Airflow's lazy XCom sequence does; counts how often."""

    def __init__(self, items: list[str]) -> None:
        self._items = items
        self.asked = 0

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    def __iter__(self) -> Iterator[str]:
        for item in self._items:
            self.asked += 1
            yield item


def test_lazy_sequence_of_a_mapped_task_is_read_once(plaud: EmulatorServer, warehouse: Warehouse) -> None:
    ids = LazySequence(submitted(plaud, "completed", "completed"))
    references = LazySequence(["s3://b/0.wav", SIGNED])

    assert load(ids, audio_uri=references)["transcripts"] == 2

    assert (ids.asked, references.asked) == (2, 2)
    assert (UNSIGNED,) in warehouse.rows("select audio_uri from plaud_transcripts")


def test_empty_list_is_nothing_to_do(
    plaud: EmulatorServer, warehouse: Warehouse, capfd: pytest.CaptureFixture[str]
) -> None:
    assert load([]) == {"version": 1, "transcripts": 0, "segments": 0, "failed": 0}

    assert "nothing to land" in "".join(capfd.readouterr())
    assert not warehouse.path.exists()
    assert plaud.ledger() == []


def test_what_is_still_processing_is_told_after_the_others_are_landed(
    plaud: EmulatorServer, warehouse: Warehouse
) -> None:
    ids = submitted(plaud, *["processing"] * 7, "completed", "failed")

    with pytest.raises(PlaudStillProcessingError) as raised:
        load(ids)

    message = str(raised.value)
    assert f"7 transcriptions: {', '.join(ids[:5])} and 2 more. The other 2 of 9 are landed" in message
    assert warehouse.rows("select count(*) from plaud_transcripts") == [(2,)]


def test_what_plaud_does_not_know_is_told_after_the_others_are_landed(
    plaud: EmulatorServer, warehouse: Warehouse
) -> None:
    [known] = submitted(plaud, "completed")

    with pytest.raises(PlaudNotFoundError, match=r"1 transcription: txn_gone. The other 1 of 2") as raised:
        load(["txn_gone", known])

    assert raised.value.status_code == 404
    assert warehouse.rows("select transcription_id from plaud_transcripts") == [(known,)]


def test_rows_land_slab_by_slab_with_no_duckdb_file_held_between(
    plaud: EmulatorServer, duckdb_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = submitted(plaud, "completed", "completed", "completed")
    monkeypatch.setattr(landing, "SLAB_ASKED", 2)
    fetch = PlaudHook.get_transcription
    landed_before: list[int] = []

    def watching(hook: PlaudHook, transcription_id: str) -> Any:
        with processes.holding_duckdb_file(duckdb_warehouse.path) as another:
            processes.let_go(another)
        landed_before.append(duckdb_warehouse.rows("select count(*) from plaud_transcripts")[0][0])
        return fetch(hook, transcription_id)

    monkeypatch.setattr(PlaudHook, "get_transcription", watching)

    assert load(ids)["transcripts"] == 3
    assert landed_before == [0, 0, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "problem"),
    [
        ({"sql_conn_id": "no_such"}, PlaudConfigurationError, "sql_conn_id: there is no .* 'no_such'"),
        ({"sql_conn_id": "plaud_default"}, PlaudConfigurationError, "sql_conn_id: .* is of type"),
        ({"transcripts_table": ""}, PlaudInputError, "transcripts_table: '' is empty"),
        ({"segments_table": "plaud_transcripts"}, PlaudInputError, "segments_table: "),
        ({"transcription_id": "../etc"}, PlaudInputError, "transcription_id: "),
        ({"transcription_id": "['txn_1', 'txn_2']"}, PlaudInputError, "transcription_id: got a list .* text"),
        ({"transcription_id": None}, PlaudInputError, "transcription_id: "),
        ({"transcription_id": ["txn_1", None]}, PlaudInputError, "transcription_id: "),
        (
            {"audio_uri": ["s3://b/1.wav", "s3://b/2.wav"]},
            PlaudInputError,
            "audio_uri: 2 references for 1 ids",
        ),
        ({"audio_uri": []}, PlaudInputError, "audio_uri: 0 references for 1 ids"),
        ({"audio_uri": "['s3://b/1.wav']"}, PlaudInputError, "audio_uri: got a list .* text"),
        ({"audio_uri": {"a": 7}}, PlaudInputError, "audio_uri: takes a reference"),
        ({"region": "eu"}, PlaudConfigurationError, "region"),
    ],
)
def test_wrong_argument_is_told_before_plaud_is_asked(
    plaud: EmulatorServer,
    warehouse: Warehouse,
    arguments: dict[str, Any],
    error: type[Exception],
    problem: str,
) -> None:
    with pytest.raises(error, match=problem):
        load(**{"transcription_id": "txn_1", **arguments})

    assert plaud.ledger() == []


def test_table_that_does_not_fit_is_told_before_plaud_is_asked(
    plaud: EmulatorServer, warehouse: Warehouse
) -> None:
    warehouse.run("create table plaud_transcripts (transcription_id varchar)")

    with pytest.raises(PlaudTableMismatchError):
        load("txn_1")

    assert plaud.ledger() == []


def test_tables_have_the_names_given(plaud: EmulatorServer, warehouse: Warehouse) -> None:
    [only] = submitted(plaud, "completed")

    load(only, schema="main", transcripts_table="calls", segments_table='call "segments"')

    assert warehouse.tables() == {"calls", 'call "segments"'}


def test_asset_events_get_the_counts_and_aliases_are_left_alone(
    plaud: EmulatorServer, warehouse: Warehouse
) -> None:
    ids = submitted(plaud, "completed", "failed")
    asset, other, alias = Asset("transcripts"), Asset("segments"), AssetAlias("alias")
    context = task_context()

    operator(ids, outlets=[asset, other, alias]).execute(context)

    events = context["outlet_events"]
    assert events[asset].extra == events[other].extra == {"transcripts": 2, "segments": 2, "failed": 1}
    assert list(events) == [asset, other]


def test_result_is_json(plaud: EmulatorServer, warehouse: Warehouse) -> None:
    assert json.loads(json.dumps(load(submitted(plaud, "completed"))))["version"] == 1


def test_log_can_be_followed_and_shows_no_text_and_no_signature(
    plaud: EmulatorServer,
    warehouse: Warehouse,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    ids = submitted(plaud, "completed", "processing")

    with pytest.raises(PlaudStillProcessingError):
        load(ids, audio_uri=[SIGNED, SIGNED])

    logged = caplog.text + "".join(capfd.readouterr())
    assert f"Transcription {ids[1]} is still 'processing'" in logged
    assert f"'plaud_transcripts' and 'plaud_segments' of warehouse '{CONN_ID}'" in logged
    assert "Landed 1 of 2 transcription(s) so far" in logged
    assert SENTINEL not in logged
    assert SIGNATURE not in logged


@pytest.mark.parametrize("given", [SIGNED, [SIGNED, None, "{{ 'x' }}"], (SIGNED,)])
def test_rendered_fields_show_no_signature(given: Any) -> None:
    load_task = operator(["txn_1", "txn_2", "txn_3"], audio_uri=given)

    load_task.render_template_fields({})

    shown = json.dumps(_serialize_rendered_fields(load_task))
    assert SIGNATURE not in shown
    assert UNSIGNED in shown


def test_template_that_renders_a_signed_url_shows_none() -> None:
    load_task = operator("txn_1", audio_uri="{{ url }}")

    assert load_task.audio_uri == "{{ url }}"
    load_task.render_template_fields({"url": SIGNED})

    assert _serialize_rendered_fields(load_task)["audio_uri"] == UNSIGNED


def test_mapped_task_shows_no_signature() -> None:
    with DAG("calls", schedule=None):
        mapped = TranscriptionToSqlOperator.partial(task_id="load").expand_kwargs(
            [{"transcription_id": "txn_1", "audio_uri": SIGNED}]
        )

    unmapped = mapped.unmap({"transcription_id": "txn_1", "audio_uri": SIGNED})

    assert SIGNATURE not in json.dumps(_serialize_rendered_fields(unmapped))


def test_outputs_of_other_tasks_are_upstream() -> None:
    with DAG("calls", schedule=None):
        submit = BaseOperator(task_id="submit")
        listing = BaseOperator(task_id="listing")
        load_task = operator(submit.output, audio_uri=listing.output)

    assert load_task.upstream_task_ids == {"submit", "listing"}


def test_every_argument_is_templated() -> None:
    arguments = {name: f"{{{{ '{name}' }}}}" for name in TranscriptionToSqlOperator.template_fields}
    load_task = operator(**arguments)

    load_task.render_template_fields({})

    assert _serialize_rendered_fields(load_task) == {name: name for name in arguments}


def test_dag_parsing_loads_no_database_and_no_http_library() -> None:
    program = (
        "import sys; from airflow.sdk import Asset, BaseOperator; before = set(sys.modules); "
        "import plaud_provider.transfers.transcription_to_sql; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new & {'sqlalchemy', 'pandas', 'numpy', 'duckdb', 'requests', 'aiohttp', 'tenacity'}))"
    )

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert printed.stdout.splitlines()[-1] == "[]"
