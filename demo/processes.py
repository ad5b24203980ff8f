"""Child processes that are started together, looked after, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import psutil

from demo import guard

POLL_SECONDS = 0.1
LOG_TAIL_LINES = 30

# What a child needs of the caller's environment. Everything else stays out: a stray AIRFLOW__* or
# AIRFLOW_CONN_* of the user would otherwise change what runs.
INHERITED = (
    *("PATH", "LD_LIBRARY_PATH", "HOME", "USER", "LOGNAME", "TMPDIR"),
    *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
LOOPBACK = ("127.0.0.1", "localhost")


class ProcessDiedError(RuntimeError):
    """A process ended that should be running."""


class LeftoverProcessError(RuntimeError):
    """Processes were still there after they had been killed."""


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child: the few inherited variables, then ``extra``."""
    env = {name: os.environ[name] for name in INHERITED if name in os.environ}
    # Behind a proxy, requests between our own processes must not leave the machine.
    for name in ("NO_PROXY", "no_proxy"):
        env[name] = ",".join([*filter(None, [env.get(name)]), *LOOPBACK])
    return {**env, **extra}


def wait_until(
    condition: Callable[[], bool], *, timeout: float, what: str, poll: float = POLL_SECONDS
) -> None:
    """
    Poll ``condition`` until it holds.

    :raises TimeoutError: naming ``what``, when it does not hold within ``timeout`` seconds
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not after {timeout:.0f} s")
        time.sleep(poll)


class ManagedProcess:
    """One child with a session of its own and a log file."""

    def __init__(self, name: str, argv: Sequence[str], *, env: Mapping[str, str], log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                list(argv),
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A session of its own: the terminal's Ctrl-C reaches the supervisor only, which ends all.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its session."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def check(self) -> None:
        """
        Raise if the process has ended.

        :raises ProcessDiedError: with the end of its log
        """
        if not self.running:
            raise ProcessDiedError(
                f"{self.name} ended with exit code {self._popen.returncode}. "
                f"The end of {self.log_path}:\n{self.log_tail()}"
            )

    def wait(self, timeout: float) -> int:
        """Wait for the process to end by itself and return its exit code."""
        return self._popen.wait(timeout)

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def members(self) -> list[psutil.Process]:
        """Return the living processes of this one's session, itself included."""
        return guard.session_members({self.pid})


class Supervisor:
    """
    Starts processes and ends them with all their descendants, whatever happens to this process.

    Use as a context manager. A watcher (``guard.py``) ends them if this process is killed before it can.
    """

    def __init__(self) -> None:
        self._processes: dict[str, ManagedProcess] = {}
        self._guard: subprocess.Popen[str] | None = None

    def __enter__(self) -> Supervisor:
        self._guard = subprocess.Popen(
            [sys.executable, "-P", guard.__file__], stdin=subprocess.PIPE, start_new_session=True, text=True
        )
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> ManagedProcess:
        return self._processes[name]

    def __contains__(self, name: str) -> bool:
        return name in self._processes

    def start(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str], log_path: Path
    ) -> ManagedProcess:
        """Start a process under a name that is not in use."""
        if name in self._processes:
            raise ValueError(f"{name} is already started")
        with uninterrupted():
            process = ManagedProcess(name, argv, env=env, log_path=log_path)
            self._processes[name] = process
            self._tell_guard(f"+{process.pid}")
        return process

    def end(self, *names: str, grace: float = 5.0) -> None:
        """
        End these processes with their sessions, all at once.

        :param grace: seconds between SIGTERM and SIGKILL
        :raises LeftoverProcessError: if something is still there after SIGKILL
        """
        with uninterrupted():
            ending = {name: self._processes[name] for name in names}
            left = guard.end_sessions({process.pid for process in ending.values()}, grace=grace)
            if left:
                raise LeftoverProcessError(f"Still running after SIGKILL: {left}")
            for name, process in ending.items():
                process.wait(timeout=5.0)
                del self._processes[name]
                self._tell_guard(f"-{process.pid}")

    def check(self) -> None:
        """
        Raise if one of the processes has ended.

        :raises ProcessDiedError: with the end of its log
        """
        for process in self._processes.values():
            process.check()

    def close(self) -> None:
        """End everything that is left."""
        with uninterrupted():
            try:
                self.end(*self._processes)
            finally:
                if self._guard is not None:
                    # Whatever could not be ended above is still on the watcher's list: it gets a second try.
                    self._guard.communicate()
                    self._guard = None

    def _tell_guard(self, line: str) -> None:
        if self._guard is None or self._guard.stdin is None:
            raise RuntimeError("The supervisor is not entered")
        # The watcher is the second line of defence: without it we still end our processes ourselves.
        with suppress(BrokenPipeError):
            self._guard.stdin.write(f"{line}\n")
            self._guard.stdin.flush()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C until the block is done: an impatient second one leaves no processes behind."""
    if threading.current_thread() is not threading.main_thread():
        # Signals are delivered to the main thread only.
        yield
        return
    pending: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: pending.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if pending:
            signal.raise_signal(signal.SIGINT)
