"""
How a recording is referred to: a URL or storage reference whose signature is not shown.

A pre-signed URL is a secret for as long as it is valid: whoever has it has the recording. So it is wrapped in
a value that shows itself without its signature wherever Airflow or a log would print it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from datetime import datetime
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from plaud_provider.api.arguments import is_path, is_template
from plaud_provider.exceptions import PlaudError, PlaudInputError
from plaud_provider.storage.errors import Argument
from plaud_provider.storage.signatures import WEB, expires_at, identity, shown_reference

E = TypeVar("E", bound=PlaudError)

#: How names of what Plaud takes end, as archives are listed. What a recording is, its content decides.
AUDIO_EXTENSIONS = (".m4a", ".mp3", ".mpga", ".wav", ".wave")
#: Likewise of what can be converted for it.
CONVERTED_EXTENSIONS = (
    ".3gp",
    ".aac",
    ".aiff",
    ".amr",
    ".flac",
    ".mkv",
    ".mov",
    ".mp4",
    ".oga",
    ".ogg",
    ".opus",
    ".webm",
    ".wma",
)
_FILE = re.compile(r"\Afile://", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)")
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}\Z")


class AudioReference:
    """
    A reference to a recording: ``https://`` URL, storage reference or local path.

    A name in storage is taken as it is: a space or a line break at its end is part of it, and letters are
    neither decoded nor normalized. White space before the scheme or the first ``/`` is no part of a name, and
    a URL has none at its ends, however it was pasted.

    ``str()``, ``repr()`` and :meth:`serialize` (which Airflow calls for rendered fields) give :attr:`uri`.

    :param value: The reference as given, possibly pre-signed, or as a path.
    """

    def __init__(self, value: str | os.PathLike[str]) -> None:
        value = str(value).lstrip()
        found = _SCHEME.match(value)
        #: Scheme in lower case; empty if there is none.
        self.scheme = found.group().lower() if found else ""
        self._value = value.rstrip() if self.scheme in WEB else value
        #: Whether it is a path of this host.
        self.is_local = self.scheme == "file" or self._value.startswith("/")
        try:
            self._split = urlsplit(self._value)
        except ValueError:
            self.scheme, self._split = "", urlsplit("")

    def reveal(self) -> str:
        """Return the reference as given, signature and all: for the request itself, never for showing."""
        return self._value

    def serialize(self) -> str:
        """Return what may be shown and stored."""
        return self.uri

    @cached_property
    def uri(self) -> str:
        """
        What may be shown and stored of the reference, as text.

        Of a URL that is address and path, without the query and without secrets in the path.
        """
        return shown_reference(self._value)

    @property
    def identity(self) -> str:
        """What tells the recording from others, whoever signed its URL and when."""
        return self.identified_by(None)

    def identified_by(self, parameters: Collection[str] | None) -> str:
        """
        Return what tells the recording from others, whoever signed its URL and when.

        :param parameters: Names of the parameters that count in the query of a URL, and no others; ``None``:
            all but what looks like a signature, a secret or an expiry.
        """
        if self.is_local:
            return self.path
        return identity(self._value, parameters) if self.scheme in WEB else self._value

    @property
    def path(self) -> str:
        """The path of a local file, however its reference is spelled."""
        path = _FILE.sub("", self._value)
        return str(PurePosixPath(path)) if path.startswith("/") else path

    @property
    def host(self) -> str:
        """Host or bucket in lower case; empty if there is none."""
        try:
            return self._split.hostname or ""
        except ValueError:
            return ""

    @property
    def has_user_information(self) -> bool:
        """Whether the URL carries a user name or password."""
        return "@" in self._split.netloc

    @property
    def extension(self) -> str:
        """File extension in lower case with its dot; empty if the last part of the path has none."""
        if self.scheme in WEB:
            name = PurePosixPath(unquote(self._split.path)).name
        else:
            # In a storage key '?', '#' and '%' are ordinary characters.
            name = self._value.rpartition("/")[2]
        found = _EXTENSION.search(name)
        return found.group().lower() if found else ""

    @property
    def expires_at(self) -> datetime | None:
        """When the URL's signature expires (UTC), where the URL tells."""
        return expires_at(self._value)

    def __str__(self) -> str:
        return self.uri

    def __repr__(self) -> str:
        return f"AudioReference({self.uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AudioReference) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


def wrapped(value: Any) -> Any:
    """
    Return an argument with each reference in it wrapped, so that it shows itself without its signature.

    What is none (a template, the output of a task) stays as it is.

    :param value: A reference as text or path, or a list or mapping of such.
    """
    if isinstance(value, Mapping):
        return {name: wrapped(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [wrapped(item) for item in value]
    if is_path(value) or (isinstance(value, int) and not isinstance(value, bool)):
        return AudioReference(str(value))
    return AudioReference(value) if isinstance(value, str) and not is_template(value) else value


def as_argument(audio: AudioReference) -> Argument:
    """Return a recording as what errors are about; whatever is wrong with it is found before it is sent."""
    return Argument("audio_url", audio.reveal(), "Nothing was sent, nothing is paid for.")


def refused(audio: AudioReference, why: str, kind: type[E] = PlaudInputError) -> E:  # type: ignore[assignment]
    """
    Return an error about a recording.

    :param why: What is wrong with it, as in "is empty".
    :param kind: Class of the error.
    """
    return as_argument(audio).error(why, kind)  # type: ignore[return-value]
