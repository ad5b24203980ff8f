"""What the demo's commands have in common: options, a work folder of their own, and a clean end."""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from plaud_provider.private_folder import FileLock, LockedError

REPOSITORY = Path(__file__).resolve().parent.parent
EXIT_FAILED = 1
# What a shell reports for a process that Ctrl-C, or SIGTERM, has ended.
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

Command = Callable[[Path, Path], int]


def run_command(
    command: Command, arguments: Sequence[str] | None, *, prog: str, description: str | None, work: Path
) -> int:
    """
    Run a command in a work folder that is locked for it, and return its exit code.

    :param command: Takes the work folder and the folder of recordings.
    :param work: Work folder if no option says otherwise.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--work", type=Path, default=work, help="folder for everything it writes")
    parser.add_argument("--recordings", type=Path, default=REPOSITORY / "demo" / "recordings")
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Transcripts are in any script; a terminal may not be.
        sys.stdout.reconfigure(errors="replace")
    # Without this, a polite kill would skip the end of the processes and leave it to the watcher.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(EXIT_TERMINATED))
    options.work.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with FileLock(options.work / "lock", seconds=0, poll_seconds=0).held():
            return command(options.work, options.recordings)
    except LockedError:
        print(f"Another one is running in {options.work}. Give this one another folder with --work.")
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("\nStopped. Everything that was started has ended.")
        return EXIT_INTERRUPTED
    except (RuntimeError, TimeoutError, httpx.HTTPError) as error:
        print(f"\n{prog} failed: {error}\nLogs: {options.work / 'airflow' / 'logs'}")
        return EXIT_FAILED
