"""``python -m demo.ui``: an Airflow to click through, with a Plaud to talk to."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from demo.command import REPOSITORY, run_command
from demo.emulator import Emulator
from demo.files import FileServer
from demo.processes import Supervisor
from demo.progress import Progress
from demo.report import query_command
from demo.stack import USERNAME, AirflowStack

DAG_IDS = ("plaud_transcribe_recording", "plaud_transcribe_list", "plaud_transcribe_archive")
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
    with Supervisor() as supervisor:
        emulator = Emulator(supervisor, recordings, work, "--processing-seconds", "5")
        progress(f"Plaud emulator on {emulator.url}")
        files = FileServer(supervisor, recordings, work)
        progress(f"Airflow {version('apache-airflow-core')} starts: about 20 seconds, more at the first time")
        env = {"AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False"}
        with AirflowStack(home, [REPOSITORY / "dags"], env=env, on_progress=progress) as stack:
            # In the metadata database, not in the environment: there they can be seen, tested and edited.
            stack.api.create_connection("plaud_default", emulator.connection())
            for conn_id, conn_type, file in (
                ("warehouse_default", "duckdb", warehouse),
                ("warehouse_sqlite", "sqlite", sqlite),
            ):
                stack.api.create_connection(conn_id, {"conn_type": conn_type, "host": str(file.resolve())})
            public_urls = json.dumps({str(recordings.resolve()): files.url})
            stack.api.request("POST", "/variables", json={"key": "plaud_public_urls", "value": public_urls})
            for dag_id in DAG_IDS:
                stack.wait_for_dag(dag_id)
            print(_guide(stack, emulator, warehouse, recordings), flush=True)
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


def _guide(stack: AirflowStack, emulator: Emulator, warehouse: Path, archive: Path) -> str:
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

2. A recording: {stack.base_url}/dags/{DAG_IDS[0]}, Trigger.
   Recordings to paste, signed and valid for {URL_VALIDITY.total_seconds() / 3600:.0f} hours:

{recordings}

   Several at once, one URL a line: {stack.base_url}/dags/{DAG_IDS[1]}

3. An archive: {stack.base_url}/dags/{DAG_IDS[2]}, Trigger, and as the archive
   {archive.resolve()}
   Run it again: it costs nothing.

4. The rows: in {warehouse}, which is the connection warehouse_default
   (warehouse_sqlite is a SQLite file beside it). Once a run has landed:

   {query_command(warehouse)}

What Plaud saw: {emulator.url}/_emulator/summary and {emulator.url}/_emulator/docs

Ctrl-C ends everything; the next start begins anew."""


if __name__ == "__main__":
    sys.exit(main())
