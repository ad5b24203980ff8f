"""From a reference to a URL that Plaud can fetch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import BinaryIO, Protocol

from plaud_provider.exceptions import PlaudInputError
from plaud_provider.recordings.given_urls import MINIMUM_VALIDITY, GivenUrl
from plaud_provider.recordings.local_files import LocalFile
from plaud_provider.recordings.reference import AudioReference, refused
from plaud_provider.recordings.stored_objects import StoredObject
from plaud_provider.storage.bucket import FileSystems
from plaud_provider.storage.kinds import KINDS

#: S3 and Google Cloud Storage sign for no longer than a week. One limit for all, so that nobody has to know.
MAXIMUM_VALIDITY = timedelta(days=7)


class AudioSource(Protocol):
    """Where a recording is. It was made from a checked reference; the rest is asked of the storage."""

    @property
    def audio(self) -> AudioReference:
        """The reference."""

    @property
    def is_ranged(self) -> bool:
        """Whether each read of it is a request to a storage."""

    @property
    def is_readable(self) -> bool:
        """Whether its content can be looked at from here."""

    def connect(self) -> None:
        """Open its storage: what is wrong then is wrong with the connection, not with the recording."""

    def look(self) -> str | None:
        """
        Check that the recording can be read; return the version of its content, where there is one.

        Each look sees what is there at that moment. One that finds what an earlier one of the same source
        has read does not read it again, so a look right before a URL is signed costs next to nothing.
        """

    def open(self) -> BinaryIO:
        """Open it for a few ranged reads; close it after."""

    def stream(self) -> BinaryIO:
        """Open it to be read from its beginning to its end; close it after."""

    def url(self) -> AudioReference:
        """Return a URL that Plaud can fetch; revealed, it is a secret."""


def audio_source(
    audio: AudioReference,
    *,
    url_validity: timedelta,
    public_urls: Mapping[str, str],
    file_systems: FileSystems | None = None,
    is_uploadable: bool = False,
) -> AudioSource:
    """
    Return where a recording is, having checked what can be checked without asking anybody.

    :param audio: An ``https://`` URL, an ``s3://``, ``gs://`` or ``abfs://`` reference, or a local file.
    :param url_validity: What :func:`validate_url_validity` returned.
    :param public_urls: What :func:`~plaud_provider.recordings.local_files.validate_public_urls` returned.
    :param file_systems: Shared by the recordings of a task, so that each connection is opened once.
    :param is_uploadable: Whether what Plaud cannot fetch can be uploaded.
    :raises PlaudInputError: if Plaud could not fetch or transcribe it; nothing was sent.
    """
    if audio.scheme in KINDS:
        return StoredObject(audio, url_validity, file_systems)
    if audio.is_local:
        return LocalFile(audio, public_urls, is_uploadable=is_uploadable)
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
