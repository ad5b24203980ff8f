"""Local recordings that a web server of the user's hands to Plaud."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast
from urllib.parse import quote

from plaud_provider.api.arguments import is_path
from plaud_provider.api.loopback import is_loopback
from plaud_provider.exceptions import (
    PlaudError,
    PlaudInputError,
    PlaudNotFetchableError,
    PlaudStorageError,
)
from plaud_provider.recordings.reference import AudioReference, refused

_SCHEME = "file://"
_EXAMPLE = "public_urls={'/data/calls/': 'https://files.example/calls/'}"
#: For how long a file has to have been left alone before its times tell whether it was changed: the clocks of
#: disks are coarse, and two changes within a tick of one look like one.
SETTLED_SECONDS = 2.0


def validate_public_urls(value: Mapping[str, str] | str | None) -> dict[str, str]:
    """
    Return which folders Plaud can fetch from where: base URL by absolute path.

    :param value: Such a mapping, or its JSON text as a template renders it.
    :raises PlaudInputError: if it is none; nothing was sent.
    """
    if value is None or value in ("", "None"):
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise _wrong_public_urls("its text is no JSON") from None
    if not isinstance(value, Mapping):
        raise _wrong_public_urls(f"it is no mapping but a {type(value).__name__}")
    return dict(_checked_root(folder, base) for folder, base in value.items())


def is_served(audio: AudioReference, public_urls: Mapping[str, str]) -> bool:
    """
    Whether Plaud can reach what a reference names, as far as ``public_urls`` tells.

    If none of many recordings is, that argument is wrong, and not each of them.

    :param audio: The reference; of another kind than a local file it needs no folder to be served.
    :param public_urls: What :func:`validate_public_urls` returned.
    """
    return not audio.is_local or _served_folder(audio.path, public_urls) is not None


class LocalFile:
    """
    A recording below a folder that is served at a base URL, or one that is uploaded.

    :param audio: ``file:///…`` or an absolute path, taken as it is, not percent-decoded.
    :param public_urls: What :func:`validate_public_urls` returned.
    :param is_uploadable: Whether it need not be served.
    :raises PlaudInputError: if Plaud could not fetch it.
    """

    is_ranged = False
    is_readable = True

    def __init__(
        self, audio: AudioReference, public_urls: Mapping[str, str], *, is_uploadable: bool = False
    ) -> None:
        self.audio = audio
        path = audio.path
        if not path.startswith("/"):
            raise refused(audio, "names no absolute path; write file:///folder/name.wav")
        if ".." in path.split("/") or "\x00" in path:
            raise refused(audio, "contains '..'; pass the path itself")
        self._path = path
        self._root = _served_folder(path, public_urls)
        self._base = public_urls.get(self._root or "", "")
        if self._root is None and not is_uploadable:
            raise self._unserved(PlaudInputError)
        self._read: tuple[_Status, str] | None = None

    def connect(self) -> None:
        """Nothing is to be opened."""

    def look(self) -> str:
        """
        Check that the file is there; return the hash of its content as its version.

        Not its time of change: the same file may have another one on another worker. But on this one it tells
        whether the file has to be read again for a further look.

        :raises PlaudInputError: if Plaud could not transcribe it, or this worker's user may not read it.
        :raises PlaudStorageError: if it cannot be read now.
        """
        # It opens a database; whoever only checks arguments does not.
        from plaud_provider.recordings.local_versions import keep_version, known_version

        with self._explained():
            found = _Status.of(self._checked())
            if self._read is not None and self._read[0] == found:
                return self._read[1]
            if (version := known_version(self._path, found)) is not None:
                self._read = (found, version)
                return version
            with open(self._path, "rb") as file:
                # Of before it is read: what is written meanwhile makes another one.
                status = _Status.of(os.fstat(file.fileno()))
                version = hashlib.file_digest(file, "sha256").hexdigest()
            self._read = None
            if status.is_settled(now=time.time()):
                self._read = (status, version)
                keep_version(self._path, status, version)
            return version

    def open(self) -> BinaryIO:
        """
        Open it.

        :raises PlaudError: as :meth:`look`, also while it is read.
        """
        with self._explained():
            self._checked()
            return cast("BinaryIO", _ExplainedFile(self._path, self._explained))

    def stream(self) -> BinaryIO:
        """Open it likewise."""
        return self.open()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except PermissionError:
            raise refused(
                self.audio, "may not be read by this worker's user. Give it the right to read it"
            ) from None
        except (OSError, RuntimeError) as error:
            why = f"cannot be read by this worker ({type(error).__name__})"
            raise refused(self.audio, why, PlaudStorageError) from None

    def _checked(self) -> os.stat_result:
        if self._root is not None and not _is_below(
            os.path.realpath(self._path), os.path.realpath(self._root)
        ):
            raise refused(self.audio, f"is a link that leads out of {self._root!r}")
        try:
            status = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            why = "does not exist on this worker. Check its path, which is not percent-decoded"
            raise refused(self.audio, why) from None
        if not stat.S_ISREG(status.st_mode):
            raise refused(self.audio, "is not a file; pass one recording")
        if not status.st_size:
            raise refused(self.audio, "is empty")
        return status

    def url(self) -> AudioReference:
        """
        Return where Plaud can fetch it.

        :raises PlaudNotFetchableError: if it is not served.
        """
        if self._root is None:
            raise self._unserved(PlaudNotFetchableError)
        relative = os.path.relpath(self._path, self._root)
        return AudioReference(f"{self._base}/{quote(os.fsencode(relative), safe='/')}")

    def _unserved(self, kind: type[PlaudError]) -> PlaudError:
        return refused(
            self.audio,
            "is a local file, which Plaud cannot fetch. Serve its folder and say where, as in "
            f"{_EXAMPLE}, put the file into object storage and pass its s3://, gs:// or abfs:// "
            "reference, or use a connection whose API takes uploads (its field api), without upload='never'",
            kind,
        )


class _ExplainedFile(io.FileIO):
    """A file whose reads fail with an error of ours."""

    def __init__(self, path: str, explained: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(path)
        self._explained = explained

    def read(self, size: int | None = -1, /) -> bytes:
        with self._explained():
            return super().read(size) or b""


class _Status(NamedTuple):
    """What of a file changes when its content does."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> _Status:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def is_settled(self, *, now: float) -> bool:
        return now - self.changed_ns / 1e9 > SETTLED_SECONDS


def _served_folder(path: str, public_urls: Mapping[str, str]) -> str | None:
    """Return the innermost of the served folders that a path is in."""
    return max((folder for folder in public_urls if _is_below(path, folder)), key=len, default=None)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _checked_root(folder: object, base: object) -> tuple[str, str]:
    folder = str(folder) if is_path(folder) else folder
    if not isinstance(folder, str) or not isinstance(base, str):
        raise _wrong_public_urls("its keys and values are text")
    path = folder.removeprefix(_SCHEME)
    if not path.startswith("/") or ".." in path.split("/"):
        raise _wrong_public_urls(f"{folder!r} is no absolute folder")
    url = AudioReference(base)
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.host)):
        raise _wrong_public_urls(f"{url.uri!r} is no https:// URL")
    if not url.host or url.has_user_information or "?" in base or "#" in base:
        raise _wrong_public_urls(f"{url.uri!r} has no host, or a user, '?' or '#'")
    return str(Path(path)), url.reveal().rstrip("/")


def _wrong_public_urls(why: str) -> PlaudInputError:
    return PlaudInputError(
        f"public_urls: {why}. It says where Plaud can fetch what is in a folder, as in {_EXAMPLE}. Nothing "
        "was sent, nothing is paid for."
    )
