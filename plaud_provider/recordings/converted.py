"""Recordings that are converted before Plaud fetches them, and kept until they are landed."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from typing import IO, TYPE_CHECKING, BinaryIO

from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.recordings import ffmpeg
from plaud_provider.recordings.audio import Measured
from plaud_provider.recordings.convert import to_mp3
from plaud_provider.recordings.local_files import is_served
from plaud_provider.recordings.media import TOLERATED_CLAIM, length_in_words
from plaud_provider.recordings.reference import AudioReference, refused
from plaud_provider.recordings.sources import audio_source
from plaud_provider.storage.folder import LocalFolder, StoredFolder, parse_folder

if TYPE_CHECKING:
    from plaud_provider.recordings.sources import AudioSource

log = logging.getLogger(__name__)

_STATE = "Nothing was sent, nothing is paid for."
#: Folder of what is converted, below results_path.
CONVERTED = "converted"


def converted_folder(results_path: str) -> LocalFolder | StoredFolder:
    """
    Return where converted recordings are kept.

    :param results_path: Folder that the tasks of a run share.
    :raises PlaudConfigurationError: if it is none.
    """
    return parse_folder(
        f"{results_path.rstrip('/')}/{CONVERTED}/",
        argument="results_path",
        state=_STATE,
        kind=PlaudConfigurationError,
    )


def check_served(folder: LocalFolder | StoredFolder, public_urls: Mapping[str, str]) -> None:
    """
    Check that Plaud can fetch what is kept.

    :raises PlaudConfigurationError: if it lies on a disk that nobody serves.
    """
    if not is_served(AudioReference(folder.root), public_urls):
        raise folder.argument.error(
            "is a local folder, from which Plaud cannot fetch what convert='mp3' makes. Serve it, name it "
            "in public_urls, or put results_path into object storage",
            PlaudConfigurationError,
        )


def converted_name(key: str) -> str:
    """Return what the MP3 of a recording is called, by the recording's key."""
    return f"{key}.mp3"


class ConvertedRecording:
    """
    A recording of which Plaud is given an MP3.

    It is converted when its URL is asked for, unless that was done before: the file is named by the
    recording's key, which has the version of its content in it.

    :param source: The recording as it is.
    :param folder: What :func:`converted_folder` returned.
    :param key: Its identity.
    :param found: What is known of it.
    :param url_validity: How long Plaud has to fetch it.
    :param public_urls: From where Plaud can fetch local files.
    """

    def __init__(
        self,
        source: AudioSource,
        folder: LocalFolder | StoredFolder,
        key: str,
        found: Measured,
        *,
        url_validity: timedelta,
        public_urls: Mapping[str, str],
    ) -> None:
        self.audio = source.audio
        self.is_ranged = source.is_ranged
        self.is_readable = source.is_readable
        self._source = source
        self._folder = folder
        self._name = converted_name(key)
        self._found = found
        self._converted = audio_source(
            AudioReference(folder.root + self._name), url_validity=url_validity, public_urls=public_urls
        )

    def connect(self) -> None:
        """Open the storage of the recording."""
        self._source.connect()

    def look(self) -> str | None:
        """Return the version of the recording as it is."""
        return self._source.look()

    def open(self) -> BinaryIO:
        """Open the recording as it is."""
        return self._source.open()

    def stream(self) -> BinaryIO:
        """Open the recording as it is, to be read from its beginning to its end."""
        return self._source.stream()

    def url(self) -> AudioReference:
        """
        Return a URL of the MP3, converted now if it was not before.

        :raises PlaudInputError: if it cannot be converted, or less of it than it claims to have.
        :raises PlaudError: as the storages do.
        """
        # If that fails, it need not be converted.
        self._converted.url()
        if not self._folder.has(self._name):
            self._convert()
        return self._converted.url()

    def _convert(self) -> None:
        with tempfile.NamedTemporaryFile(suffix=".mp3") as target:
            convert_recording(self._source, self._found, target)
            self._folder.upload(self._name, target.name)


def convert_recording(source: AudioSource, found: Measured, target: IO[bytes]) -> None:
    """
    Convert a recording to MP3.

    :param source: The recording.
    :param found: What is known of it.
    :param target: An open file, to write to.
    :raises PlaudInputError: if it cannot be converted, or less of it than it claims to have.
    :raises PlaudError: as the storages do.
    """
    with source.stream() as file:
        try:
            seconds = to_mp3(file, target)
        except ffmpeg.UnreadableError as error:
            raise refused(source.audio, f"{error}: it cannot be converted") from None
    target.flush()
    claimed = found.seconds if found.kind == "measured" else None
    if claimed is not None and claimed > seconds * TOLERATED_CLAIM + 1:
        raise refused(
            source.audio,
            f"is cut off or damaged: of {length_in_words(claimed)} that it claims, "
            f"{length_in_words(seconds)} could be converted. Copy or record it again",
        )
    log.info("Converted %s (%s) to MP3.", source.audio.uri, found.format.upper())
