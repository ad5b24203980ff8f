"""
Recordings that are handed to Plaud's own storage, since Plaud cannot fetch them from where they are.

What Plaud's storage takes is sent as it is; everything else, such as WAV, is converted to MP3 on the way.
"""

from __future__ import annotations

import hashlib
import io
import ipaddress
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple, cast
from urllib.parse import urlsplit

from plaud_provider.api.effects import Do
from plaud_provider.api.loopback import is_loopback
from plaud_provider.api.uploads import FileTypeRefusedError, upload
from plaud_provider.exceptions import (
    PlaudInputError,
    PlaudNotFetchableError,
    PlaudReplacedError,
)
from plaud_provider.recordings.convert import KEPT
from plaud_provider.recordings.examine import examine
from plaud_provider.recordings.local_files import validate_public_urls
from plaud_provider.recordings.reference import AudioReference, refused
from plaud_provider.recordings.sources import audio_source, validate_url_validity
from plaud_provider.recordings.upload_memory import UploadMemory

if TYPE_CHECKING:
    from plaud_provider.api.account import Account
    from plaud_provider.api.calls import Call
    from plaud_provider.api.dialects.embedded_uploads import BegunUpload
    from plaud_provider.api.retry import RetryPolicy
    from plaud_provider.recordings.audio import Measured
    from plaud_provider.recordings.sources import AudioSource

log = logging.getLogger(__name__)

UploadMode = Literal["auto", "always", "never"]

#: Names of hosts that only a private network knows.
_PRIVATE_NAMES = (".internal", ".local", ".localdomain", ".lan", ".vpce.amazonaws.com")


def validate_upload(value: object) -> UploadMode:
    """
    Return when recordings are uploaded.

    :param value: ``auto``, ``always`` or ``never``.
    :raises PlaudInputError: if it is something else; nothing was sent.
    """
    for mode in ("auto", "always", "never"):
        if value == mode:
            return mode
    raise PlaudInputError(
        f"upload: {value!r} is not 'auto', 'always' or 'never'. It says when recordings are uploaded to "
        "Plaud's own storage. Nothing was sent, nothing is paid for."
    )


def mode_of(account: Account, mode: UploadMode) -> UploadMode:
    """
    Return when recordings of a client are uploaded.

    :param mode: What :func:`validate_upload` returned.
    :raises PlaudInputError: for ``always``, if the client's API takes no uploads; nothing was sent.
    """
    if account.dialect.takes_uploads:
        return mode
    if mode == "always":
        raise PlaudInputError(
            f"upload: 'always' was asked for, but the connection's API is {account.dialect.name!r}, of which "
            "no uploads are documented. Leave it at 'auto', or use a client and connection of the other API "
            "(the connection's field api). Nothing was sent, nothing is paid for."
        )
    return "never"


class Upload(NamedTuple):
    """
    That, and how, a recording is handed to Plaud's storage.

    :param source: The recording as it is.
    :param version: Version of its content.
    :param found: What it is.
    :param memory: What was uploaded before.
    """

    source: AudioSource
    version: str | None
    found: Measured
    memory: UploadMemory

    def replaced(self) -> PlaudReplacedError:
        """Return what to raise if it has another content than when it was identified."""
        return PlaudReplacedError(
            f"{self.source.audio.uri!r} has been replaced since it was identified. Nothing was submitted; a "
            "retry uploads and submits what is there now."
        )

    def forget(self) -> None:
        """Have it uploaded again by the next attempt."""
        self.memory.forget(self.memory.name(self.source.audio, self.version))


def looked_at(
    account: Account,
    reference: str | os.PathLike[str] | AudioReference,
    *,
    url_validity: timedelta | float | str,
    public_urls: Mapping[str, str] | str | None,
    upload: object,
) -> tuple[AudioSource, Upload | None]:
    """
    Look at a recording, where it is in storage; return where it is, and how it is uploaded if it is to be.

    :param reference: As for :func:`~plaud_provider.recordings.sources.audio_source`.
    :param url_validity: For how long it is signed.
    :param public_urls: From where Plaud can fetch local files.
    :param upload: ``auto``, ``always`` or ``never``.
    :raises PlaudError: if Plaud could not fetch or transcribe it; nothing was sent.
    """
    mode = mode_of(account, validate_upload(upload))
    source = audio_source(
        reference if isinstance(reference, AudioReference) else AudioReference(reference),
        url_validity=validate_url_validity(url_validity),
        public_urls=validate_public_urls(public_urls),
        is_uploadable=mode != "never",
    )
    check_uploadable(source, mode)
    source.connect()
    version = source.look()
    if mode == "never" or (mode == "auto" and is_fetchable(account, source)):
        return source, None
    # Whatever it is, it is converted.
    found = examine(source, is_converted=True)
    return source, Upload(source, version, found, UploadMemory(account, None))


def is_fetchable(account: Account, source: AudioSource) -> bool:
    """
    Whether Plaud could fetch a recording from where it is, as far as that can be told from here.

    :param account: Whose Plaud it is: one on this machine reaches what is on this machine.
    :param source: Where the recording is.
    :raises PlaudError: if its storage could not be asked.
    """
    if not source.is_readable:
        # A URL that the user has signed for Plaud.
        return True
    try:
        url = source.url()
    except PlaudNotFetchableError as why:
        log.debug("%s It is uploaded instead.", why)
        return False
    if is_loopback(url.host):
        return is_loopback(urlsplit(account.base_url).hostname or "")
    return not is_private(url.host)


def is_private(host: str) -> bool:
    """Whether nobody on the internet can reach a host, by its name or address."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.rstrip(".").endswith(_PRIVATE_NAMES)


def uploaded(
    account: Account, policy: RetryPolicy, item: Upload, *, check: Callable[[], None] = lambda: None
) -> Call[str]:
    """
    Upload a recording, unless it was before; return the URL to submit, which is a secret.

    Nothing of it is billed. Killed at any point, it leaves nothing that is paid for, and goes on with the
    parts that have arrived.

    :param item: The recording.
    :param check: Called now and then; what it raises ends the upload.
    :raises PlaudInputError: if it cannot be converted, or is no file that can be read here.
    :raises PlaudReplacedError: if it has another content than when it was identified.
    :raises PlaudError: as :func:`plaud_provider.api.uploads.upload`, and as the storages do.
    """
    source, memory = item.source, item.memory
    name = memory.name(source.audio, item.version)
    known: str | None = yield Do(partial(memory.url, name))
    if known is not None:
        log.info("%s was uploaded before; it is not uploaded again.", source.audio.uri)
        return known

    def confirm() -> None:
        if source.look() != item.version:
            raise item.replaced()

    def send(*, is_converted: bool) -> Call[str]:
        content: _Content = yield Do(partial(_opened, item, is_converted=is_converted))
        try:
            if not content.size:
                raise refused(source.audio, "has no sound in it that could be converted")
            log.info(
                "Uploading %s to Plaud's storage (%.1f MB, %s).",
                source.audio.uri,
                content.size / 1e6,
                content.filetype.upper(),
            )
            return (yield from upload(account, policy, content, check=check, confirm=confirm))
        finally:
            content.close()

    is_kept = item.found.format in KEPT
    try:
        url = yield from send(is_converted=not is_kept)
    except FileTypeRefusedError as refusal:
        if item.found.format == "mp3" or not is_kept:
            raise
        log.info("%s It is converted to MP3.", refusal)
        url = yield from send(is_converted=True)
    yield Do(partial(memory.keep, name, url))
    return url


def _opened(item: Upload, *, is_converted: bool) -> _Content:
    """Open what is to be sent."""
    if not is_converted:
        with item.source.stream() as file:
            size = file.seek(0, os.SEEK_END)
        return _Content(item, item.source.stream, size, item.found.format)
    # It takes long to import, and is seldom needed.
    from plaud_provider.recordings.converted import convert_recording

    converted = tempfile.NamedTemporaryFile(suffix=".mp3")  # noqa: SIM115
    try:
        convert_recording(item.source, item.found, converted)
    except BaseException:
        converted.close()
        raise
    path = Path(converted.name)
    size = converted.tell()
    converted.seek(0)
    # Other versions of FFmpeg make other files of the same recording.
    digest = hashlib.file_digest(converted, "sha256").hexdigest()
    return _Content(item, lambda: path.open("rb"), size, "mp3", digest=digest, close=converted.close)


class _Content:
    """
    A file that is read in several places at once.

    :param item: What is uploaded.
    :param open_: Opens the file.
    :param size: Its bytes.
    :param filetype: Its type, as Plaud calls it.
    :param digest: Hash of the file, if it is not the recording as it is.
    :param close: Removes it, if it is temporary.
    """

    def __init__(
        self,
        item: Upload,
        open_: Callable[[], BinaryIO],
        size: int,
        filetype: str,
        *,
        digest: str = "",
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.item = item
        self.open = open_
        self.size = size
        self.filetype = filetype
        self.close = close
        self._name = item.memory.name(item.source.audio, item.version)
        self._bytes = f"{size} {filetype} {digest}"

    def begun(self) -> BegunUpload | None:
        """Return an upload of these bytes that can be gone on with."""
        begun = self.item.memory.begun(self._name, self._bytes)
        if begun is not None:
            log.info(
                "Of %s, %d of %d parts were uploaded before; the rest is sent.",
                self.item.source.audio.uri,
                len(begun.etags),
                len(begun.urls),
            )
        return begun

    def keep(self, begun: BegunUpload) -> None:
        """Keep how far the upload is."""
        self.item.memory.keep_begun(self._name, self._bytes, begun)

    def part(self, start: int, end: int) -> _Part:
        """Return what is from one offset up to another."""
        return _Part(self, start, end)


class _Part:
    def __init__(self, content: _Content, start: int, end: int) -> None:
        self._content = content
        self._start = start
        self._end = end

    def __len__(self) -> int:
        return self._end - self._start

    def open(self) -> BinaryIO:
        file = self._content.open()
        file.seek(self._start)
        return cast("BinaryIO", _Stretch(file, len(self), self._content.item))


class _Stretch(io.RawIOBase):
    """So many bytes of an open file, and not fewer."""

    def __init__(self, file: BinaryIO, left: int, item: Upload) -> None:
        super().__init__()
        self._file = file
        self._left = left
        self._item = item

    def read(self, size: int = -1, /) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        try:
            piece = self._file.read(wanted)
        except EOFError:
            # An object of a storage became shorter.
            piece = b""
        if wanted and not piece:
            raise self._item.replaced()
        self._left -= len(piece)
        return piece

    def close(self) -> None:
        self._file.close()
        super().close()


def check_uploadable(source: AudioSource, mode: UploadMode) -> None:
    """
    Refuse to upload what is not read here.

    :raises PlaudInputError: for a URL, which was signed for Plaud.
    """
    if mode == "always" and not source.is_readable:
        raise refused(
            source.audio,
            "is a URL, which is not read here, so that it cannot be uploaded, as upload='always' asks for. "
            "Pass an s3://, gs:// or abfs:// reference or a local file, or leave upload at 'auto' to have "
            "Plaud fetch the URL",
        )
