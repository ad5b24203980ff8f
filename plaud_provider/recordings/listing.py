"""Find the recordings of an archive."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudError,
    PlaudInputError,
    PlaudStorageError,
)
from plaud_provider.recordings.reference import AUDIO_EXTENSIONS, AudioReference
from plaud_provider.storage.folder import LocalFolder, StoredFolder, parse_folder

_STATE = "Nothing was sent, nothing is paid for."
_WILDCARD = re.compile(r"[*?\[]")
#: In a regular expression of fsspec: what stands for one character of several, and before it what does not.
_CHARACTER_CLASS = re.compile(r"(?P<other>\\.|\[\^/\])|\[\^?\]?(?:\\.|[^\]\\])*\]|\.(?![*+])", re.DOTALL)


class Found(NamedTuple):
    """
    A recording that an archive lists.

    :param uri: Reference to it, as :class:`~plaud_provider.recordings.reference.AudioReference` takes it; a
        single submit of this reference is the same recording.
    :param version: Version of its content, as ``look()`` would return it; ``None`` where listing does not
        tell (local files).
    :param size: Bytes, where the storage tells.
    :param modified: Time of its last change (UTC), where the storage tells.
    :param given: The reference as a user has given it, where that is more than ``uri``: with a signature.
    """

    uri: str
    version: str | None = None
    size: int | None = None
    modified: datetime | None = None
    given: AudioReference | None = None

    @property
    def audio(self) -> AudioReference:
        """The reference to it."""
        return self.given or AudioReference(self.uri)


class GlobPattern:
    """
    A pattern that a whole relative path has to match.

    ``*`` and ``?`` stand for characters of one name, ``[...]`` for one of some (``[!...]``: for any but
    those), and ``**`` as a whole name for any number of folders, also none. Upper and lower case differ.

    :param pattern: The pattern, with ``/`` between names.
    :raises ValueError: if it is none; its text says why.
    """

    def __init__(self, pattern: str) -> None:
        names = pattern.split("/")
        for name in names:
            if name in ("", ".", "..") or "\x00" in name:
                raise ValueError(
                    f"has {name!r} for a name; write it relative to the folder, as in '**/*.wav'"
                )
            if "**" in name and name != "**":
                raise ValueError(
                    "has '**' as a part of a name; it stands for whole folders, as in '**/*.wav'"
                )
        folders = names[:-1]
        literal = next((at for at, name in enumerate(folders) if _WILDCARD.search(name)), len(folders))
        #: The folders at its beginning that have no wildcards, with a ``/`` at their end, if any.
        self.literal_folder = "".join(f"{name}/" for name in folders[:literal])
        self._expression = _compiled(pattern)

    def matches(self, path: str) -> bool:
        """Whether a relative path matches it."""
        return self._expression.match(path) is not None


def _compiled(pattern: str) -> re.Pattern[str]:
    from fsspec.utils import glob_translate  # type: ignore[import-untyped]

    expression: str = glob_translate(pattern)
    # fsspec lets "[!a]" and ranges such as "[ -~]" stand for a "/" as well.
    expression = _CHARACTER_CLASS.sub(lambda found: found["other"] or f"(?!/){found[0]}", expression)
    # In object storage a folder may have an empty name, as in "2024//a.wav".
    return re.compile(expression.replace("(?:.+/)?", "(?:.*/)?"))


class _Wanted(NamedTuple):
    """Which of the files that lie in a folder are listed."""

    pattern: GlobPattern | None
    suffixes: tuple[str, ...]
    after: datetime | None
    before: datetime | None

    def name(self, relative: str) -> bool:
        """Whether a path in the folder is of a recording that is wanted."""
        if any(name.startswith(".") for name in relative.split("/")):
            return False
        if self.suffixes and not relative.lower().endswith(self.suffixes):
            return False
        return self.pattern is None or self.pattern.matches(relative)

    def time(self, modified: datetime | None) -> bool:
        """Whether a time of change is within the limits."""
        if modified is None:
            return self.after is None and self.before is None
        if self.after is not None and modified < self.after:
            return False
        return self.before is None or modified < self.before


def list_recordings(
    path: str,
    *,
    pattern: str | None = None,
    suffixes: Collection[str] = AUDIO_EXTENSIONS,
    modified_after: datetime | None = None,
    modified_before: datetime | None = None,
    recursive: bool = True,
) -> Iterator[Found]:
    """
    List the recordings under a folder, a page at a time: never more than a page is in memory.

    Object storage lists in the order of the names' bytes. Of a local folder all names are sorted, files
    before the folders in it; links to folders are not followed. Names are taken as they are. Left out are
    hidden files and folders, whose names begin with a dot, and what object storage keeps in place of a
    folder; an empty file is listed, and is to be refused with a reason.

    :param path: The folder: ``s3://connection@bucket/prefix/``, ``gs://…``, ``abfs://…``, ``file:///folder``
        or an absolute path.
    :param pattern: Only paths that match it, relative to the folder: ``*.wav`` is right in it,
        ``**/*.wav`` anywhere below it, ``2024-*/**/agent-[0-9].mp3`` below some folders. Folders at its
        beginning without wildcards limit what is asked of the storage.
    :param suffixes: Only names that end so, whatever their case; empty: all.
    :param modified_after: Only what was last changed then or later; without time zone it is UTC.
    :param modified_before: Only what was last changed before.
    :param recursive: Whether to look into folders below it.
    :raises PlaudInputError: if the folder does not exist or an argument is wrong; at once, or when the first
        recording is asked for.
    :raises PlaudConfigurationError: likewise, if the connection, a right or an extra is missing.
    :raises PlaudStorageError: if the storage could not be asked.
    """
    if isinstance(suffixes, str):
        raise PlaudInputError(f"suffixes: {suffixes!r} is one text; pass a list such as ['.wav']. {_STATE}")
    try:
        glob = None if pattern is None else GlobPattern(pattern)
    except ValueError as wrong:
        raise PlaudInputError(f"pattern: {pattern!r} {wrong}. {_STATE}") from None
    wanted = _Wanted(
        pattern=glob,
        suffixes=tuple(suffix.lower() for suffix in suffixes),
        after=_utc(modified_after),
        before=_utc(modified_before),
    )
    folder = parse_folder(path, argument="path", state=_STATE)
    start = glob.literal_folder if glob else ""
    if isinstance(folder, LocalFolder):
        return _local(folder, wanted, start, recursive=recursive)
    return _stored(folder, wanted, start, recursive=recursive)


def _stored(folder: StoredFolder, wanted: _Wanted, start: str, *, recursive: bool) -> Iterator[Found]:
    is_there = not folder.key
    if start and not recursive:
        # What begins with a folder is not right in this one.
        return
    for page in folder.bucket.pages(folder.key + start, delimiter="" if recursive else "/"):
        is_there = is_there or bool(page.objects or page.folders)
        for found in page.objects:
            if found.is_folder or found.key.endswith("/"):
                continue
            if wanted.name(found.key[len(folder.key) :]) and wanted.time(found.modified):
                yield Found(folder.bucket_root + found.key, found.version, found.size, found.modified)
    if not is_there:
        _check_folder(folder)


def _check_folder(folder: StoredFolder) -> None:
    """Say why nothing is listed, unless there is another part of the folder."""
    page = next(folder.bucket.pages(folder.key, delimiter="/"))
    if page.objects or page.folders or not folder.key.rstrip("/"):
        return
    try:
        folder.bucket.look_up(folder.key.rstrip("/"))
    except PlaudInputError:
        raise folder.argument.error(
            "does not exist in its storage, which knows no empty folders: nothing begins so. Check bucket "
            "and folder, upper and lower case and white space included; they are taken as they are, not "
            "percent-decoded"
        ) from None
    raise folder.argument.error("is a file; pass the folder that it is in")


def _local(folder: LocalFolder, wanted: _Wanted, start: str, *, recursive: bool) -> Iterator[Found]:
    if not os.path.isdir(folder.path):
        raise _not_there(folder)
    if start and not recursive:
        return
    # What is in a folder comes before what is in the folders below it, each sorted by name.
    waiting = [start]
    while waiting:
        relative = waiting.pop()
        below: list[str] = []
        for name, kind in _scan(folder, relative):
            if kind == "folder":
                below.append(f"{relative}{name}/")
            elif wanted.name(relative + name):
                status = _status(os.path.join(folder.path, relative, name))
                modified = status and datetime.fromtimestamp(status.st_mtime, tz=UTC)
                if wanted.time(modified):
                    yield Found(
                        folder.root + relative + name, None, status.st_size if status else None, modified
                    )
        if recursive:
            waiting += reversed(below)


def _scan(folder: LocalFolder, relative: str) -> list[tuple[str, str]]:
    """Return name and kind of what is in a folder and may be listed, sorted."""
    try:
        with os.scandir(os.path.join(folder.path, relative)) as entries:
            return sorted(
                (entry.name, kind)
                for entry in entries
                if not entry.name.startswith(".") and (kind := _kind(entry))
            )
    except (FileNotFoundError, NotADirectoryError):
        # It went away since the folder that it was in was read.
        return []
    except PermissionError:
        where = f" (its folder {relative!r})" if relative else ""
        raise folder.argument.error(
            f"may not be listed by this worker{where}. Give its user the right to read it",
            PlaudConfigurationError,
        ) from None
    except OSError as error:
        raise folder.argument.error(
            f"could not be listed ({type(error).__name__}). Check its disk, and try again", PlaudStorageError
        ) from None


def _kind(entry: os.DirEntry[str]) -> str | None:
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    try:
        if entry.is_file():
            return "file"
    except OSError:
        pass
    # A link that leads nowhere has the name of a recording: whoever looks at it is told.
    return "file" if entry.is_symlink() and not os.path.exists(entry.path) else None


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _not_there(folder: LocalFolder) -> PlaudError:
    if os.path.exists(folder.path):
        return folder.argument.error("is a file; pass the folder that it is in")
    return folder.argument.error(
        "does not exist on this worker, or may not be seen by its user. Check the path"
    )


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
