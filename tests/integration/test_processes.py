from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.guard import is_living, session_members
from demo.processes import ManagedProcess, ProcessDiedError, Supervisor, child_environment, wait_until

# Starts a child in a process group of its own and one in a session of its own, as Airflow's tasks do.
FAMILY = textwrap.dedent(
    """
    import subprocess, sys, time
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    subprocess.Popen(sleep, process_group=0)
    subprocess.Popen(sleep, start_new_session=True)
    time.sleep(600)
    """
)


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    with Supervisor() as supervisor:
        yield supervisor


def start(supervisor: Supervisor, code: str, log_path: Path) -> ManagedProcess:
    return supervisor.start(
        "child", [sys.executable, "-c", code], env=child_environment({}), log_path=log_path
    )


def test_end_kills_descendants_that_left_the_process_group_or_the_session(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    process = start(supervisor, FAMILY, tmp_path / "log")
    wait_until(lambda: len(process.members()) == 3, timeout=20, what="a process and its two children")
    family = process.members()

    supervisor.end("child")

    assert [member for member in family if is_living(member)] == []


def test_end_kills_a_process_that_ignores_being_asked(supervisor: Supervisor, tmp_path: Path) -> None:
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{FAMILY}"
    process = start(supervisor, stubborn, tmp_path / "log")
    wait_until(lambda: len(process.members()) == 3, timeout=20, what="a process and its two children")

    supervisor.end("child", grace=0.2)

    assert process.members() == []


def test_a_process_that_dies_is_reported_with_the_end_of_its_log(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    process = start(supervisor, "print('out of cheese'); raise SystemExit(7)", tmp_path / "log")
    process.wait(timeout=20)

    with pytest.raises(ProcessDiedError, match=r"(?s)child ended with exit code 7.*out of cheese"):
        supervisor.check()


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_when_the_supervisor_itself_is_killed(tmp_path: Path, sig: signal.Signals) -> None:
    script = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        from demo.processes import Supervisor, child_environment
        with Supervisor() as supervisor:
            argv = [sys.executable, "-c", {FAMILY!r}]
            log_path = Path({str(tmp_path / "log")!r})
            process = supervisor.start("child", argv, env=child_environment({{}}), log_path=log_path)
            print(process.pid, flush=True)
            time.sleep(600)
        """
    )
    victim = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    session = int(victim.stdout.readline())
    wait_until(
        lambda: len(session_members({session})) == 3, timeout=20, what="a process and its two children"
    )
    family = session_members({session})

    victim.send_signal(sig)
    victim.wait(timeout=20)
    victim.stdout.close()

    wait_until(lambda: not any(map(is_living, family)), timeout=20, what="nothing left")


def test_children_inherit_no_airflow_settings_and_keep_loopback_off_the_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", "plaud://someone:else@")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "internal.example")

    env = child_environment({"AIRFLOW_HOME": "/somewhere"})

    assert [name for name in env if name.startswith("AIRFLOW")] == ["AIRFLOW_HOME"]
    assert env["PATH"] == os.environ["PATH"]
    assert env["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert env["NO_PROXY"] == "internal.example,127.0.0.1,localhost"
