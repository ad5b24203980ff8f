"""
Ours: the factory as it comes, once with its seconds cut for a server whose clock runs faster, and once for a
Plaud that calls.
"""

from __future__ import annotations

import os

from airflow.sdk import DAG, Param

from plaud_provider.task_groups.archive import transcribe_archive

SPEED = float(os.environ.get("BENCHMARK_SPEED", "1"))
TIMES = {
    "ours": {"poke_interval": 30, "partial_seconds": 300},
    "ours_fast_clock": {"poke_interval": 30 / SPEED, "partial_seconds": 300 / SPEED},
    "ours_called": {},
}

for dag_id, times in TIMES.items():
    with DAG(
        dag_id,
        schedule=None,
        params={
            name: Param(type="string")
            for name in ("archive", "public_url", "plaud_conn_id", "http_conn_id", "results_path")
        },
    ):
        transcribe_archive(
            "{{ params.archive }}",
            results_path="{{ params.results_path }}",
            public_urls="{{ {params.archive: params.public_url} | tojson }}",
            plaud_conn_id="{{ params.plaud_conn_id }}",
            sql_conn_id="warehouse",
            speaker_diarization=True,
            **times,
        )
