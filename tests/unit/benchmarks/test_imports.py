"""What benchmarks take from the package is there: most of them run too rarely for that to be noticed."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import benchmarks

FILES = sorted(Path(benchmarks.__path__[0]).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_what_a_benchmark_takes_from_the_package_is_there(path: Path) -> None:
    taken = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("plaud_provider.")
    ]

    for node in taken:
        module = importlib.import_module(str(node.module))
        # A module of a package is no attribute of it before it is imported.
        names = {one.name for one in node.names if not hasattr(module, one.name)}
        for name in names:
            importlib.import_module(f"{node.module}.{name}")
