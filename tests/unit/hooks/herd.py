"""
Many processes that call Plaud at the same moment.

Run as a script, it imports the hook once, forks as Airflow's workers do, and lets all children loose
together; each prints the name of what its call ended with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def stampede(
    count: int, *, call: str, again: int = 1, minute: float = 60.0, home: Path | None = None
) -> list[str]:
    """
    Let processes of their own call Plaud through the connection of this environment.

    :param count: How many processes.
    :param call: A transcription id to get, or ``submit``.
    :param again: How often each calls.
    :param minute: Seconds of a minute of their quota.
    :param home: What makes them another host: their own AIRFLOW_HOME.
    :return: For each call, the transcription's id or the name of the error's class.
    """
    command = [sys.executable, str(Path(__file__)), str(count), call, str(again), str(minute)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    if home is not None:
        environment["AIRFLOW_HOME"] = str(home)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    outcomes: list[str] = json.loads(done.stdout.splitlines()[-1])
    return outcomes


def _main(count: int, call: str, again: int, minute: float) -> None:
    from plaud_provider.api.retry import RetryPolicy
    from plaud_provider.exceptions import PlaudError
    from plaud_provider.hooks.plaud import PlaudHook

    gate, open_gate = os.pipe()
    results, report = os.pipe()
    for _ in range(count):
        if os.fork():
            continue
        os.close(open_gate)
        os.read(gate, 1)
        policy = RetryPolicy(base_delay=0.02, max_delay=0.05)
        for _ in range(again):
            try:
                with PlaudHook(retry_policy=policy, minute=minute) as hook:
                    if call == "submit":
                        outcome = hook.submit_transcription("https://bucket.example/a.wav").transcription_id
                    else:
                        outcome = hook.get_transcription(call).transcription_id
            except PlaudError as error:
                outcome = type(error).__name__
            os.write(report, f"{outcome}\n".encode())
        os._exit(0)
    os.close(report)
    os.close(open_gate)
    with os.fdopen(results) as lines:
        outcomes = lines.read().split()
    for _ in range(count):
        os.wait()
    print(json.dumps(outcomes))


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
