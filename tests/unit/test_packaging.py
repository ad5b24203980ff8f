"""What the wheel and the source distribution have in them, and what they say of themselves."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest

from plaud_provider import __version__
from plaud_provider.get_provider_info import get_provider_info

REPOSITORY = Path(__file__).resolve().parents[2]
#: What a checkout has, and tools leave nothing in.
FOLDERS = (".ci", "benchmarks", "dags", "demo", "docs", "plaud_provider", "tests")
FILES = (
    *(".gitignore", "CHANGELOG.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md", "pyproject.toml"),
    *("setup.cfg", "setup.py", "constraints.txt", "constraints-airflow-3.2.txt"),
)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both, built from a copy: setuptools would take what an earlier build has left in the folder."""
    folder = tmp_path_factory.mktemp("checkout")
    without = shutil.ignore_patterns("__pycache__", "_build", ".*_cache")
    for name in FOLDERS:
        shutil.copytree(REPOSITORY / name, folder / name, symlinks=True, ignore=without)
    for name in FILES:
        shutil.copy(REPOSITORY / name, folder)
    # The wheel is built from the source distribution, so it has what the wheel needs.
    build = [sys.executable, "-m", "build", "--no-isolation"]
    subprocess.run(build, check=True, capture_output=True, cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    [built] = dist.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def distribution(wheel: Path) -> Distribution:
    return PathDistribution(next(p for p in zipfile.Path(wheel).iterdir() if p.name.endswith(".dist-info")))  # type: ignore[arg-type]


def source_files() -> Iterator[str]:
    for name in FOLDERS:
        for path in (REPOSITORY / name).rglob("*"):
            relative = path.relative_to(REPOSITORY)
            is_left_behind = {"__pycache__", "_build"} & set(
                relative.parts
            ) or "_cache" in relative.as_posix()
            if path.is_file() and not is_left_behind:
                yield relative.as_posix()
    yield from FILES


def test_the_wheel_has_every_module_the_marker_for_types_the_pages_and_the_documentation(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("plaud_provider/")}
    source = {
        name
        for name in source_files()
        if name.startswith("plaud_provider/") and name.endswith((".py", "py.typed", ".html", ".css", ".js"))
    }
    pages = {f"plaud_provider/docs/{page.name}" for page in (REPOSITORY / "docs").glob("*.md")}

    assert packed == source | pages


def test_the_wheel_has_the_dags(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {
            name: archive.read(name).decode()
            for name in archive.namelist()
            if name.startswith("plaud_provider/example_dags/plaud_")
        }

    assert packed == {
        f"plaud_provider/example_dags/{file.name}": file.read_text()
        for file in (REPOSITORY / "dags").glob("*.py")
    }


def test_the_wheel_has_nothing_but_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        roots = {name.partition("/")[0] for name in archive.namelist()}

    assert roots == {"plaud_provider", f"airflow_provider_plaud-{__version__}.dist-info"}


def test_the_source_distribution_has_all_that_a_checkout_has(dist: Path) -> None:
    [built] = dist.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        packed = {member.name.partition("/")[2] for member in archive if not member.isdir()}

    assert set(source_files()) - packed == set()


def test_airflow_finds_the_provider_info(distribution: Distribution) -> None:
    [entry_point] = [e for e in distribution.entry_points if e.group == "apache_airflow_provider"]

    assert entry_point.load()() == get_provider_info()


def test_the_commands_are_console_scripts(distribution: Distribution) -> None:
    scripts = [e for e in distribution.entry_points if e.group == "console_scripts"]

    assert sorted(script.name for script in scripts) == ["plaud", "plaud-emulator"]
    assert all(callable(script.load()) for script in scripts)


def test_it_says_what_and_whose_it_is(distribution: Distribution) -> None:
    assert distribution.version == __version__
    assert distribution.metadata["License-Expression"] == "Apache-2.0"
    assert distribution.metadata["Author"]
    urls = distribution.metadata.get_all("Project-URL") or []
    assert urls
    assert all(re.fullmatch(r"[\w ]+, https://\S+", url) for url in urls)
    extras = distribution.metadata.get_all("Provides-Extra") or []
    databases = [
        "bigquery",
        "clickhouse",
        "databricks",
        "duckdb",
        "mssql",
        "mysql",
        "postgres",
        "redshift",
        "snowflake",
        "sqlite",
    ]
    assert sorted(extras) == sorted([*databases, "azure", "delta", "gcs", "iceberg", "parquet", "s3"])


def test_its_description_has_no_link_that_only_a_checkout_has(distribution: Distribution) -> None:
    description = distribution.metadata.get_payload()  # type: ignore[attr-defined]
    targets = re.findall(r"\]\(([^)]*)\)", description)

    assert distribution.metadata["Description-Content-Type"] == "text/markdown"
    assert [target for target in targets if not target.startswith("https://")] == []
    # Nor a reference or an HTML tag, which the pattern above does not see.
    assert re.findall(r"^\[[^\]]+\]:|<(?:img|a)\b", description, flags=re.MULTILINE) == []
    # Where a page is meant, it says how to read it.
    named = set(re.findall(r"`plaud docs (\w+)`", description))
    assert named
    assert named <= {page.stem for page in (REPOSITORY / "docs").glob("*.md")}
