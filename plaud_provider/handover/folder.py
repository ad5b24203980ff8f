"""
A folder in which tasks and triggers leave files for each other: on a shared disk, or in object storage.

A reader sees all of a file or none of it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudError,
    PlaudInputError,
    PlaudStorageError,
)
from plaud_provider.storage.bucket import Bucket, Explain, Location
from plaud_provider.storage.errors import Subject, not_read, not_removed, not_written
from plaud_provider.storage.folder import LocalFolder, folder_key, parse_folder


class WorkFolder(Protocol):
    """
    A folder of files, by their names. Nothing is asked of a storage before the first call.

    All methods block, and raise :class:`~plaud_provider.exceptions.PlaudConfigurationError` if the folder, a
    right, a connection or an extra is missing, and :class:`~plaud_provider.exceptions.PlaudStorageError` if
    it cannot be used now.
    """

    @property
    def root(self) -> str:
        """How the paths of what is in it begin."""

    @property
    def subject(self) -> Subject:
        """What errors about it are about."""

    @property
    def conn_id(self) -> str | None:
        """Airflow connection that it needs."""

    def open(self) -> None:
        """Look its connection up, and make it if it is a local one."""

    def names(self) -> Iterator[str]:
        """Return what is right in it."""

    def read(self, name: str) -> bytes | None:
        """Return a file's content; ``None`` if there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, in place of an earlier one."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, where they are."""


def work_folder(path: str, *, argument: str, state: str) -> WorkFolder:
    """
    Return a folder.

    :param path: ``s3://connection@bucket/prefix/``, ``gs://…``, ``abfs://…``, ``file:///folder`` or an
        absolute path.
    :param argument: The argument that gave it.
    :param state: What state things are in if it cannot be used.
    :raises PlaudConfigurationError: if it is none, or carries a password.
    """
    try:
        folder, subject = parse_folder(path, argument=argument, state=state)
    except PlaudInputError as wrong:
        raise PlaudConfigurationError(str(wrong)) from None
    if isinstance(folder, LocalFolder):
        return _LocalFiles(folder, subject)
    return _StoredFiles(folder, subject)


class _LocalFiles:
    conn_id = None

    def __init__(self, folder: LocalFolder, subject: Subject) -> None:
        self.root = folder.root
        self.subject = subject
        self._path = folder.path

    def open(self) -> None:
        with self._explained("written to"):
            # Transcripts lie there: they are nobody else's.
            os.makedirs(self._path, mode=0o700, exist_ok=True)

    def names(self) -> Iterator[str]:
        with self._explained("read"):
            names = os.listdir(self._path) if os.path.isdir(self._path) else []
        yield from names

    def read(self, name: str) -> bytes | None:
        with self._explained("read"):
            try:
                with open(os.path.join(self._path, name), "rb") as file:
                    return file.read()
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        self.open()
        with self._explained("written to"):
            descriptor, path = tempfile.mkstemp(prefix=f".{name}.", dir=self._path)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    # Else a crash of the machine could leave a file with the name and without the content.
                    os.fsync(file.fileno())
                os.replace(path, os.path.join(self._path, name))
            except BaseException:
                with suppress(OSError):
                    os.unlink(path)
                raise

    def remove(self, names: Iterable[str]) -> None:
        with self._explained("cleared"):
            for name in names:
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._path, name))

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except PermissionError:
            raise self.subject.refused(
                f"may not be {what} by this worker's user. Give it the right to read and write there",
                PlaudConfigurationError,
            ) from None
        except (NotADirectoryError, FileExistsError):
            raise self.subject.refused(
                "is a file, or below one; pass a folder", PlaudConfigurationError
            ) from None
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else type(error).__name__
            raise self.subject.refused(
                f"could not be {what} ({why}). Check its disk, and try again", PlaudStorageError
            ) from None


class _StoredFiles:
    def __init__(self, location: Location, subject: Subject) -> None:
        self.subject = subject
        self.conn_id = location.conn_id
        self._key = folder_key(location)
        self.root = location.root + self._key
        self._bucket = Bucket(location, subject)

    def open(self) -> None:
        self._bucket.open()

    def names(self) -> Iterator[str]:
        for page in self._bucket.pages(self._key, delimiter="/"):
            for entry in page.entries:
                if name := entry.key[len(self._key) :]:
                    yield name

    def read(self, name: str) -> bytes | None:
        try:
            content: bytes = self._bucket.ask(_unless_missing(not_read), "read", self._key + name, None)
        except _MissingError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        self._bucket.ask(not_written, "write", self._key + name, content)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(_MissingError):
                self._bucket.ask(_unless_missing(not_removed), "remove", self._key + name)


class _MissingError(PlaudError):
    """There is no such file."""


def _unless_missing(explain: Explain) -> Explain:
    def explained(subject: Subject, connection: str, error: Exception) -> PlaudError:
        return (
            _MissingError() if isinstance(error, FileNotFoundError) else explain(subject, connection, error)
        )

    return explained
