from __future__ import annotations

from tests.unit.archive.other_storages import azure, gcs, service_account, storage
from tests.unit.s3_server import s3, s3_server

__all__ = ["azure", "gcs", "s3", "s3_server", "service_account", "storage"]
