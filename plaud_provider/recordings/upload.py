"""
Recordings that are handed to Plaud's own storage, since Plaud cannot fetch them from where they are.

What Plaud's storage takes is sent as it is; everything else, such as WAV, is converted to MP3 on the way.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import tempfile
from collections.abc import Callable
from functools import partial
from typing import IO, TYPE_CHECKING, BinaryIO, Literal, NamedTuple

from plaud_provider.api.effects import Do
from plaud_provider.api.hosts import is_loopback
from plaud_provider.api.uploads import FileTypeRefusedError, upload
from plaud_provider.exceptions import (
    PlaudInputError,
    PlaudNotFetchableError,
    PlaudReplacedError,
)
from plaud_provider.recordings.convert import KEPT
from plaud_provider.recordings.reference import refused

if TYPE_CHECKING:
    from plaud_provider.api.account import Account
    from plaud_provider.api.calls import Call
    from plaud_provider.api.retry import RetryPolicy
    from plaud_provider.recordings.audio import Measured
    from plaud_provider.recordings.sources import AudioSource
    from plaud_provider.recordings.upload_memory import UploadMemory

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

    def forget(self) -> None:
        """Have it uploaded again by the next attempt."""
        self.memory.forget(self.memory.name(self.source.audio, self.version))


def is_fetchable(source: AudioSource) -> bool:
    """
    Whether Plaud could fetch a recording from where it is, as far as that can be told from here.

    :raises PlaudError: if its storage could not be asked.
    """
    try:
        url = source.url()
    except PlaudNotFetchableError as why:
        log.info("%s It is uploaded instead.", why)
        return False
    return not is_private(url.host)


def is_private(host: str) -> bool:
    """
    Whether nobody on the internet can reach a host, by its name or address.

    Loopback does not count: Plaud's emulator runs there.
    """
    if is_loopback(host):
        return False
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_NAMES)


def uploaded(
    account: Account, policy: RetryPolicy, item: Upload, *, check: Callable[[], None] = lambda: None
) -> Call[str]:
    """
    Upload a recording, unless it was before; return the URL to submit, which is a secret.

    Nothing of it is billed. Killed at any point, it leaves nothing that is paid for, and begins anew.

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
            raise PlaudReplacedError(
                f"{source.audio.uri!r} has been replaced since it was identified. Nothing was submitted; a "
                "retry uploads and submits what is there now."
            )

    def send(*, is_converted: bool) -> Call[str]:
        content: _Content = yield Do(partial(_opened, item, is_converted=is_converted))
        try:
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
        return _Content(item.source.stream(), item.found.format)
    # It takes long to import, and is seldom needed.
    from plaud_provider.recordings.converted import convert_recording

    # It has no name: nothing is left of it if this process is killed.
    file = tempfile.TemporaryFile(suffix=".mp3")  # noqa: SIM115
    try:
        convert_recording(item.source, item.found, file)
    except BaseException:
        file.close()
        raise
    return _Content(file, "mp3")


class _Content:
    """
    An open file.

    :param file: It seeks.
    :param filetype: Its type, as Plaud calls it.
    """

    def __init__(self, file: BinaryIO | IO[bytes], filetype: str) -> None:
        self.filetype = filetype
        self.size = file.seek(0, os.SEEK_END)
        self._file = file

    def read(self, start: int, end: int) -> bytes:
        """Return bytes from one offset up to another; fewer if the file ends before."""
        self._file.seek(start)
        some = []
        while start < end:
            try:
                piece = self._file.read(end - start)
            except EOFError:
                # An object of a storage became shorter.
                break
            if not piece:
                break
            some.append(piece)
            start += len(piece)
        return b"".join(some)

    def close(self) -> None:
        """Close it; what was converted is gone then."""
        self._file.close()


def check_readable(source: AudioSource) -> None:
    """
    Refuse to upload what is not read here.

    :raises PlaudInputError: for a URL, which was signed for Plaud.
    """
    if not source.is_readable:
        raise refused(
            source.audio,
            "is a URL, which is not read here, and so cannot be uploaded. Pass an s3://, gs:// or abfs:// "
            "reference or a local file, or leave upload at 'auto' to have Plaud fetch the URL",
        )
