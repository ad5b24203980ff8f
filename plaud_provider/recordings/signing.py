"""From a reference to a URL that Plaud can fetch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, NamedTuple, Protocol

from plaud_provider.exceptions import PlaudError, PlaudInputError
from plaud_provider.recordings.checks import MINIMUM_VALIDITY, check_audio_url, check_validity
from plaud_provider.recordings.local_files import LocalFile, is_local
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.recordings.stored_objects import StoredObject, is_stored
from plaud_provider.storage.bucket import FileSystems
from plaud_provider.storage.errors import refused

#: S3 and Google Cloud Storage sign for no longer than a week. One limit for all, so that nobody has to know.
MAXIMUM_VALIDITY = timedelta(days=7)


class AudioSource(Protocol):
    """Where a recording is. It was made from a checked reference; the rest is asked of the storage."""

    @property
    def audio(self) -> AudioReference:
        """The reference."""

    def connect(self) -> None:
        """Open its storage: what is wrong then is wrong with the connection, not with the recording."""

    def look(self) -> str | None:
        """Check that the recording can be read; return the version of its content, where there is one."""

    def open(self) -> BinaryIO:
        """Open it for a few ranged reads; close it after."""

    def url(self) -> AudioReference:
        """Return a URL that Plaud can fetch; revealed, it is a secret."""


class Sighting(NamedTuple):
    """
    What a look at a recording's storage told.

    :param version: Version of the content, where the storage has one.
    :param problem: Why the recording cannot be submitted now.
    """

    version: str | None = None
    problem: PlaudError | None = None


def look_at(source: AudioSource) -> Sighting:
    """Look at a recording; a problem is returned, since whoever has submitted it before may not care."""
    try:
        return Sighting(version=source.look())
    except PlaudError as problem:
        return Sighting(problem=problem)


def audio_source(
    audio: AudioReference,
    *,
    url_validity: timedelta,
    public_urls: Mapping[str, str],
    file_systems: FileSystems | None = None,
) -> AudioSource:
    """
    Return where a recording is, having checked what can be checked without asking anybody.

    :param audio: An ``https://`` URL, an ``s3://``, ``gs://`` or ``abfs://`` reference, or a local file.
    :param url_validity: What :func:`validate_url_validity` returned.
    :param public_urls: What :func:`~plaud_provider.recordings.local_files.validate_public_urls` returned.
    :param file_systems: Shared by the recordings of a task, so that each connection is opened once.
    :raises PlaudInputError: if Plaud could not fetch or transcribe it; nothing was sent.
    """
    if is_stored(audio):
        return StoredObject(audio, url_validity, file_systems)
    if is_local(audio):
        return LocalFile(audio, public_urls)
    if audio.scheme not in ("", "http", "https"):
        raise refused(
            audio,
            f"has the scheme {audio.scheme!r}; pass an https:// URL, or an s3://, gs:// or abfs:// reference",
        )
    return GivenUrl(audio)


def validate_url_validity(value: timedelta | float | str) -> timedelta:
    """
    Return for how long URLs are signed.

    :param value: That, or its seconds, also as text that a template has rendered.
    :raises PlaudInputError: if it is not two minutes to seven days; nothing was sent.
    """
    try:
        seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not MINIMUM_VALIDITY.total_seconds() <= seconds <= MAXIMUM_VALIDITY.total_seconds():
        raise PlaudInputError(
            f"url_validity: {str(value)!r} is not a time of two minutes to seven days, in seconds or as a "
            "timedelta. Plaud has to fetch the recording within it; some hours are usual. Nothing was sent, "
            "nothing is paid for."
        )
    return timedelta(seconds=int(seconds))


class GivenUrl:
    """
    A URL that the user has signed.

    :param audio: The URL.
    :raises PlaudInputError: if Plaud could not fetch or transcribe it.
    """

    def __init__(self, audio: AudioReference) -> None:
        check_audio_url(audio)
        self.audio = audio

    def connect(self) -> None:
        """Nothing is to be opened."""

    def look(self) -> str | None:
        """Nothing is asked of it: a URL that was signed for one GET may not even allow a HEAD."""

    def open(self) -> BinaryIO:
        """
        Refuse: it was signed for Plaud.

        :raises PlaudInputError: always.
        """
        raise refused(
            self.audio,
            "is a URL, which is not read here; pass a storage reference to have its length checked",
        )

    def url(self) -> AudioReference:
        """
        Return it, if it will be valid for long enough.

        :raises PlaudInputError: if it will not.
        """
        check_validity(self.audio, now=datetime.now(tz=UTC))
        return self.audio
