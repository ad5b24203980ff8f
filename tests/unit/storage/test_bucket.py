from __future__ import annotations

import gc
import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.recordings.examine import examine
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.recordings.sources import AudioSource, audio_source
from plaud_provider.storage import bucket as object_storage
from plaud_provider.storage.bucket import FileSystems
from tests.unit.recordings.sounds import M4A, MP3, WAV
from tests.unit.s3_server import S3Server


def source(key: str, file_systems: FileSystems | None = None, conn_id: str = "aws_calls") -> AudioSource:
    return audio_source(
        AudioReference(f"s3://{conn_id}@calls/{key}"),
        url_validity=timedelta(hours=6),
        public_urls={},
        file_systems=file_systems,
    )


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The file systems that were opened, without keeping them."""
    from airflow.sdk.io import get_fs

    made: list[Any] = []

    def counting(*args: Any) -> Any:
        file_system = get_fs(*args)
        made.append(weakref.ref(file_system))
        return file_system

    monkeypatch.setattr("airflow.sdk.io.get_fs", counting)
    return made


def test_recordings_of_a_task_share_what_is_open(s3: S3Server, opened: list[Any]) -> None:
    for number in range(20):
        s3.put(f"{number}.wav", WAV)
    shared = FileSystems()

    with ThreadPoolExecutor(8) as threads:
        headers = list(threads.map(lambda number: examine(source(f"{number}.wav", shared)), range(20)))

    assert {header.seconds for header in headers} == {7.74}
    assert len(opened) == 1


def test_each_connection_has_its_own(
    s3: S3Server, opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("a.wav", WAV)
    monkeypatch.setenv("AIRFLOW_CONN_AWS_STRANGER", s3.connection(login="AKIASTRANGER"))
    shared = FileSystems()

    assert source("a.wav", shared).look()
    with pytest.raises(PlaudConfigurationError, match="may not be looked up with connection 'aws_stranger'"):
        source("a.wav", shared, conn_id="aws_stranger").look()
    assert len(opened) == 2


def test_a_connection_that_was_missing_is_looked_up_again(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("a.wav", WAV)
    shared = FileSystems()
    with pytest.raises(PlaudConfigurationError):
        source("a.wav", shared, conn_id="aws_later").look()

    monkeypatch.setenv("AIRFLOW_CONN_AWS_LATER", s3.connection())

    assert source("a.wav", shared, conn_id="aws_later").look()


def test_what_nobody_uses_any_more_is_not_kept_in_the_process(s3: S3Server, opened: list[Any]) -> None:
    s3.put("a.wav", WAV)
    recording = source("a.wav")
    recording.look()

    del recording
    gc.collect()

    assert [file_system() for file_system in opened] == [None]


@pytest.mark.parametrize(
    ("content", "requests", "size"),
    [
        (WAV, ["GET"], 32_768),
        (MP3, ["GET"], 32_768),
        (M4A, ["GET", "GET"], 34_374),
    ],
    ids=["WAV", "MP3", "M4A with its header at the end"],
)
def test_a_recording_is_looked_at_and_measured_in_few_requests(
    s3: S3Server, content: bytes, requests: list[str], size: int
) -> None:
    s3.put("a.wav", content)
    recording = source("a.wav")
    s3.gate.requests.clear()
    s3.gate.ranges.clear()

    recording.look()
    examine(recording)

    assert [method for method, _ in s3.gate.requests] == requests
    assert sum(s3.gate.ranges) == size


def test_a_recording_that_nobody_looked_at_is_looked_at_when_it_is_measured(s3: S3Server) -> None:
    s3.put("a.wav", WAV)
    s3.gate.requests.clear()

    examine(source("a.wav"))

    assert [method for method, _ in s3.gate.requests] == ["GET"]


def test_debug_records_come_back_when_the_last_thread_is_done() -> None:
    inside, leave = threading.Barrier(2), threading.Event()

    def hold() -> None:
        with object_storage.no_debug_records():
            inside.wait(10)
            leave.wait(10)

    other = threading.Thread(target=hold)
    with object_storage.no_debug_records():
        other.start()
        inside.wait(10)
    assert logging.root.manager.disable == logging.DEBUG
    leave.set()
    other.join()
    assert logging.root.manager.disable == logging.NOTSET


def test_records_that_the_user_disabled_stay_disabled() -> None:
    logging.disable(logging.INFO)
    try:
        with object_storage.no_debug_records():
            assert logging.root.manager.disable == logging.INFO
        assert logging.root.manager.disable == logging.INFO
    finally:
        logging.disable(logging.NOTSET)
