"""
How long Plaud takes, as far as looks have shown.

Pure: what was seen comes in, how likely a transcription is done comes out.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Sequence
from typing import NamedTuple

#: What is assumed until something is known: processing seconds per second of audio; seconds of audio that
#: every recording counts on top; its audio, if that is not known; the spread, as the logarithm of a factor.
ASSUMED_RATIO = 0.12
ASSUMED_CONSTANT = 120.0
ASSUMED_AUDIO = 600.0
ASSUMED_SPREAD = 0.8
#: For how many observations the assumption counts.
ASSUMED_WEIGHT = 2.0


class Observation(NamedTuple):
    """
    How long a transcription took, or is known to take at least.

    :param audio_seconds: Length of the recording; ``None``: unknown.
    :param seconds: Processing time; if it is not done, what has passed of it.
    :param is_done: Whether it is done.
    """

    audio_seconds: float | None
    seconds: float
    is_done: bool


class ProcessingTimes:
    """
    What is known of how long Plaud takes.

    Schedules of one account, at once or one after the other, may share it: then each does not have to find
    out for itself. It remembers the last few hundred transcriptions only, and so follows Plaud's changes.
    """

    WINDOW = 300

    def __init__(self) -> None:
        self._window: dict[str, Observation] = {}
        self._changes = 0
        self.forecast = Forecast(())

    def note(self, transcription_id: str, observation: Observation, *, is_first: bool) -> None:
        """
        Take what a look has found.

        :param transcription_id: What was looked at.
        :param observation: What was found.
        :param is_first: Whether it was looked at for the first time. A later look corrects what is remembered
            of it, and is left out if nothing is: else those that take long would count more than once.
        """
        if transcription_id not in self._window:
            if not is_first:
                return
            if len(self._window) >= self.WINDOW:
                del self._window[next(iter(self._window))]
        self._window[transcription_id] = observation
        self._changes += 1
        if self._changes > len(self._window) // 10:
            self._changes = 0
            self.forecast = Forecast(tuple(self._window.values()))


class Forecast:
    """
    How likely a transcription is done after some time, and when a look at it pays.

    Time is counted in units of a recording's size: its audio plus a constant that is chosen to fit, as a
    server may take a share of the audio's length, the same time for all, or something between. How likely it
    is done is the Kaplan-Meier estimate, which makes use of those that still process, smoothed a little, with
    a broad assumption mixed in that fades as more is known.

    :param observations: What was seen.
    """

    #: The estimate is kept in cells of 2.5 %, from a twentieth of the median to forty times as much.
    STEP = 0.025
    BELOW = 120
    CELLS = 269
    CONSTANTS = (0.0, 15.0, 30.0, 60.0, 120.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 16000.0, 128000.0)
    REFINEMENTS = (0.7, 0.85, 1.0, 1.2, 1.4)
    #: Of a longer recording than any known by this factor, it is not believed that it takes so much longer.
    REACH = 3.0

    def __init__(self, observations: Sequence[Observation]) -> None:
        done = [one for one in observations if one.is_done]
        audio = [one.audio_seconds for one in observations if one.audio_seconds is not None]
        self.known = len(done)
        self.median = ASSUMED_RATIO
        self.spread = ASSUMED_SPREAD
        self._constant = ASSUMED_CONSTANT
        self._typical_audio = sum(audio) / len(audio) if audio else ASSUMED_AUDIO
        self._longest_audio = max((one.audio_seconds or 0.0 for one in done), default=0.0)
        self._first_looks: dict[float, float] = {}
        if self.known > 2:
            self._fit_constant(done[-100:])
        if done:
            self._estimate(observations)

    def typical_seconds(self, audio_seconds: float | None) -> float:
        """Return the median of the processing time."""
        return self.median * self._size(audio_seconds)

    def first_look(self, audio_seconds: float | None, *, price: float) -> float:
        """
        Return after how many seconds it pays to look for the first time, if anything is known.

        :param audio_seconds: Length of the recording; ``None``: unknown.
        :param price: What a look counts for: so many typical processing times that a result waits.
        """
        if price not in self._first_looks:
            self._first_looks[price] = self._cheapest_look(0.0, price=price, pause=0.0)
        if audio_seconds is not None and self._longest_audio:
            audio_seconds = min(audio_seconds, self.REACH * self._longest_audio)
        return self._first_looks[price] * self._size(audio_seconds)

    def next_look(self, audio_seconds: float | None, *, price: float, after: float, pause: float) -> float:
        """
        Return after how many seconds it pays to look again, if anything is known; infinite if it never does.

        :param audio_seconds: Length of the recording; ``None``: unknown.
        :param price: What a look counts for.
        :param after: Seconds after which it was still processing.
        :param pause: Seconds that are to pass from then at least.
        """
        size = self._size(audio_seconds)
        return self._cheapest_look(after / size, price=price, pause=pause / size) * size

    def draw(self, audio_seconds: float | None, lower: float, upper: float, rng: random.Random) -> float:
        """Return a likely processing time between two bounds."""
        seconds = self.typical_seconds(audio_seconds)
        if not lower <= seconds <= upper:
            seconds = math.sqrt(lower * upper) if lower > 0 else upper / 2
        if self.known:
            size = self._size(audio_seconds)
            below, above = self._at(lower / size)[0], self._at(upper / size)[0]
            if above > below:
                cell = bisect.bisect_left(self._shares, rng.uniform(below, above))
                seconds = size * self._times[min(cell, self.CELLS - 1)]
        return min(upper, max(lower, seconds))

    def _size(self, audio_seconds: float | None) -> float:
        return self._constant + (self._typical_audio if audio_seconds is None else audio_seconds)

    def _fit_constant(self, done: Sequence[Observation]) -> None:
        coarse = min(self.CONSTANTS, key=lambda constant: self._misfit(done, constant))
        fine = [coarse * factor for factor in self.REFINEMENTS]
        self._constant = min(fine, key=lambda constant: self._misfit(done, constant))

    def _misfit(self, done: Sequence[Observation], constant: float) -> float:
        """Return how far processing times are from being the same per size, with some constant in it."""
        self._constant = constant
        logs = sorted(math.log(one.seconds / self._size(one.audio_seconds)) for one in done)
        middle = logs[len(logs) // 2]
        return sorted(abs(log - middle) for log in logs)[len(logs) * 3 // 4]

    def _estimate(self, observations: Sequence[Observation]) -> None:
        """Keep what share is done by the end of each cell, and the area below: what results have waited."""
        count = len(observations)
        seen = [(one.seconds / self._size(one.audio_seconds), one.is_done) for one in observations]
        steps = _kaplan_meier(seen)
        self.median = _quantile(steps, 0.5)
        spread = math.log(_quantile(steps, 0.75) / _quantile(steps, 0.25)) / 1.35 if count > 2 else 0.0
        assumed_part = ASSUMED_WEIGHT / (count + ASSUMED_WEIGHT)
        self.spread = assumed_part * ASSUMED_SPREAD + (1 - assumed_part) * spread
        # The width that suits a sample of this size (Silverman's rule).
        kernel = _bell(max(0.01, 0.9 * spread * count**-0.2) / self.STEP)
        masses = [assumed_part * part for part in _ASSUMED]
        for time, mass in steps:
            cell = self.BELOW + math.ceil(math.log(time / self.median) / self.STEP - 1e-9) - len(kernel) // 2
            for target, part in enumerate(kernel, cell):
                masses[min(max(target, 0), self.CELLS - 1)] += (1 - assumed_part) * mass * part
        self._times = [self.median * math.exp((cell - self.BELOW) * self.STEP) for cell in range(self.CELLS)]
        self._shares: list[float] = []
        self._areas: list[float] = []
        share = area = before = 0.0
        for time, mass in zip(self._times, masses, strict=True):
            area += share * (time - before)
            share = min(1.0, share + mass)
            before = time
            self._shares.append(share)
            self._areas.append(area)

    def _at(self, time: float) -> tuple[float, float]:
        cell = bisect.bisect_right(self._times, time) - 1
        if cell < 0:
            return 0.0, 0.0
        return self._shares[cell], self._areas[cell] + self._shares[cell] * (time - self._times[cell])

    def _cheapest_look(self, after: float, *, price: float, pause: float) -> float:
        """
        Return the time of the look that costs least for each result it finds.

        What it costs is its price and what a result will have waited; what it finds, how likely it is done.
        """
        share_after, area_after = self._at(after)
        left = 1.0 - share_after
        best, least = math.inf, math.inf
        for cell in range(bisect.bisect_left(self._times, after + pause), self.CELLS):
            time = self._times[cell]
            found = self._shares[cell] - share_after
            if found <= 1e-6:
                continue
            waited = (self._areas[cell] - area_after - share_after * (time - after)) / left
            if waited > least:
                break
            cost = (price * max(self.median, after) + waited) * left / found
            if cost < least:
                best, least = time, cost
        return best


def _kaplan_meier(seen: list[tuple[float, bool]]) -> list[tuple[float, float]]:
    """
    Return when which share is done.

    Of what is left at the end, a fifth is taken to be done each time a quarter of the time has passed again.
    """
    seen.sort(key=lambda one: (one[0], not one[1]))
    steps: list[tuple[float, float]] = []
    left = 1.0
    for rank, (time, is_done) in enumerate(seen):
        if is_done:
            steps.append((time, left / (len(seen) - rank)))
            left -= steps[-1][1]
    time = seen[-1][0]
    for _ in range(10):
        time *= 1.25
        steps.append((time, left * 0.2))
        left *= 0.8
    return [(time, mass / (1.0 - left)) for time, mass in steps]


def _quantile(steps: Sequence[tuple[float, float]], share: float) -> float:
    for time, mass in steps:
        share -= mass
        if share <= 1e-9:
            return time
    return steps[-1][0]


def _bell(sigma: float) -> list[float]:
    reach = math.ceil(2 * sigma)
    heights = [math.exp(-0.5 * (cell / sigma) ** 2) for cell in range(-reach, reach + 1)]
    return [height / sum(heights) for height in heights]


def _assumed() -> list[float]:
    """Return the share that is done in each cell before anything is known; a tenth is anywhere."""
    sigma = ASSUMED_SPREAD / Forecast.STEP
    heights = [math.exp(-0.5 * ((cell - Forecast.BELOW) / sigma) ** 2) for cell in range(Forecast.CELLS)]
    return [0.9 * height / sum(heights) + 0.1 / Forecast.CELLS for height in heights]


_ASSUMED = _assumed()
