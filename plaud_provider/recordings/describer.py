"""Describes recordings by what arguments say: a pattern of their references, a list, and fields for all."""

from __future__ import annotations

import ast
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from plaud_provider.api.arguments import is_unset, optional, split_words
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.recordings.description import Description, describe, validate_columns
from plaud_provider.recordings.field_list import FieldList
from plaud_provider.recordings.field_pattern import FieldPattern, Fields

log = logging.getLogger(__name__)

_NOT_THERE = Fields({})


class Describer:
    """
    Describes recordings.

    What the list says outranks what the pattern finds, and ``metadata`` outranks both.

    :param metadata: Fields of all recordings, as a mapping or its text.
    :param metadata_pattern: See :class:`~.field_pattern.FieldPattern`.
    :param metadata_path: See :class:`~.field_list.FieldList`.
    :param metadata_columns: Fields that are columns of their own, as a list or as text.
    :param metadata_timezone: IANA name of the zone of times that tell none.
    :raises PlaudInputError: if one of them cannot be; nothing was sent.
    """

    def __init__(
        self,
        *,
        metadata: Mapping[str, Any] | str | None = None,
        metadata_pattern: str | None = None,
        metadata_path: str | None = None,
        metadata_columns: Sequence[str] | str | None = None,
        metadata_timezone: str | None = None,
    ) -> None:
        pattern, path = optional(metadata_pattern), optional(metadata_path)
        self._fields = _mapping(metadata)
        self._pattern = FieldPattern(pattern) if pattern is not None else None
        self._list = FieldList(path) if path is not None else None
        #: Fields that are columns of their own.
        self.columns = validate_columns(split_words(metadata_columns))
        self._zone = _zone(optional(metadata_timezone) or "UTC")

    def check(self) -> None:
        """
        Find out before anything is paid for whether recordings can be described.

        :raises PlaudInputError: if the list is not there or is none, or nothing has a field that is to be a
            column.
        :raises PlaudError: its other classes, if the list cannot be read.
        """
        known = {*self._fields, *(self._pattern.names if self._pattern else ())}
        if self._list is not None:
            listed = self._list.names()
            if listed is None:
                return
            known |= set(listed)
        if missing := [name for name in self.columns if name not in known]:
            sources = f"only {', '.join(sorted(known))}" if known else "none"
            raise PlaudInputError(
                f"metadata_columns: nothing has a field {missing[0]!r}; metadata, metadata_pattern and "
                f"metadata_path have {sources}. Nothing was sent."
            )

    def describe(self, uris: Collection[str | None]) -> dict[str | None, Description]:
        """
        Return what is known of recordings; how many are not described is one warning for each source.

        :param uris: References, as they are stored; ``None`` for recordings of which none is known.
        :raises PlaudError: if the list cannot be read.
        """
        known = list({uri: uri for uri in uris if uri is not None})
        found = {uri: self._pattern.match(uri) for uri in known} if self._pattern else {}
        listed = self._list.find(known) if self._list and known else {}
        if self._pattern is not None:
            self._say_missing(len(uris), sum(one is not None for one in found.values()), "metadata_pattern")
        if self._list is not None:
            self._say_missing(len(uris), len(listed), "metadata_path")
        return {uri: self._described(found.get(uri or ""), listed.get(uri or "")) for uri in uris}

    def _described(self, found: Fields | None, listed: Mapping[str, Any] | None) -> Description:
        fields = found or _NOT_THERE
        values = {**fields.values, **(listed or {}), **self._fields}
        return describe(values, self.columns, self._zone, started_at=fields.started_at, day=fields.date)

    @staticmethod
    def _say_missing(count: int, found: int, parameter: str) -> None:
        if found < count:
            log.warning(
                "%d of %d recordings do not match %s: what it would say of them is NULL.",
                count - found,
                count,
                parameter,
            )


def _mapping(value: object) -> dict[str, Any]:
    if is_unset(value):
        return {}
    if isinstance(value, str):
        value = _read(value)
    if not isinstance(value, Mapping):
        raise PlaudInputError(
            f"metadata: takes a mapping of names to values, or its JSON text, not a {type(value).__name__}. "
            "Nothing was sent."
        )
    return {str(name): item for name, item in value.items()}


def _read(text: str) -> object:
    """Return what a text says, in JSON or as a template writes a mapping of Python's; else the text."""
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return read(text)
    return text


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise PlaudInputError(
            f"metadata_timezone: {name!r} is no time zone. Give its IANA name, such as 'Europe/Berlin'. "
            "Nothing was sent."
        ) from None
