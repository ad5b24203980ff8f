from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest

from plaud_provider import __version__
from plaud_provider.get_provider_info import get_provider_info

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A copy: setuptools would take what an earlier build has left in the folder.
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        REPOSITORY / "plaud_provider", folder / "plaud_provider", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation"],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    [built] = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def distribution(wheel: Path) -> Distribution:
    return PathDistribution(next(p for p in zipfile.Path(wheel).iterdir() if p.name.endswith(".dist-info")))  # type: ignore[arg-type]


def test_the_wheel_has_every_module_and_the_marker_for_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("plaud_provider/")}
    source = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "plaud_provider").rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }

    assert packed == source


def test_the_wheel_has_nothing_but_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        roots = {name.partition("/")[0] for name in archive.namelist()}

    assert roots == {"plaud_provider", f"airflow_provider_plaud-{__version__}.dist-info"}


def test_airflow_finds_the_provider_info(distribution: Distribution) -> None:
    [entry_point] = [e for e in distribution.entry_points if e.group == "apache_airflow_provider"]

    assert entry_point.load()() == get_provider_info()


def test_the_emulator_is_a_console_script(distribution: Distribution) -> None:
    [script] = [e for e in distribution.entry_points if e.group == "console_scripts"]

    assert script.name == "plaud-emulator"
    assert callable(script.load())


def test_version_and_licence_are_told(distribution: Distribution) -> None:
    assert distribution.version == __version__
    assert distribution.metadata["License-Expression"] == "Apache-2.0"
