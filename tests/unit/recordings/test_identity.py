from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.api.terms import Terms
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.recordings.identity import recording_key
from plaud_provider.recordings.reference import AudioReference

URL = "https://bucket.example/a.wav"


def key(reference: str = URL, **changes: Any) -> str:
    parts: dict[str, Any] = {
        "version": None,
        "language": None,
        "speaker_diarization": False,
        "region": "us",
        "client_id": "client",
    }
    return recording_key(AudioReference(reference), **{**parts, **changes})


def test_a_key_is_the_same_in_every_process_and_version() -> None:
    """It lies in task states and ledgers: a change of it would pay for everything again."""
    # printf 'https://bucket.example/a.wav\0\0\0\0us\0client' | sha256sum
    assert key() == "29f1a76585e4d99e06decb6ca48a1292f8de575ba323b6e7e71b170eb4b1694c"
    assert len(key()) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"version": "v1"},
        {"language": "en"},
        {"speaker_diarization": True},
        {"region": "eu"},
        {"client_id": "another"},
        {"recording_id": URL},
        {"reference": URL + "?id=1"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_what_is_paid_for_changes_the_key(change: dict[str, Any]) -> None:
    assert key(**change) != key()


def test_signing_again_does_not_change_the_key() -> None:
    first = "?X-Amz-Date=20260324T100000Z&X-Amz-Expires=60&X-Amz-Signature=one"
    second = "?X-Amz-Date=20260325T100000Z&X-Amz-Expires=90&X-Amz-Signature=two"

    assert key(URL + first) == key(URL + second) == key()


def test_no_language_is_as_an_empty_one_and_no_version_likewise() -> None:
    assert key(language=None, version=None) == key(language="", version="")


texts = st.text(st.sampled_from("ab/?\x01|,"), max_size=4)
parts = st.fixed_dictionaries(
    {
        "reference": texts.map(lambda rest: f"s3://b/{rest}"),
        "version": texts,
        "language": texts,
        "speaker_diarization": st.booleans(),
        "region": texts,
        "client_id": texts,
    }
)


@given(parts, parts)
def test_no_two_lists_of_parts_have_one_key(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (key(**one) == key(**other)) == (one == other)


@pytest.mark.parametrize(
    "changes", [{"reference": "s3://b/a\x00b"}, {"version": "a\x00b"}, {"client_id": "a\x00"}]
)
def test_a_nul_which_could_join_parts_another_way_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(PlaudInputError, match="NUL"):
        key(**changes)


def test_a_reference_that_is_not_valid_unicode_has_a_key() -> None:
    assert key("s3://b/\udcff") != key("s3://b/\udcfe")


PARTS: dict[str, Any] = {
    "version": "v1",
    "language": "en",
    "speaker_diarization": True,
    "region": "us",
    "client_id": "client",
}


def test_without_options_the_key_is_what_it_was_before_there_were_any() -> None:
    audio = AudioReference("s3://bucket/a.mp3")
    parts = "s3://bucket/a.mp3\x00v1\x00en\x00diarization\x00us\x00client"

    assert recording_key(audio, **PARTS) == sha256(parts.encode()).hexdigest()
    assert recording_key(audio, **PARTS, options=Terms().identity) == recording_key(audio, **PARTS)


def test_each_option_makes_another_recording_and_the_order_of_hotwords_does_not() -> None:
    audio = AudioReference("s3://bucket/a.mp3")
    every = [
        Terms(),
        Terms(model="plaud-omni-3"),
        Terms(hotwords=("a", "b")),
        Terms(hotwords=("a",)),
        Terms(decode_silence=True),
        Terms(detection_level="chapter"),
    ]

    assert len({recording_key(audio, **PARTS, options=terms.identity) for terms in every}) == len(every)
    assert Terms(hotwords=("b", "a")).identity == Terms(hotwords=("a", "b")).identity
