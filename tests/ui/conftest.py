"""What ``make ui`` leaves running, and a browser to look at it: one of each for the session."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from demo.airflow_api import TERMINAL_RUN_STATES, AirflowApi
from demo.processes import wait_until
from tests.docs.pictures import IMAGES, note
from tests.integration.leftovers import processes_using
from tests.ui.screens import DAG_ID

REPOSITORY = Path(__file__).resolve().parents[2]
READY = "Ctrl-C ends everything"
#: Milliseconds for what a busy machine does in one or two seconds.
PATIENCE = 30_000
WIDTH, HEIGHT = 1280, 800
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", action="store_true", help="write the screenshots of docs/images anew")


def pytest_configure(config: pytest.Config) -> None:
    if _browser_path() is None:
        raise pytest.UsageError(
            "These tests need Chromium, which is not installed. On Debian, as root: "
            "apt-get update && apt-get install chromium"
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # The first one waits for the start of everything.
        item.add_marker(pytest.mark.timeout(300))


@dataclass(frozen=True)
class Playground:
    """What ``make ui`` says about itself, as a person would read it."""

    guide: str

    @cached_property
    def api(self) -> AirflowApi:
        return AirflowApi(self.url, username=self.user, password=self.password)

    @property
    def url(self) -> str:
        return self._find(r"Airflow +(\S+)$")

    @property
    def user(self) -> str:
        return self._find(r"User +(\S+)$")

    @property
    def password(self) -> str:
        return self._find(r"Password +(\S+)$")

    @property
    def warehouse(self) -> Path:
        return Path(self._find(r"in (\S+), which is the connection warehouse_default"))

    def connect(self, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
        """Open the warehouse's file, once none of Airflow's processes has it open."""
        attempts = Retrying(
            retry=retry_if_exception_type(duckdb.IOException),
            wait=wait_fixed(0.2),
            stop=stop_after_delay(PATIENCE / 1000),
            reraise=True,
        )
        return attempts(duckdb.connect, str(self.warehouse), read_only=read_only)

    @property
    def plaud(self) -> dict[str, str]:
        """The fields of a connection to the emulator, by their names in the form's HTML."""
        return {
            "host": self._find(r"Base URL (\S+),"),
            "login": self._find(r"Client ID (\S+),"),
            "password": self._find(r"Secret key (\S+)$"),
            "port": self._find(r"Port (\d+),"),
        }

    @property
    def archive(self) -> str:
        """The folder of recordings, for the DAG of archives."""
        return self._find(r"as the archive\n +(\S+)$")

    def recording(self, name: str) -> str:
        """Return the signed URL of a recording."""
        return self._find(rf"{re.escape(name)}\n +(\S+)$")

    def submits(self) -> list[dict[str, Any]]:
        """Return the submits that the emulator has seen."""
        return self._emulator("GET", "ledger", params={"kind": "submit"})

    def sign(self, name: str, *, seconds: int) -> str:
        """Return a URL of a recording that is signed for so long."""
        return str(self._emulator("POST", "sign", json={"path": name, "expires": seconds})["url"])

    def end_of(self, run_id: str, dag_id: str = DAG_ID) -> str:
        """Wait for the end of a run and return its state."""
        states: list[str] = []

        def ended() -> bool:
            states.append(self.api.run_state(dag_id, run_id))
            return states[-1] in TERMINAL_RUN_STATES

        wait_until(ended, timeout=120, what=f"the end of {run_id}", poll=0.5)
        return states[-1]

    def _emulator(self, method: str, path: str, **arguments: Any) -> Any:
        base_url = self._find(r"(http://127\.0\.0\.1:\d+/_emulator)/summary")
        response = httpx.request(method, f"{base_url}/{path}", trust_env=False, **arguments)
        response.raise_for_status()
        return response.json()

    def _find(self, pattern: str) -> str:
        found = re.search(pattern, self.guide, re.MULTILINE)
        assert found is not None, f"{pattern} is not in what it printed:\n{self.guide}"
        return found.group(1)


@pytest.fixture(scope="session")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    """``make ui`` in a process of its own, from its start to Ctrl-C."""
    work = tmp_path_factory.mktemp("ui")
    with subprocess.Popen(
        [sys.executable, "-m", "demo.ui", "--work", str(work)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            playground = _started(process)
            yield playground
            playground.api.close()
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert "all processes have ended" in output
    assert processes_using(work) == []


def _started(process: subprocess.Popen[str]) -> Playground:
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if READY in line:
            break
    else:
        pytest.fail(f"It ended before it was ready:\n{printed}")
    return Playground(printed)


def _browser_path() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE)
        yield playwright


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=_browser_path(), args=list(ARGUMENTS))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def person(browser: Browser, playground: Playground) -> Iterator[BrowserContext]:
    """A browser window of somebody who has logged in with what ``make ui`` printed."""
    with log_in(browser, playground.url, playground.user, playground.password) as context:
        yield context


@contextmanager
def log_in(browser: Browser, url: str, user: str, password: str) -> Iterator[BrowserContext]:
    """Open a window of a browser, and log in to an Airflow."""
    context = browser.new_context(base_url=url, viewport={"width": WIDTH, "height": HEIGHT}, locale="en-US")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto("/")
    page.locator("[name=username]").fill(user)
    page.locator("[name=password]").fill(password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible()
    page.close()
    yield context
    context.close()


@pytest.fixture
def page(person: BrowserContext, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Page]:
    """A new tab. Of a test that fails, pytest keeps a picture: it says where."""
    failed_before = request.session.testsfailed
    page = person.new_page()
    yield page
    if request.session.testsfailed > failed_before:
        page.screenshot(path=tmp_path / "failed.png")
        print(f"What the browser showed: {tmp_path / 'failed.png'}")
    page.close()


@pytest.fixture(scope="session")
def screenshot(pytestconfig: pytest.Config) -> Callable[..., None]:
    """Write what a page shows to ``docs/images``, if that was asked for."""

    def take(page: Page, name: str, *, height: int = HEIGHT) -> None:
        if not pytestconfig.getoption("--screenshots"):
            return
        page.set_viewport_size({"width": WIDTH, "height": height})
        page.evaluate("document.activeElement.blur()")
        # What moves has come to rest.
        page.wait_for_timeout(1000)
        page.screenshot(path=IMAGES / f"{name}.png", animations="disabled", caret="hide")
        note(name)
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})

    return take
