from __future__ import annotations


def test_an_access_token_expires(client):
    transcription_id = client.submitted()
    client.emulator.advance(86399)
    assert client.get(transcription_id).status_code == 200
    client.emulator.advance(1)
    assert client.get(transcription_id).status_code == 401


def test_a_refresh_answers_a_new_pair_that_works(client):
    first = client.exchange().json()
    second = client.refresh(first["refresh_token"])
    assert second.status_code == 200
    assert set(second.json()) == set(first)
    assert second.json()["access_token"] != first["access_token"]
    assert second.json()["refresh_token"] != first["refresh_token"]
    client.token = second.json()["access_token"]
    assert client.submit().status_code == 200


def test_a_refresh_token_works_after_the_access_token_has_expired(client):
    refresh_token = client.exchange().json()["refresh_token"]
    client.emulator.advance(86401)
    assert client.refresh(refresh_token).status_code == 200


def test_a_refresh_token_works_once(client):
    used = client.exchange().json()["refresh_token"]
    newest = client.refresh(used).json()["refresh_token"]
    refused = client.refresh(used)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_refresh_token")
    assert client.refresh(newest).status_code == 200


def test_a_used_refresh_token_can_stay_valid(start):
    client = start(keep_refresh_tokens=True)
    used = client.exchange().json()["refresh_token"]
    assert [client.refresh(used).status_code for _ in range(2)] == [200, 200]


def test_a_refresh_token_expires(start):
    client = start(refresh_token_seconds=100)
    refresh_token = client.exchange().json()["refresh_token"]
    client.emulator.advance(100)
    assert client.refresh(refresh_token).status_code == 401


def test_a_refresh_token_is_of_no_use_to_another_client(start):
    client = start(clients={"one": "secret-1", "two": "secret-2"})
    client.credentials = ("one", "secret-1")
    refresh_token = client.exchange().json()["refresh_token"]
    client.credentials = ("two", "secret-2")
    assert client.refresh(refresh_token).status_code == 401


def test_a_new_token_leaves_the_earlier_one_valid(client):
    earlier = dict(client.bearer)
    client.sign_in()
    assert client.request("GET", "/open/partner/ai/transcriptions/txn_1", headers=earlier).status_code == 404


def test_the_life_of_a_token_can_be_set(start):
    client = start(token_seconds=30)
    assert client.exchange().json()["expires_in"] == 30
    client.sign_in()
    client.emulator.advance(30)
    assert client.submit().status_code == 401


def test_all_access_tokens_can_be_ended_while_refresh_tokens_work(client):
    pair = client.exchange().json()
    assert client.admin("POST", "tokens/expire").json() == {"expired": 2}
    assert client.submit().status_code == 401
    assert client.refresh(pair["refresh_token"]).status_code == 200


def test_all_refresh_tokens_can_be_ended_too(client):
    pair = client.exchange().json()
    client.admin("POST", "tokens/expire", json={"refresh_tokens": True})
    assert client.refresh(pair["refresh_token"]).status_code == 401
