"""Which folder an argument names: one of this host, or one in object storage."""

from __future__ import annotations

import os
from typing import NamedTuple

from plaud_provider.recordings.reference import AudioReference
from plaud_provider.storage.bucket import KINDS, Location, parse_location
from plaud_provider.storage.errors import Subject

_LOCAL_SCHEME = "file://"


class LocalFolder(NamedTuple):
    """
    A folder of this host.

    :param root: How references to what is in it begin: as it was given, with one ``/`` at its end.
    :param path: Its absolute path.
    """

    root: str
    path: str


def parse_folder(path: str, *, argument: str, state: str) -> tuple[LocalFolder | Location, Subject]:
    """
    Take the path of a folder apart, and return it with what errors about it are about.

    :param path: ``s3://connection@bucket/prefix/``, ``gs://…``, ``abfs://…``, ``file:///folder`` or an
        absolute path. A ``/`` at its end may be left out.
    :param argument: The argument that gave it.
    :param state: What state things are in if it cannot be used.
    :raises PlaudInputError: if it is none.
    """
    if not isinstance(path, str) or not path.strip():
        raise Subject(argument, str(path), state).refused("is no folder; pass its path")
    reference = AudioReference(path)
    value = reference.reveal()
    subject = Subject(argument, reference.uri, state)
    if reference.scheme in KINDS:
        return parse_location(
            reference, subject, wanted=f"bucket; write {reference.scheme}://bucket/"
        ), subject
    local = value.removeprefix(_LOCAL_SCHEME)
    if not local.startswith("/"):
        raise subject.refused(
            "is no folder of a kind that is known; pass an absolute path, or an s3://, gs:// or abfs:// path"
        )
    if ".." in local.split("/") or "\x00" in local:
        raise subject.refused("contains '..'; pass the path itself")
    folder = "/" + os.path.normpath(local).lstrip("/")
    prefix = _LOCAL_SCHEME if value.startswith(_LOCAL_SCHEME) else ""
    return LocalFolder(prefix + folder.rstrip("/") + "/", folder), subject


def folder_key(location: Location) -> str:
    """Return what the keys in a folder of object storage begin with."""
    return location.key if not location.key or location.key.endswith("/") else f"{location.key}/"
