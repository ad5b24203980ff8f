from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plaud_provider.exceptions import PlaudInputError
from plaud_provider.recordings.given_lists import given_recordings, given_references
from plaud_provider.recordings.reference import AudioReference

SIGNED = "https://files.example/a.mp3?X-Amz-Signature=canary"
OBJECT = "s3://aws_calls@calls/b.mp3"
BOTH = [SIGNED, OBJECT]


@pytest.mark.parametrize(
    "value",
    [
        BOTH,
        tuple(BOTH),
        iter(BOTH),
        [AudioReference(SIGNED), OBJECT],
        [[SIGNED], (OBJECT,)],
        json.dumps(BOTH),
        f"  {BOTH!r}\n",
        f"{SIGNED}\n\n  {OBJECT}\r\n",
        [*BOTH, SIGNED],
    ],
    ids=[
        "list", "tuple", "iterator", "references", "rows of a query", "JSON", "text of a list",
        "lines", "one twice",
    ],
)  # fmt: skip
def test_a_list_comes_as_people_have_it(value: Any) -> None:
    assert [one.reveal() for one in given_references(value)] == BOTH


@pytest.mark.parametrize("value", [OBJECT, AudioReference(OBJECT)])
def test_one_recording_is_a_list_of_one(value: Any) -> None:
    assert [one.reveal() for one in given_references(value)] == [OBJECT]


def test_paths_are_taken() -> None:
    assert [one.reveal() for one in given_references([Path("/calls/a.mp3")])] == ["/calls/a.mp3"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "the list is empty"),
        ("", "the list is empty"),
        ("[]", "the list is empty"),
        (True, "number 1 of the list is a bool"),
        (7.5, "takes a list, not a float"),
        ({"a": 1}, "takes a list, not a dict"),
        ([OBJECT, None], "number 2 of the list is empty"),
        ([OBJECT, "  "], "number 2 of the list is empty"),
        ([AudioReference(OBJECT), AudioReference("  ")], "number 2 of the list is empty"),
        ([OBJECT, 7.5], "number 2 of the list is a float"),
        ([[OBJECT, SIGNED]], "number 1 of the list is a row of 2 columns"),
    ],
)
def test_what_is_no_list_of_recordings_is_told_and_not_shown(value: Any, words: str) -> None:
    with pytest.raises(PlaudInputError, match=words) as caught:
        given_references(value)

    assert "canary" not in str(caught.value)
    assert "one a line" in str(caught.value)


def test_only_what_is_signed_needs_more_than_what_is_shown() -> None:
    signed, stored = given_recordings(given_references(BOTH))

    assert (signed.uri, signed.audio.reveal()) == ("https://files.example/a.mp3", SIGNED)
    assert "canary" not in repr(signed)
    assert (stored.uri, stored.given) == (OBJECT, None)
