from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.execution_time import task_runner

from plaud_provider.api.answers import parse_transcription
from plaud_provider.api.models import Transcription
from plaud_provider.exceptions import PlaudConfigurationError, PlaudError, PlaudStorageError
from plaud_provider.handover.kept_results import ResultStore
from tests.unit.s3_server import S3Server

SENTINEL = "transcript-canary"
NAME = sha256(b"eu\x00txn_1").hexdigest() + ".json"


def transcription(transcription_id: str = "txn_1", text: str = SENTINEL) -> Transcription:
    answer = {
        "transcriptionId": transcription_id,
        "status": "completed",
        "text": text,
        "segments": [{"start": 0.0, "end": 1.5, "text": text, "speaker": "Speaker 1"}],
    }
    return parse_transcription(json.dumps(answer).encode())


@pytest.fixture(params=["s3", "local", "file"])
def path(request: pytest.FixtureRequest, s3: S3Server, tmp_path: Path) -> str:
    return {
        "s3": "s3://aws_calls@calls/results",
        "local": f"{tmp_path}/results",
        "file": f"file://{tmp_path}/results/",
    }[request.param]


def test_an_answer_comes_back_whole(path: str) -> None:
    saved = transcription(text="नमस्ते 🎤\x00\u2028")

    ResultStore(path).save(saved, "eu")

    assert ResultStore(path).load("eu", "txn_1") == saved


def test_what_was_not_saved_is_none(path: str) -> None:
    store = ResultStore(path)
    store.save(transcription(), "eu")

    assert store.load("us", "txn_1") is None
    assert store.load("eu", "txn_2") is None


def test_saving_again_replaces_it(path: str) -> None:
    store = ResultStore(path)
    store.save(transcription(text="before"), "eu")
    store.save(transcription(text="after"), "eu")

    loaded = store.load("eu", "txn_1")
    assert loaded is not None
    assert loaded.text == "after"


def test_results_are_removed_where_there_are_some(path: str) -> None:
    store = ResultStore(path)
    for number in range(3):
        store.save(transcription(f"txn_{number}"), "eu")

    store.remove_landed("eu", ["txn_0", "txn_1", "txn_9"], keep_raw=False)
    store.remove_landed("eu", ["txn_0"], keep_raw=False)

    assert [store.load("eu", f"txn_{number}") is not None for number in range(3)] == [False, False, True]


def test_a_file_has_its_documented_name_and_the_answer_itself(tmp_path: Path, s3: S3Server) -> None:
    saved = transcription()
    ResultStore(str(tmp_path)).save(saved, "eu")
    ResultStore("s3://aws_calls@calls/results").save(saved, "eu")

    assert [file.name for file in tmp_path.iterdir()] == [NAME]
    assert (tmp_path / NAME).read_text() == saved.raw
    stored = s3.client.get_object(Bucket="calls", Key=f"results/{NAME}")["Body"].read()
    assert stored.decode() == saved.raw


def test_an_object_is_written_by_one_request(s3: S3Server) -> None:
    store = ResultStore("s3://aws_calls@calls/results")
    store.load("eu", "txn_1")
    s3.gate.requests.clear()

    store.save(transcription(), "eu")

    assert [method for method, _ in s3.gate.requests] == ["PUT"]


@pytest.mark.parametrize(
    "transcription_id", ["../../etc/passwd", "a/b", "a\nb", "x" * 200, "CON", "🎤", "txn_1?versionId=2"]
)
def test_no_id_leads_out_of_the_folder(tmp_path: Path, transcription_id: str) -> None:
    store = ResultStore(str(tmp_path / "results"))

    store.save(Transcription(transcription_id, transcription().status, "completed"), "eu")
    store.remove_landed("eu", ["none", f"{transcription_id}x"], keep_raw=False)

    (file,) = (tmp_path / "results").iterdir()
    assert len(file.name) == 64 + len(".json")
    assert [folder.name for folder in tmp_path.iterdir()] == ["results"]


@pytest.mark.parametrize("name", ["results", "a/b/results"])
def test_a_local_folder_is_its_users_alone(tmp_path: Path, name: str) -> None:
    ResultStore(f"{tmp_path}/{name}").save(transcription(), "eu")

    folder = tmp_path / name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / NAME).stat().st_mode) == 0o600


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)

    ResultStore(str(tmp_path)).save(transcription(), "eu")

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_a_process_that_dies_while_writing_leaves_the_earlier_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    store = ResultStore(str(tmp_path))
    store.save(transcription(text="before"), "eu")
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.save(transcription(text="after"), "eu")

    loaded = store.load("eu", "txn_1")
    assert loaded is not None
    assert loaded.text == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_many_threads_save_and_load_the_same_answer(tmp_path: Path) -> None:
    store = ResultStore(str(tmp_path))
    long = [transcription(text=letter * 100_000) for letter in "abcd"]
    store.save(long[0], "eu")
    seen = []

    def work(mine: Transcription) -> None:
        for _ in range(20):
            store.save(mine, "eu")
            seen.append(store.load("eu", "txn_1"))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in long]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(seen) == 80
    assert all(loaded in long for loaded in seen)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"\xff", b'{"transcriptionId": "txn_2", "status": "completed", "text": "no"}'],
)
def test_a_file_that_is_no_answer_about_this_transcription_is_not_used(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NAME).write_bytes(content)

    assert ResultStore(str(tmp_path)).load("eu", "txn_1") is None
    assert "is no answer about transcription txn_1" in caplog.text


# What is told, and what is not


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "results_path: '' is no folder"),
        ("results", "pass an absolute path"),
        ("https://files.example/results?sig=canary", "is no folder of a kind"),
        ("s3://user:secret-canary@calls/results", "carries a password; name an Airflow connection"),
        ("abfs://user:secret-canary@container@account.dfs.core.windows.net/x", "carries a password"),
        ("s3://", "names no bucket"),
        ("/data/../results", r"contains '..'"),
    ],
)
def test_a_wrong_path_is_told_at_once(path: str, message: str) -> None:
    with pytest.raises(PlaudConfigurationError) as refused:
        ResultStore(path)
    assert message in str(refused.value)
    assert "canary" not in str(refused.value)


def test_nothing_is_resolved_before_it_is_opened() -> None:
    store = ResultStore("s3://aws_typo@calls/results")

    with pytest.raises(PlaudConfigurationError, match=r"results_path: .*'aws_typo', which does not exist"):
        store.load("eu", "txn_1")


@pytest.mark.parametrize("method", ["save", "load", "landed"])
def test_rights_that_are_missing_are_told(s3: S3Server, method: str) -> None:
    store = ResultStore("s3://aws_calls@calls/results")
    store.load("eu", "txn_1")
    s3.gate.is_forbidden = True
    calls = {
        "save": lambda: store.save(transcription(), "eu"),
        "load": lambda: store.load("eu", "txn_1"),
        "landed": lambda: store.remove_landed("eu", ["txn_1"], keep_raw=False),
    }

    with pytest.raises(
        PlaudConfigurationError, match=r"results_path: 's3://aws_calls@calls/results' may not"
    ):
        calls[method]()


def test_a_storage_that_is_away_may_come_back(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_AWAY", s3.connection(extra=extra))

    with pytest.raises(PlaudStorageError, match=r"results_path: .*could not be written to.*try again"):
        ResultStore("s3://aws_away@calls/results").save(transcription(), "eu")


def test_no_transcript_is_in_any_log_record_or_error(
    s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "botocore"):
        store = ResultStore("s3://aws_calls@calls/results")
        store.save(transcription(), "eu")
        store.load("eu", "txn_1")
        s3.gate.is_forbidden = True
        with pytest.raises(PlaudError) as refused:
            store.save(transcription(), "eu")
        (tmp_path / NAME).write_text(SENTINEL)
        ResultStore(str(tmp_path)).load("eu", "txn_1")

    assert SENTINEL not in caplog.text
    assert SENTINEL not in str(refused.value)
    assert refused.value.__cause__ is refused.value.__context__ is None


# In a triggerer


class Supervisor:
    """Answers a triggerer's process, as its supervisor does."""

    def __init__(self, end: socket.socket, connections: dict[str, dict[str, Any]]) -> None:
        self._end = end
        self._connections = connections
        self.asked: list[str] = []

    async def serve(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._end)
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(4))
                number, body, *_ = msgspec.msgpack.decode(await reader.readexactly(length))
                answer = msgspec.msgpack.encode(self._answer(number, body))
                writer.write(len(answer).to_bytes(4) + answer)
        finally:
            writer.close()

    def _answer(self, number: int, body: dict[str, Any]) -> list[Any]:
        if body["type"] != "GetConnection":
            return [number, None, None]
        self.asked.append(body["conn_id"])
        found = self._connections.get(body["conn_id"])
        if found is None:
            return [number, None, {"error": "CONNECTION_NOT_FOUND", "type": "ErrorResponse"}]
        described = {"conn_id": body["conn_id"], "host": None, "schema": None, "port": None, **found}
        return [number, {**described, "type": "ConnectionResult"}, None]


@pytest.fixture
def triggerer(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What starts the machinery of a triggerer's process in the running loop."""
    from airflow.jobs.triggerer_job_runner import TriggerCommsDecoder

    ours, theirs = socket.socketpair()
    connection = json.loads(s3.connection())
    connection["extra"] = json.dumps(connection["extra"])
    supervisor = Supervisor(theirs, {"aws_of_the_api": connection})
    tasks: list[asyncio.Task[None]] = []

    async def start() -> Supervisor:
        tasks.append(asyncio.create_task(supervisor.serve()))
        reader, writer = await asyncio.open_connection(sock=ours)
        comms = TriggerCommsDecoder(socket=ours, async_writer=writer, async_reader=reader)
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms, raising=False)
        await comms.start_reader()
        return supervisor

    yield start
    ours.close()
    theirs.close()


async def test_a_trigger_opens_saves_and_loads_while_its_loop_runs(triggerer: Any) -> None:
    supervisor = await triggerer()
    loop_steps = 0

    async def other_triggers() -> None:
        nonlocal loop_steps
        while True:
            loop_steps += 1
            await asyncio.sleep(0)

    others = asyncio.create_task(other_triggers())
    stores = [ResultStore(f"s3://aws_of_the_api@calls/{number}") for number in range(4)]
    await asyncio.gather(*(store.aopen() for store in stores))
    supervisor.asked.clear()
    steps_before = loop_steps
    await asyncio.gather(*(asyncio.to_thread(store.save, transcription(), "eu") for store in stores))
    loaded = await asyncio.gather(*(asyncio.to_thread(store.load, "eu", "txn_1") for store in stores))
    others.cancel()

    assert loaded == [transcription()] * 4
    assert supervisor.asked == []
    assert loop_steps - steps_before > 10


async def test_a_connection_that_airflow_does_not_find_now_may_be_tried_again(triggerer: Any) -> None:
    await triggerer()

    with pytest.raises(AirflowNotFoundException):
        await ResultStore("s3://aws_typo@calls/results").aopen()


async def test_a_local_folder_needs_no_supervisor(tmp_path: Path) -> None:
    store = await ResultStore(f"{tmp_path}/results").aopen()

    assert (tmp_path / "results").is_dir()
    assert store.load("eu", "txn_1") is None
