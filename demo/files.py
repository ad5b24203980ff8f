"""A web server for a folder, as somebody might have for local recordings."""

from __future__ import annotations

import sys
from pathlib import Path

from demo.processes import Supervisor, child_environment, wait_until
from demo.stack import free_port

NAME = "files"


class FileServer:
    """
    Serves a folder on a free port of 127.0.0.1.

    :param supervisor: Starts the process, and ends it.
    :param folder: What is served.
    :param work: Folder for its log.
    """

    def __init__(self, supervisor: Supervisor, folder: Path, work: Path) -> None:
        port = free_port()
        arguments = ["-P", "-u", "-m", "http.server", str(port), "--bind", "127.0.0.1"]
        process = supervisor.start(
            NAME,
            [sys.executable, *arguments, "--directory", str(folder)],
            env=child_environment({}),
            log_path=work / "files.log",
        )

        def listening() -> bool:
            process.check()
            return f"port {port}" in process.log_tail()

        wait_until(listening, timeout=30, what="the file server listens")
        self.url = f"http://127.0.0.1:{port}"
