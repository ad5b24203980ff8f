from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
import requests


def fetch(url: str, method: str = "GET") -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, timeout=10)


def test_a_signed_url_serves_the_file(emulator, store_folder):
    answer = fetch(emulator.sign("interview.mp3"))
    assert answer.status_code == 200
    assert answer.content == (store_folder / "interview.mp3").read_bytes()
    assert answer.headers["Content-Type"] == "audio/mpeg"


def test_the_signature_has_the_names_of_s3(emulator):
    query = emulator.sign("voicemail.wav", expires=60).partition("?")[2]
    names = [pair.partition("=")[0] for pair in query.split("&")]
    assert names == ["X-Amz-Date", "X-Amz-Expires", "X-Amz-Signature"]


def test_a_path_with_spaces_and_umlauts_is_served(emulator):
    assert fetch(emulator.sign("nested/grüße & mehr.wav")).status_code == 200


def test_head_is_answered_without_a_body(emulator, store_folder):
    answer = fetch(emulator.sign("voicemail.wav"), "HEAD")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["Content-Length"]) == (store_folder / "voicemail.wav").stat().st_size


def test_an_expired_url_is_refused(emulator):
    long_ago = datetime.now(UTC) - timedelta(seconds=61)
    answer = fetch(emulator.url + emulator.state.sign("voicemail.wav", 60, at=long_ago))
    assert answer.status_code == 403
    assert "expired" in answer.text


def test_a_url_signed_for_later_is_refused(emulator):
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert fetch(emulator.url + emulator.state.sign("voicemail.wav", 60, at=tomorrow)).status_code == 403


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("X-Amz-Expires=60", "X-Amz-Expires=6000"),
        ("voicemail.wav", "interview.mp3"),
        ("X-Amz-Signature=", "X-Amz-Signature=0"),
        ("X-Amz-Signature", "X-Amz-Other"),
        ("X-Amz-Date=2", "X-Amz-Date=3"),
    ],
)
def test_a_tampered_url_is_refused(emulator, old, new):
    url = emulator.sign("voicemail.wav", expires=60)
    assert old in url
    assert fetch(url.replace(old, new)).status_code == 403


def test_no_signature_is_refused(emulator):
    assert fetch(f"{emulator.url}/store/voicemail.wav").status_code == 403


@pytest.mark.parametrize(
    "path", ["../outside.txt", "nested/../../outside.txt", "/etc/hostname", "link.wav", "."]
)
def test_nothing_outside_the_folder_is_signed_for(client, path):
    assert client.admin("POST", "sign", json={"path": path}).status_code == 404


@pytest.mark.parametrize("path", ["../outside.txt", "/etc/hostname", "link.wav", "nested"])
def test_nothing_outside_the_folder_is_served_even_if_it_were_signed_for(client, path):
    store = client.emulator.state.store
    date = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    signature = store._signature(path, date, "60")
    query = f"X-Amz-Date={date}&X-Amz-Expires=60&X-Amz-Signature={signature}"
    answer = client.raw("GET", f"/store/{quote(path, safe='')}?{query}")
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"outside of the store" not in answer


def test_the_store_is_read_only(emulator):
    assert fetch(emulator.sign("voicemail.wav"), "PUT").status_code == 405


def test_the_admin_api_signs_for_the_host_it_was_asked_at(client):
    order = {"path": "voicemail.wav", "expires": 60}
    url = client.admin("POST", "sign", json=order, headers={"Host": "plaud-emulator:8765"}).json()["url"]
    assert url.startswith("http://plaud-emulator:8765/store/voicemail.wav?X-Amz-Date=")
    own = url.replace("http://plaud-emulator:8765", client.emulator.url)
    assert fetch(own).status_code == 200


@pytest.mark.parametrize("expires", [0, -1, 604801, "soon"])
def test_a_life_out_of_range_is_refused(client, expires):
    assert client.admin("POST", "sign", json={"path": "voicemail.wav", "expires": expires}).status_code == 422


def test_the_objects_are_listed(client, store_folder):
    listed = {item["path"]: item["bytes"] for item in client.admin("GET", "objects").json()}
    assert listed["voicemail.wav"] == (store_folder / "voicemail.wav").stat().st_size
    assert "nested/grüße & mehr.wav" in listed


def test_without_a_folder_there_is_nothing(start):
    client = start(store=None)
    assert client.admin("GET", "objects").json() == []
    assert client.admin("POST", "sign", json={"path": "voicemail.wav"}).status_code == 404


def test_the_fetch_of_a_recording_can_be_made_to_fail(client):
    order = client.emulator.inject({"match": {"kind": "store"}, "action": "status", "status": 503})
    assert client.transcribed("voicemail.wav")["error"]["message"].endswith("HTTP 503")
    assert order.consumed == 1
    assert client.transcribed("voicemail.wav")["status"] == "completed"
