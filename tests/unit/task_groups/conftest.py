from __future__ import annotations

from tests.unit.operators.conftest import archive

__all__ = ["archive"]
