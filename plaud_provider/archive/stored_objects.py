"""
Recordings in object storage, and URLs that are signed for them.

An object is pre-signed by the file system behind its Airflow connection: for reading this one object, for a
limited time. Whoever has such a URL has the recording, so it is only ever returned: it is in no log record,
not even in those that the libraries write, and in no exception.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, partial
from typing import Any, TypeVar

from plaud_provider.api.regions import is_loopback
from plaud_provider.archive import storage_errors
from plaud_provider.archive.checks import check_extension
from plaud_provider.archive.reference import AudioReference
from plaud_provider.archive.storage_errors import refused
from plaud_provider.exceptions import PlaudConfigurationError, PlaudError

T = TypeVar("T")

#: A storage that does not answer must not keep a task from re-attaching to what it has paid for.
LOOKUP_SECONDS = 60

# [connection@]bucket/key; a key may contain anything.
_LOCATION = re.compile(r"(?:(?P<user>[^/]*)@)?(?P<bucket>[^/@:]+)/(?P<key>[^/].*)", re.DOTALL)


def is_stored(audio: AudioReference) -> bool:
    """Whether a reference is one of an object in storage."""
    return audio.scheme in _STORAGES


@dataclass(frozen=True, slots=True)
class _Storage:
    """
    What is particular about a kind of storage.

    :param extra: Extra of this distribution that brings its libraries.
    :param needs: What signing needs there.
    :param version: Version of an object's content, from what its file system tells. It has to be the same at
        each look as long as the content is, so it is the content's hash where there is one: other marks also
        change when only metadata do, and a changed mark is paid for.
    :param sign_options: What its ``sign()`` takes beside path and life.
    :param file_system_options: What Airflow's connection does not set.
    """

    extra: str
    needs: str
    version: Callable[[Mapping[str, Any]], object]
    sign_options: Mapping[str, Any]
    file_system_options: Mapping[str, Any]


def _azure_version(properties: Mapping[str, Any]) -> object:
    md5 = (properties.get("content_settings") or {}).get("content_md5")
    return bytes(md5).hex() if md5 else properties.get("etag")


_S3 = _Storage(
    extra="s3",
    needs="an access key, or a role that the connection may assume",
    version=lambda properties: properties.get("ETag"),
    sign_options={},
    # botocore still pre-signs with version 2 by default, which most buckets refuse.
    file_system_options={"signature_version": "s3v4"},
)
_GCS = _Storage(
    extra="gcs",
    needs="a service account key, or impersonation of a service account; other credentials cannot sign",
    version=lambda properties: properties.get("md5Hash") or properties.get("generation"),
    sign_options={"version": "v4"},
    file_system_options={},
)
_AZURE = _Storage(
    extra="azure",
    needs="the account's name (extra account_name) and key (password), or a connection string that has both; "
    "a service principal or a SAS token cannot sign",
    version=_azure_version,
    sign_options={},
    file_system_options={},
)
_STORAGES = {"s3": _S3, "gs": _GCS, "abfs": _AZURE, "abfss": _AZURE}


class StoredObject:
    """
    A recording in object storage.

    Of ``scheme://connection@bucket/key`` the connection may be left out, as with Airflow's
    ``ObjectStoragePath``: then the libraries' default credentials are used. Azure's own form,
    ``abfs://container@account.dfs.core.windows.net/path``, is known by the dots in its host.

    :param audio: The reference; its key is taken as it is, not percent-decoded.
    :param url_validity: How long Plaud has to fetch it.
    :raises PlaudInputError: if Plaud could not transcribe it.
    """

    def __init__(self, audio: AudioReference, url_validity: timedelta) -> None:
        self.audio = audio
        self._validity = url_validity
        self._storage = _STORAGES[audio.scheme]
        found = _LOCATION.fullmatch(audio.reveal().partition("://")[2])
        if not found:
            raise refused(audio, f"names no object; write {audio.scheme}://bucket/key")
        user, bucket, key = found["user"] or "", found["bucket"], found["key"]
        if ":" in user:
            raise refused(audio, "carries a password; name an Airflow connection instead")
        if key.endswith("/"):
            raise refused(audio, "names a folder; pass one recording")
        check_extension(audio)
        self._account = ""
        if self._storage is _AZURE and "." in bucket:
            self._account = bucket.partition(".")[0]
            user, _, bucket = user.rpartition("@")
            if not bucket:
                raise refused(audio, f"names no container; write {audio.scheme}://container@account.…/path")
        self._conn_id = user or None
        self._path = f"{bucket}/{key}"

    def look(self) -> str | None:
        """
        Check that the object is there, is a file, has content and can be read; return its version.

        :raises PlaudInputError: if it cannot be transcribed.
        :raises PlaudConfigurationError: if the connection or an extra is missing, or may not read it.
        :raises PlaudStorageError: if the storage could not be asked.
        """
        file_system = self._file_system
        lookup = partial(_ask, file_system, "_info", self._path)
        properties = self._guard(lookup, storage_errors.not_found)
        if properties.get("type") != "file":
            raise refused(self.audio, "is a folder; pass one recording")
        if properties.get("size") == 0:
            raise refused(self.audio, "is empty")
        # Archived and encrypted objects are listed like any other, and then cannot be fetched.
        read = partial(_ask, file_system, "_cat_file", self._path, start=0, end=1)
        self._guard(read, storage_errors.not_readable)
        version = self._storage.version(properties)
        return str(version).strip('"') if version else None

    def url(self) -> AudioReference:
        """
        Return a URL that is signed now.

        :raises PlaudConfigurationError: if the connection cannot sign a URL that Plaud could fetch.
        :raises PlaudStorageError: if the storage could not be asked.
        """
        sign = partial(
            self._file_system.sign,
            self._path,
            expiration=int(self._validity.total_seconds()),
            **self._storage.sign_options,
        )
        url = self._guard(sign, partial(storage_errors.not_signed, needs=self._storage.needs))
        signed = AudioReference(url)
        if signed.scheme != "https" and not is_loopback(signed.host):
            raise self._misconfigured(
                f"is in a storage to which {self._connection} leads over {signed.scheme}://; Plaud fetches "
                "https:// URLs only"
            )
        if signed.expires_at is None:
            raise self._misconfigured(
                f"was not signed by {self._connection}. Signing needs {self._storage.needs}. Of a public "
                "object pass its https:// URL"
            )
        return signed

    @cached_property
    def _file_system(self) -> Any:
        self._check_connection()
        file_system = self._guard(self._open, partial(storage_errors.not_opened, needs=self._storage.needs))
        if self._storage is _S3:
            # A URL has to be signed for the bucket's region, which need not be the connection's.
            file_system.cache_regions = True
        self._check_fits(file_system)
        file_system.invalidate_cache()
        return file_system

    def _check_connection(self) -> None:
        """Without a connection that is missing, the Amazon provider would go on as somebody else."""
        if not self._conn_id:
            return
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        try:
            BaseHook.get_connection(self._conn_id)
        except AirflowNotFoundException:
            raise self._misconfigured(
                f"names the Airflow connection {self._conn_id!r}, which does not exist. Create it (Admin > "
                f"Connections, or AIRFLOW_CONN_{self._conn_id.upper()}) or correct the reference"
            ) from None

    def _open(self) -> Any:
        from airflow.sdk.io import get_fs, has_fs

        try:
            if has_fs(self.audio.scheme):
                return get_fs(self.audio.scheme, self._conn_id, dict(self._storage.file_system_options))
        except ImportError:
            pass
        raise self._misconfigured(
            "needs libraries that are not installed on this worker. Install them: pip install "
            f"'airflow-provider-plaud[{self._storage.extra}]'"
        )

    def _check_fits(self, file_system: Any) -> None:
        """Check that the library will look at, and sign for, this object and no other."""
        if self._account:
            account = file_system.account_name or file_system.service_client.account_name
            if account != self._account:
                raise self._misconfigured(
                    f"is in the storage account {self._account!r}, but {self._connection} leads to another. "
                    "Name a connection of that account: abfs://connection@container@account.…/path"
                )
        if "/".join(file_system.split_path(self._path)[:2]) != self._path:
            raise refused(
                self.audio,
                "has a name that its storage's library does not take as it is ('?versionId=', '#', '//' and "
                "the like); rename it, or pass a pre-signed https:// URL",
            )

    def _guard(
        self, call: Callable[[], T], explain: Callable[[AudioReference, str, Exception], PlaudError]
    ) -> T:
        """Call a library; whatever it raises or logs stays here."""
        try:
            with _no_debug_records():
                return call()
        except PlaudError:
            raise
        except Exception as error:
            problem = explain(self.audio, self._connection, error)
        # Raised out here, it has no context that would carry the library's text along.
        raise problem

    def _misconfigured(self, why: str) -> PlaudConfigurationError:
        return refused(self.audio, why, PlaudConfigurationError)

    @property
    def _connection(self) -> str:
        if self._conn_id:
            return f"connection {self._conn_id!r}"
        return "this worker's default credentials"


def _ask(file_system: Any, coroutine: str, *args: Any, **options: Any) -> Any:
    """Call an asynchronous file system, but not for ever: some retry for half an hour."""
    from fsspec.asyn import sync  # type: ignore[import-untyped]

    function = getattr(file_system, coroutine)
    return sync(file_system.loop, function, *args, timeout=LOOKUP_SECONDS, **options)


@contextmanager
def _no_debug_records() -> Iterator[None]:
    """Keep libraries from logging what they sign; botocore does at DEBUG, and signs in another thread."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.DEBUG))
    try:
        yield
    finally:
        logging.disable(disabled)
