"""
Whether a submit may be tried: a circuit breaker.

A submit that is not answered, or answered with 5xx, may have been paid for. So after a few of them in a row
nobody of the client submits; one tries now and then, and its success lets the others go on.

Pure, and kept with the client's :class:`~plaud_provider.quota.rule.Quota`. Times are in epoch seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

#: So many failures in a row open the breaker.
FAILURES_TO_OPEN = 3
#: Minutes until the first trial, and at most between two of them; the time doubles with each that fails.
FIRST_TRIAL = 0.5
LONGEST_PAUSE = 5.0


@dataclass(slots=True)
class Breaker:
    """
    What became of a client's last submits.

    :param failures: Failures in a row, up to as many as open the breaker.
    :param failed_trials: Trials in a row that failed since it opened.
    :param trial: The ticket of the submit that tries at the moment.
    :param next_trial_at: When the next submit may try.
    """

    failures: int = 0
    failed_trials: int = 0
    trial: str = ""
    next_trial_at: float = 0.0

    def admit(self, ticket: str, *, now: float, exchange_seconds: float, minute: float = 60.0) -> float:
        """
        Ask whether a submit may be sent.

        :param ticket: A new one for each submit.
        :param exchange_seconds: Longest time until a submit is answered or given up.
        :param minute: Seconds of a minute.
        :return: 0 if it may, else the seconds until another one may try. A trial may ask again.
        """
        if self.failures < FAILURES_TO_OPEN or ticket == self.trial:
            return 0.0
        # What lies further ahead means that the clock was put back.
        longest = max(LONGEST_PAUSE * minute, exchange_seconds)
        self.next_trial_at = min(self.next_trial_at, now + longest)
        if now < self.next_trial_at:
            return self.next_trial_at - now
        self.trial = ticket
        # A trial that is killed is not waited for any longer than its answer could take.
        self.next_trial_at = now + max(self._pause(minute), exchange_seconds)
        return 0.0

    def report(self, ticket: str, *, is_answered: bool, now: float, minute: float = 60.0) -> bool:
        """
        Say what became of a submit that was admitted and sent.

        :param ticket: The one it was admitted with.
        :param is_answered: Whether Plaud answered it, with anything but 5xx.
        :return: Whether nobody submits from now on.
        """
        if is_answered:
            self.failures, self.failed_trials, self.trial, self.next_trial_at = 0, 0, "", 0.0
            return False
        if self.failures < FAILURES_TO_OPEN:
            self.failures += 1
            if self.failures < FAILURES_TO_OPEN:
                return False
        elif ticket == self.trial:
            self.failed_trials, self.trial = self.failed_trials + 1, ""
        else:
            # It left before the breaker opened, and tells nothing new.
            return False
        self.next_trial_at = now + self._pause(minute)
        return True

    def _pause(self, minute: float) -> float:
        return min(FIRST_TRIAL * 2.0 ** min(self.failed_trials, 10), LONGEST_PAUSE) * minute
