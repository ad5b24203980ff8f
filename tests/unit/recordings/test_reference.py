from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from plaud_provider.recordings.reference import AudioReference

# The ways in which a URL is signed: fixed parameters, and those that change with each signature.
S3_V4 = {
    "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
    "X-Amz-Credential": "canary/20260324/eu-central-1/s3/aws4_request",
    "X-Amz-Date": "20260324T100000Z",
    "X-Amz-Expires": "3600",
    "X-Amz-SignedHeaders": "host",
    "X-Amz-Security-Token": "canary",
    "X-Amz-Signature": "canary",
}
S3_V2 = {
    "AWSAccessKeyId": "canary",
    "Signature": "canary",
    "Expires": "1774350000",
    "x-amz-security-token": "canary",
}
GCS_V4 = {
    "X-Goog-Algorithm": "GOOG4-RSA-SHA256",
    "X-Goog-Credential": "canary@project.iam.gserviceaccount.com/20260324/auto/storage/goog4_request",
    "X-Goog-Date": "20260324T100000Z",
    "X-Goog-Expires": "3600",
    "X-Goog-SignedHeaders": "host",
    "X-Goog-Signature": "canary",
}
GCS_V2 = {
    "GoogleAccessId": "canary@project.iam.gserviceaccount.com",
    "Expires": "1774350000",
    "Signature": "canary",
}
AZURE = {
    "sv": "2024-11-04",
    "st": "2026-03-24T10:00:00Z",
    "se": "2026-03-24T11:00:00Z",
    "sr": "b",
    "sp": "r",
    "spr": "https",
    "skoid": "canary",
    "sktid": "canary",
    "skt": "2026-03-24T10:00:00Z",
    "ske": "2026-03-25T10:00:00Z",
    "sks": "b",
    "skv": "2024-11-04",
    "sig": "canary",
}
CLOUDFRONT = {
    "Expires": "1774350000",
    "Signature": "canary",
    "Key-Pair-Id": "canary",
    "Hash-Algorithm": "SHA256",
}
CLOUDFRONT_POLICY = {"Policy": "canary", "Signature": "canary", "Key-Pair-Id": "canary"}


def policy(statement: object) -> dict[str, str]:
    """Return a signature of CloudFront with a custom policy."""
    text = base64.b64encode(json.dumps({"Statement": [statement]}).encode()).decode()
    return {**CLOUDFRONT_POLICY, "Policy": text.translate(str.maketrans("+=/", "-_~"))}


SIGNED = {
    "s3 v4": S3_V4,
    "s3 v2": S3_V2,
    "gcs v4": GCS_V4,
    "gcs v2": GCS_V2,
    "azure": AZURE,
    "cloudfront": CLOUDFRONT,
    "cloudfront with policy": CLOUDFRONT_POLICY,
}
SIGNATURE_NAMES = {name.lower() for signature in SIGNED.values() for name in signature} | set(
    "ss srt sip si sdd ses saoid suoid scid rscc rscd rsce rscl rsct".split()  # noqa: SIM905
)
OBJECT = "https://bucket.example/calls/2026/a%20b.wav"

signatures = pytest.mark.parametrize("signature", SIGNED.values(), ids=SIGNED)


def signed(signature: dict[str, str], url: str = OBJECT, **others: str) -> AudioReference:
    return AudioReference(f"{url}?{urlencode({**others, **signature})}")


@signatures
def test_a_signed_url_is_shown_without_its_signature(signature: dict[str, str]) -> None:
    audio = signed(signature)

    assert audio.uri == OBJECT
    assert str(audio) == audio.serialize() == OBJECT
    assert "canary" not in repr(audio)


@signatures
def test_what_is_sent_is_the_url_as_it_was_given(signature: dict[str, str]) -> None:
    url = f"{OBJECT}?{urlencode(signature)}"

    assert AudioReference(f" {url}\n").reveal() == url
    assert AudioReference(f"\t{url.replace('https', 'HTTPS')} ").reveal() == url.replace("https", "HTTPS")


@signatures
def test_signing_again_does_not_make_another_recording(signature: dict[str, str]) -> None:
    again = {name: f"{value}9" for name, value in reversed(signature.items())}

    assert signed(signature).identity == signed(again).identity == OBJECT


@signatures
def test_names_of_signature_parameters_may_be_written_in_any_case(signature: dict[str, str]) -> None:
    assert signed({name.upper(): value for name, value in signature.items()}).identity == OBJECT


@signatures
def test_another_version_of_an_object_is_another_recording(signature: dict[str, str]) -> None:
    first, second = signed(signature, versionId="1"), signed(signature, versionId="2")

    assert first.identity != second.identity
    assert first.uri == OBJECT


@signatures
@given(other=st.tuples(st.text(min_size=1), st.text()), another=st.tuples(st.text(min_size=1), st.text()))
def test_any_other_parameter_tells_two_recordings_apart(
    signature: dict[str, str], other: tuple[str, str], another: tuple[str, str]
) -> None:
    def url(name: str, value: str) -> AudioReference:
        written = (
            f"{quote(name, safe='', errors='surrogatepass')}={quote(value, safe='', errors='surrogatepass')}"
        )
        return AudioReference(f"{OBJECT}?{written}&{urlencode(signature)}")

    names = {name.lower() for name, _ in (other, another)}
    assume(all(names) and not names & SIGNATURE_NAMES)
    assume(not any(name.startswith(("x-amz-", "x-goog-")) for name in names))
    assert (url(*other).identity == url(*another).identity) == (other == another)


@pytest.mark.parametrize(
    "query",
    [
        "sig=1&sp=2",  # no Azure version beside it
        "st=1",
        "expires=5",
        "policy=open",
        "signature=abc",
        "key-pair-id=7",
        "token=1",
        "id=7&sr=2",
    ],
)
def test_what_is_too_short_to_be_a_signature_is_part_of_the_identity(query: str) -> None:
    """Dropping too much would take two recordings for one, and never transcribe the second."""
    assert AudioReference(f"{OBJECT}?{query}").identity == f"{OBJECT}?{query}"


@pytest.mark.parametrize(
    "query",
    [
        "token=canary",
        "access_token=canary",
        "X-Auth-Token=canary",
        "apikey=canary",
        "api_key=canary",
        "password=canary",
        "client_secret=canary",
        "sig=canary",
        "mySignature=canary",
        "hdnts=exp=1~hmac=canary",
        "jwt=canary",
        "key=canary",
        "verify=canary",
        "%74oken=canary",
        "TOKEN=canary",
        "token=a&token=canary",
        "q-sign-algorithm=sha1&q-ak=canary&q-signature=canary",
        "OSSAccessKeyId=canary&Expires=1&Signature=canary",
    ],
)
def test_what_looks_like_a_secret_is_not_shown(query: str) -> None:
    assert "canary" not in AudioReference(f"{OBJECT}?id=7&{query}").uri


@pytest.mark.parametrize(
    "value",
    [
        f"bucket.example/a.wav?{urlencode(S3_V4)}",
        f"htps://bucket.example/a.wav?{urlencode(S3_V4)}",
        f"https:/bucket.example/a.wav?{urlencode(S3_V4)}",
        f"ftp://bucket.example/a.wav?{urlencode(AZURE)}",
        f"https://[bucket.example/a.wav?{urlencode(S3_V4)}",
        f"//bucket.example/a.wav?{urlencode(S3_V4)}",
        "https://user:canary@bucket.example/a.wav",
        "https://canary@bucket.example/a.wav",
        "ftp://user:canary@bucket.example/a.wav",
        "https://user:canary@[bucket/a.wav",
        "user:canary@bucket.example/a.wav",
        "s3://key:canary@bucket/a.wav",
        "https://bucket.example/a.wav#token=canary",
    ],
)
def test_a_url_with_a_slip_in_it_is_not_shown_with_its_secrets_either(value: str) -> None:
    assert "canary" not in AudioReference(value).uri


@pytest.mark.parametrize(
    "value",
    [
        "s3://bucket/calls/what? #1 & more.wav",
        "s3://aws_default@bucket/calls/a.wav",
        "gs://bucket/a.wav",
        "abfs://container@account.dfs.core.windows.net/a.wav",
        "/recordings/a.wav",
        "s3://bucket/?id=7.wav",
    ],
)
def test_a_storage_reference_is_shown_and_identified_as_it_is(value: str) -> None:
    audio = AudioReference(value)

    assert (audio.uri, audio.identity) == (value, value)


@pytest.mark.parametrize(
    "spelled", ["file:///data/a b.wav", "FILE:///data/a b.wav", "/data//a b.wav", "file:///data/./a b.wav"]
)
def test_a_local_file_is_the_same_recording_however_it_is_spelled(spelled: str) -> None:
    audio = AudioReference(spelled)

    assert audio.identity == "/data/a b.wav"
    assert audio.identity != AudioReference(spelled + " ").identity
    assert audio.uri == spelled


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://h.example/a.wav", "https://h.example/b.wav"),
        ("https://h.example/a.wav", "http://h.example/a.wav"),
        ("https://h.example/a.wav", "https://h.example:8443/a.wav"),
        ("https://h.example/a.wav", "https://u@h.example/a.wav"),
        ("https://h.example/a.wav?id=1", "https://h.example/a.wav?id=2"),
        ("https://h.example/a.wav?id=1", "https://h.example/a.wav"),
        ("https://h.example/a+b.wav", "https://h.example/a%2Bb.wav"),
        ("https://h.example/A.wav", "https://h.example/a.wav"),
        ("s3://bucket/a.wav?1", "s3://bucket/a.wav?2"),
    ],
)
def test_different_recordings_have_different_identities(one: str, other: str) -> None:
    assert AudioReference(one).identity != AudioReference(other).identity


@pytest.mark.parametrize(
    ("signature", "expires_at"),
    [
        (S3_V4, datetime(2026, 3, 24, 11, tzinfo=UTC)),
        (GCS_V4, datetime(2026, 3, 24, 11, tzinfo=UTC)),
        (S3_V2, datetime(2026, 3, 24, 11, tzinfo=UTC)),
        (GCS_V2, datetime(2026, 3, 24, 11, tzinfo=UTC)),
        (CLOUDFRONT, datetime(2026, 3, 24, 11, tzinfo=UTC)),
        (AZURE, datetime(2026, 3, 24, 11, tzinfo=UTC)),
        ({**AZURE, "se": "2026-03-24T13:00:00+02:00"}, datetime(2026, 3, 24, 11, tzinfo=UTC)),
        ({**AZURE, "se": "2026-03-24"}, datetime(2026, 3, 24, tzinfo=UTC)),
        (CLOUDFRONT_POLICY, None),
        (
            policy({"Resource": "https://d/?", "Condition": {"DateLessThan": {"AWS:EpochTime": 1774350000}}}),
            datetime(2026, 3, 24, 11, tzinfo=UTC),
        ),
        (policy({"Resource": "*", "Condition": {}}), None),
        (policy("x"), None),
        ({"x-oss-date": "20260324T100000Z", "x-oss-expires": "3600"}, datetime(2026, 3, 24, 11, tzinfo=UTC)),
        (
            {"q-sign-time": "1774346400;1774350000", "q-signature": "canary"},
            datetime(2026, 3, 24, 11, tzinfo=UTC),
        ),
        ({"hdnts": "st=1~exp=1774350000~acl=/*~hmac=canary"}, datetime(2026, 3, 24, 11, tzinfo=UTC)),
        ({"hdnts": "acl=/*~hmac=canary"}, None),
        ({"temp_url_sig": "canary", "temp_url_expires": "1774350000"}, datetime(2026, 3, 24, 11, tzinfo=UTC)),
        ({"temp_url_sig": "canary", "temp_url_expires": "2026-03-24T11:00:00Z"}, None),
        ({"X-Tos-Date": "20260324T100000Z", "X-Tos-Expires": "3600"}, datetime(2026, 3, 24, 11, tzinfo=UTC)),
        ({"token": "x", "expires": "1774350000"}, None),
        ({}, None),
        ({**S3_V4, "X-Amz-Expires": "an hour"}, None),
        ({**S3_V4, "X-Amz-Expires": "9" * 30}, None),
        ({**S3_V4, "X-Amz-Date": "yesterday"}, None),
        ({"X-Amz-Expires": "60"}, None),
        ({**S3_V2, "Expires": "9" * 30}, None),
        ({**AZURE, "se": "later"}, None),
    ],
)
def test_when_a_url_expires_is_read_from_it_where_it_says(
    signature: dict[str, str], expires_at: datetime | None
) -> None:
    assert signed(signature).expires_at == expires_at


@pytest.mark.parametrize(
    ("value", "extension"),
    [
        ("https://h.example/a.WAV?x=.mp3", ".wav"),
        ("https://h.example/a.tar.mp3", ".mp3"),
        ("https://h.example/a", ""),
        ("https://h.example/a.wav/", ".wav"),
        ("https://h.example/a%2Ewav", ".wav"),
        ("https://h.example/2026.03.24", ""),
        ("https://h.example/", ""),
        ("s3://bucket/calls/a.m4a", ".m4a"),
        ("", ""),
    ],
)
def test_the_extension_is_that_of_the_path(value: str, extension: str) -> None:
    assert AudioReference(value).extension == extension


@given(st.text())
def test_any_text_can_be_referred_to_and_shown(value: str) -> None:
    audio = AudioReference(value)

    assert isinstance(audio.uri, str)
    assert isinstance(audio.identity, str)
    assert audio.reveal() in (value.strip(), value.lstrip())
    assert (
        audio.scheme,
        audio.host,
        audio.extension,
        audio.expires_at,
        audio.has_user_information,
    ) is not None


def test_two_references_are_equal_only_as_they_were_given() -> None:
    one, other = signed(S3_V4), signed({**S3_V4, "X-Amz-Signature": "other"})

    assert one == signed(S3_V4)
    assert hash(one) == hash(signed(S3_V4))
    assert one != other
    assert one != one.reveal()


def test_a_name_that_is_no_text_is_shown_as_text_and_identified_as_it_is() -> None:
    audio = AudioReference("/data/caf\udce9.wav")

    assert audio.uri == str(audio) == "/data/caf\ufffd.wav"
    assert audio.uri.encode()
    assert audio.identity == audio.reveal() == "/data/caf\udce9.wav"


# Names are taken as they are


@pytest.mark.parametrize(
    "root", ["s3://bucket/", "gs://c@bucket/2024/", "abfs://c/", "file:///data/", "/data/"]
)
@given(name=st.text(min_size=1))
def test_a_name_in_storage_is_taken_as_it_is(root: str, name: str) -> None:
    audio = AudioReference(f" \n{root}{name}")

    assert audio.reveal() == root + name
    # A path has the same file in it with "/./" and "//" for "/".
    assert audio.identity == (str(Path(f"/data/{name}")) if audio.is_local else root + name)


@pytest.mark.parametrize(
    "space", [" ", "\n", "\r\n", "\t", "\x0b", "\x1f", "\x85", "\xa0", "\u2028", "\u3000"]
)
def test_white_space_is_part_of_a_name_and_not_of_what_is_before_or_of_a_url(space: str) -> None:
    for root in ("s3://bucket", "/data", "file:///data"):
        audio = AudioReference(f"{space}{root}/{space}a.wav{space}")
        assert audio.identity == f"{root.removeprefix('file://')}/{space}a.wav{space}"
        assert audio.extension == ""
        assert audio.is_local == (not root.startswith("s3"))
    assert AudioReference(f"{space}https://h.example/a.wav{space}").identity == "https://h.example/a.wav"


def test_a_url_is_identified_by_its_text() -> None:
    """Browsers drop line breaks and tabs in a URL, and so does Python; a server may not."""
    texts = [f"https://h.example/a{inner}b.wav" for inner in ("", "\t", "\n", "%0A", "é", "e\u0301", "/../")]

    assert len({AudioReference(text).identity for text in texts}) == len(texts)
