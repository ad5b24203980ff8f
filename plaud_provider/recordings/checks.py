"""Checks that keep what cannot be transcribed from being paid for."""

from __future__ import annotations

from datetime import datetime, timedelta

from plaud_provider.api.regions import is_loopback
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.recordings.reference import AudioReference

#: What Plaud takes, by extension. A reference without an extension is let through: it may be any of them.
AUDIO_EXTENSIONS = (".m4a", ".mp3", ".wav")
#: A pre-signed URL has to live until Plaud has fetched it, which is not at once.
MINIMUM_VALIDITY = timedelta(minutes=2)


def check_audio_url(audio: AudioReference) -> None:
    """
    Check what a URL that Plaud is to fetch looks like.

    :raises PlaudInputError: if Plaud could not fetch or transcribe it; nothing was sent, nothing is paid for.
    """
    if audio.scheme != "https" and not (audio.scheme == "http" and is_loopback(audio.host)):
        raise _refused(
            audio,
            f"has the scheme {audio.scheme!r}; Plaud fetches https:// URLs"
            if audio.scheme
            else "is not a URL; pass a pre-signed https:// URL of the recording",
        )
    if not audio.host:
        raise _refused(audio, "names no host")
    if audio.has_user_information:
        raise _refused(audio, "carries a user name or password; pass a pre-signed URL instead")
    check_extension(audio)


def check_validity(audio: AudioReference, *, now: datetime) -> None:
    """
    Check how long a pre-signed URL is still valid, where the URL tells.

    :param now: The time, with time zone.
    :raises PlaudInputError: if Plaud would come too late to fetch it; nothing was sent, nothing is paid for.
    """
    expires_at = audio.expires_at
    if expires_at is None:
        return
    if expires_at <= now:
        raise _refused(audio, f"expired at {expires_at:%Y-%m-%d %H:%M:%S} UTC; sign it again")
    if expires_at < now + MINIMUM_VALIDITY:
        raise _refused(
            audio,
            f"expires at {expires_at:%Y-%m-%d %H:%M:%S} UTC, too soon for Plaud to fetch it (at least "
            f"{MINIMUM_VALIDITY.total_seconds():.0f} seconds are needed, an hour is better); sign it for "
            "longer",
        )


def check_extension(audio: AudioReference) -> None:
    """
    Check the kind of file by its extension.

    :raises PlaudInputError: if Plaud does not take it.
    """
    if audio.extension and audio.extension not in AUDIO_EXTENSIONS:
        raise _refused(
            audio,
            f"is a {audio.extension} file; Plaud transcribes {', '.join(AUDIO_EXTENSIONS)} files: convert it "
            "first",
        )


def _refused(audio: AudioReference, why: str) -> PlaudInputError:
    return PlaudInputError(f"audio_url: {audio.uri!r} {why}. Nothing was sent, nothing is paid for.")
