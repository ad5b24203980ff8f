from __future__ import annotations

import logging
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudError,
    PlaudInputError,
    PlaudStorageError,
)
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.recordings.sources import AudioSource, audio_source
from tests.unit.s3_server import BUCKET, S3Server

AUDIO = b"RIFF a recording"


def source(reference: str, **changes: object) -> AudioSource:
    arguments = {"url_validity": timedelta(hours=6), "public_urls": {}, **changes}
    return audio_source(AudioReference(reference), **arguments)  # type: ignore[arg-type]


def fetch(url: str) -> requests.Response:
    return requests.get(url, timeout=10)


# S3


def test_a_signed_url_gives_the_object_for_as_long_as_it_was_signed(s3: S3Server) -> None:
    s3.put("a.wav", AUDIO)

    url = source("s3://aws_calls@calls/a.wav", url_validity=timedelta(minutes=2)).url().reveal()

    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == ["120"]
    assert fetch(url).content == AUDIO
    s3.gate.later = timedelta(seconds=121)
    assert fetch(url).status_code == 403


def test_a_signed_url_gives_no_other_object(s3: S3Server) -> None:
    s3.put("a.wav", AUDIO)
    s3.put("b.wav", AUDIO)

    url = source("s3://aws_calls@calls/a.wav").url().reveal()

    assert fetch(url.replace("a.wav", "b.wav")).status_code == 403
    assert fetch(url.partition("?")[0]).status_code == 403


def test_a_signed_url_shows_no_signature(s3: S3Server) -> None:
    s3.put("a.wav", AUDIO)

    url = source("s3://aws_calls@calls/a.wav").url()

    assert "X-Amz" in url.reveal()
    assert "X-Amz" not in f"{url} {url!r}"


@pytest.mark.parametrize(
    "key",
    [
        "2024/a b.wav",
        "a#1.wav",
        "100%25.wav",
        "what?.wav",
        "a+b&c=d.wav",
        "grüße 🎤.wav",
        "a@b:c.wav",
        "..a.wav",
    ],
)
def test_a_key_is_taken_as_it_is(s3: S3Server, key: str) -> None:
    s3.put(key, AUDIO)
    recording = source(f"s3://aws_calls@calls/{key}")

    assert recording.look()
    assert fetch(recording.url().reveal()).content == AUDIO


def test_the_version_is_the_same_until_the_content_changes(s3: S3Server) -> None:
    def version() -> str | None:
        return source("s3://aws_calls@calls/a.wav").look()

    s3.put("a.wav", AUDIO)
    first = version()
    s3.put("a.wav", AUDIO, Metadata={"reviewed": "yes"})
    assert version() == first
    s3.put("a.wav", b"RIFF another one")
    assert version() != first


def test_what_is_not_there_is_told(s3: S3Server) -> None:
    with pytest.raises(PlaudInputError, match=r"'s3://aws_calls@calls/no.wav' does not exist.*Check bucket"):
        source("s3://aws_calls@calls/no.wav").look()
    with pytest.raises(PlaudInputError, match="does not exist"):
        source("s3://aws_calls@no-such-bucket/a.wav").look()


@pytest.mark.parametrize(
    ("key", "options", "kind", "message"),
    [
        ("a.wav", {"Body": b""}, PlaudInputError, "is empty"),
        ("a.wav/b.wav", {}, PlaudInputError, "is a folder"),
    ],
)
def test_what_plaud_could_not_fetch_is_told(
    s3: S3Server, key: str, options: dict[str, object], kind: type[PlaudError], message: str
) -> None:
    s3.client.put_object(**{"Bucket": BUCKET, "Key": key, "Body": AUDIO, **options})

    with pytest.raises(kind, match=message):
        source("s3://aws_calls@calls/a.wav").look()


# What is there and cannot be read is that recording's own trouble


@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
def test_an_archived_object_is_told_with_the_remedy_and_not_read(s3: S3Server, storage_class: str) -> None:
    s3.put("a.wav", AUDIO, StorageClass=storage_class)
    s3.gate.requests.clear()

    with pytest.raises(PlaudInputError, match=r"is archived, and cannot be read: restore it first") as told:
        source("s3://aws_calls@calls/a.wav").look()
    assert "Nothing was sent" in str(told.value)
    # What refuses to be read says why when it is looked up.
    assert [method for method, _ in s3.gate.requests] == ["GET", "HEAD"]


@pytest.mark.parametrize("status", ["ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS"])
def test_what_intelligent_tiering_has_archived_is_archived(s3: S3Server, status: str) -> None:
    s3.put("a.wav", AUDIO, StorageClass="INTELLIGENT_TIERING")
    assert source("s3://aws_calls@calls/a.wav").look()
    s3.gate.more_headers = [("x-amz-archive-status", status)]
    s3.gate.read_refusal = ("403 Forbidden", "InvalidObjectState")

    with pytest.raises(PlaudInputError, match="is archived"):
        source("s3://aws_calls@calls/a.wav").look()
    s3.gate.more_headers.append(("x-amz-restore", 'ongoing-request="true"'))
    with pytest.raises(PlaudInputError, match="is archived"):
        source("s3://aws_calls@calls/a.wav").look()


def test_an_archived_object_is_read_once_it_is_restored(s3: S3Server) -> None:
    s3.put("a.wav", AUDIO)
    version = source("s3://aws_calls@calls/a.wav").look()
    s3.put("a.wav", AUDIO, StorageClass="GLACIER")
    s3.gate.more_headers = [("x-amz-restore", 'ongoing-request="true"')]
    with pytest.raises(PlaudInputError, match="is archived"):
        source("s3://aws_calls@calls/a.wav").look()
    s3.gate.more_headers = []
    s3.client.restore_object(Bucket=BUCKET, Key="a.wav", RestoreRequest={"Days": 1})
    recording = source("s3://aws_calls@calls/a.wav")

    assert recording.look() == version
    assert fetch(recording.url().reveal()).content == AUDIO


@pytest.mark.parametrize("storage_class", ["STANDARD", "STANDARD_IA", "GLACIER_IR", "INTELLIGENT_TIERING"])
def test_storage_classes_that_are_read_at_once_are_not_archived(s3: S3Server, storage_class: str) -> None:
    s3.put("a.wav", AUDIO, StorageClass=storage_class)

    assert source("s3://aws_calls@calls/a.wav").look()


@pytest.mark.parametrize(
    ("status", "code", "kind", "message"),
    [
        # A server that does not tell the storage class.
        ("403 Forbidden", "InvalidObjectState", PlaudInputError, "is archived.*restore it first"),
        ("403 Forbidden", "AccessDenied", PlaudInputError, "may not be read with connection.*allow its key"),
        ("400 Bad Request", "KMS.DisabledException", PlaudInputError, "may not be read.*allow its key"),
        ("400 Bad Request", "InvalidRequest", PlaudInputError, "may not be read.*allow its key"),
        # These are no fault of the object.
        ("400 Bad Request", "ExpiredToken", PlaudStorageError, "could not be read.*may have expired"),
        ("404 Not Found", "NoSuchKey", PlaudStorageError, "could not be read.*try again"),
    ],
)
def test_an_object_that_is_there_and_may_not_be_read_is_told(
    s3: S3Server, status: str, code: str, kind: type[PlaudError], message: str
) -> None:
    s3.put("a.wav", AUDIO)
    s3.gate.read_refusal = (status, code)

    with pytest.raises(kind, match=message) as told:
        source("s3://aws_calls@calls/a.wav").look()
    assert type(told.value) is kind


# What is wrong with the connection


def test_rights_that_are_missing_are_told(s3: S3Server) -> None:
    s3.put("a.wav", AUDIO)
    s3.gate.is_forbidden = True

    with pytest.raises(PlaudConfigurationError, match="may not be looked up with connection 'aws_calls'"):
        source("s3://aws_calls@calls/a.wav").look()


def test_a_storage_that_is_away_may_come_back(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_AWS_AWAY",
        s3.connection(
            extra={"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
        ),
    )

    with pytest.raises(PlaudStorageError, match="could not be looked up with connection 'aws_away'"):
        source("s3://aws_away@calls/a.wav").look()


def test_a_storage_that_does_not_answer_is_given_up(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put("a.wav", AUDIO)
    monkeypatch.setattr("plaud_provider.storage.bucket.LOOKUP_SECONDS", 0.001)

    with pytest.raises(PlaudStorageError, match="no answer in time"):
        source("s3://aws_calls@calls/a.wav").look()


def test_a_connection_that_is_missing_is_not_replaced_by_the_default_credentials(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        PlaudConfigurationError, match=r"'aws_typo', which does not exist.*AIRFLOW_CONN_AWS_TYPO"
    ):
        source("s3://aws_typo@calls/a.wav").look()
    assert s3.gate.requests == []


def test_without_a_connection_the_default_credentials_sign(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("a.wav", AUDIO)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIACANARY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "storage-secret-canary")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.url)

    recording = source("s3://calls/a.wav")

    assert recording.look()
    assert fetch(recording.url().reveal()).content == AUDIO


def test_a_url_is_signed_for_the_region_of_the_bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put("a.wav", AUDIO)
    # An endpoint in the connection would switch the look for the bucket's region off.
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.url)
    monkeypatch.setenv("AIRFLOW_CONN_AWS_ELSEWHERE", s3.connection(extra={"region_name": "us-east-1"}))

    url = source("s3://aws_elsewhere@calls/a.wav").url().reveal()

    assert "eu-central-1" in url
    assert fetch(url).content == AUDIO


def test_without_credentials_nothing_is_signed(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AWS_ANONYMOUS", s3.connection(login=None, password=None))

    with pytest.raises(
        PlaudConfigurationError, match=r"was not signed by connection 'aws_anonymous'.*access key"
    ):
        source("s3://aws_anonymous@calls/a.wav").url()


def test_a_storage_without_https_is_refused(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_AWS_PLAIN", s3.connection(extra={"endpoint_url": "http://minio.example"})
    )

    with pytest.raises(
        PlaudConfigurationError, match="leads over http://; Plaud fetches https://"
    ) as refused:
        source("s3://aws_plain@calls/a.wav").url()
    assert "X-Amz" not in str(refused.value)


def test_libraries_do_not_log_what_they_sign(s3: S3Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "botocore.auth"):
        url = source("s3://aws_calls@calls/a.wav").url().reveal()
        logging.getLogger("botocore.auth").debug("is heard again")

    assert parse_qs(urlsplit(url).query)["X-Amz-Signature"][0] not in caplog.text
    assert "is heard again" in caplog.text


def test_an_old_region_gets_no_signature_of_version_2(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"region_name": "us-east-1", "endpoint_url": s3.url}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_OLD", s3.connection(extra=extra))

    assert "X-Amz-Signature" in source("s3://aws_old@calls/a.wav").url().reveal()


# All storages


@pytest.mark.parametrize(
    ("reference", "extra"),
    [("s3://calls/a.wav", "s3"), ("gs://calls/a.wav", "gcs"), ("abfss://calls/a.wav", "azure")],
)
def test_a_missing_extra_is_named(reference: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow.sdk.io.has_fs", lambda scheme: False)

    with pytest.raises(PlaudConfigurationError, match=rf"pip install 'airflow-provider-plaud\[{extra}\]'"):
        source(reference).look()


def test_a_missing_library_names_the_extra_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_fs(*args: object) -> None:
        raise ImportError("No module named 's3fs'")

    monkeypatch.setattr("airflow.sdk.io.has_fs", lambda scheme: True)
    monkeypatch.setattr("airflow.sdk.io.get_fs", get_fs)

    with pytest.raises(PlaudConfigurationError, match=r"airflow-provider-plaud\[s3\]"):
        source("s3://calls/a.wav").look()


def test_the_text_of_a_librarys_error_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_fs(*args: object) -> None:
        raise RuntimeError("https://calls.example/?X-Amz-Signature=canary")

    monkeypatch.setattr("airflow.sdk.io.has_fs", lambda scheme: True)
    monkeypatch.setattr("airflow.sdk.io.get_fs", get_fs)

    with pytest.raises(PlaudStorageError) as told:
        source("s3://calls/a.wav").look()

    problem = told.value
    assert "RuntimeError" in str(problem)
    assert "canary" not in str(problem)
    assert problem.__cause__ is problem.__context__ is None


# A further look


def test_a_further_look_asks_once_and_reads_nothing_again(s3: S3Server) -> None:
    s3.put("a.wav", AUDIO)
    recording = source("s3://aws_calls@calls/a.wav")
    first = recording.look()
    s3.gate.requests.clear()

    assert recording.look() == first
    assert [method for method, _ in s3.gate.requests] == ["HEAD"]
    with recording.open() as file:
        assert file.read() == AUDIO
    assert [method for method, _ in s3.gate.requests] == ["HEAD"]


def test_a_further_look_sees_what_is_there_then(s3: S3Server) -> None:
    s3.put("a.wav", AUDIO)
    recording = source("s3://aws_calls@calls/a.wav")
    first = recording.look()

    s3.put("a.wav", b"RIFF another one")
    assert recording.look() not in (first, None)
    with recording.open() as file:
        assert file.read() == b"RIFF another one"
    s3.put("a.wav", b"")
    with pytest.raises(PlaudInputError, match="is empty"):
        recording.look()
    s3.put("a.wav", AUDIO, StorageClass="GLACIER")
    with pytest.raises(PlaudInputError, match="is archived"):
        recording.look()
    s3.client.delete_object(Bucket=BUCKET, Key="a.wav")
    with pytest.raises(PlaudInputError, match="does not exist"):
        recording.look()
    s3.put("a.wav", AUDIO)
    assert recording.look() == first
