"""
A stand-in for Snowflake, fakesnow, behind the real connector, on a free port of 127.0.0.1.

What fakesnow lacks and Snowflake documents is added here: an UPDATE waits while another transaction has
updated the same table, a role that may only read is refused by its code, and an error that fakesnow does not
know is an error and not a server in trouble, which the connector would ask for ever.
"""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from string import Template
from typing import Any

import pytest

WAIT_SECONDS = 60
READER = "READER"
_LOCKING = re.compile(r"update\s+(\S+)", re.IGNORECASE)
_WRITING = re.compile(r"(update|insert|delete|create|alter|copy|put)\b", re.IGNORECASE)
_ENDING = re.compile(r"(commit|rollback)\b", re.IGNORECASE)


class SnowflakeServer:
    """The server in a process of its own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="plaud-snowflake-"))
        self.port = _free_port()
        self.certificate = self.folder / "certificate.pem"
        _certify(self.folder)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.port), str(self.folder)],
            stdout=(self.folder / "log").open("wb"),
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)
            else:
                return

    def close(self) -> None:
        self._process.kill()
        self._process.wait(WAIT_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def snowflake_server() -> Iterator[SnowflakeServer]:
    server = SnowflakeServer()
    yield server
    server.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _certify(folder: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(tz=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=7))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        # From Python 3.13 an authority that does not say that it is one is not trusted.
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, True, False, False, False), critical=True
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


class _Escaped(Template):
    def substitute(self, *, name: str) -> str:
        return super().substitute(name=name.replace("'", "''"))


def _escaping(statement: Any) -> Any:
    return lambda catalog, schema, table, *rest: statement(catalog, schema, table.replace("'", "''"), *rest)


def serve(port: int, folder: Path) -> None:
    import uvicorn
    from fakesnow import cursor, info_schema

    # The package has a function of the same name.
    server = import_module("fakesnow.server")
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    # It forgets to escape a table's name.
    cursor.SQL_CREATED_TABLE = _Escaped(cursor.SQL_CREATED_TABLE.template)
    for name in ("insert_table_comment_sql", "insert_text_lengths_sql"):
        setattr(info_schema, name, _escaping(getattr(info_schema, name)))
    locks: dict[str, asyncio.Lock] = {}
    held: dict[str, set[str]] = {}
    readers: set[str] = set()

    def let_go(token: str) -> None:
        for table in held.pop(token, ()):
            locks[table].release()

    async def log_in(request: Request) -> Response:
        answer = await server.login_request(request)
        told = json.loads(bytes(answer.body))
        token = told["data"]["token"]
        # Without it the connector ends no session.
        told["data"]["masterToken"] = token
        if request.query_params.get("roleName", "").upper() == READER:
            readers.add(token)
        return JSONResponse(told)

    async def query(request: Request) -> Response:
        body = await request.body()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        statement = json.loads(body)["sqlText"].strip()
        token = server.to_token(request)
        if token in readers and _WRITING.match(statement):
            return refused(3001, "42501", "SQL access control error:\nInsufficient privileges to operate")
        if (locking := _LOCKING.match(statement)) and locking[1] not in held.get(token, ()):
            table = f"{server.to_conn(token).database}.{locking[1]}"
            await locks.setdefault(table, asyncio.Lock()).acquire()
            held.setdefault(token, set()).add(table)
        answer = await server.query_request(request)
        if _ENDING.match(statement):
            let_go(token)
        if answer.status_code == 500:
            print(statement[:300], bytes(answer.body)[:2000], flush=True)
            return refused(603, "XX000", "SQL execution internal error")
        return answer

    async def session(request: Request) -> Response:
        token = server.to_token(request)
        if request.query_params.get("delete") and token in server.sessions:
            connection: Any = server.sessions[token]
            try:
                connection._duck_conn.rollback()
            except Exception as error:
                print("no transaction to roll back:", type(error).__name__, flush=True)
            let_go(token)
        return await server.session(request)

    def refused(number: int, state: str, message: str) -> Response:
        code = f"{number:06d}"
        return JSONResponse(
            {
                "data": {"errorCode": code, "sqlState": state},
                "code": code,
                "message": message,
                "success": False,
            }
        )

    own = {
        "/session/v1/login-request": log_in,
        "/queries/v1/query-request": query,
        "/session": session,
    }
    routes = [
        Route(route.path, own.get(route.path, route.endpoint), methods=list(route.methods or ()))
        for route in server.routes
    ]
    uvicorn.run(
        Starlette(routes=routes),
        host="127.0.0.1",
        port=port,
        ssl_certfile=str(folder / "certificate.pem"),
        ssl_keyfile=str(folder / "key.pem"),
        log_level="warning",
    )


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
