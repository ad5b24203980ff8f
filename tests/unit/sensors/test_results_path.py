"""A sensor and a loader with the same ``results_path``: each recording costs one result call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import PlaudConfigurationError, PlaudStorageError
from plaud_provider.handover.kept_results import ResultStore
from plaud_provider.sensors.transcription import TranscriptionSensor
from plaud_provider.transfers.transcription_to_sql import TranscriptionToSqlOperator
from tests.unit.sensors.test_transcription import MODES, run, submitted
from tests.unit.tasks import task_context
from tests.unit.warehouse.warehouses import connected


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def kept(results: Path) -> list[Path]:
    return sorted(results.glob("*.json")) if results.exists() else []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 3])
def test_final_answers_are_kept_and_not_asked_for_again(
    plaud: EmulatorServer,
    results: Path,
    mode: str,
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warehouse = connected("sqlite", tmp_path, monkeypatch)
    ids = submitted(count)
    plaud.advance(601)
    plaud.force(ids[0], status="failed", error="nothing was said")

    run(mode, ids, results_path=str(results), on_failed="continue")
    assert len(kept(results)) == count
    asked = len(plaud.ledger(kind="get"))

    load = TranscriptionToSqlOperator(task_id="load", transcription_id=ids, results_path=str(results))
    assert load.execute(task_context(None))["transcripts"] == count
    assert len(plaud.ledger(kind="get")) == asked
    assert kept(results) == []
    assert warehouse.rows("select error from plaud_transcripts where status = 'failed'") == [
        ("nothing was said",)
    ]


@pytest.mark.parametrize("mode", MODES)
def test_a_storage_that_fails_for_a_moment_does_not_end_the_wait(
    plaud: EmulatorServer, results: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = submitted(2)
    plaud.advance(601)
    real, tried = ResultStore.save, []

    def save(store: ResultStore, *arguments: Any) -> None:
        tried.append(1)
        if len(tried) == 1:
            raise PlaudStorageError("results_path: the disk is full")
        real(store, *arguments)

    monkeypatch.setattr(ResultStore, "save", save)

    assert run(mode, ids, results_path=str(results))["completed"] == 2
    assert len(kept(results)) == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_folder_that_cannot_be_fails_it(plaud: EmulatorServer, mode: str) -> None:
    ids = submitted(2)
    plaud.advance(601)

    with pytest.raises(PlaudConfigurationError, match="results_path"):
        run(mode, ids, results_path="results")


@pytest.mark.parametrize("unset", [None, "", "None"])
def test_the_template_of_an_unset_value_keeps_nothing(
    plaud: EmulatorServer, results: Path, unset: str | None
) -> None:
    ids = submitted(2)
    plaud.advance(601)

    assert run("deferrable", ids, results_path=unset)["completed"] == 2
    assert kept(results) == []


def test_every_argument_is_templated() -> None:
    arguments = {name: f"{{{{ '{name}' }}}}" for name in TranscriptionSensor.template_fields}
    sensor = TranscriptionSensor(task_id="wait", **arguments)  # type: ignore[arg-type]
    sensor.render_template_fields({})

    assert {name: getattr(sensor, name) for name in arguments} == {name: name for name in arguments}
