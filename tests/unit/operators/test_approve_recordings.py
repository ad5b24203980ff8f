"""Above its limit a run waits for a person, below it goes on by itself; a rejection leaves nothing to do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred

from plaud_provider.exceptions import PlaudInputError
from plaud_provider.operators.approve_recordings import ApproveRecordingsOperator, question_in_words
from plaud_provider.operators.chunk import COUNTS_KEY
from tests.unit.tasks import task_context

try:
    from airflow.sdk.exceptions import TaskAwaitingInput
except ImportError:
    TaskAwaitingInput = TaskDeferred

CHUNKS = ["1.jsonl", "2.jsonl"]
PLAN = {"total": 200, "new": 150, "waiting": 10, "landed_before": 40, "refused": 0, "audio_hours": 12.25}
SETTLED = {"landed_before": 1000, "failed_before": 3}


def context() -> Any:
    made = task_context(
        None, others={("plan", COUNTS_KEY): [PLAN, PLAN], ("list", COUNTS_KEY): [SETTLED]}, task_id="approve"
    )
    made["task_instance"].id = "01941f29-7c00-7087-8906-40e512c257bd"
    return made


def task(**arguments: Any) -> ApproveRecordingsOperator:
    told = {"approve_above_hours": 10, "price_per_hour": "0.28 USD", "manifests": CHUNKS, **arguments}
    return ApproveRecordingsOperator(task_id="approve", plan_task_id="plan", list_task_id="list", **told)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Airflow has stored for people to see."""
    stored: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **detail: stored.append(detail)
    )
    return stored


@pytest.mark.parametrize(
    "arguments",
    [
        {"approve_above_hours": 24.5},
        {"approve_above_hours": "24.5"},
        {"approve_above_hours": None},
        {"approve_above_hours": "None"},
        {"plan_only": "True"},
    ],
)
def test_a_small_plan_goes_on_by_itself(asked: list[dict[str, Any]], arguments: dict[str, Any]) -> None:
    assert task(**arguments).execute(context()) == CHUNKS
    assert asked == []


def test_a_large_plan_waits_with_its_numbers_and_money(asked: list[dict[str, Any]]) -> None:
    with pytest.raises((TaskAwaitingInput, TaskDeferred)):
        task(approve_above_hours=24.49).execute(context())

    [detail] = asked
    assert detail["options"] == ["Approve", "Reject"]
    assert detail["defaults"] is None
    assert "**300 recordings are new, with 24 h 30 min of audio.**" in detail["body"]
    assert "That costs **about 6.86 USD**." in detail["body"]
    assert "1,080 landed before, 20 at Plaud already, 3 failed before" in detail["body"]


@pytest.mark.parametrize(("chosen", "left"), [("Approve", CHUNKS), ("Reject", [])])
def test_a_click_decides(chosen: str, left: list[str]) -> None:
    event = {
        "chosen_options": [chosen],
        "params_input": {},
        "responded_at": datetime.now(tz=UTC),
        "responded_by_user": {"id": "1", "name": "ada"},
    }

    assert task().execute_complete(context(), event) == left


def test_without_a_price_no_money_is_named() -> None:
    words = question_in_words([PLAN], most=1, price=None)

    assert "What an hour costs is not known here" in words


def test_a_limit_that_is_no_number_is_refused_before_anybody_is_asked(asked: list[dict[str, Any]]) -> None:
    with pytest.raises(PlaudInputError, match="approve_above_hours"):
        task(approve_above_hours="ten").execute(context())
    assert asked == []


def test_what_was_not_listed_is_skipped() -> None:
    with pytest.raises(AirflowSkipException):
        task(manifests=None).execute(context())


def test_a_timeout_of_all_tasks_is_not_that_of_the_person() -> None:
    made = ApproveRecordingsOperator(
        task_id="approve",
        manifests=CHUNKS,
        plan_task_id="plan",
        list_task_id="list",
        approve_above_hours=1,
        default_args={"execution_timeout": 60},
    )

    assert (made.execution_timeout, made.response_timeout) == (None, None)
