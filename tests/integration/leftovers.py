"""Find processes that something left behind, without asking those that should have ended them."""

from __future__ import annotations

from pathlib import Path

import psutil


def processes_using(folder: Path) -> list[psutil.Process]:
    """Return the processes that have a file below ``folder`` open; every child of ours has its log."""
    below = f"{folder.resolve()}/"
    found = []
    for process in psutil.process_iter():
        try:
            paths = [file.path for file in process.open_files()]
        except psutil.Error:
            continue
        if any(path.startswith(below) for path in paths) and process != psutil.Process():
            found.append(process)
    return found
