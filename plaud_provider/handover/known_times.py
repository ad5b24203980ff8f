"""
How long Plaud took, for other processes of the host.

Each task is a new process, and a triggerer is restarted now and then: what only one of them remembers each
has to learn anew, by looks in vain. So a small file per base URL and client has the last times, beside the
client's tokens. Where there is none, or a damaged one, looks are in vain as at first, and that is all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from plaud_provider.api.schedule import REMEMBERED, Taken
from plaud_provider.private_folder import PrivateFolder

if TYPE_CHECKING:
    from plaud_provider.api.account import Account


class KnownTimes:
    """
    The file of one client's times.

    :param account: Whose transcriptions they are of.
    """

    def __init__(self, account: Account) -> None:
        self._name = f"{account.client_name}.times"

    def load(self) -> list[Taken]:
        """Return the last times, the newest last; none where there are none to read."""
        return _read(PrivateFolder(), self._name)

    def add(self, news: Sequence[Taken]) -> None:
        """Add times; of two processes that do so at once one may lose some, which does no harm."""
        if not news:
            return
        folder = PrivateFolder()
        known = [*_read(folder, self._name), *news][-REMEMBERED:]
        with suppress(OSError):
            folder.replace(folder.path / self._name, json.dumps(known, separators=(",", ":")).encode())


def _read(folder: PrivateFolder, name: str) -> list[Taken]:
    try:
        folder.check()
        return [_taken(*one) for one in json.loads((folder.path / name).read_bytes())]
    except (OSError, ValueError, TypeError, RecursionError):
        return []


def _taken(audio_seconds: object, seconds: object) -> Taken:
    return Taken(None if audio_seconds is None else _seconds(audio_seconds), _seconds(seconds))


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError("not so many seconds")
    return float(value)
