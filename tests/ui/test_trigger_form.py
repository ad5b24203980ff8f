"""The trigger form: what it asks for, and what becomes of input that cannot work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.ui.conftest import Playground
from tests.ui.screens import DAG_ID, fill, labels, open_task, open_trigger_form, options, trigger

#: What a person might enter, and what the log of the task that fails then has to say.
MISTAKES = {
    "a scheme that Plaud does not fetch": "'ftp://files.example/call.mp3' has the scheme 'ftp'",
    "a file that is no recording": "/store/notes.txt' is a .txt file; Plaud transcribes .m4a, .mp3, .wav",
    "a URL that has expired": "/store/voicemail.wav' expired at",
    "a warehouse that is not there": "there is no Airflow connection 'warehouse_typo'. Create it",
}
MARK = "Nothing was sent"


@dataclass(frozen=True)
class BadRun:
    run_id: str
    state: str
    failed_task: str


@dataclass(frozen=True)
class BadRuns:
    """A run for each mistake, all of them ended, and the submits that the emulator saw meanwhile."""

    by_mistake: dict[str, BadRun]
    submits: list[dict[str, Any]]


@pytest.fixture(scope="module")
def bad_runs(person: BrowserContext, playground: Playground) -> BadRuns:
    before = len(playground.submits())
    expired = playground.sign("voicemail.wav", seconds=1)
    good = playground.recording("voicemail.wav")
    notes = good.replace("voicemail.wav", "notes.txt")
    inputs = (
        {"element_recording": "ftp://files.example/call.mp3"},
        {"element_recording": notes},
        {"element_recording": expired},
        {"element_recording": good, "element_sql_conn_id": "warehouse_typo"},
    )
    page = person.new_page()
    run_ids = {}
    for mistake, values in zip(MISTAKES, inputs, strict=True):
        form = open_trigger_form(page)
        fill(form, values)
        run_ids[mistake] = trigger(page, form)
    page.close()
    by_mistake = {mistake: ended(playground, run_id) for mistake, run_id in run_ids.items()}
    return BadRuns(by_mistake, playground.submits()[before:])


def ended(playground: Playground, run_id: str) -> BadRun:
    state = playground.end_of(run_id)
    failed = [
        instance.task_id
        for instance in playground.api.task_instances(DAG_ID, run_id)
        if instance.state == "failed"
    ]
    return BadRun(run_id, state, *failed)


def test_it_asks_for_a_recording_and_proposes_the_rest(page: Page) -> None:
    form = open_trigger_form(page)

    expect(form.locator("[name=element_recording]")).to_have_value("")
    assert labels(form)[-7:] == [
        *("Recording", "Language", "Speakers", "Warehouse", "Ledger", "Pay again for"),
        "Plaud connection",
    ]
    expect(form.locator("[name=element_sql_conn_id]")).to_have_value("warehouse_default")
    expect(form.locator("[name=element_plaud_conn_id]")).to_have_value("plaud_default")
    expect(form.get_by_text("detect it")).to_be_visible()
    languages = options(page, form.get_by_label("Language", exact=True))
    assert languages[0] == "detect it"
    assert {"English", "German", "Japanese"} <= set(languages)


def test_it_triggers_as_soon_as_there_is_a_recording(page: Page) -> None:
    form = open_trigger_form(page)
    expect(form.get_by_text("This field is required")).to_be_visible()
    expect(form.get_by_test_id("trigger-dag-submit")).to_be_disabled()

    fill(form, {"element_recording": "s3://calls/0001.mp3"})

    expect(form.get_by_text("This field is required")).to_be_hidden()
    expect(form.get_by_test_id("trigger-dag-submit")).to_be_enabled()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_log_says_what_is_wrong(
    mistake: str, bad_runs: BadRuns, page: Page, playground: Playground
) -> None:
    run = bad_runs.by_mistake[mistake]
    assert run.state == "failed"

    open_task(page, run.run_id, run.failed_task)

    message = page.get_by_text(MISTAKES[mistake])
    expect(message).to_be_visible()
    expect(message).to_contain_text(MARK)
    assert "X-Amz" not in page.content()


def test_mistakes_cost_nothing(bad_runs: BadRuns) -> None:
    assert bad_runs.submits == []
