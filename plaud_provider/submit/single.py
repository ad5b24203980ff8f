"""The submit of one recording by one task: attached to what is known of it, else submitted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from plaud_provider.api.limits import RETENTION
from plaud_provider.exceptions import (
    PlaudError,
    PlaudInputError,
    PlaudNotFoundError,
    PlaudReplacedError,
    PlaudSubmitOutcomeUnknownError,
)
from plaud_provider.ledger.entry import Entry, State
from plaud_provider.submit import course
from plaud_provider.submit.expired import look_again
from plaud_provider.submit.memory import LedgerMemory, Memories
from plaud_provider.submit.plan import ROUNDS, Candidate, Plan
from plaud_provider.submit.task_memory import TaskMemory

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.hooks.plaud import PlaudHook
    from plaud_provider.ledger.entry import Owner
    from plaud_provider.ledger.ledger import Ledger
    from plaud_provider.recordings.sources import AudioSource
    from plaud_provider.submit.memory import Memory
    from plaud_provider.submit.stop import Stop
    from plaud_provider.submit.task_memory import TaskNote

log = logging.getLogger(__name__)

#: What to do about a submit whose outcome nobody knows.
OnUnknownSubmit = Literal["fail", "resubmit"]


class HeldError(Exception):
    """
    Another task is about to submit the recording.

    :param entry: Its row.
    """

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self.entry = entry


class Submitted(NamedTuple):
    """
    A recording that is at Plaud.

    :param transcription_id: Plaud's id.
    :param at: When it was submitted, where that is known.
    """

    transcription_id: str
    at: datetime | None


class SingleSubmit:
    """
    The submit of one recording by one task instance.

    :param source: Where it is.
    :param plan: How it is submitted.
    :param hook: Hook of the client that pays.
    :param context: The task's context.
    :param owner: The task instance.
    :param open_ledger: Opens the ledger; ``None``: there is none.
    :param on_unknown: What to do about an outcome that nobody knows.
    :param resubmit: States of the ledger that it is submitted again from.
    :param stop: Says that the task is to end.
    """

    def __init__(
        self,
        source: AudioSource,
        plan: Plan,
        hook: PlaudHook,
        context: Context,
        owner: Owner,
        *,
        open_ledger: Callable[[], Ledger] | None,
        on_unknown: OnUnknownSubmit,
        resubmit: Collection[State],
        stop: Stop,
    ) -> None:
        self._source = source
        self._stop = stop
        self._plan = plan
        self._hook = hook
        self._context = context
        self._owner = owner
        self._open_ledger = open_ledger
        self._on_unknown = on_unknown
        self._resubmit = [*resubmit, *([State.UNKNOWN] if on_unknown == "resubmit" else [])]

    def submit(self) -> Submitted:
        """
        Return what is at Plaud already, else submit.

        :raises HeldError: if another task is about to submit it.
        :raises PlaudError: if it is not submitted, or not known to be.
        """
        for _ in range(ROUNDS):
            try:
                return self._attached_or_submitted()
            except PlaudReplacedError as error:
                replaced = error
                log.info("%s Looking at it anew.", error)
        raise replaced

    def _attached_or_submitted(self) -> Submitted:
        one = self._looked_at()
        note = TaskMemory(
            self._context,
            reference_key=self._plan.key(one.audio, None),
            key=None if one.problem else one.key,
            is_alone=self._open_ledger is None,
        )
        earlier = note.read()
        if earlier.transcription_id is not None:
            return self._attached_to_own(one, earlier, earlier.transcription_id)
        ledger = None if self._open_ledger is None or one.problem else self._open_ledger()
        in_ledger = None
        if ledger is not None:
            if (entry := self._claimed(one, ledger)) is not None:
                return self._attached(entry)
            in_ledger = LedgerMemory(ledger, self._plan.recording(one), self._owner, turn=threading.Lock())
        # That this Airflow keeps no notes does not matter where the ledger does.
        if earlier.is_unknown and not (in_ledger and earlier.state == "not_recorded"):
            self._may_submit_again(one, earlier.explanation, in_ledger=in_ledger)
        if one.problem is not None:
            raise one.problem
        memory = Memories([note] if in_ledger is None else [in_ledger, note])
        one = self._examined(one, memory)
        outcome = self._sent(one, memory, in_ledger)
        if isinstance(outcome.error, PlaudSubmitOutcomeUnknownError):
            self._may_submit_again(one, str(outcome.error), status_code=outcome.error.status_code)
            if ledger is not None and (entry := self._claimed(one, ledger)) is not None:
                return self._attached(entry)
            outcome = self._sent(one, memory, in_ledger)
        if outcome.transcription is None:
            raise outcome.error or AssertionError
        return Submitted(outcome.transcription.transcription_id, datetime.now(tz=UTC))

    def _looked_at(self) -> Candidate:
        """Look at the recording; a problem is no matter to whom has submitted it before."""
        audio = self._source.audio
        try:
            version = self._source.look()
        except PlaudError as problem:
            return Candidate(audio, self._plan.key(audio, None), None, self._source, problem=problem)
        return Candidate(audio, self._plan.key(audio, version), version, self._source)

    def _examined(self, one: Candidate, memory: Memory) -> Candidate:
        """Look at what is going to be sent, where it can be: what is no recording would be paid for."""
        if not self._source.is_readable:
            return one
        try:
            found = self._plan.examine(self._source)
        except PlaudError as error:
            if course.is_of_recording(error):
                memory.refused(error)
            else:
                memory.released(error)
            raise
        return one._replace(found=found, duration_seconds=found.seconds)

    def _sent(self, one: Candidate, memory: Memory, in_ledger: LedgerMemory | None) -> course.Outcome:
        order = self._plan.order(one)
        log.info(
            "Submitting %s (language %s, %s speakers) to Plaud region '%s'.",
            order.uri,
            order.terms.language or "to be detected",
            "with" if order.terms.speaker_diarization else "without",
            self._hook.region,
        )
        account = self._hook.settings.account
        call = course.submit(account, self._hook.retry_policy, order, memory, course.Sending(self._stop))
        with nullcontext() if in_ledger is None else in_ledger.kept_alive():
            return self._hook.drive(call)

    def _attached_to_own(self, one: Candidate, earlier: TaskNote, transcription_id: str) -> Submitted:
        log.info(
            "Re-attached to transcription %s of %s, submitted at %s; nothing is paid again.",
            transcription_id,
            one.audio.uri,
            earlier.at,
        )
        if one.problem is not None:
            log.info("The recording itself could not be looked up: %s", one.problem)
        return Submitted(transcription_id, datetime.fromisoformat(earlier.at) if earlier.at else None)

    def _claimed(self, one: Candidate, ledger: Ledger) -> Entry | None:
        """Claim the recording; else return its row, if Plaud still knows what that says."""
        if State.EXPIRED in self._resubmit:
            # Before a claim takes it, to be paid for again.
            look_again(ledger.entries([one.key]).values(), ledger, self._hook, is_paid_again=True)
        entry = self._claim(one, ledger)
        if entry is not None and look_again([entry], ledger, self._hook, is_paid_again=True):
            entry = self._claim(one, ledger)
        if entry is not None and entry.transcription_id is not None and _may_have_expired(entry):
            try:
                self._hook.get_transcription(entry.transcription_id)
            except PlaudNotFoundError as gone:
                ledger.expired({entry.transcription_id: str(gone)}, region=entry.region)
                entry = self._claim(one, ledger)
        if entry is not None and entry.state is State.EXPIRED:
            raise PlaudNotFoundError(
                f"{entry.audio_uri!r} was submitted as transcription {entry.transcription_id} by "
                f"{entry.owner.in_words}: {entry.error} To pay for it again, run this task with "
                "resubmit=['expired']. Nothing was sent.",
                status_code=404,
            )
        return entry

    def _claim(self, one: Candidate, ledger: Ledger) -> Entry | None:
        """Claim the recording; else return its row: it is at Plaud, unknown, or about to be submitted."""
        entries = ledger.claim(
            [self._plan.recording(one)], self._owner, resubmit=self._resubmit, resubmit_own=True
        )
        entry = entries[one.key]
        if entry.is_claimed_by(self._owner):
            return None
        if entry.purged_at is not None:
            raise PlaudInputError(
                f"audio_url: {entry.audio_uri!r} was purged at {entry.purged_at:%Y-%m-%d %H:%M} UTC, and is "
                "not transcribed again by itself. If it is to be, and paid for again, delete its row of the "
                f"ledger (recording_key {entry.recording_key}). Nothing was sent."
            )
        if entry.state is State.FAILED and entry.transcription_id is None:
            raise PlaudInputError(
                f"audio_url: {entry.audio_uri!r} was refused when {entry.owner.in_words} wanted to submit "
                f"it: {entry.error} To try again, run this task with resubmit=['failed']. Nothing was sent."
            )
        return entry

    def _attached(self, entry: Entry) -> Submitted:
        """Return what is at Plaud already."""
        if entry.state is State.UNKNOWN:
            raise PlaudSubmitOutcomeUnknownError(
                f"Whether Plaud has accepted {entry.audio_uri!r} is unknown: {entry.error} It is not sent "
                "again by itself. Look at Plaud's console or bill; then, to submit it (again), run this task "
                "with on_unknown_submit='resubmit'."
            )
        if entry.transcription_id is None:
            raise HeldError(entry)
        log.info(
            "Attached to transcription %s of %s (%s), submitted by %s; nothing is paid again.",
            entry.transcription_id,
            entry.audio_uri,
            entry.state.value,
            entry.owner.in_words,
        )
        return Submitted(entry.transcription_id, entry.submitted_at)

    def _may_submit_again(
        self,
        one: Candidate,
        happened: str,
        *,
        status_code: int | None = None,
        in_ledger: LedgerMemory | None = None,
    ) -> None:
        """
        Go on only if the user accepts that the recording may be paid twice.

        :param in_ledger: A claim in a ledger that does not know of this; it is told.
        """
        if self._on_unknown == "resubmit":
            log.warning(
                "%s Submitting %s again, as on_unknown_submit='resubmit' says; it may be billed twice.",
                happened,
                one.audio.uri,
            )
            return
        unknown = PlaudSubmitOutcomeUnknownError(
            f"Whether Plaud has accepted {one.audio.uri!r} is unknown. {happened} It is not sent again by "
            "itself. Look at Plaud's console or bill, or wait for its webhook; then, to submit it (again), "
            "run this task with on_unknown_submit='resubmit'.",
            status_code=status_code,
        )
        if in_ledger is not None:
            in_ledger.sending()
            in_ledger.unknown(unknown)
        raise unknown


def _may_have_expired(entry: Entry) -> bool:
    """Whether nobody has landed it in the time for which Plaud keeps results."""
    if entry.state is not State.PROCESSING or entry.submitted_at is None:
        return False
    return datetime.now(tz=UTC) >= entry.submitted_at + RETENTION
