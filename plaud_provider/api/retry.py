"""
When a call is tried again, and after how long.

Pure: the clock and the randomness are handed in. Full jitter is AWS's well-known scheme: a random time
between zero and an exponentially growing bound, so that many tasks do not come back at the same moment.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from plaud_provider.api.members import as_time


class RetryPolicy(NamedTuple):
    """
    Bounds of one call. All times are seconds.

    :param attempts: How often one request may be sent in all.
    :param malformed_attempts: How often an answer that breaks the contract is asked for again.
    :param base_delay: Bound of the first backoff; it doubles each time.
    :param max_delay: Bound of every backoff.
    :param max_retry_after: The longest ``Retry-After`` that is obeyed; a longer one is cut to this.
    :param remember_refusal: How long a refusal of a token request is remembered on this host.
    :param minute: Seconds of a minute of the limit of token requests. Hooks set it to their own ``minute``.
    :param now: Epoch seconds.
    :param rng: Source of jitter.
    """

    attempts: int = 6
    malformed_attempts: int = 3
    base_delay: float = 1.0
    max_delay: float = 30.0
    max_retry_after: float = 120.0
    remember_refusal: float = 60.0
    minute: float = 60.0
    now: Callable[[], float] = time.time
    # The operating system's: forked processes do not draw the same numbers.
    rng: random.Random = random.SystemRandom()

    def backoff(self, attempt: int) -> float:
        """Return the wait after the ``attempt``-th try (from 1) failed."""
        bound = min(self.max_delay, self.base_delay * 2 ** min(attempt - 1, 60))
        return self.rng.uniform(0.0, bound)

    def retry_after(self, headers: Mapping[str, str], attempt: int) -> float:
        """
        Return the wait that a 429 or 503 asks for, else the backoff.

        A date is one by the clock of who sends it, and so is the answer's own. A little jitter comes on top,
        never below what was asked for. "At once", which is also what a date says that has passed, is no
        reason to use up all attempts in a moment: backoff then.
        """
        answered_at = as_time(headers.get("date"))
        now = self.now() if answered_at is None else answered_at.timestamp()
        asked = parse_retry_after(headers.get("retry-after"), now=now)
        if not asked:
            return self.backoff(attempt)
        wait = min(asked, self.max_retry_after)
        return wait + self.rng.uniform(0.0, max(0.25, wait * 0.1))


#: For a look of a wait: it is the wait that looks again.
ONE_LOOK = RetryPolicy(attempts=1, malformed_attempts=1)


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """
    Return the seconds that a ``Retry-After`` header asks for; ``None`` if it says nothing usable.

    :param value: Seconds, also with decimals, or an HTTP date (RFC 9110, section 10.2.3); of several with
        commas between them, as a server and a proxy may each send one, the longest counts.
    :param now: Epoch seconds.
    """
    if value is None:
        return None
    # A date has a comma too, behind its weekday.
    several = re.split(r",\s*(?=[\d.]+\s*(?:,|$)|[A-Z][a-z]+,)", value)
    waits = [wait for one in several if (wait := _wait(one.strip(), now=now)) is not None]
    return max(waits, default=None)


def _wait(text: str, *, now: float) -> float | None:
    if re.fullmatch(r"\d+(\.\d*)?", text, re.ASCII):
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now)
