"""The command line as somebody uses it who has nothing but the installed package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from plaud_provider.cli import dag_names, main, page_names

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("command", [[], ["doctor"], ["dags"], ["status"]])
def test_help_has_examples_and_imports_nothing_dear(command: list[str]) -> None:
    script = (
        "import json, sys\n"
        "from plaud_provider.cli import main\n"
        "try:\n    main(json.loads(sys.argv[1]))\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "dear = {'airflow', 'sqlalchemy', 'requests', 'pandas', 'aiohttp'} & set(sys.modules)\n"
        "assert not dear, dear\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps([*command, "--help"])],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "examples:" in done.stdout
    assert "plaud " in done.stdout


def test_it_is_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "plaud_provider", "--version"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.startswith("airflow-provider-plaud ")


def test_the_emulator_has_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["emulator", "--help"])

    assert end.value.code == 0
    assert "--processing-seconds" in capsys.readouterr().out


def test_dags_puts_every_dag_into_a_folder_that_it_makes(tmp_path: Path) -> None:
    folder = tmp_path / "airflow" / "dags"

    assert main(["dags", str(folder)]) == 0
    assert sorted(file.name for file in folder.iterdir()) == [f"{name}.py" for name in dag_names()]
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        file.name: file.read_text() for file in (REPOSITORY / "dags").glob("*.py")
    }


def test_dags_takes_those_that_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dags", str(tmp_path), "plaud_plan_archive"]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["plaud_plan_archive.py"]

    assert main(["dags", str(tmp_path), "plaud_plan"]) == 1
    assert (
        "there is no DAG 'plaud_plan'; there are plaud_forget, plaud_plan_archive" in capsys.readouterr().err
    )


def test_dags_overwrites_only_when_it_is_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["dags", str(tmp_path)])
    mine = tmp_path / "plaud_transcribe_daily.py"
    mine.write_text("# mine\n")

    assert main(["dags", str(tmp_path)]) == 1
    assert mine.read_text() == "# mine\n"
    said = capsys.readouterr().out
    assert f"LEFT AS IS   {mine}" in said
    assert f"is there     {tmp_path / 'plaud_plan_archive.py'}" in said

    assert main(["dags", str(tmp_path), "--overwrite"]) == 0
    assert "plaud_transcribe_daily" in mine.read_text()


def test_dags_says_what_a_folder_is_that_it_cannot_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    assert main(["dags", str(tmp_path / "file")]) == 1
    assert "file: File exists" in capsys.readouterr().err


def test_docs_has_every_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert page_names() == sorted(file.stem for file in (REPOSITORY / "docs").glob("*.md"))
    assert main(["docs"]) == 0
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == page_names()
    assert main(["docs", "archive"]) == 0
    assert capsys.readouterr().out.startswith("# Archives and backfills")


@pytest.mark.parametrize("folder", ["", " "])
def test_dags_takes_no_folder_that_has_no_name(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SystemExit):
        main(["dags", folder])

    assert "Name the folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
