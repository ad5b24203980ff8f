"""What of a listing is left to do: what the ledger has settled needs no task of its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

from plaud_provider.api.limits import RETENTION
from plaud_provider.ledger.entry import State

if TYPE_CHECKING:
    from plaud_provider.ledger.entry import Entry
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.ledger.reader import Outcome
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
    :param max_changed: How many recordings that were paid for by another version of their content may be left
        to do: a number, or below 1 a share of those that are listed; ``None`` for any number.
    :param told: Of how many it is told why they are bad.
    """

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        writer: WarehouseWriter,
        resubmit: Collection[State],
        max_changed: float | None = None,
        told: int = 0,
    ) -> None:
        self._plan = plan
        self._ledger = ledger
        self._writer = writer
        self._resubmit = frozenset(resubmit)
        self._max_changed = max_changed
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
        #: How many were paid for by another version, and how many of them are left out, as they are too many.
        self.changed = self.changed_left = 0
        self._told = told
        self._bad: list[str] = []
        #: How many are left out, as their text was removed for good.
        self.purged = 0

    def open_ones(self, found: Iterable[Found]) -> Iterator[Found]:
        """
        Yield recordings that are left to do, and count the others.

        Those that were paid for by another version come last: only then is known how many they are.

        :param found: The listing; not more than a page of it is in memory, and what has changed.
        """
        listed = iter(found)
        total = 0
        changed: list[Found] = []
        oldest = datetime.now(tz=UTC) - RETENTION
        while page := list(islice(listed, PAGE)):
            keys = self._keys(page)
            known = self._ledger.outcomes([key for key in keys if key is not None])
            landed = self._writer.landed(
                [one.transcription_id for one in known.values() if one.transcription_id]
            )
            total += len(page)
            paid = self._paid_by_another_version(
                [one for one, key in zip(page, keys, strict=True) if key is not None and key not in known]
            )
            for one, key in zip(page, keys, strict=True):
                if key in self._overdue:
                    self._listed_overdue.add(key)
                if key in known and known[key].is_purged:
                    self.purged += 1
                    continue
                how = self._settled_as(known[key], landed, oldest) if key in known else None
                if how is not None:
                    self.settled[how] += 1
                    if how != "landed_before" and len(self._bad) < self._told:
                        self._bad.append(str(key))
                elif key is not None and key not in known and one.audio.uri in paid:
                    self.changed += 1
                    if self._may_be_taken(self.changed):
                        changed.append(one)
                else:
                    yield one
        if self._max_changed is None or self.changed <= allowed(self._max_changed, total):
            yield from changed
        else:
            self.changed_left = self.changed

    def _may_be_taken(self, changed: int) -> bool:
        """Whether so many may have changed; a share is known at the end only."""
        limit = self._max_changed
        return limit is None or 0 < limit < 1 or changed <= limit

    def _paid_by_another_version(self, new: Collection[Found]) -> set[str]:
        """Return the references of recordings that were paid for, by whatever is there no more."""
        # What tells two URLs apart may be in a query, which is not stored.
        uris = [one.audio.uri for one in new if self._plan.is_told_by_its_uri(one.audio)]
        account, terms = self._plan.account, self._plan.terms
        return self._ledger.paid_uris(
            uris,
            region=account.region.value,
            client_id=account.client_id,
            language=terms.language,
            speaker_diarization=terms.speaker_diarization,
        )

    def problems(self) -> list[str]:
        """Return why some of those did not land that are settled."""
        return sorted(entry.problem for entry in self._ledger.entries(self._bad).values())

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


def allowed(limit: float, total: float) -> int:
    """
    Return how many a limit allows.

    :param limit: A number, or below 1 a share.
    :param total: Of how many.
    """
    # 0.29 of 100 is a little less than 29 to a computer.
    return math.floor((limit * total if limit < 1 else limit) + 1e-9)
