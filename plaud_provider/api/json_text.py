"""Plaud's JSON as text: read with whatever may be wrong in it, and written as it is stored."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

#: Characters that are encoded at once.
_PIECE = 1024 * 1024
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def decoded(body: bytes) -> str:
    """Return a body as text, as json.loads has it; what is not of its encoding is replaced."""
    return body.decode(json.detect_encoding(body), "replace")


def parsed(text: str) -> Any:
    """
    Return what JSON says; NaN, infinity and whole numbers of more than 4,300 digits are null.

    :raises ValueError: if it is none.
    :raises RecursionError: if it is nested too deeply.
    """
    return json.loads(text, parse_constant=lambda _: None, parse_float=_finite, parse_int=_whole)


def objects_in(text: str) -> Iterator[dict[str, Any]]:
    """
    Yield the JSON objects in a text one after the other, whatever stands around them.

    Ends at one that is broken: what is inside of it is not all of it.
    """
    decoder = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite, parse_int=_whole)
    end = 0
    while (begin := text.find("{", end)) >= 0:
        try:
            found, end = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError):
            return
        yield found


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _whole(digits: str) -> int | None:
    try:
        return int(digits)
    except ValueError:
        # Python reads no more than 4,300.
        return None


def clean(text: str) -> str:
    """Replace lone surrogates, which JSON can carry but UTF-8 cannot; all else stays as it is."""
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)


def written(payload: Mapping[str, Any], text: str) -> str:
    """
    Return an object as JSON.

    :param payload: The object.
    :param text: What it was parsed from: if that is how it is written, it is not copied.
    """
    if _is_written_so(payload, text):
        return text
    return clean("".join(_pieces(payload)))


def _is_written_so(payload: Mapping[str, Any], text: str) -> bool:
    """Whether a text is what would be made of a payload, as that of a kept answer is."""
    end = 0
    for piece in _pieces(payload):
        if not text.startswith(piece, end):
            return False
        end += len(piece)
    return end == len(text)


def _pieces(answer: Mapping[str, Any]) -> Iterator[str]:
    """
    Encode an answer as JSON, a thousand segments or a million characters at a time.

    Encoding 23 MB at once keeps all other threads from running for a quarter of a second, the event loop's
    too, and takes as much memory again. Parsing does not, as it calls back for each number.
    """
    before = "{"
    for name, value in answer.items():
        yield f"{before}{_encode(name)}:"
        before = ","
        if isinstance(value, list) and value:
            for start in range(0, len(value), 1000):
                yield f"{',' if start else '['}{_encode(value[start : start + 1000])[1:-1]}"
            yield "]"
        elif isinstance(value, str) and len(value) > _PIECE:
            yield '"'
            for start in range(0, len(value), _PIECE):
                yield _encode(value[start : start + _PIECE])[1:-1]
            yield '"'
        elif name == "data" and isinstance(value, dict) and value:
            yield from _pieces(value)
        else:
            yield _encode(value)
    yield "}" if answer else "{}"


def _encode(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
