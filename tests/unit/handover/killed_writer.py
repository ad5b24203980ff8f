"""A process that is killed while it writes a file of a folder."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from plaud_provider.storage import folder as folders


def killed_while_writing(path: Path, name: str) -> Path:
    """Kill a process that writes this file there, and return what it has left."""
    before = set(path.iterdir())
    process = multiprocessing.get_context("fork").Process(target=_write, args=(str(path), name))
    process.start()
    process.join()
    [left] = set(path.iterdir()) - before
    return left


def _write(path: str, name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: os._exit(1))
        folders.parse_folder(path, argument="results_path", state="").write(name, b"{}")
