"""
Who is looked at next, and when.

Pure: the caller says what time it is, and hands in the source of jitter.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable

#: What the network may add to one request and not to the next, so that the minutes that Plaud counts are kept
#: too, and not only those of this host.
SLACK_SECONDS = 1.0


class PollSchedule:
    """
    The order in which transcriptions are looked at.

    Every transcription is due one poll interval (give or take 10 %) after it was last looked at, the one that
    has waited longest first; and looks are spaced so that ``requests_per_minute`` is never exceeded. With
    more transcriptions than fit into an interval, the spacing alone decides and they take turns.

    :param transcription_ids: What is waited for, in the order of submission.
    :param interval: Seconds between two looks at the same transcription.
    :param requests_per_minute: Budget of all looks together.
    :param now: Epoch seconds at which the schedule begins.
    :param first_look_after: Seconds until the first look.
    :param rng: Source of jitter.
    """

    def __init__(
        self,
        transcription_ids: Iterable[str],
        *,
        interval: float,
        requests_per_minute: float,
        now: float,
        first_look_after: float = 0.0,
        rng: random.Random,
    ) -> None:
        self._interval = interval
        self._spacing = (60.0 + SLACK_SECONDS) / requests_per_minute
        self._rng = rng
        self._sequence = 0
        self._queue: list[tuple[float, int, str]] = []
        self._next_slot = now
        for transcription_id in transcription_ids:
            self._push(transcription_id, now + first_look_after)

    def __len__(self) -> int:
        """How many wait for a look."""
        return len(self._queue)

    def next_at(self) -> float | None:
        """Return the epoch seconds of the next look; ``None`` if nothing waits for one."""
        return max(self._queue[0][0], self._next_slot) if self._queue else None

    def take(self, *, now: float) -> str | None:
        """Return the transcription to look at now, and count the look; ``None`` if it is too early."""
        at = self.next_at()
        if at is None or now < at:
            return None
        self._next_slot = max(self._next_slot, now) + self._spacing
        return heapq.heappop(self._queue)[2]

    def again(self, transcription_id: str, *, now: float) -> None:
        """Put a transcription that is not final back into the queue."""
        self._push(transcription_id, now + self._interval * self._rng.uniform(0.9, 1.1))

    def _push(self, transcription_id: str, due: float) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (due, self._sequence, transcription_id))
