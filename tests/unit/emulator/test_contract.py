from __future__ import annotations

import re
from typing import Any

import pytest

EXCHANGE = "/oauth/partner/access-token"
REFRESH = "/oauth/partner/access-token/refresh"
TRANSCRIPTIONS = "/open/partner/ai/transcriptions/"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
AUDIO_URL = "https://bucket.example/a.wav?X-Amz-Signature=abc"


def test_exchange_answers_a_token_pair(client):
    answer = client.exchange()
    assert answer.status_code == 200
    assert set(answer.json()) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (answer.json()["token_type"], answer.json()["expires_in"]) == ("bearer", 86400)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic ZGVtby1jbGllbnQ6d3Jvbmc="},  # demo-client:wrong
        {"Authorization": "Basic bm9ib2R5OmRlbW8tc2VjcmV0LWtleQ=="},  # nobody:demo-secret-key
        {"Authorization": "Basic not*base64"},
        {"Authorization": "Bearer demo-secret-key"},
    ],
    ids=["none", "wrong secret", "unknown client", "not base64", "bearer"],
)
@pytest.mark.parametrize("path", [EXCHANGE, REFRESH])
def test_token_calls_refuse_wrong_credentials(client, path, headers):
    answer = client.request("POST", path, headers={**FORM, **headers}, data="refresh_token=x")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_client"
    assert answer.headers["WWW-Authenticate"] == "Basic"


def test_exchange_refuses_another_content_type(client):
    answer = client.request(
        "POST", EXCHANGE, auth=client.credentials, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 415


def test_refresh_requires_its_field(client):
    answer = client.request("POST", REFRESH, auth=client.credentials, headers=FORM)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def test_submit_answers_at_once_with_an_id(client):
    answer = client.submit(
        AUDIO_URL, language="ja", webhookUrl="https://me.example/h", speakerDiarization=True
    )
    assert answer.status_code == 200
    assert set(answer.json()) == {"transcriptionId", "status", "createdAt"}
    assert re.fullmatch(r"txn_[0-9a-f]{24}", answer.json()["transcriptionId"])
    assert answer.json()["status"] == "processing"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", answer.json()["createdAt"])


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "audioUrl"),
        ([], "object"),
        ({"audioUrl": None}, "audioUrl"),
        ({"audioUrl": 7}, "audioUrl"),
        ({"audioUrl": ""}, "audioUrl"),
        ({"audioUrl": "s3://bucket/a.wav"}, "audioUrl"),
        ({"audioUrl": "file:///etc/passwd"}, "audioUrl"),
        ({"audioUrl": "https://"}, "audioUrl"),
        ({"audioUrl": "https://host:port/a.wav"}, "audioUrl"),
        ({"audioUrl": AUDIO_URL, "speakerDiarization": "true"}, "speakerDiarization"),
        ({"audioUrl": AUDIO_URL, "speakerDiarization": 1}, "speakerDiarization"),
        ({"audioUrl": AUDIO_URL, "language": None}, "language"),
        ({"audioUrl": AUDIO_URL, "language": "english please"}, "language"),
        ({"audioUrl": AUDIO_URL, "webhookUrl": "me.example"}, "webhookUrl"),
        ({"audioUrl": AUDIO_URL, "audio_url": AUDIO_URL}, "audio_url"),
    ],
    ids=str,
)
def test_submit_refuses_what_the_contract_does_not_know(client, body: Any, named):
    answer = client.request("POST", TRANSCRIPTIONS, headers=client.bearer, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert named in answer.json()["error"]["message"]
    assert client.emulator.transcriptions() == []


def test_submit_refuses_broken_json(client):
    headers = {**client.bearer, "Content-Type": "application/json"}
    answer = client.request("POST", TRANSCRIPTIONS, headers=headers, data=b'{"audioUrl": ')
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_submit_refuses_another_content_type(client):
    headers = {**client.bearer, "Content-Type": "text/plain"}
    answer = client.request("POST", TRANSCRIPTIONS, headers=headers, data=f'{{"audioUrl": "{AUDIO_URL}"}}')
    assert answer.status_code == 415


def test_a_body_of_more_than_a_megabyte_is_refused(client):
    answer = client.submit(AUDIO_URL, language="x" * 1_100_000)
    assert answer.status_code == 413
    assert client.emulator.transcriptions() == []


@pytest.mark.parametrize("authorization", [None, "Bearer", "Bearer unknown", "Basic ZGVtby1jbGllbnQ6eA=="])
@pytest.mark.parametrize(("method", "path"), [("POST", TRANSCRIPTIONS), ("GET", f"{TRANSCRIPTIONS}txn_1")])
def test_api_calls_refuse_what_is_no_valid_token(client, method, path, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = client.request(method, path, headers=headers, json={"audioUrl": AUDIO_URL})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_token")


def test_a_result_is_short_while_processing(client):
    transcription_id = client.submitted()
    assert client.get(transcription_id).json() == {
        "transcriptionId": transcription_id,
        "status": "processing",
    }


def test_an_unknown_id_is_not_found(client):
    assert client.get("txn_000000000000000000000000").status_code == 404


def test_a_transcription_belongs_to_its_client(start):
    owner = start(clients={"one": "secret-1", "two": "secret-2"})
    owner.credentials = ("one", "secret-1")
    transcription_id = owner.sign_in().submitted()
    assert owner.get(transcription_id).status_code == 200
    owner.credentials = ("two", "secret-2")
    assert owner.sign_in().get(transcription_id).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", TRANSCRIPTIONS.rstrip("/"), 404),
        ("GET", TRANSCRIPTIONS, 405),
        ("DELETE", f"{TRANSCRIPTIONS}txn_1", 405),
        ("GET", f"{TRANSCRIPTIONS}txn_1/", 404),
        ("GET", EXCHANGE, 405),
        ("POST", f"{EXCHANGE}/", 404),
        ("GET", "/", 404),
    ],
)
def test_other_paths_and_methods_are_refused_in_json(client, method, path, status):
    answer = client.request(method, path, headers=client.bearer)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
