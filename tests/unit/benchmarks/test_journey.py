"""What `benchmarks.journey` counts, on a package whose way is known, and that it runs on ours."""

from __future__ import annotations

import asyncio
import importlib
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from benchmarks.tracer import Tracer

REPOSITORY = Path(__file__).resolve().parents[3]
FILES = {
    "__init__.py": "",
    "a.py": """
        import asyncio
        from concurrent.futures import ThreadPoolExecutor
        from walked import b
        from walked.room import c
        from walked.aside import d

        def calls():
            b.called()
            same_file()
            c.called()
            d.called()

        def same_file():
            pass

        def drives():
            course = c.course()
            b.called()
            next(course)
            b.called()
            next(course)
            b.called()
            next(course, None)

        async def waits():
            await b.waits()

        async def hands_over():
            await asyncio.gather(*(asyncio.to_thread(c.called) for _ in range(3)))

        def pools():
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda _: c.called(), range(5)))
    """,
    "b.py": """
        import asyncio

        def called():
            pass

        async def waits():
            for _ in range(5):
                await asyncio.sleep(0)
    """,
    "room/__init__.py": "",
    "room/c.py": """
        def called():
            pass

        def course():
            yield
            yield
    """,
    "aside/__init__.py": "",
    "aside/d.py": """
        def called():
            pass
    """,
}
AB, AC, BC = ("a.py", "b.py"), ("a.py", "room/c.py"), ("b.py", "room/c.py")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package ``walked`` whose functions go from file to file."""
    for name, text in FILES.items():
        path = tmp_path / "walked" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("walked.a")
    for name in [name for name in sys.modules if name.partition(".")[0] == "walked"]:
        del sys.modules[name]


@pytest.fixture
def tracer(tmp_path: Path) -> Tracer:
    return Tracer(tmp_path / "walked", leave_out=("aside",))


def test_calls_into_other_files_are_changes(package: Any, tracer: Tracer) -> None:
    with tracer.following() as walk:
        package.calls()
    package.calls()

    assert walk.files == {"a.py", "b.py", "room/c.py"}
    assert walk.functions == 4
    assert walk.changes == {AB: 2, AC: 1}
    assert [str(step) for step in walk.steps] == [
        "a.py:calls",
        "  b.py:called",
        "  a.py:same_file",
        "  room/c.py:called",
    ]


def test_a_generator_that_goes_on_is_a_change_and_no_other_call(package: Any, tracer: Tracer) -> None:
    with tracer.following() as walk:
        package.drives()

    assert walk.changes == {AB: 1, BC: 5}
    assert walk.functions == 5
    assert str(walk.steps[-1]) == "  room/c.py:course (goes on)"


def test_how_often_a_coroutine_is_woken_does_not_count(package: Any, tracer: Tracer) -> None:
    with tracer.following() as walk:
        asyncio.run(package.waits())

    # It goes on once, after the first pause.
    assert walk.changes == {AB: 3}
    assert walk.functions == 2


@pytest.mark.parametrize("run", ["pools", "hands_over"])
def test_what_a_thread_does_comes_from_who_handed_it_over(package: Any, tracer: Tracer, run: str) -> None:
    with tracer.following() as walk:
        asyncio.run(package.hands_over()) if run == "hands_over" else package.pools()

    assert walk.files == {"a.py", "room/c.py"}
    assert walk.changes.keys() == {AC}


def test_walks_add_up(package: Any, tracer: Tracer) -> None:
    with tracer.following() as first:
        package.calls()
    with tracer.following() as second:
        package.calls()

    total = first + second

    assert (total.functions, total.changes.total(), len(total.files)) == (8, 6, 3)


def test_a_recording_goes_through_all_tasks() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.journey", "--calls", "--pairs", "1"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )

    counts = {
        name: [int(figure.replace(",", "")) for figure in figures.split()]
        for name, figures in re.findall(r"^(\w[\w ]+?)  +([\d, ]+)$", done.stdout, re.MULTILINE)
    }
    assert list(counts) == ["list", "submit", "wait and land", "in all"]
    *each, total = counts.values()
    assert all(0 < files <= changes < functions for files, functions, changes in each)
    assert total[1:] == [sum(task[column] for task in each) for column in (1, 2)]
    assert "  operators/list_recordings.py:ListRecordingsOperator.execute" in done.stdout.splitlines()
    assert done.stderr == ""
