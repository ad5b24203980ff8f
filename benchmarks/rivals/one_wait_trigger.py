"""The trigger of rival (c): it asks for each that is not final, every few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from airflow.triggers.base import BaseTrigger, TriggerEvent

AT_ONCE = 16


class AllFinalTrigger(BaseTrigger):
    """Ends when all are final."""

    def __init__(self, ids: list[str], transcriptions: str, authorization: str, poll_seconds: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.arguments: dict[str, Any] = {
            "ids": ids,
            "transcriptions": transcriptions,
            "authorization": authorization,
            "poll_seconds": poll_seconds,
        }

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "benchmarks.rivals.one_wait_trigger.AllFinalTrigger", self.arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        waiting = list(self.arguments["ids"])
        headers = {"Authorization": self.arguments["authorization"]}
        connector = aiohttp.TCPConnector(limit=AT_ONCE)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:

            async def is_final(transcription_id: str) -> bool:
                async with session.get(f"{self.arguments['transcriptions']}{transcription_id}") as response:
                    if response.status != 200:
                        return False
                    answer = await response.json()
                    return bool(answer["status"] != "processing")

            while True:
                final = await asyncio.gather(*map(is_final, waiting))
                waiting = [one for one, done in zip(waiting, final, strict=True) if not done]
                if not waiting:
                    break
                await asyncio.sleep(self.arguments["poll_seconds"])
        yield TriggerEvent({"status": "done"})
