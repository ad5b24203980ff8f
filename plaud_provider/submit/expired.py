"""Looking once more at what Plaud did not know any more, which is free, before it is paid for again."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from plaud_provider.api.limits import RETENTION
from plaud_provider.exceptions import PlaudNotFoundError
from plaud_provider.ledger.entry import Entry, State

if TYPE_CHECKING:
    from plaud_provider.hooks.plaud import PlaudHook
    from plaud_provider.ledger.ledger import Ledger

log = logging.getLogger(__name__)


def look_again(entries: Iterable[Entry], ledger: Ledger, hook: PlaudHook, *, is_paid_again: bool) -> bool:
    """
    Ask Plaud for what is ``expired``; what it knows after all is ``processing`` again in the ledger.

    :param entries: Rows of the ledger, of the hook's client.
    :param ledger: The ledger.
    :param hook: Hook of the client.
    :param is_paid_again: Whether all of them are to be paid for otherwise. If not, only those are asked for
        whose result Plaud should still keep.
    :return: Whether there were any that it knows.
    :raises PlaudError: if Plaud could not be asked; nothing is paid for.
    """
    oldest = datetime.now(tz=UTC) - RETENTION
    known = []
    for entry in entries:
        if entry.state is not State.EXPIRED or entry.transcription_id is None:
            continue
        if not is_paid_again and (entry.submitted_at is None or entry.submitted_at < oldest):
            continue
        try:
            hook.get_transcription(entry.transcription_id)
        except PlaudNotFoundError:
            continue
        log.info(
            "Plaud knows transcription %s of %s after all; it is waited for again and not paid for again.",
            entry.transcription_id,
            entry.audio_uri,
        )
        known.append(entry.transcription_id)
    if known:
        ledger.known_again(known, region=hook.region)
    return bool(known)
