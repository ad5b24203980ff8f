from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from plaud_provider.handover.manifest import write_manifest
from plaud_provider.recordings.listing import Found, list_recordings
from tests.unit.s3_server import S3Server


@pytest.fixture
def endless(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    script = Path(__file__).with_name("endless_bucket.py")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        extra = {"region_name": "eu-central-1", "endpoint_url": url}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_ENDLESS", s3.connection(extra=extra))
        yield
        server.kill()


def measured(found: Iterable[Found], megabytes: dict[int, float]) -> Iterator[Found]:
    """Pass recordings on; note how many megabytes the process has after so many of them."""
    for number, recording in enumerate(found, start=1):
        if number in megabytes:
            gc.collect()
            megabytes[number] = psutil.Process().memory_info().rss / 1e6
        yield recording


def test_fifty_thousand_objects_are_listed_and_written_in_the_memory_of_a_page(
    endless: None, tmp_path: Path
) -> None:
    found = list_recordings("s3://aws_endless@calls-50000/2024/", pattern="**/*.wav")
    megabytes = {5_000: 0.0, 50_000: 0.0}

    chunks = write_manifest(measured(found, megabytes), str(tmp_path))

    assert len(chunks) == 250
    # All recordings together are about 40 MB.
    assert megabytes[50_000] - megabytes[5_000] < 5
