"""A plan says what a submit would do, and pays nothing whatever it is told."""

from __future__ import annotations

from typing import Any

import pytest

from plaud_provider.operators.plan_recordings import PlanRecordingsOperator
from tests.unit.operators.archives import PUBLIC, Archive

PLAN = "plan"


def task(archive: Archive, **arguments: Any) -> PlanRecordingsOperator:
    told = {"public_urls": {str(archive.folder): PUBLIC}, **archive._common("run"), **arguments}
    return PlanRecordingsOperator(task_id=PLAN, **told)


def test_it_counts_what_a_submit_would_submit(archive: Archive) -> None:
    archive.add("a.wav", "b.wav", seconds=1800)
    archive.list()
    planned = task(archive).execute(archive.context(PLAN))

    assert (planned["total"], planned["new"]) == (2, 2)
    assert planned["audio_hours"] == 1.0
    assert archive.plaud.ledger() == []
    assert archive.submit()["submitted"] == 2
    assert task(archive).execute(archive.context(PLAN))["new"] == 0


@pytest.mark.parametrize("value", [False, "False", None, "{{ params.dry_run }}"])
def test_nothing_makes_it_pay(archive: Archive, value: Any) -> None:
    archive.add("a.wav")
    archive.list()
    told = task(archive)
    # As a subclass, a policy of the cluster or a mapped task might.
    told.plan_only = value
    told.execute(archive.context(PLAN))

    assert archive.plaud.ledger() == []
    assert archive.states() == {}
