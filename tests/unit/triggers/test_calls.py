"""A trigger where Plaud calls: it looks when a mark is there, and asks the API what is true."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.handover import marks
from plaud_provider.handover.marks import Marks
from tests.unit.conftest import call_webhook
from tests.unit.triggers.test_transcription import ending, submitted, trigger


@pytest.fixture
def calls(plaud: EmulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Marks:
    """Where calls leave their marks, for a connection that is called."""
    monkeypatch.setattr(marks, "_WATCHES", {})
    monkeypatch.setattr(marks, "LOOK_SECONDS", 0.05)
    return call_webhook(plaud, tmp_path / "marks", monkeypatch)


def looks(plaud: EmulatorServer) -> int:
    return len(plaud.ledger(kind="get"))


async def test_the_submit_tells_plaud_what_to_call(plaud: EmulatorServer, calls: Marks) -> None:
    submitted(1)

    [job] = plaud.state.jobs
    assert job.webhook_url == "https://airflow.example/plaud/webhooks/plaud_default"


async def test_a_mark_brings_the_look_and_nothing_else_does(plaud: EmulatorServer, calls: Marks) -> None:
    ids = submitted(3)
    now = time.time()
    under_way = asyncio.create_task(ending(trigger(ids, submitted_at=[now] * 3)))
    plaud.advance(601)
    await asyncio.sleep(1)
    assert looks(plaud) == 0
    for known in ids:
        calls.leave("us", known, now=time.time())
    result = await under_way

    assert (result.outcome, result.completed) == ("done", 3)
    assert looks(plaud) == 3


async def test_a_call_that_came_before_the_wait_counts(plaud: EmulatorServer, calls: Marks) -> None:
    [known] = submitted(1)
    plaud.advance(601)
    calls.leave("us", known, now=time.time() - 3600)
    result = await ending(trigger([known], submitted_at=[time.time()]))

    assert result.outcome == "done"
    assert looks(plaud) == 1


async def test_a_call_that_is_not_true_ends_nothing(plaud: EmulatorServer, calls: Marks) -> None:
    [known] = submitted(1)
    calls.leave("us", known, now=time.time())
    calls.leave("us", "txn_of_nobody", now=time.time())
    result = await ending(trigger([known], submitted_at=[time.time()], lasts=2))

    assert (result.outcome, result.pending) == ("timeout", (known,))
    assert looks(plaud) == 1, "the API said that it is processing"
