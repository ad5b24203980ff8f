"""A deprecation that is raised from our modules fails the test in which it happens."""

from __future__ import annotations

import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from airflow.exceptions import AirflowProviderDeprecationWarning, RemovedInAirflow4Warning

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
CATEGORIES = (
    DeprecationWarning,
    PendingDeprecationWarning,
    FutureWarning,
    AirflowProviderDeprecationWarning,
    RemovedInAirflow4Warning,
)
OURS = ("plaud_provider", "plaud_provider.hooks.plaud", "unusual_prefix_0123abc_plaud_transcribe_list")
NOT_OURS = ("airflow.models.dag", "plaud_provider_of_others", "pandas")


def deprecated(category: type[Warning]) -> None:
    """Blame whoever calls this, as Airflow's deprecated functions do."""
    warnings.warn("this is deprecated", category, stacklevel=2)


def caller_in(module: str) -> Callable[[Callable[[type[Warning]], None], type[Warning]], None]:
    """Return a function of a module of that name."""
    namespace = types.ModuleType(module).__dict__
    exec("def call(function, category):\n    function(category)\n", namespace)
    caller: Callable[[Callable[[type[Warning]], None], type[Warning]], None] = namespace["call"]
    return caller


@pytest.mark.parametrize("module", OURS)
@pytest.mark.parametrize("category", CATEGORIES)
def test_a_deprecation_of_ours_is_an_error(module: str, category: type[Warning]) -> None:
    with pytest.raises(category):
        caller_in(module)(deprecated, category)


@pytest.mark.parametrize("module", NOT_OURS)
@pytest.mark.parametrize("category", CATEGORIES)
def test_one_of_others_is_none(module: str, category: type[Warning]) -> None:
    with warnings.catch_warnings(record=True) as raised:
        caller_in(module)(deprecated, category)

    assert [warning.category for warning in raised] == [category]


def test_a_test_in_which_it_happens_fails(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import warnings\n\n"
        "def test_it():\n"
        "    warnings.warn_explicit('x', DeprecationWarning, 'x.py', 1, module='plaud_provider.sensors')\n"
    )
    command = [sys.executable, "-m", "pytest", "-c", str(PYPROJECT), "-p", "no:cacheprovider", "test_it.py"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert finished.returncode == pytest.ExitCode.TESTS_FAILED
    assert "1 failed" in finished.stdout
