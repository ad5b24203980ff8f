"""
Text of others without what is secret in it: error messages of Plaud, of storages and of libraries.

Whoever quotes a URL quotes its signature. So every query string goes, however it is written, with names and
passwords before a host, and values of parameters that sign.
"""

from __future__ import annotations

import re

# A character as itself, percent-encoded (once or twice), or as an escape of JSON.
_MARK = r"(?:\?|%(?:25)?3F|\\+u003F)"
_EQUALS = r"(?:=|%(?:25)?3D|\\+u003D)"
_COLON = r"(?::|%(?:25)?3A|\\+u003A)"
_SLASHES = r"(?://|(?:%(?:25)?2F){2}|(?:\\+u002F){2}|\\+/\\+/)"
_AT = r"(?:@|%(?:25)?40|\\+u0040)"
_INSIDE = r"[^\s\"'<>]"

_QUERY = re.compile(rf"({_MARK}){_INSIDE}*?{_EQUALS}{_INSIDE}*", re.IGNORECASE)
_USER = re.compile(rf"({_COLON}{_SLASHES})[^\s\"'<>/@?]*?{_COLON}[^\s\"'<>/@]*?{_AT}", re.IGNORECASE)
_PARAMETER = re.compile(
    r"\b(x-(?:amz|goog)-[a-z-]+|signature|sig|awsaccesskeyid|googleaccessid|key-pair-id|policy"
    r"|(?:access|refresh|security)?[_-]?token|secret(?:[_-]?key)?|password|api[_-]?key)"
    rf"({_EQUALS})(?!<removed>)[^\s\"'<>&;,]+",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """Return text of somebody else without query strings, passwords in URLs, and signatures."""
    if not any(mark in text for mark in ("=", "@", "%", "\\")):
        return text
    text = _QUERY.sub(r"\1<query removed>", text)
    text = _USER.sub(r"\1", text)
    return _PARAMETER.sub(r"\1\2<removed>", text)
