"""Where Plaud calls: what it calls about while ``land`` has a worker is landed by that worker."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from plaud_provider.handover.marks import Marks
from plaud_provider.operators import land_recordings
from plaud_provider.transfers import called
from tests.unit.conftest import call_webhook
from tests.unit.operators.archives import Archive
from tests.unit.operators.test_land_recordings import NAMES, TEXT, deferred, event, ids, trigger_of


@pytest.fixture
def calls(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Marks:
    """Where calls leave their marks; three recordings are submitted."""
    monkeypatch.setattr(called, "QUIET_SECONDS", 0.5)
    monkeypatch.setattr(called, "LOOK_SECONDS", 0.05)
    archive.add(*NAMES, seconds=36)
    archive.list()
    archive.submit()
    return call_webhook(archive.plaud, tmp_path / "marks", monkeypatch)


def final(archive: Archive, *names: str) -> None:
    for name in names:
        archive.plaud.force(ids(archive)[name], status="completed", text=TEXT)


def called_about(archive: Archive, calls: Marks, *names: str) -> None:
    for name in names:
        calls.leave("us", ids(archive)[name], now=time.time())


def after_a(
    archive: Archive, fault: dict[str, Any] | None = None, **arguments: Any
) -> dict[str, int] | TaskDeferred:
    """Have a.wav final, and the task told so; return what it does then, with a fault of Plaud's."""
    first = deferred(archive, **arguments)
    final(archive, "a.wav")
    archive.keep("a.wav")
    if fault is not None:
        archive.plaud.inject(fault)
    try:
        return archive.resumed_land(first, event(archive, "partial", "b.wav", "c.wav"), **arguments)
    except TaskDeferred as again:
        return again


def test_what_is_called_about_meanwhile_is_landed_by_the_same_worker(archive: Archive, calls: Marks) -> None:
    final(archive, "b.wav", "c.wav")
    called_about(archive, calls, "b.wav", "c.wav")
    counts = after_a(archive)

    assert isinstance(counts, dict), "it need not wait again"
    assert counts["landed"] == 3
    assert len(archive.plaud.ledger(kind="get")) == 3, "each is asked for once"
    assert archive.kept() == []


def test_who_is_not_called_about_is_left_to_the_triggerer(archive: Archive, calls: Marks) -> None:
    final(archive, "b.wav", "c.wav")
    called_about(archive, calls, "b.wav")
    again = after_a(archive)

    assert isinstance(again, TaskDeferred)
    assert trigger_of(again).transcription_ids == [ids(archive)["c.wav"]]
    assert archive.landed() == {"a.wav": "completed", "b.wav": "completed"}


@pytest.mark.parametrize("status", [404, 403, 503, None])
def test_a_call_that_is_not_true_changes_nothing(archive: Archive, calls: Marks, status: int | None) -> None:
    called_about(archive, calls, "b.wav")
    if status is not None:
        archive.plaud.inject(
            {
                "match": {"kind": "get", "path_contains": ids(archive)["b.wav"]},
                "action": "status",
                "status": status,
                "times": None,
            }
        )
    again = after_a(archive)

    assert isinstance(again, TaskDeferred)
    assert archive.states() == {"a.wav": "landed", "b.wav": "processing", "c.wav": "processing"}


def test_what_was_final_before_plaud_went_away_is_landed(archive: Archive, calls: Marks) -> None:
    final(archive, "b.wav", "c.wav")
    called_about(archive, calls, "b.wav", "c.wav")
    fault = {"match": {"kind": "get"}, "action": "status", "status": 503, "times": None, "skip": 1}
    again = after_a(archive, fault)

    assert isinstance(again, TaskDeferred)
    assert len(archive.landed()) == 2
    assert len(trigger_of(again).transcription_ids) == 1


def test_nobody_stays_until_the_deadline(archive: Archive, calls: Marks) -> None:
    final(archive, "b.wav", "c.wav")
    called_about(archive, calls, "b.wav", "c.wav")
    again = after_a(archive, timeout=called.LONGEST_CALL_SECONDS)

    assert isinstance(again, TaskDeferred)
    assert archive.landed() == {"a.wav": "completed"}


def test_a_folder_of_marks_that_cannot_be_read_holds_nobody_up(
    archive: Archive, calls: Marks, tmp_path: Path
) -> None:
    (tmp_path / "marks").write_text("a file")

    assert isinstance(after_a(archive), TaskDeferred)
    assert archive.landed() == {"a.wav": "completed"}


@pytest.mark.parametrize(
    ("arguments", "seconds", "is_at_once"),
    [
        ({}, land_recordings.WORKER_SECONDS, True),
        ({"partial_seconds": 10}, land_recordings.WORKER_SECONDS, True),
        ({"partial_seconds": 60}, 60, False),
    ],
)
def test_how_soon_is_up_to_who_says_so(
    archive: Archive, calls: Marks, arguments: dict[str, Any], seconds: float, is_at_once: bool
) -> None:
    called_about(archive, calls, "b.wav")
    final(archive, "b.wav")
    again = after_a(archive, **arguments)

    assert isinstance(again, TaskDeferred)
    assert trigger_of(again).partial_seconds == seconds
    assert ("b.wav" in archive.landed()) is is_at_once


def test_nobody_who_is_not_called_lands_at_once(archive: Archive) -> None:
    archive.add(*NAMES, seconds=36)
    archive.list()
    archive.submit()

    again = after_a(archive)
    assert isinstance(again, TaskDeferred)
    assert trigger_of(again).partial_seconds == land_recordings.PARTIAL_SECONDS
