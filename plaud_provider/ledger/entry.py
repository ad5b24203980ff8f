"""What the ledger says of a recording: its state, who has it, and what is known of it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from plaud_provider.api.redaction import without_secrets

MAX_ERROR_CHARACTERS = 500


class State(StrEnum):
    """
    How far a recording has come.

    ``claimed``: a task is going to submit it, nothing was sent. ``submitting``: it is being sent.
    ``processing``: Plaud has accepted it. ``landed``: its transcript is in a warehouse. ``failed``: Plaud
    could not transcribe it, or refused it. ``unknown``: it was sent and the answer was lost; it may be
    billed. ``expired``: Plaud does not know its id any more.
    """

    CLAIMED = "claimed"
    SUBMITTING = "submitting"
    PROCESSING = "processing"
    LANDED = "landed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    EXPIRED = "expired"


#: States that a recording may be claimed again from, if its user says so.
RESUBMITTABLE = frozenset({State.FAILED, State.UNKNOWN, State.EXPIRED})


class Owner(NamedTuple):
    """
    The try of a task instance that has a recording.

    :param dag_id: Its dag.
    :param run_id: Its run.
    :param task_id: Its task.
    :param map_index: Its map index; -1 for a task that is not mapped.
    :param try_number: Which try, from 1.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int

    @property
    def in_words(self) -> str:
        """The run, as messages name it."""
        return f"run {self.run_id!r} of DAG {self.dag_id!r}"


class Recording(NamedTuple):
    """
    A recording as the ledger needs it.

    :param recording_key: Its identity, see :func:`plaud_provider.recordings.identity.recording_key`.
    :param audio_uri: Reference to it, without a signature.
    :param region: Plaud region.
    :param client_id: Plaud client id.
    :param language: Language that is asked for; ``None`` to have it detected.
    :param speaker_diarization: Whether speakers are asked for.
    :param duration_seconds: Its length, where the file's header tells.
    :param target: Where its transcript is to be landed, as
        :attr:`~plaud_provider.warehouse.writer.WarehouseWriter.target` says it; ``None``: not known yet.
    :param model: Speech model that is asked for; ``None``: Plaud's choice.
    """

    recording_key: str
    audio_uri: str | None
    region: str
    client_id: str
    language: str | None = None
    speaker_diarization: bool = False
    duration_seconds: float | None = None
    target: str | None = None
    model: str | None = None


class Entry(NamedTuple):
    """
    A row of the ledger. Times are in UTC.

    :param recording_key: Identity of the recording.
    :param state: How far it has come.
    :param audio_uri: Reference to it, without a signature.
    :param region: Plaud region.
    :param client_id: Plaud client id.
    :param language: Language that is asked for.
    :param speaker_diarization: Whether speakers are asked for.
    :param duration_seconds: Its length, where known.
    :param transcription_id: Plaud's id, once accepted.
    :param error: Why it is in this state; always given for ``failed``, ``unknown`` and ``expired``.
    :param owner: Who claimed it last.
    :param lease_until: Until when the owner has it, while ``claimed`` or ``submitting``; until when somebody
        waits for it, while ``processing``.
    :param claimed_at: When its owner claimed it.
    :param submitted_at: When it was sent.
    :param accepted_at: When Plaud accepted it, by Plaud's clock; ``None``: Plaud did not tell.
    :param finished_at: When it became ``landed``, ``failed``, ``unknown`` or ``expired``.
    :param updated_at: When this row was changed last.
    :param target: Where it has landed last, or is to be landed.
    :param model: Speech model that is asked for.
    :param purged_at: When its text was removed for good; it is not transcribed or landed again by itself.
    """

    recording_key: str
    state: State
    audio_uri: str | None
    region: str
    client_id: str
    language: str | None
    speaker_diarization: bool
    duration_seconds: float | None
    transcription_id: str | None
    error: str | None
    owner: Owner
    lease_until: datetime | None
    claimed_at: datetime
    submitted_at: datetime | None
    accepted_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    target: str | None = None
    model: str | None = None
    purged_at: datetime | None = None

    @property
    def problem(self) -> str:
        """Which recording is bad, and why."""
        return f"{self.audio_uri}: {self.error}"

    @property
    def is_released(self) -> bool:
        """Whether its owner has given up the claim; anyone may take it."""
        return (
            self.state is State.CLAIMED
            and self.lease_until is not None
            and self.lease_until <= self.claimed_at
        )

    def is_claimed_by(self, owner: Owner) -> bool:
        """Whether ``owner`` has it and may submit it."""
        return self.state is State.CLAIMED and self.owner == owner and not self.is_released


def kept_error(error: str | None) -> str:
    """Return an error as it is kept: short, without query strings, which may be signatures."""
    text = without_secrets(" ".join((error or "").split())).replace("\x00", "\ufffd")
    if len(text) > MAX_ERROR_CHARACTERS:
        text = f"{text[: MAX_ERROR_CHARACTERS - 3]}..."
    return text or "no reason given"
