"""
Whether a submit may be tried: a circuit breaker.

A submit that is not answered, or answered with 5xx or with what is no answer of Plaud's, may have been paid
for. So after a few of them, and where more than one in five is of that kind, nobody of the client submits;
one call tries now and then, and its success lets the others go on. It asks Plaud for something free first:
where that is not answered either, a submit would only be one more of unknown outcome.

Pure, and kept with the client's :class:`~plaud_provider.quota.rule.Quota`. Times are in epoch seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

#: So many failures open the breaker, less what successes have made up for.
FAILURES_TO_OPEN = 3
#: How much of a failure a success makes up for.
MADE_UP = 0.25
#: Minutes until the first trial, and at most between two of them; the time doubles with each. The longest is
#: by how much later than Plaud everybody is back.
FIRST_TRIAL = 0.25
LONGEST_PAUSE = 2.0
#: Trials that count on after one has succeeded: if the next submit fails, the pause is a minute.
TRIALS_AFTER_SUCCESS = 2
#: One trial in so many (an hour of them) is made without looking first: looks may fail where submits do not.
BLIND_TRIAL = 30


class Admission(NamedTuple):
    """
    Whether a submit may be sent.

    :param wait: 0 if it may, else the seconds until another one may try.
    :param looks_first: Whether it is a trial that begins: Plaud is to be asked for something free first.
    """

    wait: float = 0.0
    looks_first: bool = False


@dataclass(slots=True)
class Breaker:
    """
    What became of a client's last submits.

    :param failures: Failures, less what successes have made up for.
    :param trials: Trials since all were made up for; of those before a success only the last few.
    :param trial: The call that makes the last of them.
    :param next_trial_at: When the next call may try, whatever became of the one before.
    """

    failures: float = 0.0
    trials: int = 0
    trial: str = ""
    next_trial_at: float = 0.0

    def admit(self, call: str, *, now: float, minute: float = 60.0) -> Admission:
        """
        Ask whether a submit may be sent.

        :param call: Who asks: a new name for each call, the same for each of its attempts.
        :param minute: Seconds of a minute.
        """
        if self.failures < FAILURES_TO_OPEN or call == self.trial:
            return Admission()
        # What lies further ahead means that the clock was put back.
        self.next_trial_at = min(self.next_trial_at, now + LONGEST_PAUSE * minute)
        if now < self.next_trial_at:
            return Admission(self.next_trial_at - now)
        self.trial = call
        self.trials += 1
        # From its start: one that hangs, or is killed, keeps nobody from the next.
        self._pause(now, minute)
        return Admission(looks_first=self.trials % BLIND_TRIAL != 0)

    def report(self, *, is_answered: bool, now: float, minute: float = 60.0) -> bool:
        """
        Say what became of a submit that was admitted and sent.

        :param is_answered: Whether Plaud answered it in a way that says what became of it.
        :return: Whether nobody submits from now on.
        """
        if is_answered:
            self.failures = max(0.0, self.failures - MADE_UP)
            self.trials = min(self.trials, TRIALS_AFTER_SUCCESS) if self.failures else 0
            self.trial, self.next_trial_at = "", 0.0
            return False
        if self.failures >= FAILURES_TO_OPEN:
            # It left before the breaker opened, or was a trial.
            return False
        self.failures = min(self.failures + 1, FAILURES_TO_OPEN)
        if self.failures < FAILURES_TO_OPEN:
            return False
        self._pause(now, minute)
        return True

    def _pause(self, now: float, minute: float) -> None:
        self.next_trial_at = now + min(FIRST_TRIAL * 2.0 ** min(self.trials, 10), LONGEST_PAUSE) * minute
