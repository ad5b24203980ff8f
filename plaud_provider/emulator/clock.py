"""The emulator's clock: it can run faster than real time, stand still, or be put forward."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta


class Clock:
    """
    Emulated time.

    A moment is a number of emulated seconds since the clock was made; small numbers keep their precision,
    which the sliding windows of the limits need.

    :param speed: Emulated seconds per real second; 0 stands still until :meth:`advance` is called.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self._epoch = datetime.now(UTC)
        # Replaced as a whole, so that a reader in another thread never sees half a change.
        self._base = (time.monotonic(), 0.0, _valid_speed(speed))

    @property
    def speed(self) -> float:
        """Emulated seconds per real second."""
        return self._base[2]

    def now(self) -> float:
        """Return the present moment."""
        real, emulated, speed = self._base
        return emulated + (time.monotonic() - real) * speed

    def set_speed(self, speed: float) -> None:
        """Run at another speed from now on."""
        self._base = (time.monotonic(), self.now(), _valid_speed(speed))

    def advance(self, seconds: float) -> None:
        """Put the clock forward; it never goes back."""
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"advance: {seconds} is not a number of seconds >= 0.")
        self._base = (time.monotonic(), self.now() + seconds, self.speed)

    def utc(self, moment: float) -> datetime:
        """Return a moment as a date and time."""
        return self._epoch + timedelta(seconds=moment)

    def iso(self, moment: float) -> str:
        """Return a moment as the API writes it, in whole seconds."""
        return self.utc(moment).strftime("%Y-%m-%dT%H:%M:%SZ")

    def real_seconds(self, emulated_seconds: float) -> int:
        """
        Return how many whole real seconds one has to wait for so many emulated ones; at least 1.

        While the clock stands still it is as if it ran at real time, as there is no true answer.
        """
        # The tolerance keeps a rounding error of 1e-9 from costing a whole second.
        return max(1, math.ceil(emulated_seconds / (self.speed or 1.0) - 1e-6))


def _valid_speed(speed: float) -> float:
    if not math.isfinite(speed) or speed < 0:
        raise ValueError(f"speed: {speed} is not a number >= 0.")
    return speed
