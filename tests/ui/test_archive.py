"""An archive from its form to rows, and a second run of it."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import BrowserContext, Page, expect

from tests.ui.conftest import Playground
from tests.ui.screens import fill, open_run, open_trigger_form, trigger

DAG_ID = "plaud_transcribe_archive"


def run_archive(
    person: BrowserContext,
    playground: Playground,
    screenshot: Callable[..., None] | None = None,
    *,
    language: str = "",
) -> tuple[str, str]:
    page = person.new_page()
    form = open_trigger_form(page, DAG_ID)
    if screenshot is not None:
        # Of a folder that anybody may have, not of one on this machine.
        fill(form, {"element_archive": "s3://aws_default@calls/2024-05-01/"})
        screenshot(page, "archive-form", height=1400)
    fill(form, {"element_archive": playground.archive, "element_language": language})
    run_id = trigger(page, form)
    page.close()
    return run_id, playground.end_of(run_id, DAG_ID)


def test_an_archive_named_in_the_form_lands_and_costs_nothing_the_second_time(
    person: BrowserContext, page: Page, playground: Playground, screenshot: Callable[..., None]
) -> None:
    run_id, state = run_archive(person, playground, screenshot)

    assert state == "success"
    submits = len(playground.submits())
    with playground.connect(read_only=True) as warehouse:
        landed = warehouse.execute(
            "select count(*) from plaud_transcripts where run_id = ? and status = 'completed'", [run_id]
        ).fetchall()
        states = warehouse.execute("select distinct state from plaud_submissions").fetchall()
    assert landed == [(5,)]
    assert states == [("landed",)]

    assert run_archive(person, playground)[1] == "success"
    assert len(playground.submits()) == submits

    open_run(page, run_id, DAG_ID)
    for task_id in ("list", "report"):
        expect(page.get_by_role("row").filter(has_text=task_id).first).to_contain_text("Success")
    screenshot(page, "archive-run", height=720)
