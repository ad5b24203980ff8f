"""The quota as a JSON document, as the stores keep it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import astuple
from typing import Any

from plaud_provider.quota.breaker import Breaker
from plaud_provider.quota.clock import Clock, Visit
from plaud_provider.quota.rule import Out, Place, Quota, Returned

_VERSION = 3
_STORED = tuple(name for name in Quota.__slots__ if name != "stands_in")


def to_document(quota: Quota) -> str:
    """Return the document of a quota."""
    content = {name: getattr(quota, name) for name in _STORED}
    content["breaker"] = astuple(quota.breaker)
    content["clock"] = [quota.clock.ahead, quota.clock.visits]
    return json.dumps({"version": _VERSION, **content}, separators=(",", ":"))


def from_document(document: str | bytes) -> Quota:
    """Read a document; one that is damaged or of another version gives :meth:`.Quota.unknown`."""
    try:
        content = json.loads(document)
        if content.pop("version") != _VERSION:
            return Quota.unknown()
        return _parsed(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return Quota.unknown()


def _parsed(content: dict[str, Any]) -> Quota:
    if set(content) != set(_STORED):
        raise ValueError("not these fields")
    lowered = content["lowered_limit"]
    if lowered is not None and _number(lowered) <= 0:
        raise ValueError("no limit")
    return Quota(
        out={name: Out(*_numbers(slot)) for name, slot in content["out"].items()},
        returned=[
            Returned(_number(free_at), int(_number(slots)), int(_number(passed)))
            for free_at, slots, passed in content["returned"]
        ],
        burst=_numbers(content["burst"]),
        waiting={
            name: Place(is_submit is True, int(_number(calls)), _number(expires_at))
            for name, (is_submit, calls, expires_at) in content["waiting"].items()
        },
        overtaken=int(_number(content["overtaken"])),
        opens_at=_number(content["opens_at"]),
        known_at=_number(content["known_at"]),
        paused_until=_number(content["paused_until"]),
        refusals=int(_number(content["refusals"])),
        refused_at=_number(content["refused_at"]),
        lowered_limit=None if lowered is None else _number(lowered),
        lowered_from=_number(content["lowered_from"]),
        rest=_number(content["rest"]),
        breaker=_parsed_breaker(*content["breaker"]),
        clock=_parsed_clock(*content["clock"]),
    )


def _parsed_breaker(failures: object, trials: object, trial: object, next_trial_at: object) -> Breaker:
    if not isinstance(trial, str):
        raise TypeError("not a call")
    return Breaker(_number(failures), int(_number(trials)), trial, _number(next_trial_at))


def _parsed_clock(ahead: object, visits: dict[str, Iterable[object]]) -> Clock:
    return Clock(_number(ahead), {host: Visit(*_numbers(visit)) for host, visit in visits.items()})


def _numbers(values: Iterable[object]) -> list[float]:
    return [_number(value) for value in values]


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("not a number")
    return float(value)
