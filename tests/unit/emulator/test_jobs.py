from __future__ import annotations

import pytest


def test_processing_takes_its_time_and_longer_for_longer_recordings(client):
    transcription_id = client.submitted(client.emulator.sign("support-call.wav"))
    # 3 s, and 0.05 s for each of 18.338 s of audio.
    client.emulator.advance(3.9)
    assert client.get(transcription_id).json()["status"] == "processing"
    client.emulator.advance(0.1)
    assert client.get(transcription_id).json()["status"] == "completed"


def test_the_time_of_completion_is_the_moment_it_was_due(client):
    submitted = client.submit(client.emulator.sign("voicemail.wav")).json()
    client.emulator.advance(86000)
    client.sign_in()
    completed = client.get(submitted["transcriptionId"]).json()["completedAt"]
    assert submitted["createdAt"] < completed
    assert completed == client.emulator.state.clock.iso(3 + 0.05 * 7.74)


def test_a_transcription_is_the_same_each_time_it_is_read(client):
    result = client.transcribed("voicemail.wav")
    assert client.get(result["transcriptionId"]).json() == result


def test_the_same_recording_twice_is_two_transcriptions(client):
    url = client.emulator.sign("voicemail.wav")
    assert client.submitted(url) != client.submitted(url)
    assert client.emulator.summary()["audio_submitted_again"] == 1


def test_a_webhook_is_stored(client):
    client.submitted(webhookUrl="https://me.example/hook?key=secret")
    assert client.emulator.transcriptions()[0]["webhook_url"].startswith(
        "https://me.example/hook?key=sha256:"
    )


def test_a_transcription_can_be_forced_to_fail(client):
    transcription_id = client.submitted()
    change = {"status": "failed", "error": "no speech"}
    assert (
        client.admin("POST", f"transcriptions/{transcription_id}", json=change).json()["status"] == "failed"
    )
    assert client.get(transcription_id).json() == {
        "transcriptionId": transcription_id, "status": "failed", "error": "no speech"
    }  # fmt: skip


def test_a_transcription_can_be_forced_to_complete(client):
    transcription_id = client.submitted()
    segments = [{"start": 0.0, "end": 1.5, "text": "שלום 👋🏽", "speaker": "Speaker 1"}]
    client.emulator.force(transcription_id, status="completed", text="שלום 👋🏽", segments=segments)
    result = client.get(transcription_id).json()
    assert (result["status"], result["text"], result["segments"]) == ("completed", "שלום 👋🏽", segments)
    assert {"language", "duration", "completedAt"} <= set(result)


def test_a_transcription_can_be_forced_back_to_processing(client):
    transcription_id = client.transcribed("voicemail.wav")["transcriptionId"]
    client.emulator.force(transcription_id, status="processing")
    assert client.get(transcription_id).json()["status"] == "processing"


def test_a_payload_can_be_forced_as_it_is(client):
    transcription_id = client.submitted()
    payload = {"status": "queued", "text": "a\x00b", "duration": "12", "segments": None}
    client.admin("POST", f"transcriptions/{transcription_id}", json={"payload": payload})
    assert client.get(transcription_id).json() == payload


@pytest.mark.parametrize(
    "change",
    [{}, {"status": "done"}, {"status": "failed", "payload": {}}, {"state": "failed"}, {"payload": []}],
    ids=str,
)
def test_what_cannot_be_forced_is_refused(client, change):
    transcription_id = client.submitted()
    assert client.admin("POST", f"transcriptions/{transcription_id}", json=change).status_code == 422


def test_an_unknown_transcription_cannot_be_forced(client):
    assert client.admin("POST", "transcriptions/txn_1", json={"status": "failed"}).status_code == 404
