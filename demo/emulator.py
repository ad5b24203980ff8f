"""The Plaud emulator as a process, and what the demo asks of it."""

from __future__ import annotations

import os
import secrets
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from demo.processes import Supervisor, child_environment, wait_until

NAME = "emulator"
CLIENT_ID = "demo-client"
AUDIO_SUFFIXES = (".m4a", ".mp3", ".wav")


class Emulator:
    """
    A Plaud server for these recordings and their transcripts, on a free port of 127.0.0.1.

    The environment variable ``API`` says which of Plaud's APIs Airflow speaks with it: ``openapi`` (the
    default) or ``embedded``.

    :param supervisor: Starts the process, and ends it.
    :param recordings: Folder of audio files with their transcripts beside them.
    :param work: Folder for its log, which says how to connect to it: not a place for Airflow's logs.
    """

    def __init__(self, supervisor: Supervisor, recordings: Path, work: Path, *options: str) -> None:
        # Not token_urlsafe: one in 64 begins with a dash, and would be taken for an option.
        self._secret_key, self._api_key = secrets.token_hex(24), secrets.token_hex(24)
        self._api = os.environ.get("API", "openapi")
        port_file = work / "emulator.port"
        port_file.unlink(missing_ok=True)
        arguments = {
            "--port": "0",
            "--port-file": str(port_file),
            "--client-id": CLIENT_ID,
            "--secret-key": self._secret_key,
            "--api-key": self._api_key,
            "--api": self._api,
            "--store": str(recordings),
            "--transcripts": str(recordings),
        }
        process = supervisor.start(
            NAME,
            [
                *(sys.executable, "-P", "-m", "plaud_provider.emulator"),
                *(part for pair in arguments.items() for part in pair),
                *options,
            ],
            env=child_environment({"PYTHONUNBUFFERED": "1"}),
            log_path=work / "emulator.log",
        )

        def listening() -> bool:
            process.check()
            return port_file.exists()

        wait_until(listening, timeout=30, what="the emulator listens")
        self.url = f"http://127.0.0.1:{int(port_file.read_text())}"
        # trust_env off: requests to our own server must not pass through a proxy.
        self._client = httpx.Client(base_url=f"{self.url}/_emulator", timeout=10.0, trust_env=False)

    def connection(self) -> dict[str, Any]:
        """Return the Airflow connection to it: as JSON, it is the value of an ``AIRFLOW_CONN_…`` variable."""
        url = urlsplit(self.url)
        return {
            "conn_type": "plaud",
            "login": CLIENT_ID,
            "password": self._secret_key,
            "host": f"{url.scheme}://{url.hostname}",
            # In its own field: the Test button of Airflow 3.3.2 refuses a connection without a port.
            "port": url.port,
            # What the form would store: when editing, it shows no field that is not there.
            "extra": {
                "region": "us",
                "api": self._api,
                "api_key": self._api_key if self._api == "embedded" else None,
                "requests_per_minute": 60,
                "budget_conn_id": None,
                "allowed_hosts": None,
            },
        }

    def signed_urls(self, validity: timedelta = timedelta(hours=1)) -> list[str]:
        """Return a signed URL for each recording."""
        paths = [item["path"] for item in self._get("/objects")]
        return [self._signed(path, validity) for path in paths if path.lower().endswith(AUDIO_SUFFIXES)]

    def summary(self) -> dict[str, Any]:
        """Return counts of the requests it has seen."""
        summary: dict[str, Any] = self._get("/summary")
        return summary

    def _signed(self, path: str, validity: timedelta) -> str:
        order = {"path": path, "expires": int(validity.total_seconds())}
        response = self._client.post("/sign", json=order)
        response.raise_for_status()
        return str(response.json()["url"])

    def _get(self, path: str) -> Any:
        response = self._client.get(path)
        response.raise_for_status()
        return response.json()
