"""
What keeps a recording from being submitted again: one protocol, two memories.

The ledger is shared by all runs and DAGs. The task's own state (:mod:`plaud_provider.submit.task_memory`) is
one task's. A submit may have both; what is paid for is told to each that answers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from plaud_provider.exceptions import PlaudError, PlaudWarehouseError

if TYPE_CHECKING:
    from plaud_provider.api.models import Transcription
    from plaud_provider.ledger.entry import Owner, Recording
    from plaud_provider.ledger.ledger import Ledger

log = logging.getLogger(__name__)

#: For how long what has happened is offered to a ledger that is away, in seconds.
LEDGER_SECONDS = 120.0
#: Between two renewals of a claim: well below its lease.
RENEW_SECONDS = 30.0


class Memory(Protocol):
    """
    What one recording's submit is noted in.

    All but :meth:`sending` note what has happened already: they try for a bounded time.
    """

    def sending(self) -> bool:
        """Note that it is about to be sent; return ``False`` if it is somebody else's, and must not be."""

    def not_accepted(self) -> None:
        """Note that it certainly was not accepted, and may be sent again at once."""

    def accepted(self, transcription: Transcription) -> None:
        """Note Plaud's id; it is billed."""

    def unknown(self, error: PlaudError) -> None:
        """Note that it may have been accepted."""

    def refused(self, error: PlaudError) -> None:
        """Note that it cannot be transcribed, and why."""

    def released(self, error: PlaudError) -> None:
        """Leave it to whoever comes next."""


class LedgerMemory:
    """
    A recording's row in the ledger, for the task that has claimed it.

    :param ledger: The ledger.
    :param recording: What is claimed.
    :param owner: By whom.
    :param turn: Held while something is written, where a database takes one writer at a time.
    :param patience: For how long to offer what has happened, in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        recording: Recording,
        owner: Owner,
        *,
        turn: AbstractContextManager[object] | None = None,
        patience: float | None = None,
    ) -> None:
        self._ledger = ledger
        self._recording = recording
        self._key = recording.recording_key
        self._owner = owner
        self._turn = turn or nullcontext()
        self._patience = LEDGER_SECONDS if patience is None else patience

    def sending(self) -> bool:
        """Note that it is about to be sent, unless another task has taken it over."""
        with self._turn:
            return self._ledger.submitting(self._key, self._owner)

    def not_accepted(self) -> None:
        """Note that it is claimed as before."""
        self._write("was not accepted", lambda: self._ledger.not_accepted(self._key, self._owner))

    def accepted(self, transcription: Transcription) -> None:
        """
        Note Plaud's id, whatever has become of the row meanwhile.

        :raises PlaudWarehouseError: if the ledger stays away.
        """
        submitted_at = datetime.now(tz=UTC)

        def note() -> bool:
            self._ledger.processing(
                self._recording,
                self._owner,
                transcription.transcription_id,
                submitted_at=submitted_at,
                accepted_at=transcription.created_at,
            )
            # Late or not, it is there.
            return True

        self._write(f"was accepted as {transcription.transcription_id}", note)

    def unknown(self, error: PlaudError) -> None:
        """Note that it may have been accepted; it is not submitted again by itself."""
        self._write(
            "has an unknown outcome", lambda: self._ledger.unknown(self._key, self._owner, str(error))
        )

    def refused(self, error: PlaudError) -> None:
        """Note that it failed without having been accepted."""
        self._write("was refused", lambda: self._ledger.refused(self._key, self._owner, str(error)))

    def released(self, error: PlaudError) -> None:
        """Give up the claim."""
        self._write(
            "is given up", lambda: self._ledger.release(self._owner, str(error), keys=[self._key]) == 1
        )

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Start the lease of the claim anew now and then: a recording may take long to convert and upload."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(RENEW_SECONDS):
                try:
                    with self._turn:
                        self._ledger.renew(self._owner)
                except PlaudWarehouseError as away:
                    log.warning("The lease could not be renewed; trying again in half a minute. %s", away)

        thread = threading.Thread(target=renew, name="plaud-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _write(self, what: str, step: Callable[[], bool]) -> None:
        def attempt() -> bool:
            with self._turn:
                return step()

        if patiently(attempt, PlaudWarehouseError, self._patience):
            return
        row = self._ledger.entries([self._key]).get(self._key)
        if row is None or not row.is_claimed_by(self._owner):
            log.warning(
                "The ledger has nothing of this task's to note that %s %s in: %s.",
                self._recording.audio_uri,
                what,
                f"its row is {row.state.value}, of {row.owner.in_words}" if row else "its row is gone",
            )


class Memories:
    """
    Several memories of one submit, the one that most depends on first.

    What has happened is told to each of them, though another one is away: an id is not lost, and the task
    has it.

    :param memories: The memories.
    """

    def __init__(self, memories: Sequence[Memory]) -> None:
        self._memories = memories

    def sending(self) -> bool:
        """Note that it is about to be sent in all of them, unless it is somebody else's."""
        return all(memory.sending() for memory in self._memories)

    def not_accepted(self) -> None:
        """Note that it was not accepted."""
        self._tell(lambda memory: memory.not_accepted())

    def accepted(self, transcription: Transcription) -> None:
        """Note Plaud's id."""
        self._tell(lambda memory: memory.accepted(transcription))

    def unknown(self, error: PlaudError) -> None:
        """Note that it may have been accepted."""
        self._tell(lambda memory: memory.unknown(error))

    def refused(self, error: PlaudError) -> None:
        """Note that it cannot be transcribed."""
        self._tell(lambda memory: memory.refused(error))

    def released(self, error: PlaudError) -> None:
        """Leave it to whoever comes next."""
        self._tell(lambda memory: memory.released(error))

    def _tell(self, note: Callable[[Memory], None]) -> None:
        for memory in self._memories:
            try:
                note(memory)
            except Exception:
                log.exception(
                    "What has become of a submit could not be noted by the %s.", type(memory).__name__
                )


def patiently(step: Callable[[], Any], away: type[Exception], seconds: float) -> Any:
    """
    Take a step until whoever is away is back, for a bounded time.

    :param step: What to do.
    :param away: How it fails meanwhile.
    :param seconds: For how long to try.
    """
    attempts = Retrying(
        retry=retry_if_exception_type(away),
        wait=wait_exponential(multiplier=0.5, max=15),
        stop=stop_after_delay(seconds),
        reraise=True,
    )
    return attempts(step)
