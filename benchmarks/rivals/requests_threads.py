"""
Rival (b): all in one task, with requests and threads.

The quickest to write and cheap to run. It holds a worker for as long as everything takes, what it has
submitted lives in its memory only, so that a retry pays for all of it again, and it lands nothing before the
end.
"""

from __future__ import annotations

import time
from typing import Any

from airflow.sdk import DAG, BaseHook, Param, task

POLL_SECONDS = 5
THREADS = 16


@task
def transcribe(params: dict[str, Any], run_id: str) -> None:
    import os
    from concurrent.futures import ThreadPoolExecutor

    import pandas as pd
    import requests
    from airflow.providers.postgres.hooks.postgres import PostgresHook
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    connection = BaseHook.get_connection(params["plaud_conn_id"])
    plaud = f"{connection.host}:{connection.port}"
    transcriptions = f"{plaud}/open/partner/ai/transcriptions/"
    session = requests.Session()
    # It obeys Retry-After, and repeats a POST too.
    retry = Retry(total=50, status_forcelist=[429, 500, 502, 503], allowed_methods=None, backoff_factor=1)
    session.mount(plaud, HTTPAdapter(pool_maxsize=THREADS, max_retries=retry))
    token = session.post(
        f"{plaud}/oauth/partner/access-token",
        auth=(connection.login, connection.password),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        timeout=30,
    )
    token.raise_for_status()
    session.headers["Authorization"] = f"Bearer {token.json()['access_token']}"

    def submit(name: str) -> str:
        body = {"audioUrl": f"{params['public_url']}/{name}", "speakerDiarization": True}
        response = session.post(transcriptions, json=body, timeout=30)
        response.raise_for_status()
        return str(response.json()["transcriptionId"])

    def wait(transcription_id: str) -> dict[str, Any]:
        while True:
            response = session.get(f"{transcriptions}{transcription_id}", timeout=30)
            response.raise_for_status()
            answer: dict[str, Any] = response.json()
            if answer["status"] != "processing":
                return answer
            time.sleep(POLL_SECONDS)

    names = sorted(name for name in os.listdir(params["archive"]) if name.endswith(".wav"))
    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(wait, list(pool.map(submit, names))))

    transcripts = pd.DataFrame(answers)[["transcriptionId", "status", "language", "duration", "text"]]
    transcripts["run_id"] = run_id
    segments = pd.DataFrame(
        [
            {"transcription_id": answer["transcriptionId"], "segment_index": index, **segment}
            for answer in answers
            for index, segment in enumerate(answer.get("segments") or [])
        ]
    )
    engine = PostgresHook("warehouse").get_sqlalchemy_engine()
    with engine.begin() as target:
        transcripts.to_sql("threads_transcripts", target, if_exists="append", index=False)
        segments.to_sql("threads_segments", target, if_exists="append", index=False)


with DAG(
    "rival_requests_threads",
    schedule=None,
    params={
        name: Param(type="string") for name in ("archive", "public_url", "plaud_conn_id", "http_conn_id")
    },
):
    transcribe()
