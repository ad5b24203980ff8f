"""Rival (a) for one recording: a token, HttpOperator, HttpSensor that pokes every 5 s, pandas to load."""

from __future__ import annotations

from typing import Any

from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.http.sensors.http import HttpSensor
from airflow.sdk import DAG, BaseHook, Param, task

TRANSCRIPTIONS = "/open/partner/ai/transcriptions/"
HEADERS = {"Authorization": "Bearer {{ ti.xcom_pull('token') }}", "Content-Type": "application/json"}


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
def load(params: dict[str, Any], ti: Any, run_id: str) -> None:
    import pandas as pd
    from airflow.providers.http.hooks.http import HttpHook
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    submitted = ti.xcom_pull("submit")
    headers = {"Authorization": f"Bearer {ti.xcom_pull('token')}"}
    answer = (
        HttpHook("GET", params["http_conn_id"]).run(f"{TRANSCRIPTIONS}{submitted}", headers=headers).json()
    )
    segments = pd.DataFrame(answer.get("segments") or [])
    segments["transcription_id"] = submitted
    transcripts = pd.DataFrame([answer])[["status", "language", "duration", "text"]]
    transcripts["transcription_id"] = submitted
    transcripts["run_id"] = run_id
    engine = PostgresHook("warehouse").get_sqlalchemy_engine()
    with engine.begin() as connection:
        transcripts.to_sql("one_transcripts", connection, if_exists="append", index=False)
        segments.to_sql("one_segments", connection, if_exists="append", index=False)


with DAG(
    "rival_one_recording",
    schedule=None,
    params={
        name: Param(type="string") for name in ("archive", "public_url", "plaud_conn_id", "http_conn_id")
    },
):
    submit = HttpOperator(
        task_id="submit",
        http_conn_id="{{ params.http_conn_id }}",
        endpoint=TRANSCRIPTIONS,
        method="POST",
        headers=HEADERS,
        data='{"audioUrl": "{{ params.public_url }}/call-00000.wav", "speakerDiarization": true}',
        response_filter=lambda response: response.json()["transcriptionId"],
    )
    wait = HttpSensor(
        task_id="wait",
        http_conn_id="{{ params.http_conn_id }}",
        endpoint=TRANSCRIPTIONS + "{{ ti.xcom_pull('submit') }}",
        method="GET",
        headers=HEADERS,
        response_check=lambda response: response.json()["status"] != "processing",
        poke_interval=5,
        timeout=6 * 3600,
    )
    token() >> submit >> wait >> load()
