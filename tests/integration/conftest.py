"""One real Airflow and one emulator for all integration tests of a session; they take 20 s to start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.stack import AirflowStack
from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.emulator.settings import Settings
from tests.integration.leftovers import processes_using

REPOSITORY = Path(__file__).resolve().parents[2]
RECORDINGS = REPOSITORY / "demo" / "recordings"

SETTINGS = {
    # A triggerer or a worker that was killed is given up after seconds, not minutes.
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
}


@pytest.fixture(scope="session")
def emulator_server() -> Iterator[EmulatorServer]:
    """The emulator that the stack's connection ``plaud_default`` leads to."""
    # Its limits are for the tests that are about limits: here all tests share one client.
    settings = Settings(
        transcripts=(RECORDINGS,), store=RECORDINGS, token_limit=0, request_limit=0, processing_seconds=2.0
    )
    with EmulatorServer(settings) as server:
        yield server


@pytest.fixture
def emulator(emulator_server: EmulatorServer) -> EmulatorServer:
    """The same emulator, having forgotten what earlier tests did."""
    emulator_server.reset()
    return emulator_server


@pytest.fixture(scope="session")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The DuckDB file of the connection ``warehouse_default``; it exists once something has landed."""
    return tmp_path_factory.mktemp("warehouse") / "warehouse.duckdb"


def webhooks(warehouse: Path) -> dict[str, str]:
    """Return what the connection ``plaud_called`` says of Plaud's calls."""
    return {
        "webhook_base_url": "https://airflow.example",
        "webhook_secret": "whsec-canary-5b1f",
        "webhook_path": str(warehouse.with_name("webhooks")),
    }


@pytest.fixture(scope="session")
def airflow_stack(
    tmp_path_factory: pytest.TempPathFactory, emulator_server: EmulatorServer, warehouse: Path
) -> Iterator[AirflowStack]:
    """
    A running Airflow with the DAGs of ``dags/`` and ``tests/integration/dags/``.

    Tests may stop and start its components, and leave all of them running.
    """
    connection = json.loads(emulator_server.airflow_connection)
    connection["extra"]["requests_per_minute"] = 600
    called = {**connection, "extra": {**connection["extra"], **webhooks(warehouse)}}
    env = {
        "AIRFLOW_CONN_PLAUD_DEFAULT": json.dumps(connection),
        "AIRFLOW_CONN_PLAUD_CALLED": json.dumps(called),
        "AIRFLOW_CONN_WAREHOUSE_DEFAULT": json.dumps({"conn_type": "duckdb", "host": str(warehouse)}),
        "AIRFLOW_CONN_WAREHOUSE_SQLITE": json.dumps(
            {"conn_type": "sqlite", "host": str(warehouse.with_suffix(".sqlite"))}
        ),
        **SETTINGS,
    }
    home = tmp_path_factory.mktemp("airflow")
    with AirflowStack(home, [REPOSITORY / "dags", Path(__file__).parent / "dags"], env=env) as stack:
        yield stack
    assert processes_using(home) == []
