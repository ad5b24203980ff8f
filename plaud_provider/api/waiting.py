"""
What a wait for transcriptions has found out so far, and when it ends.

The trigger, and the sensor, which looks by itself in the modes poke and reschedule, tell the same
:class:`Wait` what each look found: every mode comes to the same result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from plaud_provider.api.effects import is_of_client
from plaud_provider.api.limits import RETENTION
from plaud_provider.api.models import Status, Transcription
from plaud_provider.exceptions import (
    PlaudAuthenticationError,
    PlaudCertificateError,
    PlaudConfigurationError,
    PlaudError,
    PlaudInputError,
    PlaudNotFoundError,
    PlaudRequestError,
    PlaudResponseError,
    PlaudTokenRejectedError,
    PlaudTriggerEventError,
)

if TYPE_CHECKING:
    from plaud_provider.api.schedule import Schedule

Outcome = Literal["done", "partial", "timeout", "error"]

EVENT_VERSION = 1
#: For so long after a submit was accepted Plaud may answer 404.
NOT_FOUND_GRACE_SECONDS = 60.0
NOT_FOUND_REASON = "Plaud does not know this transcription (any more)"
#: Seconds after which a wait tells how far it has come, even if nothing has changed.
PROGRESS_SECONDS = 60.0
#: XCom of a task that submits: epoch seconds by transcription id.
SUBMITTED_AT_KEY = "plaud_submitted_at"
#: Airflow's own timeout of a deferral is so much later than the deadline: it is only there for a trigger that
#: does not end its wait by itself.
BACKSTOP = timedelta(minutes=10)

#: What ends a wait after so many seconds of nothing else, and not at once: a gateway that restarts refuses
#: everybody for a moment, or shows a certificate of its own.
_REFUSALS = (PlaudAuthenticationError, PlaudTokenRejectedError, PlaudCertificateError)
REFUSED_SECONDS = 300.0
#: For so many seconds this is taken for an outage: rejected tokens or keys of a client that was let in
#: before, a certificate that is bad (as it has expired) of a host that has answered before, and 404 for all
#: that is asked for.
OUTAGE_SECONDS = 7200.0
#: Looks that are made at once end within so many seconds of each other.
SAME_TIME_SECONDS = 30.0


class Patience(NamedTuple):
    """
    After which trouble a transcription is given up; both have to be reached.

    :param looks: Looks in a row that found the same trouble.
    :param seconds: Seconds since the first of them.
    """

    looks: int
    seconds: float


AT_ONCE = Patience(1, 0.0)
#: 404: a single one may come from a proxy with a wrong route.
NOT_FOUND = Patience(3, 300.0)
#: 404 for a transcription that Plaud has answered for in this wait.
NOT_FOUND_AGAIN = Patience(5, 900.0)
#: Another 4xx.
REFUSED = Patience(3, 120.0)
#: An answer that cannot be read.
UNREADABLE = Patience(5, 600.0)


def is_fresh(submitted_at: float | None, *, now: float) -> bool:
    """
    Whether Plaud may not know a transcription yet.

    :param submitted_at: Epoch seconds; ``None``: unknown.
    :param now: Epoch seconds.
    """
    # Another host's clock may be ahead of this one's. By a minute a fresh transcription may seem to come from
    # the future; what seems to be further ahead comes from a wrong clock, and would be fresh for hours.
    return submitted_at is not None and abs(now - submitted_at) < NOT_FOUND_GRACE_SECONDS


class WaitResult(NamedTuple):
    """
    How a wait ended, or how far it has come.

    As an event it carries ids and counts only: events are kept in the metadata database and logged.

    :param outcome: ``done``: all are final; ``partial``: some are, and are to be landed before the wait goes
        on; ``timeout``: the deadline passed; ``error``: waiting on is useless.
    :param total: How many were waited for.
    :param completed: How many are completed.
    :param failed: Ids that Plaud reports as failed, with its reason where it is at hand; the missing ones
        too.
    :param missing: Ids that Plaud does not know (any more).
    :param given_up: Ids whose result cannot be had, and why in a word; they count as failed too.
    :param pending: Ids that are not final.
    :param error: Name of the class in :mod:`plaud_provider.exceptions` that an ``error`` stands for.
    :param message: What happened, for ``error`` and ``timeout``.
    """

    outcome: Outcome
    total: int
    completed: int
    failed: Mapping[str, str | None] = MappingProxyType({})
    missing: tuple[str, ...] = ()
    given_up: Mapping[str, str] = MappingProxyType({})
    pending: tuple[str, ...] = ()
    error: str | None = None
    message: str = ""

    def to_event(self) -> dict[str, Any]:
        """Return the result as an event payload."""
        return {
            "version": EVENT_VERSION,
            "outcome": self.outcome,
            "total": self.total,
            "completed": self.completed,
            "failed_ids": list(self.failed),
            "missing_ids": list(self.missing),
            "given_up": dict(self.given_up),
            "pending_ids": list(self.pending),
            "error": self.error,
            "message": self.message,
        }

    @classmethod
    def from_event(cls, event: object) -> WaitResult:
        """
        Read an event payload.

        :raises PlaudTriggerEventError: if it is of a kind that this version does not know.
        """
        try:
            if not isinstance(event, dict) or event["version"] != EVENT_VERSION:
                raise ValueError
            if event["outcome"] not in get_args(Outcome):
                raise ValueError
            return cls(
                outcome=event["outcome"],
                total=int(event["total"]),
                completed=int(event["completed"]),
                failed=dict.fromkeys(event["failed_ids"]),
                missing=tuple(event["missing_ids"]),
                # Of a trigger that began before this was told.
                given_up=dict(event.get("given_up", {})),
                pending=tuple(event["pending_ids"]),
                error=event["error"],
                message=str(event["message"]),
            )
        except (KeyError, TypeError, ValueError):
            raise PlaudTriggerEventError(
                "The task resumed with an event that this version of airflow-provider-plaud does not "
                "understand. Do workers and triggerer run the same version? Clear the task to wait again; "
                "nothing is paid twice."
            ) from None


@dataclass(slots=True)
class Trouble:
    """
    The looks at a transcription that have failed in a row, for the same reason.

    :param kind: The reason.
    :param status: HTTP status of the answers.
    :param since: Epoch seconds of the first of them.
    :param looks: How many there were.
    """

    kind: type[PlaudError]
    status: int | None
    since: float
    looks: int = 0


@dataclass(slots=True)
class Troubles:
    """
    The troubles with a client's transcriptions. Waits of the same client may share them.

    :param by_id: The troubles by transcription id.
    :param answered_at: Epoch seconds of the last look that Plaud has answered, whichever it was for.
    """

    by_id: dict[str, Trouble] = field(default_factory=dict)
    answered_at: float = 0.0


class Wait:
    """
    A wait for some transcriptions until a deadline.

    It decides what follows from a look that failed:

    ==========================================  ==========================================================
    a look ends with                            what follows
    ==========================================  ==========================================================
    no connection, 5xx, 429, a redirect, a      the next look
    page that is not Plaud's, storage away
    404 within a minute of the submit           the next look: Plaud may not know it yet
    404 from Plaud                              confirmed by further looks, see :data:`NOT_FOUND`, it is
                                                missing; at once where Plaud keeps results no longer
    402, 407                                    the next look: that is the client's trouble
    another 4xx from Plaud                      confirmed, see :data:`REFUSED`, it is given up as failed
    an answer that cannot be read               confirmed, see :data:`UNREADABLE`, it is given up as failed
    an id that cannot be asked for              it is given up as failed
    refused credentials, a bad certificate      they end the wait after :data:`REFUSED_SECONDS`
    rejected tokens or keys that were good,     they end the wait after :data:`OUTAGE_SECONDS`
    the bad certificate of a host that has
    answered before
    a wrong connection                          ends the wait
    ==========================================  ==========================================================

    What is refused, or cannot be read, is given up only if Plaud has answered for another transcription
    meanwhile: what all are answered is the client's trouble, or the network's. See :meth:`_is_about_it`.

    :param transcription_ids: What is waited for; duplicates count once.
    :param started_at: Epoch seconds of the first look of this run.
    :param deadline: Epoch seconds at which the wait ends, come what may.
    :param partial_count: How many final transcriptions are worth landing before the wait goes on; ``None``:
        no number is.
    :param partial_at: Epoch seconds from which on a single one is; ``None``: never.
    """

    def __init__(
        self,
        transcription_ids: Iterable[str],
        *,
        started_at: float,
        deadline: float,
        partial_count: int | None = None,
        partial_at: float | None = None,
    ) -> None:
        self._pending: dict[str, None] = dict.fromkeys(transcription_ids)
        self.total = len(self._pending)
        self.started_at = started_at
        self.deadline = deadline
        self._partial_count = math.inf if partial_count is None else partial_count
        self._partial_at = math.inf if partial_at is None else partial_at
        self.completed: list[str] = []
        self.failed: dict[str, str | None] = {}
        self.missing: list[str] = []
        self.given_up: dict[str, str] = {}
        #: A later wait for the same ones may take them over.
        self.troubles = Troubles()
        self._known: set[str] = set()
        #: Epoch seconds of the last look that found one final; 0: there was none.
        self.final_at = 0.0
        #: Epoch seconds since when credentials are refused, or the host's certificate is bad.
        self.refused_since: float | None = None
        self._last_trouble: str | None = None
        self._unknown_words: set[str] = set()
        self._told_counts: tuple[int, int] | None = None
        self._told_at = 0.0

    @property
    def pending(self) -> tuple[str, ...]:
        """Ids that are not final, in the order they were given."""
        return tuple(self._pending)

    @property
    def is_done(self) -> bool:
        """Whether all are final."""
        return not self._pending

    def resume(self, *, completed: Iterable[str], failed: Iterable[str]) -> None:
        """Take over what earlier looks of this run found out."""
        for transcription_id in completed:
            self._finish(transcription_id)
        for transcription_id in failed:
            self._finish(transcription_id, None, failed=True)

    def on_transcription(self, transcription: Transcription, *, now: float) -> bool:
        """Take a look's result, which came at ``now``; return whether the transcription is final."""
        self._last_trouble = self.refused_since = None
        self.troubles.by_id.pop(transcription.transcription_id, None)
        self.troubles.answered_at = now
        self._known.add(transcription.transcription_id)
        if transcription.is_final:
            self.final_at = now
        if transcription.status is Status.COMPLETED:
            self._finish(transcription.transcription_id)
        elif transcription.status is Status.FAILED:
            self._finish(transcription.transcription_id, transcription.error, failed=True)
        return transcription.is_final

    def is_new_word(self, transcription: Transcription) -> bool:
        """Whether a transcription came with an unknown status word that was not seen in this wait before."""
        if not transcription.has_unknown_status or transcription.reported_status in self._unknown_words:
            return False
        self._unknown_words.add(transcription.reported_status)
        return True

    def on_error(
        self, transcription_id: str, error: PlaudError, *, now: float, submitted_at: float | None = None
    ) -> bool:
        """
        Take a look that failed; return whether the transcription is final.

        :param transcription_id: What was looked at.
        :param error: What happened.
        :param now: Epoch seconds.
        :param submitted_at: When it was submitted, in epoch seconds, where that is known.
        :raises PlaudError: ``error``, if waiting on would only hide it.
        """
        if isinstance(error, PlaudConfigurationError):
            raise error
        self._last_trouble = str(error)
        if isinstance(error, _REFUSALS):
            self.refused_since = self.refused_since or now
            was_good = isinstance(error, PlaudTokenRejectedError) or (
                isinstance(error, PlaudCertificateError) and self.troubles.answered_at > 0
            )
            if now >= self.refused_since + (OUTAGE_SECONDS if was_good else REFUSED_SECONDS):
                raise error
            return False
        patience = self._patience(transcription_id, error, now=now, submitted_at=submitted_at)
        if patience is None:
            return False
        troubles = self.troubles.by_id
        trouble = troubles.get(transcription_id)
        if trouble is None or (trouble.kind, trouble.status) != (type(error), error.status_code):
            trouble = troubles[transcription_id] = Trouble(type(error), error.status_code, since=now)
        trouble.looks += 1
        if trouble.looks < patience.looks or now < trouble.since + patience.seconds:
            return False
        if patience is not AT_ONCE and not self._is_about_it(error, trouble, now=now):
            return False
        del troubles[transcription_id]
        if isinstance(error, PlaudNotFoundError):
            self._finish(transcription_id, NOT_FOUND_REASON, failed=True)
            self.missing.append(transcription_id)
        else:
            what = "not to be read"
            if isinstance(error, PlaudRequestError):
                what = f"HTTP {error.status_code}"
            elif isinstance(error, PlaudInputError):
                what = "its id cannot be asked for"
            self.given_up[transcription_id] = f"its result was given up after {trouble.looks} looks: {what}"
            self._finish(transcription_id, f"given up after {trouble.looks} looks: {error}", failed=True)
        return True

    def _patience(
        self, transcription_id: str, error: PlaudError, *, now: float, submitted_at: float | None
    ) -> Patience | None:
        """Return when a transcription is given up for this; ``None``: never."""
        if isinstance(error, PlaudNotFoundError):
            if now < self.started_at + NOT_FOUND_GRACE_SECONDS or is_fresh(submitted_at, now=now):
                return None
            if submitted_at is not None and now > submitted_at + RETENTION.total_seconds():
                return AT_ONCE
            return NOT_FOUND_AGAIN if transcription_id in self._known else NOT_FOUND
        if isinstance(error, PlaudRequestError):
            # An unpaid bill, or a proxy that wants to know who asks, has nothing to do with a transcription.
            return None if error.status_code in (402, 407) else REFUSED
        if isinstance(error, PlaudInputError):
            return AT_ONCE
        return UNREADABLE if isinstance(error, PlaudResponseError) else None

    def _is_about_it(self, error: PlaudError, trouble: Trouble, *, now: float) -> bool:
        """
        Whether a trouble is about one transcription: a firewall may answer 403 to everything.

        It is if Plaud has answered for another one since it began, or has refused another one in another way.
        Where no other one is left, it tells that one became final at the same time, or else the status.
        """
        others = (self.troubles.by_id.get(other) for other in self._pending)
        ways = {(other.kind, other.status) for other in others if other is not None}
        if self.troubles.answered_at >= trouble.since or len(ways) > 1:
            return True
        is_only_one = len(self._pending) == 1
        if isinstance(error, PlaudNotFoundError):
            return is_only_one or now >= trouble.since + OUTAGE_SECONDS
        are_others_answered = self.final_at >= trouble.since - SAME_TIME_SECONDS
        return is_only_one and (are_others_answered or not is_of_client(trouble.status))

    def result(self, *, now: float) -> WaitResult | None:
        """Return how the wait ended, or what is worth landing now; ``None`` while there is neither."""
        if self.is_done:
            return self._result("done")
        if now >= self.deadline:
            until = datetime.fromtimestamp(self.deadline, tz=UTC).isoformat(sep=" ", timespec="seconds")
            trouble = f" The last look failed: {self._last_trouble}" if self._last_trouble else ""
            return self._result(
                "timeout",
                message=f"Not all transcriptions were final by the deadline {until} "
                f"({self.progress(now=now)}).{trouble} They go on at Plaud: clear the task to wait again, "
                "nothing is paid twice.",
            )
        final = len(self.completed) + len(self.failed)
        if final >= self._partial_count or (final and now >= self._partial_at):
            return self.partial()
        return None

    def next_result_at(self) -> float:
        """Return when there is a result, even if nothing more becomes final."""
        return min(self.deadline, self._partial_at) if self.completed or self.failed else self.deadline

    def partial(self) -> WaitResult:
        """Return how far the wait has come."""
        return self._result("partial")

    def broken(self, error: PlaudError) -> WaitResult:
        """Return the end of a wait that cannot go on."""
        return self._result("error", error=type(error).__name__, message=str(error))

    def progress(self, *, now: float) -> str:
        """Return one line: ``412/1000 completed, 3 failed, oldest 12 min``."""
        parts = [f"{len(self.completed)}/{self.total} completed", f"{len(self.failed)} failed"]
        if self._pending:
            parts.append(f"oldest {_age(now - self.started_at)}")
        return ", ".join(parts)

    def news(self, *, now: float, interval: float) -> str | None:
        """
        Return the line of :meth:`progress` if it is time to tell it; ``None`` if it is not.

        :param now: Epoch seconds.
        :param interval: Seconds between two lines when something has changed; after a minute in any case.
        """
        counts, quiet = (len(self.completed), len(self.failed)), now - self._told_at
        if quiet < PROGRESS_SECONDS and (counts == self._told_counts or quiet < interval):
            return None
        self._told_counts, self._told_at = counts, now
        return self.progress(now=now)

    def _finish(self, transcription_id: str, reason: str | None = None, *, failed: bool = False) -> None:
        if transcription_id not in self._pending:
            return
        del self._pending[transcription_id]
        if failed:
            self.failed[transcription_id] = reason
        else:
            self.completed.append(transcription_id)

    def _result(self, outcome: Outcome, *, error: str | None = None, message: str = "") -> WaitResult:
        return WaitResult(
            outcome=outcome,
            total=self.total,
            completed=len(self.completed),
            failed=dict(self.failed),
            missing=tuple(self.missing),
            given_up=dict(self.given_up),
            pending=self.pending,
            error=error,
            message=message,
        )


def after_look(
    transcription_id: str,
    seen: Transcription | PlaudError,
    wait: Wait,
    schedule: Schedule,
    *,
    now: float,
    submitted_at: float | None,
    log: Any,
) -> None:
    """
    Tell a wait and its schedule what came of a look.

    :param transcription_id: What was looked at.
    :param seen: What Plaud has answered, or why there is no answer.
    :param wait: The wait that it is part of.
    :param schedule: What has handed it out: it is put back there, or taken out.
    :param now: Epoch seconds.
    :param submitted_at: When it was submitted, in epoch seconds, where that is known.
    :param log: The log of the task or trigger.
    :raises PlaudError: ``seen``, if waiting on is useless.
    """
    if isinstance(seen, PlaudError):
        log.warning("A look at transcription %s failed: %s", transcription_id, seen)
        if wait.on_error(transcription_id, seen, now=now, submitted_at=submitted_at):
            schedule.give_up(transcription_id)
        else:
            schedule.again(transcription_id, now=now, answered=False)
        return
    if wait.is_new_word(seen):
        log.warning(
            "Plaud reports transcription %s with the unknown status %r; taken for '%s'.",
            transcription_id,
            seen.reported_status,
            seen.status.value,
        )
    if wait.on_transcription(seen, now=now):
        completed_at = seen.completed_at.timestamp() if seen.completed_at else None
        schedule.seen(transcription_id, now=now, completed_at=completed_at)
    else:
        schedule.again(transcription_id, now=now)


def _age(seconds: float) -> str:
    if seconds < 60:
        return f"{max(0.0, seconds):.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
