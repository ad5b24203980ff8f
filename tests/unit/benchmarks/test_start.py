"""The tasks whose start is measured import what is there."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from benchmarks.start import TASKS, TRIGGER

MODULES = sorted({module for modules in (*TASKS.values(), TRIGGER) for module in modules})


@pytest.mark.parametrize("module", MODULES)
def test_what_a_task_imports_is_there(module: str) -> None:
    assert find_spec(module) is not None
