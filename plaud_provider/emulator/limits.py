"""Quotas: so many requests in any minute."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable

WINDOW_SECONDS = 60.0
# Far below what a client can time, far above the rounding of a float.
_TOLERANCE = 1e-6


class SlidingLimit:
    """
    At most ``limit`` requests per client in any 60 emulated seconds.

    A refused request does not extend the window: whoever waits for as long as told gets through.

    :param limit: Requests per minute; 0 for no limit.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._admitted: defaultdict[str, deque[float]] = defaultdict(deque)

    def admit(self, client_id: str, now: float) -> float | None:
        """Count a request and return ``None``, or return how many emulated seconds it has to wait."""
        if self.limit == 0:
            return None
        admitted = self._admitted[client_id]
        while admitted and admitted[0] + WINDOW_SECONDS <= now + _TOLERANCE:
            admitted.popleft()
        if len(admitted) >= self.limit:
            return admitted[0] + WINDOW_SECONDS - now
        admitted.append(now)
        return None


def busiest_minute(moments: Iterable[float]) -> int:
    """Return the greatest number of moments, given in order, in any 60 seconds."""
    window: deque[float] = deque()
    most = 0
    for moment in moments:
        window.append(moment)
        while window[0] + WINDOW_SECONDS <= moment + _TOLERANCE:
            window.popleft()
        most = max(most, len(window))
    return most
