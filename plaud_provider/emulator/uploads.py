"""
Uploads: user tokens, URLs for parts, the parts themselves, and what is fetched of them afterwards.

Parts and files lie in a temporary folder, oldest files first out. A URL for a part, or for a file, works for
24 hours of the emulator's clock.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlencode

from plaud_provider.emulator.clock import Clock
from plaud_provider.emulator.wire import Answer, Request, json_answer

USER_TOKEN_PATH = "/open/partner/users/access-token"
PART_URLS_PATH = "/open/partner/files/upload/generate-presigned-urls"
COMPLETE_PATH = "/open/partner/files/upload/complete-upload"
#: The storage behind the API, with pre-signed URLs.
STORAGE_PREFIX = "/uploads/"
PART_BYTES = 5 * 1024 * 1024
URL_SECONDS = 86_400
FILE_TYPES = ("mp3", "opus", "m4a")
#: What all files together may have.
KEPT_BYTES = 4 * 1024**3

_PART_PATH = re.compile(r"/uploads/(?P<id>file_[0-9a-f]{32})/(?P<number>\d{1,5})")
_FILE_PATH = re.compile(r"/uploads/(?P<id>file_[0-9a-f]{32})\.[a-z0-9]+")


@dataclass(slots=True)
class Upload:
    """
    One upload. Moments are those of the emulator's clock.

    :param key: What its URLs are signed with.
    :param etags: ETag by the number of each part that is there.
    :param puts: How often each part was sent.
    :param completed_at: When all parts were declared complete.
    """

    file_id: str
    upload_id: str
    client_id: str
    filetype: str
    size: int
    begun_at: float
    key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    etags: dict[int, str] = field(default_factory=dict)
    puts: dict[int, int] = field(default_factory=dict)
    completed_at: float | None = None

    @property
    def parts(self) -> int:
        """How many parts it has."""
        return -(-self.size // PART_BYTES)

    def part_size(self, number: int) -> int:
        """Return how many bytes a part has."""
        return min(PART_BYTES, self.size - (number - 1) * PART_BYTES)

    def view(self) -> dict[str, Any]:
        """Return it as JSON values, without anything secret."""
        return {
            "file_id": self.file_id,
            "client_id": self.client_id,
            "filetype": self.filetype,
            "bytes": self.size,
            "parts": self.parts,
            "arrived": len(self.etags),
            "puts": dict(sorted(self.puts.items())),
            "completed": self.completed_at is not None,
        }


class UploadBook:
    """
    The uploads of one emulator.

    :param clock: Returns the emulator's clock.
    :param max_bytes: What one file may have.
    """

    def __init__(self, clock: Callable[[], Clock], *, max_bytes: int) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._uploads: dict[str, Upload] = {}
        self._users: dict[str, tuple[str, float]] = {}
        self._folder: Path | None = None

    def _now(self) -> float:
        return self._clock().now()

    def owner(self, user_token: str) -> str | None:
        """Return the client whose user a token is or was for."""
        return self._users.get(user_token, (None, 0.0))[0]

    def is_valid(self, user_token: str) -> bool:
        """Whether a user token was issued here and has not expired."""
        return user_token in self._users and self._now() < self._users[user_token][1]

    def expire_user_tokens(self) -> None:
        """Let all user tokens expire."""
        self._users = {token: (client_id, self._now()) for token, (client_id, _) in self._users.items()}

    def view(self) -> list[dict[str, Any]]:
        """Return every upload as JSON values."""
        with self._lock:
            return [upload.view() for upload in self._uploads.values()]

    def close(self) -> None:
        """Remove all files."""
        with self._lock:
            folder, self._folder = self._folder, None
            self._uploads.clear()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def answer(self, request: Request, client_id: str) -> Answer:
        """Answer a call of the API whose token is valid."""
        body = _json(request)
        if body is None:
            return _refusal("INVALID_BODY")
        match request.kind:
            case "user_token":
                return self._user_token(body, client_id)
            case "upload_urls":
                return self._begin(body, client_id, request.headers.get("host", ""))
        return self._complete(body, client_id, request.headers.get("host", ""))

    def answer_storage(self, request: Request) -> Answer:
        """Answer a request for a part or a file: its URL is all that it needs."""
        found = _PART_PATH.fullmatch(request.path) or _FILE_PATH.fullmatch(request.path)
        with self._lock:
            upload = self._uploads.get(found["id"]) if found else None
        if found is None or upload is None:
            return _storage_error(404, "NoSuchKey")
        if "authorization" in request.headers:
            return _storage_error(400, "InvalidArgument")
        is_part = "number" in found.groupdict()
        given = parse_qs(request.query).get("X-Amz-Signature", [""])[0]
        signed_at = upload.begun_at if is_part else upload.completed_at
        if signed_at is None or not secrets.compare_digest(given.encode(), _signature(upload, request.path)):
            return _storage_error(403, "SignatureDoesNotMatch")
        if self._now() >= signed_at + URL_SECONDS:
            return _storage_error(403, "AccessDenied")
        if is_part:
            return self._take(request, upload, int(found["number"]))
        if request.method not in ("GET", "HEAD"):
            return _storage_error(405, "MethodNotAllowed")
        return Answer(200, self._file(upload).read_bytes(), {"content-type": "application/octet-stream"})

    def _user_token(self, body: dict[str, Any], client_id: str) -> Answer:
        user_id, seconds = body.get("user_id"), body.get("expires_in", URL_SECONDS)
        if not isinstance(user_id, str) or not 6 <= len(user_id) <= 120:
            return _refusal("USER_ID_INVALID")
        if not isinstance(seconds, int) or isinstance(seconds, bool) or seconds <= 0:
            return _refusal("EXPIRES_IN_INVALID")
        token = f"ust_{secrets.token_urlsafe(32)}"
        self._users[token] = (client_id, self._now() + seconds)
        payload = {"access_token": token, "token_type": "bearer", "expires_in": seconds}
        return json_answer(200, payload, headers={"cache-control": "no-store"})

    def _begin(self, body: dict[str, Any], client_id: str, host: str) -> Answer:
        size, filetype = body.get("filesize"), body.get("filetype")
        if filetype not in FILE_TYPES:
            return _refusal("FILE_TYPE_INVALID")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= self._max_bytes:
            return _refusal("FILE_SIZE_INVALID")
        # Its path ends with a part's number: an order for that part's faults ("/2") is for no other one.
        file_id = f"file_{secrets.token_hex(16)}"
        upload = Upload(file_id, secrets.token_hex(24), client_id, filetype, size, self._now())
        with self._lock:
            # Now, as several parts may be the first to come.
            self._directory()
            self._uploads[upload.file_id] = upload
            self._make_room()
        parts = [
            {
                "PartNumber": number,
                "PresignedUrl": self._signed(
                    upload, host, f"{STORAGE_PREFIX}{upload.file_id}/{number}", upload.begun_at
                ),
            }
            for number in range(1, upload.parts + 1)
        ]
        return json_answer(
            200,
            {"FileId": upload.file_id, "UploadId": upload.upload_id, "ChunkSize": PART_BYTES, "Parts": parts},
        )

    def _take(self, request: Request, upload: Upload, number: int) -> Answer:
        if request.method != "PUT":
            return _storage_error(405, "MethodNotAllowed")
        if upload.completed_at is not None or not 1 <= number <= upload.parts:
            return _storage_error(404, "NoSuchUpload")
        with self._lock:
            upload.puts[number] = upload.puts.get(number, 0) + 1
        if len(request.body) != upload.part_size(number):
            return _storage_error(400, "EntityTooSmall")
        etag = hashlib.md5(request.body, usedforsecurity=False).hexdigest()
        self._part(upload, number).write_bytes(request.body)
        with self._lock:
            upload.etags[number] = etag
        return Answer(200, b"", {"etag": f'"{etag}"'})

    def _complete(self, body: dict[str, Any], client_id: str, host: str) -> Answer:
        with self._lock:
            upload = self._uploads.get(str(body.get("file_id")))
        if upload is None or upload.client_id != client_id or upload.upload_id != body.get("upload_id"):
            return _refusal("UPLOAD_NOT_FOUND", 404)
        if upload.completed_at is not None:
            return _refusal("UPLOAD_COMPLETED")
        if body.get("filetype") != upload.filetype:
            return _refusal("FILE_TYPE_INVALID")
        listed = body.get("part_list")
        given = {
            part.get("PartNumber"): str(part.get("ETag")).strip('"')
            for part in (listed if isinstance(listed, list) else [])
            if isinstance(part, dict)
        }
        if len(upload.etags) != upload.parts or given != upload.etags:
            return _refusal("INVALID_PART")
        return self._put_together(upload, body.get("file_md5"), host)

    def _put_together(self, upload: Upload, expected_md5: object, host: str) -> Answer:
        path = self._file(upload)
        md5 = hashlib.md5(usedforsecurity=False)
        with path.open("wb") as file:
            for number in range(1, upload.parts + 1):
                content = self._part(upload, number).read_bytes()
                if number == 1 and content.startswith(b"RIFF"):
                    # Whatever it was called.
                    return _refusal("FILE_TYPE_INVALID")
                md5.update(content)
                file.write(content)
        if expected_md5 not in (None, md5.hexdigest()):
            return _refusal("FILE_MD5_MISMATCH")
        for number in range(1, upload.parts + 1):
            self._part(upload, number).unlink()
        upload.completed_at = self._now()
        url = self._signed(upload, host, f"{STORAGE_PREFIX}{path.name}", upload.completed_at)
        return json_answer(
            200,
            {
                "FileId": upload.file_id,
                "FileType": upload.filetype,
                "DownloadUrl": url,
                "FileMd5": md5.hexdigest(),
            },
        )

    def _signed(self, upload: Upload, host: str, path: str, begins_at: float) -> str:
        query = {
            "X-Amz-Date": self._clock().utc(begins_at).strftime("%Y%m%dT%H%M%SZ"),
            "X-Amz-Expires": str(URL_SECONDS),
            "X-Amz-Signature": _signature(upload, path).decode(),
        }
        return f"http://{host}{path}?{urlencode(query)}"

    def _make_room(self) -> None:
        """Forget the oldest uploads while there is more than may be kept."""
        total = sum(upload.size for upload in self._uploads.values())
        for file_id, upload in list(self._uploads.items())[:-1]:
            if total <= KEPT_BYTES:
                return
            total -= upload.size
            del self._uploads[file_id]
            for path in [self._file(upload), *(self._part(upload, number) for number in upload.etags)]:
                with suppress(FileNotFoundError):
                    path.unlink()

    def _file(self, upload: Upload) -> Path:
        return self._directory() / f"{upload.file_id}.{upload.filetype}"

    def _part(self, upload: Upload, number: int) -> Path:
        return self._directory() / f"{upload.file_id}.{number}.part"

    def _directory(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="plaud-emulator-"))
        return self._folder


def _signature(upload: Upload, path: str) -> bytes:
    return hashlib.sha256(f"{upload.key}\n{path}".encode()).hexdigest().encode()


def _json(request: Request) -> dict[str, Any] | None:
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) and request.media_type == "application/json" else None


def _refusal(word: str, status: int = 400) -> Answer:
    return json_answer(status, {"detail": word})


def _storage_error(status: int, code: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode()
    return Answer(status, body, {"content-type": "application/xml"})
