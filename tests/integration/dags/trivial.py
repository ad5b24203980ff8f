"""The smallest DAGs: one runs, one waits in the triggerer, one hangs until its first attempt is killed."""

from __future__ import annotations

from datetime import timedelta
from time import sleep
from typing import TYPE_CHECKING

from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import DAG, task

if TYPE_CHECKING:
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

with DAG("trivial", schedule=None):

    @task
    def answer() -> int:
        return 42

    answer()

with DAG("waits_until", schedule=None):
    DateTimeSensorAsync(task_id="wait", target_time="{{ dag_run.conf['moment'] }}")

with DAG("hangs_once", schedule=None):

    @task(retries=1, retry_delay=timedelta(0))
    def hang(ti: RuntimeTaskInstanceProtocol) -> None:
        if ti.try_number == 1:
            sleep(120)

    hang()
