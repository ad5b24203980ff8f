"""Paths of URLs: whether they name a recording, and which of their parts are secret."""

from __future__ import annotations

import re
from itertools import pairwise
from urllib.parse import unquote

from plaud_provider.api.url_shapes import (
    AUDIO_FILE,
    BOT,
    DIGEST,
    EPOCH,
    HASH,
    ID,
    JWT,
    OWNER,
    SIGNED_ID,
    is_any,
    is_drawn,
)
from plaud_provider.storage.signed_queries import has_signature

#: What a folder of one recording may be called, as ``call-17``; the version of an API is shorter.
_WITH_NUMBER = re.compile(r"(?=.*\d).{5,}")
#: What an API has before the id of a recording: what follows names it if there is a digit in it.
_COLLECTION = re.compile(
    r"(recording|call|file|message|media|audio|voicemail|conversation|interaction|clip|track|episode"
    r"|attachment)s?",
    re.IGNORECASE,
)
_OF_COLLECTION = re.compile(r"(?!v\d+(\.\d+)*\Z)(?=.*\d).{3,}")
_SCRIPT = re.compile(r"\.(php\d?|aspx?|ashx|jsp|do|cgi|pl|py|action|cfm)\Z", re.IGNORECASE)
_TOKEN_FOLLOWS = re.compile(
    r"(access[-_]?|auth[-_]?)?token|sig|signature|jwt|sas|ks|secret|api[-_]?key|pwd|password"
    r"|tokenpluginfile\.php",
    re.IGNORECASE,
)
#: Where a token is the attachment's own for ever, as of Zendesk's.
_ATTACHMENT = re.compile(r"attachments?", re.IGNORECASE)
#: What may be a key behind such a part, or the link of a share, has capital letters or digits.
_KEY_FOLLOWS = re.compile(r"auth|key|k|t|secure([-_]?link)?|signed|protected|private|hash|md5", re.IGNORECASE)
_KEY = re.compile(r"(?=.*[A-Z0-9])[\w-]{6,}")
_SHARE_FOLLOWS = re.compile(r"s|share|shared|sharing|static", re.IGNORECASE)
_SHARE = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9]{12,}")
_CLOUDINARY = re.compile(r"s--[\w-]{8,32}--")
#: A share of OneDrive's, Box's or Slack's.
_SHARED_PART = re.compile(r"[a-z]\d?![\w-]{8,}|T[A-Z0-9]+-F[A-Z0-9]+-\w{6,}")
#: What is before a secret in the same part of a path, and no secret.
_BEFORE_SECRET = re.compile(r"[^;=]*;|bot\d+:")
#: A time in a signed path, where it is not in epoch seconds: as in 202405011000, or hexadecimal.
_TIME_IN_PATH = re.compile(r"20\d{10}|[0-9a-f]{8}", re.IGNORECASE)
_HASH_AND_TIME = re.compile(
    rf"([\w-]{{20,}}[,_~-]{EPOCH}|{EPOCH}[,_~-][\w-]{{20,}}|{EPOCH}(-\w+)+-[0-9a-f]{{32}})"
)


def path_names(address: str) -> bool:
    """Whether an address names a recording by its path, not only what hands out recordings."""
    parts = [part.partition(";")[0] for part in _parts(re.sub(r"\A[^/]*//[^/]*", "", address)) if part]
    if not parts or parts[-1] == "*" or JWT.search(parts[-1]):
        return False
    audio = AUDIO_FILE.fullmatch(parts[-1])
    is_script = audio is None and _SCRIPT.search(parts[-1])
    return not (is_script or is_any(audio["stem"] if audio else parts[-1])) or any(
        part.isdecimal()
        or HASH.fullmatch(part)
        or ID.fullmatch(part)
        or is_drawn(part)
        or (audio is not None and _WITH_NUMBER.fullmatch(part) is not None)
        or (_COLLECTION.fullmatch(owner) and _OF_COLLECTION.fullmatch(part) is not None)
        for owner, part in pairwise(["", *parts[:-1]])
        if not re.fullmatch(f"{OWNER}s?", owner, re.IGNORECASE)
    )


def _parts(path: str) -> list[str]:
    return [unquote(part) for part in path.split("/")]


def signed_parts(path: str, *, is_named: bool) -> set[int]:
    """
    Return which parts of a path are a signature, a secret or an expiry.

    :param is_named: Whether something names the recording beside what may be either.
    """
    parts = _parts(path)
    found = set()
    for index, part in enumerate(parts):
        # A secret may be the word that others follow.
        before = parts[index - 1] if index and index - 1 not in found else ""
        after = parts[index + 1 :]
        # Oracle's pre-authenticated requests: /p/<secret>/n/<namespace>/b/<bucket>/o/<object>
        is_oracle = before == "p" and after[:1] == ["n"] and after[2:3] == ["b"]
        if is_oracle or has_signature(part):
            found.add(index)
        if not is_named or not after or SIGNED_ID.fullmatch(part):
            continue
        if (
            JWT.search(part)
            or _HASH_AND_TIME.fullmatch(part)
            or (_TOKEN_FOLLOWS.fullmatch(before) and not _ATTACHMENT.fullmatch(["", *parts][index - 1]))
            or _CLOUDINARY.fullmatch(part)
            or BOT.fullmatch(part)
        ):
            found.add(index)
        # What is last is the recording's name, whatever is before it.
        if len(after) >= 2 and _are_signature_and_time(before, part, after[0]):
            found |= {index, index + 1}
    if is_named and JWT.search(parts[-1]):
        found.add(len(parts) - 1)
    return found


def _are_signature_and_time(before: str, one: str, other: str) -> bool:
    """Whether two parts of a path that follow each other are a signature and when it ends."""
    for signature, moment in ((one, other), (other, one)):
        is_epoch = re.fullmatch(EPOCH, moment) is not None
        if HASH.fullmatch(signature) and (is_epoch or _TIME_IN_PATH.fullmatch(moment)):
            return True
        if is_epoch and (is_drawn(signature) or DIGEST.fullmatch(signature)):
            return True
        if is_epoch and _KEY_FOLLOWS.fullmatch(before) and _KEY.fullmatch(signature):
            return True
    return False


def drawn_parts(path: str) -> set[int]:
    """Return which parts of a path may be a secret that names what it gives: the link of a share, say."""
    parts = _parts(path)
    found = set()
    for index, part in enumerate(parts):
        before = parts[index - 1] if index else ""
        stem = part.partition(".")[0]
        # Of Box, Seafile, SharePoint and Google Drive.
        is_share = (
            parts[max(0, index - 2) : index] in (["shared", "static"], ["seafhttp", "files"])
            or (index == len(parts) - 1 and any(re.fullmatch(r":\w:", one) for one in parts))
            or parts[max(0, index - 2) : index] == ["file", "d"]
        )
        if (
            is_share
            or _TOKEN_FOLLOWS.fullmatch(before)
            or _SHARED_PART.fullmatch(part)
            or BOT.fullmatch(part)
            or SIGNED_ID.match(part)
        ):
            found.add(index)
        elif AUDIO_FILE.fullmatch(part) or HASH.fullmatch(stem) or ID.fullmatch(stem) or part.isdecimal():
            continue
        elif (
            is_drawn(part)
            or (_KEY_FOLLOWS.fullmatch(before) and _KEY.fullmatch(part))
            or (_SHARE_FOLLOWS.fullmatch(before) and _SHARE.fullmatch(part))
        ):
            found.add(index)
    return found


def marked(path: str, mark: str, places: set[int]) -> str:
    """Return a path with a mark in place of some of its parts; whose a secret is stays."""
    parts = path.split("/")
    for index in places:
        before = _BEFORE_SECRET.match(parts[index])
        parts[index] = f"{before[0]}{mark}" if before else mark
    return "/".join(parts)
