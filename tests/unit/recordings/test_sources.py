from __future__ import annotations

from datetime import timedelta

import pytest

from plaud_provider.exceptions import (
    PlaudInputError,
)
from plaud_provider.recordings.given_urls import GivenUrl
from plaud_provider.recordings.local_files import LocalFile
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.recordings.sources import (
    AudioSource,
    audio_source,
    validate_url_validity,
)
from plaud_provider.recordings.stored_objects import StoredObject


def source(reference: str, **changes: object) -> AudioSource:
    arguments = {"url_validity": timedelta(hours=6), "public_urls": {}, **changes}
    return audio_source(AudioReference(reference), **arguments)  # type: ignore[arg-type]


# Which reference is what


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("https://files.example/a.mp3", GivenUrl),
        ("s3://calls/a.mp3", StoredObject),
        ("S3://calls/a.mp3", StoredObject),
        ("gs://calls/a.mp3", StoredObject),
        ("abfs://calls/a.mp3", StoredObject),
        ("abfss://calls@account.dfs.core.windows.net/a.mp3", StoredObject),
        ("file:///data/calls/a.mp3", LocalFile),
        ("/data/calls/a.mp3", LocalFile),
    ],
)
def test_a_reference_is_known_by_its_scheme(reference: str, kind: type) -> None:
    assert isinstance(source(reference, public_urls={"/data": "https://files.example"}), kind)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("ftp://files.example/a.mp3", r"has the scheme 'ftp'; pass an https:// URL, or an s3://"),
        ("a.mp3", "is not a URL"),
        ("s3://calls", "names no object; write s3://bucket/key"),
        ("s3://calls/", "names no object"),
        ("s3:/calls/a.mp3", "names no object"),
        ("s3:///a.mp3", "names no object"),
        ("s3://calls/2024/", "names a folder"),
        ("s3://key:secret-canary@calls/a.mp3", "carries a password; name an Airflow connection"),
        ("abfs://account.dfs.core.windows.net/a.mp3", "names no container"),
    ],
)
def test_a_wrong_reference_is_told_without_asking_any_storage(reference: str, message: str) -> None:
    with pytest.raises(PlaudInputError, match=f"(?s)audio_url: .*{message}") as refused:
        source(reference)

    assert "Nothing was sent" in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(timedelta(hours=1), 3600), (120, 120), (7 * 86400, 604800), ("3600", 3600), (900.9, 900)],
)
def test_url_validity_is_a_time_or_seconds(value: timedelta | float | str, seconds: int) -> None:
    assert validate_url_validity(value) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "value", [0, -1, 119, 604801, timedelta(days=8), "", "6 hours", None, True, float("nan"), 10**400]
)
def test_another_url_validity_is_refused(value: object) -> None:
    with pytest.raises(PlaudInputError, match=r"url_validity: .*two minutes to seven days"):
        validate_url_validity(value)  # type: ignore[arg-type]
