"""The trigger that keeps what it sees, and comes back for it to be landed."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.serialization.serialized_objects import BaseSerialization

from plaud_provider.api.waiting import Patience
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.exceptions import PlaudStorageError
from plaud_provider.handover.kept_results import ResultStore
from plaud_provider.triggers import transcription
from plaud_provider.triggers.transcription import TranscriptionTrigger
from tests.unit.triggers.test_transcription import TEXT, ending, submitted, trigger


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def kept(results: Path) -> list[Path]:
    return sorted(results.glob("*.json")) if results.exists() else []


def asked(plaud: EmulatorServer) -> list[str]:
    """Return what Plaud was asked for, in order."""
    return [row["path"].rpartition("/")[2] for row in plaud.ledger(kind="get")]


def force(plaud: EmulatorServer, *ids: str) -> None:
    for transcription_id in ids:
        plaud.force(transcription_id, status="completed", text=TEXT)


ARGUMENTS: dict[str, Any] = {
    "transcription_ids": ["txn_1", "txn_2"],
    "plaud_conn_id": "plaud_eu",
    "region": "eu",
    "poke_interval": 30.0,
    "started_at": 1.5,
    "end_time": 2.5,
    "looked_at": 3.0,
    "results_path": "s3://aws_default@calls/results",
    "partial_count": 100,
    "partial_seconds": 300.0,
    "submitted_at": [1.0, None],
    "accepted_at": [None, 2.0],
    "audio_seconds": [None, 36.0],
}


def test_survives_serialization_whole() -> None:
    _, arguments = TranscriptionTrigger(**ARGUMENTS).serialize()
    stored = BaseSerialization.deserialize(BaseSerialization.serialize(arguments))

    assert set(ARGUMENTS) == set(inspect.signature(TranscriptionTrigger).parameters), "each is tested here"
    assert arguments == ARGUMENTS
    assert json.loads(json.dumps(arguments)) == arguments, "nothing but JSON"
    assert TranscriptionTrigger(**stored).serialize()[1] == ARGUMENTS


def test_what_an_earlier_version_has_stored_still_starts() -> None:
    earlier = dict(list(ARGUMENTS.items())[:6])

    assert TranscriptionTrigger(**earlier).results_path is None


# Fault row 60
async def test_final_answers_are_kept_whole_and_not_shown(
    plaud: EmulatorServer, results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ids = submitted(3)
    force(plaud, ids[0])
    plaud.force(ids[1], status="failed", error=f"{TEXT}: no speech")
    plaud.advance(601)

    first, second = await asyncio.gather(*(ending(trigger(ids, results_path=str(results))) for _ in range(2)))

    assert first == second, "two copies, while a dead triggerer's work is taken over"
    assert len(kept(results)) == 3
    answer = ResultStore(str(results)).load("us", ids[0])
    assert answer is not None
    assert answer.text == TEXT
    assert TEXT not in "".join(capfd.readouterr())
    assert TEXT not in "".join(path.name for path in kept(results))


async def test_what_is_processing_is_not_kept(plaud: EmulatorServer, results: Path) -> None:
    await ending(trigger(submitted(2), results_path=str(results), lasts=0.3))

    assert kept(results) == []


async def test_what_is_kept_is_not_asked_for_again(plaud: EmulatorServer, results: Path) -> None:
    ids = submitted(3)
    force(plaud, *ids[:2])
    await ending(trigger(ids[:2], results_path=str(results)))
    plaud.advance(601)
    before = len(asked(plaud))

    result = await ending(trigger(ids, results_path=str(results)))

    assert (result.outcome, result.completed) == ("done", 3)
    assert asked(plaud)[before:] == [ids[2]]


async def test_a_kept_answer_that_is_broken_is_asked_for_again(plaud: EmulatorServer, results: Path) -> None:
    ids = submitted(1)
    force(plaud, *ids)
    await ending(trigger(ids, results_path=str(results)))
    [path] = kept(results)
    path.write_text("{")

    assert (await ending(trigger(ids, results_path=str(results)))).outcome == "done"
    assert len(asked(plaud)) == 2
    assert TEXT in path.read_text()


async def test_a_storage_that_fails_for_a_moment_only_costs_another_look(
    plaud: EmulatorServer, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = submitted(1)
    plaud.advance(601)
    real, tried = ResultStore.save, []

    def save(store: ResultStore, *arguments: Any) -> None:
        tried.append(1)
        if len(tried) <= 2:
            raise PlaudStorageError("results_path: the disk is full")
        real(store, *arguments)

    monkeypatch.setattr(ResultStore, "save", save)

    assert (await ending(trigger(ids, results_path=str(results)))).outcome == "done"
    assert (len(tried), len(kept(results))) == (3, 1)


async def test_an_answer_that_cannot_be_kept_is_not_final(
    plaud: EmulatorServer, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = submitted(1)
    plaud.advance(601)

    def save(*_: Any) -> None:
        raise PlaudStorageError("results_path: the disk is full")

    monkeypatch.setattr(ResultStore, "save", save)
    result = await ending(trigger(ids, results_path=str(results), lasts=0.5))

    assert (result.outcome, result.completed) == ("timeout", 0)
    assert "the disk is full" in result.message


# Coming back for what has finished


async def test_so_many_that_are_final_are_an_event(plaud: EmulatorServer, results: Path) -> None:
    ids = submitted(5)
    force(plaud, *ids[:2])

    result = await ending(trigger(ids, results_path=str(results), partial_count=2))

    assert (result.outcome, result.total, result.completed) == ("partial", 5, 2)
    assert set(result.pending) == set(ids[2:])
    assert len(kept(results)) == 2, "kept before it is told"


async def test_fewer_are_an_event_after_some_time(plaud: EmulatorServer, results: Path) -> None:
    ids = submitted(2)
    force(plaud, ids[0])
    began = time.time()

    result = await ending(trigger(ids, results_path=str(results), partial_count=2, partial_seconds=0.4))

    assert (result.outcome, result.pending) == ("partial", (ids[1],))
    assert time.time() >= began + 0.4


async def test_nothing_that_is_final_is_no_event(plaud: EmulatorServer, results: Path) -> None:
    result = await ending(
        trigger(submitted(2), results_path=str(results), partial_count=1, partial_seconds=0.0, lasts=0.5)
    )

    assert result.outcome == "timeout"


async def test_what_is_all_final_is_done(plaud: EmulatorServer, results: Path) -> None:
    ids = submitted(3)
    plaud.advance(601)
    # So long ago that all are looked at at once, not one after the other.
    long_ago: list[float | None] = [time.time() - 601] * 3

    result = await ending(
        trigger(
            ids,
            results_path=str(results),
            partial_count=1,
            partial_seconds=0.0,
            submitted_at=long_ago,
        )
    )

    assert (result.outcome, result.completed) == ("done", 3), "the looks that were under way have ended"
    assert sorted(asked(plaud)) == sorted(ids)


async def test_no_look_is_made_twice_over_all_events(plaud: EmulatorServer, results: Path) -> None:
    ids = submitted(20)
    plaud.advance(601)
    pending, events = ids, 0
    while pending:
        result = await ending(trigger(pending, results_path=str(results), partial_count=1))
        pending, events = list(result.pending), events + 1

    assert events > 1
    assert sorted(asked(plaud)) == sorted(ids), "one result call for each"


async def test_a_look_that_does_not_end_does_not_hold_up_the_event(
    plaud: EmulatorServer, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcription, "LAST_LOOKS_SECONDS", 0.1)
    ids = submitted(2)
    force(plaud, *ids)
    plaud.inject(
        {"match": {"kind": "get", "path_contains": ids[1]}, "action": "delay", "seconds": 5, "times": 1}
    )

    result = await ending(trigger(ids, results_path=str(results), partial_count=1))

    assert (result.outcome, result.pending) == ("partial", (ids[1],))


async def test_no_partial_events_without_being_asked_for(plaud: EmulatorServer) -> None:
    ids = submitted(2)
    force(plaud, ids[0])

    assert (await ending(trigger(ids, lasts=0.5))).outcome == "timeout"


# Fault row 35
@pytest.mark.parametrize(("age", "outcome"), [(5, "timeout"), (120, "done"), (None, "done")])
async def test_what_was_submitted_just_now_may_not_be_known_yet(
    plaud: EmulatorServer,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    age: float | None,
    outcome: str,
) -> None:
    monkeypatch.setattr("plaud_provider.api.waiting.NOT_FOUND", Patience(2, 0.0))
    now = time.time()
    waiting = trigger(
        ["txn_new"],
        # This wait began long ago; what it waits for need not have.
        started_at=now - 3600,
        submitted_at=[None if age is None else now - age],
        poke_interval=0.05,
        lasts=1.0,
    )
    result = await ending(waiting)

    assert result.outcome == outcome
    assert result.missing == (("txn_new",) if outcome == "done" else ())


# What is wrong


async def test_a_folder_that_cannot_be_ends_it_with_the_class_to_raise(plaud: EmulatorServer) -> None:
    result = await ending(trigger(["txn_1"], results_path="results"))

    assert (result.outcome, result.error) == ("error", "PlaudConfigurationError")
    assert "results_path" in result.message
    assert plaud.ledger() == []


async def test_a_connection_that_is_missing_ends_it_after_some_attempts(
    plaud: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcription, "CONNECTION_ATTEMPTS", 1)
    result = await ending(trigger(["txn_1"], results_path="s3://aws_typo@calls/results"))

    assert result.outcome == "error"
    assert "aws_typo" in result.message
    assert plaud.ledger() == []
