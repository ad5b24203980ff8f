"""Recordings of which the user gives an ``https://`` URL, signed by whomever."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import BinaryIO

from plaud_provider.api.loopback import is_loopback
from plaud_provider.exceptions import PlaudExpiredUrlError
from plaud_provider.recordings.reference import AudioReference, refused

#: A pre-signed URL has to live until Plaud has fetched it, which is not at once.
MINIMUM_VALIDITY = timedelta(minutes=2)
#: Endings of names that no M4A, MP3 or WAV has, whoever serves it. Any other may be one of them.
OTHER_EXTENSIONS = frozenset(
    {".txt", ".pdf", ".csv", ".json", ".docx", ".xlsx", ".zip", ".jpg", ".jpeg", ".png", ".gif"}
    | {".ogg", ".opus", ".flac", ".webm", ".amr", ".wma"}
)


class GivenUrl:
    """
    A URL that the user has signed.

    :param audio: The URL.
    :raises PlaudInputError: if Plaud could not fetch it.
    """

    is_ranged = False
    is_readable = False

    def __init__(self, audio: AudioReference) -> None:
        check_audio_url(audio)
        self.audio = audio

    def connect(self) -> None:
        """Nothing is to be opened."""

    def look(self) -> str | None:
        """Nothing is asked of it, and it has no version: what was signed for one GET may not allow a HEAD."""

    def open(self) -> BinaryIO:
        """
        Refuse: it was signed for Plaud.

        :raises PlaudInputError: always.
        """
        raise refused(
            self.audio,
            "is a URL, which is not read here; pass a storage reference to have its length checked",
        )

    def stream(self) -> BinaryIO:
        """Refuse likewise."""
        return self.open()

    def url(self) -> AudioReference:
        """
        Return it, if it will be valid for long enough.

        :raises PlaudExpiredUrlError: if it will not.
        """
        check_validity(self.audio, now=datetime.now(tz=UTC))
        return self.audio


def check_audio_url(audio: AudioReference) -> None:
    """
    Check what a URL that Plaud is to fetch looks like.

    What it leads to, Plaud's answer tells, not its name; but a name that certainly is one of something else
    is refused before it is sent.

    :raises PlaudInputError: if Plaud could not fetch it; nothing was sent, nothing is paid for.
    """
    if audio.scheme != "https" and not (audio.scheme == "http" and is_loopback(audio.host)):
        raise refused(
            audio,
            f"has the scheme {audio.scheme!r}; Plaud fetches https:// URLs"
            if audio.scheme
            else "is not a URL; pass a pre-signed https:// URL of the recording",
        )
    if not audio.host:
        raise refused(audio, "names no host")
    if audio.has_user_information:
        raise refused(audio, "carries a user name or password; pass a pre-signed URL instead")
    if audio.extension in OTHER_EXTENSIONS:
        raise refused(
            audio,
            f"is a {audio.extension} file; Plaud transcribes .m4a, .mp3, .wav files: convert it first",
        )


def check_validity(audio: AudioReference, *, now: datetime) -> None:
    """
    Check how long a pre-signed URL is still valid, where the URL tells.

    :param now: The time, with time zone.
    :raises PlaudExpiredUrlError: if Plaud would come too late to fetch it; nothing was sent, nothing is paid
        for.
    """
    expires_at = audio.expires_at
    if expires_at is None:
        return
    if expires_at <= now:
        raise refused(
            audio, f"expired at {expires_at:%Y-%m-%d %H:%M:%S} UTC; sign it again", PlaudExpiredUrlError
        )
    if expires_at < now + MINIMUM_VALIDITY:
        raise refused(
            audio,
            f"expires at {expires_at:%Y-%m-%d %H:%M:%S} UTC, too soon for Plaud to fetch it (at least "
            f"{MINIMUM_VALIDITY.total_seconds():.0f} seconds are needed, an hour is better); sign it for "
            "longer",
            PlaudExpiredUrlError,
        )
