"""What Plaud calls about while a task is landing what it has called about before."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from plaud_provider.api.retry import ONE_LOOK
from plaud_provider.exceptions import PlaudError
from plaud_provider.handover.marks import Marks, mark_name

if TYPE_CHECKING:
    from plaud_provider.handover.kept_results import ResultStore
    from plaud_provider.hooks.connection import PlaudConnection
    from plaud_provider.hooks.plaud import PlaudHook

log = logging.getLogger(__name__)

#: A task holds its worker for so long at most, come what may.
STAY_SECONDS = 30.0
#: A call may wait for the quota, and for its answer: so long before its deadline a wait is the triggerer's.
LONGEST_CALL_SECONDS = 120.0
#: Without a call for so long it hands the wait back to the triggerer: about as long as it takes to come back.
QUIET_SECONDS = 5.0
#: Seconds between two looks at the folder of marks, and between two landings.
LOOK_SECONDS = 0.5


def called_meanwhile(
    plaud: PlaudConnection,
    webhook_path: str,
    results: ResultStore,
    waiting: Callable[[], Collection[str]],
    *,
    until: float,
) -> Iterator[list[str]]:
    """
    Look at what Plaud calls about, as long as it does, and keep what is final; yield its ids.

    What cannot be had now is left to the triggerer, which asks for it as often as it takes.

    :param plaud: Connection to ask with.
    :param webhook_path: Folder of the marks that calls leave.
    :param results: Where answers are kept until they are landed.
    :param waiting: Returns the ids that are waited for.
    :param until: Epoch seconds of the wait's deadline.
    """
    # Its libraries take longer to import than landing what was kept.
    from plaud_provider.hooks.plaud import PlaudHook

    marks, asked = Marks(webhook_path), set[str]()
    ends_at = time.monotonic() + min(STAY_SECONDS, until - time.time() - LONGEST_CALL_SECONDS)
    quiet_at = time.monotonic() + QUIET_SECONDS
    with PlaudHook(plaud.plaud_conn_id, settings=plaud.settings, retry_policy=ONE_LOOK) as hook:
        is_answered = True
        while is_answered and time.monotonic() < min(ends_at, quiet_at) and (left := set(waiting()) - asked):
            final: list[str] = []
            round_ends_at = time.monotonic() + LOOK_SECONDS
            try:
                there = marks.recent(now=time.time())
                called = (known for known in left if mark_name(plaud.region, known) in there)
                # What is final does not wait for those that wait for the quota.
                while time.monotonic() < round_ends_at and (known := next(called, None)) is not None:
                    asked.add(known)
                    if _is_final(hook, results, plaud.region, known):
                        final.append(known)
            except PlaudError as error:
                log.debug("The triggerer goes on: %s", error)
                is_answered = False
            if final:
                quiet_at = time.monotonic() + QUIET_SECONDS
                yield final
            elif is_answered:
                time.sleep(LOOK_SECONDS)


def _is_final(hook: PlaudHook, results: ResultStore, region: str, transcription_id: str) -> bool:
    transcription = hook.get_transcription(transcription_id)
    if transcription.is_final:
        results.save(transcription, region)
    return transcription.is_final
