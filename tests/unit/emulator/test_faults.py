"""Each fault at the level where it happens: most over a bare connection."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import pytest
import requests

TRANSCRIPTIONS = "/open/partner/ai/transcriptions/"
SUBMIT = json.dumps({"audioUrl": "http://127.0.0.1:9/none.wav"}).encode()


def order(client, instruction: dict[str, Any]) -> int:
    answer = client.admin("POST", "faults", json=[instruction])
    assert answer.status_code == 200, answer.text
    return int(answer.json()[0]["id"])


def consumed(client, fault_id: int) -> int:
    return next(f["consumed"] for f in client.admin("GET", "faults").json() if f["id"] == fault_id)


def split(answer: bytes) -> tuple[bytes, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return status.encode(), dict(line.lower().split(": ", 1) for line in lines), body


def test_status_answers_in_place_of_the_handler(client):
    fault = order(
        client, {"action": "status", "status": 503, "headers": {"Retry-After": "7"}, "body": {"busy": True}}
    )
    status, headers, body = split(client.raw("POST", TRANSCRIPTIONS, SUBMIT))
    assert status == b"HTTP/1.1 503 Service Unavailable"
    assert headers["retry-after"] == "7"
    assert json.loads(body) == {"busy": True}
    assert client.emulator.transcriptions() == []
    assert consumed(client, fault) == 1


def test_status_can_leave_the_effect_of_the_handler(client):
    order(client, {"action": "status", "status": 502, "run_handler": True})
    assert client.submit().status_code == 502
    assert len(client.emulator.transcriptions()) == 1
    assert client.emulator.summary()["submits_accepted"] == 1


def test_status_without_content_has_no_body(client):
    order(client, {"action": "status", "status": 204})
    status, headers, body = split(client.raw("GET", TRANSCRIPTIONS + "txn_1"))
    assert status == b"HTTP/1.1 204 No Content"
    assert (body, "content-length" in headers) == (b"", False)


def test_delay_waits_and_goes_on(client):
    order(client, {"action": "delay", "seconds": 0.2})
    began = time.monotonic()
    assert client.submit().status_code == 200
    assert time.monotonic() - began >= 0.2


def test_delay_goes_on_to_the_next_fault(client):
    first = order(client, {"action": "delay", "seconds": 0.05})
    second = order(client, {"action": "status", "status": 500})
    assert client.submit().status_code == 500
    assert client.emulator.ledger()[-1]["faults"] == [first, second]


def test_drop_before_closes_without_a_byte_and_without_effect(client):
    fault = order(client, {"action": "drop_before"})
    assert client.raw("POST", TRANSCRIPTIONS, SUBMIT) == b""
    assert client.emulator.transcriptions() == []
    entry = client.emulator.ledger(kind="submit")[0]
    assert (entry["status"], entry["accepted"]) == ("dropped", False)
    assert consumed(client, fault) == 1


def test_drop_after_closes_without_a_byte_but_with_effect(client):
    fault = order(client, {"match": {"kind": "submit"}, "action": "drop_after"})
    assert client.raw("POST", TRANSCRIPTIONS, SUBMIT) == b""
    [transcription] = client.emulator.transcriptions()
    entry = client.emulator.ledger(kind="submit")[0]
    assert (entry["status"], entry["accepted"]) == ("dropped", True)
    assert entry["transcription_id"] == transcription["transcription_id"]
    assert consumed(client, fault) == 1


@pytest.mark.parametrize("action", ["drop_before", "drop_after"])
def test_a_drop_can_be_a_reset(client, action):
    order(client, {"action": action, "reset": True})
    with pytest.raises(ConnectionResetError):
        client.raw("POST", TRANSCRIPTIONS, SUBMIT)


def test_a_drop_leaves_other_connections_alone(client):
    other = requests.Session()
    other.trust_env = False
    other.get(client.emulator.url + TRANSCRIPTIONS + "txn_1", headers=client.bearer, timeout=10)
    order(client, {"action": "drop_before"})
    assert client.raw("POST", TRANSCRIPTIONS, SUBMIT) == b""
    answer = other.get(client.emulator.url + TRANSCRIPTIONS + "txn_1", headers=client.bearer, timeout=10)
    assert answer.status_code == 404
    other.close()


def test_truncate_sends_less_than_it_announces(client):
    fault = order(client, {"action": "truncate"})
    status, headers, body = split(client.raw("POST", TRANSCRIPTIONS, SUBMIT))
    assert status == b"HTTP/1.1 200 OK"
    assert len(body) == int(headers["content-length"]) // 2 > 0
    assert len(client.emulator.transcriptions()) == 1
    assert consumed(client, fault) == 1


def test_truncate_can_keep_so_many_bytes_but_never_all(client):
    order(client, {"action": "truncate", "keep": 5})
    order(client, {"action": "truncate", "keep": 10_000})
    assert split(client.raw("POST", TRANSCRIPTIONS, SUBMIT))[2] == b'{"tra'
    _, headers, body = split(client.raw("POST", TRANSCRIPTIONS, SUBMIT))
    assert len(body) == int(headers["content-length"]) - 1


def test_malformed_is_broken_json_of_the_right_length(client):
    order(client, {"action": "malformed"})
    status, headers, body = split(client.raw("POST", TRANSCRIPTIONS, SUBMIT))
    assert status == b"HTTP/1.1 200 OK"
    assert len(body) == int(headers["content-length"])
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


def test_html_is_a_page_with_200(client):
    order(client, {"action": "html"})
    answer = client.submit()
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert answer.text.startswith("<!DOCTYPE html>")
    assert client.emulator.transcriptions() == []


@pytest.mark.parametrize("status", [302, 307])
def test_redirect_points_elsewhere(client, status):
    order(client, {"action": "redirect", "status": status, "location": "http://127.0.0.1:9/else"})
    answer = client.submit()
    assert (answer.status_code, answer.headers["Location"]) == (status, "http://127.0.0.1:9/else")
    assert client.emulator.transcriptions() == []


def test_body_replaces_text_as_it_is(client):
    order(client, {"action": "body", "body": '{"duration": NaN, "text": "1e308"}'})
    assert split(client.raw("POST", TRANSCRIPTIONS, SUBMIT))[2] == b'{"duration": NaN, "text": "1e308"}'
    assert len(client.emulator.transcriptions()) == 1


def test_body_replaces_json(client):
    order(client, {"action": "body", "body": ["not", "an", "object"]})
    assert client.submit().json() == ["not", "an", "object"]


def test_patch_sets_and_removes_keys(client):
    order(
        client,
        {"match": {"kind": "submit"}, "action": "patch", "patch": {"status": "queued", "extra": None},
         "remove": ["transcriptionId"]},
    )  # fmt: skip
    answer = client.submit().json()
    assert (answer["status"], answer["extra"]) == ("queued", None)
    assert set(answer) == {"status", "extra", "createdAt"}


def test_drip_sends_slowly(client):
    order(client, {"match": {"kind": "get"}, "action": "drip", "bytes_per_second": 400})
    transcription_id = client.submitted()
    began = time.monotonic()
    answer = client.get(transcription_id)
    expected = len(answer.content) / 400
    assert time.monotonic() - began >= expected * 0.8
    assert answer.json()["status"] == "processing"


def test_a_client_may_leave_while_it_drips(client):
    order(client, {"match": {"kind": "get"}, "action": "drip", "bytes_per_second": 1})
    transcription_id = client.submitted()
    with pytest.raises(requests.exceptions.ConnectionError, match="Read timed out"):
        client.get(transcription_id, timeout=0.3)
    assert client.get(transcription_id).status_code == 200


def test_inflate_sends_a_huge_text(client):
    order(client, {"match": {"kind": "get"}, "action": "inflate", "text_bytes": 3_000_000})
    answer = client.get(client.submitted())
    assert len(answer.json()["text"]) == 3_000_000
    assert answer.json()["status"] == "processing"


def test_inflate_can_be_a_gzip_bomb(client):
    order(client, {"match": {"kind": "get"}, "action": "inflate", "text_bytes": 20_000_000, "gzip": True})
    status, headers, body = split(client.raw("GET", TRANSCRIPTIONS + client.submitted()))
    assert status == b"HTTP/1.1 200 OK"
    assert headers["content-encoding"] == "gzip"
    assert len(body) < 50_000
    assert len(json.loads(gzip.decompress(body))["text"]) == 20_000_000


def test_expire_tokens_ends_them_in_the_middle_of_work(client):
    transcription_id = client.submitted()
    order(client, {"match": {"kind": "get"}, "action": "expire_tokens"})
    assert [client.get(transcription_id).status_code for _ in range(2)] == [401, 401]
    assert client.sign_in().get(transcription_id).status_code == 200


def test_reject_token_is_one_401_for_a_token_that_stays_valid(client):
    transcription_id = client.submitted()
    order(client, {"match": {"kind": "get"}, "action": "reject_token"})
    answers = [client.get(transcription_id) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [401, 200]
    assert answers[0].json()["error"]["code"] == "invalid_token"


def test_a_fault_is_for_so_many_requests_after_so_many_that_pass(client):
    fault = order(
        client, {"match": {"kind": "get"}, "action": "status", "status": 500, "skip": 1, "times": 2}
    )
    assert [client.get("txn_1").status_code for _ in range(4)] == [404, 500, 500, 404]
    [view] = client.admin("GET", "faults").json()
    assert (view["id"], view["consumed"], view["left"], view["passed"]) == (fault, 2, 0, 1)
    assert client.emulator.summary()["faults_consumed"] == 2


def test_a_fault_without_end_lasts_until_it_is_removed(client):
    fault = order(client, {"action": "status", "status": 500, "times": None})
    assert {client.get("txn_1").status_code for _ in range(5)} == {500}
    assert client.admin("DELETE", f"faults/{fault}").status_code == 200
    assert client.get("txn_1").status_code == 404
    assert client.admin("DELETE", f"faults/{fault}").status_code == 404


def test_all_faults_can_be_cleared(client):
    for _ in range(2):
        order(client, {"action": "status", "status": 500, "times": None})
    assert client.admin("DELETE", "faults").json() == {"cleared": 2}
    assert client.get("txn_1").status_code == 404
    assert client.admin("GET", "faults").json() == []


@pytest.mark.parametrize(
    ("match", "statuses"),
    [
        ({"kind": "get"}, (404, 200, 500)),
        ({"kind": "exchange"}, (404, 500, 200)),
        ({"method": "post"}, (500, 500, 200)),
        ({"path_contains": "token"}, (404, 500, 200)),
        ({"path_contains": "txn_1"}, (404, 200, 500)),
        ({"kind": "other"}, (500, 200, 200)),
    ],
    ids=str,
)
def test_a_fault_meets_only_what_it_matches(client, match, statuses):
    client.emulator.inject({"match": match, "action": "status", "status": 500, "times": None})
    transcription_id = "txn_1"
    other = client.request("POST", "/elsewhere").status_code
    exchange = client.exchange().status_code
    get = client.get(transcription_id).status_code
    assert (other, exchange, 200 if get == 404 else get) == statuses


def test_a_fault_can_match_the_body_of_one_recording(client):
    client.emulator.inject({"match": {"body_contains": "b.wav"}, "action": "status", "status": 500})
    statuses = [client.submit(f"http://127.0.0.1:9/{name}.wav").status_code for name in "abc"]
    assert statuses == [200, 500, 200]


@pytest.mark.parametrize(
    ("instruction", "named"),
    [
        ({}, "action"),
        ({"action": "explode"}, "explode"),
        ({"action": "status"}, "status"),
        ({"action": "status", "status": 99}, "status"),
        ({"action": "status", "status": 500, "headers": {"Content-Length": "1"}}, "truncate"),
        ({"action": "status", "status": 500, "headers": {"X": "a\r\nY: b"}}, "header"),
        ({"action": "delay"}, "seconds"),
        ({"action": "delay", "seconds": -1}, "seconds"),
        ({"action": "redirect", "location": ""}, "location"),
        ({"action": "drip", "bytes_per_second": 0}, "bytes_per_second"),
        ({"action": "patch", "set": {}}, "set"),
        ({"action": "html", "times": 0}, "times"),
        ({"action": "html", "match": {"kind": "list"}}, "kind"),
        ({"action": "html", "match": {"path": "/"}}, "path"),
    ],
    ids=str,
)
def test_a_fault_that_makes_no_sense_is_refused_by_name(client, instruction, named):
    answer = client.admin("POST", "faults", json=[instruction])
    assert answer.status_code == 422
    assert named in answer.text
    assert client.admin("GET", "faults").json() == []
    with pytest.raises(ValueError, match=named):
        client.emulator.inject(instruction)


def test_the_admin_api_meets_no_fault(client):
    client.emulator.inject({"action": "drop_before", "times": None})
    assert client.admin("GET", "state").status_code == 200
