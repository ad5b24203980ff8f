"""An S3 bucket on this machine, by moto, with a folder of recordings for each of some days."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import httpx

from demo.emulator import AUDIO_SUFFIXES
from demo.processes import Supervisor, child_environment, wait_until
from demo.stack import free_port

NAME = "s3"
BUCKET = "calls"
REGION = "us-east-1"
#: What its folders are named after.
DAYS = ("2024-05-01", "2024-05-02", "2024-05-03")
#: What is none, on the last day.
BAD = ("2024-05-03/notes.mp3", b"These are notes about a call, and no recording.")


class Bucket:
    """
    An S3 server on a free port of 127.0.0.1, with a bucket ``calls``.

    :param supervisor: Starts the process, and ends it.
    :param recordings: Folder of recordings, which are dealt out to the days.
    :param work: Folder for its log.
    """

    def __init__(self, supervisor: Supervisor, recordings: Path, work: Path) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        # moto takes any; these are no secrets of anybody's.
        self._keys = {"login": "demo-access-key", "password": "demo-secret-access-key"}
        process = supervisor.start(
            NAME,
            [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            env=child_environment({}),
            log_path=work / "s3.log",
        )

        def answers() -> bool:
            process.check()
            try:
                return httpx.get(self._url, timeout=5.0, trust_env=False).is_success
            except httpx.TransportError:
                return False

        wait_until(answers, timeout=60, what="the S3 server answers")
        files = [file for file in sorted(recordings.iterdir()) if file.suffix in AUDIO_SUFFIXES]
        named = {f"{DAYS[n % len(DAYS)]}/{file.name}": file.read_bytes() for n, file in enumerate(files)}
        self._fill({**named, BAD[0]: BAD[1]})

    def connection(self) -> dict[str, Any]:
        """Return the Airflow connection to it."""
        return {
            "conn_type": "aws",
            **self._keys,
            "extra": {"region_name": REGION, "endpoint_url": self._url},
        }

    def _fill(self, objects: Mapping[str, bytes]) -> None:
        client = boto3.client(  # type: ignore[no-untyped-call]
            "s3",
            endpoint_url=self._url,
            region_name=REGION,
            aws_access_key_id=self._keys["login"],
            aws_secret_access_key=self._keys["password"],
        )
        client.create_bucket(Bucket=BUCKET)
        for key, content in objects.items():
            client.put_object(Bucket=BUCKET, Key=key, Body=content)
        client.close()
