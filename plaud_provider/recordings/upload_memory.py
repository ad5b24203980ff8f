"""
What was uploaded to Plaud's storage, remembered for as long as it can be submitted.

For each recording there is a small file with the URL that Plaud has given out for it, and before, while its
parts are sent, with their URLs and which have arrived. The URLs are secrets, so they are encrypted with a key
derived from the client's secret key. The files lie at ``results_path``, so that
any worker finds them, or without one in this user's private folder of the host. If they cannot be used, an
upload is made again; nothing is paid twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from plaud_provider.api.dialects.embedded_uploads import BegunUpload
from plaud_provider.api.limits import UPLOAD_RETENTION
from plaud_provider.encryption import cipher
from plaud_provider.exceptions import PlaudConfigurationError, PlaudError
from plaud_provider.private_folder import PrivateFolder
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.storage.folder import LocalFolder, StoredFolder, parse_folder

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

    from plaud_provider.api.account import Account

log = logging.getLogger(__name__)

#: Folder of what is remembered, below results_path.
UPLOADED = "uploaded"
#: What can be fetched for less than this is uploaded again: Plaud may take its time to come for it.
LEAST_SECONDS = 1800.0
_STATE = "Nothing was sent, nothing is paid for."
_FORMAT_VERSION = 2


class UploadMemory:
    """
    The uploads of one client.

    :param account: The client.
    :param results_path: Folder that tasks share; ``None``: only those of this host.
    :raises PlaudConfigurationError: if it is no folder.
    """

    def __init__(self, account: Account, results_path: str | None) -> None:
        self._account = account
        self._is_shared = results_path is not None
        parent = str(PrivateFolder().path) if results_path is None else results_path
        self._folder: LocalFolder | StoredFolder = parse_folder(
            f"{parent.rstrip('/')}/{UPLOADED}/",
            argument="results_path",
            state=_STATE,
            kind=PlaudConfigurationError,
        )

    def name(self, audio: AudioReference, version: str | None) -> str | None:
        """
        Return what an upload is called; ``None`` if it cannot be told from one of another content.

        How a recording is to be transcribed is no part of it.

        :param version: Version of its content.
        """
        if version is None:
            return None
        parts = (self._account.client_name, audio.identity, version)
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()

    def url(self, name: str | None) -> str | None:
        """Return where an earlier upload can be fetched from; ``None`` if there is none for long enough."""
        known = self._read(name)
        if known is None or "url" not in known or known["expires_at"] - LEAST_SECONDS < time.time():
            return None
        return str(known["url"])

    def keep(self, name: str | None, url: str) -> None:
        """
        Remember an upload.

        :param name: What :meth:`name` returned.
        :param url: Where it can be fetched from, which is a secret.
        """
        self._write(name, url, {"url": url})

    def begun(self, name: str | None, content: str) -> BegunUpload | None:
        """
        Return an upload that was begun and not completed, if its URLs can still be used.

        :param content: What :meth:`keep_begun` was told.
        """
        known = self._read(name)
        if known is None or known.get("content") != content or known["expires_at"] < time.time():
            return None
        return BegunUpload(**known["begun"])

    def keep_begun(self, name: str | None, content: str, begun: BegunUpload) -> None:
        """
        Remember how far an upload is.

        :param content: Tells the bytes that are sent from all others: the same recording may be converted.
        """
        self._write(name, begun.urls[-1], {"content": content, "begun": asdict(begun)})

    def _read(self, name: str | None) -> dict[str, Any] | None:
        if name is None or not self._is_usable():
            return None
        from cryptography.fernet import InvalidToken

        try:
            content = self._folder.read(name)
            if content is None:
                return None
            known: dict[str, Any] = json.loads(self._cipher().decrypt(content))
            return known if known["version"] == _FORMAT_VERSION and known["name"] == name else None
        except (InvalidToken, ValueError, TypeError, KeyError) as unreadable:
            log.debug("What is remembered of an upload cannot be used (%s).", type(unreadable).__name__)
        except PlaudError as away:
            log.warning("Whether the recording was uploaded before is not known; it is uploaded. %s", away)
        return None

    def _write(self, name: str | None, url: str, known: dict[str, Any]) -> None:
        """Remember something for as long as a URL of it can be used."""
        if name is None or not self._is_usable():
            return
        until = AudioReference(url).expires_at
        expires_at = time.time() + UPLOAD_RETENTION.total_seconds()
        if until is not None:
            expires_at = min(expires_at, until.timestamp())
        known |= {"version": _FORMAT_VERSION, "name": name, "expires_at": expires_at}
        try:
            self._folder.write(name, self._cipher().encrypt(json.dumps(known).encode()))
            if not self._is_shared:
                self._tidy()
        except PlaudError as away:
            log.warning("The upload cannot be remembered; a retry would upload it again. %s", away)

    def forget(self, name: str | None) -> None:
        """Forget an upload: what Plaud refuses to take from there is to be uploaded again."""
        if name is None or not self._is_usable():
            return
        try:
            self._folder.remove([name])
        except PlaudError as away:
            log.warning("The upload cannot be forgotten; it is not used any more in a day. %s", away)

    def _is_usable(self) -> bool:
        return self._is_shared or PrivateFolder().is_private

    def _tidy(self) -> None:
        """Remove what nobody can use any more; at results_path, runs do that at their end."""
        oldest = time.time() - UPLOAD_RETENTION.total_seconds()
        self._folder.remove(name for name, modified in self._folder.files() if modified < oldest)

    def _cipher(self) -> Fernet:
        return cipher(self._account.secret_key, "uploads")
