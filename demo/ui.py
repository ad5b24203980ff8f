"""``python -m demo.ui``: an Airflow to click through, with a Plaud to talk to."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from demo import postgres
from demo.bucket import BAD, BUCKET, DAYS, Bucket
from demo.command import REPOSITORY, run_command
from demo.emulator import Emulator
from demo.files import FileServer
from demo.processes import Supervisor, child_environment, wait_until
from demo.progress import Progress
from demo.report import query_command, short
from demo.stack import USERNAME, AirflowStack

RECORDING, LIST, PLAN, ARCHIVE, DAILY = DAG_IDS = (
    "plaud_transcribe_recording",
    "plaud_transcribe_list",
    "plaud_plan_archive",
    "plaud_transcribe_archive",
    "plaud_transcribe_daily",
)
ROOT = f"s3://aws_default@{BUCKET}/"
URL_VALIDITY = timedelta(hours=24)
LOOK_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run Airflow and the emulator until Ctrl-C, and return the exit code."""
    return run_command(
        run, arguments, prog="python -m demo.ui", description=__doc__, work=Path(".demo", "ui")
    )


def run(work: Path, recordings: Path) -> int:
    """Start everything, say what to do with it, and keep it running until Ctrl-C."""
    progress = Progress()
    home, warehouse = work / "airflow", work / "warehouse.duckdb"
    sqlite = warehouse.with_suffix(".sqlite")
    # Each start is from nothing: an earlier one's transcriptions are unknown to a new emulator.
    shutil.rmtree(home, ignore_errors=True)
    for file in (warehouse, sqlite):
        file.unlink(missing_ok=True)
    with Supervisor() as supervisor, ExitStack() as ends:
        emulator = Emulator(supervisor, recordings, work, "--processing-seconds", "5")
        progress(f"Plaud emulator on {emulator.url}")
        files = FileServer(supervisor, recordings, work)
        bucket = Bucket(supervisor, recordings, work)
        progress(f"S3 bucket {BUCKET} with folders for {', '.join(DAYS)}")
        database = ends.enter_context(_postgres(supervisor, work))
        progress(f"Airflow {version('apache-airflow-core')} starts: about 20 seconds, more at the first time")
        env = {"AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False"}
        dags = [REPOSITORY / "dags"]
        with AirflowStack(home, dags, env=env, sql_alchemy_conn=database, on_progress=progress) as stack:
            # In the metadata database, not in the environment: there they can be seen, tested and edited.
            stack.api.create_connection("plaud_default", emulator.connection())
            stack.api.create_connection("aws_default", bucket.connection())
            for conn_id, conn_type, file in (
                ("warehouse_default", "duckdb", warehouse),
                ("warehouse_sqlite", "sqlite", sqlite),
            ):
                stack.api.create_connection(conn_id, {"conn_type": conn_type, "host": str(file.resolve())})
            variables = {
                "plaud_public_urls": json.dumps({str(recordings.resolve()): files.url}),
                "plaud_results_path": str((work / "results").resolve()),
                # Whoever sets it agrees that runs which nobody starts pay for what is there.
                "plaud_pay_for_daily": ROOT,
            }
            for key, value in variables.items():
                stack.api.request("POST", "/variables", json={"key": key, "value": value})
            for dag_id in DAG_IDS:
                stack.wait_for_dag(dag_id)
            airflow = _write_command(work / "airflow-command", stack)
            print(_guide(stack, emulator, files, warehouse, recordings, airflow), flush=True)
            # The usual end, and no failure.
            with suppress(KeyboardInterrupt):
                while True:
                    supervisor.check()
                    stack.check()
                    time.sleep(LOOK_SECONDS)
            print()
            progress("ending all processes")
    progress("all processes have ended")
    return 0


@contextmanager
def _postgres(supervisor: Supervisor, work: Path) -> Iterator[str]:
    """Give the address of a database for Airflow: on SQLite it makes no backfills while anything runs."""
    address = work / "postgres.address"
    address.unlink(missing_ok=True)
    # Not in the work folder: started by root it runs as another user, who may not enter that.
    folder = tempfile.mkdtemp(prefix="plaud-ui-")
    process = supervisor.start(
        "postgres",
        [sys.executable, "-P", postgres.__file__, folder, str(address)],
        env=child_environment({}),
        log_path=work / "postgres.log",
    )

    def listening() -> bool:
        process.check()
        return address.exists()

    try:
        wait_until(listening, timeout=60, what="PostgreSQL listens")
        yield address.read_text()
    finally:
        # It writes all to its disk first.
        supervisor.end("postgres", grace=30)
        shutil.rmtree(folder, ignore_errors=True)


def _write_command(file: Path, stack: AirflowStack) -> Path:
    """Write a command that is `airflow` for this Airflow, whatever shell it is called from."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(stack.environment.items())]
    # It has this Airflow's keys in it.
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700), "w") as script:
        script.write("\n".join(["#!/bin/sh", *lines, f'exec {sys.executable} -P -m airflow "$@"', ""]))
    return file


def _guide(
    stack: AirflowStack, emulator: Emulator, files: FileServer, warehouse: Path, archive: Path, airflow: Path
) -> str:
    plaud = emulator.connection()
    urls = emulator.signed_urls(URL_VALIDITY)
    recordings = "\n".join(f"   {urlsplit(url).path.rsplit('/', 1)[-1]}\n     {url}" for url in urls)
    return f"""
Airflow    {stack.base_url}
User       {USERNAME}
Password   {stack.password}

1. The connection: Admin > Connections, plaud_default. The pulse symbol in its row tests it.
   To add one like it: type Plaud, Base URL {plaud["host"]}, Port {plaud["port"]},
   Client ID {plaud["login"]}, Secret key {plaud["password"]}

   Airflow has that test switched off by default; here AIRFLOW__CORE__TEST_CONNECTION=Enabled switches it on.
   Elsewhere think first: whoever may edit connections can then make the API server connect to any host.

2. A recording: {stack.base_url}/dags/{RECORDING}, Trigger.
   Recordings to paste, signed and valid for {URL_VALIDITY.total_seconds() / 3600:.0f} hours:

{recordings}

   One that Plaud cannot fetch, to see how that ends:
   {files.url}/no-such-recording.mp3

   Several at once, one URL a line: {stack.base_url}/dags/{LIST}

3. An archive: {stack.base_url}/dags/{ARCHIVE}, Trigger, and as the archive
   {archive.resolve()}
   Run it again: it costs nothing. What it would cost: {stack.base_url}/dags/{PLAN}

4. A folder per day, in S3: {ROOT}, for {", ".join(DAYS)}.
   The variable plaud_pay_for_daily agrees to pay for them; Admin > Variables has it. Each day gets a run by

   {short(airflow)} dags unpause {DAILY}
   {short(airflow)} backfill create --dag-id {DAILY} \\
     --from-date {DAYS[0]} --to-date {DAYS[-1]} --max-active-runs 2

   {stack.base_url}/dags/{DAILY}/runs: the last one fails, as
   {BAD[0]} is no recording; all others have landed.

5. The rows: in {warehouse}, which is the connection warehouse_default
   (warehouse_sqlite is a SQLite file beside it). Once a run has landed:

   {query_command(warehouse)}

What Plaud saw: {emulator.url}/_emulator/summary and {emulator.url}/_emulator/docs

Ctrl-C ends everything; the next start begins anew."""


if __name__ == "__main__":
    sys.exit(main())
