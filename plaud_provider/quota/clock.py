"""
What time it is for a quota: setting a clock frees no slot, and keeps none busy.

A host's wall clock, and a database's, may be set at any moment: by NTP, by hand, by another database server
that takes over. A host's monotonic clock cannot be, but begins anew when the host starts, and two hosts have
nothing in common there. So the quota has a clock of its own, which is kept with it.

Pure: the caller hands in what the clocks show.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

#: A host that has not used the quota for so many seconds is forgotten.
FORGOTTEN_AFTER = 3600.0


class Visit(NamedTuple):
    """
    The last time that a host used the quota.

    :param monotonic: What its monotonic clock showed.
    :param now: What the quota's clock showed.
    """

    monotonic: float
    now: float


@dataclass(slots=True)
class Clock:
    """
    A quota's clock, in seconds. It never goes back, nor forward by more than has passed.

    :param ahead: By how many seconds it is ahead of the outer clock: the host's wall clock, or that of the
        database through which several hosts share the quota.
    :param visits: By host, which is another one each time that it starts; the last one comes last.
    """

    ahead: float = 0.0
    visits: dict[str, Visit] = field(default_factory=dict)

    def tell(self, *, host: str, monotonic: float, outer: float) -> float:
        """
        Return what time it is, and remember that this host has asked.

        :param monotonic: What the host's monotonic clock shows.
        :param outer: What the outer clock shows. It counts where another host was the last one; whoever has
            been here before notices if it was put forward meanwhile.
        """
        now = outer + self.ahead
        last_host, last = next(reversed(self.visits.items()), (None, None))
        visit = self.visits.pop(host, None)
        if visit is not None and monotonic >= visit.monotonic:
            by_own_clock = visit.now + monotonic - visit.monotonic
            now = by_own_clock if host == last_host else min(now, by_own_clock)
        if last is not None:
            now = max(now, last.now)
        self.ahead = now - outer
        self.visits = {
            other: visit for other, visit in self.visits.items() if visit.now > now - FORGOTTEN_AFTER
        }
        self.visits[host] = Visit(monotonic, now)
        return now
