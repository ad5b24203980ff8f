from __future__ import annotations

from plaud_provider.emulator.limits import busiest_minute


def test_the_eleventh_token_request_in_a_minute_is_refused(client):
    answers = [client.exchange() for _ in range(10)]  # Signing in was the first of eleven.
    assert [answer.status_code for answer in answers] == [200] * 9 + [429]
    assert answers[-1].headers["Retry-After"] == "60"
    assert answers[-1].json()["error"]["code"] == "too_many_requests"


def test_refreshes_and_wrong_secrets_count_as_token_requests(start):
    client = start(token_limit=3)
    refresh_token = client.exchange().json()["refresh_token"]
    client.refresh(refresh_token)
    client.credentials = ("demo-client", "wrong")
    assert [client.exchange().status_code for _ in range(2)] == [401, 429]


def test_submits_and_results_share_the_api_limit(client):
    transcription_id = client.submitted()
    assert {client.get(transcription_id).status_code for _ in range(59)} == {200}
    assert client.get(transcription_id).status_code == 429
    assert client.submit().status_code == 429


def test_obeying_retry_after_succeeds(start):
    client = start(request_limit=2, token_limit=0).sign_in()
    for _ in range(2):
        client.submit()
        client.emulator.advance(20.5)
    refused = client.submit()
    assert refused.headers["Retry-After"] == "19"
    client.emulator.advance(18.5)
    assert client.submit().status_code == 429
    client.emulator.advance(0.5)
    assert client.submit().status_code == 200


def test_a_refused_request_does_not_extend_the_window(start):
    client = start(request_limit=1).sign_in()
    client.submit()
    client.emulator.advance(59)
    assert client.submit().status_code == 429
    client.emulator.advance(1)
    assert client.submit().status_code == 200


def test_retry_after_is_in_real_seconds(start):
    client = start(request_limit=1).sign_in()
    client.submit()
    client.admin("POST", "clock", json={"speed": 0})
    client.emulator.state.clock.set_speed(40)
    # 60 emulated seconds at forty times the speed: one and a half real ones.
    assert client.submit().headers["Retry-After"] == "2"


def test_each_client_has_limits_of_its_own(start):
    client = start(clients={"one": "secret-1", "two": "secret-2"}, token_limit=1)
    client.credentials = ("one", "secret-1")
    assert [client.exchange().status_code for _ in range(2)] == [200, 429]
    client.credentials = ("two", "secret-2")
    assert client.exchange().status_code == 200


def test_zero_is_no_limit(start):
    client = start(token_limit=0, request_limit=0).sign_in()
    assert {client.exchange().status_code for _ in range(20)} == {200}
    assert {client.get("txn_1").status_code for _ in range(80)} == {404}


def test_refused_requests_are_in_the_ledger(client):
    for _ in range(61):
        client.get("txn_1")
    refused = [entry for entry in client.emulator.ledger(kind="get") if entry["status"] == 429]
    assert [entry["retry_after"] for entry in refused] == ["60"]
    assert client.emulator.summary()["refused_429"] == 1
    assert client.emulator.summary()["busiest_minute"]["demo-client"]["api_requests"] == 61


def test_the_busiest_minute_is_a_sliding_one():
    assert busiest_minute([]) == 0
    assert busiest_minute([0.0, 59.0, 61.0, 62.0, 119.5]) == 3
    assert busiest_minute([0.0, 60.0]) == 1
