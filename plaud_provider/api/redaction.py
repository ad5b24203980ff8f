"""
Text of others without what is secret in it: error messages of Plaud, of storages and of libraries.

Whoever quotes a URL quotes its signature. So every query string goes, however it is written, with names and
passwords before a host, and values of parameters that sign.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from plaud_provider.api.url_shapes import AUDIO_FILE, BOT, is_drawn


def _spellings(character: str) -> str:
    """Return a pattern of a character as itself, percent-encoded, or as an escape of JSON, Python or HTML."""
    code = f"{ord(character):X}"
    escapes = rf"\\u00{code}|\\x{code}|&\#(?:{ord(character)}|x{code});"
    return rf"(?:{re.escape(character)}|%(?:25){{0,4}}{code}|{escapes})"


# All repetitions are bounded: an answer may be built to make a pattern take for ever.
_EQUALS, _COLON, _AT = _spellings("="), _spellings(":"), _spellings("@")
_SLASHES = rf"(?:\\{{0,4}}{_spellings('/')}){{2}}"
_END = "\"'<>"
_VALUE = rf"(?!<removed>)[^\s{_END}&;,)\]}}]+"
_SIGNING = r"x[-_](?:amz|goog|oss)[-_][a-z0-9_-]{1,40}|x-(?:client-)?api-key"
_SECRET = (
    rf"{_SIGNING}|signature|sig|hmac|awsaccesskeyid|googleaccessid|key-pair-id"
    r"|(?:access|refresh|security|session)[_-]?token|(?:client[_-]?)?secret(?:[_-]?key)?|password|api[_-]?key"
)

#: Text without any of these has no secret.
_SIGNS = (*"=@%\\?:&<", "',", '",', "earer ")
_WORD = re.compile(r"\S+")
_MARK = re.compile(_spellings("?"), re.IGNORECASE)
_EQUALS_SIGN = re.compile(_EQUALS, re.IGNORECASE)
_SLASH = re.compile(_spellings("/"), re.IGNORECASE)
_USER = re.compile(rf"(https?)?({_COLON}{_SLASHES})([^\s{_END}/]{{1,256}}){_AT}", re.IGNORECASE)
_BARE_USER = re.compile(
    rf"(?<![\w.%+/-])[\w.%+-]{{1,64}}{_COLON}[^\s{_END}/@:]{{1,256}}@(?=[\w\[])", re.IGNORECASE
)
# A line may have been broken behind the sign.
_PARAMETER = re.compile(
    rf"\b({_SECRET}|policy|token|credential)({_EQUALS}\s{{0,2}}[\"']?){_VALUE}", re.IGNORECASE
)
# As a header, a member of an object, or a pair. "Signature: does not match" is none.
_MEMBER = re.compile(
    rf"\b((?:{_SIGNING})[\"']?\s{{0,2}}:\s{{0,2}}[\[\"']{{0,2}}|(?:{_SECRET})[\"']\s{{0,2}}[:,]\s{{0,2}}\[?[\"']){_VALUE}",
    re.IGNORECASE,
)
# Of S3's errors, which are XML. "SignatureProvided" is one, too.
_ELEMENT = re.compile(rf"(<(?:{_SECRET})[a-z]{{0,20}}>){_VALUE}", re.IGNORECASE)
_AUTHORIZATION = re.compile(
    rf"\b(authorization[\"']?\s{{0,2}}[:=]\s{{0,2}}[\"']?(?:(?:bearer|basic)\s{{1,2}})?|bearer\s(?=\S{{20}})){_VALUE}",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(_SECRET, re.IGNORECASE)
_JWT = re.compile(r"(?<![\w-])eyJ[\w=-]{6,1024}(?:\.[\w=-]{0,2048}){1,2}")
_PATH_SLASH = _spellings("/")
#: A part of a path that may be a secret by itself, as of Box, Dropbox, Airtable and Telegram.
_PATH_PART = re.compile(r"(?:(?<=/)|(?<=%2[Ff]))[\w!~.:=-]{19,}[\w=-]")
#: Oracle's links have their secret in the path.
_PRE_AUTHENTICATED = re.compile(
    rf"({_PATH_SLASH}p{_PATH_SLASH})[\w.~-]{{1,256}}(?={_PATH_SLASH}n{_PATH_SLASH})", re.IGNORECASE
)


def without_secrets(text: str) -> str:
    """Return text of somebody else without query strings, passwords in URLs, tokens, and signatures."""
    if "eyJ" in text:
        text = _JWT.sub("<removed>", text)
    if not any(mark in text for mark in _SIGNS):
        return text
    text = _WORD.sub(lambda word: _without_query(word[0]), text)
    text = _USER.sub(_without_user, text)
    text = _BARE_USER.sub("<removed>@", text)
    text = _PRE_AUTHENTICATED.sub(r"\1<removed>", text)
    text = _PATH_PART.sub(_without_drawn, text)
    text = _PARAMETER.sub(r"\1\2<removed>", text)
    for pattern in (_MEMBER, _ELEMENT, _AUTHORIZATION):
        text = pattern.sub(r"\1<removed>", text)
    return text


def redact(answer: dict[str, Any], *, transcripts: Collection[str], errors: Collection[str]) -> None:
    """
    Remove secrets from the keys and texts of an answer, in place.

    :param answer: The answer, as it was parsed.
    :param transcripts: Keys of transcripts, which stay as they are.
    :param errors: Keys of errors, below which nothing is a transcript.
    """
    # Not by a function that calls itself: an answer may be nested deeply.
    open_ones: list[tuple[Any, bool, Iterator[Any]]] = []
    # A long transcript has the same few names a hundred thousand times.
    harmless: set[str] = set()

    def enter(values: dict[str, Any] | list[Any], is_error: bool) -> None:
        if isinstance(values, dict):
            _redact_keys(values, harmless)
        places = values if isinstance(values, dict) else range(len(values))
        open_ones.append((values, is_error, iter(places)))

    enter(answer, False)
    while open_ones:
        values, is_error, places = open_ones[-1]
        for place in places:
            value = values[place]
            if isinstance(value, (dict, list)):
                enter(value, is_error or place in errors)
                break
            if isinstance(value, str) and (is_error or place not in transcripts):
                is_secret = isinstance(place, str) and _SECRET_NAME.fullmatch(place) is not None
                values[place] = "<removed>" if is_secret else without_secrets(value)
        else:
            open_ones.pop()


def _redact_keys(values: dict[str, Any], harmless: set[str]) -> None:
    new = [name for name in values if name not in harmless]
    harmless.update(name for name in new if without_secrets(name) == name)
    if harmless.issuperset(new):
        return
    members = list(values.items())
    values.clear()
    for name, value in members:
        shown = without_secrets(name)
        # Two URLs may differ in their queries only.
        while shown in values:
            shown += "*"
        values[shown] = value


def _without_query(word: str) -> str:
    mark = _MARK.search(word)
    if mark is None:
        return word
    end = mark.end()
    for equals in _EQUALS_SIGN.finditer(word, mark.end()):
        end = equals.end()
    if end == mark.end():
        # Without a parameter it may be prose ("really?no").
        if not _SLASH.search(word, 0, mark.start()):
            return word
    else:
        end = len(word) - len(word[end:].lstrip(_END))
    # A quote or bracket ends it, once there is no parameter behind.
    while end < len(word) and word[end] not in _END:
        end += 1
    if not any(character.isalnum() for character in word[mark.end() : end]):
        return word
    return f"{word[: mark.end()]}<query removed>{word[end:]}"


def _without_drawn(part: re.Match[str]) -> str:
    """Return a part of a path if it names what lies there: a hash, a UUID, the name of a file."""
    is_name = AUDIO_FILE.fullmatch(part[0]) or not (BOT.match(part[0]) or is_drawn(part[0]))
    return part[0] if is_name else "<removed>"


def _without_user(url: re.Match[str]) -> str:
    scheme, slashes, user = url.groups()
    # Before a bucket, a name without a password is that of an Airflow connection.
    is_kept = scheme is None and re.search(_COLON, user, re.IGNORECASE) is None
    return url[0] if is_kept else f"{scheme or ''}{slashes}"
