"""
A folder that an argument names: on a disk of this host, or in object storage.

Its files are read and written whole: a reader sees all of a file or none of it.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import copy
from typing import IO, Self

from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudError,
    PlaudInputError,
    PlaudStorageError,
)
from plaud_provider.storage.bucket import Bucket, parse_location
from plaud_provider.storage.errors import Argument
from plaud_provider.storage.kinds import KINDS

_LOCAL_SCHEME = "file://"
#: Objects that are removed at once.
REMOVERS = 16

#: What a local file is called while it is written, and for good if its process is killed meanwhile.
_UNFINISHED = re.compile(r"\.(.+)\.[a-z0-9_]{8}")


def finished_name(path: str) -> str:
    """Return the path that a file has, or was to have once it was written."""
    folder, slash, name = path.rpartition("/")
    unfinished = _UNFINISHED.fullmatch(name)
    return folder + slash + unfinished[1] if unfinished else path


def parse_folder(
    path: str | os.PathLike[str], *, argument: str, state: str, kind: type[PlaudError] = PlaudInputError
) -> LocalFolder | StoredFolder:
    """
    Return the folder that a path names. Nothing is asked of a storage.

    :param path: ``s3://connection@bucket/prefix/``, ``gs://…``, ``abfs://…``, ``file:///folder`` or an
        absolute path. A ``/`` at its end may be left out; names are taken as they are.
    :param argument: The argument that gave it.
    :param state: What state things are in if it cannot be used.
    :param kind: Class of an error if it is none.
    :raises PlaudError: of that class, if it is none, or carries a password.
    """
    path = "" if path is None else str(path)
    if not path.strip():
        raise Argument(argument, path, state, kind).error("is no folder; pass its path")
    named = Argument(argument, path.lstrip(), state, kind)
    scheme = named.value.partition(":")[0].lower()
    if scheme in KINDS:
        return StoredFolder(named, scheme)
    local = named.value.removeprefix(_LOCAL_SCHEME)
    if not local.startswith("/"):
        raise named.error(
            "is no folder of a kind that is known; pass an absolute path, or an s3://, gs:// or abfs:// path"
        )
    if ".." in local.split("/") or "\x00" in local:
        raise named.error("contains '..'; pass the path itself")
    return LocalFolder(named, "/" + os.path.normpath(local).lstrip("/"))


async def open_from_loop(folder: LocalFolder | StoredFolder) -> None:
    """
    Open a folder from an event loop.

    :param folder: The folder.
    :raises AirflowNotFoundException: if there is no such connection. A failure of Airflow's API looks the
        same, so that another attempt may find it.
    """
    if folder.conn_id:
        from airflow.providers.common.compat.connection import get_async_connection

        await get_async_connection(folder.conn_id)
    # A lookup of the file system's own then goes from that thread over this loop to the supervisor.
    await asyncio.to_thread(folder.open)


class StoredFolder:
    """
    A folder in object storage.

    Its methods raise what those of :class:`~plaud_provider.storage.bucket.Bucket` do.

    :param argument: What errors about it are about.
    :param scheme: Scheme of its path.
    """

    def __init__(self, argument: Argument, scheme: str) -> None:
        location = parse_location(argument, wanted=f"bucket; write {scheme}://bucket/")
        self.argument = argument
        #: Airflow connection that it needs.
        self.conn_id = location.conn_id
        #: How the keys of what is in it begin.
        self.key = location.key if not location.key or location.key.endswith("/") else f"{location.key}/"
        #: How references to what is in its bucket begin.
        self.bucket_root = location.root
        #: How references to what is in it begin.
        self.root = location.root + self.key
        self.bucket = Bucket(location, argument)

    def below(self, name: str) -> Self:
        """Return a folder in it, which shares its open storage."""
        folder = copy(self)
        folder.key += f"{name}/"
        folder.root += f"{name}/"
        return folder

    def open(self) -> None:
        """Look its connection up."""
        self.bucket.open()

    def names(self) -> list[str]:
        """Return the names of the files right in it."""
        keys = [found.key for page in self.bucket.pages(self.key, delimiter="/") for found in page.objects]
        return [key[len(self.key) :] for key in keys if key != self.key]

    def read(self, name: str) -> bytes | None:
        """Return a file's content; ``None`` if there is none."""
        return self.bucket.read_file(self.key + name)

    def write(self, name: str, content: bytes) -> None:
        """Write a file, in place of an earlier one."""
        self.bucket.write_file(self.key + name, content)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        key = self.key + name
        return any(found.key == key for page in self.bucket.pages(key) for found in page.objects)

    def upload(self, name: str, path: str) -> None:
        """Write a file with the content of a local one, in place of an earlier one."""
        self.bucket.upload_file(self.key + name, path)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, where they are, several at once."""
        with ThreadPoolExecutor(REMOVERS) as removers:
            # What a thread raises, the list does.
            list(removers.map(lambda name: self.bucket.remove_file(self.key + name), names))

    def files(self) -> Iterator[tuple[str, float]]:
        """Yield path in it and time of change, in epoch seconds, of all files in it and below."""
        for page in self.bucket.pages(self.key):
            for found in page.objects:
                if not found.key.endswith("/") and found.modified is not None:
                    yield found.key[len(self.key) :], found.modified.timestamp()


class LocalFolder:
    """
    A folder of this host.

    Its methods raise :class:`~plaud_provider.exceptions.PlaudConfigurationError` if it is a file or a right
    is missing, and :class:`~plaud_provider.exceptions.PlaudStorageError` if its disk cannot be used now.

    :param argument: What errors about it are about.
    :param path: Its absolute path.
    """

    conn_id = None

    def __init__(self, argument: Argument, path: str) -> None:
        self.argument = argument
        self.path = path
        prefix = _LOCAL_SCHEME if argument.value.startswith(_LOCAL_SCHEME) else ""
        #: How references to what is in it begin: as it was given, with one ``/`` at its end.
        self.root = prefix + path.rstrip("/") + "/"

    def below(self, name: str) -> Self:
        """Return a folder in it."""
        folder = copy(self)
        folder.path = os.path.join(self.path, name)
        folder.root += f"{name}/"
        return folder

    def open(self) -> None:
        """Make it, if it is not there."""
        with self._explained("written to"):
            # Transcripts lie there: they are nobody else's.
            os.makedirs(self.path, mode=0o700, exist_ok=True)

    def names(self) -> list[str]:
        """Return the names of what is right in it."""
        with self._explained("read"):
            return os.listdir(self.path) if os.path.isdir(self.path) else []

    def read(self, name: str) -> bytes | None:
        """Return a file's content; ``None`` if there is none."""
        with self._explained("read"):
            try:
                with open(os.path.join(self.path, name), "rb") as file:
                    return file.read()
            except FileNotFoundError:
                return None

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return os.path.exists(os.path.join(self.path, name))

    def upload(self, name: str, path: str) -> None:
        """Write a file with the content of another one, in place of an earlier one."""
        with open(path, "rb") as file:
            self._write(name, lambda target: shutil.copyfileobj(file, target))

    def write(self, name: str, content: bytes) -> None:
        """Write a file, in place of an earlier one."""
        self._write(name, lambda target: target.write(content))

    def _write(self, name: str, fill: Callable[[IO[bytes]], object]) -> None:
        self.open()
        with self._explained("written to"):
            descriptor, path = tempfile.mkstemp(prefix=f".{name}.", dir=self.path)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    fill(file)
                    file.flush()
                    # Else a crash of the machine could leave a file with the name and without the content.
                    os.fsync(file.fileno())
                os.replace(path, os.path.join(self.path, name))
            except BaseException:
                with suppress(OSError):
                    os.unlink(path)
                raise

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, where they are."""
        with self._explained("cleared"):
            for name in names:
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.path, name))

    def files(self) -> Iterator[tuple[str, float]]:
        """Yield path in it and time of change, in epoch seconds, of all files in it and below."""

        def refuse(problem: OSError) -> None:
            if not isinstance(problem, FileNotFoundError):
                raise problem

        with self._explained("read"):
            for folder, _, names in os.walk(self.path, onerror=refuse):
                for name in names:
                    path = os.path.join(folder, name)
                    with suppress(FileNotFoundError):
                        yield os.path.relpath(path, self.path), os.stat(path).st_mtime

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except PermissionError:
            raise self.argument.error(
                f"may not be {what} by this worker's user. Give it the right to read and write there",
                PlaudConfigurationError,
            ) from None
        except (NotADirectoryError, FileExistsError):
            raise self.argument.error(
                "is a file, or below one; pass a folder", PlaudConfigurationError
            ) from None
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else type(error).__name__
            raise self.argument.error(
                f"could not be {what} ({why}). Check its disk, and try again", PlaudStorageError
            ) from None
