"""
What an archive costs Airflow and the API: ours against what one would write today.

``.venv/bin/python -m benchmarks.archive`` starts a real Airflow (LocalExecutor) on a PostgreSQL of its own, a
second PostgreSQL as the warehouse, and for each run an emulator of its own, in a process of its own.
``--full`` lets rival (a) try 1,000 recordings too, which takes as long as ``--patience`` says.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.chart import bar_chart
from benchmarks.runs import Bench, Contender, Figures, Regime
from benchmarks.tables import machine, table
from demo.postgres import Postgres
from demo.stack import COMPONENTS, AirflowStack

HERE = Path(__file__).resolve().parent
CHARTS = HERE.parent / "docs" / "images"
OURS_LANDED = "select count(*) from plaud_transcripts where run_id = '{run_id}'"
OURS = Contender("ours", "ours", OURS_LANDED)
OURS_FAST_CLOCK = Contender("ours", "ours_fast_clock", OURS_LANDED)
OURS_CALLED = Contender("ours, at once", "ours_called", OURS_LANDED)
README_CALLED = Contender("README's three tasks", "one_deferred_kept", OURS_LANDED)
OURS_PARTIAL = Contender("ours, partial_seconds=300", "ours", OURS_LANDED)
RIVAL_A_LANDED = "select count(*) from rival_transcripts where run_id = '{run_id}'"
RIVAL_A = Contender("(a) HttpOperator, HttpSensor, pandas", "rival_http_sensor", RIVAL_A_LANDED)
RIVAL_A_RETRIES = Contender("(a) with 20 retries", "rival_http_sensor_with_retries", RIVAL_A_LANDED)
RIVAL_B = Contender(
    "(b) requests and threads",
    "rival_requests_threads",
    "select count(*) from threads_transcripts where run_id = '{run_id}'",
)
RIVAL_C = Contender(
    "(c) one deferred wait",
    "rival_one_wait",
    "select count(*) from one_wait_transcripts where run_id = '{run_id}'",
)
HEADER = (
    "contender", "recordings", "run", "landed", "wall s", "floor", "of it", "tasks", "CPU s", "of which*",
    "each", "requests", "each", "429", "tokens", "paid", "done to seen s",
)  # fmt: skip
PARALLELISM = 4
#: Rival (a) pokes in workers: with four of them it is they that hold it up.
MORE_PARALLELISM = 16
#: With 1,000 mapped groups of tasks it had landed nothing after 22 minutes.
MOST_OF_A = 200
NOTES = """\
CPU s: all Airflow processes (API server, scheduler with its workers and their tasks, triggerer, DAG
processor; *in this order), less what they take idle. Requests: submits and results, counted by the server,
those refused (429) included. Paid: submits accepted. Floor: what the limits allow at best,
(2n - burst) / limit, and at least the processing. Done to seen: the median, in the server's seconds."""


@contextmanager
def running_airflow(*, speed: float, parallelism: int = PARALLELISM) -> Iterator[Bench]:
    """Start an Airflow with so many workers, and all that it needs."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="plaud-benchmark-")))
        warehouse, metadata = Postgres(root / "warehouse"), Postgres(root / "metadata")
        stack.callback(warehouse.stop)
        stack.callback(metadata.stop)
        env = {
            "AIRFLOW__CORE__PARALLELISM": str(parallelism),
            # Parsing all files again now and then is nobody's cost, and would fall on whoever runs just then.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "86400",
            "AIRFLOW_CONN_WAREHOUSE": json.dumps(warehouse.connection()),
            "BENCHMARK_SPEED": f"{speed:g}",
            # The triggerer imports the trigger of rival (c); and this is the package that is measured.
            "PYTHONPATH": str(HERE.parent),
        }
        airflow = stack.enter_context(
            AirflowStack(
                root / "airflow",
                [HERE / "ours", HERE / "rivals"],
                env=env,
                sql_alchemy_conn=metadata.create_database("airflow").render_as_string(hide_password=False),
                on_progress=progress,
            )
        )
        yield Bench(airflow, warehouse, root)


def progress(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


def row(figures: Figures, regime: Regime) -> list[str]:
    return [
        figures.contender,
        f"{figures.count:,}",
        figures.state,
        f"{figures.landed:,}",
        f"{figures.wall_seconds:.0f}",
        f"{regime.floor_seconds(figures.count):.0f}",
        f"{figures.wall_seconds / regime.floor_seconds(figures.count):.0%}",
        f"{figures.task_instances:,}",
        f"{figures.total_cpu_seconds:.1f}",
        " + ".join(f"{figures.cpu_seconds[component]:.1f}" for component in COMPONENTS),
        f"{figures.total_cpu_seconds / figures.count:.3f}",
        f"{figures.requests:,}",
        f"{figures.requests / figures.count:.2f}",
        f"{figures.refused:,}",
        f"{figures.tokens}",
        f"{figures.submits_accepted:,}",
        f"{figures.delay_seconds:.1f}",
    ]


def compare(
    bench: Bench, title: str, regime: Regime, runs: Sequence[tuple[Contender, int]], *, timeout: float
) -> list[Figures]:
    """Run these one after the other, and print a table."""
    every = []
    for contender, count in runs:
        progress(f"{title}: {contender.name}, {count:,} recordings")
        every.append(bench.run(contender, count, regime, timeout=timeout))
    print(table(f"{title}: {regime}", HEADER, [row(figures, regime) for figures in every]), flush=True)
    _print_ratios(every)
    return every


def _print_ratios(every: Sequence[Figures]) -> None:
    ours = {figures.count: figures for figures in every if figures.contender == "ours"}
    for other in every:
        mine = ours.get(other.count)
        if mine is not None and mine is not other and other.landed == mine.landed:
            print(
                f"{other.contender}, {other.count:,} recordings, against ours: "
                f"{other.total_cpu_seconds / mine.total_cpu_seconds:.1f} times the CPU, "
                f"{other.wall_seconds / mine.wall_seconds:.1f} times the wall time"
            )


def draw(every: Sequence[Figures]) -> None:
    """Draw how cost grows with work."""
    cpu: dict[str, list[tuple[str, float]]] = {}
    wall: dict[str, list[tuple[str, float]]] = {}
    for one in every:
        group = f"{one.count:,} recordings"
        cpu.setdefault(group, []).append((one.contender, one.total_cpu_seconds))
        wall.setdefault(group, []).append((one.contender, one.wall_seconds))
    (CHARTS / "benchmark-cpu.svg").write_text(
        bar_chart("CPU seconds of all Airflow processes", cpu, unit="s")
    )
    (CHARTS / "benchmark-wall.svg").write_text(bar_chart("Seconds from start to end", wall, unit="s"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.archive", description=__doc__)
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[10, 100, 200, 1000], help="recordings, without limits"
    )
    parser.add_argument("--queue", type=int, default=50, help="recordings of a queue that nothing presses")
    parser.add_argument(
        "--called", type=int, default=200, help="recordings that Plaud calls about; 0: leave out"
    )
    parser.add_argument(
        "--limited", type=int, default=50, help="recordings at 60 and 10 a minute; 0: leave out"
    )
    parser.add_argument(
        "--fast", type=int, default=1000, help="recordings with the faster clock; 0: leave out"
    )
    # Much faster, and the seconds that Airflow takes to start a task would be minutes of it.
    parser.add_argument("--speed", type=float, default=4.0, help="how much faster that clock runs")
    parser.add_argument("--full", action="store_true", help=f"rival (a) with more than {MOST_OF_A} as well")
    parser.add_argument(
        "--patience", type=float, default=20.0, help="minutes after which a run is given up, and said to be"
    )
    parser.add_argument(
        "--charts", action="store_true", help=f"draw {CHARTS.relative_to(CHARTS.parents[2])}/"
    )
    parser.add_argument(
        "--more",
        type=int,
        default=200,
        help=f"recordings of (a) with {MORE_PARALLELISM} workers; 0: leave out",
    )
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--without-a", action="store_true", help="leave rival (a) out, which takes longest")
    parser.add_argument("--idle-seconds", type=float, default=20.0)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    # Airflow starts a process per task: without byte code each would compile its imports again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    rivals = [] if options.ours_only else [RIVAL_A, RIVAL_B, RIVAL_C]
    if options.without_a:
        rivals = [one for one in rivals if one is not RIVAL_A]
    print(machine("apache-airflow", "apache-airflow-providers-http", "pandas", "requests", "sqlalchemy"))
    with running_airflow(speed=options.speed) as bench:
        for contender in (OURS, *rivals):
            # The first run of each pays for what is only done once: byte code, routes, tables.
            progress(f"warming up: {contender.name}")
            bench.run(contender, 2, Regime(request_limit=0, token_limit=0, processing_seconds=1), timeout=300)
        idle = bench.measure_idle("ours", options.idle_seconds)
        print(
            f"Airflow: LocalExecutor with {PARALLELISM} workers, metadata and warehouse on PostgreSQL; idle "
            f"it takes {idle:.3f} CPU seconds a second, which are subtracted everywhere\n{NOTES}"
        )
        if options.sizes:
            unlimited = Regime(request_limit=0, token_limit=0)
            runs = [
                (contender, size)
                for size in options.sizes
                for contender in (OURS, *rivals)
                if options.full or contender is not RIVAL_A or size <= MOST_OF_A
            ]
            every = compare(bench, "No limits", unlimited, runs, timeout=60 * options.patience)
            if options.charts:
                draw(every)
        if options.queue:
            regime = Regime(request_limit=0, token_limit=0, processing_seconds=20)
            compare(bench, "A queue", regime, [(OURS, options.queue)], timeout=600)
        if options.called:
            called = Regime(request_limit=1200, token_limit=10, calls_webhook=True)
            title = "Landed as Plaud calls"
            runs = [(contender, options.called) for contender in (OURS_CALLED, OURS_PARTIAL)]
            runs += [(README_CALLED, 1)] * 3
            for figures in compare(bench, title, called, runs, timeout=1800):
                print(f"{figures.contender}: done to landed {figures.landed_seconds:.1f} s, the median")
        if options.limited:
            limited = Regime(request_limit=60, token_limit=10)
            contenders = [OURS, *([] if options.ours_only else [RIVAL_A, RIVAL_A_RETRIES, RIVAL_B, RIVAL_C])]
            if options.without_a:
                contenders = [one for one in contenders if one not in (RIVAL_A, RIVAL_A_RETRIES)]
            runs = [(contender, options.limited) for contender in contenders]
            compare(bench, "Limits", limited, runs, timeout=900)
        if options.fast:
            fast = Regime(request_limit=60, token_limit=10, speed=options.speed)
            compare(bench, "Limits, a large archive", fast, [(OURS_FAST_CLOCK, options.fast)], timeout=1800)
    if options.more and not options.ours_only and not options.without_a:
        with running_airflow(speed=1, parallelism=MORE_PARALLELISM) as bench:
            warm = Regime(request_limit=0, token_limit=0, processing_seconds=1)
            for contender in (OURS, RIVAL_A):
                bench.run(contender, 2, warm, timeout=300)
            bench.measure_idle("ours", options.idle_seconds)
            runs = [(contender, options.more) for contender in (OURS, RIVAL_A)]
            title = f"No limits, {MORE_PARALLELISM} workers"
            unlimited = Regime(request_limit=0, token_limit=0)
            compare(bench, title, unlimited, runs, timeout=60 * options.patience)


if __name__ == "__main__":
    main()
