"""
Chunks of an archive, as files that tasks hand to each other by their paths.

A file has a line of JSON for each recording, behind a line that says what it is and how many there are. XCom
carries the paths only, so an archive may have any number of recordings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from plaud_provider.exceptions import PlaudConfigurationError, PlaudInputError
from plaud_provider.recordings.listing import Found
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.storage.folder import LocalFolder, StoredFolder, finished_name, parse_folder

T = TypeVar("T")

_STATE = "Nothing was sent, nothing is paid for."
_VERSION = 1
_MANIFEST = "plaud_manifest"
_KEYS = "plaud_keys"
#: Folder of all chunks, below results_path.
MANIFESTS = "manifests"
#: Airflow maps a task at most 1,024 times by default; one is for what other runs have left.
MAX_CHUNKS = 1023
_LEFT_FILES = ("left-over.jsonl", "left-over.keys.jsonl")
_OURS = re.compile(r"chunk-(\d{5,})(\.keys)?\.jsonl")


class Keyed(NamedTuple):
    """
    A recording of a chunk and its identity.

    :param key: What :func:`~plaud_provider.recordings.identity.recording_key` returned for it.
    :param uri: Its reference.
    """

    key: str
    uri: str


def write_manifest(
    found: Iterable[Found],
    folder: str,
    *,
    chunk_size: int = 200,
    max_chunks: int = MAX_CHUNKS,
    seal: Callable[[str], str] | None = None,
) -> list[str]:
    """
    Write recordings to ``chunk-00001.jsonl`` and so on in a folder, and return the paths of these files.

    The first quarter of the chunks that there may be have ``chunk_size`` recordings; then the size doubles
    with each further eighth. Of 1,000 chunks of 200, so many hold three million recordings.

    Chunks that an earlier, longer listing left there are removed. So the folder is one of this run and task;
    two that share one would take each other's chunks.

    :param found: The recordings; not more than a chunk of them is in memory.
    :param folder: The folder: ``s3://connection@bucket/prefix/``, ``gs://…``, ``abfs://…``,
        ``file:///folder`` or an absolute path. A local one is made if it does not exist.
    :param chunk_size: Recordings in a file at least, from 1; the last has what is left.
    :param max_chunks: Chunks that there may be.
    :param seal: Makes what may be stored of a reference that a user has signed.
    :raises PlaudInputError: if there cannot be such chunks, or the recordings do not fit into them.
    :raises PlaudConfigurationError: if the folder, its connection, an extra or a right is missing.
    :raises PlaudStorageError: if it cannot be written now.
    """
    if chunk_size < 1:
        raise PlaudInputError(f"chunk_size: {chunk_size} is less than 1. {_STATE}")
    files = _folder(folder, "results_path")
    files.open()
    recordings = iter(found)
    paths: list[str] = []
    while chunk := list(islice(recordings, size_of_chunk(len(paths), chunk_size, max_chunks))):
        if len(paths) == max_chunks:
            raise PlaudInputError(
                f"chunk_size: there are more recordings than {max_chunks} chunks hold, which begin with "
                f"{chunk_size} and grow. Raise chunk_size, or [core] max_map_length of Airflow, or list a "
                f"part of the archive. {_STATE}"
            )
        name = f"chunk-{len(paths) + 1:05}.jsonl"
        files.write(name, _lines(_MANIFEST, [_described(recording, seal) for recording in chunk]))
        paths.append(files.root + name)
    files.remove([name for name, number in _ours(files).items() if not 0 < number <= len(paths)])
    return paths


def size_of_chunk(index: int, chunk_size: int, max_chunks: int) -> int:
    """
    Return how many recordings a chunk has.

    :param index: Which chunk, from 0.
    :param chunk_size: Of the first.
    :param max_chunks: Chunks that there may be.
    """
    eighth = max(1, max_chunks // 8)
    return chunk_size << max(0, index // eighth - 1)


def write_left(keyed: Iterable[Keyed], folder: str) -> str:
    """
    Write a chunk of what other runs have left at Plaud, beside those of :func:`write_manifest`.

    It lists no recordings: they are submitted already, and are only waited for.

    :param keyed: The recordings.
    :param folder: The folder of the other chunks.
    :return: The chunk's path.
    :raises PlaudError: as :func:`write_manifest`.
    """
    files = _folder(folder, "results_path")
    files.write(_LEFT_FILES[0], _lines(_MANIFEST, []))
    path = files.root + _LEFT_FILES[0]
    write_keys(path, keyed)
    return path


def remove_manifest(folder: str) -> None:
    """
    Remove all chunks of a folder.

    :param folder: The folder that :func:`write_manifest` wrote to.
    :raises PlaudError: as :func:`write_manifest`.
    """
    files = _folder(folder, "results_path")
    files.remove(_ours(files))


def read_manifest(path: str, *, unseal: Callable[[str], str] | None = None) -> list[Found]:
    """
    Return the recordings of a chunk.

    :param path: A path that :func:`write_manifest` returned.
    :param unseal: Makes the reference again of what the ``seal`` there has made; ``None``: only what may be
        shown of it is needed.
    :raises PlaudInputError: if there is no such file, or it is no chunk of a manifest.
    :raises PlaudConfigurationError: if its folder's connection, an extra or a right is missing.
    :raises PlaudStorageError: if it cannot be read now.
    """
    return _read(path, _name(path), _MANIFEST, lambda line: _found(line, unseal))


def write_keys(path: str, keyed: Iterable[Keyed]) -> str:
    """
    Write which recordings of a chunk have which keys to the file beside it, and return that file's path.

    :param path: The chunk's path.
    :param keyed: The recordings.
    :raises PlaudError: as :func:`write_manifest`.
    """
    files = _folder(_parent(path), "manifest")
    name = _keys_name(path)
    files.write(name, _lines(_KEYS, [{"key": one.key, "uri": one.uri} for one in keyed]))
    return files.root + name


def read_keys(path: str) -> list[Keyed]:
    """
    Return what :func:`write_keys` wrote.

    :param path: The chunk's path.
    :raises PlaudInputError: if there is no such file, or it is another one.
    :raises PlaudError: as :func:`read_manifest`.
    """
    return _read(path, _keys_name(path), _KEYS, _keyed)


def _described(found: Found, seal: Callable[[str], str] | None) -> dict[str, Any]:
    line = {
        "uri": found.uri,
        "version": found.version,
        "size": found.size,
        "modified": found.modified.isoformat() if found.modified else None,
    }
    if found.given is not None and seal is not None:
        line["sealed"] = seal(found.given.reveal())
    return line


def _found(line: dict[str, Any], unseal: Callable[[str], str] | None) -> Found:
    modified = _optional(str, line.pop("modified"))
    sealed = _optional(str, line.pop("sealed", None))
    return Found(
        uri=_typed(str, line.pop("uri")),
        version=_optional(str, line.pop("version")),
        size=_optional(int, line.pop("size")),
        modified=datetime.fromisoformat(modified) if modified else None,
        given=AudioReference(unseal(sealed)) if sealed is not None and unseal is not None else None,
    )


def _keyed(line: dict[str, Any]) -> Keyed:
    return Keyed(key=_typed(str, line.pop("key")), uri=_typed(str, line.pop("uri")))


def _typed(kind: type[T], value: object) -> T:
    if not isinstance(value, kind):
        raise TypeError
    return value


def _optional(kind: type[T], value: object) -> T | None:
    return None if value is None else _typed(kind, value)


def _lines(kind: str, entries: Sequence[dict[str, Any]]) -> bytes:
    # Names need not be valid Unicode: as ASCII with escapes any of them comes back as it was.
    return b"".join(
        json.dumps(line, separators=(",", ":")).encode() + b"\n"
        for line in [{kind: _VERSION, "recordings": len(entries)}, *entries]
    )


def _read(path: str, name: str, kind: str, convert: Callable[[dict[str, Any]], T]) -> list[T]:
    files = _folder(_parent(path), "manifest")
    content = files.read(name)
    if content is None:
        raise _unusable(files, name, "does not exist, or no more")
    try:
        head, *entries = [json.loads(line) for line in content.splitlines()]
        if head != {kind: _VERSION, "recordings": len(entries)}:
            raise ValueError
        converted = [convert(entry) for entry in entries]
        if any(entries):
            # Something is in it that this version does not know.
            raise ValueError
    except (AttributeError, KeyError, ValueError, TypeError, RecursionError):
        raise _unusable(
            files, name, f"is not what this version of airflow-provider-plaud writes ({kind} {_VERSION})"
        ) from None
    return converted


def _unusable(files: LocalFolder | StoredFolder, name: str, why: str) -> PlaudInputError:
    path = f"{files.argument.shown.rstrip('/')}/{name}"
    return PlaudInputError(
        f"manifest: {path!r} {why}. Clear the task that writes it (the list task, or the submit task of its "
        f"chunk). {_STATE}"
    )


def _folder(path: str, argument: str) -> LocalFolder | StoredFolder:
    return parse_folder(path, argument=argument, state=_STATE, kind=PlaudConfigurationError)


def _parent(path: str) -> str:
    return path[: path.rfind("/") + 1]


def _name(path: str) -> str:
    return path[path.rfind("/") + 1 :]


def _keys_name(path: str) -> str:
    return _name(path).removesuffix(".jsonl") + ".keys.jsonl"


def _ours(files: LocalFolder | StoredFolder) -> dict[str, int]:
    """
    Return the files that this module writes, each with the number of its chunk; 0 of what others have left.

    Those are included that a killed task has not finished.
    """
    found = {name: finished_name(name) for name in files.names()}
    chunks = {name: int(ours[1]) for name, whole in found.items() if (ours := _OURS.fullmatch(whole))}
    return {**chunks, **{name: 0 for name, whole in found.items() if whole in _LEFT_FILES}}
