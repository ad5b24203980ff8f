"""
Asking the warehouse and the ledger from Airflow's API server: in a few threads, for a bounded time.

A warehouse that hangs takes these threads, and none of those that Airflow's own pages need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastapi import HTTPException

from plaud_provider.exceptions import PlaudError

Result = TypeVar("Result")

#: Questions that are asked at once, by each process of the API server.
THREADS = 4
#: Until a page is told that its question takes too long.
SECONDS = 15.0

_EXECUTOR = ThreadPoolExecutor(THREADS, thread_name_prefix="plaud-views")


async def ask(work: Callable[[], Result], *, seconds: float = SECONDS) -> Result:
    """
    Ask something that blocks.

    :param work: What to do, in a thread.
    :param seconds: How long it may take, waiting for a thread included.
    :raises HTTPException: 504 if it takes longer; 502, with the reason, if it fails as this package knows.
    """
    question = asyncio.get_running_loop().run_in_executor(_EXECUTOR, work)
    try:
        return await asyncio.wait_for(question, seconds)
    except TimeoutError:
        raise HTTPException(
            504,
            f"The database did not answer within {seconds:.0f} seconds. It is busy, away or locked (DuckDB "
            "lets one process at a time open a file); try again.",
        ) from None
    except PlaudError as problem:
        raise HTTPException(502, str(problem)) from None
