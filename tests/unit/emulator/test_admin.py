from __future__ import annotations

import json
import logging

import pytest

AUDIO_URL = "https://bucket.example/calls/a.wav?versionId=7&X-Amz-Signature=canary-signature"


def test_the_ledger_has_every_request_in_order(client):
    transcription_id = client.submitted(AUDIO_URL)
    client.get(transcription_id)
    client.request("POST", "/elsewhere")
    entries = client.admin("GET", "ledger").json()
    assert [entry["sequence"] for entry in entries] == [1, 2, 3, 4]
    assert [entry["kind"] for entry in entries] == ["exchange", "submit", "get", "other"]
    assert [entry["status"] for entry in entries] == [200, 200, 200, 404]
    assert [entry["client_id"] for entry in entries] == ["demo-client"] * 3 + [None]
    assert [entry["transcription_id"] for entry in entries] == [
        None,
        transcription_id,
        transcription_id,
        None,
    ]
    assert entries[1]["audio_url"].startswith("https://bucket.example/calls/a.wav?versionId=sha256:")
    assert entries[1]["host"] == client.emulator.url.removeprefix("http://")


def test_the_ledger_can_be_read_in_part(client):
    for _ in range(3):
        client.get("txn_1")
    assert [e["kind"] for e in client.admin("GET", "ledger?kind=exchange").json()] == ["exchange"]
    assert [e["sequence"] for e in client.admin("GET", "ledger?after=1&limit=2").json()] == [2, 3]
    assert client.admin("GET", "ledger?kind=list").status_code == 422


def test_the_ledger_of_a_refusal_names_the_client_that_asked(client):
    client.emulator.expire_tokens()
    client.get("txn_1")
    entry = client.emulator.ledger(kind="get")[0]
    assert (entry["status"], entry["client_id"]) == (401, "demo-client")


def test_no_secret_is_in_the_admin_api_or_the_log(client, caplog):
    caplog.set_level(logging.DEBUG, logger="plaud_provider.emulator")
    pair = client.exchange().json()
    client.refresh(pair["refresh_token"])
    client.submitted(AUDIO_URL, webhookUrl="https://me.example/?key=canary-webhook")
    client.request("GET", "/open/partner/ai/transcriptions/txn_1?token=canary-query", headers=client.bearer)
    shown = caplog.text + "".join(client.admin("GET", path).text for path in ("ledger", "state", "summary"))
    assert "/open/partner/ai/transcriptions/" in shown
    secrets = [pair["access_token"], pair["refresh_token"], client.token, "demo-secret-key", "canary"]
    assert [secret for secret in secrets if secret in shown] == []


LEAKS = [
    "url: /a.wav?X-Amz-Signature=canary",
    "bucket.example/a.wav?canary",
    "https%3A%2F%2Fbucket.example%2Fa.wav%3Fsig%3Dcanary",
    "s3://bucket/a.wav?sig=canary",
    "https://bucket.example/a.wav\\u003fsig\\u003dcanary",
    "https://user:canary@bucket.example/a.wav",
    "https%3A%2F%2Fuser%3Acanary%40bucket.example%2Fa.wav",
]


@pytest.mark.parametrize("leak", LEAKS)
def test_no_spelling_of_a_signature_is_in_the_admin_api(client, leak):
    """An unfinished client submits anything, under any name, and an error quotes it."""
    client.submit(leak, file_url=leak, params={"from": [leak]})
    transcription_id = client.submitted(AUDIO_URL)
    order = {"status": "failed", "error": {"message": leak, "details": [{"url": leak}]}}
    client.admin("POST", f"transcriptions/{transcription_id}", json=order)
    shown = "".join(client.admin("GET", path).text for path in ("ledger", "state", "summary"))
    assert "a.wav" in shown
    assert "canary" not in shown


def test_recordings_whose_names_differ_after_a_mark_are_two(client):
    for name in ("why%3F1.wav", "why%3F2.wav"):
        client.submitted(f"https://bucket.example/{name}")
    assert client.admin("GET", "summary").json()["audio_submitted_again"] == 0


def test_the_log_has_one_line_per_request(client, caplog):
    caplog.set_level(logging.INFO, logger="plaud_provider.emulator")
    transcription_id = client.submitted()
    assert f"POST /open/partner/ai/transcriptions/ 200 {transcription_id}" in caplog.messages


def test_the_summary_counts_what_was_granted_refused_and_lost(client):
    refresh_token = client.exchange().json()["refresh_token"]
    client.refresh(refresh_token)
    client.get(client.submitted())
    client.emulator.inject({"match": {"kind": "submit"}, "action": "drop_after"})
    body = json.dumps({"audioUrl": client.emulator.sign("voicemail.wav")}).encode()
    client.raw("POST", "/open/partner/ai/transcriptions/", body)
    client.emulator.inject({"action": "status", "status": 503})
    client.get("txn_1")
    client.get("txn_1")
    summary = client.admin("GET", "summary").json()
    expected = {
        "requests": 8, "exchanges": 2, "refreshes": 1, "submits_accepted": 2, "gets": 1, "refused_429": 0,
        "unauthorized_401": 0, "other_4xx": 1, "answers_5xx": 1, "dropped": 1, "in_flight": 0, "faulted": 2,
        "audio_submitted_again": 1, "faults_consumed": 2,
    }  # fmt: skip
    assert {name: summary[name] for name in expected} == expected
    assert summary["busiest_minute"] == {"demo-client": {"api_requests": 5, "token_requests": 3}}


def test_the_state_describes_every_transcription(client):
    done = client.transcribed("bestellung.mp3", speakerDiarization=True)
    client.submitted(client.emulator.sign("voicemail.wav"), language="en")
    client.emulator.settle()
    state = client.admin("GET", "state").json()
    assert state["counts"] == {"completed": 1, "processing": 1}
    assert state["tokens_issued"] == 1
    assert state["config"]["client_ids"] == ["demo-client"]
    assert state["audio_seconds"] == 15.984 + 7.74
    first = state["transcriptions"][0]
    assert first["transcription_id"] == done["transcriptionId"]
    assert (first["status"], first["container"], first["duration"]) == ("completed", "MP3", 15.984)
    assert (first["language"], first["diarization"], first["error"]) == ("de", True, None)
    assert first["audio_url"] == f"{client.emulator.url}/store/bestellung.mp3"


def test_the_clock_can_be_advanced_and_its_speed_changed(client):
    assert client.admin("POST", "clock", json={"advance": 90}).json()["seconds"] == 90
    clock = client.admin("POST", "clock", json={"speed": 1000}).json()
    assert (clock["speed"], clock["seconds"] >= 90) == (1000, True)
    for wrong in ({"speed": -1}, {"advance": -1}, {"forward": 1}):
        assert client.admin("POST", "clock", json=wrong).status_code == 422


def test_time_passes_at_the_speed_that_was_set(start):
    client = start(speed=1000, processing_seconds=3, processing_ratio=0, fetch_audio=False).sign_in()
    transcription_id = client.submitted()
    client.emulator.settle()
    # Asking takes time too: each real millisecond is an emulated second, and three are enough.
    answers = (client.get(transcription_id).json()["status"] for _ in range(50))
    assert "completed" in answers


def test_a_reset_forgets_everything_but_the_settings(client):
    client.transcribed("voicemail.wav")
    client.emulator.inject({"action": "html"})
    assert client.admin("POST", "reset").status_code == 200
    state = client.admin("GET", "state").json()
    assert (state["transcriptions"], state["tokens_issued"], state["clock"]["seconds"]) == ([], 0, 0)
    assert client.admin("GET", "ledger").json() == []
    assert client.admin("GET", "faults").json() == []
    assert client.submit().status_code == 401


def test_the_admin_api_describes_itself(client):
    described = client.admin("GET", "openapi.json").json()
    assert "/_emulator/faults" in described["paths"]
    assert "Unauthenticated" in described["info"]["description"]


def test_an_unknown_admin_path_is_not_found(client):
    assert client.admin("GET", "nothing").status_code == 404
