"""``python -m demo``: recordings become rows, on a real Airflow with embedded parts."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from demo.airflow_api import TaskInstance
from demo.command import EXIT_FAILED, REPOSITORY, run_command
from demo.emulator import Emulator
from demo.processes import Supervisor
from demo.progress import Progress, read_events
from demo.report import format_table, query_command, read_lines
from demo.stack import USERNAME, AirflowStack

DAG_ID = "plaud_transcribe_list"
#: Its task that waits.
WAITS = "transcribe.chunk.land"
RUN_SECONDS = 240.0
LOG_TAIL_LINES = 25
NEXT = """To try next:

  make ui            this Airflow to click through: forms, folders per day in S3, a recording that fails
  docs/start.md      from a Plaud account to the first row, in an Airflow of your own
  docs/archive.md    a whole archive: what it costs, backfills, what to do with what failed
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    return run_command(run, arguments, prog="python -m demo", description=__doc__, work=Path(".demo"))


def run(work: Path, recordings: Path) -> int:
    """Start everything, run the DAG, show what came out, end everything."""
    progress = Progress()
    home, warehouse = work / "airflow", work / "warehouse.duckdb"
    # Each demo starts from nothing: an earlier one's transcriptions are unknown to a new emulator.
    shutil.rmtree(home, ignore_errors=True)
    warehouse.unlink(missing_ok=True)
    with Supervisor() as supervisor:
        emulator = Emulator(supervisor, recordings, work, "--processing-seconds", "5")
        urls = emulator.signed_urls()
        if not urls:
            raise RuntimeError(f"There are no recordings in {recordings}.")
        progress(f"Plaud emulator on {emulator.url} with {len(urls)} recordings")
        progress(f"Airflow {version('apache-airflow-core')} starts: about 20 seconds, more at the first time")
        env = {
            "AIRFLOW_CONN_PLAUD_DEFAULT": json.dumps(emulator.connection()),
            "AIRFLOW_CONN_WAREHOUSE_DEFAULT": json.dumps(
                {"conn_type": "duckdb", "host": str(warehouse.resolve())}
            ),
        }
        with AirflowStack(home, [REPOSITORY / "dags"], env=env, on_progress=progress) as stack:
            succeeded = transcribe(stack, urls, progress)
            progress("ending all processes")
        summary = emulator.summary()
    progress("all processes have ended")
    if not succeeded:
        return EXIT_FAILED
    print(f"\n{format_table(read_lines(warehouse))}\n")
    print(
        f"The Plaud server saw {_count(summary['exchanges'], 'token exchange')}, "
        f"{_count(summary['submits_accepted'], 'submit')} and {_count(summary['gets'], 'look')} at results."
    )
    print(f"The warehouse is {warehouse}; the next demo starts a new one. To query it:\n")
    print(f"  {query_command(warehouse)}\n")
    print(NEXT)
    return 0


def transcribe(stack: AirflowStack, urls: list[str], progress: Progress) -> bool:
    """Run the DAG on the recordings and report whether it succeeded; if not, print why."""
    run_id = stack.trigger(DAG_ID, {"recordings": urls})
    progress(
        f"DAG {DAG_ID} triggered with {len(urls)} recordings; to watch it: {stack.base_url} "
        f"(user {USERNAME}, password {stack.password})"
    )

    def report(instances: list[TaskInstance]) -> None:
        progress.log_lines(WAITS, stack.task_log_files(DAG_ID, run_id, WAITS, map_index=0))
        progress.tasks(instances)

    state = stack.wait_for_run(DAG_ID, run_id, timeout=RUN_SECONDS, on_progress=report)
    progress(f"DAG run: {state}")
    if state == "success":
        return True
    failed = [i for i in stack.api.task_instances(DAG_ID, run_id) if i.state == "failed"]
    if failed:
        files = stack.task_log_files(DAG_ID, run_id, failed[0].task_id, map_index=failed[0].map_index)
        tail = list(read_events(files))[-LOG_TAIL_LINES:]
        print(f"\nFailed: {', '.join(instance.label for instance in failed)}")
        print("\n  ".join([f"The end of the log of {failed[0].label}:", *tail]))
    print(f"All logs: {stack.logs}\n")
    return False


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main())
