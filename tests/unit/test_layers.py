"""Which module may import which, and what importing an operator costs every task instance."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
AT_PARSE_TIME = (
    "plaud_provider.operators.export_transcription",
    "plaud_provider.operators.report_recordings",
    "plaud_provider.operators.list_recordings",
    "plaud_provider.operators.submit_recordings",
    "plaud_provider.operators.transcription",
    "plaud_provider.sensors.transcription",
    "plaud_provider.transfers.transcription_to_sql",
)
# Each mapped task instance imports its DAG file again.
TOO_DEAR = (
    "aiohttp",
    "airflow.models",
    "airflow.providers.common.sql",
    "airflow.providers.http",
    "av",
    "cryptography",
    "duckdb",
    "fastapi",
    "httpx",
    "numpy",
    "pandas",
    "plaud_provider.emulator",
    "plaud_provider.hooks",
    "pyarrow",
    "requests",
    "sqlalchemy",
    "urllib3",
    "uvicorn",
)


def test_imports_run_downward_only() -> None:
    pytest.importorskip("importlinter")

    linted = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )

    assert linted.returncode == 0, linted.stdout + linted.stderr


def circles(package: str) -> list[str]:
    """
    Return the import circles of a package: a path for each set of modules that is one.

    Imports within functions count, those for type checkers do not. A package's ``__init__`` is a module like
    the others: importing a name of it counts, having it run because something below it is imported does not,
    as Python lets that pass.
    """
    grimp: Any = pytest.importorskip("grimp")
    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    found: dict[frozenset[str], str] = {}
    for module in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            back = graph.find_shortest_chain(importer=imported, imported=module)
            if back is not None:
                found.setdefault(frozenset(back), " → ".join([module, *back]))
    return list(found.values())


def test_no_imports_run_in_a_circle() -> None:
    assert "\n".join(circles("plaud_provider")) == ""


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        pytest.param(
            "circle_in_functions",
            {"a.py": "def f(): from circle_in_functions import b", "b.py": "import circle_in_functions.a"},
            ["circle_in_functions.a → circle_in_functions.b → circle_in_functions.a"],
            id="hidden in a function",
        ),
        pytest.param(
            "circle_of_three",
            {
                "a.py": "import circle_of_three.b",
                "b.py": "def f(): import circle_of_three.room.c",
                "room/__init__.py": "",
                "room/c.py": "from circle_of_three import a",
            },
            ["circle_of_three.a → circle_of_three.b → circle_of_three.room.c → circle_of_three.a"],
            id="over three modules",
        ),
        pytest.param(
            "circle_through_init",
            {
                "__init__.py": "from circle_through_init.a import X\nY = 1",
                "a.py": "from circle_through_init import Y",
            },
            ["circle_through_init → circle_through_init.a → circle_through_init"],
            id="a name of the package that imports it",
        ),
        pytest.param(
            "names_of_a_room",
            {
                "__init__.py": "from names_of_a_room.a import X",
                "a.py": "from names_of_a_room import b\nX = b",
                "b.py": "",
            },
            [],
            id="a package that hands out what is in it",
        ),
        pytest.param(
            "circle_of_types",
            {
                "a.py": "import typing\nif typing.TYPE_CHECKING:\n    from circle_of_types.b import B",
                "b.py": "import circle_of_types.a",
            },
            [],
            id="for type checkers only",
        ),
    ],
)
def test_what_counts_as_a_circle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, files: dict[str, str], expected: list[str]
) -> None:
    for file, text in {"__init__.py": "", **files}.items():
        path = tmp_path / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)

    assert circles(name) == expected


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each of our modules loads that importing Airflow's base classes has not."""
    script = (
        "import json, sys\n"
        "from airflow.sdk import BaseOperator, BaseSensorOperator\n"
        "loaded = {}\n"
        f"for name in {AT_PARSE_TIME!r}:\n"
        "    before = set(sys.modules)\n"
        "    __import__(name)\n"
        "    loaded[name] = sorted(set(sys.modules) - before)\n"
        "print(json.dumps(loaded))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env={
            "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
            "PYTHONPATH": str(REPOSITORY),
            "PATH": "",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("module", AT_PARSE_TIME)
def test_an_import_at_parse_time_loads_nothing_dear(loaded: dict[str, list[str]], module: str) -> None:
    dear = [
        name
        for name in loaded[module]
        if any(name == root or name.startswith(f"{root}.") for root in TOO_DEAR)
    ]

    assert dear == []
