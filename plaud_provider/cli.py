"""The command ``plaud``: what is wrong, what has happened, and the files that come with the package."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGE = Path(__file__).parent
EXIT_FAILED = 1
#: The warehouse, and the ledger, if nobody says otherwise.
_WAREHOUSE = "warehouse_default"

_EXAMPLES = """
examples:
  plaud dags ~/airflow/dags        put the DAGs that come with the package into a folder
  plaud doctor                     say what is missing before the first recording
  plaud doctor --recording s3://aws_default@calls/0001.mp3
  plaud status                     how many recordings are where
  plaud docs archive               read a page of the documentation
  plaud emulator --store calls/    a Plaud server on this machine, for development

`plaud COMMAND --help` says more.
"""
_DOCTOR = """
Say what a first run would need, a line each: ✓ and what was found, or ✗ and what to do about it;
- is what was not looked at, and why. Nothing is submitted, so nothing is paid for, and no secret is
printed. Tables and folders that the first run would create are created.

Run it with the Python, the environment and the AIRFLOW_HOME of your scheduler: it sees what that sees.
The exit code is 1 if anything is wrong.
"""
_DOCTOR_EXAMPLES = """
examples:
  plaud doctor
  plaud doctor --plaud-conn-id plaud_eu --region eu --sql-conn-id dwh --ledger-conn-id ledger
  plaud doctor --recording s3://aws_default@calls/0001.mp3 --results-path s3://aws_default@plaud-work/
"""
_DAGS_EXAMPLES = """
examples:
  plaud dags ~/airflow/dags
  plaud dags /opt/airflow/dags plaud_transcribe_daily plaud_plan_archive
  plaud dags ~/airflow/dags --overwrite      after an upgrade; what you have changed there is lost
"""
_STATUS_EXAMPLES = """
examples:
  plaud status
  plaud status --ledger-conn-id ledger
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a command and return its exit code.

    :param arguments: Those of the command line, without the program's name; by default this process's own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    # A terminal may not have every sign; that is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if given[:1] == ["emulator"]:
        # It has options of its own, --help included.
        from plaud_provider.emulator.__main__ import main as emulator

        return emulator(given[1:])
    parser = _parser()
    options = parser.parse_args(given)
    if options.command == "dags":
        return copy_dags(options.folder, options.names, overwrite=options.overwrite)
    if options.command == "docs":
        return print_page(options.page)
    with _as_airflow_sees_it():
        if options.command == "doctor":
            from plaud_provider.doctor import Subject, examine

            sql_conn_id = options.sql_conn_id or (None if options.lake_path else _WAREHOUSE)
            return examine(
                Subject(
                    plaud_conn_id=options.plaud_conn_id,
                    region=options.region,
                    sql_conn_id=sql_conn_id,
                    lake_path=options.lake_path,
                    lake_format=options.lake_format,
                    lake_catalog_conn_id=options.lake_catalog_conn_id,
                    ledger_conn_id=options.ledger_conn_id or sql_conn_id or _WAREHOUSE,
                    results_path=options.results_path,
                    recording=options.recording,
                )
            )
        from plaud_provider.ledger.summary import print_summary

        return print_summary(options.ledger_conn_id)


def _parser() -> argparse.ArgumentParser:
    from plaud_provider import __version__

    def add(name: str, words: str, description: str, examples: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=words,
            description=description.strip(),
            epilog=examples.strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    parser = argparse.ArgumentParser(
        prog="plaud",
        description="Recordings to warehouse rows with Airflow and Plaud.",
        epilog=_EXAMPLES.strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"airflow-provider-plaud {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")

    doctor = add("doctor", "say what is missing before the first recording", _DOCTOR, _DOCTOR_EXAMPLES)
    doctor.add_argument("--plaud-conn-id", default="plaud_default", metavar="ID")
    doctor.add_argument("--region", metavar="REGION", help="what you take that connection's region to be")
    doctor.add_argument(
        "--sql-conn-id",
        metavar="ID",
        help=f"the warehouse; default: {_WAREHOUSE}, or none if there is a lake",
    )
    doctor.add_argument("--lake-path", metavar="PATH", help="folder of an open lake")
    doctor.add_argument("--lake-format", default="iceberg", choices=("iceberg", "delta", "parquet"))
    doctor.add_argument("--lake-catalog-conn-id", metavar="ID", help="Iceberg's catalog")
    doctor.add_argument("--ledger-conn-id", metavar="ID", help="the ledger; default: the warehouse")
    doctor.add_argument(
        "--results-path",
        metavar="PATH",
        help="folder that workers and triggerers share; default: the Airflow variable plaud_results_path",
    )
    doctor.add_argument(
        "--recording", metavar="REFERENCE", help="one of yours in storage, to be signed and fetched"
    )

    dags = add(
        "dags",
        "put the DAGs that come with the package into a folder",
        "Copy the DAGs that come with the package into a folder, such as that of your Airflow. A file\n"
        "that is there and differs is left as it is, unless --overwrite is given.",
        _DAGS_EXAMPLES,
    )
    dags.add_argument("folder", type=_folder, metavar="DIR", help="made if it is not there")
    dags.add_argument("names", nargs="*", metavar="DAG", help=f"any of {', '.join(dag_names())}; default all")
    dags.add_argument("--overwrite", action="store_true", help="replace files that differ")

    status = add(
        "status",
        "how many recordings are where",
        "Say what the ledger knows, in numbers. Nothing is changed.",
        _STATUS_EXAMPLES,
    )
    status.add_argument("--ledger-conn-id", default=_WAREHOUSE, metavar="ID")

    words = "read the documentation"
    docs = add("docs", words, "Print a page of the documentation.", "example:\n  plaud docs archive")
    docs.add_argument("page", nargs="?", choices=page_names(), metavar="PAGE", help=", ".join(page_names()))

    # Handled above: it is here for the list of commands.
    commands.add_parser("emulator", help="a Plaud server for development and tests", add_help=False)
    return parser


@contextlib.contextmanager
def _as_airflow_sees_it() -> Iterator[None]:
    """Set what Airflow reads of the environment when it is first imported, and only then."""
    wanted = {
        # Connections and variables are looked for where the scheduler looks: in its database too.
        "_AIRFLOW_PROCESS_CONTEXT": "server",
        # What hooks and drivers log is for tasks; what matters of it is in our own lines.
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def dag_names() -> list[str]:
    """Return the names of the DAGs that come with the package."""
    return sorted(
        file.stem for file in (PACKAGE / "example_dags").glob("*.py") if not file.stem.startswith("_")
    )


def _folder(text: str) -> Path:
    if not text.strip():
        # A variable of the shell that is not set; the folder that one is in is named ".".
        raise argparse.ArgumentTypeError("is empty. Name the folder, as in ~/airflow/dags")
    return Path(text)


def copy_dags(folder: Path, names: Sequence[str] = (), *, overwrite: bool = False) -> int:
    """
    Copy DAGs into a folder, and say what became of each.

    :param folder: It is made if it is not there.
    :param names: Which; all if empty.
    :param overwrite: Whether to replace files that differ.
    :return: 1 if one was left out, else 0.
    """
    for name in names:
        if name not in dag_names():
            print(f"plaud: there is no DAG {name!r}; there are {', '.join(dag_names())}.", file=sys.stderr)
            return EXIT_FAILED
    left_out = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names or dag_names():
            content = (PACKAGE / "example_dags" / f"{name}.py").read_bytes()
            word = _copied(content, folder / f"{name}.py", overwrite=overwrite)
            left_out = left_out or word.startswith("LEFT")
            print(f"{word:12} {folder / name}.py")
    except OSError as error:
        print(f"plaud: {folder}: {error.strerror}.", file=sys.stderr)
        return EXIT_FAILED
    if left_out:
        print(
            "\nWhat differs was left as it is. --overwrite replaces it; what you have changed there is lost."
        )
        return EXIT_FAILED
    print("\nAirflow finds them, within minutes, in the folder that [core] dags_folder names.")
    print("`plaud doctor` says what else a first run would need.")
    return 0


def _copied(content: bytes, file: Path, *, overwrite: bool) -> str:
    try:
        # Another one that is there, also one that has just come, is never written to.
        with file.open("xb") as new:
            new.write(content)
    except FileExistsError:
        pass
    else:
        return "copied"
    if file.is_file() and file.read_bytes() == content:
        return "is there"
    if not overwrite:
        return "LEFT AS IS"
    file.write_bytes(content)
    return "replaced"


def page_names() -> list[str]:
    """Return the names of the pages of the documentation."""
    return sorted(file.stem for file in (PACKAGE / "docs").glob("*.md"))


def print_page(name: str | None) -> int:
    """
    Print a page of the documentation, or which there are.

    :param name: Its name; ``None`` for the list.
    """
    if name is not None:
        print((PACKAGE / "docs" / f"{name}.md").read_text(encoding="utf-8"))
        return 0
    for page in page_names():
        with (PACKAGE / "docs" / f"{page}.md").open(encoding="utf-8") as lines:
            print(f"  plaud docs {page:12} {next(lines).lstrip('# ').strip()}")
    return 0
