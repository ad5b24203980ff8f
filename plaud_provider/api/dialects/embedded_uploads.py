"""
The calls of an upload, which the dialect ``embedded`` has: their requests, and what their answers say.

Source: Plaud's pages on file uploads. A part goes to a pre-signed URL of the storage behind the API.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from plaud_provider.api.account import Account
from plaud_provider.api.answers import parse_json, places_in
from plaud_provider.api.effects import Operation, Part, Request
from plaud_provider.api.loopback import is_loopback
from plaud_provider.api.members import by_plain_name
from plaud_provider.exceptions import PlaudResponseError

USER_TOKEN_PATH = "/open/partner/users/access-token"
PART_URLS_PATH = "/open/partner/files/upload/generate-presigned-urls"
COMPLETE_PATH = "/open/partner/files/upload/complete-upload"

#: Uploads belong to a user of the partner's; the package has one.
USER_ID = "airflow-provider-plaud"
USER_TOKEN_SECONDS = 86_400
#: Documented size of a part; the last one is smaller.
PART_BYTES = 5 * 1024 * 1024
#: Each part has a URL of one or two kilobytes.
LARGEST_ANSWER_BYTES = 8 * 1024 * 1024
#: On an event loop a part is held in memory.
LARGEST_PART_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class BegunUpload:
    """
    Where the parts of an upload go, and which have arrived.

    :param part_bytes: Bytes of each part but the last.
    :param urls: Pre-signed URLs, in the order of the parts; they are secrets.
    :param etags: What the storage has answered to the first of them, in their order.
    """

    file_id: str
    upload_id: str
    part_bytes: int
    urls: Sequence[str] = field(repr=False)
    etags: list[str] = field(default_factory=list, repr=False)


def user_token_request(account: Account, partner_token: str) -> Request:
    """Ask for the token that uploads are made with."""
    body = {"user_id": USER_ID, "expires_in": USER_TOKEN_SECONDS}
    return _request(account, Operation.USER_TOKEN, USER_TOKEN_PATH, partner_token, body)


def part_urls_request(account: Account, user_token: str, *, size: int, filetype: str) -> Request:
    """
    Ask for URLs of an upload's parts.

    :param size: Bytes of the file.
    :param filetype: ``mp3``, ``opus`` or ``m4a``.
    """
    body = {"filesize": size, "filetype": filetype}
    return _request(account, Operation.UPLOAD, PART_URLS_PATH, user_token, body)


def part_request(url: str, content: Part) -> Request:
    """Send a part: raw bytes, and no credentials but those of its URL."""
    return Request(Operation.PART, "PUT", url, headers={}, body=content)


def complete_request(account: Account, user_token: str, begun: BegunUpload, *, filetype: str) -> Request:
    """
    Say that all parts are there.

    The MD5 of the file, which may be told as well, is left out: it would have to be read once more for that.
    """
    body = {
        "file_id": begun.file_id,
        "upload_id": begun.upload_id,
        "part_list": [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(begun.etags, 1)],
        "filetype": filetype,
    }
    return _request(account, Operation.UPLOAD, COMPLETE_PATH, user_token, body)


def parse_part_urls(account: Account, body: bytes, *, size: int) -> BegunUpload:
    """
    Read where the parts of an upload go.

    :param size: Bytes of the file.
    :raises PlaudResponseError: if not every byte of it would have a place.
    """
    found = _members(body)
    file_id, upload_id, parts = (found.get(name) for name in ("fileid", "uploadid", "parts"))
    if not _is_id(file_id) or not _is_id(upload_id) or not isinstance(parts, list):
        raise _unusable("has no FileId, UploadId and Parts")
    part_bytes = PART_BYTES if found.get("chunksize") is None else _whole(found["chunksize"])
    if not 0 < part_bytes <= LARGEST_PART_BYTES:
        raise _unusable("has a ChunkSize that makes no sense")
    urls: dict[int, str] = {}
    for part in parts:
        members = by_plain_name(part) if isinstance(part, dict) else {}
        urls[_whole(members.get("partnumber"))] = checked_url(account, members.get("presignedurl"))
    numbers = range(1, math.ceil(size / part_bytes) + 1)
    if set(urls) != set(numbers) or len(parts) != len(numbers):
        raise _unusable(f"has {len(parts)} Parts of {part_bytes} bytes for a file of {size}")
    return BegunUpload(str(file_id), str(upload_id), part_bytes, [urls[number] for number in numbers])


def parse_download_url(account: Account, body: bytes) -> str:
    """
    Read where what was uploaded can be fetched from, which is a secret.

    :raises PlaudResponseError: if there is no usable URL in the answer.
    """
    return checked_url(account, _members(body).get("downloadurl"))


def checked_url(account: Account, url: object) -> str:
    """
    Return a URL that Plaud has given out, if it is one to send a recording to.

    :raises PlaudResponseError: if it is none, or not https (or http on loopback, where the API is as well).
    """
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        host = parts.hostname or ""
    except ValueError:
        host = ""
    is_local = is_loopback(host) and is_loopback(urlsplit(account.base_url).hostname or "")
    if (
        not isinstance(url, str)
        or not host
        or "@" in parts.netloc
        or parts.scheme not in (("https", "http") if is_local else ("https",))
        or not (url.isascii() and url.isprintable())
        or " " in url
    ):
        raise _unusable("has a URL in it that is not a plain https:// one")
    return url


def _request(
    account: Account, operation: Operation, path: str, token: str, body: Mapping[str, object]
) -> Request:
    return Request(
        operation=operation,
        method="POST",
        url=account.base_url + path,
        headers={
            "Authorization": f"Bearer {token}",
            "Accept": "application/json",
            "Content-Type": "application/json",
        },
        body=json.dumps(body).encode(),
    )


def _members(body: bytes) -> dict[str, Any]:
    """Return the members of an answer by plain names, also of what is wrapped in it."""
    if len(body) > LARGEST_ANSWER_BYTES:
        raise _unusable(f"is too large ({len(body)} bytes)")
    found: dict[str, Any] = {}
    for place in reversed(places_in(parse_json(body))):
        found |= place
    return found


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 4096


def _whole(value: object) -> int:
    """Return a whole number, also one that is written as text; -1 if it is none."""
    return int(value) if str(value).isdecimal() and isinstance(value, (int, str)) else -1


def _unusable(why: str) -> PlaudResponseError:
    return PlaudResponseError(f"Plaud's answer to an upload {why}.")
