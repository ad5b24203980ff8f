"""All benchmarks, one after the other: ``.venv/bin/python -m benchmarks``, or ``make bench``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

FIGURES = Path(__file__).resolve().parent / "figures"
SCRIPTS = (
    "journey",
    "polling",
    "second_run",
    "start",
    "landing",
    "memory",
    "upload",
    "waiting",
    "one_recording",
    "processes",
    "archive",
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="see benchmarks.archive")
    parser.add_argument("--save", action="store_true", help=f"keep the tables in {FIGURES.name}/ for docs/")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    for name in SCRIPTS:
        extra = ["--full"] if options.full and name == "archive" else []
        if options.save and name == "archive":
            extra.append("--charts")
        print(f"\n== benchmarks.{name} ==\n", flush=True)
        lines = []
        with subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{name}", *extra], stdout=subprocess.PIPE, text=True
        ) as script:
            for line in script.stdout or ():
                print(line, end="", flush=True)
                lines.append(line)
        if script.returncode:
            sys.exit(script.returncode)
        if options.save:
            FIGURES.mkdir(exist_ok=True)
            (FIGURES / f"{name}.txt").write_text("".join(lines).strip("\n") + "\n")
    print(f"\nAll of it took {(time.monotonic() - began) / 60:.0f} minutes.")


if __name__ == "__main__":
    main()
