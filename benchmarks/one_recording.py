"""
How long somebody waits for the rows of one recording: README's three tasks, in each mode of the sensor.

``.venv/bin/python -m benchmarks.one_recording`` starts real Airflow processes as :mod:`benchmarks.archive`
does. Each run has an emulator and a client of its own, so nothing is known of how long Plaud takes. Only the
last lines are of a client four of whose recordings were waited for before, in the same mode.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.archive import OURS_LANDED, PARALLELISM, progress, running_airflow
from benchmarks.runs import Contender, Figures, Regime
from benchmarks.tables import machine, table

CONTENDERS = (
    Contender("deferred", "one_deferred", OURS_LANDED),
    Contender("deferred, results_path", "one_deferred_kept", OURS_LANDED),
    Contender("poke, results_path", "one_poke", OURS_LANDED),
    Contender("reschedule, results_path", "one_reschedule", OURS_LANDED),
    Contender(
        "(a) HttpOperator, HttpSensor, pandas",
        "rival_one_recording",
        "select count(*) from one_transcripts where run_id = '{run_id}'",
    ),
)
#: They are run for a client of which times are known, too.
KNOWING = CONTENDERS[1:4]
#: So many recordings have to be seen before a prediction counts; see plaud_provider/api/schedule.py.
EARLIER = 4
HEADER = ("", "processing s", "landed", "seconds", "all of them", "beyond processing", "calls", "CPU s")


def row(runs: Sequence[Figures], regime: Regime) -> list[str]:
    seconds = statistics.median(one.wall_seconds for one in runs)
    return [
        runs[0].contender,
        f"{regime.processing_seconds:g}",
        f"{sum(one.landed for one in runs)} of {len(runs)}",
        f"{seconds:.1f}",
        " ".join(f"{one.wall_seconds:.1f}" for one in runs),
        f"{seconds - regime.processing_seconds:.1f}",
        f"{statistics.median(one.requests for one in runs):g}",
        f"{statistics.median(one.total_cpu_seconds for one in runs):.1f}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.one_recording", description=__doc__)
    parser.add_argument("--seconds", type=float, nargs="*", default=[5, 20, 45], help="processing")
    parser.add_argument("--repeat", type=int, default=3, help="runs per figure; the median counts")
    parser.add_argument(
        "--only", nargs="*", choices=[one.dag_id for one in CONTENDERS], help="these DAGs only"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    contenders = [one for one in CONTENDERS if not options.only or one.dag_id in options.only]
    print(machine("apache-airflow", "apache-airflow-providers-http"))
    rows = []
    with running_airflow(speed=1) as bench:
        for contender in contenders:
            progress(f"warming up: {contender.name}")
            bench.run(contender, 1, Regime(request_limit=0, token_limit=0, processing_seconds=1), timeout=300)
        bench.measure_idle(contenders[0].dag_id, 10)
        for seconds in options.seconds:
            regime = Regime(request_limit=60, token_limit=10, processing_seconds=seconds)
            for contender in contenders:
                progress(f"{contender.name}, {seconds:g} s")
                runs = [bench.run(contender, 1, regime, timeout=300) for _ in range(options.repeat)]
                rows.append(row(runs, regime))
        for seconds in options.seconds:
            regime = Regime(request_limit=60, token_limit=10, processing_seconds=seconds)
            for contender in (one for one in contenders if one in KNOWING):
                progress(f"{contender.name}, {seconds:g} s, the fifth recording")
                known = bench.run(contender, 1, regime, timeout=300, earlier=EARLIER)
                rows.append(row([replace(known, contender=f"{contender.name}, the fifth")], regime))
    print(
        f"Airflow: LocalExecutor with {PARALLELISM} workers, metadata and warehouse on PostgreSQL; 60\n"
        "requests a minute. Seconds: from the start of the DAG run to its end, the median. Calls: submits\n"
        "and results, counted by the server. The fifth: four of this client were waited for before."
    )
    print(table("One recording", HEADER, rows))


if __name__ == "__main__":
    main()
