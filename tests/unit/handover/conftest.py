from __future__ import annotations

from tests.unit.s3_server import s3, s3_server
from tests.unit.storage.other_storages import azure, gcs, service_account, storage

__all__ = ["azure", "gcs", "s3", "s3_server", "service_account", "storage"]
