"""
A bucket behind an Airflow connection, asked without leaking anything.

Whatever a library raises or logs stays here: a signed URL, a header or what was written is in no log record,
not even in those that the libraries write, and in no exception.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

from plaud_provider.exceptions import PlaudConfigurationError, PlaudError, how_to_install
from plaud_provider.storage import errors
from plaud_provider.storage.errors import Argument
from plaud_provider.storage.kinds import KINDS, Azure, ObjectMetadata, Page, StorageKind

T = TypeVar("T")
#: Makes an error of ours of a library's, about an argument and whom the storage was asked as.
ErrorMaker = Callable[[Argument, str, Exception], PlaudError]

#: A storage that does not answer must not keep a task from re-attaching to what it has paid for.
LOOKUP_SECONDS = 60
#: Likewise for a converted recording of a day.
UPLOAD_SECONDS = 3600

# [connection@]bucket[/key]; a key may contain anything.
_LOCATION = re.compile(r"(?:(?P<user>[^/]*)@)?(?P<bucket>[^/@:]+)(?:/(?P<key>.*))?", re.DOTALL)


class Location(NamedTuple):
    """
    Where something is: ``scheme://connection@bucket/key``.

    Azure's own form, ``abfs://container@account.dfs.core.windows.net/path``, is known by the dots in its
    host.

    :param root: The reference as given, up to the key and with a ``/`` at its end.
    :param kind: Kind of storage.
    :param scheme: Its scheme in lower case.
    :param conn_id: Airflow connection; ``None`` for the libraries' default credentials.
    :param account: Azure's storage account, where it is named.
    :param bucket: Bucket or container.
    :param key: The rest, not percent-decoded.
    """

    root: str
    kind: StorageKind
    scheme: str
    conn_id: str | None
    account: str
    bucket: str
    key: str


def parse_location(argument: Argument, *, wanted: str) -> Location:
    """
    Take a reference apart.

    :param argument: The reference, or that of a folder, of a scheme in
        :data:`~plaud_provider.storage.kinds.KINDS`.
    :param wanted: What it is to name, as in "names no ...".
    :raises PlaudError: if it names none; of the kind that the argument says.
    """
    value = argument.value
    scheme = value.partition(":")[0].lower()
    kind = KINDS[scheme]
    found = _LOCATION.fullmatch(value.partition("://")[2])
    if not found:
        raise argument.error(f"names no {wanted}")
    user, bucket, key = found["user"] or "", found["bucket"], found["key"] or ""
    if ":" in user:
        raise argument.error("carries a password; name an Airflow connection instead")
    account = ""
    if isinstance(kind, Azure) and "." in bucket:
        account = bucket.partition(".")[0]
        user, _, bucket = user.rpartition("@")
        if not bucket:
            raise argument.error(f"names no container; write {scheme}://container@account.…/path")
    root = value[: len(value) - len(key)].removesuffix("/") + "/"
    return Location(root, kind, scheme, user or None, account, bucket, key)


class FileSystems:
    """
    File systems that are open, for as long as this lives: one for each scheme and connection.

    Opening one looks a connection up, and may ask for temporary credentials; it keeps its own connections to
    the storage. So whoever handles many recordings shares one of these among them. Any thread may.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: dict[tuple[str, str | None], Any] = {}

    def get(self, location: Location, opened: Callable[[], Any]) -> Any:
        """Return the file system of a location, opened now if it is the first of its kind."""
        key = (location.scheme, location.conn_id)
        with self._lock:
            if key not in self._opened:
                self._opened[key] = opened()
            return self._opened[key]


class Bucket:
    """
    The bucket of a location. It is opened at its first use, and keeps no listing.

    Its methods raise :class:`~plaud_provider.exceptions.PlaudConfigurationError` if the connection, an extra
    or a right is missing, and :class:`~plaud_provider.exceptions.PlaudStorageError` if the storage cannot be
    used now. None waits for ever: some libraries retry for half an hour.

    :param location: Where it is.
    :param argument: What errors are about.
    :param file_systems: Where its file system is kept; ``None``: nobody else uses it.
    """

    def __init__(
        self, location: Location, argument: Argument, file_systems: FileSystems | None = None
    ) -> None:
        self._location = location
        self._kind = location.kind
        self._argument = argument
        self._file_systems = file_systems or FileSystems()

    def open(self) -> None:
        """Look the connection up."""
        _ = self._file_system

    def look_up(self, key: str) -> ObjectMetadata:
        """
        Return what the storage says about an object.

        :raises PlaudInputError: if there is none, or it is a folder.
        """
        return self._call(errors.not_found, self._kind.describe, key)

    def begin(self, key: str, size: int) -> tuple[ObjectMetadata, bytes] | None:
        """Return that and an object's first bytes, where it is one request; ``None`` else."""
        return self._call(errors.not_found, self._kind.begin, key, size)

    def pages(self, prefix: str, *, delimiter: str = "") -> Iterator[Page]:
        """
        List what begins with a prefix.

        :raises PlaudInputError: if there is no such bucket.
        """
        after = ""
        while True:
            page = self._call(errors.not_listed, self._kind.page, prefix, after=after, delimiter=delimiter)
            yield page
            after = page.next
            if not after:
                return

    def read(self, key: str, start: int, end: int) -> bytes:
        """
        Return bytes of an object that could be looked up.

        :raises PlaudInputError: if the storage does not give this one: it is archived, or encrypted.
        """
        return self._call(errors.not_readable, self._kind.read, key, (start, end))

    def read_file(self, key: str) -> bytes | None:
        """Return all of an object; ``None`` if there is none."""
        return self._call(errors.file_not_read, _if_there(self._kind.read), key, None)

    def write_file(self, key: str, content: bytes) -> None:
        """Write an object, whole or not at all."""
        self._call(errors.file_not_written, self._kind.write, key, content)

    def upload_file(self, key: str, path: str) -> None:
        """Write an object from a local file."""
        self._call(errors.file_not_written, self._kind.upload, key, path, timeout=UPLOAD_SECONDS)

    def remove_file(self, key: str) -> None:
        """Remove an object, if there is one."""
        self._call(errors.file_not_removed, _if_there(self._kind.remove), key)

    def sign(self, key: str, validity: timedelta) -> str:
        """
        Return a URL that gives an object for so long; it is a secret.

        :raises PlaudConfigurationError: if the connection cannot sign.
        """
        explain = partial(errors.not_signed, needs=self._kind.needs)
        return self._call(explain, self._kind.sign, key, validity)

    @property
    def connection(self) -> str:
        """How errors call whom the storage is asked as."""
        conn_id = self._location.conn_id
        return f"connection {conn_id!r}" if conn_id else "this worker's default credentials"

    @cached_property
    def _file_system(self) -> Any:
        file_system = self._file_systems.get(self._location, self._opened)
        if self._location.account and self._kind.account(file_system) != self._location.account:
            raise self._misconfigured(
                f"is in the storage account {self._location.account!r}, but {self.connection} leads to "
                "another. Name a connection of that account: abfs://connection@container@account.…/path"
            )
        return file_system

    def _opened(self) -> Any:
        self._check_connection()
        file_system = self._guard(partial(errors.not_opened, needs=self._kind.needs), self._open)
        self._kind.prepare(file_system)
        # fsspec would keep it, and its network connections, until the process ends; a triggerer opens many.
        type(file_system)._cache.pop(file_system._fs_token_, None)
        return file_system

    def _check_connection(self) -> None:
        """Without a connection that is missing, the Amazon provider would go on as somebody else."""
        conn_id = self._location.conn_id
        if not conn_id:
            return
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        try:
            BaseHook.get_connection(conn_id)
        except AirflowNotFoundException:
            raise self._misconfigured(
                f"names the Airflow connection {conn_id!r}, which does not exist. Create it (Admin > "
                f"Connections, or AIRFLOW_CONN_{conn_id.upper()}) or correct the reference"
            ) from None

    def _open(self) -> Any:
        from airflow.sdk.io import get_fs, has_fs

        scheme = self._location.scheme
        try:
            if has_fs(scheme):
                return get_fs(scheme, self._location.conn_id, dict(self._kind.file_system_options))
        except ImportError:
            pass
        raise self._misconfigured(
            "needs libraries that are not installed on this worker. Install them: "
            f"{how_to_install(self._kind.extra)}"
        )

    def _call(
        self,
        explain: ErrorMaker,
        operation: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        timeout: float | None = None,
        **options: Any,
    ) -> T:
        """
        Have the storage do something.

        :param explain: Says what an error of the library means.
        :param operation: A method of :class:`~plaud_provider.storage.kinds.StorageKind`.
        :param timeout: Seconds that it may take; ``None``: those of a lookup.
        """
        file_system = self._file_system
        coroutine = partial(operation, file_system, self._location.bucket, *args, **options)
        return self._guard(explain, lambda: _wait(file_system, coroutine, timeout or LOOKUP_SECONDS))

    def _guard(self, explain: ErrorMaker, call: Callable[[], T]) -> T:
        """Call a library; whatever it raises or logs stays here."""
        try:
            with no_debug_records():
                return call()
        except PlaudError:
            raise
        except Exception as error:
            problem = explain(self._argument, self.connection, error)
        # Raised out here, it has no context that would carry the library's text along.
        raise problem

    def _misconfigured(self, why: str) -> PlaudError:
        return self._argument.error(why, PlaudConfigurationError)


def _if_there(
    operation: Callable[..., Coroutine[Any, Any, T]],
) -> Callable[..., Coroutine[Any, Any, T | None]]:
    """Return an operation that returns ``None`` of what is not there."""

    async def tried(*args: Any) -> T | None:
        try:
            return await operation(*args)
        except FileNotFoundError:
            return None

    return tried


def _wait(file_system: Any, coroutine: Callable[[], Coroutine[Any, Any, T]], timeout: float) -> T:
    from fsspec.asyn import sync  # type: ignore[import-untyped]

    result: T = sync(file_system.loop, coroutine, timeout=timeout)
    return result


class _Silence:
    """Who, in any thread, has DEBUG records disabled now."""

    lock = threading.Lock()
    holders = 0
    before = 0


@contextmanager
def no_debug_records() -> Iterator[None]:
    """Keep libraries from logging what they sign or send; botocore does at DEBUG, and in another thread."""
    with _Silence.lock:
        if not _Silence.holders:
            _Silence.before = logging.root.manager.disable
            logging.disable(max(_Silence.before, logging.DEBUG))
        _Silence.holders += 1
    try:
        yield
    finally:
        with _Silence.lock:
            _Silence.holders -= 1
            if not _Silence.holders:
                logging.disable(_Silence.before)
