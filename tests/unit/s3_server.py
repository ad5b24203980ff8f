"""
A real S3 server (moto) that also refuses what S3 refuses and moto lets pass.

Moto takes expired, tampered and unsigned requests. The gate before it recomputes the signature of each
pre-signed GET with botocore's own signer, and knows each bucket's region and the one access key there is.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from wsgiref.types import StartResponse, WSGIEnvironment

import boto3
import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.moto_server import werkzeug_app
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

ACCESS_KEY = "AKIACANARY"
SECRET_KEY = "storage-secret-canary"
REGION = "eu-central-1"
BUCKET = "calls"


class _AnyPath(werkzeug_app.RegexConverter):
    """Moto's routes end at a line break; a key may have one."""

    def __init__(self, url_map: Any, *items: Any) -> None:
        super().__init__(url_map, f"(?s:{items[0]})", *items[1:])


werkzeug_app.RegexConverter = _AnyPath  # type: ignore[misc]


class Gate:
    """Checks signature, life, region and access key before moto answers."""

    def __init__(self, moto: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]) -> None:
        self._moto = moto
        self.reset()

    def reset(self) -> None:
        self.later = timedelta()
        self.is_forbidden = False
        #: Whether nothing may be written.
        self.is_read_only = False
        #: How reads of objects with the connection's credentials are refused: status and code.
        self.read_refusal: tuple[str, str] | None = None
        #: What is told of objects besides.
        self.more_headers: list[tuple[str, str]] = []
        self.page_size = 0
        self.requests: list[tuple[str, str]] = []
        self.queries: list[dict[str, str]] = []
        self.ranges: list[int] = []
        self.fetched: list[str] = []
        #: Parts of uploads, by their numbers, as they have come; what is called before the next is taken.
        self.parts: list[int] = []
        self.on_part: Callable[[], None] | None = None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, _, query = environ["REQUEST_URI"].partition("?")
        if path.startswith("/moto-api"):
            return self._moto(environ, start_response)
        self.requests.append((environ["REQUEST_METHOD"], path))
        self.queries.append(dict(parse_qsl(query)))
        if environ["REQUEST_METHOD"] == "PUT" and "partNumber=" in query:
            if self.on_part is not None:
                self.on_part()
            self.parts.append(int(dict(parse_qsl(query))["partNumber"]))
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", environ.get("HTTP_RANGE", "")):
            self.ranges.append(int(asked[2]) - int(asked[1]) + 1)
        if self.page_size and "list-type" in query:
            environ["QUERY_STRING"] += f"&max-keys={self.page_size}"
        refusal = self._refusal(environ, path, dict(parse_qsl(query)))
        if refusal is None:
            more = self.more_headers if environ["REQUEST_METHOD"] == "HEAD" else []
            return self._moto(
                environ, lambda status, headers, *rest: start_response(status, [*headers, *more], *rest)
            )
        status, code = refusal
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _refusal(self, environ: WSGIEnvironment, path: str, query: dict[str, str]) -> tuple[str, str] | None:
        if "X-Amz-Signature" in query:
            self.fetched.append(environ["REQUEST_URI"])
            return self._presigned_refusal(environ, path, query)
        access_key = re.search(r"Credential=([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
        if self.is_forbidden or not access_key or access_key.group(1) != ACCESS_KEY:
            return "403 Forbidden", "AccessDenied"
        # Glue is asked by POST, too.
        asks_glue = environ.get("HTTP_X_AMZ_TARGET", "").startswith("AWSGlue.Get")
        if self.is_read_only and environ["REQUEST_METHOD"] not in ("GET", "HEAD") and not asks_glue:
            return "403 Forbidden", "AccessDenied"
        if environ["REQUEST_METHOD"] == "GET" and "list-type" not in query:
            return self.read_refusal
        return None

    def _presigned_refusal(
        self, environ: WSGIEnvironment, path: str, query: dict[str, str]
    ) -> tuple[str, str] | None:
        date = query["X-Amz-Date"]
        signed_at = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if datetime.now(UTC) + self.later > signed_at + timedelta(seconds=int(query["X-Amz-Expires"])):
            return "403 Forbidden", "AccessDenied"
        access_key, _, region, *_ = query["X-Amz-Credential"].split("/")
        if region != REGION:
            return "400 Bad Request", "AuthorizationQueryParametersError"
        signer = S3SigV4QueryAuth(Credentials(access_key, SECRET_KEY), "s3", region)
        unsigned = re.sub(r"&X-Amz-Signature=[0-9a-f]+", "", environ["REQUEST_URI"])
        request = AWSRequest(
            method=environ["REQUEST_METHOD"],
            url=f"http://{environ['HTTP_HOST']}{unsigned}",
            headers={"host": environ["HTTP_HOST"]},
        )
        request.context["timestamp"] = date
        to_sign = signer.string_to_sign(request, signer.canonical_request(request))
        if not hmac.compare_digest(signer.signature(to_sign, request), query["X-Amz-Signature"]):
            return "403 Forbidden", "SignatureDoesNotMatch"
        return None


class _QuietHandler(WSGIRequestHandler):
    def log(self, *args: object) -> None:
        """Say nothing: it would be the signed URLs."""


class S3Server:
    """The server, and a client to put objects there."""

    def __init__(self) -> None:
        self.gate = Gate(DomainDispatcherApplication(create_backend_app))
        self._server = make_server("127.0.0.1", 0, self.gate, threaded=True, request_handler=_QuietHandler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.client = boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name=REGION,
        )

    def stop(self) -> None:
        self.client.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def reset(self) -> None:
        self.gate.reset()
        for listed in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
            self.client.delete_object(Bucket=BUCKET, Key=listed["Key"])
        self.gate.requests.clear()

    def put(self, key: str, content: bytes, **options: Any) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content, **options)

    def connection(self, **changes: Any) -> str:
        """Return an Airflow connection of type ``aws``, as JSON."""
        extra = {"region_name": REGION, "endpoint_url": self.url}
        return json.dumps(
            {"conn_type": "aws", "login": ACCESS_KEY, "password": SECRET_KEY, "extra": extra, **changes}
        )

    @property
    def signatures(self) -> set[str]:
        """The signatures of all URLs that were fetched."""
        return {dict(parse_qsl(urlsplit(url).query))["X-Amz-Signature"] for url in self.gate.fetched}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    # All servers of this process have the same buckets.
    if not server.client.list_buckets()["Buckets"]:
        where: Any = {"LocationConstraint": REGION}
        server.client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=where)
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """An empty bucket ``calls``, and the Airflow connection ``aws_calls`` to it."""
    s3_server.reset()
    monkeypatch.setenv("AIRFLOW_CONN_AWS_CALLS", s3_server.connection())
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    # No machine's own credentials, from its profile or its cloud.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    return s3_server
