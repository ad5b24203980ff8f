"""Each operator, sensor and transfer that Airflow is told of has a page of its own in the reference."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

from plaud_provider.get_provider_info import get_provider_info

PAGES = Path(__file__).resolve().parents[2] / "docs" / "reference"


#: Ends of the names of what users put into a DAG; the rest of a module is for them.
TASKS = ("RecordingsOperator", "TranscriptionOperator", "Sensor", "SqlOperator")


def test_every_operator_has_a_page() -> None:
    info = get_provider_info()
    parts = [*info["operators"], *info["sensors"]]
    modules = [name for part in parts for name in part["python-modules"]]
    modules += [part["python-module"] for part in info["transfers"]]
    operators = {
        name
        for module in map(import_module, modules)
        for name, found in inspect.getmembers(module, inspect.isclass)
        if found.__module__ == module.__name__ and name.endswith(TASKS)
    }

    assert len(operators) >= 8
    titles = {page.read_text().partition("\n")[0] for page in PAGES.glob("*.rst")}
    assert operators - titles == set()


def test_the_list_of_pages_has_all() -> None:
    listed = (PAGES.parent / "api.rst").read_text()

    assert [page.name for page in PAGES.glob("*.rst") if f"reference/{page.stem}\n" not in listed] == []
