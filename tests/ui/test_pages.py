"""Plaud's pages in Airflow: transcripts and the ledger, found and used as a person does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from playwright.sync_api import BrowserContext, FrameLocator, Page, expect

from demo.processes import wait_until
from tests.ui.conftest import Playground
from tests.ui.test_archive import DAG_ID, run_archive

HOSTILE = (
    "<script>document.title = 'taken over'</script>",
    "<img src=x onerror=\"document.title = 'taken over'\">",
    "שלום עולם, מה שלומך?",
    "& &amp; \u202e reversed {{ 7 * 7 }}",
)
MANY = 10_000


@pytest.fixture(scope="module")
def run_id(person: BrowserContext, playground: Playground) -> str:
    # In another language they are other recordings than those that another test has landed.
    run_id, state = run_archive(person, playground, language="en")
    assert state == "success"
    return run_id


@pytest.fixture(scope="module")
def strange(run_id: str, playground: Playground) -> str:
    """Transcripts as nobody would like them: of markup, of many segments, without times and speakers."""
    transcripts: dict[str, list[dict[str, Any]]] = {
        "txn_markup": [
            {"start": at * 3, "end": at * 3 + 2, "speaker": text, "text": text}
            for at, text in enumerate(HOSTILE)
        ],
        "txn_many": [
            {
                "start": at * 2.0,
                "end": at * 2.0 + 1.9,
                "speaker": f"Speaker {at % 5}",
                "text": f"Sentence {at} of many.",
            }
            for at in range(MANY)
        ],
        "txn_bare": [{"text": "Without a time"}, {"text": "and without a speaker."}],
    }
    with playground.connect() as warehouse:
        for transcription_id, segments in transcripts.items():
            raw = {
                "transcriptionId": transcription_id,
                "status": "completed",
                "text": "…",
                "segments": segments,
            }
            warehouse.execute(
                "insert into plaud_transcripts (transcription_id, audio_uri, region, segment_count, "
                "speaker_count, status, landed_at, dag_id, run_id, raw) "
                "values (?, ?, 'us', ?, 0, 'completed', now(), ?, ?, ?)",
                [transcription_id, HOSTILE[0], len(segments), DAG_ID, run_id, json.dumps(raw)],
            )
    return run_id


def of_run(run_id: str, **more: str) -> str:
    return f"/plaud/transcripts?{urlencode({'dag_id': DAG_ID, 'run_id': run_id, **more})}"


def tab(page: Page, run_id: str, name: str, task: str = "") -> FrameLocator:
    """Open a tab of a run, or of a task instance of it, as its label leads there."""
    page.goto(f"/dags/{DAG_ID}/runs/{quote(run_id, safe='')}{task}")
    page.get_by_role("link", name=name).click()
    return page.frame_locator(f"iframe[title='{name}']")


@pytest.mark.parametrize("task", ["", "/tasks/transcribe.chunk.land/mapped/0"], ids=["run", "task instance"])
def test_a_tab_leads_to_a_transcript_with_search_times_and_downloads(
    run_id: str, page: Page, task: str, screenshot: Callable[..., None]
) -> None:
    frame = tab(page, run_id, "Plaud transcripts", task)
    expect(frame.locator("#transcripts tr")).to_have_count(5)
    frame.get_by_role("button", name=re.compile("interview.mp3")).click()

    expect(frame.locator("#segments li")).to_have_count(4)
    expect(frame.locator("#speakers span")).to_have_text([re.compile("Speaker 1"), re.compile("Speaker 2")])
    expect(frame.locator("#timeline")).to_be_visible()
    if not task:
        # Of a recording that anybody may have, not of one on this machine.
        frame.locator("#recording").evaluate("one => { one.textContent = 's3://calls/interview.mp3' }")
        screenshot(page, "transcript", height=720)
    frame.locator("#search").fill("the")
    expect(frame.locator("mark")).to_have_text(["the", "the", "the"])
    expect(frame.locator("#hits")).to_have_text("1 of 3")
    frame.locator("#search").press("Enter")
    expect(frame.locator("#hits")).to_have_text("2 of 3")
    frame.locator("#search").press("Escape")
    page.keyboard.press("t")
    frame.locator("#time").fill("0:10")
    frame.locator("#time").press("Enter")
    expect(frame.locator("#segments li.now .when")).to_have_text("0:09")
    page.keyboard.press("ArrowDown")
    expect(frame.locator("#segments li.now .when")).to_have_text("0:11")
    for name, start in (
        ("SRT", "1\n00:00:00,000 --> "),
        ("VTT", "WEBVTT\n"),
        ("text", "Speaker 1: "),
        ("JSON", "{"),
    ):
        with page.expect_download() as download:
            frame.get_by_role("link", name=name, exact=True).click()
        assert Path(download.value.path()).read_text().startswith(start)
    assert download.value.suggested_filename == "interview.mp3.json"


def test_a_task_has_a_link_to_its_transcripts_and_to_its_docs(
    run_id: str, page: Page, playground: Playground
) -> None:
    answer = playground.api.request(
        "GET",
        f"/dags/{DAG_ID}/dagRuns/{quote(run_id, safe='')}/taskInstances/transcribe.chunk.submit/links",
        params={"map_index": 0},
    )
    page.goto(answer["extra_links"]["Plaud transcripts"])
    expect(page.locator("#transcripts tr")).to_have_count(5)
    page.goto(answer["extra_links"]["Plaud docs"])
    expect(page.get_by_role("heading", name="Archives and backfills")).to_be_visible()


def test_markup_and_other_scripts_stay_text(strange: str, page: Page) -> None:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(of_run(strange, transcription_id="txn_markup"))

    expect(page.locator("#segments .what")).to_have_text(list(HOSTILE))
    expect(page.locator("#recording")).to_have_text(HOSTILE[0])
    assert page.title() == "Plaud transcripts"
    assert page.locator("#transcript img, #transcript script").count() == 0
    right_to_left = page.locator("#segments .what").nth(2)
    assert right_to_left.evaluate("one => getComputedStyle(one).direction") == "rtl"
    assert problems == []


def test_a_transcript_without_times_and_speakers_is_shown(strange: str, page: Page) -> None:
    page.goto(of_run(strange, transcription_id="txn_bare"))

    expect(page.locator("#segments .what")).to_have_text(["Without a time", "and without a speaker."])
    expect(page.locator("#timeline")).to_be_hidden()


def test_ten_thousand_segments_are_usable_at_once(strange: str, page: Page) -> None:
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable")
    page.goto(of_run(strange, transcription_id="txn_many"))
    holds(page, f"document.querySelectorAll('#segments li').length === {MANY}")

    # What the browser itself has worked, whatever else this machine does.
    metrics = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}
    print(f"{MANY} segments: {metrics['TaskDuration']:.2f} s of work")
    assert metrics["TaskDuration"] < 3
    page.locator("#search").fill("sentence 9999 ")
    holds(page, "document.getElementById('hits').textContent === '1 of 1'")
    holds(page, "document.querySelector('mark').getBoundingClientRect().top > 0")
    holds(page, "document.querySelector('mark').getBoundingClientRect().top < innerHeight")


def holds(page: Page, condition: str) -> None:
    """
    Wait until something holds of a page.

    Asked from outside: a locator's own expectations walk all of a long page, for seconds, and what is asked
    from within is refused by its content security policy.
    """
    wait_until(lambda: bool(page.evaluate(condition)), timeout=30, what=condition)


@pytest.mark.parametrize("page_path", ["transcripts", "ledger"])
def test_pages_fit_a_phone_and_are_dark_as_airflow_is(run_id: str, page: Page, page_path: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    for theme, is_dark in (("dark", True), ("light", False)):
        page.goto("/plaud/static/pages.css")
        page.evaluate(f"localStorage.setItem('theme', '{theme}')")
        page.goto(of_run(run_id).replace("transcripts", page_path, 1))
        expect(page.locator("#message")).to_be_hidden()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        ground = page.locator("body").evaluate("one => getComputedStyle(one).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) is is_dark


def test_the_ledger_s_page_counts_and_narrows_down(
    run_id: str, page: Page, screenshot: Callable[..., None]
) -> None:
    frame = tab(page, run_id, "Plaud recordings")
    figures = frame.locator("#figures")
    for name, value in (("Recordings", "5"), ("Under way", "0"), ("Landed in the last hour", "5")):
        expect(figures.locator("div", has_text=name).locator("dd")).to_contain_text(value)
    # The emulator's connection has the default quota; the tasks of this host have used it.
    expect(frame.locator("#quota dd")).to_contain_text(re.compile(r"\d+ of 60"))
    expect(frame.locator("#recordings tr")).to_have_count(5)
    # Not of its list: the paths there are those of this machine.
    screenshot(page, "ledger", height=775)
    frame.get_by_label("State").select_option("failed")
    frame.get_by_role("button", name="Show", exact=True).click()
    expect(figures.locator("div", has_text="Recordings").locator("dd")).to_contain_text("0")


def test_an_unknown_recording_is_marked_as_known_and_a_failed_one_paid_again_only_when_asked(
    run_id: str, page: Page, playground: Playground
) -> None:
    folder = f"{playground.archive.rstrip('/')}/nothing/"
    with playground.connect() as warehouse:
        for name, state in (("lost", "unknown"), ("bad", "failed")):
            warehouse.execute(
                "insert into plaud_submissions (recording_key, state, audio_uri, region, client_id, "
                "speaker_diarization, duration_seconds, error, owner_dag_id, owner_run_id, owner_task_id, "
                "owner_map_index, owner_try_number, claimed_at, updated_at) "
                "values (?, ?, ?, 'us', 'x', true, 5400, 'for a test', ?, ?, 'submit', 0, 1, now(), now())",
                [name, state, f"{folder}{name}.mp3", DAG_ID, run_id],
            )
    before = len(playground.submits())

    page.goto("/plaud/ledger")
    page.get_by_label("Folder").fill(folder)
    page.get_by_role("button", name="Show", exact=True).click()
    page.locator("#recordings").get_by_role("button", name=f"{folder}lost.mp3").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Mark as known…").click()
    dialog.get_by_label("Transcription id").fill("txn_from_console")
    dialog.get_by_role("button", name="Mark as known", exact=True).click()
    expect(dialog.get_by_text("It is processing now")).to_be_visible()
    dialog.get_by_role("button", name="Close").click()
    page.locator("#recordings").get_by_role("button", name=f"{folder}bad.mp3").click()
    dialog.get_by_role("button", name="Pay again…").click()
    expect(dialog.locator(".question")).to_contain_text("1 recording, 1 h 30 min of audio")
    runs = playground.api.request("GET", f"/dags/{DAG_ID}/dagRuns")["total_entries"]
    dialog.get_by_role("button", name="Pay again", exact=True).click()
    expect(dialog.get_by_text(re.compile("Run .* is started"))).to_be_visible()

    assert playground.api.request("GET", f"/dags/{DAG_ID}/dagRuns")["total_entries"] == runs + 1
    started = playground.api.request("GET", f"/dags/{DAG_ID}/dagRuns", params={"order_by": "-run_after"})[
        "dag_runs"
    ][0]
    assert {name: started["conf"][name] for name in ("archive", "resubmit")} == {
        "archive": folder,
        "resubmit": ["failed"],
    }
    assert playground.end_of(started["dag_run_id"], DAG_ID) in ("success", "failed")
    assert len(playground.submits()) == before
    with playground.connect() as warehouse:
        states = warehouse.execute(
            "select recording_key, state, transcription_id from plaud_submissions "
            "where owner_task_id = 'submit' order by recording_key"
        ).fetchall()
        warehouse.execute("delete from plaud_submissions where owner_task_id = 'submit'")
    assert states == [("bad", "failed", None), ("lost", "processing", "txn_from_console")]
