"""A real emulator, its clock standing still, and a small client of its own."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from plaud_provider.emulator.server import EmulatorServer
from plaud_provider.emulator.settings import Settings

RECORDINGS = Path(__file__).parents[3] / "demo" / "recordings"
EXCHANGE = "/oauth/partner/access-token"
REFRESH = "/oauth/partner/access-token/refresh"
TRANSCRIPTIONS = "/open/partner/ai/transcriptions/"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Client:
    """Speaks to an emulator as its contract says, with whatever a test wants to be wrong."""

    def __init__(self, emulator: EmulatorServer) -> None:
        self.emulator = emulator
        self.credentials = ("demo-client", "demo-secret-key")
        self.token = ""
        self._session = requests.Session()
        self._session.trust_env = False

    def close(self) -> None:
        self._session.close()

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", 10)
        options.setdefault("allow_redirects", False)
        return self._session.request(method, self.emulator.url + path, **options)

    def exchange(self, **options: Any) -> requests.Response:
        return self.request("POST", EXCHANGE, auth=self.credentials, headers=FORM, **options)

    def refresh(self, refresh_token: str, **options: Any) -> requests.Response:
        form = {"refresh_token": refresh_token}
        return self.request("POST", REFRESH, auth=self.credentials, headers=FORM, data=form, **options)

    def sign_in(self) -> Client:
        self.token = self.exchange().json()["access_token"]
        return self

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def submit(self, audio_url: str | None = None, **fields: Any) -> requests.Response:
        body = {"audioUrl": audio_url or self.emulator.sign("voicemail.wav"), **fields}
        return self.request("POST", TRANSCRIPTIONS, headers=self.bearer, json=body)

    def submitted(self, audio_url: str | None = None, **fields: Any) -> str:
        return str(self.submit(audio_url, **fields).json()["transcriptionId"])

    def get(self, transcription_id: str, **options: Any) -> requests.Response:
        return self.request("GET", TRANSCRIPTIONS + transcription_id, headers=self.bearer, **options)

    def transcribed(self, path: str, **fields: Any) -> dict[str, Any]:
        """Submit a file of the store, let enough time pass, and return the result."""
        transcription_id = self.submitted(self.emulator.sign(path), **fields)
        self.emulator.advance(3600)
        return dict(self.get(transcription_id).json())

    def admin(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.request(method, f"/_emulator/{path}", **options)

    def raw(self, method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> bytes:
        """Send a request over a bare connection and return every byte of the answer, up to its end."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: emulator\r\nAuthorization: Bearer {self.token}\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        with socket.create_connection((self.emulator.host, self.emulator.port), timeout=10) as connection:
            connection.sendall(head.encode() + body)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        return received


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the demo's recordings and some files that are none."""
    folder = tmp_path_factory.mktemp("outside") / "store"
    (folder / "nested").mkdir(parents=True)
    for recording in RECORDINGS.iterdir():
        if recording.suffix in (".wav", ".mp3", ".m4a"):
            shutil.copy(recording, folder)
    shutil.copy(RECORDINGS / "voicemail.wav", folder / "nested" / "grüße & mehr.wav")
    wav = (RECORDINGS / "voicemail.wav").read_bytes()
    (folder / "empty.wav").write_bytes(b"")
    (folder / "renamed.mp3").write_text("This is a letter, not a recording. " * 40)
    (folder / "page.m4a").write_text("<html><body>Not found</body></html>")
    (folder / "header-only.wav").write_bytes(wav[:24])
    (folder / "truncated.m4a").write_bytes((RECORDINGS / "standup-memo.m4a").read_bytes()[:4000])
    (folder / "tag-only.mp3").write_bytes(b"ID3\x04\x00\x00\x00\x00\x00\x0a" + b"\x00" * 10 + b"words " * 50)
    # Another recording than the demo's, so no transcript is known.
    (folder / "unknown.wav").write_bytes(wav[:44] + b"\x01\x00" * ((len(wav) - 44) // 2))
    (folder.parent / "outside.txt").write_text("outside of the store")
    (folder / "link.wav").symlink_to(folder.parent / "outside.txt")
    return folder


@pytest.fixture(scope="session")
def _shared(store_folder: Path) -> Iterator[EmulatorServer]:
    settings = Settings(
        speed=0, transcripts=(RECORDINGS,), store=store_folder, store_key="a-key-of-the-tests"
    )
    with EmulatorServer(settings) as emulator:
        yield emulator


@pytest.fixture
def emulator(_shared: EmulatorServer) -> EmulatorServer:
    """An emulator as if just started; its clock moves only when it is advanced."""
    _shared.reset()
    return _shared


@pytest.fixture
def client(emulator: EmulatorServer) -> Iterator[Client]:
    """A client of it that is signed in."""
    client = Client(emulator)
    yield client.sign_in()
    client.close()


@pytest.fixture
def start(store_folder: Path) -> Iterator[Callable[..., Client]]:
    """Start an emulator with settings of its own; returns a client of it that is not signed in."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Client:
            emulator = stack.enter_context(
                EmulatorServer(Settings(**{"speed": 0, "store": store_folder, **settings}))
            )
            client = Client(emulator)
            stack.callback(client.close)
            return client

        yield start
