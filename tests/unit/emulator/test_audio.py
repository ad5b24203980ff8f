from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@pytest.mark.parametrize(
    ("path", "container", "seconds"),
    [("voicemail.wav", "WAV", 7.74), ("interview.mp3", "MP3", 15.4), ("standup-memo.m4a", "M4A", 14.0)],
)
def test_a_recording_is_recognised_and_measured(client, path, container, seconds):
    assert client.transcribed(path)["duration"] == pytest.approx(seconds, abs=0.1)
    assert client.emulator.transcriptions()[0]["container"] == container


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("empty.wav", "audio_empty"),
        ("renamed.mp3", "unsupported_audio"),
        ("page.m4a", "unsupported_audio"),
        ("header-only.wav", "unreadable_audio"),
        ("truncated.m4a", "unreadable_audio"),
        ("tag-only.mp3", "unreadable_audio"),
    ],
)
def test_what_is_no_recording_fails(client, path, code):
    result = client.transcribed(path)
    assert set(result) == {"transcriptionId", "status", "error"}
    assert result["status"] == "failed"
    assert result["error"]["code"] == code
    assert result["error"]["message"]


def test_an_error_can_be_a_string(start):
    client = start(error_style="string").sign_in()
    assert "not a WAV, MP3 or M4A" in client.transcribed("renamed.mp3")["error"]


def test_a_url_that_is_refused_fails_and_the_error_repeats_the_url_as_real_servers_do(client):
    url = client.emulator.sign("voicemail.wav").replace("X-Amz-Signature=", "X-Amz-Signature=0")
    transcription_id = client.submitted(url)
    client.emulator.settle()
    error = client.get(transcription_id).json()["error"]
    assert error["code"] == "audio_unreachable"
    assert error["message"] == f"Could not download {url}: HTTP 403"


def test_the_admin_api_shows_errors_without_the_query(client):
    client.submitted(client.emulator.sign("voicemail.wav").replace("X-Amz-Signature=", "X-Amz-Signature=0"))
    client.emulator.settle()
    shown = client.admin("GET", "state").text
    assert "Could not download" in shown
    assert "X-Amz-Signature" not in shown


def test_a_host_that_does_not_answer_fails(client):
    transcription_id = client.submitted("http://127.0.0.1:9/a.wav")
    client.emulator.settle()
    assert client.get(transcription_id).json()["error"]["code"] == "audio_unreachable"


class _Sender(BaseHTTPRequestHandler):
    """Redirects, or sends more than the emulator wants, or slower."""

    def do_GET(self) -> None:
        if self.path == "/redirect.wav":
            self.send_response(302)
            self.send_header("Location", "/endless.wav")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(100):
                self.wfile.write(b"RIFF0000WAVE" + b"\x00" * 50_000)
                if self.path == "/slow.wav" and self.server.leave.wait(0.05):  # type: ignore[attr-defined]
                    return
        except OSError:
            pass

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def sender() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sender)
    server.leave = threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.leave.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "limits", "code"),
    [
        ("/redirect.wav", {}, "audio_unreachable"),
        ("/endless.wav", {"fetch_bytes": 1_000_000}, "audio_too_large"),
        ("/slow.wav", {"fetch_seconds": 0.3}, "audio_unreachable"),
    ],
)
def test_downloads_are_bounded_and_follow_no_redirect(start, sender, path, limits, code):
    client = start(**limits).sign_in()
    transcription_id = client.submitted(sender + path)
    assert client.emulator.settle()
    assert client.get(transcription_id).json()["error"]["code"] == code


def test_without_downloads_any_url_is_a_minute_of_audio(start):
    client = start(fetch_audio=False, processing_ratio=0).sign_in()
    transcription_id = client.submitted("https://nowhere.invalid/a.wav")
    client.emulator.advance(3)
    result = client.get(transcription_id).json()
    assert (result["status"], result["duration"]) == ("completed", 60.0)
    assert "not downloaded" in result["text"]
