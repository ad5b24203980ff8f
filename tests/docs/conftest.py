from __future__ import annotations

from tests.unit.conftest import plaud, plaud_server

__all__ = ["plaud", "plaud_server"]
