"""The pictures of the README and the docs are there, are used, and show what is there today."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.docs.pictures import IMAGES, REPOSITORY, SHOWN, SUBJECTS, fingerprint

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_screenshot_shows_what_is_there_today(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    noted = json.loads(SHOWN.read_text())

    assert noted[name] == fingerprint(name), f"{name}.png is of an earlier form: run `make screenshots`"


def test_every_screenshot_is_known_here() -> None:
    assert {file.stem for file in IMAGES.glob("*.png")} == set(SUBJECTS)


def test_every_picture_is_there_and_used() -> None:
    used = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text())
    }
    logo = {IMAGES / "logo.svg"}

    assert used | logo == {file for file in IMAGES.iterdir() if file != SHOWN}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"(?<!!)\[[^\]]*\]\((?!https?://|#)([^)#]+)", page.read_text())

    assert [target for target in targets if not (page.parent / target).exists()] == []
