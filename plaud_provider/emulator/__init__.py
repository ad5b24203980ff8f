"""
A Plaud server for development and tests: ``python -m plaud_provider.emulator``.

It stands alone: it reads the API's contract independently of the rest of the package, so that a mistake in
the client does not repeat itself here. In Python, use :class:`plaud_provider.emulator.server.EmulatorServer`.
"""

from __future__ import annotations
