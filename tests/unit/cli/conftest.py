from __future__ import annotations

from tests.unit.s3_server import s3, s3_server

__all__ = ["s3", "s3_server"]
