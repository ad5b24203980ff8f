from __future__ import annotations

from base64 import b64decode
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.api.regions import Region
from plaud_provider.api.requests import (
    Account,
    exchange_request,
    get_request,
    refresh_request,
    submit_request,
)

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def account(
    client_id: str = "client", secret_key: str = "secret", base: str = "https://openapi.plaud.ai"
) -> Account:
    return Account(Region.US, base, client_id, secret_key)


@given(text.filter(lambda name: ":" not in name), text)
def test_credentials_of_any_characters_come_through_basic_auth(client_id: str, secret_key: str) -> None:
    header = exchange_request(account(client_id, secret_key)).headers["Authorization"]

    assert header.isascii()
    assert b64decode(header.removeprefix("Basic ")).decode() == f"{client_id}:{secret_key}"


@given(text)
def test_a_refresh_token_of_any_characters_comes_through_the_form(refresh_token: str) -> None:
    body = refresh_request(account(), refresh_token).body or b""

    assert parse_qsl(body.decode("ascii"), keep_blank_values=True) == [("refresh_token", refresh_token)]


@given(st.text())
def test_a_body_is_built_from_any_text(audio_url: str) -> None:
    assert submit_request(account(), "token", audio_url=audio_url).body


def test_an_exchange_has_no_body() -> None:
    assert exchange_request(account()).body == b""


@pytest.mark.parametrize(
    "base", ["https://openapi.plaud.eu", "http://127.0.0.1:8080", "https://gateway.example/plaud"]
)
def test_every_request_goes_to_the_account_s_base_url(base: str) -> None:
    here = account(base=base)
    requests = [
        exchange_request(here),
        refresh_request(here, "r"),
        submit_request(here, "t", audio_url="https://bucket.example/a.wav"),
        get_request(here, "t", "txn_1"),
    ]

    assert [request.url for request in requests] == [
        f"{base}/oauth/partner/access-token",
        f"{base}/oauth/partner/access-token/refresh",
        f"{base}/open/partner/ai/transcriptions/",
        f"{base}/open/partner/ai/transcriptions/txn_1",
    ]


def test_no_request_shows_a_secret_by_repr() -> None:
    here = account(secret_key="canary")
    shown = repr(
        [
            here,
            exchange_request(here),
            refresh_request(here, "canary"),
            submit_request(here, "canary", audio_url="https://bucket.example/a.wav?X-Amz-Signature=canary"),
            get_request(here, "canary", "txn_1"),
        ]
    )

    assert "canary" not in shown
