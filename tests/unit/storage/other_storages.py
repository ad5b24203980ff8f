"""A small storage of ours that speaks as much of Google's and Azure's languages as their libraries need."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

AUDIO = b"RIFF a recording"
ACCOUNT_KEY = base64.b64encode(b"account-key-canary" * 3).decode()


def escaped(name: str) -> str:
    return escape(name, {"\r": "&#13;"})


class Storage(BaseHTTPRequestHandler):
    """As much of both services as listing, looking, reading, writing and removing take."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]
    folders: set[str]
    status: int
    generation: str
    has_md5: bool
    tier: str
    read_refusal: tuple[int, str] | None
    page_size: int
    queries: list[dict[str, list[str]]]

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        if self.status != 200 or not url.path.startswith("/upload/"):
            self.answer_json({"access_token": "token", "expires_in": 3600, "token_type": "Bearer"})
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        boundary = b"--" + body.partition(b"\n")[0].strip().removeprefix(b"--")
        described, content = (part.partition(b"\n\n")[2] for part in body.split(boundary)[1:3])
        self.objects[json.loads(described)["name"]] = content.removesuffix(b"\n")
        self.answer_json({"name": "uploaded"}, is_read=True)

    def do_PUT(self) -> None:
        self.objects[self.azure_key()] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(self.status if self.status != 200 else 201, b"", self.described(b""), is_read=True)

    def do_DELETE(self) -> None:
        key = unquote(self.path.rpartition("/")[2]) if self.path.startswith("/storage/") else self.azure_key()
        found = self.objects.pop(key, None)
        self.answer(404 if found is None else 202, b"", {"x-ms-error-code": "BlobNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        self.queries.append(query)
        if self.status != 200:
            self.answer(self.status, b"")
        elif url.path.startswith("/storage/v1/b/calls/o/"):
            self.google_object(unquote(url.path.rpartition("/")[2]))
        elif url.path == "/storage/v1/b/calls/o":
            self.google_page(query)
        elif url.path.startswith("/storage/v1/"):
            self.answer(404, b"Not Found")
        elif "restype" in query:
            self.azure_page(url.path, query)
        elif url.path.startswith("/download/"):
            self.content(unquote(url.path.rpartition("/o/")[2]))
        elif url.path.startswith("/account/"):
            self.content(self.azure_key())
        else:
            self.content(unquote(url.path).removeprefix("/calls/"))

    def azure_key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/account/calls/")

    def page(self, query: dict[str, list[str]], mark: str) -> tuple[list[str], list[str], str]:
        """Return keys, prefixes, and where the next page begins."""
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        names = set()
        for key in self.objects:
            if key.startswith(prefix):
                rest = key[len(prefix) :]
                is_below = delimiter and delimiter in rest
                names.add(prefix + rest.partition("/")[0] + "/" if is_below else key)
        begin = int(query.get(mark, ["0"])[0])
        end = begin + self.page_size
        names_here = sorted(names, key=str.encode)[begin:end]
        following = str(end) if end < len(names) else ""
        return (
            [name for name in names_here if name in self.objects],
            [name for name in names_here if name not in self.objects],
            following,
        )

    def google_page(self, query: dict[str, list[str]]) -> None:
        keys, prefixes, following = self.page(query, "pageToken")
        page: dict[str, Any] = {"items": [self.google_described(key) for key in keys], "prefixes": prefixes}
        self.answer_json({**page, "nextPageToken": following} if following else page)

    def google_described(self, key: str) -> dict[str, str]:
        content = self.objects[key]
        described = {"name": key, "bucket": "calls", "size": str(len(content)), "contentType": "audio/wav"}
        if self.has_md5:
            described["md5Hash"] = base64.b64encode(hashlib.md5(content).digest()).decode()
        return {**described, "generation": self.generation, "updated": "2026-11-22T00:00:00.000Z"}

    def google_object(self, key: str) -> None:
        if key in self.objects:
            self.answer_json(self.google_described(key))
        else:
            self.answer(404, b"Not Found")

    def azure_page(self, path: str, query: dict[str, list[str]]) -> None:
        if path != "/account/calls":
            self.answer(404, b"", {"x-ms-error-code": "ContainerNotFound"})
            return
        keys, prefixes, following = self.page(query, "marker")
        blobs = "".join(
            f"<Blob><Name>{escaped(key)}</Name><Properties>{self.azure_properties(key)}</Properties>"
            f"<Metadata>{'<Hdi_isfolder>true</Hdi_isfolder>' * (key in self.folders)}</Metadata></Blob>"
            for key in keys
        )
        blobs += "".join(f"<BlobPrefix><Name>{escaped(name)}</Name></BlobPrefix>" for name in prefixes)
        body = (
            f"<?xml version='1.0' encoding='utf-8'?><EnumerationResults><Blobs>{blobs}</Blobs>"
            f"<NextMarker>{following}</NextMarker></EnumerationResults>"
        )
        self.answer(200, body.encode(), {"Content-Type": "application/xml"})

    def azure_properties(self, key: str) -> str:
        described = self.described(self.objects[key])
        described["Etag"] = described.pop("ETag").strip('"')
        described["Content-Length"] = str(len(self.objects[key]))
        described["BlobType"] = "BlockBlob"
        return "".join(f"<{name}>{value}</{name}>" for name, value in described.items())

    def described(self, content: bytes) -> dict[str, str]:
        headers = {"ETag": f'"0x{self.generation}"', "Last-Modified": "Sun, 22 Nov 2026 00:00:00 GMT"}
        if self.has_md5:
            headers["Content-MD5"] = base64.b64encode(hashlib.md5(content).digest()).decode()
        if self.tier:
            headers["x-ms-access-tier"] = self.tier
        return headers

    def content(self, key: str) -> None:
        content = self.objects.get(key)
        if content is None:
            self.answer(404, b"", {"x-ms-error-code": "BlobNotFound"})
            return
        headers = {
            **self.described(content),
            "x-ms-blob-type": "BlockBlob",
            "Content-Type": "audio/wav",
            **({"x-ms-meta-hdi_isfolder": "true"} if key in self.folders else {}),
        }
        if self.read_refusal and self.command == "GET":
            self.answer(self.read_refusal[0], b"", {"x-ms-error-code": self.read_refusal[1]})
            return
        asked = self.headers.get("x-ms-range") or self.headers.get("Range")
        if asked and content:
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            part = content[int(begin) : int(end) + 1]
            headers["Content-Range"] = f"bytes {begin}-{int(begin) + len(part) - 1}/{len(content)}"
            headers.pop("Content-MD5", None)
            self.answer(206, part, headers)
        else:
            self.answer(200, content, headers)

    def answer_json(self, value: object, *, is_read: bool = False) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, is_read=is_read)

    def answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, *, is_read: bool = False
    ) -> None:
        if not is_read:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def storage() -> Iterator[tuple[str, type[Storage]]]:
    class Handler(Storage):
        objects = {"2024/a b#1.wav": AUDIO, "empty.wav": b""}
        folders: set[str] = set()
        status = 200
        generation = "1"
        has_md5 = True
        tier = ""
        read_refusal = None
        page_size = 1000
        queries: list[dict[str, list[str]]] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def service_account() -> dict[str, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "id",
        "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "client_email": "plaud@project.iam.gserviceaccount.com",
        "client_id": "1",
    }


@pytest.fixture
def gcs(
    storage: tuple[str, type[Storage]], service_account: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Airflow's Google provider is a gigabyte, so gcsfs is opened here as it would open it."""

    def open_with(token: Any = None) -> None:
        # Its extension asks for the kind of bucket over gRPC first, which nobody answers here.
        from gcsfs.core import GCSFileSystem
        from google.oauth2.service_account import Credentials

        url, _ = storage
        token = token or Credentials.from_service_account_info(
            {**service_account, "token_uri": f"{url}/token"},
            scopes=["https://www.googleapis.com/auth/devstorage.read_only"],
        )
        file_system = GCSFileSystem(
            project="project", token=token, endpoint_url=url, skip_instance_cache=True
        )
        monkeypatch.setattr("airflow.sdk.io.has_fs", lambda scheme: scheme == "gs")
        monkeypatch.setattr("airflow.sdk.io.get_fs", lambda *args: file_system)

    open_with()
    return open_with


@pytest.fixture
def azure(storage: tuple[str, type[Storage]], monkeypatch: pytest.MonkeyPatch) -> None:
    url, _ = storage
    connection_string = (
        f"DefaultEndpointsProtocol=http;AccountName=account;AccountKey={ACCOUNT_KEY};"
        f"BlobEndpoint={url}/account"
    )
    connection = {"conn_type": "wasb", "extra": {"connection_string": connection_string}}
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_CALLS", json.dumps(connection))
