from __future__ import annotations

import json
from base64 import b64decode
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.api.account import Account
from plaud_provider.api.dialects import DIALECTS, EMBEDDED, OPENAPI, Dialect
from plaud_provider.api.effects import Request
from plaud_provider.api.hosts import resolve_base_url
from plaud_provider.api.regions import Region
from plaud_provider.api.terms import Terms, checked_terms
from plaud_provider.exceptions import PlaudConfigurationError, PlaudInputError

AUDIO = "https://bucket.example/a.wav"
text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)


def account(
    client_id: str = "client",
    secret_key: str = "secret",
    base: str = "https://openapi.plaud.ai",
    dialect: Dialect = OPENAPI,
    api_key: str = "key",
) -> Account:
    return Account(Region.US, base, client_id, secret_key, dialect, api_key)


def requests(of: Account) -> list[Request]:
    return [
        of.dialect.exchange_request(of),
        of.dialect.refresh_request(of, "canary"),
        of.dialect.submit_request(of, "canary", f"{AUDIO}?X-Amz-Signature=canary", Terms()),
        of.dialect.get_request(of, "canary", "txn_1"),
    ]


def body(dialect: Dialect, terms: Terms) -> object:
    return json.loads(dialect.submit_request(account(dialect=dialect), "token", AUDIO, terms).body or b"")


@every_dialect
@given(client_id=text.filter(lambda name: ":" not in name), secret_key=text)
def test_credentials_of_any_characters_come_through_basic_auth(
    dialect: Dialect, client_id: str, secret_key: str
) -> None:
    header = dialect.exchange_request(account(client_id, secret_key)).headers["Authorization"]

    assert header.isascii()
    assert b64decode(header.removeprefix("Basic ")).decode() == f"{client_id}:{secret_key}"


@every_dialect
@given(refresh_token=text)
def test_a_refresh_token_of_any_characters_comes_through_the_form(
    dialect: Dialect, refresh_token: str
) -> None:
    sent = dialect.refresh_request(account(), refresh_token).body or b""

    assert parse_qsl(sent.decode("ascii"), keep_blank_values=True) == [("refresh_token", refresh_token)]


@every_dialect
@given(audio_url=st.text())
def test_a_body_is_built_from_any_text(dialect: Dialect, audio_url: str) -> None:
    assert dialect.submit_request(account(), "token", audio_url, Terms()).body


@every_dialect
def test_an_exchange_has_no_body(dialect: Dialect) -> None:
    assert dialect.exchange_request(account()).body == b""


@every_dialect
@pytest.mark.parametrize(
    "base",
    [
        "https://openapi.plaud.eu",
        "https://platform-us.plaud.ai/developer/api",
        "http://127.0.0.1:8080",
        "https://gateway.example/plaud",
    ],
)
def test_every_request_goes_to_the_account_s_base_url(base: str, dialect: Dialect) -> None:
    assert [request.url for request in requests(account(base=base, dialect=dialect))] == [
        f"{base}/oauth/partner/access-token",
        f"{base}/oauth/partner/access-token/refresh",
        f"{base}/open/partner/ai/transcriptions/",
        f"{base}/open/partner/ai/transcriptions/txn_1",
    ]


@every_dialect
def test_no_request_shows_a_secret_by_repr(dialect: Dialect) -> None:
    here = account(secret_key="canary", api_key="canary", dialect=dialect)

    assert "canary" not in repr([here, *requests(here)])


def test_openapi_sends_a_token_and_only_what_differs_from_the_default() -> None:
    here = account()
    submit = OPENAPI.submit_request(here, "token", AUDIO, Terms())
    everything = Terms("ja", speaker_diarization=True, webhook_url="https://hook.example/")

    assert submit.body == b'{"audioUrl": "https://bucket.example/a.wav"}'
    assert submit.headers == {
        "Authorization": "Bearer token",
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    assert body(OPENAPI, everything) == {
        "audioUrl": AUDIO,
        "language": "ja",
        "webhookUrl": "https://hook.example/",
        "speakerDiarization": True,
    }


def test_embedded_sends_the_api_key_and_no_token() -> None:
    here = account(dialect=EMBEDDED)

    for request in (
        EMBEDDED.submit_request(here, "token", AUDIO, Terms()),
        EMBEDDED.get_request(here, "token", "t"),
    ):
        assert request.headers["X-Client-Id"] == "client"
        assert request.headers["X-Client-Api-Key"] == "key"
        assert "Authorization" not in request.headers
        assert "token" not in str(request.headers)


def test_embedded_nests_its_parameters() -> None:
    assert body(EMBEDDED, Terms()) == {
        "file_url": AUDIO,
        "params": {
            "transcribe": {"language": "auto"},
            "vad": {"decode_silence": False},
            "diarization": {"enabled": False, "return_embedding": False},
        },
    }
    everything = Terms(
        "ja",
        speaker_diarization=True,
        model="plaud-omni-3",
        hotwords=("Plaud Note", "Tōkyō"),
        decode_silence=True,
        detection_level="chapter",
    )
    assert body(EMBEDDED, everything) == {
        "file_url": AUDIO,
        "params": {
            "transcribe": {"language": "ja", "model": "plaud-omni-3", "detection_level": "chapter"},
            "vad": {"decode_silence": True},
            "diarization": {"enabled": True, "return_embedding": False},
            "hotwords": "Plaud Note,Tōkyō",
        },
    }


@pytest.mark.parametrize(
    ("dialect", "terms", "name"),
    [
        (OPENAPI, Terms(model="plaud-omni-3"), "model"),
        (OPENAPI, Terms(hotwords=("a",)), "hotwords"),
        (OPENAPI, Terms(decode_silence=True), "decode_silence"),
        (OPENAPI, Terms(detection_level="chapter"), "detection_level"),
        (EMBEDDED, Terms(webhook_url="https://hook.example/"), "webhook_url"),
        (EMBEDDED, Terms(model="whisper"), "model"),
        (EMBEDDED, Terms(detection_level="word"), "detection_level"),
    ],
)
def test_an_option_that_a_dialect_lacks_is_refused_by_name(dialect: Dialect, terms: Terms, name: str) -> None:
    with pytest.raises(PlaudInputError, match=rf"^{name}: .*Nothing was sent, nothing is paid"):
        dialect.check(terms)


@every_dialect
@pytest.mark.parametrize("region", Region)
@pytest.mark.parametrize("other", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("other_region", Region)
def test_no_public_host_takes_requests_of_another_region_or_dialect(
    dialect: Dialect, region: Region, other: Dialect, other_region: Region
) -> None:
    its_url = {**other.base_urls, **other.announced_urls}[other_region]
    its_host = its_url.split("/")[2]
    offered = region in dialect.base_urls

    for host in (its_url, its_host, its_host.upper(), f"{its_host}:443"):
        if offered and (dialect, region) == (other, other_region):
            assert resolve_base_url(region, host, dialect=dialect) == its_url
        else:
            with pytest.raises(PlaudConfigurationError, match="Nothing was sent"):
                resolve_base_url(region, host, dialect=dialect, allowed_hosts=[its_host, host])


@pytest.mark.parametrize("host", [None, "", "http://127.0.0.1:8080", "https://gateway.example"])
def test_embedded_is_not_offered_in_the_eu_wherever_its_requests_would_go(host: str | None) -> None:
    with pytest.raises(PlaudConfigurationError, match="does not offer the API 'embedded' in region 'eu'"):
        resolve_base_url(Region.EU, host, dialect=EMBEDDED, allowed_hosts=["gateway.example"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["Plaud Note", "MacBook"], ("Plaud Note", "MacBook")),
        ("Plaud Note, MacBook,", ("Plaud Note", "MacBook")),
        ("['Plaud Note', 'it\\'s']", ("Plaud Note", "it's")),
        ('["Plaud Note"]', ("Plaud Note",)),
        ("None", ()),
        ("", ()),
        (None, ()),
        ([], ()),
        (["a", " a ", ""], ("a",)),
    ],
)
def test_hotwords_are_a_list_however_a_template_has_rendered_it(
    given: object, words: tuple[str, ...]
) -> None:
    assert checked_terms(hotwords=given).hotwords == words


@pytest.mark.parametrize("given", [["a,b"], ["a\nb"], ["x" * 201], 5, {"a": 1}])
def test_hotwords_that_cannot_be_sent_are_refused(given: object) -> None:
    with pytest.raises(PlaudInputError, match=r"^hotwords: .*Nothing was sent"):
        checked_terms(hotwords=given)
