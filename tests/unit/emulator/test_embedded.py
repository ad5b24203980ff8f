"""The emulator's second API, with the client of the package and by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.emulator.settings import Settings
from tests.unit.emulator.conftest import RECORDINGS, TRANSCRIPTIONS, Client

KEY = {"X-Client-Id": "demo-client", "X-Client-Api-Key": "demo-api-key"}


def submit(client: Client, params: Any = None, **fields: Any) -> Any:
    body = {"file_url": client.emulator.sign("voicemail.wav"), "params": params or {}, **fields}
    return client.request("POST", TRANSCRIPTIONS, headers=KEY, json=body)


def get(client: Client, transcription_id: str) -> Any:
    return client.request("GET", TRANSCRIPTIONS + transcription_id, headers=KEY)


def test_a_recording_is_transcribed_without_a_token(client: Client) -> None:
    accepted = submit(client, {"diarization": {"enabled": True, "return_embedding": True}}).json()
    known = accepted["transcription_id"]

    assert accepted == {"transcription_id": known, "status": "PENDING", "data": {}}
    assert known.startswith("task_exec_")
    assert get(client, known).json() == {"transcription_id": known, "status": "PROGRESS", "data": {}}
    client.emulator.advance(3600)
    done = get(client, known).json()
    assert (done["transcription_id"], done["status"]) == (known, "SUCCESS")
    data = done["data"]
    assert data.keys() == {"text", "language", "duration", "results", "embeddings"}
    assert data["duration"] > 0
    assert {"start", "end", "text", "language", "language_probability"} <= data["results"][0].keys()
    speakers = {one["speaker_id"] for one in data["results"]}
    assert speakers == data["embeddings"].keys()
    assert all(len(voice) == 256 for voice in data["embeddings"].values())


def test_what_cannot_be_fetched_fails_with_a_message(client: Client) -> None:
    known = submit(client, file_url=f"{client.emulator.url}/store/nothing.wav").json()["transcription_id"]
    client.emulator.advance(3600)

    failed = get(client, known).json()
    assert (failed["status"], failed["data"]) == ("FAILURE", {})
    assert isinstance(failed["message"], str)


@pytest.mark.parametrize(
    "headers",
    [{**KEY, "X-Client-Api-Key": "wrong"}, {**KEY, "X-Client-Id": "wrong"}, {"X-Client-Id": "demo-client"}],
)
def test_another_client_is_not_found(client: Client, headers: dict[str, str]) -> None:
    refused = client.request("GET", f"{TRANSCRIPTIONS}task_exec_1", headers=headers)

    assert (refused.status_code, refused.json()) == (401, {"detail": "CLIENT_NOT_FOUND"})


def test_each_api_knows_its_own_transcriptions_only(client: Client) -> None:
    embedded = submit(client).json()["transcription_id"]
    openapi = client.submitted()

    assert client.get(embedded).status_code == 404
    assert get(client, openapi).status_code == 404
    assert get(client, openapi).json() == {"detail": "TASK_NOT_FOUND"}


@pytest.mark.parametrize(
    "fields",
    [
        {"file_url": None},
        {"audioUrl": "https://a.example/a.wav"},
        {"params": {"language": "en"}},
        {"params": {"transcribe": {"model": "whisper"}}},
        {"params": {"transcribe": {"detection_level": "word"}}},
        {"params": {"hotwords": ["a"]}},
        {"params": {"vad": {"decode_silence": "yes"}}},
        {"file_url": "ftp://a.example/a.wav"},
    ],
)
def test_a_submit_in_other_words_is_refused(client: Client, fields: dict[str, Any]) -> None:
    refused = submit(client, **fields)

    assert refused.status_code == 422
    assert isinstance(refused.json()["detail"], str)


def test_both_apis_share_the_client_s_quota(start: Callable[..., Client]) -> None:
    client = start(request_limit=3).sign_in()
    for _ in range(2):
        submit(client)
    client.submitted()

    assert submit(client).status_code == 429


def test_no_secret_is_in_the_ledger(client: Client) -> None:
    submit(client)

    shown = json.dumps(client.emulator.ledger())
    assert "demo-api-key" not in shown
    assert client.emulator.summary()["submits_accepted"] == 1
    assert client.emulator.ledger(kind="submit")[-1]["client_id"] == "demo-client"


def test_a_500_can_be_ordered_for_what_is_not_in_plaud_s_own_storage(client: Client) -> None:
    client.emulator.inject(
        {"match": {"external_url": True}, "action": "status", "status": 500, "times": None}
    )

    assert submit(client).status_code == 500
    assert submit(client, file_url=f"{client.emulator.url}/uploads/a.mp3").status_code == 200
    assert get(client, "task_exec_1").status_code == 404


@pytest.mark.parametrize(
    ("words", "of_openapi", "of_embedded"),
    [
        (["capitals"], ("COMPLETED", "speaker", True), ("SUCCESS", "speaker_id", True)),
        (["speaker_id"], ("completed", "speaker_id", True), ("SUCCESS", "speaker_id", True)),
        (["speaker"], ("completed", "speaker", True), ("SUCCESS", "speaker", True)),
        (["no_times"], ("completed", "speaker", False), ("SUCCESS", "speaker_id", False)),
    ],
)
def test_oddities_can_be_ordered(
    client: Client, words: list[str], of_openapi: tuple[Any, ...], of_embedded: tuple[Any, ...]
) -> None:
    embedded = submit(client, {"diarization": {"enabled": True}}).json()["transcription_id"]
    openapi = client.submitted(speakerDiarization=True)
    client.emulator.advance(3600)
    client.emulator.inject({"match": {"kind": "get"}, "action": "respell", "words": words, "times": 2})

    one, other = client.get(openapi).json(), get(client, embedded).json()

    def seen(answer: Any, segment: dict[str, Any]) -> tuple[Any, ...]:
        [label] = segment.keys() & {"speaker", "speaker_id"}
        return answer["status"], label, "start" in segment

    assert seen(one, one["segments"][0]) == of_openapi
    assert seen(other, other["data"]["results"][0]) == of_embedded
    assert ("completedAt" in one) is (words != ["no_times"])


def test_an_id_can_be_told_as_that_of_a_task(client: Client) -> None:
    client.emulator.inject({"match": {"kind": "submit"}, "action": "respell", "words": ["task_id"]})

    answer = submit(client).json()
    assert answer.keys() == {"data"}
    assert answer["data"]["task_status"] == "PENDING"
    assert get(client, answer["data"]["task_id"]).status_code == 200


@pytest.fixture
def server() -> Iterator[EmulatorServer]:
    with EmulatorServer(Settings(api="embedded", transcripts=(RECORDINGS,), store=RECORDINGS)) as server:
        yield server


def test_the_connection_line_is_that_of_its_api(server: EmulatorServer) -> None:
    assert json.loads(server.airflow_connection)["extra"] == {
        "region": "us",
        "api": "embedded",
        "api_key": "demo-api-key",
    }
