"""
Rival (a): Airflow's own HTTP operators, a mapped group of three tasks per recording, pandas to load.

As one writes it from the documentation of Airflow and of the API. ``deferrable=True`` is what one would ask
for; with a ``response_check``, which the API needs, the sensor ignores it without a word and pokes in a
worker. The second DAG is the same with the retries that somebody adds after the first night.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.http.sensors.http import HttpSensor
from airflow.sdk import DAG, BaseHook, Param, task, task_group

TRANSCRIPTIONS = "/open/partner/ai/transcriptions/"
HEADERS = {"Authorization": "Bearer {{ ti.xcom_pull('token') }}", "Content-Type": "application/json"}
TRANSCRIPTION_ID = "{{ ti.xcom_pull('transcribe.submit', map_indexes=ti.map_index) }}"


def is_done(response: Any) -> bool:
    return response.json()["status"] != "processing"


def transcription_id(response: Any) -> str:
    return str(response.json()["transcriptionId"])


@task
def token(params: dict[str, Any]) -> str:
    import requests

    connection = BaseHook.get_connection(params["plaud_conn_id"])
    response = requests.post(
        f"{connection.host}:{connection.port}/oauth/partner/access-token",
        auth=(connection.login, connection.password),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        timeout=30,
    )
    response.raise_for_status()
    return str(response.json()["access_token"])


@task
def recordings(params: dict[str, Any]) -> list[str]:
    import os

    from airflow.providers.postgres.hooks.postgres import PostgresHook

    PostgresHook("warehouse").run(
        """create table if not exists rival_transcripts (
               transcription_id text primary key, status text, language text, duration float, text text,
               run_id text);
           create table if not exists rival_segments (
               transcription_id text, segment_index int, start_seconds float, end_seconds float, speaker text,
               text text, primary key (transcription_id, segment_index))"""
    )
    names = sorted(name for name in os.listdir(params["archive"]) if name.endswith(".wav"))
    urls = [f"{params['public_url']}/{name}" for name in names]
    return [json.dumps({"audioUrl": url, "speakerDiarization": True}) for url in urls]


@task
def load(params: dict[str, Any], ti: Any, run_id: str) -> None:
    import pandas as pd
    from airflow.providers.http.hooks.http import HttpHook
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    submitted = ti.xcom_pull("transcribe.submit", map_indexes=ti.map_index)
    headers = {"Authorization": f"Bearer {ti.xcom_pull('token')}"}
    answer = (
        HttpHook("GET", params["http_conn_id"]).run(f"{TRANSCRIPTIONS}{submitted}", headers=headers).json()
    )
    segments = pd.DataFrame(answer.get("segments") or []).rename(
        columns={"start": "start_seconds", "end": "end_seconds"}
    )
    segments["transcription_id"] = submitted
    segments["segment_index"] = range(len(segments))
    transcripts = pd.DataFrame([answer])[["status", "language", "duration", "text"]]
    transcripts["transcription_id"] = submitted
    transcripts["run_id"] = run_id
    engine = PostgresHook("warehouse").get_sqlalchemy_engine()
    with engine.begin() as connection:
        transcripts.to_sql("rival_transcripts", connection, if_exists="append", index=False)
        segments.to_sql("rival_segments", connection, if_exists="append", index=False)


@task_group
def transcribe(body: str) -> None:
    submit = HttpOperator(
        task_id="submit",
        http_conn_id="{{ params.http_conn_id }}",
        endpoint=TRANSCRIPTIONS,
        method="POST",
        headers=HEADERS,
        data=body,
        response_filter=transcription_id,
    )
    wait = HttpSensor(
        task_id="wait",
        http_conn_id="{{ params.http_conn_id }}",
        endpoint=f"{TRANSCRIPTIONS}{TRANSCRIPTION_ID}",
        method="GET",
        headers=HEADERS,
        response_check=is_done,
        deferrable=True,
        poke_interval=5,
        timeout=6 * 3600,
    )
    submit >> wait >> load()


for dag_id, retries in {"rival_http_sensor": 0, "rival_http_sensor_with_retries": 20}.items():
    with DAG(
        dag_id,
        schedule=None,
        default_args={"retries": retries, "retry_delay": timedelta(seconds=20)},
        params={
            name: Param(type="string") for name in ("archive", "public_url", "plaud_conn_id", "http_conn_id")
        },
    ):
        token() >> transcribe.expand(body=recordings())
