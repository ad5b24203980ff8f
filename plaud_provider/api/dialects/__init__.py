"""
The two APIs that Plaud's pages describe: one file each, with its hosts, headers and request bodies.

What they have in common is in :mod:`.dialect`. Answers of either are read by one reader,
:mod:`plaud_provider.api.answers`.
"""

from __future__ import annotations

from plaud_provider.api.dialects.dialect import Dialect
from plaud_provider.api.dialects.embedded import Embedded
from plaud_provider.api.dialects.openapi import OpenApi

__all__ = ["DIALECTS", "EMBEDDED", "OPENAPI", "Dialect"]

OPENAPI = OpenApi()
EMBEDDED = Embedded()
#: By the word that the connection's field ``api`` has for it; the first is the default.
DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (OPENAPI, EMBEDDED)}
