"""A recording from the trigger form to rows, and what the pages about its run show."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.ui.conftest import REPOSITORY, Playground
from tests.ui.screens import DAG_ID, fill, open_run, open_task, open_trigger_form, options, trigger, xcom

RECORDING = "standup-memo.m4a"
TRANSCRIPT: dict[str, Any] = json.loads(
    (REPOSITORY / "demo" / "recordings" / f"{RECORDING}.json").read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class Run:
    run_id: str
    state: str
    url: str

    @property
    def uri(self) -> str:
        """The recording's URL as it may be shown."""
        return self.url.partition("?")[0]


@pytest.fixture(scope="module")
def run(person: BrowserContext, playground: Playground, screenshot: Callable[..., None]) -> Run:
    """A run that somebody has triggered in the form, at its end."""
    url = playground.recording(RECORDING)
    page = person.new_page()
    form = open_trigger_form(page)
    fill(form, {"element_recording": url})
    options(page, form.get_by_label("Language", exact=True))
    page.get_by_role("option", name="English").click()
    screenshot(page, "trigger-form", height=1090)
    run_id = trigger(page, form)
    page.close()
    return Run(run_id, playground.end_of(run_id), url)


def test_all_tasks_get_green(
    run: Run, page: Page, playground: Playground, screenshot: Callable[..., None]
) -> None:
    tasks = [instance.task_id for instance in playground.api.task_instances(DAG_ID, run.run_id)]

    open_run(page, run.run_id)

    for task_id in tasks:
        expect(page.get_by_role("row").filter(has_text=task_id).first).to_contain_text("Success")
    assert run.state == "success"
    screenshot(page, "run-green", height=720)


def test_the_warehouse_has_what_was_said(run: Run, playground: Playground) -> None:
    with playground.connect(read_only=True) as warehouse:
        transcripts = warehouse.execute(
            "select audio_uri, language, status, text from plaud_transcripts where run_id = ?", [run.run_id]
        ).fetchall()
        segments = warehouse.execute(
            "select s.text from plaud_segments s join plaud_transcripts t using (transcription_id) "
            "where t.run_id = ? order by s.segment_index",
            [run.run_id],
        ).fetchall()

    assert transcripts == [(run.uri, "en", "completed", TRANSCRIPT["text"])]
    assert [text for (text,) in segments] == [segment["text"] for segment in TRANSCRIPT["segments"]]


def test_the_log_of_the_wait_shows_its_progress(
    run: Run, page: Page, screenshot: Callable[..., None]
) -> None:
    open_task(page, run.run_id, "wait")

    expect(page.get_by_text(re.compile(r"[01]/1 completed, 0 failed")).first).to_be_visible()
    expect(page.get_by_text("Final: 1 of 1 completed, 0 failed.")).to_be_visible()
    screenshot(page, "task-log", height=660)


def test_xcom_has_ids_and_counts_only(run: Run, page: Page) -> None:
    assert re.fullmatch(r"txn_\w+", xcom(page, run.run_id, "submit", beside=["plaud_submitted_at"]))
    assert xcom(page, run.run_id, "wait") == {
        "version": 1, "total": 1, "completed": 1, "failed": 0, "failed_ids": []
    }  # fmt: skip
    assert xcom(page, run.run_id, "load") == {
        "version": 1, "transcripts": 1, "segments": len(TRANSCRIPT["segments"]), "failed": 0
    }  # fmt: skip


def test_rendered_templates_show_the_url_without_its_signature(run: Run, page: Page) -> None:
    open_task(page, run.run_id, "submit", "rendered_templates")

    rendered = page.get_by_role("row").filter(has_text="audio_url")
    # The page highlights it, one word an element.
    expect(rendered).to_contain_text(re.compile(r"standup.*memo", re.DOTALL))
    assert run.uri in "".join(rendered.inner_text().split())
    assert "X-Amz" not in page.content()


@pytest.mark.parametrize("task_id", ["check", "submit", "wait", "load"])
def test_no_log_has_the_signature_or_what_was_said(run: Run, page: Page, task_id: str) -> None:
    open_task(page, run.run_id, task_id)

    expect(page.get_by_text("Post Execute").first).to_be_visible()
    shown = page.locator("body").inner_text()
    assert "X-Amz" not in shown
    assert not [segment["text"] for segment in TRANSCRIPT["segments"] if segment["text"] in shown]
