"""An archive that the package submits and waits for, with a Plaud that has trouble."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, BinaryIO

from airflow.sdk.exceptions import AirflowFailException

from plaud_provider.api.effects import Operation, Request, Response, TransportFailure
from plaud_provider.api.retry import RetryPolicy
from plaud_provider.api.terms import Terms
from plaud_provider.api.waiting import WaitResult
from plaud_provider.exceptions import PlaudError
from plaud_provider.hooks.plaud_async import PlaudAsyncHook
from plaud_provider.hooks.transport import Limits, too_slow
from plaud_provider.ledger.ledger import Entry, Ledger, Owner, Recording, State
from plaud_provider.recordings.reference import AudioReference
from plaud_provider.submit.course import Order
from plaud_provider.submit.send import Claimed, Sender
from plaud_provider.submit.stop import Stop
from plaud_provider.triggers.transcription import TranscriptionTrigger
from tests.soak.trouble import Record
from tests.soak.trouble_server import Call, Plaud, name_of, who
from tests.unit.trouble.virtual_time import VirtualLoop

CLIENT = "archive"
CHUNK = 50
CHUNKS_AT_ONCE = 2
#: As in the DAGs that are shipped, with the start of a process.
RETRY_SECONDS = 60.0 + 3.0
NETWORK_SECONDS = 0.3
_KINDS = {Operation.SUBMIT: "submit", Operation.GET: "get"}


@dataclass
class Network:
    """A Plaud in this process, and its record."""

    loop: VirtualLoop
    limit: int
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.plaud = Plaud(self.lines.append, self.limit, self.loop.time, random.Random(7))

    @property
    def record(self) -> Record:
        return Record.read(self.lines)

    def transport(self, base_url: str, limits: Limits) -> Transport:
        return Transport(self.plaud, limits)


class Transport:
    """Sends as the package's own does, but for the network."""

    def __init__(self, plaud: Plaud, limits: Limits) -> None:
        self._plaud = plaud
        self._limits = limits

    async def send(self, request: Request, within: float | None = None) -> Response:
        limits = self._limits.of(request, within)
        try:
            async with asyncio.timeout(min(limits.read_seconds, limits.total_seconds)):
                return await self._answer(request)
        except TimeoutError:
            raise too_slow(limits, sent=True) from None

    async def _answer(self, request: Request) -> Response:
        await asyncio.sleep(NETWORK_SECONDS / 2)
        client, token = who(request.headers["Authorization"])
        body = request.body if isinstance(request.body, bytes) else b""
        number, reply = self._plaud.reply(
            Call(
                _KINDS.get(request.operation, "token"),
                client,
                token,
                audio=name_of(json.loads(body)["audioUrl"]) if request.operation is Operation.SUBMIT else "",
                transcription_id=name_of(request.url) if request.operation is Operation.GET else "",
                refresh=body.decode().partition("=")[2] if request.operation is Operation.REFRESH else None,
            )
        )
        if reply.status is None:
            self._plaud.answered(number, None)
        await asyncio.sleep(reply.after)
        if reply.status is None:
            raise TransportFailure("the connection failed (ConnectionResetError)", sent=True)
        self._plaud.answered(number, reply.status)
        await asyncio.sleep(NETWORK_SECONDS / 2)
        headers = {name.lower(): value for name, value in reply.headers.items()}
        return Response(reply.status, {**headers, "content-type": reply.kind}, reply.body)

    async def close(self) -> None:
        """There is no connection."""


@dataclass
class Source:
    """A recording that is always there."""

    name: str

    @property
    def audio(self) -> AudioReference:
        return AudioReference(f"https://recordings.example.com/{self.name}")

    is_ranged = is_readable = False

    def connect(self) -> None:
        """Nothing is to be opened."""

    def look(self) -> str | None:
        return None

    def open(self) -> BinaryIO:
        raise NotImplementedError

    stream = open

    def url(self) -> AudioReference:
        return self.audio


class Archive:
    """
    The tasks of an archive: each chunk is submitted, with retries, then waited for.

    :param ledger: Where its recordings are claimed.
    :param loop: Tells the time.
    :param count: How many recordings there are.
    """

    def __init__(self, ledger: Ledger, loop: VirtualLoop, count: int) -> None:
        self._ledger = ledger
        self._loop = loop
        self._recordings = {
            f"key_{number}": Recording(f"key_{number}", f"{number:05}.wav", "us", CLIENT)
            for number in range(count)
        }
        self.seen: dict[str, WaitResult] = {}

    async def run(self) -> None:
        """Submit and wait for all, some chunks at once."""
        keys = list(self._recordings)
        chunks = [keys[begin : begin + CHUNK] for begin in range(0, len(keys), CHUNK)]
        turns = asyncio.Semaphore(CHUNKS_AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            for number, chunk in enumerate(chunks):
                tasks.create_task(self._chunk(number, chunk, turns))

    async def _chunk(self, number: int, keys: Sequence[str], turns: asyncio.Semaphore) -> None:
        async with turns:
            try_number = 1
            while not await self._submit(Owner("archive", "run", "submit", number, try_number), keys):
                try_number += 1
                await asyncio.sleep(RETRY_SECONDS)
        waiting = [entry for entry in self.entries(keys).values() if entry.state is State.PROCESSING]
        if waiting:
            self.seen[str(number)] = await wait(waiting, self._loop)

    def entries(self, keys: Sequence[str] | None = None) -> Mapping[str, Entry]:
        return self._ledger.entries(list(self._recordings) if keys is None else keys)

    async def _submit(self, owner: Owner, keys: Sequence[str]) -> bool:
        """Submit what is left of a chunk, as one try of its task; return whether it succeeds."""
        entries = self._ledger.claim([self._recordings[key] for key in keys], owner)
        claimed = [
            Claimed(self._recordings[key], Order(Source(f"{self._recordings[key].audio_uri}"), None, Terms()))
            for key, entry in entries.items()
            if entry.is_claimed_by(owner)
        ]
        if not claimed:
            return True
        try:
            async with PlaudAsyncHook(retry_policy=RetryPolicy(rng=random.Random(1))) as hook:
                await Sender(self._ledger, owner, Stop()).send_all(claimed, hook)
        except PlaudError as error:
            self._ledger.release(owner, str(error))
            if isinstance(error, AirflowFailException):
                # Airflow would not try again.
                raise
            return False
        return True


async def wait(entries: Sequence[Entry], loop: VirtualLoop) -> WaitResult:
    """Wait for what was submitted, until all of it is final."""
    started_at = loop.time()
    left = {entry.transcription_id or "": entry for entry in entries}
    while True:
        trigger = TranscriptionTrigger(
            transcription_ids=list(left),
            plaud_conn_id="plaud_default",
            region=None,
            poke_interval=30.0,
            started_at=started_at,
            end_time=started_at + 24 * 3600,
            partial_count=200,
            partial_seconds=300.0,
            submitted_at=[_epoch(entry.accepted_at) for entry in left.values()],
            accepted_at=[_epoch(entry.accepted_at) for entry in left.values()],
        )
        result = await event_of(trigger)
        if result.outcome != "partial":
            return result
        left = {transcription_id: left[transcription_id] for transcription_id in result.pending}


async def event_of(trigger: TranscriptionTrigger) -> WaitResult:
    async for event in trigger.run():
        return WaitResult.from_event(event.payload)
    raise AssertionError("a trigger without an event")


def _epoch(moment: datetime | None) -> float | None:
    return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
