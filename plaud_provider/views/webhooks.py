"""
The receiver of Plaud's webhook, ``POST /plaud/webhooks/<conn_id>``: the only route that asks for no login.

A call whose signature is right leaves a mark where all triggers look (:mod:`plaud_provider.handover.marks`),
and does nothing else. It is off until the connection has a webhook secret.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from contextlib import AsyncExitStack
from typing import NamedTuple

from fastapi import APIRouter, Request, Response

from plaud_provider.api.arguments import MAX_ID_CHARACTERS
from plaud_provider.api.webhooks import Signature, final_transcription
from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.handover.marks import Marks
from plaud_provider.hooks.connection import PlaudConnection

log = logging.getLogger(__name__)

#: A call may carry the whole result.
MAX_BODY_BYTES = 16 * 1024 * 1024
#: Seconds in which a body has to be here.
BODY_SECONDS = 10.0
#: Larger bodies that are read at once. Further ones get 503, and Plaud repeats them; smaller ones are always
#: read, so that whoever holds these up keeps no call out.
MAX_BODIES = 32
SMALL_BODY_BYTES = 64 * 1024
#: For how long a connection is not looked up again, in seconds; and how many are remembered.
LOOKED_UP_SECONDS = 30.0
MAX_CONNECTIONS = 64

router = APIRouter()


class _Receiver(NamedTuple):
    """
    What calls for one connection need.

    :param secrets: Any of them may have signed a call; none: the receiver is off.
    :param region: Region of the client.
    :param marks: Where calls leave their marks.
    """

    secrets: tuple[str, ...] = ()
    region: str = ""
    marks: Marks | None = None


class _Receivers:
    """Receivers by connection, each looked up now and then: forged calls cost no lookup each."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[float, _Receiver]] = OrderedDict()

    async def get(self, conn_id: str) -> _Receiver:
        now = time.monotonic()
        known = self._known.get(conn_id)
        if known is not None and now - known[0] < LOOKED_UP_SECONDS:
            return known[1]
        receiver = await asyncio.to_thread(_look_up, conn_id)
        self._known[conn_id] = (now, receiver)
        self._known.move_to_end(conn_id)
        if len(self._known) > MAX_CONNECTIONS:
            self._known.popitem(last=False)
        return receiver


def _look_up(conn_id: str) -> _Receiver:
    try:
        settings = PlaudConnection(conn_id).settings
        if settings.webhooks is None:
            return _Receiver()
        marks = Marks(settings.webhooks.path)
    except PlaudConfigurationError as problem:
        log.warning("Calls of Plaud's webhook are refused. %s", problem)
        return _Receiver()
    return _Receiver(settings.webhooks.secrets, settings.account.region.value, marks)


_receivers = _Receivers()
_bodies = asyncio.Semaphore(MAX_BODIES)


@router.post("/webhooks/{conn_id}", include_in_schema=False)
async def receive(conn_id: str, request: Request) -> Response:
    """
    Take a call.

    ======  ==================================================================================
    status  when
    ======  ==================================================================================
    200     it is Plaud's; whatever it is about, known or not
    401     its signature is not right, or it is more than five minutes old or from the future
    408     its body did not come in ten seconds
    413     its body is larger than 16 MB
    503     there is no such connection, it has no webhook secret, or the mark could not be left;
            Plaud repeats it
    ======  ==================================================================================

    :param conn_id: Connection of the client that it is about.
    :param request: The call.
    """
    if len(conn_id) > MAX_ID_CHARACTERS:
        return Response(status_code=503)
    try:
        receiver = await _receivers.get(conn_id)
    except Exception as problem:
        # Airflow's database is away.
        log.warning("Connection %r could not be looked up (%s).", conn_id, type(problem).__name__)
        return Response(status_code=503)
    if receiver.marks is None:
        return Response(status_code=503)
    now = time.time()
    signature = Signature(request.headers, receiver.secrets, now=now)
    if not signature.is_plausible:
        return Response(status_code=401)
    if int(request.headers.get("content-length") or 0) > MAX_BODY_BYTES:
        return Response(status_code=413)
    async with AsyncExitStack() as slot:
        try:
            body = await asyncio.wait_for(_body(request, signature, slot), BODY_SECONDS)
        except TimeoutError:
            return Response(status_code=408)
        if isinstance(body, int):
            return Response(status_code=body)
        if not signature.is_right():
            return Response(status_code=401)
        transcription_id = await asyncio.to_thread(final_transcription, body)
    if transcription_id is None:
        return Response(status_code=200)
    try:
        await asyncio.to_thread(receiver.marks.leave, receiver.region, transcription_id, now=now)
    except Exception as problem:
        log.warning("The mark of a call could not be left (%s).", type(problem).__name__, exc_info=True)
        return Response(status_code=503)
    log.info("Plaud called: %s is final.", transcription_id)
    return Response(status_code=200)


async def _body(request: Request, signature: Signature, slot: AsyncExitStack) -> bytes | int:
    """Return the raw body, having fed it to its signature; or the status that refuses it."""
    parts, size, is_small = [], 0, True
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            return 413
        if is_small and size > SMALL_BODY_BYTES:
            if _bodies.locked():
                return 503
            await slot.enter_async_context(_bodies)
            is_small = False
        signature.feed(part)
        parts.append(part)
    return b"".join(parts)
