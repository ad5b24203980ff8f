"""What values look like in URLs: secrets, hashes, moments, files, and words that name no recording."""

from __future__ import annotations

import base64
import json
import re
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

#: Letters of a signature or secret, at least.
SHORTEST = 6
#: Whose a recording is.
OWNER = (
    r"(api|app|client|user|account|acct|tenant|customer|org|organi[sz]ation|company|team|workspace|partner"
    r"|project|domain|site|region|agent|host|server)"
)
#: What Rails signs, and calls an attachment by.
SIGNED_ID = re.compile(r"[\w=+/-]{4,}--[0-9a-f]{40,}")
JWT = re.compile(rf"(?<![A-Za-z0-9])(?!{SIGNED_ID.pattern})eyJ[A-Za-z0-9_=-]{{6,}}(\.[A-Za-z0-9_=-]*)*")
#: JSON, twice in a JWT; maybe when it was signed; the signature. As JWT, Rails, Django, itsdangerous have it.
_JSON = r"eyJ(?:[\w+-]|%2[BbFf])+"
SIGNED_TEXT = re.compile(
    rf"(?<![\w+-])(?P<said>{_JSON}(?:\.{_JSON})?(?:=|%3[Dd]){{0,2}})"
    r"(?:[.:][\w-]{6,7})?(?:[.:][\w-]{20,}|--[0-9a-f]{40,})"
)
_URL_SAFE = str.maketrans("+/", "-_")
#: What says how a token is signed or encrypted, not what for.
_HEADER = frozenset(["alg", "enc"])
_TIME_OF_TOKEN = re.compile(r"exp|iat|nbf|auth_time|.*expir.*", re.IGNORECASE)
#: A bot of Telegram's with its key, which can be changed.
BOT = re.compile(r"bot\d+:[\w-]{20,}")
KNOWN_TOKEN = re.compile(
    r"xox[a-z]-|ya29\.|gh[opsu]_|sk[-_]|(bearer|basic)\s|.*[~&](hmac|sig|signature|token)=", re.IGNORECASE
)
HASH = re.compile(r"(?=.*\d)(?=.*[a-f])([0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{56,128})", re.IGNORECASE)
#: A UUID; an id of Twilio's.
ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[A-Z]{2}[0-9a-f]{32}", re.IGNORECASE
)
NUMBER = re.compile(r"([-+]?\d{1,9}([.,:]\d{1,9})*|true|false|yes|no)?", re.IGNORECASE)
FILE = re.compile(r".*[^/]\.[A-Za-z][A-Za-z0-9]{1,4}", re.DOTALL)
AUDIO_FILE = re.compile(
    r"(.*/)?(?P<stem>[^/]+)\.(m4a|mp3|wave?|mp4|m4b|mpga|aac|oga|ogg|opus|flac|webm|amr)", re.IGNORECASE
)
#: An MD5, SHA-1 or SHA-256 in base64.
DIGEST = re.compile(r"(?=.*[a-z])(?=(.*[A-Z]){3})(?=.*[\d_-])([\w-]{22}|[\w-]{27}|[\w-]{43})")
#: Who hands out recordings calls them by such words, which name none: getRecording, download_file, audio.
_WORDS = re.compile(
    r"((download|get|fetch|retrieve|file|audio|sound|voice|voicemail|recording|record|call|stream|media|play"
    r"|player|listen|index|content|attachment|raw|view|serve|api|rest|public|link|share|shared|object|blob|data"
    r"|export|output|original|default|track)s?|uc|dl|rec|[dfrs])+",
    re.IGNORECASE,
)
EPOCH = r"[1-3]\d{9}(\d{3})?"
#: When a signature ends, or was made, and the signature.
SIGNED_TIME = re.compile(rf"{EPOCH}[-_,~:][\w-]{{20,}}|(?=.*\d)[\w-]{{20,}}[-_,~:]{EPOCH}")
MOMENT = re.compile(rf"{EPOCH}(\D.*)?|20\d\d-?[01]\d-?[0-3]\d[T ][0-2]\d:?[0-5]\d.*")


def said_by(token: re.Match[str]) -> str | None:
    """
    Return what a signed token says, without when it was made and when it ends.

    Two tokens that say the same are of the same recording: who made them has nothing else to know it by.

    :param token: What :data:`SIGNED_TEXT` found.
    :return: JSON; ``None`` if it says nothing that others can read.
    """
    said = []
    for part in unquote(token["said"]).rstrip("=").split("."):
        try:
            read = json.loads(base64.urlsafe_b64decode(part.translate(_URL_SAFE) + "=" * (-len(part) % 4)))
        except (ValueError, RecursionError):
            return None
        if isinstance(read, dict) and not _HEADER & read.keys() and (rest := _without_times(read)):
            said.append(rest)
    return json.dumps(said, sort_keys=True) if said else None


def _without_times(said: dict[str, Any]) -> dict[str, Any]:
    clear = {}
    for name, value in said.items():
        inner = _without_times(value) if isinstance(value, dict) else value
        if inner != {} and not _TIME_OF_TOKEN.fullmatch(name):
            clear[name] = inner
    return clear


def is_any(name: str) -> bool:
    """Whether what is called so may be any recording."""
    # Longer ones are not made of these words, and would take long to be told so.
    return _WORDS.fullmatch(re.sub(r"[-_.]", "", name)[:40]) is not None


def is_drawn(text: str) -> bool:
    """Whether a text was rather drawn by a machine than written: its kinds of letters take turns."""
    letters = re.sub(r"[^A-Za-z0-9]", "", text)
    if len(letters) < 14 or ID.fullmatch(text) or HASH.fullmatch(text):
        return False
    kinds = ["0" if letter.isdigit() else "A" if letter.isupper() else "a" for letter in letters]
    turns = sum(one != other for one, other in pairwise(kinds))
    if re.fullmatch(r"[a-z0-9]{16,}", text):
        # With one kind of letters there are fewer turns; but what is written has blanks or dashes in it.
        return turns >= (0.15 if len(letters) >= 28 else 0.22) * len(letters)
    return turns >= (0.35 if len(letters) >= 20 else 0.4) * len(letters)
