"""Fields that a reference to a recording has in it, such as an agent's name or the day of a call."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from datetime import date, datetime
from typing import NamedTuple
from urllib.parse import unquote

from plaud_provider.exceptions import PlaudInputError
from plaud_provider.storage.signatures import WEB

#: What the directives of ``strptime`` match.
_DIRECTIVES = {
    "Y": r"\d{4}",
    **dict.fromkeys("ymdHIMS", r"\d{1,2}"),
    "j": r"\d{1,3}",
    "f": r"\d{1,6}",
    "z": r"(?:Z|[+-]\d{2}:?\d{2}(?::?\d{2})?)",
    **dict.fromkeys("aAbBp", r"[^\W\d_]+"),
}
_FIELD = re.compile(r"\{(?P<name>[^{}:]*)(?::(?P<format>[^{}]*))?\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Fields(NamedTuple):
    """
    What a reference says.

    :param values: Text by the name of the field.
    :param started_at: When the recording begins, without time zone unless the reference tells it.
    :param date: The day of the recording.
    """

    values: dict[str, str]
    started_at: datetime | None = None
    date: date | None = None


class FieldPattern:
    r"""
    Takes references apart.

    Text with fields in braces, such as ``{agent}/{date:%Y-%m-%d}/{call_id}.mp3``, is matched with the end of
    the path, from a ``/`` on; with ``://`` in it, with the whole reference. A field has at least one
    character, as few as will do, and no ``/``; ``*`` stands for any text without one. What comes after a
    colon is a format of ``strptime``: all formats together tell the day of the recording, or when it begins.

    What has named groups, such as ``(?P<agent>[^/]+)/(?P<call_id>\d+)``, is a regular expression that is
    searched for in the whole reference.

    :param pattern: The pattern.
    :raises PlaudInputError: if it is neither; nothing was sent.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._is_regex = "(?P<" in pattern
        #: Formats by the groups that hold their texts.
        self._formats: dict[str, str] = {}
        try:
            self._regex = re.compile(pattern if self._is_regex else self._translated())
        except re.error as error:
            raise self._refusal(f"is no regular expression: {error}") from None
        #: Names of the fields.
        self.names = tuple(self._regex.groupindex)
        if not self.names:
            raise self._refusal("has no field")
        directives = [directive for format_ in self._formats.values() for directive in _directives(format_)]
        if len(set(directives)) < len(directives):
            raise self._refusal("tells a part of the time twice: give one of the fields no format")
        if directives and not _tells_day(directives):
            raise self._refusal("has formats that tell no day: it takes year, month and day (or %j)")

    def match(self, uri: str) -> Fields | None:
        """
        Return what a reference says; ``None`` if it does not match, or tells a time that does not exist.

        :param uri: The reference, as it is stored.
        """
        scheme, _, _ = uri.partition("://")
        text = unquote(uri) if scheme in WEB else uri
        if self._is_regex:
            found = self._regex.search(text)
        else:
            found = self._regex.fullmatch(text if "://" in self._pattern else path_of(uri))
        if found is None:
            return None
        values = {name: value for name, value in found.groupdict().items() if value is not None}
        if not self._formats:
            return Fields(values)
        try:
            # A line each: formats may tell the day in one field and the time in another.
            formats = "\n".join(self._formats.values())
            moment = datetime.strptime("\n".join(values[name] for name in self._formats), formats)
            for name, format_ in self._formats.items():
                if _tells_day(_directives(format_)):
                    # As every warehouse reads it, however it is written in the reference.
                    values[name] = _iso(datetime.strptime(values[name], format_), format_)
        except ValueError:
            return None
        return Fields(values, moment if _tells_time(formats) else None, moment.date())

    def _translated(self) -> str:
        parts = ["" if "://" in self._pattern else "(?:.*/)?"]
        end = 0
        for field in _FIELD.finditer(self._pattern):
            parts += self._literal(self._pattern[end : field.start()])
            end = field.end()
            name, format_ = field["name"], field["format"]
            if not _NAME.fullmatch(name):
                raise self._refusal(f"has a field {name!r}: names have letters of ASCII, digits and _")
            if f"(?P<{name}>" in "".join(parts):
                raise self._refusal(f"has the field {name!r} twice")
            if format_ is None:
                parts.append(f"(?P<{name}>[^/]+?)")
            else:
                self._formats[name] = format_
                parts.append(f"(?P<{name}>{''.join(self._of_format(format_))})")
        parts += self._literal(self._pattern[end:])
        return "(?s:" + "".join(parts) + ")"

    def _literal(self, text: str) -> Iterator[str]:
        if "{" in text or "}" in text:
            raise self._refusal("has a brace that is no part of a field")
        for part in re.split(r"(\*)", text):
            yield "[^/]*" if part == "*" else re.escape(part)

    def _of_format(self, format_: str) -> Iterator[str]:
        if not format_:
            raise self._refusal("has a field with a colon and no format")
        for literal, directive in re.findall(r"([^%]+)|%(.?)", format_):
            if literal:
                yield re.escape(literal)
            elif directive in _DIRECTIVES:
                yield _DIRECTIVES[directive]
            else:
                known = ", ".join(f"%{one}" for one in _DIRECTIVES)
                raise self._refusal(f"has %{directive} in a format, which is none of {known}")

    def _refusal(self, why: str) -> PlaudInputError:
        return PlaudInputError(
            f"metadata_pattern: {self._pattern!r} {why}. Write it as in '{{agent}}/{{date:%Y-%m-%d}}/"
            "{call_id}.mp3', or as a regular expression with named groups. Nothing was sent."
        )


def path_of(uri: str) -> str:
    """
    Return the path of a reference: of a stored object its key, of a URL what comes after the host.

    :param uri: The reference, as it is stored.
    """
    scheme, is_url, rest = uri.partition("://")
    if not is_url:
        return uri.lstrip("/")
    path = rest.partition("/")[2]
    return unquote(path) if scheme in WEB else path


def _directives(format_: str) -> list[str]:
    return re.findall("%(.)", format_)


def _tells_day(directives: Collection[str]) -> bool:
    told = set(directives)
    return bool(told & {"y", "Y"}) and ("j" in told or ("d" in told and bool(told & {"m", "b", "B"})))


def _tells_time(format_: str) -> bool:
    return "%H" in format_ or "%I" in format_


def _iso(moment: datetime, format_: str) -> str:
    return (moment if _tells_time(format_) else moment.date()).isoformat()
