"""The ASGI application: takes requests in, lets faults happen, sends answers out."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from asyncio import Transport
from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from plaud_provider.emulator.contract import Contract, kind_of, presented_token
from plaud_provider.emulator.faultbook import Ordered
from plaud_provider.emulator.faults import STORAGES, Delay, ExpireTokens, Fault, Inflate
from plaud_provider.emulator.ledger import DROPPED, Entry
from plaud_provider.emulator.state import EmulatorState
from plaud_provider.emulator.store import PREFIX as STORE_PREFIX
from plaud_provider.emulator.uploads import PART_BYTES, STORAGE_PREFIX
from plaud_provider.emulator.wire import WHOLE, Answer, Delivery, Request, error_answer

logger = logging.getLogger("plaud_provider.emulator")

ADMIN_PREFIX = "/_emulator"
TRANSPORT = "plaud_emulator.transport"
MAX_BODY_BYTES = 1024 * 1024
_SEND_BYTES = 1024 * 1024
_BODILESS = (204, 304)
_STORAGE_KINDS = {STORE_PREFIX: "store", STORAGE_PREFIX: "upload_storage"}
_UNHANDLED = Answer(200, b"")


class Gate:
    """
    Everything that arrives passes here; what is below ``/_emulator`` goes on to the admin API.

    To close connections it needs the transport in ``scope["extensions"]``, where the server of
    :mod:`plaud_provider.emulator.server` puts it.
    """

    def __init__(self, state: EmulatorState, admin: ASGIApp) -> None:
        self._state = state
        self._contract = Contract(state)
        self._admin = admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one request in."""
        if scope["type"] != "http" or scope["path"].startswith(ADMIN_PREFIX):
            await self._admin(scope, receive, send)
            return
        request = await _read(scope, receive)
        if request is None:
            return
        exchange = _Exchange(scope, receive, send)
        try:
            await self._serve(request, exchange)
        except Exception:
            logger.exception("The emulator broke on %s %s", request.method, request.path)
            raise

    async def _serve(self, request: Request, exchange: _Exchange) -> None:
        state = self._state
        with state.lock:
            entry = None
            if request.kind not in STORAGES:
                client_id = self._contract.client_of(request)
                entry = state.ledger.open(request, state.clock.now(), client_id, presented_token(request))
            met = state.faults.meet(request)
        if entry is not None:
            entry.faults = [ordered.id for ordered in met]
        fault = await self._pass_on(met)
        answer = _UNHANDLED
        if fault is None or fault.runs_handler:
            answer = await self._handle(request, entry)
        if isinstance(fault, Inflate):
            answer = await asyncio.to_thread(fault.change, answer)
        elif fault is not None:
            answer = fault.change(answer)
        delivery = WHOLE if fault is None else fault.delivery
        _close(entry, answer, delivery)
        await exchange.deliver(answer, delivery)

    async def _pass_on(self, met: Sequence[Ordered]) -> Fault | None:
        """Undergo what lets a request go on, and return the fault that does not."""
        for ordered in met:
            fault = ordered.fault
            if isinstance(fault, Delay):
                await asyncio.sleep(fault.seconds)
            elif isinstance(fault, ExpireTokens):
                with self._state.lock:
                    self._state.tokens.expire_all(self._state.clock.now())
            else:
                return fault
        return None

    async def _handle(self, request: Request, entry: Entry | None) -> Answer:
        if request.kind == "upload_storage":
            return await asyncio.to_thread(self._state.uploads.answer_storage, request)
        if len(request.body) > MAX_BODY_BYTES:
            return error_answer(413, "body_too_large", f"The body has more than {MAX_BODY_BYTES} bytes.")
        if entry is None:
            return await asyncio.to_thread(self._state.store.answer, request)
        with self._state.lock:
            answer = self._contract.answer(request)
            entry.transcription_id = answer.transcription_id
            entry.accepted = request.kind == "submit" and answer.transcription_id is not None
        return answer


def _close(entry: Entry | None, answer: Answer, delivery: Delivery) -> None:
    """Note how a request ended, and say so in one line without any secret."""
    if entry is None:
        return
    entry.status = DROPPED if delivery.dropped else answer.status
    entry.retry_after = answer.headers.get("retry-after")
    logger.info("%s %s %s %s", entry.method, entry.path, entry.status, entry.transcription_id or "-")


async def _read(scope: Scope, receive: Receive) -> Request | None:
    """Read a request to its end; ``None`` if the client leaves before. A huge body is kept in part."""
    path = scope["raw_path"].decode("ascii", "replace")
    most = PART_BYTES if path.startswith(STORAGE_PREFIX) else MAX_BODY_BYTES
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        if len(body) <= most:
            body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    method = scope["method"]
    prefix = next((prefix for prefix in _STORAGE_KINDS if path.startswith(prefix)), "")
    kind = _STORAGE_KINDS[prefix] if prefix else kind_of(method, path)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    return Request(kind, method, path, scope["query_string"].decode("latin-1"), headers, bytes(body))


class _Exchange:
    """Sends one answer in one of the ways a :class:`Delivery` can ask for."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._transport: Transport | None = (scope.get("extensions") or {}).get(TRANSPORT)

    async def deliver(self, answer: Answer, delivery: Delivery) -> None:
        if delivery.dropped:
            await self._hang_up(delivery.reset)
            return
        body = b"" if answer.status in _BODILESS else answer.body
        await self._begin(answer, body)
        if delivery.cut:
            kept = len(body) // 2 if delivery.keep is None else min(delivery.keep, max(0, len(body) - 1))
            await self._body(body[:kept], more=True)
            await self._hang_up(delivery.reset)
        elif delivery.bytes_per_second is not None:
            await self._drip(body, delivery.bytes_per_second)
        else:
            # In pieces, so that a slow reader of a huge answer holds this one up and not the others.
            for start in range(0, len(body), _SEND_BYTES):
                await self._body(body[start : start + _SEND_BYTES], more=start + _SEND_BYTES < len(body))
            if not body:
                await self._body(b"", more=False)

    async def _begin(self, answer: Answer, body: bytes) -> None:
        headers = {name.encode(): value.encode("latin-1") for name, value in answer.headers.items()}
        if answer.status not in _BODILESS:
            headers[b"content-length"] = str(len(body)).encode()
        await self._send(
            {"type": "http.response.start", "status": answer.status, "headers": list(headers.items())}
        )

    async def _body(self, part: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": part, "more_body": more})

    async def _drip(self, body: bytes, bytes_per_second: float) -> None:
        size = max(1, int(bytes_per_second / 10))
        for start in range(0, len(body), size):
            await asyncio.sleep(size / bytes_per_second)
            if self._transport is not None and self._transport.is_closing():
                return
            await self._body(body[start : start + size], more=start + size < len(body))
        if not body:
            await self._body(b"", more=False)

    async def _hang_up(self, reset: bool) -> None:
        """Close the connection where it is, and wait until it is closed."""
        if self._transport is None:
            raise RuntimeError(
                "Closing a connection takes the emulator's own server; run it with EmulatorServer."
            )
        if reset:
            connection: Any = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._transport.close()
        while (await self._receive())["type"] != "http.disconnect":
            pass
