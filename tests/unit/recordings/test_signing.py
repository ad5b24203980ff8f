from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
import requests

from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudError,
    PlaudInputError,
    PlaudStorageError,
)
from plaud_provider.recordings.local_files import LocalFile, validate_public_urls
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.recordings.signing import (
    AudioSource,
    GivenUrl,
    audio_source,
    look_at,
    validate_url_validity,
)
from plaud_provider.recordings.stored_objects import StoredObject
from tests.unit.s3_server import BUCKET, S3Server

AUDIO = b"RIFF a recording"


def source(reference: str, **changes: object) -> AudioSource:
    arguments = {"url_validity": timedelta(hours=6), "public_urls": {}, **changes}
    return audio_source(AudioReference(reference), **arguments)  # type: ignore[arg-type]


def fetch(url: str) -> requests.Response:
    return requests.get(url, timeout=10)


# Which reference is what


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("https://files.example/a.mp3", GivenUrl),
        ("s3://calls/a.mp3", StoredObject),
        ("S3://calls/a.mp3", StoredObject),
        ("gs://calls/a.mp3", StoredObject),
        ("abfs://calls/a.mp3", StoredObject),
        ("abfss://calls@account.dfs.core.windows.net/a.mp3", StoredObject),
        ("file:///data/calls/a.mp3", LocalFile),
        ("/data/calls/a.mp3", LocalFile),
    ],
)
def test_a_reference_is_known_by_its_scheme(reference: str, kind: type) -> None:
    assert isinstance(source(reference, public_urls={"/data": "https://files.example"}), kind)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("ftp://files.example/a.mp3", r"has the scheme 'ftp'; pass an https:// URL, or an s3://"),
        ("a.mp3", "is not a URL"),
        ("s3://calls", "names no object; write s3://bucket/key"),
        ("s3://calls/", "names no object"),
        ("s3:/calls/a.mp3", "names no object"),
        ("s3:///a.mp3", "names no object"),
        ("s3://calls/2024/", "names a folder"),
        ("s3://calls/notes.txt", r"is a \.txt file.*convert it"),
        ("s3://key:secret-canary@calls/a.mp3", "carries a password; name an Airflow connection"),
        ("abfs://account.dfs.core.windows.net/a.mp3", "names no container"),
    ],
)
def test_a_wrong_reference_is_told_without_asking_any_storage(reference: str, message: str) -> None:
    with pytest.raises(PlaudInputError, match=f"(?s)audio_url: .*{message}") as refused:
        source(reference)

    assert "Nothing was sent" in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(timedelta(hours=1), 3600), (120, 120), (7 * 86400, 604800), ("3600", 3600), (900.9, 900)],
)
def test_url_validity_is_a_time_or_seconds(value: timedelta | float | str, seconds: int) -> None:
    assert validate_url_validity(value) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "value", [0, -1, 119, 604801, timedelta(days=8), "", "6 hours", None, True, float("nan"), 10**400]
)
def test_another_url_validity_is_refused(value: object) -> None:
    with pytest.raises(PlaudInputError, match=r"url_validity: .*two minutes to seven days"):
        validate_url_validity(value)  # type: ignore[arg-type]


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
        ("a.wav", {"StorageClass": "GLACIER"}, PlaudConfigurationError, "cannot be read.*restore it first"),
    ],
)
def test_what_plaud_could_not_fetch_is_told(
    s3: S3Server, key: str, options: dict[str, object], kind: type[PlaudError], message: str
) -> None:
    s3.client.put_object(**{"Bucket": BUCKET, "Key": key, "Body": AUDIO, **options})

    with pytest.raises(kind, match=message):
        source("s3://aws_calls@calls/a.wav").look()


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

    problem = look_at(source("s3://calls/a.wav")).problem

    assert isinstance(problem, PlaudStorageError)
    assert "RuntimeError" in str(problem)
    assert "canary" not in str(problem)
    assert problem.__cause__ is problem.__context__ is None


# Local files

URLS = {"/data": "https://files.example/data"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "calls" / "2024").mkdir(parents=True)
    (tmp_path / "secret.wav").write_bytes(AUDIO)
    return tmp_path / "calls"


@pytest.mark.parametrize("prefix", ["", "file://"])
@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("a.wav", "a.wav"),
        ("2024/a b.wav", "2024/a%20b.wav"),
        ("a#1?.wav", "a%231%3F.wav"),
        ("100%25.wav", "100%2525.wav"),
        ("🎤.wav", "%F0%9F%8E%A4.wav"),
        ("a;b@c.wav", "a%3Bb%40c.wav"),
    ],
)
def test_a_local_file_has_its_public_url(folder: Path, prefix: str, name: str, quoted: str) -> None:
    (folder / name).write_bytes(AUDIO)
    urls = validate_public_urls({f"{prefix}{folder}/": "https://files.example/calls/"})

    recording = source(f"{prefix}{folder}/{name}", public_urls=urls)

    assert recording.look()
    assert recording.url().reveal() == f"https://files.example/calls/{quoted}"


def test_a_file_that_was_copied_is_the_same_recording(folder: Path) -> None:
    urls = {str(folder): "https://files.example"}
    (folder / "a.wav").write_bytes(AUDIO)
    first = source(f"{folder}/a.wav", public_urls=urls).look()
    (folder / "a.wav").unlink()
    (folder / "a.wav").write_bytes(AUDIO)

    assert source(f"{folder}/a.wav", public_urls=urls).look() == first


def test_the_longest_folder_counts(folder: Path) -> None:
    urls = {str(folder): "https://all.example", str(folder / "2024"): "https://2024.example"}

    assert source(f"{folder}/2024/a.wav", public_urls=urls).url().reveal() == "https://2024.example/a.wav"


def test_a_local_file_that_nobody_serves_is_told() -> None:
    with pytest.raises(PlaudInputError, match=r"is a local file.*public_urls=\{.*s3://"):
        source("/data/a.wav")
    with pytest.raises(PlaudInputError, match="is a local file"):
        source("/database/a.wav", public_urls=URLS)


@pytest.mark.parametrize("path", ["/data/../etc/a.wav", "file:///data/calls/../../a.wav", "/data/.."])
def test_a_path_does_not_climb(path: str) -> None:
    with pytest.raises(PlaudInputError, match=r"contains '\.\.'"):
        source(path, public_urls=URLS)


def test_a_link_does_not_lead_out(folder: Path) -> None:
    (folder / "out.wav").symlink_to(folder.parent / "secret.wav")
    (folder / "kept.wav").write_bytes(AUDIO)
    (folder / "in.wav").symlink_to(folder / "kept.wav")
    urls = {str(folder): "https://files.example"}

    assert source(f"{folder}/in.wav", public_urls=urls).look()
    with pytest.raises(PlaudInputError, match="is a link that leads out"):
        source(f"{folder}/out.wav", public_urls=urls).look()


def test_a_local_file_that_plaud_could_not_fetch_is_told(folder: Path) -> None:
    urls = {str(folder): "https://files.example"}
    (folder / "empty.wav").write_bytes(b"")
    (folder / "loop.wav").symlink_to(folder / "loop.wav")

    for name, message in [
        ("no.wav", "does not exist on this worker"),
        ("empty.wav", "is empty"),
        ("2024", "is not a file"),
        ("loop.wav", "cannot be read"),
    ]:
        with pytest.raises((PlaudInputError, PlaudStorageError), match=message):
            source(f"{folder}/{name}", public_urls=urls).look()


@pytest.mark.parametrize("value", [None, "", "None", {}, "{}"])
def test_public_urls_may_be_left_out(value: object) -> None:
    assert validate_public_urls(value) == {}  # type: ignore[arg-type]


def test_public_urls_may_be_the_json_of_a_variable() -> None:
    assert validate_public_urls('{"file:///data/": "https://files.example/data/"}') == URLS


@pytest.mark.parametrize(
    "value",
    [
        "/data",
        ["/data"],
        {"data": "https://files.example"},
        {"/data/..": "https://files.example"},
        {"/data": "http://files.example"},
        {"/data": "files.example"},
        {"/data": "https://user:secret-canary@files.example"},
        {"/data": "https://files.example/?token=secret-canary"},
        {"/data": 1},
    ],
)
def test_other_public_urls_are_refused(value: object) -> None:
    with pytest.raises(PlaudInputError, match=r"public_urls: .*says where Plaud can fetch") as refused:
        validate_public_urls(value)  # type: ignore[arg-type]
    assert "canary" not in str(refused.value)


def test_a_local_file_is_opened_for_a_few_reads(folder: Path) -> None:
    (folder / "a.wav").write_bytes(AUDIO)

    with source(f"{folder}/a.wav", public_urls={str(folder): "https://files.example"}).open() as file:
        assert file.read(4) == b"RIFF"
        assert file.read() == AUDIO[4:]
        open_files = psutil.Process().num_fds()
    assert psutil.Process().num_fds() == open_files - 1


def test_a_local_file_is_opened_only_if_it_may_be_looked_at(folder: Path) -> None:
    urls = {str(folder): "https://files.example"}
    (folder / "out.wav").symlink_to(folder.parent / "secret.wav")

    for name, message in [("out.wav", "is a link that leads out"), ("no.wav", "does not exist")]:
        with pytest.raises(PlaudInputError, match=message):
            source(f"{folder}/{name}", public_urls=urls).open()
