"""A REST catalog of Iceberg in this process: the protocol before pyiceberg's own SQL catalog."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import unquote

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
)
from pyiceberg.exceptions import TableAlreadyExistsError as TableThereError
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableRequest

CLIENT, SECRET, TOKEN = "a-client", "a-client-secret", "a-token"
_PATH = re.compile(r"/v1/namespaces(?:/(?P<namespace>[^/]+)(?:/tables(?:/(?P<table>[^/]+))?)?)?")
_STATUS = {
    NoSuchNamespaceError: 404,
    NoSuchTableError: 404,
    NamespaceAlreadyExistsError: 409,
    TableThereError: 409,
    CommitFailedException: 409,
}


class RestCatalog:
    """
    The server; it takes requests of one client only.

    :param folder: Where it keeps what it knows.
    """

    def __init__(self, folder: Path) -> None:
        self._catalog = SqlCatalog("plaud", uri=f"sqlite:///{folder}/rest.db", warehouse=str(folder / "rest"))
        self._lock = Lock()
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            def _do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, told = answer(self.command, self.path, body, self.headers.get("Authorization"))
                content = told.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_POST = do_HEAD = _do

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def connection(self) -> str:
        """Return the Airflow connection to it."""
        return json.dumps({"conn_type": "iceberg", "host": self.url, "login": CLIENT, "password": SECRET})

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._catalog.close()

    def _answer(self, method: str, path: str, body: bytes, token: str | None) -> tuple[int, str]:
        if path.partition("?")[0] == "/v1/oauth/tokens":
            is_client = f"client_secret={SECRET}".encode() in body and CLIENT.encode() in body
            return (
                (200, json.dumps({"access_token": TOKEN, "token_type": "bearer"})) if is_client else (401, "")
            )
        if token != f"Bearer {TOKEN}":
            return 401, json.dumps(
                {"error": {"message": "no", "type": "NotAuthorizedException", "code": 401}}
            )
        try:
            # One SQLite file, whose readers and writers are threads.
            with self._lock:
                return 200, self._do(method, path.partition("?")[0], body)
        except tuple(_STATUS) as error:
            status = _STATUS[type(error)]
            told = {"message": str(error), "type": type(error).__name__, "code": status}
            return status, json.dumps({"error": told})

    def _do(self, method: str, path: str, body: bytes) -> str:
        if path == "/v1/config":
            return json.dumps({"defaults": {}, "overrides": {}})
        found = _PATH.fullmatch(path)
        assert found, path
        namespace, table = found["namespace"], found["table"] and unquote(found["table"])
        asked: dict[str, Any] = json.loads(body or b"{}")
        if namespace is None:
            self._catalog.create_namespace(tuple(asked["namespace"]))
            return json.dumps({"namespace": asked["namespace"], "properties": {}})
        if path.endswith(f"/namespaces/{namespace}"):
            return json.dumps({"namespace": [namespace], "properties": self._properties(namespace)})
        load: Callable[[], Any] = lambda: self._catalog.load_table((namespace, table))
        if table is None:
            created = self._catalog.create_table(
                (namespace, asked["name"]),
                Schema.model_validate(asked["schema"]),
                location=asked.get("location"),
                partition_spec=PartitionSpec.model_validate(asked["partition-spec"]),
                properties=asked.get("properties") or {},
            )
            load = lambda: created
        elif method == "POST":
            commit = CommitTableRequest.model_validate_json(body)
            self._catalog.commit_table(load(), commit.requirements, commit.updates)
        loaded = load()
        told = {"metadata-location": loaded.metadata_location, "config": {}}
        return json.dumps(told | {"metadata": json.loads(loaded.metadata.model_dump_json())})

    def _properties(self, namespace: str) -> Any:
        return self._catalog.load_namespace_properties(namespace)
