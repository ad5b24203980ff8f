"""
Rival (c): one task that submits with threads, one that defers once for all of them, then ``executemany``.

What a good engineer writes by hand in an afternoon: no worker is held while Plaud works, and nothing is done
per recording but its requests. It keeps to no quota and remembers nothing: what the first task has submitted
is known once all are submitted, so that a retry of it pays for all of them again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airflow.sdk import DAG, BaseHook, BaseOperator, Param, task

TRANSCRIPTIONS = "/open/partner/ai/transcriptions/"
THREADS = 16
POLL_SECONDS = 5


def connected(plaud_conn_id: str) -> tuple[Any, str]:
    """Return a session with a token, and where transcriptions are."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    connection = BaseHook.get_connection(plaud_conn_id)
    plaud = f"{connection.host}:{connection.port}"
    session = requests.Session()
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
    return session, f"{plaud}{TRANSCRIPTIONS}"


@task
def submit(params: dict[str, Any]) -> list[str]:
    import os

    session, transcriptions = connected(params["plaud_conn_id"])

    def post(name: str) -> str:
        body = {"audioUrl": f"{params['public_url']}/{name}", "speakerDiarization": True}
        response = session.post(transcriptions, json=body, timeout=30)
        response.raise_for_status()
        return str(response.json()["transcriptionId"])

    names = sorted(name for name in os.listdir(params["archive"]) if name.endswith(".wav"))
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(post, names))


class WaitAndLoadOperator(BaseOperator):
    """Defers until all are final, then gets them and lands them."""

    template_fields = ("ids", "plaud_conn_id")

    def __init__(self, *, ids: Any, plaud_conn_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ids = ids
        self.plaud_conn_id = plaud_conn_id

    def execute(self, context: Any) -> None:
        from benchmarks.rivals.one_wait_trigger import AllFinalTrigger

        session, transcriptions = connected(self.plaud_conn_id)
        self.defer(
            trigger=AllFinalTrigger(
                ids=self.ids,
                transcriptions=transcriptions,
                authorization=session.headers["Authorization"],
                poll_seconds=POLL_SECONDS,
            ),
            method_name="load",
        )

    def load(self, context: Any, event: Any = None) -> None:
        from airflow.providers.postgres.hooks.postgres import PostgresHook

        session, transcriptions = connected(self.plaud_conn_id)

        def get(transcription_id: str) -> dict[str, Any]:
            response = session.get(f"{transcriptions}{transcription_id}", timeout=30)
            response.raise_for_status()
            answer: dict[str, Any] = response.json()
            return answer

        with ThreadPoolExecutor(THREADS) as pool:
            answers = list(pool.map(get, self.ids))
        run_id = context["run_id"]
        transcripts = [
            (one["transcriptionId"], one["status"], one["language"], one["duration"], one["text"], run_id)
            for one in answers
        ]
        segments = [
            (one["transcriptionId"], index, part["start"], part["end"], part["speaker"], part["text"])
            for one in answers
            for index, part in enumerate(one.get("segments") or [])
        ]
        with PostgresHook("warehouse").get_conn() as connection, connection.cursor() as cursor:
            cursor.execute(
                """create table if not exists one_wait_transcripts (
                       transcription_id text primary key, status text, language text, duration float,
                       text text, run_id text);
                   create table if not exists one_wait_segments (
                       transcription_id text, segment_index int, start_seconds float, end_seconds float,
                       speaker text, text text, primary key (transcription_id, segment_index))"""
            )
            cursor.executemany(
                "insert into one_wait_transcripts values (%s, %s, %s, %s, %s, %s)", transcripts
            )
            cursor.executemany("insert into one_wait_segments values (%s, %s, %s, %s, %s, %s)", segments)


with DAG(
    "rival_one_wait",
    schedule=None,
    params={
        name: Param(type="string") for name in ("archive", "public_url", "plaud_conn_id", "http_conn_id")
    },
):
    WaitAndLoadOperator(task_id="wait_and_load", ids=submit(), plaud_conn_id="{{ params.plaud_conn_id }}")
