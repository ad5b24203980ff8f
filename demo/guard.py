"""
End whole sessions of processes, and a watcher that does so when its parent is gone.

Ending a parent is not enough: LocalExecutor workers and the task processes below them outlive the scheduler,
and a task process moves to a process group of its own. All of them stay in the session that their component
was started in, so a session is what is ended here.

Run as a script, this module is the watcher. It reads session ids from a pipe (``+123`` adds, ``-123``
removes) whose other end only the supervisor holds. When that end closes, however the supervisor died
(``kill -9`` included), what is still listed is ended. Only the standard library and psutil are used, so that
it starts at once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Collection, Iterable

import psutil

POLL_SECONDS = 0.05
# SIGKILL cannot be refused; this is for the system to take note.
KILL_SECONDS = 5.0


def session_members(sessions: Collection[int]) -> list[psutil.Process]:
    """Return the living processes of these sessions and their descendants, zombies excluded."""
    members: dict[int, psutil.Process] = {}
    children: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        try:
            children.setdefault(process.ppid(), []).append(process)
            if os.getsid(process.pid) in sessions:
                members[process.pid] = process
        except (OSError, psutil.Error):
            continue
    # A task may start a session of its own (BashSensor does): follow the family too.
    unseen = list(members)
    while unseen:
        for child in children.get(unseen.pop(), []):
            if child.pid not in members:
                members[child.pid] = child
                unseen.append(child.pid)
    return [process for process in members.values() if is_living(process)]


def end_sessions(sessions: Collection[int], *, grace: float) -> list[psutil.Process]:
    """
    Ask the first process of each session to end, then kill whatever is left of the sessions.

    :param grace: seconds that the first processes have to end themselves and what they started
    :return: what could not be ended; empty unless the system itself is stuck
    """
    family = {process.pid: process for process in session_members(sessions)}
    # Only the first ones: a triggerer whose subprocess is told to end as well waits for it for ever.
    leaders = [process for pid, process in family.items() if pid in sessions]
    _signal_all(leaders, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while any(map(is_living, leaders)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        # Descendants outside the sessions are only known as such while their parents live.
        family.update((process.pid, process) for process in session_members(sessions))
    deadline = time.monotonic() + KILL_SECONDS
    while left := [process for process in family.values() if is_living(process)]:
        if time.monotonic() > deadline:
            break
        _signal_all(left, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
        family.update((process.pid, process) for process in session_members(sessions))
    return left


def _signal_all(processes: Iterable[psutil.Process], sig: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(sig)
        except psutil.Error:
            continue


def is_living(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def watch() -> None:
    """Read sessions from standard input until it closes, then end those that are still listed."""
    sessions: set[int] = set()
    for line in sys.stdin:
        session = int(line[1:])
        if line.startswith("+"):
            sessions.add(session)
        else:
            sessions.discard(session)
    if sessions:
        end_sessions(sessions, grace=3.0)


if __name__ == "__main__":
    watch()
