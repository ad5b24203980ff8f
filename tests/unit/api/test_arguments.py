from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.api.arguments import (
    validate_language,
    validate_transcription_id,
    validate_transcription_ids,
    validate_webhook_url,
)
from plaud_provider.exceptions import PlaudInputError

BAD_IDS = [
    "",
    " ",
    ".",
    "..",
    "../other",
    "txn/../other",
    "txn%2F..",
    "%2e%2e/txn",
    "..\\txn",
    "txn_1\n",
    "\ntxn_1",
    "txn\r\nHost: evil",
    "txn\x00",
    "txn\x85",
    "txn\u2028",
    "txn\ud800",
    "./.",
    "a" * 256,
    None,
    True,
    10**255,
    1.5,
    b"txn_1",
    ["txn_1"],
]


@pytest.mark.parametrize(
    "value",
    [
        *("txn_0123", "txn-a.b~c", "0", "a" * 255, "task_exec_9", "txn:1", "MTIz/+A==", "-txn"),
        *("txn%2f1", "100%", "txn#1", "txn;1", "a&b", "a?b", "two words", "a..b", "a\\b", "é", "録音_\u0661"),
    ],
)
def test_what_can_be_an_id_is_one(value: str) -> None:
    assert validate_transcription_id(value) == value


def test_a_number_is_an_id_as_text() -> None:
    assert validate_transcription_id(12345) == "12345"


@pytest.mark.parametrize("value", BAD_IDS)
def test_what_no_path_or_message_can_hold_is_no_id(value: object) -> None:
    with pytest.raises(PlaudInputError, match=r"transcription_id: .*Nothing was sent"):
        validate_transcription_id(value)


@given(st.text())
def test_an_id_that_passes_is_one_segment_of_a_path_once_it_is_quoted(value: str) -> None:
    try:
        validate_transcription_id(value)
    except PlaudInputError:
        return
    quoted = quote(value, safe="")
    assert unquote(quoted) == value
    assert urlsplit(f"https://host/a/{quoted}").path == f"/a/{quoted}"
    assert "/" not in quoted
    assert quoted not in (".", "..")


def test_a_long_bad_id_is_shown_in_part() -> None:
    with pytest.raises(PlaudInputError) as caught:
        validate_transcription_id("/" + "x" * 10_000)

    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        ("txn_1", ["txn_1"]),
        (["txn_2", "txn_1", "txn_2"], ["txn_2", "txn_1"]),
        (("txn_1",), ["txn_1"]),
        ((name for name in ["txn_1", "txn_2"]), ["txn_1", "txn_2"]),
        ([], []),
    ],
)
def test_one_id_or_many_are_taken_each_once_in_their_order(value: object, ids: list[str]) -> None:
    assert validate_transcription_ids(value) == ids


@pytest.mark.parametrize("value", ["['txn_1', 'txn_2']", ' ["txn_1"]', "('txn_1',)"])
def test_a_list_that_a_template_turned_into_text_is_explained(value: str) -> None:
    with pytest.raises(PlaudInputError, match="render_template_as_native_obj"):
        validate_transcription_ids(value)


@pytest.mark.parametrize("value", [None, 5, b"txn_1", {"txn_1": 1}, ["txn_1", None], ["a\n"]])
def test_what_holds_no_ids_is_refused(value: object) -> None:
    with pytest.raises(PlaudInputError, match="Nothing was sent"):
        validate_transcription_ids(value)


@pytest.mark.parametrize(
    "tag",
    [
        "en", "EN", "ja", "zh", "pt-BR", "zh-Hant-TW", "zh-Hant", "es-419", "sl-rozaj-biske", "de-CH-1996",
        "zh-yue", "zh-cmn-Hans-CN", "sr-Latn-RS", "en-x-plaud", "de-u-co-phonebk", "yue",
        "hy-Latn-IT-arevela",
    ],
)  # fmt: skip
def test_a_well_formed_language_tag_is_taken(tag: str) -> None:
    assert validate_language(tag) == tag


@pytest.mark.parametrize(
    "tag",
    [
        "english", "English", "e", "", " ", "en ", "en_US", "en-", "-en", "en--US", "en-US-", "en\n",
        "japanese",        "en,de", "auto", "x-foo", "x", "12", "日本", "\uff45\uff4e",
        "en-\u0661\u0662\u0663", "en-x", "en-a", "en-toolongsubtag",
        "pt-BR;q=0.9", "*",
    ],
)  # fmt: skip
def test_what_is_no_language_tag_is_refused_before_it_is_paid_for(tag: str) -> None:
    with pytest.raises(PlaudInputError, match=r"language: .*BCP-47.*Nothing was sent"):
        validate_language(tag)


def test_no_language_means_that_plaud_detects_it() -> None:
    assert validate_language(None) is None


@pytest.mark.parametrize("value", [5, ["en"], b"en"])
def test_a_language_is_text(value: object) -> None:
    with pytest.raises(PlaudInputError):
        validate_language(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url", ["https://hook.example/plaud?x=1", "https://hook.example:8443", "http://127.0.0.1:9/x", None]
)
def test_a_webhook_url_that_plaud_can_post_to_is_taken(url: str | None) -> None:
    assert validate_webhook_url(url) == url


@pytest.mark.parametrize(
    "url",
    ["", "hook.example", "http://hook.example", "ftp://hook.example", "https://", "https://u:canary@hook.example",
     "https://[canary", "javascript:canary", "/path?canary"],
)  # fmt: skip
def test_a_webhook_url_that_plaud_cannot_post_to_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(PlaudInputError, match=r"webhook_url: .*Nothing was sent") as caught:
        validate_webhook_url(url)

    assert "canary" not in str(caught.value)
