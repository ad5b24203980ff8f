"""Where many recordings stand, by what the ledger has of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from plaud_provider.ledger.entry import Entry, State

_NAMES = {
    State.LANDED: "landed",
    State.PROCESSING: "waiting",
    State.CLAIMED: "held",
    State.SUBMITTING: "held",
    State.UNKNOWN: "unknown",
    State.FAILED: "failed",
    State.EXPIRED: "expired",
}


class Standing(NamedTuple):
    """
    Where the recordings of a chunk stand, as keys.

    :param landed: In the warehouse.
    :param waiting: Submitted and not landed yet, by whichever run.
    :param held: About to be submitted by another task.
    :param unknown: Sent, and the answer lost.
    :param failed: Refused beforehand, or failed at Plaud.
    :param expired: Not known to Plaud any more, and not landed.
    :param open: To be submitted.
    """

    landed: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()
    open: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, keys: Sequence[str], entries: Mapping[str, Entry], *, is_open: Callable[[Entry], bool]
    ) -> Standing:
        """
        Sort recordings by where they stand.

        :param keys: All of them.
        :param entries: What the ledger has of them.
        :param is_open: Whether an entry may be claimed by whoever asks.
        """
        sorted_keys: dict[str, list[str]] = {}
        for key in keys:
            entry = entries.get(key)
            name = "open" if entry is None or is_open(entry) else _NAMES[entry.state]
            sorted_keys.setdefault(name, []).append(key)
        return cls(**{name: tuple(found) for name, found in sorted_keys.items()})
