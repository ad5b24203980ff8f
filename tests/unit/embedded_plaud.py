"""
Plaud's API ``embedded`` with a real S3 behind it: parts go to a multipart upload that S3 itself has signed.

Not the emulator: where both are wrong in the same way, tests with one of them would not show it.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, cast

import pytest
import requests
from botocore.exceptions import ClientError

from tests.unit.s3_server import BUCKET, S3Server

BASE = "/developer/api"
SUBMIT = "/open/partner/ai/transcriptions/"
KINDS = {
    "/oauth/partner/access-token": "exchange",
    "/oauth/partner/access-token/refresh": "refresh",
    "/open/partner/users/access-token": "user_token",
    "/open/partner/files/upload/generate-presigned-urls": "urls",
    "/open/partner/files/upload/complete-upload": "complete",
    SUBMIT: "submit",
}
PART_BYTES = 5 * 1024 * 1024
FILES = "plaud-files/"


class EmbeddedPlaud:
    """
    The server.

    :param s3: Where uploads lie.
    """

    def __init__(self, s3: S3Server) -> None:
        self.s3 = s3
        self.lock = Lock()
        #: Kind and body of each call, in order.
        self.calls: list[tuple[str, dict[str, Any]]] = []
        #: What the next calls of a kind are answered with, in place of what they would be.
        self.orders: defaultdict[str, deque[tuple[int, Any]]] = defaultdict(deque)
        #: Called when a call of a kind arrives.
        self.on: dict[str, Callable[[], None]] = {}
        self.file_types = {"mp3", "m4a", "opus"}
        self.issued = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        cast("Any", self._server).plaud = self
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def connection(self, **extra: Any) -> str:
        """Return an Airflow connection to it, as JSON."""
        return json.dumps(
            {
                "conn_type": "plaud",
                "login": "client",
                "password": "secret-key-canary",
                "host": f"http://127.0.0.1:{self._server.server_port}{BASE}",
                "extra": {
                    "region": "us",
                    "api": "embedded",
                    "api_key": "api-key-canary",
                    "requests_per_minute": 60_000,
                    **extra,
                },
            }
        )

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.calls]

    def bodies(self, kind: str) -> list[dict[str, Any]]:
        return [body for one, body in self.calls if one == kind]

    @property
    def submitted(self) -> list[str]:
        """The URLs that were submitted, accepted or not."""
        return [body["file_url"] for body in self.bodies("submit")]

    def fetched(self, number: int = -1) -> bytes:
        """Fetch what was submitted, as Plaud does."""
        answer = requests.get(self.submitted[number], timeout=10)
        answer.raise_for_status()
        return answer.content

    def answer(self, kind: str, headers: Any, body: dict[str, Any]) -> tuple[int, Any]:
        with self.lock:
            self.calls.append((kind, body))
            ordered = self.orders[kind].popleft() if self.orders[kind] else None
        if kind in self.on:
            self.on[kind]()
        if ordered is not None:
            return ordered
        refusal = self._unauthorized(kind, headers)
        if refusal is not None:
            return 401, {"detail": refusal}
        with self.lock:
            self.issued += 1
            try:
                return 200, getattr(self, f"_{kind}")(body)
            except ClientError as refused:
                return 400, {"detail": refused.response["Error"]["Code"]}

    def _unauthorized(self, kind: str, headers: Any) -> str | None:
        given = headers.get("Authorization", "")
        wanted = {"exchange": "Basic ", "user_token": "Bearer partner-", "urls": "Bearer user-"}
        wanted["complete"] = wanted["urls"]
        if kind == "submit":
            is_known = headers.get("X-Client-Id") == "client"
            is_known &= headers.get("X-Client-Api-Key") == "api-key-canary"
            return None if is_known and not given else "CLIENT_NOT_FOUND"
        return None if given.startswith(wanted.get(kind, "?")) else "TOKEN_INVALID"

    def _exchange(self, body: dict[str, Any]) -> dict[str, Any]:
        token = f"partner-token-canary-{self.issued}"
        return {"access_token": token, "refresh_token": "r", "token_type": "bearer", "expires_in": 3600}

    def _user_token(self, body: dict[str, Any]) -> dict[str, Any]:
        assert 6 <= len(body["user_id"]) <= 120
        return {
            "access_token": f"user-token-canary-{self.issued}",
            "token_type": "bearer",
            "expires_in": 86400,
        }

    def _urls(self, body: dict[str, Any]) -> Any:
        if body["filetype"] not in self.file_types:
            return {"detail": "FILE_TYPE_INVALID"}
        key = f"{FILES}{self.issued}.{body['filetype']}"
        upload = self.s3.client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        parts = [
            {
                "PartNumber": number,
                "PresignedUrl": self.s3.client.generate_presigned_url(
                    "upload_part",
                    {"Bucket": BUCKET, "Key": key, "UploadId": upload, "PartNumber": number},
                    ExpiresIn=3600,
                ),
            }
            for number in range(1, -(-body["filesize"] // PART_BYTES) + 1)
        ]
        return {"FileId": key, "UploadId": upload, "ChunkSize": PART_BYTES, "Parts": parts}

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        where = {"Bucket": BUCKET, "Key": body["file_id"]}
        self.s3.client.complete_multipart_upload(
            **where, UploadId=body["upload_id"], MultipartUpload={"Parts": body["part_list"]}
        )
        url = self.s3.client.generate_presigned_url("get_object", where, ExpiresIn=86_400)
        return {
            "FileId": body["file_id"],
            "FileType": body["filetype"],
            "DownloadUrl": url,
            "FileMd5": "0" * 32,
        }

    def _submit(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"transcription_id": f"task_exec_{self.issued}", "status": "PENDING", "data": {}}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        plaud: EmbeddedPlaud = cast("Any", self.server).plaud
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = KINDS.get(self.path.removeprefix(BASE), "other")
        body = json.loads(content) if content and kind not in ("exchange", "refresh") else {}
        status, payload = plaud.answer(kind, self.headers, body)
        answer = json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def embedded(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedPlaud]:
    """A Plaud that takes uploads, behind the connection ``plaud_default``."""
    plaud = EmbeddedPlaud(s3)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", plaud.connection())
    yield plaud
    plaud.stop()
