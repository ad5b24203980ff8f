"""A small object store: files of a folder, read with URLs that are signed and expire."""

from __future__ import annotations

import hashlib
import hmac
import mimetypes
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode

from plaud_provider.emulator.wire import Answer, Request, error_answer

PREFIX = "/store/"
MAX_EXPIRES = 7 * 86400
_DATE_FORMAT = "%Y%m%dT%H%M%SZ"
_CLOCK_SKEW = timedelta(minutes=15)


class StoreError(Exception):
    """Why a file cannot be signed for."""


class ObjectStore:
    """
    Files below one folder, read only.

    The query parameters are named as Amazon S3 names them; the signature itself is simpler: HMAC-SHA256 over
    path, date and life. Expiry is checked against real time, as by a store that is not the emulator's.

    :param folder: Where the files are; without one there are no files.
    :param key: Key of the signatures; by default a new one.
    """

    def __init__(self, folder: Path | None, key: str | None = None) -> None:
        self._folder = None if folder is None else folder.resolve()
        self._key = (key or secrets.token_hex(32)).encode()

    def objects(self) -> list[dict[str, Any]]:
        """Return path and size of each file; hidden ones are left out."""
        if self._folder is None:
            return []
        paths = (path.relative_to(self._folder) for path in sorted(self._folder.rglob("*")) if path.is_file())
        return [
            {"path": path.as_posix(), "bytes": (self._folder / path).stat().st_size}
            for path in paths
            if not any(part.startswith(".") for part in path.parts)
        ]

    def sign(self, path: str, expires: int, *, at: datetime | None = None) -> str:
        """
        Return path and query of a URL for a file.

        :param path: Of the file, relative to the folder.
        :param expires: Seconds of real time for which the URL works, 1 to 604800.
        :param at: When its life begins; by default now.
        :raises StoreError: if there is no such file, or ``expires`` is out of range.
        """
        if not 1 <= expires <= MAX_EXPIRES:
            raise StoreError(f"expires: {expires} is not 1 to {MAX_EXPIRES} seconds.")
        if self._find(path) is None:
            raise StoreError(f"path: there is no file {path!r} in the store.")
        date = (at or datetime.now(UTC)).astimezone(UTC).strftime(_DATE_FORMAT)
        query = {
            "X-Amz-Date": date,
            "X-Amz-Expires": str(expires),
            "X-Amz-Signature": self._signature(path, date, str(expires)),
        }
        return f"{PREFIX}{quote(path)}?{urlencode(query)}"

    def answer(self, request: Request) -> Answer:
        """Answer a request for a file. Without a valid signature it is not even looked for."""
        if request.method not in ("GET", "HEAD"):
            return error_answer(
                405, "method_not_allowed", "The store is read-only.", headers={"allow": "GET, HEAD"}
            )
        path = unquote(request.path.removeprefix(PREFIX))
        refusal = self._refusal(path, request.query)
        if refusal is not None:
            return error_answer(403, "access_denied", refusal)
        file = self._find(path)
        if file is None:
            return error_answer(404, "no_such_key", "There is no such file.")
        media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return Answer(200, file.read_bytes(), {"content-type": media_type})

    def _refusal(self, path: str, query: str) -> str | None:
        parameters = {name: values[0] for name, values in parse_qs(query).items()}
        date, expires, signature = (
            parameters.get(f"X-Amz-{name}", "") for name in ("Date", "Expires", "Signature")
        )
        expected = self._signature(path, date, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogatepass")):
            return "The signature is missing or does not match."
        begins = datetime.strptime(date, _DATE_FORMAT).replace(tzinfo=UTC)
        now = datetime.now(UTC)
        if begins > now + _CLOCK_SKEW:
            return "The signature is not valid yet."
        return "The signature has expired." if now > begins + timedelta(seconds=int(expires)) else None

    def _find(self, path: str) -> Path | None:
        """Return the file, unless it is outside the folder, also by way of a link."""
        if self._folder is None or "\x00" in path:
            return None
        file = (self._folder / path).resolve()
        return file if file.is_relative_to(self._folder) and file.is_file() else None

    def _signature(self, path: str, date: str, expires: str) -> str:
        signed = f"{path}\n{date}\n{expires}".encode("utf-8", "surrogatepass")
        return hmac.new(self._key, signed, hashlib.sha256).hexdigest()
