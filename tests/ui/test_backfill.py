"""What a form starts beside the run that was meant: a backfill, a DAG that it switches on. None pays."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from playwright.sync_api import Locator, Page, expect

from demo.processes import wait_until
from tests.ui.conftest import Playground
from tests.ui.screens import fill, open_trigger_form, trigger

PLAN, ARCHIVE = "plaud_plan_archive", "plaud_transcribe_archive"


def open_form_of_paused(page: Page, playground: Playground, dag_id: str) -> Locator:
    """Open the form of a DAG that is switched off, which it offers to switch on."""
    playground.api.request("PATCH", f"/dags/{dag_id}", json={"is_paused": True})
    form = open_trigger_form(page, dag_id)
    expect(form.get_by_role("checkbox", name=f"Unpause {dag_id} on trigger")).to_be_checked()
    return form


def choose_day(page: Page, form: Locator, index: int, day: datetime) -> None:
    """Choose a day in one of the form's fields for dates."""
    form.get_by_test_id("datetime-input").nth(index).click()
    calendar = page.locator("[data-scope=popover][data-part=content][data-state=open]")
    for placeholder, text in (("YYYY/MM/DD", f"{day:%Y/%m/%d}"), ("HH:mm", "00:00")):
        calendar.get_by_placeholder(placeholder).fill(text)
        calendar.get_by_placeholder(placeholder).press("Enter")
    page.keyboard.press("Escape")
    expect(calendar).to_have_count(0)


def backfill(page: Page, form: Locator) -> Any:
    """Press the button, and return what the form has sent."""
    # Before it, the form has asked how many runs that would be.
    with page.expect_response(lambda answer: answer.url.endswith("/backfills")) as sent:
        form.get_by_role("button", name="Run Backfill").click()
    assert sent.value.ok, sent.value.text()
    return sent.value.request.post_data_json


def test_a_plan_that_switches_its_dag_on_costs_nothing(page: Page, playground: Playground) -> None:
    before = len(playground.submits())
    form = open_form_of_paused(page, playground, PLAN)
    # It has no schedule, so there is nothing to run for a range of dates.
    expect(form.locator("input[value=backfill]")).to_be_disabled()
    fill(form, {"element_archive": playground.archive})

    assert playground.end_of(trigger(page, form), PLAN) == "success"
    assert len(playground.submits()) == before


def test_a_backfill_whose_form_drops_what_was_typed_costs_nothing(page: Page, playground: Playground) -> None:
    before = len(playground.submits())
    day = datetime.now(tz=UTC) - timedelta(days=9)
    form = open_form_of_paused(page, playground, ARCHIVE)
    fill(form, {"element_archive": playground.archive})
    form.locator("label").filter(has_text="Run this Dag for a range of dates").click()
    for index in (0, 1):
        choose_day(page, form, index, day)

    sent = backfill(page, form)

    # What Airflow does with what was typed, and has switched on.
    assert sent["dag_run_conf"] in (None, {})

    def runs() -> list[dict[str, Any]]:
        return list(playground.api.get(f"/dags/{ARCHIVE}/dagRuns", run_type="backfill")["dag_runs"])

    wait_until(lambda: bool(runs()), timeout=60, what="the run of the backfill")
    run_id = runs()[-1]["dag_run_id"]
    assert playground.end_of(run_id, ARCHIVE) == "failed"
    log = json.dumps(playground.api.task_log(ARCHIVE, run_id, "transcribe.list"))
    assert "plaud_pay_for_archive" in log
    assert len(playground.submits()) == before
