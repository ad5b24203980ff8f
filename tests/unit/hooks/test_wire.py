"""What goes over the wire, against a server that knows nothing but Plaud's pages."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast
from urllib.parse import parse_qs

import pytest

from tests.unit.hooks.conftest import Client
from tests.unit.recordings.sounds import MP3

TRANSCRIPTIONS = "/open/partner/ai/transcriptions/"
FILES = "/open/partner/files/upload/"
AUDIO = "https://files.example/a.wav?X-Amz-Signature=a%2Bb&x=ä"
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
#: base64("client:secret-key")
BASIC = "Basic Y2xpZW50OnNlY3JldC1rZXk="
KEYS = {"x-client-id": "client", "x-client-api-key": "api-key"}
NOT_COMPARED = {"host", "user-agent", "accept", "accept-encoding", "connection", "content-length"}
PART_BYTES = 5_242_880

Seen = tuple[str, str, dict[str, str], Any]


class Documented(BaseHTTPRequestHandler):
    """Answers as the pages say, and notes method, path, headers and parsed body."""

    def _handle(self) -> None:
        server = cast("Any", self.server)
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        headers = {name: value for name, value in headers.items() if name not in NOT_COMPARED}
        body: Any = content
        if headers.get("content-type") == JSON:
            body = json.loads(content)
        elif headers.get("content-type") == FORM:
            body = parse_qs(content.decode())
        if self.command == "PUT":
            body = len(content)
        server.seen.append((self.command, self.path, headers, body))
        self.send_response(200)
        if self.command == "PUT":
            self.send_header("ETag", f'"etag-{self.path[-1]}"')
        answer = b"" if self.command == "PUT" else json.dumps(self._answer(body)).encode()
        self.send_header("Content-Type", JSON)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = _handle

    def _answer(self, body: Any) -> dict[str, Any]:
        path = self.path.removeprefix("/developer/api")
        if path == "/oauth/partner/access-token":
            token = {"access_token": "partner", "refresh_token": "r", "token_type": "bearer"}
            return {**token, "expires_in": 86400}
        if path == "/open/partner/users/access-token":
            return {"access_token": "user", "token_type": "bearer", "expires_in": 86400}
        here = f"http://127.0.0.1:{cast('Any', self.server).server_port}"
        if path == f"{FILES}generate-presigned-urls":
            parts = [
                {"PartNumber": number, "PresignedUrl": f"{here}/s3?sig=part&n={number}"}
                for number in range(1, math.ceil(body["filesize"] / PART_BYTES) + 1)
            ]
            return {"FileId": "file", "UploadId": "upload", "ChunkSize": PART_BYTES, "Parts": parts}
        if path == f"{FILES}complete-upload":
            return {"FileId": "file", "FileType": "mp3", "DownloadUrl": f"{here}/s3?sig=down", "FileMd5": "m"}
        if self.path.startswith("/developer/api"):
            if self.command == "POST":
                return {"transcription_id": "task_exec_1", "status": "PENDING", "data": {}}
            return {"transcription_id": "task_exec_1", "status": "SUCCESS", "data": {"text": "Hi."}}
        if self.command == "POST":
            return {"transcriptionId": "txn_1", "status": "processing", "createdAt": "2026-03-24T10:00:00Z"}
        return {"transcriptionId": "txn_1", "status": "completed", "text": "Hi.", "segments": []}

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def documented(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Any]:
    """Such a server, behind the connection ``plaud_default`` of one API."""
    api = request.param
    server = ThreadingHTTPServer(("127.0.0.1", 0), Documented)
    server.daemon_threads = True
    seen: list[Seen] = []
    cast("Any", server).seen = seen
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    base = f"http://127.0.0.1:{server.server_port}"
    connection = {
        "conn_type": "plaud",
        "login": "client",
        "password": "secret-key",
        "host": base + ("/developer/api" if api == "embedded" else ""),
        "extra": {
            "region": "us",
            "requests_per_minute": 60_000,
            **({"api": api, "api_key": "api-key"} if api == "embedded" else {}),
        },
    }
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
    yield seen
    server.shutdown()
    thread.join()
    server.server_close()


OF_OPENAPI = pytest.mark.parametrize("documented", ["openapi"], indirect=True)
OF_EMBEDDED = pytest.mark.parametrize("documented", ["embedded"], indirect=True)
EXCHANGE = ("POST", "/oauth/partner/access-token", {"authorization": BASIC, "content-type": FORM}, {})


@OF_OPENAPI
@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ({}, {}),
        (
            {"language": "ja", "webhook_url": "https://hook.example/", "speaker_diarization": True},
            {"language": "ja", "webhookUrl": "https://hook.example/", "speakerDiarization": True},
        ),
    ],
)
def test_requests_of_openapi(
    documented: list[Seen], client: Client, arguments: dict[str, Any], body: dict[str, Any]
) -> None:
    submitted = client.submit(AUDIO, **arguments)
    assert client.get(submitted.transcription_id).text == "Hi."

    bearer = {"authorization": "Bearer partner"}
    assert documented == [
        EXCHANGE,
        ("POST", TRANSCRIPTIONS, {**bearer, "content-type": JSON}, {"audioUrl": AUDIO, **body}),
        ("GET", f"{TRANSCRIPTIONS}txn_1", bearer, b""),
    ]


@OF_EMBEDDED
@pytest.mark.parametrize(
    ("arguments", "transcribe", "more"),
    [
        ({}, {"language": "auto"}, {}),
        ({"language": "ja"}, {"language": "ja"}, {}),
        (
            {"model": "plaud-omni-3", "detection_level": "chapter", "hotwords": ["a", "b", "c"]},
            {"language": "auto", "model": "plaud-omni-3", "detection_level": "chapter"},
            {"hotwords": "a,b,c"},
        ),
    ],
)
def test_requests_of_embedded(
    documented: list[Seen],
    client: Client,
    arguments: dict[str, Any],
    transcribe: dict[str, Any],
    more: dict[str, Any],
) -> None:
    submitted = client.submit(AUDIO, speaker_diarization=True, decode_silence=True, **arguments)
    assert client.get(submitted.transcription_id).text == "Hi."

    params = {
        "transcribe": transcribe,
        "vad": {"decode_silence": True},
        "diarization": {"enabled": True, "return_embedding": False},
        **more,
    }
    path = f"/developer/api{TRANSCRIPTIONS}"
    assert documented == [
        ("POST", path, {**KEYS, "content-type": JSON}, {"file_url": AUDIO, "params": params}),
        ("GET", f"{path}task_exec_1", KEYS, b""),
    ]


@OF_EMBEDDED
def test_requests_of_an_upload(documented: list[Seen], client: Client, tmp_path: Path) -> None:
    file = tmp_path / "a.mp3"
    file.write_bytes(MP3 * int(1.5 * PART_BYTES / len(MP3)))
    size = file.stat().st_size

    client.submit(str(file))

    exchange, user, urls, *parts, complete, submit = documented
    user_is = {"authorization": "Bearer user", "content-type": JSON}
    base = "/developer/api"
    assert exchange == (EXCHANGE[0], base + EXCHANGE[1], *EXCHANGE[2:])
    assert user[:3] == (
        "POST",
        f"{base}/open/partner/users/access-token",
        {"authorization": "Bearer partner", "content-type": JSON},
    )
    assert 6 <= len(user[3]["user_id"]) <= 120
    assert user[3]["expires_in"] == 86400
    body: dict[str, Any] = {"filesize": size, "filetype": "mp3"}
    assert urls == ("POST", f"{base}{FILES}generate-presigned-urls", user_is, body)
    # To the storage: raw bytes, and no credentials.
    assert sorted(parts, key=lambda one: one[1]) == [
        ("PUT", "/s3?sig=part&n=1", {}, PART_BYTES),
        ("PUT", "/s3?sig=part&n=2", {}, size - PART_BYTES),
    ]
    etags = [{"PartNumber": number, "ETag": f'"etag-{number}"'} for number in (1, 2)]
    body = {"file_id": "file", "upload_id": "upload", "part_list": etags, "filetype": "mp3"}
    assert complete == ("POST", f"{base}{FILES}complete-upload", user_is, body)
    assert submit[3]["file_url"].endswith("/s3?sig=down")
