"""What `make dist` has built, installed where there is nothing else: no checkout, no other package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from plaud_provider.emulator.server import EmulatorServer

pytestmark = pytest.mark.timeout(600)

REPOSITORY = Path(__file__).resolve().parents[2]
UV = os.environ.get("UV") or shutil.which("uv") or str(REPOSITORY / ".uv" / "bin" / "uv")
DAG_IDS = sorted(file.stem for file in (REPOSITORY / "dags").glob("*.py"))
PARSE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
print(json.dumps({"errors": bag.import_errors, "dag_ids": sorted(bag.dags)}))
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def install(environment: Path, built: str, *options: str) -> None:
    """Install what `make dist` has built, with what it says it needs."""
    [file] = (REPOSITORY / "dist").glob(built)
    with_constraints = ["--constraints", str(REPOSITORY / "constraints.txt")]
    subprocess.run(
        [str(Path(UV).absolute()), "pip", "install", "--quiet", *with_constraints, *options, str(file)],
        env={**os.environ, "VIRTUAL_ENV": str(environment)},
        check=True,
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([str(Path(UV).absolute()), "venv", "--quiet", str(folder)], check=True)
    install(folder, "*.whl")
    return folder


@pytest.fixture
def run(environment: Path, tmp_path: Path) -> Run:
    """Run a command of the environment, away from the checkout."""

    def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [environment / "bin" / command[0], *command[1:]],
            cwd=tmp_path,
            env={
                "PATH": f"{environment / 'bin'}:/usr/bin:/bin",
                "HOME": str(tmp_path),
                "AIRFLOW_HOME": str(tmp_path / "airflow"),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                **variables,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_airflow_knows_the_provider(run: Run) -> None:
    listed = run("airflow", "providers", "list", "--output", "json")

    assert "airflow-provider-plaud" in listed.stdout, listed.stderr


def test_its_dags_come_with_it_and_parse(run: Run, tmp_path: Path) -> None:
    copied = run("plaud", "dags", str(tmp_path / "dags"))
    assert copied.returncode == 0, copied.stderr
    parsed = run("python", "-c", PARSE, str(tmp_path / "dags"))

    assert json.loads(parsed.stdout.splitlines()[-1]) == {"errors": {}, "dag_ids": DAG_IDS}, parsed.stderr


def test_its_documentation_comes_with_it(run: Run) -> None:
    assert run("plaud", "docs", "ui").stdout.startswith("# From the UI")


def test_the_doctor_names_the_extra_that_is_missing(run: Run, tmp_path: Path) -> None:
    with EmulatorServer() as plaud:
        examined = run(
            "plaud",
            "doctor",
            AIRFLOW_CONN_PLAUD_DEFAULT=plaud.airflow_connection,
            AIRFLOW_CONN_WAREHOUSE_DEFAULT=json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "w")}),
        )

    assert examined.returncode == 1
    assert "✓ token" in examined.stdout, examined.stdout + examined.stderr
    for name in ("warehouse", "ledger"):
        [line] = [line for line in examined.stdout.splitlines() if line.startswith(f"✗ {name} ")]
        assert "pip install 'airflow-provider-plaud[sqlite]'" in line
        assert "pip install '.[sqlite]'" in line


# Last: it takes the place of the wheel.
def test_the_source_distribution_installs_as_well(environment: Path, run: Run, tmp_path: Path) -> None:
    install(environment, "*.tar.gz", "--reinstall-package", "airflow-provider-plaud")

    assert run("plaud", "dags", str(tmp_path / "dags")).returncode == 0
    assert sorted(file.stem for file in (tmp_path / "dags").iterdir()) == DAG_IDS
    assert run("plaud", "docs", "archive").stdout.startswith("# Archives and backfills")
