"""What Plaud cannot fetch is uploaded before it is submitted; nothing is paid before the upload is whole."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from plaud_provider.exceptions import (
    PlaudAccessError,
    PlaudError,
    PlaudInputError,
    PlaudRequestError,
    PlaudStoppedError,
)
from plaud_provider.handover.sweep import sweep
from plaud_provider.hooks.plaud import PlaudAsyncHook, PlaudHook
from plaud_provider.operators.list_recordings import ListRecordingsOperator
from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from plaud_provider.recordings.audio import measure
from plaud_provider.submit import memory
from plaud_provider.submit.stop import Stop
from tests.unit.embedded_plaud import FILES, PART_BYTES, EmbeddedPlaud
from tests.unit.operators.archives import Archive
from tests.unit.recordings.media import encoded
from tests.unit.recordings.sounds import M4A, MP3, WAV, WAV_SECONDS, wav
from tests.unit.s3_server import S3Server
from tests.unit.tasks import TaskStateStore, task_context
from tests.unit.warehouse.warehouses import CONN_ID

REPOSITORY = Path(__file__).resolve().parents[3]
UPLOAD = ["exchange", "user_token", "urls", "complete", "submit"]
SECRETS = ("X-Amz-Signature", "canary")


def submit(store: TaskStateStore | None = None, *, try_number: int = 1, **arguments: Any) -> str:
    operator = SubmitTranscriptionOperator(task_id="submit", **arguments)
    return operator.execute(task_context(store or TaskStateStore(), try_number=try_number))


def long_mp3(parts: float = 2.5) -> bytes:
    """Return an MP3 of so many parts: the same sound again and again."""
    return MP3 * int(parts * PART_BYTES / len(MP3))


@pytest.fixture
def wav_file(tmp_path: Path) -> Path:
    file = tmp_path / "call.wav"
    file.write_bytes(WAV)
    return file


def test_a_local_wav_is_converted_uploaded_and_submitted(embedded: EmbeddedPlaud, wav_file: Path) -> None:
    transcription_id = submit(audio_url=str(wav_file))

    assert transcription_id.startswith("task_exec_")
    assert embedded.kinds() == UPLOAD
    assert embedded.bodies("urls")[0]["filetype"] == "mp3"
    found = measure(io.BytesIO(embedded.fetched()))
    assert found.format == "mp3"
    assert found.seconds == pytest.approx(WAV_SECONDS, abs=0.2)
    assert embedded.submitted == [embedded.submitted[0]]
    assert FILES in embedded.submitted[0]


@pytest.mark.parametrize(("name", "content"), [("a.mp3", long_mp3()), ("a.m4a", M4A)])
@pytest.mark.parametrize("place", ["file", "s3"])
def test_what_plaud_takes_arrives_byte_for_byte(
    embedded: EmbeddedPlaud, tmp_path: Path, s3: S3Server, place: str, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    s3.put(name, content)
    reference = {"file": str(tmp_path / name), "s3": f"s3://aws_calls@calls/{name}"}[place]

    submit(audio_url=reference, upload="always")

    assert embedded.fetched() == content
    assert len(embedded.bodies("complete")[0]["part_list"]) == -(-len(content) // PART_BYTES)


def test_what_can_be_signed_is_signed(embedded: EmbeddedPlaud, s3: S3Server) -> None:
    s3.put("a.wav", WAV)

    submit(audio_url="s3://aws_calls@calls/a.wav")

    assert embedded.kinds() == ["submit"]
    assert embedded.fetched() == WAV


def test_a_served_file_is_fetched_from_there(embedded: EmbeddedPlaud, wav_file: Path) -> None:
    submit(audio_url=str(wav_file), public_urls={str(wav_file.parent): "https://files.example/calls"})

    assert embedded.submitted == ["https://files.example/calls/call.wav"]


def test_a_storage_in_a_private_network_is_uploaded_from(
    embedded: EmbeddedPlaud, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("a.mp3", MP3)
    # This machine is one: only a Plaud that runs on it, as here, would reach it.
    monkeypatch.setattr("plaud_provider.recordings.upload.is_loopback", lambda host: False)

    submit(audio_url="s3://aws_calls@calls/a.mp3")

    assert embedded.kinds() == UPLOAD
    assert embedded.fetched() == MP3


def test_other_formats_are_converted_if_they_are_uploaded_anyway(
    embedded: EmbeddedPlaud, tmp_path: Path
) -> None:
    (tmp_path / "a.flac").write_bytes(encoded("flac", "flac"))

    submit(audio_url=str(tmp_path / "a.flac"), upload="always")

    assert measure(io.BytesIO(embedded.fetched())).format == "mp3"


def test_convert_needs_no_served_folder_where_it_can_be_uploaded(
    embedded: EmbeddedPlaud, tmp_path: Path
) -> None:
    (tmp_path / "a.flac").write_bytes(encoded("flac", "flac"))
    public = {str(tmp_path): "https://files.example"}

    submit(audio_url=str(tmp_path / "a.flac"), convert="mp3", public_urls=public)

    assert measure(io.BytesIO(embedded.fetched())).format == "mp3"


def test_a_type_that_plaud_does_not_take_is_converted(embedded: EmbeddedPlaud, tmp_path: Path) -> None:
    (tmp_path / "a.m4a").write_bytes(M4A)
    embedded.file_types = {"mp3"}

    submit(audio_url=str(tmp_path / "a.m4a"))

    assert [body["filetype"] for body in embedded.bodies("urls")] == ["m4a", "mp3"]
    assert measure(io.BytesIO(embedded.fetched())).format == "mp3"


def test_where_not_even_mp3_is_taken_it_is_refused(embedded: EmbeddedPlaud, wav_file: Path) -> None:
    embedded.file_types = set()

    with pytest.raises(PlaudRequestError, match=r"FILE_TYPE_INVALID.*nothing is paid for"):
        submit(audio_url=str(wav_file))
    assert embedded.submitted == []


# A retry


def refused_once(embedded: EmbeddedPlaud) -> None:
    embedded.orders["submit"].append((402, {"detail": "PAYMENT_REQUIRED"}))


@pytest.mark.parametrize("results", [None, "results", "s3://aws_calls@calls/work"])
def test_a_retry_does_not_upload_again(
    embedded: EmbeddedPlaud, tmp_path: Path, wav_file: Path, results: str | None
) -> None:
    path = str(tmp_path / results) if results == "results" else results
    store, arguments = TaskStateStore(), {"audio_url": str(wav_file), "results_path": path}
    refused_once(embedded)
    with pytest.raises(PlaudAccessError):
        submit(store, **arguments)

    submit(store, try_number=2, **arguments)

    assert embedded.kinds() == [*UPLOAD, "submit"]
    assert embedded.submitted[0] == embedded.submitted[1]


def test_another_language_is_not_another_upload(embedded: EmbeddedPlaud, wav_file: Path) -> None:
    submit(audio_url=str(wav_file), language="en")
    submit(audio_url=str(wav_file), language="de")

    assert embedded.kinds().count("urls") == 1


def test_another_content_is_another_upload(embedded: EmbeddedPlaud, tmp_path: Path) -> None:
    file = tmp_path / "a.mp3"
    for content in (MP3, MP3 * 2):
        file.write_bytes(content)
        submit(audio_url=str(file))

        assert embedded.fetched() == content


def test_what_plaud_refuses_to_take_from_there_is_uploaded_again(
    embedded: EmbeddedPlaud, wav_file: Path
) -> None:
    embedded.orders["submit"].append((422, {"detail": "FILE_NOT_FOUND"}))
    with pytest.raises(PlaudRequestError):
        submit(audio_url=str(wav_file))

    submit(audio_url=str(wav_file))

    assert embedded.kinds().count("urls") == 2


def test_what_fails_is_asked_again_and_only_that(embedded: EmbeddedPlaud, wav_file: Path) -> None:
    for kind in ("user_token", "urls", "complete"):
        embedded.orders[kind].append((500, {"detail": "INTERNAL"}))

    submit(audio_url=str(wav_file))

    assert embedded.kinds() == [
        *("exchange", "user_token", "user_token", "urls", "urls", "complete", "complete", "submit")
    ]


KILLED = """
import json, sys
from pathlib import Path
from plaud_provider.operators.transcription import SubmitTranscriptionOperator
from tests.unit.tasks import TaskStateStore, bring_never_expire, task_context

class Kept(TaskStateStore):
    def set(self, key, value, **options):
        super().set(key, value, **options)
        Path(sys.argv[2]).write_text(json.dumps(self.rows))

bring_never_expire()
SubmitTranscriptionOperator(task_id="submit", audio_url=sys.argv[1]).execute(task_context(Kept()))
"""


def kill_submit(
    embedded: EmbeddedPlaud, s3: S3Server, file: Path, state: Path, at: str, *, has_effect: bool = False
) -> TaskStateStore:
    """
    Kill a submit once it has asked for something; return the task's state that it leaves.

    :param at: What it has asked for: ``urls``, ``complete``, or ``part``, once three others have arrived.
    :param has_effect: Whether what it has asked for is done for it.
    """
    arrived, gone = Event(), Event()

    def hold() -> None:
        arrived.set()
        gone.wait(60)

    def hold_parts() -> None:
        if len(s3.gate.parts) >= 3:
            hold()
            raise ConnectionAbortedError

    if at == "part":
        s3.gate.on_part = hold_parts
    else:
        embedded.on[at] = hold
        if not has_effect:
            embedded.orders[at].append((503, {}))
    with (state.with_suffix(".output")).open("w+") as output:
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(file), str(state)],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=output,
            stderr=output,
        )
        try:
            while not arrived.wait(0.05):
                assert child.poll() is None, state.with_suffix(".output").read_text()
        finally:
            child.kill()
            child.wait()
            gone.set()
            embedded.on.clear()
            s3.gate.on_part = None
    assert embedded.submitted == []
    store = TaskStateStore()
    store.rows = json.loads(state.read_text())
    return store


@pytest.mark.parametrize(
    ("at", "sent_by_the_retry", "urls"), [("urls", 5, 2), ("part", 2, 1), ("complete", 0, 1)]
)
def test_killed_in_the_middle_nothing_is_paid_and_a_retry_goes_on(
    embedded: EmbeddedPlaud, s3: S3Server, tmp_path: Path, at: str, sent_by_the_retry: int, urls: int
) -> None:
    file = tmp_path / "a.mp3"
    file.write_bytes(long_mp3(4.5))
    store = kill_submit(embedded, s3, file, tmp_path / "state", at)
    s3.gate.parts.clear()

    submit(store, audio_url=str(file), try_number=2)

    assert len(embedded.submitted) == 1
    assert embedded.fetched() == file.read_bytes()
    assert sorted(s3.gate.parts) == list(range(6 - sent_by_the_retry, 6))
    assert embedded.kinds().count("urls") == urls


def test_killed_when_it_was_completed_it_is_uploaded_anew(
    embedded: EmbeddedPlaud, s3: S3Server, tmp_path: Path
) -> None:
    file = tmp_path / "a.mp3"
    file.write_bytes(long_mp3())
    store = kill_submit(embedded, s3, file, tmp_path / "state", "complete", has_effect=True)

    submit(store, audio_url=str(file), try_number=2)

    assert len(embedded.submitted) == 1
    assert embedded.fetched() == file.read_bytes()


def test_a_task_that_is_ended_submits_nothing(
    embedded: EmbeddedPlaud, wav_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops: list[Stop] = []
    original = Stop.__init__

    def init(stop: Stop) -> None:
        original(stop)
        stops.append(stop)

    monkeypatch.setattr(Stop, "__init__", init)
    embedded.on["urls"] = lambda: [stop.set() for stop in stops]

    with pytest.raises(PlaudStoppedError):
        submit(audio_url=str(wav_file))
    assert embedded.kinds() == UPLOAD[:3]


def test_a_recording_that_is_replaced_meanwhile_is_looked_at_anew(
    embedded: EmbeddedPlaud, tmp_path: Path
) -> None:
    file = tmp_path / "a.mp3"
    file.write_bytes(MP3)

    def replace() -> None:
        embedded.on.clear()
        file.write_bytes(MP3 * 2)

    embedded.on["urls"] = replace

    submit(audio_url=str(file))

    assert embedded.kinds().count("complete") == 1
    assert embedded.fetched() == MP3 * 2


def test_a_claim_is_kept_alive_while_it_is_uploaded(
    archive: Archive, embedded: EmbeddedPlaud, wav_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "RENEW_SECONDS", 0.02)
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", embedded.connection())
    leases: list[Any] = []

    def watch() -> None:
        for _ in range(2):
            before = archive.entries()["call.wav"].lease_until
            deadline = time.monotonic() + 20
            while archive.entries()["call.wav"].lease_until == before and time.monotonic() < deadline:
                time.sleep(0.01)
            leases.append(archive.entries()["call.wav"].lease_until)

    embedded.on["urls"] = watch

    submit(audio_url=str(wav_file), ledger_conn_id=CONN_ID)

    assert len(set(leases)) == 2
    assert archive.states() == {"call.wav": "processing"}


# Refusals


@pytest.fixture
def openapi(embedded: EmbeddedPlaud, monkeypatch: pytest.MonkeyPatch) -> EmbeddedPlaud:
    """The same server, called a server of the other API."""
    connection = json.loads(embedded.connection())
    del connection["extra"]["api"], connection["extra"]["api_key"]
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
    return embedded


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"upload": "sometimes"}, PlaudInputError, "upload: 'sometimes' is not 'auto', 'always' or 'never'"),
        ({"upload": "never"}, PlaudInputError, "is a local file, which Plaud cannot fetch"),
        (
            {"upload": "always", "audio_url": "https://files.example/a.mp3?X-Amz-Signature=canary"},
            PlaudInputError,
            "is a URL, which is not read here",
        ),
        ({"audio_url": "/nowhere/a.wav"}, PlaudInputError, "does not exist on this worker"),
        ({"results_path": "results"}, PlaudError, "results_path: 'results/uploaded/' is no folder"),
    ],
)
def test_what_cannot_be_uploaded_is_told_before_anything_is_sent(
    embedded: EmbeddedPlaud, wav_file: Path, arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        submit(**{"audio_url": str(wav_file), **arguments})
    assert embedded.calls == []
    assert "canary" not in str(caught.value)


def test_the_other_api_takes_no_uploads(openapi: EmbeddedPlaud, wav_file: Path) -> None:
    with pytest.raises(
        PlaudInputError, match=r"upload: 'always' was asked for.*'openapi'.*nothing is paid for"
    ):
        submit(audio_url=str(wav_file), upload="always")
    with pytest.raises(PlaudInputError, match="is a local file, which Plaud cannot fetch"):
        submit(audio_url=str(wav_file))
    assert openapi.calls == []


def test_a_url_goes_as_it_is_by_default(embedded: EmbeddedPlaud) -> None:
    url = "https://files.example/a.mp3?X-Amz-Signature=canary"

    submit(audio_url=url)

    assert embedded.submitted == [url]


def test_no_secret_of_an_upload_is_shown(
    embedded: EmbeddedPlaud, wav_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embedded.orders["complete"] += [(500, {"detail": "INTERNAL"}), (400, {"detail": "INVALID_PART"})] * 2
    store = TaskStateStore()

    with caplog.at_level(logging.DEBUG):
        with pytest.raises(PlaudRequestError) as caught:
            submit(store, audio_url=str(wav_file))
        submit(store, try_number=2, audio_url=str(wav_file))

    # The server's own library signs in this process.
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("botocore")]
    assert any("Uploading" in message for message in ours)
    shown = "\n".join([*ours, str(caught.value), str(caught.getrepr()), store.text])
    assert [secret for secret in SECRETS if secret in shown] == []


# The hook, and archives


@pytest.mark.parametrize("place", ["file", "s3"])
def test_the_hook_uploads(embedded: EmbeddedPlaud, wav_file: Path, s3: S3Server, place: str) -> None:
    s3.put("call.wav", WAV)
    reference = {"file": str(wav_file), "s3": "s3://aws_calls@calls/call.wav"}[place]

    with PlaudHook() as hook:
        for _ in range(2):
            hook.submit_transcription(reference, upload="always")

    assert embedded.kinds() == [*UPLOAD, "submit"]
    assert measure(io.BytesIO(embedded.fetched())).format == "mp3"


async def test_the_async_hook_uploads(embedded: EmbeddedPlaud, tmp_path: Path) -> None:
    file = tmp_path / "a.mp3"
    file.write_bytes(long_mp3())

    async with PlaudAsyncHook() as hook:
        await hook.submit_transcription(str(file))

    assert embedded.kinds() == UPLOAD
    assert embedded.fetched() == file.read_bytes()


@pytest.fixture
def uploading(archive: Archive, embedded: EmbeddedPlaud, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive of three local files that nobody serves."""
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", embedded.connection())
    archive.folder.mkdir(parents=True)
    for number in range(3):
        (archive.folder / f"{number}.mp3").write_bytes(MP3 * (number + 1))
    archive.list()
    return archive


def told(archive: Archive) -> dict[str, Any]:
    return {"public_urls": None, "results_path": str(archive.results)}


def test_an_archive_of_local_files_is_uploaded(uploading: Archive, embedded: EmbeddedPlaud) -> None:
    assert uploading.submit(**told(uploading))["submitted"] == 3

    assert uploading.count_of_states() == {"processing": 3}
    assert sorted(len(embedded.fetched(number)) for number in range(3)) == [
        len(MP3) * number for number in (1, 2, 3)
    ]
    assert embedded.kinds().count("exchange") == 1


def test_what_other_attempts_have_uploaded_is_not_uploaded_again(
    uploading: Archive, embedded: EmbeddedPlaud
) -> None:
    embedded.orders["submit"].append((402, {}))
    with pytest.raises(PlaudAccessError):
        uploading.submit(**told(uploading))

    assert embedded.kinds().count("urls") == 1
    uploading.submit(try_number=2, **told(uploading))

    assert uploading.count_of_states() == {"processing": 3}
    assert embedded.kinds().count("urls") == 3


def test_one_recording_that_is_refused_stops_no_other(uploading: Archive, embedded: EmbeddedPlaud) -> None:
    embedded.orders["urls"].append((400, {"detail": "FILE_SIZE_INVALID"}))

    assert uploading.submit(**told(uploading))["submitted"] == 2
    assert uploading.count_of_states() == {"processing": 2, "failed": 1}


def test_where_uploads_fail_claims_are_given_up(uploading: Archive, embedded: EmbeddedPlaud) -> None:
    embedded.orders["urls"] += [(403, {"detail": "UPLOADS_NOT_ALLOWED"})] * 3

    with pytest.raises(PlaudAccessError, match=r"403 \(UPLOADS_NOT_ALLOWED\).*nothing is paid for"):
        uploading.submit(**told(uploading))
    assert embedded.submitted == []
    embedded.orders.clear()
    assert uploading.submit(try_number=2, **told(uploading))["submitted"] == 3


def test_an_archive_of_local_files_is_listed_and_settled(uploading: Archive, embedded: EmbeddedPlaud) -> None:
    uploading.submit(**told(uploading))

    chunks = ListRecordingsOperator(
        task_id="list",
        path=str(uploading.folder),
        results_path=str(uploading.results),
        sql_conn_id=CONN_ID,
    ).execute(uploading.context("list", "second"))

    assert embedded.kinds().count("urls") == 3
    assert isinstance(chunks, list)


def test_what_is_remembered_is_removed_when_it_is_of_no_more_use(uploading: Archive) -> None:
    uploading.submit(**told(uploading))
    folder = uploading.results / "uploaded"
    first, *others = sorted(folder.iterdir())
    then = time.time() - 86_400 - 700
    os.utime(first, (then, then))

    sweep(str(uploading.results), uploading.ledger.ended_since)

    assert sorted(folder.iterdir()) == others


def test_what_is_remembered_cannot_be_read_by_others(uploading: Archive) -> None:
    uploading.submit(**told(uploading))

    content = b"".join(file.read_bytes() for file in (uploading.results / "uploaded").iterdir())
    assert content
    assert not any(secret.encode() in content for secret in SECRETS)


MEASURED = """
import re, sys
from pathlib import Path
import av, cryptography.fernet, requests
from airflow.sdk import plugins_manager
import plaud_provider.submit.single
from plaud_provider.hooks.plaud import PlaudHook

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

# It loads all of Airflow's plugins, as a task has done before it begins.
plugins_manager.get_hook_lineage_readers_plugins()
before = peak()
with PlaudHook() as hook:
    hook.submit_transcription(sys.argv[1])
assert "boto3" not in sys.modules, "it is not for lineage that nobody collects"
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_recording(embedded: EmbeddedPlaud, tmp_path: Path) -> None:
    file = tmp_path / "long.wav"
    file.write_bytes(wav(20 * 60, rate=16_000))
    as_mp3 = tmp_path / "long.mp3"
    as_mp3.write_bytes(long_mp3(12))

    for recording in (file, as_mp3):
        child = subprocess.run(
            [sys.executable, "-c", MEASURED, str(recording)],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=True,
        )

        # Of 38 MB of WAV, and of 60 MB in twelve parts.
        assert int(child.stdout.split()[-1]) < 20
    assert embedded.kinds().count("submit") == 2
