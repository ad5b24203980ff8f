from __future__ import annotations

import pytest

from tests.unit.s3_server import s3, s3_server
from tests.unit.storage.other_storages import azure, gcs, service_account, storage

__all__ = ["azure", "gcs", "s3", "s3_server", "service_account", "storage"]


@pytest.fixture(autouse=True)
def _home_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes of files are kept there: none of another test."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("home")))
