"""What of a listing is left to do: what the ledger has settled needs no task of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

from plaud_provider.api.waiting import RETENTION
from plaud_provider.ledger.entry import State

if TYPE_CHECKING:
    from plaud_provider.ledger.entry import Entry
    from plaud_provider.ledger.ledger import Ledger, Outcome
    from plaud_provider.recordings.listing import Found
    from plaud_provider.submit.plan import Plan
    from plaud_provider.warehouse.writer import WarehouseWriter

#: Recordings that are looked up at once.
PAGE = 3000
#: Not more than so many of other runs are taken up by one, so that its own come first.
MOST_OVERDUE = 1000
#: What settled ones are counted as, by their state.
_SETTLED = {
    State.FAILED: "failed_before",
    State.UNKNOWN: "unknown_before",
    State.EXPIRED: "expired_before",
}


class Listing:
    """
    A listing as its ledger and its target know it.

    :param plan: How recordings would be submitted.
    :param ledger: The ledger.
    :param writer: The target.
    :param resubmit: States that recordings are submitted again from.
    """

    def __init__(
        self, plan: Plan, ledger: Ledger, writer: WarehouseWriter, resubmit: Collection[State]
    ) -> None:
        self._plan = plan
        self._ledger = ledger
        self._writer = writer
        self._resubmit = frozenset(resubmit)
        self._listed_overdue: set[str] = set()
        account = plan.account
        self._overdue = {
            entry.recording_key: entry
            for entry in ledger.overdue(
                region=account.region.value,
                client_id=account.client_id,
                target=writer.target,
                most=MOST_OVERDUE,
            )
        }
        #: How many recordings are settled, by how.
        self.settled = Counter(dict.fromkeys(("landed_before", *_SETTLED.values()), 0))
        #: How many are left out, as their text was removed for good.
        self.purged = 0

    def open_ones(self, found: Iterable[Found]) -> Iterator[Found]:
        """
        Yield recordings that are left to do, and count the others.

        :param found: The listing; not more than a page of it is in memory.
        """
        listed = iter(found)
        oldest = datetime.now(tz=UTC) - RETENTION
        while page := list(islice(listed, PAGE)):
            keys = self._keys(page)
            known = self._ledger.outcomes([key for key in keys if key is not None])
            landed = self._writer.landed(
                [one.transcription_id for one in known.values() if one.transcription_id]
            )
            for one, key in zip(page, keys, strict=True):
                if key in self._overdue:
                    self._listed_overdue.add(key)
                if key in known and known[key].is_purged:
                    self.purged += 1
                    continue
                how = self._settled_as(known[key], landed, oldest) if key in known else None
                if how is None:
                    yield one
                else:
                    self.settled[how] += 1

    def overdue(self) -> list[Entry]:
        """Return what other runs have left at Plaud, and is not in this listing."""
        return [entry for key, entry in self._overdue.items() if key not in self._listed_overdue]

    def _keys(self, page: list[Found]) -> list[str | None]:
        """Return the identity of each; ``None`` of one that cannot be told, which is left to its chunk."""
        if any(one.version is None for one in page):
            return [one.key if one.is_identified else None for one in self._plan.identified(page)]
        return [self._plan.key(one.audio, one.version) for one in page]

    def _settled_as(self, one: Outcome, landed: set[str], oldest: datetime) -> str | None:
        if one.transcription_id in landed:
            return "landed_before"
        state = one.state
        if state not in _SETTLED or state in self._resubmit:
            return None
        if state is State.EXPIRED and one.submitted_at is not None and one.submitted_at >= oldest:
            # It is asked for once more, which is free.
            return None
        return _SETTLED[state]
