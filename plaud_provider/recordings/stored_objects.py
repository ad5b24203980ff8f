"""
Recordings in object storage, and URLs that are signed for them.

An object is pre-signed with the credentials of its Airflow connection: for reading this one object, for a
limited time. Whoever has such a URL has the recording, so it is only ever returned.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import BinaryIO

from plaud_provider.api.loopback import is_loopback
from plaud_provider.exceptions import PlaudNotFetchableError
from plaud_provider.recordings.reference import AudioReference, as_argument, refused
from plaud_provider.storage.bucket import Bucket, FileSystems, parse_location
from plaud_provider.storage.errors import archived
from plaud_provider.storage.kinds import ObjectMetadata
from plaud_provider.storage.ranges import BLOCK_BYTES, open_ranges, open_stream


class StoredObject:
    """
    A recording in object storage.

    Of ``scheme://connection@bucket/key`` the connection may be left out, as with Airflow's
    ``ObjectStoragePath``: then the libraries' default credentials are used. Azure's own form,
    ``abfs://container@account.dfs.core.windows.net/path``, is known by the dots in its host.

    :param audio: The reference; its key is taken as it is, not percent-decoded.
    :param url_validity: How long Plaud has to fetch it.
    :param file_systems: Shared with other recordings; ``None``: not shared.
    :raises PlaudInputError: if it names no object.
    """

    is_ranged = True
    is_readable = True

    def __init__(
        self, audio: AudioReference, url_validity: timedelta, file_systems: FileSystems | None = None
    ) -> None:
        self.audio = audio
        self._validity = url_validity
        self._argument = as_argument(audio)
        wanted = f"object; write {audio.scheme}://bucket/key"
        location = parse_location(self._argument, wanted=wanted)
        if not location.key.strip("/"):
            raise refused(audio, f"names no {wanted}")
        if location.key.endswith("/"):
            raise refused(audio, "names a folder; pass one recording")
        self._key = location.key
        self._needs = location.kind.needs
        self._bucket = Bucket(location, self._argument, file_systems)
        self._seen: tuple[ObjectMetadata, bytes] | None = None

    def connect(self) -> None:
        """
        Open the bucket's storage.

        :raises PlaudConfigurationError: if the connection or an extra is missing.
        """
        self._bucket.open()

    def look(self) -> str | None:
        """
        Check that the object is there, is a file, has content and can be read; return its version.

        Its beginning is read, which is the only sure way to know that it can be; in S3 that one request tells
        the rest as well. A further look takes one request, and reads it again only if it has another version.

        :raises PlaudInputError: if it cannot be transcribed, or is there and cannot be read: it is archived,
            encrypted, or denied to this connection.
        :raises PlaudConfigurationError: if the connection or an extra is missing, or may not look it up.
        :raises PlaudStorageError: if the storage could not be asked.
        """
        return self._look()[0].version

    def open(self) -> BinaryIO:
        """
        Open it for a few ranged reads; more of it than a few megabytes is not read.

        :raises PlaudError: as :meth:`look`, which is done first where it has not been.
        """
        found, head = self._seen or self._look()
        return open_ranges(partial(self._bucket.read, self._key), size=found.size or len(head), head=head)

    def stream(self) -> BinaryIO:
        """
        Open it to be read from its beginning to its end.

        :raises PlaudError: as :meth:`look`, which is done first where it has not been.
        """
        found, head = self._seen or self._look()
        return open_stream(partial(self._bucket.read, self._key), size=found.size or len(head))

    def url(self) -> AudioReference:
        """
        Return a URL that is signed now.

        :raises PlaudNotFetchableError: if the connection cannot sign a URL that Plaud could fetch.
        :raises PlaudStorageError: if the storage could not be asked.
        """
        signed = AudioReference(self._bucket.sign(self._key, self._validity))
        if signed.scheme != "https" and not is_loopback(signed.host):
            raise self._not_fetchable(
                f"is in a storage to which {self._bucket.connection} leads over {signed.scheme}://; Plaud "
                "fetches https:// URLs only"
            )
        if signed.expires_at is None:
            raise self._not_fetchable(
                f"was not signed by {self._bucket.connection}. Signing needs {self._needs}. Of a public "
                "object pass its https:// URL"
            )
        return signed

    def _look(self) -> tuple[ObjectMetadata, bytes]:
        """Look the object up; return that and its beginning."""
        if self._seen is None:
            begun = self._bucket.begin(self._key, BLOCK_BYTES)
            if begun is not None and begun[0].size:
                self._seen = begun
                return begun
        found = self._bucket.look_up(self._key)
        if found.size == 0:
            raise refused(self.audio, "is empty")
        if found.is_archived:
            raise archived(self._argument)
        if self._seen is None or found.version is None or found.version != self._seen[0].version:
            head = self._bucket.read(self._key, 0, min(BLOCK_BYTES, found.size or BLOCK_BYTES))
            self._seen = (found, head)
        return self._seen

    def _not_fetchable(self, why: str) -> PlaudNotFetchableError:
        return refused(self.audio, why, PlaudNotFetchableError)
