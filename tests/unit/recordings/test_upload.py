"""What Plaud could fetch from where it is, and what not."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from plaud_provider.api.account import Account
from plaud_provider.api.dialects import EMBEDDED, OPENAPI
from plaud_provider.api.regions import Region
from plaud_provider.exceptions import PlaudInputError
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.recordings.sources import AudioSource, audio_source
from plaud_provider.recordings.upload import is_fetchable, is_private, mode_of, validate_upload
from tests.unit.s3_server import S3Server
from tests.unit.storage.other_storages import Storage

ACCOUNT = Account(Region.US, EMBEDDED.base_url(Region.US), "client", "secret", EMBEDDED, "key")
LOCAL = Account(Region.US, "http://127.0.0.1:8765", "client", "secret", EMBEDDED, "key")


def source(reference: str, **changes: Any) -> AudioSource:
    arguments = {"url_validity": timedelta(hours=6), "public_urls": {}, "is_uploadable": True, **changes}
    return audio_source(AudioReference(reference), **arguments)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("calls.s3.amazonaws.com", False),
        ("storage.googleapis.com", False),
        ("account.blob.core.windows.net", False),
        ("minio.example", False),
        ("8.8.8.8", False),
        ("minio", True),
        ("minio.svc.cluster.local", True),
        ("files.corp.internal", True),
        ("bucket.vpce-0a1b-2c3d.s3.us-east-1.vpce.amazonaws.com", True),
        ("10.0.0.5", True),
        ("172.16.3.4", True),
        ("192.168.1.2", True),
        ("169.254.169.254", True),
        ("100.64.0.1", True),
        ("fd00::1", True),
        ("127.0.0.1", True),
        ("", True),
    ],
)
def test_a_private_host_is_known_by_its_name_or_address(host: str, expected: bool) -> None:
    assert is_private(host) is expected


def test_this_machine_is_reached_by_a_plaud_on_it_only(s3: S3Server) -> None:
    s3.put("a.mp3", b"ID3")

    assert is_fetchable(LOCAL, source("s3://aws_calls@calls/a.mp3"))
    assert not is_fetchable(ACCOUNT, source("s3://aws_calls@calls/a.mp3"))


def test_a_local_file_is_fetched_where_it_is_served(tmp_path: Path) -> None:
    file = str(tmp_path / "a.mp3")

    assert not is_fetchable(ACCOUNT, source(file))
    assert is_fetchable(ACCOUNT, source(file, public_urls={str(tmp_path): "https://files.example"}))
    assert not is_fetchable(ACCOUNT, source(file, public_urls={str(tmp_path): "https://files.internal"}))


def test_a_url_is_the_user_s_matter() -> None:
    assert is_fetchable(ACCOUNT, source("https://files.internal/a.mp3"))


def test_google_credentials_without_a_key_cannot_sign(gcs: Callable[..., None]) -> None:
    from google.oauth2.credentials import Credentials

    gcs(Credentials("user-token"))

    assert not is_fetchable(LOCAL, source("gs://calls/2024/a b#1.wav"))


@pytest.mark.parametrize(
    "extra",
    [
        {"account_name": "account", "sas_token": "sv=1&sig=canary"},
        {"account_name": "account", "tenant_id": "t", "client_id": "c", "client_secret": "s"},
    ],
    ids=["SAS", "service principal"],
)
def test_azure_without_the_account_key_cannot_sign(
    storage: tuple[str, type[Storage]], monkeypatch: pytest.MonkeyPatch, extra: dict[str, str]
) -> None:
    login = {"login": extra.get("client_id"), "password": extra.get("client_secret")}
    connection = {"conn_type": "wasb", **login, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_OTHER", json.dumps(connection))

    assert not is_fetchable(ACCOUNT, source("abfs://azure_other@calls/a.wav"))


def test_s3_without_credentials_cannot_sign(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AWS_NONE", s3.connection(login="", password=""))

    assert not is_fetchable(LOCAL, source("s3://aws_none@calls/a.mp3"))


def test_without_uploads_a_file_that_nobody_serves_is_refused() -> None:
    with pytest.raises(PlaudInputError, match=r"is a local file.*field api\)"):
        source("/data/a.wav", is_uploadable=False)


@pytest.mark.parametrize("mode", ["auto", "always", "never"])
def test_each_api_has_its_modes(mode: str) -> None:
    other = Account(Region.US, OPENAPI.base_url(Region.US), "client", "secret")

    assert mode_of(ACCOUNT, validate_upload(mode)) == mode
    if mode == "always":
        with pytest.raises(PlaudInputError, match="upload: 'always' was asked for"):
            mode_of(other, validate_upload(mode))
    else:
        assert mode_of(other, validate_upload(mode)) == "never"


@pytest.mark.parametrize("value", ["", "Always", None, True, "sometimes"])
def test_another_word_is_refused_by_name(value: object) -> None:
    with pytest.raises(PlaudInputError, match=r"upload: .* is not 'auto', 'always' or 'never'"):
        validate_upload(value)
