"""
What a run over an archive costs of which everything has landed.

``.venv/bin/python -m benchmarks.second_run`` fills ledger and warehouse with so many recordings, and runs the
task that lists them again: it asks both in bulk and finds nothing to do, so that the run has no other tasks
but the report. What the storage takes to list is left out: the listing is made up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks.journey import DATABASES, connection, context
from benchmarks.tables import table

if TYPE_CHECKING:
    from plaud_provider.recordings.listing import Found

CONN_ID = "second_run"
MAY = datetime(2024, 5, 1, tzinfo=UTC)
ROWS_AT_ONCE = 10_000
HEADER = ("ledger and warehouse", "recordings", "chunks to do", "seconds", "CPU seconds")


def listed(count: int) -> Iterator[Found]:
    """Return what an archive in S3 lists."""
    from plaud_provider.recordings.listing import Found

    for number in range(count):
        yield Found(f"s3://calls/2024/{number:07}.wav", f"etag-{number}", 1_000_000, MAY)


def fill(count: int) -> None:
    """Have so many recordings landed."""
    import sqlalchemy as sa

    from plaud_provider.api.terms import Terms
    from plaud_provider.hooks.connection import PlaudConnection
    from plaud_provider.ledger.ledger import open_ledger
    from plaud_provider.recordings.reference import AudioReference
    from plaud_provider.submit.plan import Plan, Rules
    from plaud_provider.warehouse.writer import open_warehouse

    plan = Plan(
        PlaudConnection("plaud_default").settings.account,
        Terms(None, False, None),
        Rules(timedelta(hours=1), {}, []),
    )
    ledger = open_ledger(CONN_ID)
    open_warehouse(CONN_ID, ledger=ledger)
    now = datetime.now(tz=UTC)
    owner = {"owner_dag_id": "d", "owner_run_id": "r", "owner_task_id": "t", "owner_map_index": 0}
    times = {"claimed_at": now, "submitted_at": now, "finished_at": now, "updated_at": now}
    rows, landed = [], []
    for number, found in enumerate(listed(count)):
        key = plan.key(AudioReference(found.uri), found.version)
        known = {"recording_key": key, "transcription_id": f"txn_{number}", "audio_uri": found.uri}
        client = {"region": "us", "client_id": "client", "speaker_diarization": False}
        rows.append({**known, **client, **owner, **times, "state": "landed", "owner_try_number": 1})
        counts = {"segment_count": 0, "speaker_count": 0}
        row = {"transcription_id": f"txn_{number}", "region": "us", "status": "completed", "raw": "{}"}
        landed.append({**row, **counts, "landed_at": now})

    def insert(connection: sa.Connection) -> None:
        from plaud_provider.ledger.table import ledger_table
        from plaud_provider.warehouse.tables import plaud_tables

        for target, filled in ((ledger_table(), rows), (plaud_tables().transcripts, landed)):
            for start in range(0, count, ROWS_AT_ONCE):
                connection.execute(sa.insert(target), filled[start : start + ROWS_AT_ONCE])

    ledger.database.run(insert, failed="filling")


def measured(database: str, count: int) -> list[str]:
    """Fill a new database and list again; return a row of the table."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="plaud-benchmark-")))
        os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = json.dumps(connection(database, root, stack))
        fill(count)

        from plaud_provider.operators.list_recordings import ListRecordingsOperator

        stack.enter_context(
            mock.patch("plaud_provider.recordings.listing.list_recordings", return_value=listed(count))
        )
        task: Any = ListRecordingsOperator(
            task_id="list", path="s3://calls/2024/", results_path=str(root / "work"), sql_conn_id=CONN_ID
        )
        began, busy = time.monotonic(), time.process_time()
        chunks = task.execute(context("list"))
        took = (time.monotonic() - began, time.process_time() - busy)
    return [database, f"{count:,}", str(len(chunks)), *(f"{one:.1f}" for one in took)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.second_run", description=__doc__)
    parser.add_argument("--recordings", type=int, default=50_000, help="recordings that have landed")
    parser.add_argument("--database", choices=DATABASES, help="only this one; SQLite and PostgreSQL run")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="plaud-benchmark-") as home:
        # Airflow reads them when it is first imported.
        os.environ["AIRFLOW_HOME"] = home
        os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "CRITICAL"
        os.environ["AIRFLOW_CONN_PLAUD_DEFAULT"] = json.dumps(
            {"conn_type": "plaud", "login": "client", "password": "secret", "extra": {"region": "us"}}
        )
        databases = [options.database] if options.database else ["sqlite", "postgres"]
        rows = [measured(database, options.recordings) for database in databases]
    title = f"A run over what has landed, the task that lists, Python {platform.python_version()}"
    print(table(title, HEADER, rows))


if __name__ == "__main__":
    main()
