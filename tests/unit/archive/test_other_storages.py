"""gs:// and abfs:// with their real libraries, which sign by themselves, against a small storage of ours."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from plaud_provider.archive.reference import AudioReference
from plaud_provider.archive.signing import AudioSource, audio_source
from plaud_provider.exceptions import PlaudConfigurationError, PlaudInputError

AUDIO = b"RIFF a recording"
ACCOUNT_KEY = base64.b64encode(b"account-key-canary" * 3).decode()


class Storage(BaseHTTPRequestHandler):
    """As much of both services as looking at an object and fetching it takes."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]
    status: int
    generation: str

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        self.answer_json({"access_token": "token", "expires_in": 3600, "token_type": "Bearer"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if self.status != 200:
            self.answer(self.status, b"")
        elif url.path.startswith("/storage/v1/b/calls/o/"):
            self.google_object(unquote(url.path.rpartition("/")[2]))
        elif url.path.startswith("/storage/v1/"):
            self.answer_json({"items": [], "prefixes": []})
        elif "restype" in parse_qs(url.query):
            empty = b"<?xml version='1.0'?><EnumerationResults><Blobs/><NextMarker/></EnumerationResults>"
            self.answer(200, empty, {"Content-Type": "application/xml"})
        else:
            self.content(
                unquote(url.path).removeprefix("/download/storage/v1/b/calls/o").rpartition("/calls/")
            )

    def google_object(self, key: str) -> None:
        if key not in self.objects:
            self.answer(404, b"Not Found")
            return
        content = self.objects[key]
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        described = {"name": key, "bucket": "calls", "size": str(len(content)), "contentType": "audio/wav"}
        self.answer_json({**described, "md5Hash": md5, "generation": self.generation, "etag": "x"})

    def content(self, path: tuple[str, str, str]) -> None:
        content = self.objects.get((path[2] or path[0]).lstrip("/"))
        if content is None:
            self.answer(404, b"", {"x-ms-error-code": "BlobNotFound"})
            return
        headers = {
            "ETag": f'"0x{self.generation}"',
            "x-ms-blob-type": "BlockBlob",
            "Last-Modified": "Sun, 22 Nov 2026 00:00:00 GMT",
            "Content-Type": "audio/wav",
        }
        asked = self.headers.get("x-ms-range") or self.headers.get("Range")
        if asked:
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            part = content[int(begin) : int(end) + 1]
            headers["Content-Range"] = f"bytes {begin}-{int(begin) + len(part) - 1}/{len(content)}"
            self.answer(206, part, headers)
        else:
            self.answer(200, content, headers)

    def answer_json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
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
        status = 200
        generation = "1"

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


def source(reference: str) -> AudioSource:
    return audio_source(AudioReference(reference), url_validity=timedelta(hours=6), public_urls={})


STORAGES = [("gcs", "gs://calls"), ("azure", "abfs://azure_calls@calls")]


@pytest.mark.parametrize(("fixture", "bucket"), STORAGES)
def test_an_object_is_looked_up_and_signed(fixture: str, bucket: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(fixture)
    recording = source(f"{bucket}/2024/a b#1.wav")

    assert recording.look()
    url = recording.url().reveal()
    assert requests.get(url, timeout=10).content == AUDIO
    query = parse_qs(urlsplit(url).query)
    if fixture == "gcs":
        assert query["X-Goog-Algorithm"] == ["GOOG4-RSA-SHA256"]
        assert query["X-Goog-Expires"] == ["21600"]
    else:
        assert query["sp"] == ["r"]
        assert query["sr"] == ["b"]


@pytest.mark.parametrize(("fixture", "bucket"), STORAGES)
def test_what_plaud_could_not_fetch_is_told(
    fixture: str, bucket: str, request: pytest.FixtureRequest, storage: tuple[str, type[Storage]]
) -> None:
    request.getfixturevalue(fixture)

    with pytest.raises(PlaudInputError, match="does not exist"):
        source(f"{bucket}/no.wav").look()
    with pytest.raises(PlaudInputError, match="is empty"):
        source(f"{bucket}/empty.wav").look()
    storage[1].status = 403
    with pytest.raises(PlaudConfigurationError, match="may not be looked up"):
        source(f"{bucket}/2024/a b#1.wav").look()


def test_the_version_of_a_google_object_is_its_hash(
    gcs: Callable[..., None], storage: tuple[str, type[Storage]]
) -> None:
    first = source("gs://calls/2024/a b#1.wav").look()
    storage[1].generation = "2"
    gcs()

    assert source("gs://calls/2024/a b#1.wav").look() == first


def test_google_credentials_that_cannot_sign_are_told(gcs: Callable[..., None]) -> None:
    from google.oauth2.credentials import Credentials

    gcs(Credentials("user-token"))

    with pytest.raises(PlaudConfigurationError, match=r"could not be signed.*needs a service account key"):
        source("gs://calls/2024/a b#1.wav").url()


def test_azure_without_the_account_key_is_told(
    storage: tuple[str, type[Storage]], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "wasb", "extra": {"account_name": "account", "sas_token": "sv=1&sig=canary"}}
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_SAS", json.dumps(connection))

    with pytest.raises(PlaudConfigurationError, match=r"could not be signed.*account's name") as refused:
        source("abfs://azure_sas@calls/a.wav").url()
    assert "canary" not in str(refused.value)


def test_azure_without_a_connection_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlaudConfigurationError, match=r"default credentials did not lead.*account's name"):
        source("abfs://calls/a.wav").look()


def test_azures_own_form_needs_the_account_that_it_names(azure: None) -> None:
    here = "abfss://azure_calls@calls@account.dfs.core.windows.net/2024/a b#1.wav"
    elsewhere = "abfss://azure_calls@calls@other.dfs.core.windows.net/2024/a b#1.wav"

    assert source(here).look()
    with pytest.raises(PlaudConfigurationError, match="account 'other', but connection 'azure_calls'"):
        source(elsewhere).look()
