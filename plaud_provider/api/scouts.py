"""
Looks ahead of their time: whether there are any, and when.

Pure. As long as little is known of how long Plaud takes, scouts find it out. Later they find out whether it
has changed.
"""

from __future__ import annotations

#: Until so many processing times are known, scouts look ahead: one at a time, at first such a part of a poke
#: interval apart, and with each that finds nothing more by a factor, up to a tenth of the time so far.
ENOUGH = 8
PAUSE = 0.05
GROWTH = 1.2
LONGEST_PAUSE = 0.1
#: From then on they do while nearly no look is in vain and the budget has room, as that may mean that all
#: come too late: Plaud has become faster, or its clock tells longer times than this host's. Each result earns
#: such a part of a look in vain, and no more than so many are kept.
EARNED = 0.04
MOST_EARNED = 4.0
#: Such a part of the time after which a look pays has to have passed; by the first factor less when a scout
#: has found a result even earlier, by the other one more when one has looked in vain even later.
AHEAD = 0.8
BOLDER = 0.9
SHYER = 1.25


class Scouts:
    """
    The looks ahead of their time of one schedule.

    :param interval: Its poke interval, in seconds.
    :param now: Epoch seconds at which it begins.
    """

    def __init__(self, *, interval: float, now: float) -> None:
        self._first_pause = PAUSE * interval
        self._pause = self._first_pause
        self._next_at = now
        self._earned = 0.0
        self._ahead = AHEAD

    def may_look(self, *, known: int, spare: float) -> bool:
        """
        Whether there are scouts at the moment.

        :param known: How many processing times are known.
        :param spare: How many requests a minute the budget has to spare.
        """
        return known < ENOUGH or (self._earned >= 1.0 and spare > 0)

    def due(self, last_at: float, pays_at: float, *, known: int) -> float:
        """
        Return when a scout may look at a transcription.

        :param last_at: When it was looked at last, or began.
        :param pays_at: When a look at it pays.
        :param known: How many processing times are known.
        """
        if known >= ENOUGH:
            pays_at = last_at + self._ahead * (pays_at - last_at)
        return max(self._next_at, pays_at)

    def sent(self, *, now: float, elapsed: float, shortest: float) -> None:
        """
        Note that a scout looks.

        :param now: Epoch seconds.
        :param elapsed: Seconds since the transcription that it looks at began.
        :param shortest: Seconds that may always pass until the next one.
        """
        self._next_at = now + min(self._pause, max(shortest, LONGEST_PAUSE * elapsed))
        self._pause *= GROWTH

    def found(self, scouted_at: float | None, *, now: float) -> None:
        """
        Learn from a look, a scout's or not, that has found a result.

        :param scouted_at: Where a scout looked: after such a part of the time after which a look pays;
            ``None``: it was none.
        :param now: Epoch seconds.
        """
        self._next_at, self._pause = now, self._first_pause
        self._earned = min(MOST_EARNED, self._earned + EARNED)
        if scouted_at is not None:
            self._ahead = min(self._ahead, scouted_at) * BOLDER

    def in_vain(self, scouted_at: float | None) -> None:
        """Learn from a look that has found none; see :meth:`found`."""
        self._earned = max(-MOST_EARNED, self._earned - 1.0)
        if scouted_at is not None:
            self._ahead = min(1.0, max(self._ahead, scouted_at) * SHYER)
