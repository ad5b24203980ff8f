"""
An Airflow of one's own: real processes in a private home, for the demo, tests and benchmarks.

Everything is bound to 127.0.0.1 on free ports, none of the caller's Airflow settings is inherited, and
leaving the context manager ends every process that was started in it.
"""

from __future__ import annotations

import json
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from demo.airflow_api import TERMINAL_RUN_STATES, AirflowApi, TaskInstance
from demo.airflow_settings import airflow_settings
from demo.processes import ManagedProcess, Supervisor, child_environment, wait_until

USERNAME = "admin"
API_SERVER = "api-server"
# Component → the type of the job that it keeps alive in the metadata database.
JOB_TYPES = {"scheduler": "SchedulerJob", "triggerer": "TriggererJob", "dag-processor": "DagProcessorJob"}
COMPONENTS = (API_SERVER, *JOB_TYPES)
# Log servers are for several hosts: here the API server reads the files itself.
ARGUMENTS = {"scheduler": ["--skip-serve-logs"], "triggerer": ["--skip-serve-logs"]}


class AirflowStack:
    """
    API server, scheduler, triggerer and DAG processor with a metadata database, as a context manager.

    :param home: Becomes ``AIRFLOW_HOME``; created if needed. It holds secrets: for the owner only.
    :param dags_folders: Folders with DAG files.
    :param env: Variables for all components, such as ``AIRFLOW_CONN_…``; they win over our settings.
    :param sql_alchemy_conn: Metadata database; by default SQLite in ``home``.
    :param start_timeout: Seconds that each step of the start may take.
    :param on_progress: Receives a line for each step of the start.
    """

    def __init__(
        self,
        home: Path,
        dags_folders: Sequence[Path],
        *,
        env: Mapping[str, str] | None = None,
        sql_alchemy_conn: str | None = None,
        start_timeout: float = 120.0,
        on_progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.home = home.resolve()
        self.logs = self.home / "logs"
        self.password = secrets.token_urlsafe(16)
        port = free_port()
        self.base_url = f"http://127.0.0.1:{port}"
        self.api = AirflowApi(self.base_url, username=USERNAME, password=self.password)
        self._passwords = self.home / "passwords.json"
        settings = airflow_settings(
            home=self.home,
            port=port,
            base_url=self.base_url,
            dags_folders=[folder.resolve() for folder in dags_folders],
            sql_alchemy_conn=sql_alchemy_conn or f"sqlite:///{self.home}/airflow.db",
            passwords=self._passwords,
        )
        self._env = child_environment({**settings, **(env or {})})
        self._start_timeout = start_timeout
        self._on_progress = on_progress
        self._supervisor = Supervisor()

    def __enter__(self) -> AirflowStack:
        self._supervisor.__enter__()
        try:
            self._start()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._supervisor.__exit__(exc_type, exc, traceback)
        self.api.close()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its processes, for a command of the same Airflow. It has keys in it."""
        return dict(self._env)

    def _start(self) -> None:
        # Logs and the database hold what tasks handle.
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        self._passwords.write_text(json.dumps({USERNAME: self.password}))
        self._on_progress("creating the metadata database")
        migration = self._run("db-migrate", "db", "migrate")
        if migration.wait(self._start_timeout):
            migration.check()
        self._supervisor.end("db-migrate")
        for component in COMPONENTS:
            self._start_component(component)
        self.wait_until_healthy()

    def _start_component(self, component: str) -> None:
        self._run(component, component, *ARGUMENTS.get(component, []))

    def start_another(self, component: str) -> None:
        """Start a second process of a component, such as ``triggerer``, and wait until it is healthy."""
        before = self.api.living_jobs(JOB_TYPES[component])
        self._run(f"{component}-2", component, *ARGUMENTS.get(component, []))
        self._wait_until(
            lambda: bool(self.api.living_jobs(JOB_TYPES[component]) - before),
            timeout=self._start_timeout,
            what=f"another {component} healthy",
        )

    def _run(self, name: str, *arguments: str) -> ManagedProcess:
        # -P: Airflow's modules do not come from the current directory.
        argv = [sys.executable, "-P", "-m", "airflow", *arguments]
        return self._supervisor.start(name, argv, env=self._env, log_path=self.logs / f"{name}.log")

    def check(self) -> None:
        """
        Raise if a component has died.

        :raises ProcessDiedError: With the end of its log.
        """
        self._supervisor.check()

    def wait_until_healthy(self) -> None:
        """
        Wait until the API server answers and every component's heartbeat is seen.

        :raises ProcessDiedError: As soon as a component dies.
        """
        reported: set[str] = set()

        def all_healthy() -> bool:
            health = self.api.health()
            for name in [name for name, status in health.items() if status == "healthy"]:
                if name not in reported:
                    reported.add(name)
                    self._on_progress(f"{name.replace('_', ' ')} is healthy")
            return bool(health) and set(health.values()) == {"healthy"}

        self._wait_until(all_healthy, timeout=self._start_timeout, what="all components healthy")

    def wait_for_dag(self, dag_id: str, timeout: float = 60.0) -> None:
        """
        Wait until a DAG has been parsed.

        :raises RuntimeError: As soon as Airflow reports an import error, with its traceback.
        """
        self._wait_until(lambda: self.api.has_dag(dag_id), timeout=timeout, what=f"DAG {dag_id} parsed")

    def _wait_until(self, condition: Callable[[], bool], *, timeout: float, what: str) -> None:
        def checked() -> bool:
            self.check()
            return condition()

        wait_until(checked, timeout=timeout, what=what, poll=0.2)

    def component(self, name: str) -> ManagedProcess:
        """Return the process of a running component: ``api-server``, ``scheduler``, ``triggerer`` …"""
        return self._supervisor[name]

    def sessions(self) -> set[int]:
        """Return the session ids of the running components; every process of the stack is in one of them."""
        return {self._supervisor[name].pid for name in COMPONENTS if name in self._supervisor}

    def kill(self, component: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """
        Send a signal to a component.

        SIGTERM ends it in good order, SIGKILL at once with all its descendants; either way nothing is left of
        it when this returns, and ``restart`` starts it again. Other signals (SIGSTOP, SIGCONT) go to all its
        processes.
        """
        if sig != signal.SIGTERM:
            for process in self._supervisor[component].members():
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(sig)
        if sig in (signal.SIGTERM, signal.SIGKILL):
            self._supervisor.end(component)

    def restart(self, component: str, sig: signal.Signals = signal.SIGTERM) -> None:
        """Start a component, after ending it if it runs, and wait until the new one is healthy."""
        if component in self._supervisor:
            self.kill(component, sig)
        if component == API_SERVER:
            self._start_component(component)
            self.wait_until_healthy()
            return
        job_type = JOB_TYPES[component]
        # A dead component's job looks alive for a while: only one that was not there before counts.
        before = self.api.living_jobs(job_type)
        self._start_component(component)
        self._wait_until(
            lambda: bool(self.api.living_jobs(job_type) - before),
            timeout=self._start_timeout,
            what=f"{component} healthy",
        )

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run as soon as the DAG is known, and return the run's id."""
        self.wait_for_dag(dag_id)
        return self.api.trigger(dag_id, conf)

    def wait_for_run(
        self,
        dag_id: str,
        run_id: str,
        timeout: float = 300.0,
        on_progress: Callable[[list[TaskInstance]], None] | None = None,
    ) -> str:
        """
        Wait for a run to end and return its state.

        :param on_progress: Receives the run's task instances each time they were looked at, twice a second.
        :raises ProcessDiedError: As soon as a component dies.
        :raises TimeoutError: With the states of the tasks.
        """
        deadline = time.monotonic() + timeout
        while True:
            self.check()
            # The run's state first: what is reported after it cannot be older.
            state = self.api.run_state(dag_id, run_id)
            instances = self.api.task_instances(dag_id, run_id)
            if on_progress is not None:
                on_progress(instances)
            if state in TERMINAL_RUN_STATES:
                return state
            if time.monotonic() > deadline:
                states = ", ".join(f"{instance.label} {instance.state}" for instance in instances)
                raise TimeoutError(f"{dag_id} {run_id} still {state} after {timeout:.0f} s: {states}")
            time.sleep(0.5)

    def wait_for_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        state: str,
        *,
        map_index: int = -1,
        timeout: float = 60.0,
    ) -> TaskInstance:
        """
        Wait until a task instance is in ``state`` and return it.

        :raises TimeoutError: When it is not in that state in time.
        """
        found: list[TaskInstance] = []

        def reached() -> bool:
            found[:] = [
                instance
                for instance in self.api.task_instances(dag_id, run_id)
                if (instance.task_id, instance.map_index, instance.state) == (task_id, map_index, state)
            ]
            return bool(found)

        self._wait_until(reached, timeout=timeout, what=f"{dag_id}.{task_id} {state}")
        return found[0]

    def task_processes(self, instance: TaskInstance) -> list[psutil.Process]:
        """
        Return the process that runs a task instance, then the LocalExecutor worker above it.

        Killing the first is a task that crashes, which its worker reports; killing both is a lost worker.
        """
        if instance.pid is None:
            return []
        try:
            process = psutil.Process(instance.pid)
            worker = process.parent()
        except psutil.NoSuchProcess:
            return []
        return [process] if worker is None else [process, worker]

    def task_log_files(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1) -> list[Path]:
        """Return the log files of a task instance and its triggers, the oldest attempt first."""
        folder = self.logs / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
        if map_index >= 0:
            folder /= f"map_index={map_index}"
        return sorted(folder.glob("attempt=*.log*"))


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
