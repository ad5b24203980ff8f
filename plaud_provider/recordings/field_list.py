"""A file that lists fields of recordings by their references: CSV, or a JSON object in each line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import IO, Any, BinaryIO
from urllib.parse import unquote

from plaud_provider.exceptions import PlaudConfigurationError, PlaudStorageError
from plaud_provider.recordings.field_pattern import path_of
from plaud_provider.storage.folder import LocalFolder, StoredFolder, parse_folder
from plaud_provider.storage.ranges import open_stream
from plaud_provider.storage.signatures import WEB

log = logging.getLogger(__name__)

#: Columns that hold references; the first that is there counts.
REFERENCES = ("reference", "audio_uri", "audio_url")
_NAME = re.compile(r"(?P<kind>\.csv|\.tsv|\.jsonl|\.ndjson)(?P<packed>\.gz)?\Z", re.IGNORECASE)
_STATE = "Nothing was landed."
_SEPARATORS = (",", ";", "\t")


class FieldList:
    """
    A file of fields, read from its beginning to its end; only what is asked for is kept.

    :param path: ``s3://connection@bucket/calls.csv``, ``gs://…``, ``abfs://…``, ``file:///…`` or an absolute
        path; the name ends in ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson``, perhaps with ``.gz`` behind it.
    :raises PlaudInputError: if it cannot be one.
    """

    def __init__(self, path: str) -> None:
        folder, _, self._name = path.rpartition("/")
        self._folder = parse_folder(f"{folder}/", argument="metadata_path", state=_STATE)
        # Errors are about the file.
        self._argument = self._folder.argument._replace(value=path)
        named = _NAME.search(self._name)
        if named is None:
            raise self._argument.error(
                "is of no kind that is known: its name has to end in .csv, .tsv, .jsonl or .ndjson, perhaps "
                "with .gz behind it"
            )
        self._is_csv = named["kind"].lower() in (".csv", ".tsv")
        self._is_packed = named["packed"] is not None

    def names(self) -> Sequence[str] | None:
        """
        Return the fields that it has; ``None`` if each line may have others.

        :raises PlaudInputError: if it is not there, or has no column of references.
        :raises PlaudError: its other classes, if it cannot be read.
        """
        with self._opened() as file:
            if self._is_csv:
                _, header = self._header(file)
                return [name for name in header if name not in REFERENCES]
            for _ in self._objects(file):
                return None
        return None

    def find(self, uris: Collection[str]) -> dict[str, dict[str, Any]]:
        """
        Return the fields of recordings, where they are listed.

        A listed reference is the whole one, with or without the connection in it, or the end of its path from
        a ``/`` on. Of several that fit the longest counts, of equals the last.

        :param uris: References, as they are stored.
        :raises PlaudError: as :meth:`names`.
        """
        wanted: dict[str, list[str]] = {}
        for uri in uris:
            for name in _names_of(uri):
                wanted.setdefault(name, []).append(uri)
        found: dict[str, tuple[int, dict[str, Any]]] = {}
        with self._opened() as file:
            for listed, fields in self._rows(file) if self._is_csv else self._objects(file):
                for uri in wanted.get(listed) or wanted.get(listed.partition("?")[0]) or ():
                    if uri not in found or found[uri][0] <= len(listed):
                        found[uri] = (len(listed), dict(fields))
        return {uri: fields for uri, (_, fields) in found.items()}

    def _rows(self, file: IO[str]) -> Iterator[tuple[str, Iterator[tuple[str, str]]]]:
        rows, header = self._header(file)
        at = next(header.index(name) for name in REFERENCES if name in header)
        for row in rows:
            if len(row) > at:
                # An empty cell is a field that is not known.
                yield (
                    row[at].strip(),
                    (
                        (name, value)
                        for name, value in zip(header, row, strict=False)
                        if value != "" and name not in REFERENCES
                    ),
                )

    def _header(self, file: IO[str]) -> tuple[Iterator[list[str]], list[str]]:
        first = file.readline()
        for separator in _SEPARATORS:
            rows = csv.reader(chain([first], file), delimiter=separator)
            header = [name.strip() for name in next(rows, [])]
            if any(name in header for name in REFERENCES):
                return rows, header
        raise self._argument.error(
            f"has no column of references in its first line: one of {', '.join(REFERENCES)}"
        )

    def _objects(self, file: IO[str]) -> Iterator[tuple[str, Iterator[tuple[str, Any]]]]:
        unusable = 0
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
                listed = next(fields[name] for name in REFERENCES if isinstance(fields.get(name), str))
            except (ValueError, AttributeError, StopIteration, RecursionError):
                if number == 1:
                    raise self._argument.error(
                        f"has no JSON object with a reference ({', '.join(REFERENCES)}) in its first line"
                    ) from None
                unusable += 1
                continue
            yield listed, ((name, value) for name, value in fields.items() if name not in REFERENCES)
        if unusable:
            log.warning("%d lines of %s are no JSON object with a reference.", unusable, self._argument.shown)

    @contextmanager
    def _opened(self) -> Iterator[IO[str]]:
        """Open it as text."""
        with self._content() as content:
            unpacked = gzip.GzipFile(fileobj=content) if self._is_packed else content
            try:
                yield io.TextIOWrapper(unpacked, encoding="utf-8-sig", errors="replace", newline="")
            except (OSError, EOFError, csv.Error) as error:
                raise self._argument.error(
                    f"cannot be read ({type(error).__name__}): its content is not what its name says",
                    PlaudStorageError,
                ) from None

    @contextmanager
    def _content(self) -> Iterator[BinaryIO]:
        folder = self._folder
        if isinstance(folder, StoredFolder):
            bucket, key = folder.bucket, folder.key + self._name
            size = bucket.look_up(key).size or 0
            yield io.BufferedReader(_Readable(open_stream(partial(bucket.read, key), size=size)), 1 << 20)
            return
        try:
            file = self._open_local(folder)
        except PermissionError:
            raise self._argument.error(
                "may not be read by this worker's user. Give it the right to read it", PlaudConfigurationError
            ) from None
        except OSError as error:
            raise self._argument.error(
                f"cannot be opened by this worker ({type(error).__name__}). Check its path"
            ) from None
        with file:
            yield file

    def _open_local(self, folder: LocalFolder) -> BinaryIO:
        return open(f"{folder.path.rstrip('/')}/{self._name}", "rb")


class _Readable(io.RawIOBase):
    """
    What reads, as :class:`io.BufferedReader` takes it.

    :param file: A file that has ``read``.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def _names_of(uri: str) -> Iterator[str]:
    """Yield what a list may call a recording, as :meth:`FieldList.find` says."""
    scheme, is_url, rest = uri.partition("://")
    yield uri
    if is_url:
        authority, _, path = rest.partition("/")
        if "@" in authority and scheme not in WEB:
            yield f"{scheme}://{authority.rpartition('@')[2]}/{path}"
        if scheme == "file":
            yield f"/{path}"
        if scheme in WEB and unquote(uri) != uri:
            yield unquote(uri)
    for path in dict.fromkeys((path_of(uri), rest.partition("/")[2])):
        rest = path
        while rest:
            yield rest
            rest = rest.partition("/")[2]
