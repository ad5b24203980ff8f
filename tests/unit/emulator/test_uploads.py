"""Uploads as Plaud describes them, and what their calls refuse."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from plaud_provider.emulator.uploads import PART_BYTES
from tests.unit.emulator.conftest import RECORDINGS, Client

USER = "/open/partner/users/access-token"
BEGIN = "/open/partner/files/upload/generate-presigned-urls"
COMPLETE = "/open/partner/files/upload/complete-upload"
MP3 = (RECORDINGS / "interview.mp3").read_bytes()


class Uploader:
    """Speaks the calls of an upload, with whatever a test wants to be wrong."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.token = self.user().json()["access_token"]

    def user(self, user_id: str = "somebody", **fields: Any) -> requests.Response:
        body = {"user_id": user_id, "expires_in": 86400, **fields}
        return self.client.request("POST", USER, headers=self.client.bearer, json=body)

    def call(self, path: str, body: dict[str, Any]) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return self.client.request("POST", path, headers=headers, json=body)

    def begin(self, size: int, filetype: str = "mp3") -> requests.Response:
        return self.call(BEGIN, {"filesize": size, "filetype": filetype})

    def complete(self, begun: dict[str, Any], etags: list[str], **fields: Any) -> requests.Response:
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        body = {"file_id": begun["FileId"], "upload_id": begun["UploadId"], "part_list": parts}
        return self.call(COMPLETE, {**body, "filetype": "mp3", **fields})

    def upload(self, content: bytes) -> dict[str, Any]:
        begun = self.begin(len(content)).json()
        etags = [put(one, content, number).headers["ETag"] for number, one in enumerate(begun["Parts"])]
        return dict(self.complete(begun, etags).json())


def put(part: dict[str, Any], content: bytes, number: int = 0, **options: Any) -> requests.Response:
    some = content[number * PART_BYTES : (number + 1) * PART_BYTES]
    return requests.put(part["PresignedUrl"], data=some, timeout=10, **options)


@pytest.fixture
def uploader(client: Client) -> Uploader:
    return Uploader(client)


def test_what_is_uploaded_in_parts_is_fetched_as_one(uploader: Uploader) -> None:
    content = MP3 + bytes(2 * PART_BYTES)

    done = uploader.upload(content)

    assert done["FileType"] == "mp3"
    assert done["FileMd5"] == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert requests.get(done["DownloadUrl"], timeout=10).content == content
    assert uploader.client.emulator.uploads() == [
        {
            "file_id": done["FileId"],
            "client_id": "demo-client",
            "filetype": "mp3",
            "bytes": len(content),
            "parts": 3,
            "arrived": 3,
            "puts": {1: 1, 2: 1, 3: 1},
            "completed": True,
        }
    ]


def test_parts_that_come_at_once_belong_together(uploader: Uploader, monkeypatch: pytest.MonkeyPatch) -> None:
    make = tempfile.mkdtemp

    def make_slowly(**options: Any) -> str:
        # Longer than the parts are apart.
        time.sleep(0.3)
        return make(**options)

    monkeypatch.setattr(tempfile, "mkdtemp", make_slowly)
    content = MP3 + bytes(2 * PART_BYTES)
    begun = uploader.begin(len(content)).json()
    with ThreadPoolExecutor(3) as pool:
        put_one = pool.map(lambda number: put(begun["Parts"][number], content, number), range(3))
        etags = [answer.headers["ETag"] for answer in put_one]

    assert uploader.complete(begun, etags).status_code == 200


def test_what_is_uploaded_is_transcribed(uploader: Uploader) -> None:
    url = uploader.upload(MP3)["DownloadUrl"]

    transcription_id = uploader.client.submitted(url)
    uploader.client.emulator.advance(3600)

    assert uploader.client.get(transcription_id).json()["status"] == "completed"


@pytest.mark.parametrize("what", ["part", "file"])
def test_a_url_ends_after_a_day(uploader: Uploader, what: str) -> None:
    url = (
        uploader.begin(3).json()["Parts"][0]["PresignedUrl"]
        if what == "part"
        else uploader.upload(MP3)["DownloadUrl"]
    )
    method, data = ("PUT", b"abc") if what == "part" else ("GET", None)

    uploader.client.emulator.advance(86_399)
    assert requests.request(method, url, data=data, timeout=10).status_code == 200
    uploader.client.emulator.advance(1)
    assert requests.request(method, url, data=data, timeout=10).status_code == 403


@pytest.mark.parametrize("filetype", ["wav", "flac", "", None])
def test_only_some_types_are_taken(uploader: Uploader, filetype: Any) -> None:
    answer = uploader.begin(100, filetype)

    assert (answer.status_code, answer.json()) == (400, {"detail": "FILE_TYPE_INVALID"})


def test_a_wav_by_another_name_is_none_either(uploader: Uploader) -> None:
    assert uploader.upload((RECORDINGS / "voicemail.wav").read_bytes()) == {"detail": "FILE_TYPE_INVALID"}


@pytest.mark.parametrize(
    ("etags", "fields", "word"),
    [
        (['"wrong"'], {}, "INVALID_PART"),
        ([], {}, "INVALID_PART"),
        (None, {"file_md5": "0" * 32}, "FILE_MD5_MISMATCH"),
        (None, {"filetype": "opus"}, "FILE_TYPE_INVALID"),
        (None, {"upload_id": "another"}, "UPLOAD_NOT_FOUND"),
        (None, {"file_id": "another"}, "UPLOAD_NOT_FOUND"),
    ],
)
def test_what_does_not_fit_together_is_not_completed(
    uploader: Uploader, etags: list[str] | None, fields: dict[str, Any], word: str
) -> None:
    begun = uploader.begin(len(MP3)).json()
    etag = put(begun["Parts"][0], MP3).headers["ETag"]

    assert uploader.complete(begun, [etag] if etags is None else etags, **fields).json() == {"detail": word}
    assert uploader.client.emulator.uploads()[0]["completed"] is False


def test_a_part_has_its_size_and_carries_no_token(uploader: Uploader) -> None:
    [part] = uploader.begin(len(MP3)).json()["Parts"]

    assert put(part, MP3[:-1]).status_code == 400
    assert put(part, MP3, headers=uploader.client.bearer).status_code == 400
    assert put({"PresignedUrl": part["PresignedUrl"][:-1]}, MP3).status_code == 403
    assert put(part, MP3).status_code == 200


def test_each_token_is_for_its_own_calls(uploader: Uploader) -> None:
    user, uploader.token = uploader.token, uploader.client.token
    assert uploader.begin(3).status_code == 401
    uploader.client.token = user
    assert uploader.user().status_code == 401
    assert uploader.client.submit().status_code == 401


@pytest.mark.parametrize("fields", [{"user_id": "short"}, {"user_id": "x" * 121}, {"expires_in": 0}])
def test_a_user_has_a_name_of_6_to_120_characters(uploader: Uploader, fields: dict[str, Any]) -> None:
    assert uploader.user(**fields).status_code == 400


def test_a_user_token_ends(uploader: Uploader) -> None:
    uploader.client.emulator.advance(86_400)

    assert uploader.begin(3).status_code == 401


def test_its_calls_count_towards_the_requests_of_a_minute(start: Callable[..., Client]) -> None:
    uploader = Uploader(start(request_limit=2).sign_in())

    assert [uploader.begin(3).status_code for _ in range(2)] == [200, 429]


def test_faults_can_be_ordered_for_parts(uploader: Uploader) -> None:
    emulator, match = uploader.client.emulator, {"kind": "upload_storage", "method": "PUT"}
    emulator.inject({"match": match, "action": "status", "status": 500})
    emulator.inject({"match": match, "action": "drop_after"})
    wrong = {"status": 200, "headers": {"ETag": '"wrong"'}, "run_handler": True}
    emulator.inject({"match": match, "action": "status", **wrong})
    [part] = uploader.begin(len(MP3)).json()["Parts"]

    assert put(part, MP3).status_code == 500
    with pytest.raises(requests.ConnectionError):
        put(part, MP3)
    assert put(part, MP3).headers["ETag"] == '"wrong"'
    assert put(part, MP3).status_code == 200
    assert emulator.uploads()[0]["puts"] == {1: 3}


def test_no_secret_of_an_upload_is_in_the_record(uploader: Uploader) -> None:
    url = uploader.upload(MP3)["DownloadUrl"]
    signature = url.rpartition("=")[2]

    shown = str([uploader.client.emulator.ledger(), uploader.client.emulator.uploads()])
    assert signature not in shown
    assert uploader.token not in shown
