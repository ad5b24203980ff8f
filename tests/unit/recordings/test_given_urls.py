from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from plaud_provider.exceptions import PlaudExpiredUrlError, PlaudInputError
from plaud_provider.recordings.given_urls import GivenUrl, check_audio_url, check_validity
from plaud_provider.recordings.reference import AudioReference

NOW = datetime(2026, 3, 24, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "url",
    [
        "https://bucket.example/a.wav",
        "https://bucket.example/a.MP3?X-Amz-Signature=1",
        "https://bucket.example:8443/a.m4a",
        "https://bucket.example/download/7f3a",
        "http://127.0.0.1:9000/a.wav",
        "http://localhost/a.wav",
        "http://[::1]/a.wav",
    ],
)
def test_a_url_that_plaud_can_fetch_is_taken(url: str) -> None:
    check_audio_url(AudioReference(url))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://bucket.example/a.wav?sig=canary", "scheme 'http'; Plaud fetches https://"),
        ("ftp://user:canary@bucket.example/a.wav", "scheme 'ftp'; Plaud fetches https://"),
        ("s3://bucket/a.wav", "scheme 's3'"),
        ("file:///etc/passwd", "scheme 'file'"),
        ("/recordings/a.wav", "is not a URL; pass a pre-signed https:// URL"),
        ("bucket.example/a.wav?X-Amz-Signature=canary", "is not a URL"),
        ("https://[bucket.example/a.wav?X-Amz-Signature=canary", "is not a URL"),
        ("", "is not a URL"),
        ("https:///a.wav", "names no host"),
        ("https://user:canary@bucket.example/a.wav", "user name or password; pass a pre-signed URL"),
        ("https://bucket.example/a.ogg?token=canary", ".ogg file; Plaud transcribes .m4a, .mp3, .wav"),
        ("https://bucket.example/a.PDF", ".pdf file"),
    ],
)
def test_what_plaud_cannot_fetch_is_refused_with_the_remedy(url: str, why: str) -> None:
    with pytest.raises(PlaudInputError) as caught:
        check_audio_url(AudioReference(url))

    message = str(caught.value)
    assert message.startswith("audio_url: ")
    assert why in message
    assert message.endswith("Nothing was sent, nothing is paid for.")
    assert "canary" not in message


def url_that_expires(moment: datetime) -> AudioReference:
    query = (
        f"X-Amz-Date={moment - timedelta(hours=1):%Y%m%dT%H%M%SZ}&X-Amz-Expires=3600&X-Amz-Signature=canary"
    )
    return AudioReference(f"https://bucket.example/a.wav?{query}")


@pytest.mark.parametrize("left", [timedelta(minutes=2), timedelta(days=7)])
def test_a_url_that_lives_long_enough_is_taken(left: timedelta) -> None:
    check_validity(url_that_expires(NOW + left), now=NOW)


@pytest.mark.parametrize(
    ("left", "why"),
    [
        (timedelta(0), "expired at 2026-03-24 10:00:00 UTC; sign it again"),
        (timedelta(days=-1), "expired at 2026-03-23 10:00:00 UTC; sign it again"),
        (timedelta(seconds=119), "expires at 2026-03-24 10:01:59 UTC, too soon for Plaud to fetch it"),
    ],
)
def test_a_url_that_expires_too_soon_is_refused_before_it_is_paid_for(left: timedelta, why: str) -> None:
    with pytest.raises(PlaudExpiredUrlError, match=r"audio_url: 'https://bucket\.example/a\.wav'") as caught:
        check_validity(url_that_expires(NOW + left), now=NOW)

    assert why in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_url_that_does_not_say_when_it_expires_is_taken() -> None:
    check_validity(AudioReference("https://bucket.example/a.wav?token=1"), now=NOW)


@pytest.mark.parametrize(
    "name",
    ["recording.php?id=5", "john.smith", "a.mpga", "a.wave", "a.bin", "a.mp4", "a", "v1.2"],
)
def test_a_url_is_not_refused_for_a_name_that_may_be_a_recordings(name: str) -> None:
    GivenUrl(AudioReference(f"https://files.example/{name}"))
