"""A single recording's row in the ledger, as far as the task that submits it is concerned."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from plaud_provider.api.effects import SubmitPhase
from plaud_provider.exceptions import PlaudError, PlaudInputError, PlaudNotFoundError, PlaudWarehouseError
from plaud_provider.ledger.entry import Entry, Owner, Recording, State

if TYPE_CHECKING:
    from plaud_provider.api.models import Transcription
    from plaud_provider.ledger.ledger import Ledger

log = logging.getLogger(__name__)

#: For how long Plaud keeps results.
RETENTION = timedelta(days=7)
#: For how long an answer that is paid for is offered to a ledger that is away.
LEDGER_SECONDS = 120.0


class Claim:
    """
    The claim of one task to submit one recording.

    :param ledger: The ledger.
    :param recording: What is to be submitted.
    :param owner: Who is to submit it.
    """

    def __init__(self, ledger: Ledger, recording: Recording, owner: Owner) -> None:
        self._ledger = ledger
        self._recording = recording
        self._owner = owner

    def take(self, resubmit: Collection[State]) -> Entry | None:
        """
        Claim the recording.

        :param resubmit: States that it may be submitted again from.
        :return: ``None`` if it is ours to submit; else its row: it is at Plaud already, its outcome is
            unknown, or another task is about to submit it.
        :raises PlaudInputError: if it was refused before, so that nothing was paid.
        :raises PlaudNotFoundError: if it was submitted, and Plaud does not know it any more.
        """
        entries = self._ledger.claim([self._recording], self._owner, resubmit=resubmit, resubmit_own=True)
        entry = entries[self._recording.recording_key]
        if entry.is_claimed_by(self._owner):
            return None
        if entry.state is State.FAILED and entry.transcription_id is None:
            raise PlaudInputError(
                f"audio_url: {entry.audio_uri!r} was refused when run {entry.owner.run_id!r} of DAG "
                f"{entry.owner.dag_id!r} wanted to submit it: {entry.error} To try again, run this task with "
                "resubmit=['failed']. Nothing was sent."
            )
        if entry.state is State.EXPIRED:
            raise PlaudNotFoundError(
                f"{entry.audio_uri!r} was submitted as transcription {entry.transcription_id} by run "
                f"{entry.owner.run_id!r} of DAG {entry.owner.dag_id!r}: {entry.error} To pay for it again, "
                "run this task with resubmit=['expired']. Nothing was sent.",
                status_code=404,
            )
        return entry

    def may_have_expired(self, entry: Entry) -> bool:
        """Whether nobody has landed it in the time for which Plaud keeps results."""
        if entry.state is not State.PROCESSING or entry.submitted_at is None:
            return False
        return datetime.now(tz=UTC) >= entry.submitted_at + RETENTION

    def on_phase(self, phase: SubmitPhase) -> None:
        """Write how far the POST has come; where that fails, nothing is sent."""
        key = self._recording.recording_key
        if phase is SubmitPhase.NOT_ACCEPTED:
            self._not_accepted()
            return
        try:
            is_mine = self._ledger.submitting(key, self._owner)
        except PlaudWarehouseError:
            # It may be noted all the same, and nothing was sent.
            self._not_accepted()
            raise
        if not is_mine:
            raise PlaudError(
                f"Another task has taken over {self._recording.audio_uri!r} from this one. Nothing was sent "
                "from here; a retry attaches to what that task submits."
            )

    def _not_accepted(self) -> None:
        self._write(lambda key: self._ledger.not_accepted(key, self._owner))

    def refused(self, error: PlaudError) -> None:
        """Write that it certainly was not accepted, and why."""
        self._write(lambda key: self._ledger.refused(key, self._owner, str(error)))

    def given_up(self, error: PlaudError) -> None:
        """Leave it to whoever comes next."""
        self._write(lambda key: self._ledger.release(self._owner, str(error), keys=[key]))

    def expired(self, transcription_id: str, error: PlaudError) -> None:
        """Write that Plaud does not know it any more."""
        self._ledger.expired({transcription_id: str(error)}, region=self._recording.region)

    def unknown(self, error: PlaudError) -> None:
        """Write that it may have been accepted."""
        self._write(lambda key: self._ledger.unknown(key, self._owner, str(error)))

    def accepted(self, transcription: Transcription) -> None:
        """Write Plaud's id."""
        self._write(
            lambda key: self._ledger.processing(
                key,
                self._owner,
                transcription.transcription_id,
                submitted_at=datetime.now(tz=UTC),
                accepted_at=transcription.created_at,
            )
        )

    def _write(self, transition: Callable[[str], object]) -> None:
        """
        Write what has happened already.

        A ledger that stays away does not fail the task, which has its answer; the row becomes ``unknown``.
        """
        attempts = Retrying(
            retry=retry_if_exception_type(PlaudWarehouseError),
            wait=wait_exponential(multiplier=0.5, max=15),
            stop=stop_after_delay(LEDGER_SECONDS),
            reraise=True,
        )
        try:
            attempts(transition, self._recording.recording_key)
        except PlaudWarehouseError:
            log.exception("The ledger did not take what has become of %s.", self._recording.audio_uri)
